// host_list.hpp - the first host of a list as Slurm writes it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "seqccl/version.hpp"

SEQCCL_BEGIN
namespace bootstrap {

/// "node[03-07,9],login" -> "node03": of every bracket the first number, up to the first comma outside of brackets. Empty if the text is
/// no such list.
[[nodiscard]] std::string first_host(std::string_view list);

}  // namespace bootstrap
SEQCCL_END
