// json_file.hpp - JSON that a user names.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace seqccl::command {

/// @throws Error(argument) that names `option` and the file: it cannot be read, is not JSON, or is larger than 256 MiB
[[nodiscard]] nlohmann::ordered_json read_json(const std::string& option, const std::string& path);

}  // namespace seqccl::command
