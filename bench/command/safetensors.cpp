// safetensors.cpp - the reader: a header that is checked whole before a byte of data is read.
// SPDX-License-Identifier: Apache-2.0
#include "command/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

using nlohmann::json;
static_assert(std::endian::native == std::endian::little, "safetensors data is little endian and is read as it is");

/// Throws errors that begin with the path.
struct Refuse {
  const std::string& path;
  template <class... Arguments>
  [[noreturn]] void operator()(fmt::format_string<Arguments...> text, Arguments&&... arguments) const {
    throw Error(ErrorKind::argument, fmt::format("{}: ", path) + fmt::format(text, std::forward<Arguments>(arguments)...));
  }
};

/// A text from a file, safe to print: cut, and anything but plain ASCII replaced.
std::string printable(std::string_view text) {
  std::string result(text.substr(0, 60));
  for (char& letter : result)
    if (letter < ' ' || letter > '~') letter = '?';
  return text.size() > 60 ? result + "..." : result;
}

/// Bytes of one element of a safetensors dtype, 0 if there is no such dtype.
std::uint64_t element_bytes(const std::string& dtype) {
  static constexpr std::pair<const char*, std::uint64_t> known[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                                                                    {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                                                                    {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  for (const auto& [name, num_bytes] : known)
    if (dtype == name) return num_bytes;
  return 0;
}

/// Parses the JSON text; names that occur twice and deep nesting are errors, which plain parsing would let pass.
json parse_json(std::string_view text, const Refuse& refuse) {
  std::vector<std::set<std::string>> names;  // of the open objects
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > 3) refuse("the header is nested deeper than 3 levels");
    if (event == json::parse_event_t::object_start) names.emplace_back();
    if (event == json::parse_event_t::object_end) names.pop_back();
    if (event == json::parse_event_t::key && !names.back().insert(parsed.get<std::string>()).second)
      refuse("the header has the name '{}' twice", printable(parsed.get<std::string>()));
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& error) {
    refuse("the header is not valid JSON: {}", printable(error.what()));
  }
}

std::uint64_t unsigned_number(const json& value, const std::string& what, const Refuse& refuse) {
  if (!value.is_number_unsigned())
    refuse("{} is {}, want a whole number >= 0", what, printable(value.dump(-1, ' ', true, json::error_handler_t::replace)));
  const auto number = value.get<std::uint64_t>();
  if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    refuse("{} is {}, which overflows 63 bits", what, number);
  return number;
}

SafetensorsEntry parse_entry(const std::string& name, const json& value, std::uint64_t data_bytes, const Refuse& refuse) {
  const std::string who = fmt::format("tensor '{}'", printable(name));
  if (!value.is_object()) refuse("{}: its entry is not an object", who);
  for (const char* field : {"dtype", "shape", "data_offsets"})
    if (!value.contains(field)) refuse("{}: '{}' is missing", who, field);
  const json &dtype = value.at("dtype"), &shape = value.at("shape"), &offsets = value.at("data_offsets");
  if (!dtype.is_string()) refuse("{}: dtype is not a string", who);
  if (!shape.is_array()) refuse("{}: shape is not an array", who);
  if (!offsets.is_array() || offsets.size() != 2) refuse("{}: data_offsets is not an array of two numbers", who);

  SafetensorsEntry entry{name, dtype.get<std::string>(), {}, 0, 0};
  std::uint64_t num_bytes = element_bytes(entry.dtype);
  if (num_bytes == 0) refuse("{}: dtype '{}' is not known", who, printable(entry.dtype));
  bool is_empty = false;
  for (const json& extent : shape) {
    const std::uint64_t count = unsigned_number(extent, who + ": an extent of shape", refuse);
    entry.shape.push_back(static_cast<std::int64_t>(count));
    is_empty = is_empty || count == 0;
    if (count > 1 && num_bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / count)
      refuse("{}: shape {} overflows 63 bits", who, to_text(entry.shape));
    num_bytes *= count > 0 ? count : 1;
  }
  if (is_empty) num_bytes = 0;
  entry.begin_byte = unsigned_number(offsets[0], who + ": data_offsets[0]", refuse);
  entry.end_byte = unsigned_number(offsets[1], who + ": data_offsets[1]", refuse);
  if (entry.begin_byte > entry.end_byte) refuse("{}: data_offsets [{}, {}] run backwards", who, entry.begin_byte, entry.end_byte);
  if (entry.end_byte > data_bytes)
    refuse("{}: data_offsets [{}, {}] end behind the data of {} bytes (truncated file?)", who, entry.begin_byte, entry.end_byte,
           data_bytes);
  if (entry.end_byte - entry.begin_byte != num_bytes)
    refuse("{}: data_offsets [{}, {}] hold {} bytes, but shape {} of {} needs {}", who, entry.begin_byte, entry.end_byte,
           entry.end_byte - entry.begin_byte, to_text(entry.shape), entry.dtype, num_bytes);
  return entry;
}

/// Length of the header, from the first 8 bytes.
std::uint64_t header_length(std::string_view start, std::uint64_t file_bytes, const Refuse& refuse) {
  if (file_bytes < 8 || start.size() < 8)
    refuse("the file has {} bytes, a safetensors file begins with 8 bytes of header length", file_bytes);
  std::uint64_t num_bytes = 0;
  std::memcpy(&num_bytes, start.data(), 8);
  if (num_bytes > max_safetensors_header_bytes)
    refuse("the header length is {} bytes, want at most {} (not a safetensors file?)", num_bytes, max_safetensors_header_bytes);
  if (num_bytes > file_bytes - 8)
    refuse("the header length is {} bytes, but only {} follow it (truncated file?)", num_bytes, file_bytes - 8);
  return num_bytes;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view start, std::uint64_t file_bytes, const std::string& path) {
  const Refuse refuse{path};
  const std::uint64_t num_bytes = header_length(start, file_bytes, refuse);
  if (start.size() < 8 + num_bytes) refuse("only {} of the {} bytes of the header could be read", start.size() - 8, num_bytes);
  const std::string_view text = start.substr(8, num_bytes);
  if (text.empty() || text.front() != '{') refuse("the header does not begin with '{{'");
  const json root = parse_json(text, refuse);
  if (!root.is_object()) refuse("the header is not a JSON object");

  SafetensorsHeader header;
  header.data_begin_byte = 8 + num_bytes;
  const std::uint64_t data_bytes = file_bytes - header.data_begin_byte;
  for (const auto& [name, value] : root.items()) {
    if (name != "__metadata__") {
      header.entries.push_back(parse_entry(name, value, data_bytes, refuse));
      continue;
    }
    if (!value.is_object()) refuse("__metadata__ is not an object");
    for (const auto& note : value)
      if (!note.is_string()) refuse("__metadata__ holds something other than strings");
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return a.begin_byte != b.begin_byte ? a.begin_byte < b.begin_byte
           : a.end_byte != b.end_byte   ? a.end_byte < b.end_byte
                                        : a.name < b.name;
  });
  std::uint64_t filled = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin_byte != filled)
      refuse("tensor '{}' begins at byte {} of the data, but the tensors before it end at {}: {}", printable(entry.name), entry.begin_byte,
             filled, entry.begin_byte < filled ? "they overlap" : "there is a hole");
    filled = entry.end_byte;
  }
  if (filled != data_bytes) refuse("the tensors fill {} bytes, but the file has {} bytes of data", filled, data_bytes);
  return header;
}

SafetensorsFile::SafetensorsFile(std::string path) : path_(std::move(path)), stream_(path_, std::ios::binary) {
  const Refuse refuse{path_};
  if (!stream_) refuse("cannot be opened: {}", std::strerror(errno));
  stream_.seekg(0, std::ios::end);
  const auto file_bytes = static_cast<std::int64_t>(stream_.tellg());
  if (!stream_ || file_bytes < 0 || file_bytes == std::numeric_limits<std::int64_t>::max()) refuse("is not a regular file");
  stream_.seekg(0);
  std::string start(static_cast<std::size_t>(std::min<std::int64_t>(file_bytes, 8)), '\0');
  if (!stream_.read(start.data(), static_cast<std::streamsize>(start.size()))) refuse("cannot be read");
  const std::uint64_t num_bytes = header_length(start, static_cast<std::uint64_t>(file_bytes), refuse);
  start.resize(8 + num_bytes);
  if (!stream_.read(start.data() + 8, static_cast<std::streamsize>(num_bytes))) refuse("its header cannot be read");
  header_ = parse_safetensors_header(start, static_cast<std::uint64_t>(file_bytes), path_);
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const noexcept {
  for (const SafetensorsEntry& entry : header_.entries)
    if (entry.name == name) return &entry;
  return nullptr;
}

std::vector<std::string> SafetensorsFile::unused() const {
  std::vector<std::string> names;
  for (const SafetensorsEntry& entry : header_.entries)
    if (used_.count(entry.name) == 0) names.push_back(entry.name);
  return names;
}

HostTensor SafetensorsFile::read(std::string_view name) {
  used_.emplace(name);
  const Refuse refuse{path_};
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) {
    std::string there;
    for (const SafetensorsEntry& other : header_.entries) there += (there.empty() ? "" : ", ") + printable(other.name);
    refuse("there is no tensor '{}'; it has: {}", name, there.empty() ? "nothing" : there);
  }
  DType dtype = DType::f32;
  if (entry->dtype == "F16")
    dtype = DType::f16;
  else if (entry->dtype == "BF16")
    dtype = DType::bf16;
  else if (entry->dtype == "F64")
    dtype = DType::f64;
  else if (entry->dtype != "F32")
    refuse("tensor '{}' is {}, want F32, F16, BF16 or F64", name, entry->dtype);
  if (entry->shape.empty() || entry->shape.size() > static_cast<std::size_t>(max_axes))
    refuse("tensor '{}' has {} axes, want 1 to {}", name, entry->shape.size(), max_axes);

  HostTensor tensor(dtype, entry->shape);
  stream_.clear();
  stream_.seekg(static_cast<std::streamoff>(header_.data_begin_byte + entry->begin_byte));
  if (!stream_.read(reinterpret_cast<char*>(tensor.bytes.data()), static_cast<std::streamsize>(tensor.bytes.size())))
    refuse("tensor '{}' cannot be read: the file has shrunk since it was opened", name);
  return tensor;
}

}  // namespace seqccl::command
