// doctor_record.hpp - a flight record as read from its file, checked, with all times on the clock of the day.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "seqccl/error.hpp"

namespace seqccl::command {

using Nanoseconds = std::int64_t;  // since 1970, where it is a moment

/// seqccl/flight_recorder.hpp says what the fields mean.
struct RecordedOperation {
  std::uint64_t number = 0;
  std::string name, fingerprint;
  Nanoseconds begin_ns = 0;
  std::optional<Nanoseconds> end_ns{};
  Nanoseconds timeout_ns = 0;
  std::uint64_t description = 0;
};
struct RecordedStep {
  std::uint64_t operation = 0;
  std::uint32_t step = 0;
  std::string lane, label;
  Nanoseconds begin_ns = 0;
  std::optional<Nanoseconds> end_ns{};
  std::optional<Rank> waited_for{};

  [[nodiscard]] bool computes() const { return lane == "compute"; }
};
struct RecordedPeer {
  std::uint64_t begun = 0, ended = 0;
  int compute_step = -1;
  Rank waiting_for = -1;
  Nanoseconds progress_ns = 0;
  bool left = false, heard = true;  // not heard: what it did is not known
  std::uint64_t received_bytes = 0, received_messages = 0;
};
struct RecordedError {
  std::string kind;  // name(ErrorKind)
  std::vector<Rank> culprits;
  std::string text;
  Nanoseconds at_ns = 0;
};

struct FlightRecord {
  std::string file;
  std::string version, job, group, host, transport, reason;
  Rank rank = 0;
  int num_ranks = 0;
  std::int64_t process = 0;
  Nanoseconds written_ns = 0;
  std::optional<RecordedError> error{};
  std::uint64_t begun = 0, ended = 0;
  std::map<std::uint64_t, std::vector<std::string>> descriptions{};
  std::vector<RecordedOperation> operations{};
  std::vector<RecordedStep> steps{};
  std::vector<RecordedPeer> peers{};  // one per rank

  /// Null if it is not in the record.
  [[nodiscard]] const RecordedOperation* operation(std::uint64_t number) const;
};

/// @throws Error(argument) that begins with the file's name and says what is wrong and what would be right
[[nodiscard]] FlightRecord read_flight_record(const std::string& file);
/// The same of a text. `file` is for messages.
[[nodiscard]] FlightRecord parse_flight_record(const std::string& file, const std::string& text);

}  // namespace seqccl::command
