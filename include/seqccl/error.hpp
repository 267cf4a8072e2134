// error.hpp - the one exception type: who, doing what, waiting for whom, in the backend's words.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "seqccl/version.hpp"

SEQCCL_BEGIN

using Rank = int;  ///< 0 <= rank < number of ranks

/// What kind of thing went wrong. The first is the caller's mistake and leaves the communicator usable; the others end it.
enum class ErrorKind {
  argument,    ///< a wrong shape, dtype, option or file: thrown before anything is sent
  dead,        ///< a rank left or its process died
  stalled,     ///< a rank lives but has neither begun nor ended a step for the timeout
  mismatched,  ///< ranks called different operations, or the same with different arguments; see Error
  local,       ///< a step failed on the culprit rank itself (an exception, out of memory)
  internal,    ///< seqccl broke its own rule; please report it
};

[[nodiscard]] constexpr const char* name(ErrorKind kind) noexcept {
  constexpr const char* names[] = {"argument", "dead", "stalled", "mismatched", "local", "internal"};
  return names[static_cast<int>(kind)];
}

/// Thrown at the edges of the library. `culprits` names the ranks that caused it (empty for wrong arguments).
///
/// Of a mismatch, whoever notices it: the ranks in the minority, ascending. If two groups are as large, as with two ranks, that of the
/// lowest rank is taken to be right, so of two the higher is named. Both ends of the message are, if both say that they do the same: then
/// what differs is not in their descriptions, or the message was damaged on its way.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& what, std::vector<Rank> culprits = {})
      : std::runtime_error(what), kind_(kind), culprits_(std::move(culprits)) {}

  [[nodiscard]] ErrorKind kind() const noexcept { return kind_; }
  [[nodiscard]] const std::vector<Rank>& culprits() const noexcept { return culprits_; }

 private:
  ErrorKind kind_;
  std::vector<Rank> culprits_;
};

SEQCCL_END
