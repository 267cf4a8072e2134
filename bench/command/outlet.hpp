// outlet.hpp - output that waits in this process, so that who does not read it does not stop the writer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>
#include <string_view>

#include "command/child.hpp"

namespace seqccl::command {

/// A stream, and what is still to be written to it. std::cout and std::cerr are written through their descriptors, and only as much as is
/// taken at once; any other stream takes all.
class Outlet {
 public:
  /// Who passes on output reads no more of it while so much is waiting.
  static constexpr std::size_t room_bytes = std::size_t{1} << 20;

  explicit Outlet(std::ostream& to);

  void add(std::string_view text) { waiting_ += text; }
  [[nodiscard]] bool is_full() const noexcept { return waiting_.size() - written_ >= room_bytes; }
  [[nodiscard]] bool is_empty() const noexcept { return waiting_.size() == written_; }
  /// To poll for POLLOUT; -1: it need not be.
  [[nodiscard]] int number() const noexcept { return number_; }
  /// Writes what is taken without waiting. What can never be written, as nobody is there to read it, is dropped.
  void write();

 private:
  /// As many bytes as were taken; 0: none now, -1: none ever.
  [[nodiscard]] std::ptrdiff_t write_some(std::string_view text) const noexcept;

  std::ostream* to_;
  Descriptor reopened_;
  int number_ = -1;
  bool polls_ = false;  // it would block: asked before each write
  std::string waiting_;
  std::size_t written_ = 0;  // of it
};

}  // namespace seqccl::command
