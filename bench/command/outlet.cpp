// outlet.cpp - writes that do not wait, whatever the descriptor is.
// SPDX-License-Identifier: Apache-2.0
#include "command/outlet.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iostream>

namespace seqccl::command {

// O_NONBLOCK belongs to the open file, which the shell and others have too: pipes and terminals are opened once more. What cannot be, a
// socket say, is polled, and takes a small piece when it says that it takes something. Files on disk do not block.
Outlet::Outlet(std::ostream& to) : to_(&to) {
  const int given = &to == &std::cout ? STDOUT_FILENO : &to == &std::cerr ? STDERR_FILENO : -1;
  struct stat about {};
  if (given < 0 || ::fstat(given, &about) != 0) return;
  to.flush();
  number_ = given;
  if (S_ISREG(about.st_mode)) return;
  reopened_ = Descriptor(::open(fmt::format("/proc/self/fd/{}", given).c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (reopened_.is_open())
    number_ = reopened_.number();
  else
    polls_ = true;
}

void Outlet::write() {
  while (!is_empty()) {
    const std::string_view left = std::string_view(waiting_).substr(written_);
    const std::ptrdiff_t count = write_some(left);
    if (count == 0) break;
    written_ += count < 0 ? left.size() : static_cast<std::size_t>(count);
  }
  if (is_empty() || written_ >= room_bytes) {
    waiting_.erase(0, written_);
    written_ = 0;
  }
}

std::ptrdiff_t Outlet::write_some(std::string_view text) const noexcept {
  constexpr std::size_t piece_bytes = 4096;  // a pipe that takes anything takes so much
  if (number_ < 0) {
    to_->write(text.data(), static_cast<std::streamsize>(text.size())).flush();
    return static_cast<std::ptrdiff_t>(text.size());
  }
  if (polls_) {
    pollfd ready = {number_, POLLOUT, 0};
    if (::poll(&ready, 1, 0) <= 0) return 0;
  }
  const ssize_t count = ::write(number_, text.data(), polls_ ? std::min(text.size(), piece_bytes) : text.size());
  if (count > 0) return count;
  return errno == EAGAIN || errno == EINTR ? 0 : -1;
}

}  // namespace seqccl::command
