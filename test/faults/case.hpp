// case.hpp - one rank fails in the middle of a collective: what the others must say, and what must be left behind (nothing).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "seqccl/error.hpp"

namespace seqccl::test {

/// How the victim fails. Ranks as threads know only those that leave their process alone.
enum class How {
  kill,            // SIGKILL
  exit,            // _exit(0) without leaving
  stop,            // SIGSTOP, for ever
  stall,           // sleeps in a step for longer than the timeout
  mismatch,        // says in the middle of an operation that it is in another
  corrupt,         // one flag word on the wire is damaged
  wrong_plan,      // calls the operation with another scale
  wrong_order,     // calls B, A where the others call A, B
  wrong_dtype,     // calls it with bf16
  memory_full,     // its shared memory cannot grow
  aborts,          // calls Communicator::abort
  short_stall,     // from here on nothing fails: a little late
  stop_and_go,     // SIGSTOP, and SIGCONT after a while
  delay,           // one message comes late
  sockets_closed,  // closes every socket that it has: they are needed to meet, and not afterwards
};
inline constexpr int num_hows = 15;
[[nodiscard]] const char* name(How how);
/// True if all must finish with the right numbers.
[[nodiscard]] bool is_survived(How how);

/// Transports under test; another one is a line here and one in case.cpp.
enum class Where { threads, shm, ucx };
[[nodiscard]] const char* name(Where where);
[[nodiscard]] bool is_possible(How how, Where where);

struct Case {
  Where where = Where::shm;
  std::string layer;  // of method_names(), or "scan:" and the name of a linear scan
  int num_ranks = 4;
  Rank victim = 0;
  How how = How::kill;
  int step = 0;              // where in the victim's steps, in thousandths
  bool is_backward = false;  // fails there, not in forward
  bool is_large = false;     // messages too large to go without a credit

  [[nodiscard]] std::string text() const;
};
inline std::ostream& operator<<(std::ostream& out, const Case& it) { return out << it.text(); }

/// Methods and scans by name.
[[nodiscard]] std::vector<std::string> layers();
/// `count` cases, none where the transport is not there: every layer in turn, every way to fail that the transport knows in turn, the rest
/// drawn from `seed`.
[[nodiscard]] std::vector<Case> sample(Where where, int count, std::uint64_t seed);

/// Runs it and expects (GoogleTest): every survivor ends within the timeout + 2 s; class, culprits, operation and step are said; outputs
/// are not written after the error and inputs never; a fresh communicator gives the right numbers; no process, descriptor or mapping is
/// left behind.
void expect_handled(const Case& it);

/// What this process has, for comparison before and after.
struct Belongings {
  std::size_t num_descriptors = 0, num_memory_files = 0, num_children = 0, resident_bytes = 0;
  [[nodiscard]] static Belongings now();
};

}  // namespace seqccl::test
