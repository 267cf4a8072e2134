// output_file.cpp - a temporary beside the file, renamed at the end.
// SPDX-License-Identifier: Apache-2.0
#include "command/output_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "seqccl/error.hpp"

namespace seqccl::command {

OutputFile::OutputFile(std::string option, std::string path) : option_(std::move(option)), path_(std::move(path)) {
  std::error_code error;
  if (std::filesystem::is_directory(path_, error)) {
    errno = EISDIR;
    fail("cannot be written");
  }
  // A rename would replace what the user has made read-only.
  if (::access(path_.c_str(), F_OK) == 0 && ::access(path_.c_str(), W_OK) != 0) fail("cannot be written");
  temporary_ = fmt::format("{}.{}", path_, ::getpid());
  file_ = Descriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file_.is_open()) {
    temporary_.clear();
    fail("cannot be written");
  }
}

OutputFile::~OutputFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void OutputFile::finish(const std::string& text) {
  for (std::string_view rest = text; !rest.empty();) {
    const ssize_t written = ::write(file_.number(), rest.data(), rest.size());
    if (written >= 0)
      rest.remove_prefix(static_cast<std::size_t>(written));
    else if (errno != EINTR)
      fail("could not be written");
  }
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("could not be written");
  temporary_.clear();
}

void OutputFile::fail(const char* what) const {
  throw Error(ErrorKind::argument, fmt::format("{}: '{}' {}: {}", option_, path_, what, std::strerror(errno)));
}

}  // namespace seqccl::command
