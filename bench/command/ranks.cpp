// ranks.cpp - threads or processes, and how they meet.
// SPDX-License-Identifier: Apache-2.0
#include "command/ranks.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <thread>
#include <vector>

#include "command/names.hpp"

namespace seqccl::command {
namespace {

using std::chrono::nanoseconds;

/// Polls of --wait spin and --wait yield. Then they block all the same: to a wait of such length it makes no difference, and who blocks
/// notices that a process has died.
constexpr int long_wait = 1 << 20;

/// For ranks that are busy, or asleep, when another has failed: time to notice, and to write their flight record.
constexpr auto grace = std::chrono::seconds(5);

nanoseconds timeout_of(const RunSettings& settings) {
  return std::chrono::duration_cast<nanoseconds>(std::chrono::duration<double>(settings.timeout_s));
}

/// An environment variable, for as long as it is there. Only where no other thread is.
class ScopedVariable {
 public:
  ScopedVariable(const char* variable, const std::string& text) : variable_(variable) {
    if (const char* before = std::getenv(variable); before != nullptr) before_ = before;
    ::setenv(variable, text.c_str(), 1);
  }
  ~ScopedVariable() { before_ ? ::setenv(variable_, before_->c_str(), 1) : ::unsetenv(variable_); }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  const char* variable_;
  std::optional<std::string> before_;
};

}  // namespace

const char* name(RankTransport transport) noexcept {
  constexpr const char* names[] = {"threads", "shm", "ucx"};
  return names[static_cast<int>(transport)];
}

std::string RunSettings::wait_text() const { return wait.value_or(WaitPolicy::for_host(num_ranks)).describe(); }

void on_ranks(const RunSettings& settings, const std::function<void(Communicator&)>& body) {
  std::optional<ScopedVariable> lanes, silence;
  if (settings.transport == RankTransport::ucx && !settings.ucx_lanes.empty()) {
    lanes.emplace("UCX_TLS", settings.ucx_lanes + ",self");
    if (std::getenv("UCX_LOG_LEVEL") == nullptr) silence.emplace("UCX_LOG_LEVEL", "fatal");  // what is not there is told by the error
  }
  switch (settings.transport) {
    case RankTransport::threads:
      return run_ranks(
          settings.num_ranks, body,
          {.timeout = timeout_of(settings), .topology = settings.topology, .num_threads = settings.num_threads, .wait = settings.wait});
    case RankTransport::shm:
    case RankTransport::ucx:
      return run_processes(settings.num_ranks,
                           [&](Communicator& comm) {
                             comm.set_topology(settings.topology);
                             body(comm);
                           },
                           {.timeout = timeout_of(settings),
                            .num_threads = settings.num_threads,
                            .wait = settings.wait,
                            .transport = settings.transport == RankTransport::ucx ? ProcessTransport::ucx : ProcessTransport::shm,
                            .grace = grace});
  }
}

void Lockstep::meet(Communicator& comm) {
  const std::uint64_t own = seats_[static_cast<std::size_t>(comm.rank())].num_meetings.fetch_add(1) + 1;
  const auto patience = std::max<nanoseconds>(comm.timeout(), std::chrono::seconds(30));
  const auto deadline = SteadyClock::now() + patience;
  Transport& transport = comm.transport();
  std::size_t next = 0;  // all before it have come
  for (int attempt = 0;; ++attempt) {
    while (next < seats_.size() && seats_[next].num_meetings.load() >= own) ++next;
    if (next == seats_.size()) return;
    transport.check();
    if (attempt < 1000) {
      std::this_thread::yield();
      continue;
    }
    const auto now = SteadyClock::now();
    if (now > deadline) {
      std::vector<Rank> missing;
      for (std::size_t rank = next; rank < seats_.size(); ++rank)
        if (seats_[rank].num_meetings.load() < own) missing.push_back(static_cast<Rank>(rank));
      const Error error(ErrorKind::stalled,
                        fmt::format("rank {} of {}: rank {} has not come to the start of a run within {:g} s", comm.rank(), comm.size(),
                                    fmt::join(missing, ", "), std::chrono::duration<double>(patience).count()),
                        missing);
      transport.abort(error);
      throw error;
    }
    attempt = 1000;
    transport.idle(std::numeric_limits<int>::max(), now + std::chrono::microseconds(50));  // blocks, and looks who has died
  }
}

std::optional<WaitPolicy> parse_wait(std::string_view text) {
  const std::string word = resolve(wait_names(), text);
  if (word == "spin") return WaitPolicy{.spins = long_wait, .yields = 0};
  if (word == "yield") return WaitPolicy{.spins = 0, .yields = long_wait};
  if (word == "block") return WaitPolicy{.spins = 0, .yields = 0};
  return std::nullopt;
}

void refuse_launcher() {
  LaunchInfo launch;
  try {
    launch = launch_from_env();
  } catch (const Error&) {
    return;  // no launcher, or leftovers of one
  }
  // A batch script of Slurm has its variables too, but only srun makes a step.
  if (launch.num_ranks == 1 || (launch.source == "srun" && std::getenv("SLURM_STEP_ID") == nullptr)) return;
  throw Error(ErrorKind::argument,
              fmt::format("this process is rank {0} of {1} that {2} has started, and each would make all ranks again; want one process, "
                          "without {2}: --ranks {1} --transport shm runs {1} processes, --transport threads {1} threads",
                          launch.rank, launch.num_ranks, launch.source));
}

}  // namespace seqccl::command
