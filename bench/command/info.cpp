// info.cpp - `seqccl info`: what was built, what this machine has, which transports there are and why not the others.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <thread>

#include "command/build_info.hpp"
#include "command/choices.hpp"
#include "command/command.hpp"
#include "command/host_facts.hpp"
#include "command/names.hpp"
#include "command/number_option.hpp"
#include "command/options.hpp"
#include "command/subcommand.hpp"
#include "seqccl/communicator.hpp"
#include "seqccl/decode.hpp"
#include "seqccl/kernels.hpp"
#include "seqccl/linear_attention.hpp"
#include "seqccl/transport.hpp"

namespace seqccl::command {
namespace {

std::string cpu_model() {
  std::ifstream stream("/proc/cpuinfo");
  for (std::string line; std::getline(stream, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown";
}

/// The cores this process may use.
int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(std::thread::hardware_concurrency());
}

/// What the library makes of a method's name, shown for ranks that a small mesh fits.
std::string method_text(const std::string& method) {
  AttentionSpec spec;
  spec.partition = Partition::contiguous(4, 4);
  choose_method(spec, method);
  std::string text = "forward, backward";
  if (method != name(spec.method)) text += fmt::format("; {}", name(spec.method));
  if (spec.mesh) text += fmt::format(" on a mesh; 4 ranks are {}", mesh_text(*spec.mesh));
  if (spec.backward != Backward::standard) text += fmt::format(" with backward {}", name(spec.backward));
  return text;
}

class Info final : public Subcommand {
 public:
  explicit Info(CLI::App& parent) {
    CLI::App& app = add_to(parent, "info", "Show build, machine, kernels and transports", "  seqccl info\n  seqccl info --ranks 8 --json");
    add_count(app, "-p,--ranks", num_ranks_, "Another number of ranks on this host, for the wait policy", 1, max_ranks);
  }

  int run(const Console& console) override {
    const std::string version = fmt::format("{}.{}.{}", SEQCCL_VERSION_MAJOR, SEQCCL_VERSION_MINOR, SEQCCL_VERSION_PATCH);
    const std::string cuda = SEQCCL_BUILD_CUDA_TOOLKIT;
    nlohmann::ordered_json info = {
        {"version", version},
        {"build", SEQCCL_BUILD_TYPE},
        {"compiler", SEQCCL_BUILD_COMPILER},
        {"sanitizers", std::string(SEQCCL_BUILD_SANITIZE).empty() ? "none" : SEQCCL_BUILD_SANITIZE},
        {"cpu", cpu_model()},
        {"kernels", cpu::instruction_set()},
        {"cores", std::thread::hardware_concurrency()},
        {"usable_cores", usable_cores()},
        {"wait_policy", wait_policies()},
        {"default_transport", default_transport()},
        {"shared_memory", shared_memory_text()},
        {"huge_pages", huge_pages_text()},
        {"transports", {{"threads", "yes"}, {"shm", shm_text()}}},
        {"cuda", cuda.empty() ? "no toolkit was found when this was configured; kernels for CUDA are not in this version"
                              : fmt::format("toolkit {} was found; kernels for CUDA are not in this version", cuda)},
    };
    const TransportState ucx = transport_state(ProcessTransport::ucx);
    info["transports"]["ucx"] = fmt::format("{}: {}", ucx.is_there ? "yes" : "no", ucx.text);
    for (const char* name : transport_names().later) info["transports"][name] = "no: not in this version";
    for (const std::string& method : method_names()) info["methods"][method] = method_text(method);
    for (const std::string& scan : scan_list()) info["scans"][scan] = "forward, backward";
    info["kinds"] = kind_list();
    info["decode"] = std::vector<std::string>{name(DecodeMerge::butterfly), name(DecodeMerge::tree), name(DecodeMerge::all_to_all)};
    info["also"] = std::vector<std::string>{"context_pass (prefill)", "balance (batches of sequences)"};
    if (json()) {
      console.out << info.dump(1) << '\n';
      return exit_right;
    }
    for (const auto& [key, value] : info.items()) {
      if (value.is_array()) {
        console.out << fmt::format("{:<13} {}\n", key, fmt::join(value.get<std::vector<std::string>>(), ", "));
        continue;
      }
      if (!value.is_object()) {
        console.out << fmt::format("{:<13} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
        continue;
      }
      const char* head = key.c_str();
      for (const auto& [part, text] : value.items()) {
        console.out << fmt::format("{:<13} {:<18} {}\n", head, part, text.get<std::string>());
        head = "";
      }
    }
    return exit_right;
  }

 private:
  /// What the library chooses for so many ranks on this host.
  [[nodiscard]] nlohmann::ordered_json wait_policies() const {
    std::set<int> counts = {1, 2, 4, 8};
    if (num_ranks_ > 0) counts.insert(num_ranks_);
    nlohmann::ordered_json policies;
    for (const int count : counts)
      policies[fmt::format("{} {}", count, count == 1 ? "rank" : "ranks")] = WaitPolicy::for_host(count).describe();
    return policies;
  }

  int num_ranks_ = 0;
};

}  // namespace

std::unique_ptr<Subcommand> make_info(CLI::App& parent) { return std::make_unique<Info>(parent); }

}  // namespace seqccl::command
