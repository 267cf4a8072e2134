// command.hpp - the `seqccl` command as a function, so that tests call it in their own process.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iosfwd>

#include "seqccl/error.hpp"

namespace seqccl::command {

/// What the process returns.
enum ExitCode : int {
  exit_right = 0,
  exit_check_failed = 1,          // --check found wrong numbers, a plan that is not proven, or doctor found something
  exit_bad_input = 2,             // wrong usage, options, files or tensors
  exit_communication_failed = 3,  // a rank died, stalled, disagreed or failed
};

/// Results go to `out`, everything else to `err`.
[[nodiscard]] int run_command(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

[[nodiscard]] int exit_code_of(ErrorKind kind) noexcept;

}  // namespace seqccl::command
