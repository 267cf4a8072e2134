// whole_file.hpp - a file that is there whole or not at all.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "seqccl/version.hpp"

SEQCCL_BEGIN

/// Writes beside `path`, then renames. Returns why it could not, in the system's words; empty if it could.
[[nodiscard]] std::string write_whole_file(const std::string& path, const std::string& text);

SEQCCL_END
