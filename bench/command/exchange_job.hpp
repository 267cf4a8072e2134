// exchange_job.hpp - raw messages between ranks: plans of nothing but exchanges, run and checked.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "command/measure.hpp"
#include "seqccl/schedule.hpp"

namespace seqccl::command {

enum class Pattern {
  ping_pong,   ///< one rank sends to another (0 to 1), which sends back; one way is the operation
  all_gather,  ///< every rank sends its part to all others, in one exchange
  all_to_all,  ///< every rank sends each other one a part of its own
  ring,        ///< every rank sends to the next one
};
inline constexpr Pattern all_patterns[] = {Pattern::ping_pong, Pattern::all_gather, Pattern::all_to_all, Pattern::ring};
[[nodiscard]] const char* name(Pattern pattern) noexcept;

/// What moves: `part` numbers a message.
struct ExchangePlan {
  Pattern pattern = Pattern::ping_pong;
  int num_ranks = 2;
  std::int64_t part = 1;
  DType dtype = f32;
  Rank first = 0, second = 1;  // of ping_pong

  /// `num_bytes`: of the message, or of all parts together (all_gather, all_to_all), rounded down to whole numbers, at least one a rank.
  [[nodiscard]] static ExchangePlan of(Pattern pattern, int num_ranks, std::int64_t num_bytes, DType dtype = f32);
  /// Of one rank: all_gather and all_to_all have one a rank, its own too.
  [[nodiscard]] int num_parts() const noexcept;
  [[nodiscard]] std::int64_t num_bytes() const noexcept;
  [[nodiscard]] Schedule schedule(Rank rank) const;
  /// As nccl-tests has it: what every link must carry over what there is, (P - 1) / P where a rank has a part of its own.
  [[nodiscard]] double bus_factor() const noexcept;
  /// Operations in one timed run: many small ones, so that the start does not count.
  [[nodiscard]] int num_inner() const noexcept;
};

struct ExchangeRun {
  std::vector<double> seconds;  // of one operation, per timed run
  Measurement whole;            // of all operations of a run
  std::int64_t num_wrong = 0;   // numbers, of all ranks, that are not the sender's
};
/// `checks`: whether what came is looked at.
[[nodiscard]] ExchangeRun run_exchange(const ExchangePlan& plan, const RunSettings& settings, bool checks = true);

/// One-way times between all pairs of ranks, one pair after the other while the others wait, by the ranks that are made once.
struct PairTime {
  Rank first = 0, second = 0;
  std::int64_t num_bytes = 0;
  std::vector<double> seconds;
  std::int64_t num_wrong = 0;
  std::string path;
};
[[nodiscard]] std::vector<PairTime> run_pairs(std::span<const std::int64_t> sizes, DType dtype, const RunSettings& settings, bool checks);

/// What is sent is bits, of the size of the numbers, that no rank's arithmetic looks at. Number `index` of message `stream` (its sender;
/// of all_to_all sender and receiver) is never 0, and no two messages have the same one there (of two bytes: no two of 3855).
template <class Word>
[[nodiscard]] constexpr Word sent_number(std::int64_t stream, std::int64_t index) noexcept {
  if constexpr (sizeof(Word) == 2) return static_cast<Word>(1 + (stream * 4097 + index % 4096) % 65535);
  return static_cast<Word>((stream + 1) * 4096 + index % 4096);
}
/// Numbers of `got` that are not those of message `stream`.
template <class Word>
[[nodiscard]] std::int64_t count_wrong(std::span<const Word> got, std::int64_t stream) noexcept {
  std::int64_t num_wrong = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    if (got[i] != sent_number<Word>(stream, static_cast<std::int64_t>(i))) ++num_wrong;
  return num_wrong;
}

}  // namespace seqccl::command
