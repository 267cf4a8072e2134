// alarm.hpp - ends a test that forks if it hangs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <csignal>
#include <cstdlib>

namespace seqccl::test {

/// Ends this process if it hangs, and the ranks with it. A signal, not a thread: where ranks are forked there must be no second thread,
/// which may hold a lock of the allocator just then.
class Alarm {
 public:
  explicit Alarm(unsigned num_seconds) {
    std::signal(SIGALRM, [](int) {
      constexpr char text[] = "alarm: a test that forks hangs, and no rank's watchdog has ended it\n";
      (void)!::write(2, text, sizeof(text) - 1);
      std::abort();
    });
    ::alarm(num_seconds);
  }
  ~Alarm() {
    ::alarm(0);
    std::signal(SIGALRM, SIG_DFL);
  }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;
};

}  // namespace seqccl::test
