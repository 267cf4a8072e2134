// spec.hpp - the text of SEQCCL_FAULT: which rank shall fail, where, and how.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace fault {

enum class Kind : std::uint8_t {
  kill,      // SIGKILL to itself
  stop,      // SIGSTOP to itself
  exit,      // _exit(0)
  stall,     // sleeps for a time inside the step
  delay,     // the next message that it sends is handed over late by a time
  corrupt,   // the next message that it sends has a damaged flag
  mismatch,  // from the step on it takes part in another plan
};
[[nodiscard]] const char* name(Kind kind) noexcept;
/// True for those that end or stop the whole process.
[[nodiscard]] bool is_for_processes(Kind kind) noexcept;

/// One fault, which strikes once.
struct Spec {
  Rank rank = -1;
  std::string op = "*";         // Schedule::name or its first word; * any
  std::uint64_t operation = 0;  // of the communicator, from 1; 0 any
  std::int64_t step = -1;       // in Schedule::steps; -1 the first that begins
  Kind kind = Kind::kill;
  std::chrono::nanoseconds time{0};  // of stall and delay

  [[nodiscard]] bool strikes(std::string_view schedule_name, std::uint64_t operation_number, std::uint32_t step_index) const noexcept;
  [[nodiscard]] std::string describe() const;
  friend bool operator==(const Spec&, const Spec&) = default;
};

/// Faults are divided by ';', keys by ',':
///
///     rank=2,op=ring,step=3,kind=stall:500ms;rank=0,operation=7,kind=kill
///
/// `rank` and `kind` are needed. Times have a unit: ns, us, ms, s. An empty text has none.
/// @throws Error(argument) naming the key, its value and what would be right
[[nodiscard]] std::vector<Spec> parse(std::string_view text);

}  // namespace fault
SEQCCL_END
