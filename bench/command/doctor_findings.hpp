// doctor_findings.hpp - what flight records say went wrong, each finding in words and as JSON.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "command/doctor_ranks.hpp"

namespace seqccl::command {

using Json = nlohmann::ordered_json;

struct Finding {
  std::string headline;
  std::vector<std::string> lines{};
  Json data = Json::object();  // "kind" and what the words say
  std::string verdict{};       // in one sentence, of those that may be the cause of all
};

// Each is empty if it finds nothing. `records` are of different ranks of one group, at least one.

/// Ranks that left no record, and what the others saw of them.
[[nodiscard]] std::optional<Finding> find_missing(const Moment& moment);
/// Ranks built from different versions.
[[nodiscard]] std::optional<Finding> find_versions(const std::vector<FlightRecord>& records);
/// The first operation in which ranks called different things.
[[nodiscard]] std::optional<Finding> find_difference(const std::vector<FlightRecord>& records);
/// The error that ended the group.
[[nodiscard]] std::optional<Finding> find_error(const std::vector<FlightRecord>& records, const Moment& moment);
/// The operation that hung: who is how far, who waits for whom, and the rank at the end of the chain.
[[nodiscard]] std::optional<Finding> find_hang(const std::vector<FlightRecord>& records, const Moment& moment);
/// Ranks that compute much longer than the others in the same operations.
[[nodiscard]] std::optional<Finding> find_slow(const std::vector<FlightRecord>& records);

/// The rank at which all waiting ends, and why, as far as the records tell.
struct Root {
  std::vector<Rank> ranks;  // several: they wait for each other
  std::string kind;         // name(ErrorKind)
  std::string words;        // "rank 2 is inside step 4 (custom)"
};
[[nodiscard]] std::optional<Root> root_of(const std::vector<FlightRecord>& records, const Moment& moment);

/// "rank 2", "ranks 0 to 3, 7".
[[nodiscard]] std::string ranks_text(const std::vector<Rank>& ranks);
/// "412 us", "3.21 s".
[[nodiscard]] std::string duration_text(Nanoseconds duration);
/// "2026-11-23 09:14:02.123 UTC".
[[nodiscard]] std::string time_of_day_text(Nanoseconds moment);
/// "operation 7, \"ring forward\"".
[[nodiscard]] std::string operation_text(const std::vector<FlightRecord>& records, std::uint64_t number);

}  // namespace seqccl::command
