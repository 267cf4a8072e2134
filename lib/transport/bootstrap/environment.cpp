// environment.cpp - who started this process, read from the variables that launchers set.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "host_list.hpp"
#include "seqccl/bootstrap.hpp"
#include "siphash.hpp"

SEQCCL_BEGIN

using namespace bootstrap;

namespace {

constexpr std::uint64_t max_ranks = 1 << 20;
constexpr std::uint64_t first_derived_port = 16384, num_derived_ports = 16384;  // below those that systems give away by themselves

[[noreturn]] void refuse(const std::string& text) { throw Error(ErrorKind::argument, "bootstrap: " + text); }

class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  [[nodiscard]] std::optional<std::string> text(const char* variable) const {
    const char* value = environment_(variable);
    if (value == nullptr) return std::nullopt;
    if (*value == '\0') refuse(fmt::format("{} is empty; want a value, or leave it unset", variable));
    return value;
  }
  [[nodiscard]] bool has(const char* variable) const { return environment_(variable) != nullptr; }
  [[nodiscard]] std::optional<std::uint64_t> number(const char* variable, std::uint64_t low, std::uint64_t high) const {
    const auto written = text(variable);
    if (!written) return std::nullopt;
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(written->data(), written->data() + written->size(), value);
    if (error != std::errc() || end != written->data() + written->size() || value < low || value > high)
      refuse(fmt::format("{} is \"{}\"; want a whole number from {} to {}", variable, *written, low, high));
    return value;
  }
  /// The first of the variables that is set.
  [[nodiscard]] const char* first_set(std::initializer_list<const char*> variables) const {
    for (const char* variable : variables)
      if (has(variable)) return variable;
    return nullptr;
  }

 private:
  const Environment& environment_;
};

/// Rank and number of ranks, both from `set`, or neither.
void read_ranks(const Variables& set, const char* rank_variable, const char* size_variable, LaunchInfo& launch) {
  const auto num_ranks = set.number(size_variable, 1, max_ranks);
  const auto rank = set.number(rank_variable, 0, max_ranks - 1);
  if (!num_ranks) refuse(fmt::format("{} is set, but {} is not; want both", rank_variable, size_variable));
  if (!rank) refuse(fmt::format("{} is set, but {} is not; want both", size_variable, rank_variable));
  if (*rank >= *num_ranks)
    refuse(
        fmt::format("{} is {}, but {} is {}; want a rank from 0 to {}", rank_variable, *rank, size_variable, *num_ranks, *num_ranks - 1));
  launch.rank = static_cast<Rank>(*rank);
  launch.num_ranks = static_cast<int>(*num_ranks);
}

void require_same(const Variables& set, const char* variable, std::uint64_t value, const char* other) {
  const auto written = set.number(variable, 0, max_ranks);
  if (written && *written != value) refuse(fmt::format("{} is {}, but {} is {}; want the same", variable, *written, other, value));
}

int derived_port(std::uint64_t number) { return static_cast<int>(first_derived_port + number % num_derived_ports); }
int derived_port(const std::string& job) {
  const Bytes16 hash = siphash128({}, job);
  return derived_port(hash[0] + std::uint64_t{256} * hash[1]);
}

/// SEQCCL_ADDR and SEQCCL_PORT, where set.
void read_overrides(const Variables& set, LaunchInfo& launch) {
  if (const auto address = set.text("SEQCCL_ADDR")) launch.address = *address;
  if (const auto port = set.number("SEQCCL_PORT", 1, 65535)) launch.port = static_cast<int>(*port);
}

LaunchInfo from_seqccl(const Variables& set) {
  LaunchInfo launch{.source = "seqccl launch"};
  read_ranks(set, "SEQCCL_RANK", "SEQCCL_WORLD_SIZE", launch);
  read_overrides(set, launch);
  for (const char* variable : {"SEQCCL_ADDR", "SEQCCL_PORT"})
    if (!set.has(variable))
      refuse(fmt::format("SEQCCL_RANK is set, but {} is not; want the {} of rank 0", variable,
                         std::string_view(variable) == "SEQCCL_ADDR" ? "host" : "port"));
  launch.job = set.text("SEQCCL_JOB").value_or(fmt::format("port-{}", launch.port));
  return launch;
}

LaunchInfo from_torchrun(const Variables& set) {
  LaunchInfo launch{.source = "torchrun"};
  read_ranks(set, "RANK", "WORLD_SIZE", launch);
  const auto address = set.text("MASTER_ADDR");
  const auto port = set.number("MASTER_PORT", 1, 65535);
  if (address) launch.address = *address;
  // torchrun itself, or the framework that it starts, listens at MASTER_PORT.
  if (port && *port < 65535) launch.port = static_cast<int>(*port) + 1;
  read_overrides(set, launch);
  if (launch.address.empty()) refuse("RANK is set, but MASTER_ADDR is not; want the host of rank 0 (or SEQCCL_ADDR)");
  if (launch.port == 0 && port)
    refuse("MASTER_PORT is 65535, and the port after it, which seqccl would take, does not exist; want SEQCCL_PORT");
  if (launch.port == 0) refuse("RANK is set, but MASTER_PORT is not; want the port of torchrun (or SEQCCL_PORT)");
  launch.job = set.text("TORCHELASTIC_RUN_ID").value_or(fmt::format("port-{}", launch.port));
  if (const auto restarts = set.number("TORCHELASTIC_RESTART_COUNT", 0, std::numeric_limits<std::uint64_t>::max()))
    launch.job += fmt::format(".{}", *restarts);
  return launch;
}

LaunchInfo from_mpirun(const Variables& set) {
  LaunchInfo launch{.source = "mpirun"};
  const bool open_mpi = set.first_set({"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}) != nullptr;
  const bool pmi = set.first_set({"PMI_RANK", "PMI_SIZE"}) != nullptr;
  if (!open_mpi && !pmi)
    refuse(
        "PMIX_RANK is set, but nothing says how many ranks there are; want OMPI_COMM_WORLD_SIZE (Open MPI), PMI_SIZE, or SEQCCL_RANK, "
        "SEQCCL_WORLD_SIZE, SEQCCL_ADDR and SEQCCL_PORT set by hand");
  const char* const rank_variable = open_mpi ? "OMPI_COMM_WORLD_RANK" : "PMI_RANK";
  const char* const size_variable = open_mpi ? "OMPI_COMM_WORLD_SIZE" : "PMI_SIZE";
  const char* const local_variable = open_mpi ? "OMPI_COMM_WORLD_LOCAL_SIZE" : "MPI_LOCALNRANKS";
  read_ranks(set, rank_variable, size_variable, launch);
  require_same(set, "PMIX_RANK", static_cast<std::uint64_t>(launch.rank), rank_variable);
  if (open_mpi && pmi) {
    require_same(set, "PMI_RANK", static_cast<std::uint64_t>(launch.rank), rank_variable);
    require_same(set, "PMI_SIZE", static_cast<std::uint64_t>(launch.num_ranks), size_variable);
  }
  const char* const job_variable = set.first_set({"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"});
  launch.job = job_variable == nullptr ? "mpirun" : *set.text(job_variable);
  if (set.number(local_variable, 1, max_ranks) == static_cast<std::uint64_t>(launch.num_ranks)) {
    launch.address = "127.0.0.1";
    launch.port = derived_port(launch.job);
  }
  read_overrides(set, launch);
  for (const auto& [variable, is_missing] : {std::pair{"SEQCCL_ADDR", launch.address.empty()}, std::pair{"SEQCCL_PORT", launch.port == 0}})
    if (is_missing)
      refuse(
          fmt::format("{} is not set, and mpirun does not say where rank 0 is when ranks are on several hosts; want SEQCCL_ADDR and "
                      "SEQCCL_PORT on all ranks (mpirun -x SEQCCL_ADDR=HOST -x SEQCCL_PORT=29500)",
                      variable));
  return launch;
}

/// Rank 0 is on the first host of the step.
std::string first_slurm_host(const Variables& set) {
  const char* const variable = set.first_set({"SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"});
  if (variable == nullptr)
    refuse("SLURM_PROCID is set, but SLURM_STEP_NODELIST and SLURM_NODELIST are not; want one of them, or SEQCCL_ADDR");
  const std::string list = *set.text(variable), host = first_host(list);
  if (host.empty()) refuse(fmt::format("{} is \"{}\"; want a list of hosts like node[03-07,9]", variable, list));
  return host;
}

LaunchInfo from_srun(const Variables& set) {
  LaunchInfo launch{.source = "srun"};
  const char* const size_variable = set.has("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  read_ranks(set, "SLURM_PROCID", size_variable, launch);
  constexpr auto any = std::numeric_limits<std::uint64_t>::max();
  const auto job = set.number("SLURM_JOB_ID", 0, any);
  const auto step = set.number("SLURM_STEP_ID", 0, any).value_or(0);
  if (!job) refuse("SLURM_PROCID is set, but SLURM_JOB_ID is not; want both");
  launch.job = fmt::format("{}.{}", *job, step);
  launch.port = derived_port(*job + 61 * step);
  if (!set.has("SEQCCL_ADDR")) launch.address = first_slurm_host(set);
  read_overrides(set, launch);
  return launch;
}

/// mpirun within a Slurm job starts its daemons by srun: then Slurm counts daemons, and mpirun's own variables are the right ones. srun
/// that speaks PMI sets both to the same.
bool is_srun(const Variables& set) {
  if (!set.has("SLURM_PROCID") || set.has("OMPI_COMM_WORLD_RANK")) return false;
  if (!set.has("PMI_RANK")) return true;
  const auto num_tasks = set.text(set.has("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS");
  return set.text("PMI_RANK") == set.text("SLURM_PROCID") && set.text("PMI_SIZE") == num_tasks;
}

LaunchInfo from_launcher(const Variables& set) {
  if (set.first_set({"SEQCCL_RANK", "SEQCCL_WORLD_SIZE"})) return from_seqccl(set);
  if (set.first_set({"RANK", "WORLD_SIZE"})) return from_torchrun(set);
  if (is_srun(set)) return from_srun(set);
  if (set.first_set({"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "PMIX_RANK"})) return from_mpirun(set);
  refuse(
      "this process was not started as one of several ranks: none of SEQCCL_RANK, RANK, OMPI_COMM_WORLD_RANK, PMI_RANK, SLURM_PROCID is "
      "set; want a start by `seqccl launch --ranks 4 -- PROGRAM`, torchrun, mpirun or srun");
}

}  // namespace

LaunchInfo launch_from(const Environment& environment) {
  const Variables set(environment);
  LaunchInfo launch = from_launcher(set);
  launch.token = set.text("SEQCCL_TOKEN").value_or(launch.job);
  return launch;
}

LaunchInfo launch_from_env() {
  return launch_from([](const char* variable) { return static_cast<const char*>(std::getenv(variable)); });
}

SEQCCL_END
