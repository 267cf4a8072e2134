// specials.hpp - special registers: %tid.x, %laneid and the like.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>

#include "ptx/program.hpp"

namespace ptx {

[[nodiscard]] std::optional<Special> special_of(std::string_view name);
/// Writes the special registers that the kernel uses.
void fill_specials(Warp& warp);

}  // namespace ptx
