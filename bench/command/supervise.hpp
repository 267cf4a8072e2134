// supervise.hpp - runs one process per rank to the end, whatever end that is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <iosfwd>
#include <optional>
#include <vector>

#include "command/child.hpp"

namespace seqccl::command {

struct Supervision {
  std::chrono::milliseconds grace{10'000};                ///< from the first failure to SIGTERM: time to say what is missing
  std::chrono::milliseconds kill_after{5'000};            ///< from SIGTERM to SIGKILL
  std::optional<std::chrono::milliseconds> timeout = {};  ///< for all of it; none: as long as it takes
};

/// Starts the ranks, waits until all have ended and passes on what they write (if captured), a line at a time: "[2] text". SIGINT and
/// SIGTERM that come meanwhile go to all ranks; a second one kills them. The handlers of before are put back.
///
/// A reader who does not read delays nothing: what the ranks wrote waits here up to a bound, then they wait. After a failure he has
/// `kill_after`.
///
/// If a rank fails, the others have the grace to end by themselves, then get SIGTERM, then SIGKILL. One line on `err` names the first
/// failure. Returns its code: of its exit, or 128 + signal; 128 + signal if a signal ended it all, exit_communication_failed after the
/// timeout, 0 if all ended with 0.
[[nodiscard]] int supervise(const std::function<std::vector<Child>()>& start, const Supervision& supervision, std::ostream& out,
                            std::ostream& err);

}  // namespace seqccl::command
