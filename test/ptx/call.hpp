// call.hpp - the pieces of a call: parameters that move between frames, functions that are not there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ptx/operation.hpp"

namespace ptx {

[[nodiscard]] Instruction copy_in_frame(u64 from, u64 to, u64 num_bytes);
/// Faults when it is reached: `__assertfail` says that the kernel asserted, anything else that the function is missing.
[[nodiscard]] Instruction call_of_missing(std::string_view name);

}  // namespace ptx
