// doctor_ranks.hpp - what every rank was doing at the moment in which its group failed, from its own record or from the others'.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "command/doctor_record.hpp"

namespace seqccl::command {

/// One rank in operation `Moment::operation`.
struct RankAtMoment {
  enum class Doing { unknown, not_called, computing, waiting, nothing, ended, left, died };

  Rank rank = 0;
  const FlightRecord* record = nullptr;  // null: it has left none, the rest is what another rank saw
  Rank seen_by = -1;
  bool heard = true;  // false: without a record of its own, and it never said to that rank what it did
  std::uint64_t begun = 0, ended = 0;
  Doing doing = Doing::unknown;
  Rank waits_for = -1;
  std::optional<std::uint32_t> step{};  // in which it computes or waits
  std::string label{};                  // of that step
  std::optional<std::uint32_t> lowest_open{};
  const RecordedStep* last_ended = nullptr;
  std::set<std::uint32_t> steps_ended{};  // as far as its record goes back
  std::optional<Nanoseconds> since_ns{};  // that it does so

  /// "step 4 (custom, block of rank 1)"
  [[nodiscard]] std::string step_text() const;
};

/// The first failure that a record tells of; without one, each record at the time when it was written.
struct Moment {
  const FlightRecord* first = nullptr;  // its rank noticed first; without a failure, the first of all
  bool is_failure = false;
  Nanoseconds at_ns = 0;
  std::uint64_t operation = 0;  // of the rank that died or failed, else the lowest that has not ended on one; 0: there is none
  std::vector<RankAtMoment> ranks;

  /// From waiting rank to waiting rank as far as that leads; ends with one that does not wait, or one that is in it already.
  [[nodiscard]] std::vector<Rank> chain_from(Rank rank) const;
};

/// `records` are of different ranks of one group, at least one.
[[nodiscard]] Moment moment_of(const std::vector<FlightRecord>& records);

}  // namespace seqccl::command
