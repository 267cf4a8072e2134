// bell.hpp - wakes threads that sleep in poll(): none sleeps on after a ring that came after its last look.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "../descriptor.hpp"
#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace ucx {

/// A descriptor that becomes readable when it is rung.
class Event {
 public:
  Event() : descriptor_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!descriptor_.is_open()) throw Error(ErrorKind::local, fmt::format("ucx: eventfd: {}", std::strerror(errno)));
  }
  [[nodiscard]] int number() const noexcept { return descriptor_.number(); }
  void ring() noexcept {
    const std::uint64_t one = 1;
    (void)!::write(number(), &one, sizeof(one));
  }
  void silence() noexcept {
    std::uint64_t count = 0;
    (void)!::read(number(), &count, sizeof(count));
  }

 private:
  Descriptor descriptor_;
};

/// Bell
/// ====
///
///     seen = bell.count()  ->  look whether there is something to do  ->  bell.sleep(seen, ...)
///
/// Every sleeper has an event of its own, so that one does not take the other's ring.
class Bell {
 public:
  [[nodiscard]] std::uint64_t count() const noexcept { return count_.load(std::memory_order_seq_cst); }

  void ring() noexcept {
    count_.fetch_add(1, std::memory_order_seq_cst);
    for (Place& place : places_)
      if (place.is_taken.load(std::memory_order_seq_cst)) place.event.ring();
  }
  [[nodiscard]] bool has_sleepers() const noexcept {
    for (const Place& place : places_)
      if (place.is_taken.load(std::memory_order_seq_cst)) return true;
    return false;
  }

  /// Until it rings, or has rung since `seen`, or `other` can be read, at most `milliseconds`. `prepare` runs after this thread can be
  /// woken; if it returns false there is no sleep. True if the whole time passed in silence.
  template <class Prepare>
  bool sleep(std::uint64_t seen, int other, int milliseconds, Prepare&& prepare) {
    for (Place& place : places_) {
      if (place.is_taken.exchange(true, std::memory_order_seq_cst)) continue;
      bool silent = false;
      if (count() == seen && prepare()) {
        pollfd waited[2] = {{place.event.number(), POLLIN, 0}, {other, POLLIN, 0}};
        silent = ::poll(waited, 2, milliseconds) == 0;
      }
      place.is_taken.store(false, std::memory_order_seq_cst);
      place.event.silence();
      return silent;
    }
    ::usleep(100);  // more threads than a rank has
    return false;
  }

 private:
  struct Place {
    std::atomic<bool> is_taken{false};
    Event event;
  };
  std::array<Place, 4> places_;
  std::atomic<std::uint64_t> count_{0};
};

}  // namespace ucx
SEQCCL_END
