// safetensors.hpp - reads and writes the safetensors file format; every malformed file is an Error that says what and where.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command/tensor.hpp"

namespace seqccl::command {

/// The format: 8 bytes, little endian: length n of the header; n bytes of JSON; the data.
///
///     {"q": {"dtype": "F32", "shape": [1, 512, 8, 64], "data_offsets": [0, 1048576]}, "__metadata__": {"note": "text"}}
///
/// Offsets count from the end of the header; the tensors fill the data without holes or overlap.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as in the file: "F32", "BF16", "I64", ...
  std::vector<std::int64_t> shape;
  std::uint64_t begin_byte = 0, end_byte = 0;  // in the data
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // sorted by place in the data
  std::uint64_t data_begin_byte = 0;      // in the file
};

/// Longest header that is accepted, as in the reference implementation.
inline constexpr std::uint64_t max_safetensors_header_bytes = 100'000'000;

/// Checks the whole header. `start`: the file's bytes from the first on, at least up to the end of its header (or of the file).
/// @throws Error(argument) naming `path`, what is wrong, and where
[[nodiscard]] SafetensorsHeader parse_safetensors_header(std::string_view start, std::uint64_t file_bytes, const std::string& path);

/// An open file: its header is checked, tensors are read when asked for.
class SafetensorsFile {
 public:
  /// @throws Error(argument)
  explicit SafetensorsFile(std::string path);

  [[nodiscard]] const std::vector<SafetensorsEntry>& entries() const noexcept { return header_.entries; }
  [[nodiscard]] bool has(std::string_view name) const noexcept { return find(name) != nullptr; }
  /// F32, F16, BF16 and F64 in their own type. @throws Error(argument) if there is no such tensor, of another type, or the file shrank
  [[nodiscard]] HostTensor read(std::string_view name);
  /// Names of tensors that nobody has asked for, in the file's order.
  [[nodiscard]] std::vector<std::string> unused() const;
  /// An absent tensor instead of an error if there is none of that name.
  [[nodiscard]] HostTensor read_if_there(std::string_view name) { return has(name) ? read(name) : HostTensor{}; }

 private:
  [[nodiscard]] const SafetensorsEntry* find(std::string_view name) const noexcept;

  std::string path_;
  std::ifstream stream_;
  SafetensorsHeader header_;
  std::set<std::string, std::less<>> used_;
};

/// Writes all tensors, in the given order, into a new file beside `path` and then renames it: `path` is either whole or untouched.
/// @throws Error(argument) if it cannot be written
struct NamedTensor {
  std::string name;
  const HostTensor* tensor;
};
void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors);

}  // namespace seqccl::command
