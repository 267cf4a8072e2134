// safetensors_writer.cpp - writes a safetensors file beside its final name and renames it: whole or untouched.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "command/safetensors.hpp"
#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

const char* file_name(DType dtype) noexcept {
  constexpr const char* names[] = {"F32", "F16", "BF16", "F64"};
  return names[static_cast<int>(dtype)];
}

/// A temporary file that is removed unless it was renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& final_path)
      : final_path_(final_path), path_(fmt::format("{}.part-{}", final_path, ::getpid())) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail("cannot be created");
  }
  ~TemporaryFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!kept_) ::unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(const void* data, std::size_t num_bytes) {
    const char* at = static_cast<const char*>(data);
    while (num_bytes > 0) {
      const ssize_t written = ::write(descriptor_, at, num_bytes);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail("cannot be written");
      at += written;
      num_bytes -= static_cast<std::size_t>(written);
    }
  }
  void keep() {
    if (::fsync(descriptor_) != 0 && errno != EINVAL) fail("cannot be written");  // EINVAL: a pipe or device has no disk behind it
    if (::rename(path_.c_str(), final_path_.c_str()) != 0) fail("cannot be replaced");
    kept_ = true;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw Error(ErrorKind::argument, fmt::format("{}: {}: {}", final_path_, what, std::strerror(errno)));
  }
  std::string final_path_, path_;
  int descriptor_ = -1;
  bool kept_ = false;
};

}  // namespace

void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors) {
  std::error_code ignored;
  const std::filesystem::file_status status = std::filesystem::status(path, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw Error(ErrorKind::argument, fmt::format("{}: exists and is not a regular file, so it is not replaced", path));

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::uint64_t offset = 0;
  for (const NamedTensor& named : tensors) {
    const std::uint64_t num_bytes = named.tensor->bytes.size();
    header[named.name] = {
        {"dtype", file_name(named.tensor->dtype)}, {"shape", named.tensor->shape()}, {"data_offsets", {offset, offset + num_bytes}}};
    offset += num_bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begin on a multiple of 8 bytes

  TemporaryFile file(path);
  const std::uint64_t header_bytes = text.size();
  file.write(&header_bytes, 8);
  file.write(text.data(), text.size());
  for (const NamedTensor& named : tensors) file.write(named.tensor->bytes.data(), named.tensor->bytes.size());
  file.keep();
}

}  // namespace seqccl::command
