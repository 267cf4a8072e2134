// json_file.cpp - reads a file of JSON whole.
// SPDX-License-Identifier: Apache-2.0
#include "command/json_file.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "seqccl/error.hpp"

namespace seqccl::command {

nlohmann::ordered_json read_json(const std::string& option, const std::string& path) {
  constexpr std::uintmax_t most_bytes = std::uintmax_t{256} << 20;
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    throw Error(ErrorKind::argument, fmt::format("{}: '{}' is a folder, want a file of JSON", option, path));
  if (const std::uintmax_t size = std::filesystem::file_size(path, error); !error && size > most_bytes)
    throw Error(ErrorKind::argument, fmt::format("{}: '{}' has {} bytes, want at most {}", option, path, size, most_bytes));
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  if (stream) text << stream.rdbuf();
  if (!stream || text.str().empty())
    throw Error(ErrorKind::argument, fmt::format("{}: '{}' cannot be read{}, want a file of JSON", option, path,
                                                 stream ? " (it is empty)" : fmt::format(" ({})", std::strerror(errno))));
  try {
    return nlohmann::ordered_json::parse(text.str());
  } catch (const nlohmann::json::exception& parse_error) {
    throw Error(ErrorKind::argument, fmt::format("{}: '{}' is not JSON: {}", option, path, parse_error.what()));
  }
}

}  // namespace seqccl::command
