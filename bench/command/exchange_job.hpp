// exchange_job.hpp - raw messages between ranks: plans of nothing but exchanges, run and checked.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "command/measure.hpp"
#include "seqccl/schedule.hpp"

namespace seqccl::command {

enum class Pattern {
  ping_pong,   ///< rank 0 sends to rank 1, which sends back; one way is the operation
  all_gather,  ///< every rank sends its part to all others, in one exchange
};
[[nodiscard]] const char* name(Pattern pattern) noexcept;

/// What moves: f32 numbers, `part` of them a message.
struct ExchangePlan {
  Pattern pattern = Pattern::ping_pong;
  int num_ranks = 2;
  std::int64_t part = 1;

  /// `num_bytes`: of the message, or of all parts together, rounded down to whole numbers, at least one a rank.
  [[nodiscard]] static ExchangePlan of(Pattern pattern, int num_ranks, std::int64_t num_bytes);
  [[nodiscard]] std::int64_t num_bytes() const noexcept;
  [[nodiscard]] Schedule schedule(Rank rank) const;
  /// As nccl-tests has it: what every link must carry over what there is, (P - 1) / P for the all-gather.
  [[nodiscard]] double bus_factor() const noexcept;
  /// Operations in one timed run: many small ones, so that the start does not count.
  [[nodiscard]] int num_inner() const noexcept;
};

struct ExchangeRun {
  std::vector<double> seconds;  // of one operation, per timed run
  Measurement whole;            // of all operations of a run
  std::int64_t num_wrong = 0;   // numbers, of all ranks, that are not the sender's
};
[[nodiscard]] ExchangeRun run_exchange(const ExchangePlan& plan, const RunSettings& settings);

/// Number `index` of what `rank` sends: never 0, and no two ranks' alike.
[[nodiscard]] float sent_number(Rank rank, std::int64_t index) noexcept;
/// Numbers of `got` that `rank` has not sent.
[[nodiscard]] std::int64_t count_wrong(std::span<const float> got, Rank rank) noexcept;

}  // namespace seqccl::command
