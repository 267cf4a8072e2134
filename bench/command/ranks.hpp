// ranks.hpp - the ranks of `run` and `bench`: threads of this process, or processes that it forks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "command/memory.hpp"
#include "seqccl/communicator.hpp"

namespace seqccl::command {

/// --transport.
enum class RankTransport {
  threads,  ///< ranks are threads of this process
  shm,      ///< ranks are processes that share memory
  ucx,      ///< ranks are processes that talk over UCX
};
[[nodiscard]] const char* name(RankTransport transport) noexcept;

/// How to run, apart from what to compute.
struct RunSettings {
  int num_ranks = 4;
  int warmup = 0;  // runs that are not timed
  int repeat = 1;
  double timeout_s = 600;
  int num_threads = 0;  // kernel threads per rank; 0: cores / ranks
  Topology topology{};
  bool trace = false;
  bool lanes = false;  // time kernels and messages alone, too
  RankTransport transport = RankTransport::threads;
  std::string ucx_lanes{};           // what UCX_TLS says to ranks over UCX, beside self; empty: as it is set
  std::optional<WaitPolicy> wait{};  // none: the library's choice for this host

  /// How ranks wait, in words.
  [[nodiscard]] std::string wait_text() const;
};

/// Runs `body` on every rank; returns when all have returned. Whatever the transport, what a rank writes is seen here only in memory that
/// was shared before: HostTensor with Sharing::shared, SharedArray.
/// @throws Error of the first rank that failed; of kind dead also for one whose process ended
void on_ranks(const RunSettings& settings, const std::function<void(Communicator&)>& body);

/// Ranks meet before each timed run. A rank that fails lets the others go with its error; so does one that does not come for the timeout,
/// or half a minute if that is longer: here ranks also copy tensors and plan, which the library does not see.
class Lockstep {
 public:
  explicit Lockstep(int num_ranks) : seats_(static_cast<std::size_t>(num_ranks)) {}
  void meet(Communicator& comm);

 private:
  struct alignas(64) Seat {
    std::atomic<std::uint64_t> num_meetings{0};
  };
  SharedArray<Seat> seats_;
};

/// What --wait means: auto is none, spin, yield and block are policies. @throws Error(argument)
[[nodiscard]] std::optional<WaitPolicy> parse_wait(std::string_view text);
inline constexpr const char* wait_help = "How a rank waits: auto (as fits this host)|spin|yield|block";

/// `run` and `bench` make their ranks themselves. Started once per rank, they would do everything once per rank.
/// @throws Error(argument) in a process that a launcher has started beside others
void refuse_launcher();

}  // namespace seqccl::command
