// child.hpp - a process that this one starts, watches and outlives.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace seqccl::command {

/// An open file of the process, closed with this object. Move-only.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) noexcept : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() { close(); }
  void close() noexcept;
  [[nodiscard]] int number() const noexcept { return number_; }
  [[nodiscard]] bool is_open() const noexcept { return number_ >= 0; }

 private:
  int number_ = -1;
};

struct Pipe {
  Descriptor read, write;
};
/// Not inherited, and its reading end never blocks. @throws Error(local) if the process may open no more files
[[nodiscard]] Pipe make_pipe();

/// How a process ended.
struct Ending {
  int exit_code = 0;  // of exit, if signal is 0
  int signal = 0;

  [[nodiscard]] bool is_failure() const noexcept { return exit_code != 0 || signal != 0; }
  /// What a shell would say: 128 + signal.
  [[nodiscard]] int code() const noexcept { return signal != 0 ? 128 + signal : exit_code; }
  /// "exited with code 3", "was killed by signal 9 (Killed)".
  [[nodiscard]] std::string text() const;
};

/// Child
/// =====
///
/// A program in a process group of its own, with nothing to read. It dies with the thread that started it, whatever happens to that.
/// What it has started and left in its group is killed when it ends. The destructor kills what is still running. Move-only.
class Child {
 public:
  /// With `captured`, what it writes comes through out() and err(); else it goes where this process's output goes.
  /// @throws Error(argument) if there is no such program; Error(local) if the system has no room for another process
  Child(const std::vector<std::string>& command, const std::vector<std::string>& environment, bool captured);
  Child(Child&& other) noexcept
      : process_(std::exchange(other.process_, 0)), ending_(other.ending_), out_(std::move(other.out_)), err_(std::move(other.err_)) {}
  Child& operator=(Child&&) = delete;
  ~Child();

  /// To the whole group. Nothing happens if it has ended.
  void signal(int number) const noexcept;
  /// Looks whether it has ended, without waiting.
  const std::optional<Ending>& look() noexcept;
  [[nodiscard]] const std::optional<Ending>& ending() const noexcept { return ending_; }

  [[nodiscard]] Descriptor& out() noexcept { return out_; }
  [[nodiscard]] Descriptor& err() noexcept { return err_; }

 private:
  void reap(bool waiting) noexcept;

  pid_t process_ = 0;
  std::optional<Ending> ending_;
  Descriptor out_, err_;
};

}  // namespace seqccl::command
