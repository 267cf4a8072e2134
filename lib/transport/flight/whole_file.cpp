// whole_file.cpp - open, write, close, rename; what has been begun is removed if one of them fails.
// SPDX-License-Identifier: Apache-2.0
#include "whole_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string_view>
#include <thread>

SEQCCL_BEGIN

std::string write_whole_file(const std::string& path, const std::string& text) {
  // Two threads may write the same file at the same moment: one of the two is there in the end.
  const std::string temporary = fmt::format("{}.{}-{:x}", path, ::getpid(), std::hash<std::thread::id>{}(std::this_thread::get_id()));
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return std::strerror(errno);
  int error = 0;
  for (std::string_view rest = text; !rest.empty() && error == 0;) {
    const ssize_t written = ::write(file, rest.data(), rest.size());
    if (written >= 0)
      rest.remove_prefix(static_cast<std::size_t>(written));
    else if (errno != EINTR)
      error = errno;
  }
  if (::close(file) != 0 && error == 0) error = errno;
  if (error == 0 && std::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return {};
  ::unlink(temporary.c_str());
  return std::strerror(error);
}

SEQCCL_END
