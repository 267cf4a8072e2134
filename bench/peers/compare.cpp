// compare.cpp - times this library beside others: one cell after the other, in each cell one library after the other, in rounds.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "page.hpp"

namespace {

using namespace std::chrono_literals;
using peers::Operation, peers::Page, peers::Source;

/// How a library's ranks are started; `{page}` and `{ranks}` are replaced.
struct Peer {
  std::string name;
  std::vector<std::string> command;
  bool is_ours = false;
};

std::vector<Peer> all_peers(const std::filesystem::path& here, int num_ranks, int num_cores) {
  const bool crowded = num_ranks > num_cores;
  const auto own = [&](const char* name) { return (here / name).string(); };
  std::vector<Peer> result{
      {"seqccl", {own("peer_seqccl"), "{page}", "{ranks}", "private"}, true},
      {"seqccl allocated", {own("peer_seqccl"), "{page}", "{ranks}", "allocated"}, true},
      {"UCX", {own("peer_ucx"), "{page}", "{ranks}", crowded ? "yield" : "spin"}},
      {"Open MPI",
       {"mpirun.openmpi", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle",
        crowded ? "1" : "0", "-n", "{ranks}", own("peer_openmpi"), "{page}"}},
      {"MPICH", {"mpirun.mpich", "-bind-to", "none", "-n", "{ranks}", own("peer_mpich"), "{page}"}},
      {"Gloo", {own("peer_gloo"), "{page}", "{ranks}"}},
  };
  std::erase_if(result, [&](const Peer& peer) {
    for (const std::string& word : peer.command)
      if (word.find("/peer_") != std::string::npos) return !std::filesystem::exists(word);
    return false;
  });
  return result;
}

/// A library's ranks, waiting to be asked. They are ended with it.
class Ranks {
 public:
  Ranks(const Peer& peer, const std::string& path, int num_ranks) : peer_(peer), path_(path), num_ranks_(num_ranks), page_(path, true) {
    child_ = ::fork();
    if (child_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::vector<std::string> words = peer.command;
    std::vector<char*> arguments;
    for (std::string& word : words) {
      if (word == "{page}") word = path;
      if (word == "{ranks}") word = std::to_string(num_ranks);
      arguments.push_back(word.data());
    }
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    std::perror(arguments[0]);
    ::_exit(127);
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
  ~Ranks() {
    page_->quit.store(1);
    for (int i = 0; i < 300 && child_ > 0; ++i) {
      if (::waitpid(child_, nullptr, WNOHANG) != 0) child_ = 0;
      std::this_thread::sleep_for(10ms);
    }
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

  [[nodiscard]] const Peer& peer() const noexcept { return peer_; }
  /// False if they have not come, or do not answer any more.
  bool wait_ready() { return wait_for(page_->ready, 60s); }
  struct Reading {
    double seconds = 0;
    std::uint64_t num_wrong = 0;
  };
  std::optional<Reading> ask(const peers::Question& question) {
    page_->answers.store(0);
    page_->asked = question;
    page_->question.fetch_add(1);
    if (!wait_for(page_->answers, 120s)) return std::nullopt;
    Reading reading;
    for (int rank = 0; rank < num_ranks_; ++rank) {
      reading.seconds = std::max(reading.seconds, page_->answer[rank].seconds);
      reading.num_wrong += page_->answer[rank].num_wrong;
    }
    return reading;
  }

 private:
  bool wait_for(const std::atomic<std::uint32_t>& count, std::chrono::seconds patience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (count.load() < static_cast<std::uint32_t>(num_ranks_)) {
      if (child_ > 0 && ::waitpid(child_, nullptr, WNOHANG) != 0) child_ = 0;
      if (child_ == 0 || std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(200us);
    }
    return true;
  }

  Peer peer_;
  std::string path_;
  int num_ranks_;
  peers::MappedPage page_;
  pid_t child_ = 0;
};

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::string bytes_text(std::uint64_t bytes) {
  if (bytes >= 1 << 20) return fmt::format("{} MiB", bytes >> 20);
  if (bytes >= 1 << 10) return fmt::format("{} KiB", bytes >> 10);
  return fmt::format("{} B", bytes);
}

struct Options {
  std::vector<int> ranks{2, 4, 8};
  std::vector<std::uint64_t> bytes{8, 64, 512, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216};
  std::vector<std::string> names, sources{"same", "fresh"}, operations{"all_gather", "all_to_all"};
  int rounds = 7;
  double batch_ms = 15;
  std::string json;
};

struct Cell {
  int ranks = 0;
  std::string operation, source;
  std::uint64_t bytes = 0;
  std::vector<std::vector<double>> seconds;  // per library, per round
};

/// Before anything is started; empty if nothing is.
std::string what_is_wrong(const Options& options) {
  for (const int num_ranks : options.ranks)
    if (num_ranks < 1 || num_ranks > peers::max_ranks)
      return fmt::format("--ranks: {} is out of range, want 1 to {}", num_ranks, peers::max_ranks);
  for (const std::uint64_t bytes : options.bytes)
    if (bytes < 1 || bytes > peers::max_bytes) return fmt::format("--bytes: {} is out of range, want 1 to {}", bytes, peers::max_bytes);
  if (options.json.empty()) return {};
  std::FILE* file = std::fopen(options.json.c_str(), "a");  // what is there stays until the readings are
  if (file == nullptr) return fmt::format("--json: {} cannot be written: {}", options.json, std::strerror(errno));
  std::fclose(file);
  return {};
}

std::vector<std::string> names_of(const std::vector<Peer>& peers) {
  std::vector<std::string> names;
  for (const Peer& peer : peers) names.push_back(peer.name);
  return names;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Times seqccl's all-gather and all-to-all between processes of this host beside those of other libraries.\n"
      "Every round asks each library in turn; the ratio of a cell is the median over rounds of best other / best seqccl.");
  app.add_option("--ranks", options.ranks, "numbers of ranks")->delimiter(',')->capture_default_str();
  app.add_option("--bytes", options.bytes, "bytes of the block from each rank to each rank")
      ->delimiter(',')
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--operations", options.operations, "all_gather, all_to_all")
      ->delimiter(',')
      ->check(CLI::IsMember({"all_gather", "all_to_all"}));
  app.add_option("--sources", options.sources, "same: unchanged data that nobody reads; fresh: written before and read after each call")
      ->delimiter(',')
      ->check(CLI::IsMember({"same", "fresh"}));
  app.add_option("--libraries", options.names, "only those whose name begins so")->delimiter(',');
  app.add_option("--rounds", options.rounds, "measurements of each cell")->capture_default_str()->check(CLI::Range(1, 1000));
  app.add_option("--batch-ms", options.batch_ms, "time of one measurement")->capture_default_str()->check(CLI::Range(0.1, 10000.0));
  app.add_option("--json", options.json, "file for all readings");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (const std::string wrong = what_is_wrong(options); !wrong.empty()) {
    fmt::print(stderr, "seqccl_compare: {}\n", wrong);
    return 2;
  }

  const auto here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const int num_cores = static_cast<int>(std::thread::hardware_concurrency());
  nlohmann::json all = nlohmann::json::array();
  int cells_good = 0, cells = 0;
  for (const int num_ranks : options.ranks) {
    std::vector<std::unique_ptr<Ranks>> libraries;
    for (const Peer& peer : all_peers(here, num_ranks, num_cores)) {
      if (!options.names.empty() &&
          std::none_of(options.names.begin(), options.names.end(), [&](const std::string& name) { return peer.name.rfind(name, 0) == 0; }))
        continue;
      const std::string path = fmt::format("/dev/shm/seqccl-compare-{}-{}", ::getpid(), libraries.size());
      libraries.push_back(std::make_unique<Ranks>(peer, path, num_ranks));
      if (!libraries.back()->wait_ready()) {
        fmt::print(stderr, "{}: its {} ranks have not come, left out\n", peer.name, num_ranks);
        libraries.pop_back();
      }
    }
    if (libraries.empty()) {
      fmt::print(stderr, "seqccl_compare: --libraries: none of those that are here ({}) begins with {}\n",
                 fmt::join(names_of(all_peers(here, num_ranks, num_cores)), ", "), fmt::join(options.names, " or "));
      return 2;
    }
    fmt::print("\n{} ranks on {} cores, microseconds per call (median of {} rounds)\n", num_ranks, num_cores, options.rounds);
    fmt::print("{:<11} {:<6} {:>8}", "operation", "source", "block");
    for (const auto& library : libraries) fmt::print(" {:>16}", library->peer().name);
    fmt::print(" {:>7}\n", "ratio");
    for (const std::string& operation : options.operations)
      for (const std::string& source : options.sources)
        for (const std::uint64_t bytes : options.bytes) {
          if (bytes * static_cast<std::uint64_t>(num_ranks) > peers::max_bytes) continue;
          peers::Question question{operation == "all_gather" ? Operation::all_gather : Operation::all_to_all,
                                   source == "same" ? Source::same : Source::fresh, bytes, 2};
          std::vector<std::vector<double>> seconds(libraries.size());
          std::vector<std::uint32_t> iterations(libraries.size(), 1);
          std::uint64_t wrong = 0;
          for (int round = -1; round < options.rounds; ++round)
            for (std::size_t i = 0; i < libraries.size(); ++i) {
              if (libraries[i] == nullptr) continue;
              question.iterations = round < 0 ? 3 : iterations[i];
              const auto reading = libraries[i]->ask(question);
              if (!reading) {
                fmt::print(stderr, "{}: does not answer, left out from here on\n", libraries[i]->peer().name);
                libraries[i].reset();
                continue;
              }
              wrong += reading->num_wrong;
              if (round < 0)
                iterations[i] =
                    static_cast<std::uint32_t>(std::clamp(options.batch_ms * 1e-3 / std::max(reading->seconds, 1e-8), 1.0, 5000.0));
              else
                seconds[i].push_back(reading->seconds);
            }
          fmt::print("{:<11} {:<6} {:>8}", operation, source, bytes_text(bytes));
          std::vector<double> ratios;
          for (int round = 0; round < options.rounds; ++round) {
            double ours = 1e9, others = 1e9;
            for (std::size_t i = 0; i < libraries.size(); ++i) {
              if (libraries[i] == nullptr || seconds[i].size() <= static_cast<std::size_t>(round)) continue;
              double& best = libraries[i]->peer().is_ours ? ours : others;
              best = std::min(best, seconds[i][static_cast<std::size_t>(round)]);
            }
            if (ours < 1e9 && others < 1e9) ratios.push_back(others / ours);
          }
          for (std::size_t i = 0; i < libraries.size(); ++i) fmt::print(" {:>16.2f}", median(seconds[i]) * 1e6);
          const double ratio = median(ratios);
          fmt::print(" {:>7}{}\n", ratios.empty() ? "-" : fmt::format("{:.2f}", ratio), wrong != 0 ? fmt::format("  {} WRONG", wrong) : "");
          std::fflush(stdout);
          ++cells;
          cells_good += ratio >= 0.95;
          nlohmann::json row{{"ranks", num_ranks},   {"operation", operation}, {"source", source},
                             {"block_bytes", bytes}, {"ratio", ratio},         {"num_wrong", wrong}};
          for (std::size_t i = 0; i < libraries.size(); ++i)
            if (libraries[i] != nullptr) row["seconds"][libraries[i]->peer().name] = seconds[i];
          all.push_back(std::move(row));
        }
  }
  fmt::print("\n{} of {} cells at 0.95 of the best other library or better\n", cells_good, cells);
  if (!options.json.empty()) {
    std::FILE* file = std::fopen(options.json.c_str(), "w");
    if (file == nullptr) {
      fmt::print(stderr, "--json: {} cannot be written\n", options.json);
      return 2;
    }
    fmt::print(file, "{}\n", all.dump(1));
    std::fclose(file);
  }
}
