// host_test.cpp - schedules on real lanes: results, traces, and every way in which a run may end badly.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iterator>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <type_traits>

#include "rings.hpp"
#include "seqccl/communicator.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

void sleep(milliseconds duration) { std::this_thread::sleep_for(duration); }

std::ptrdiff_t num_threads_of_process() {
  std::thread([] {}).join();  // sanitizers start a thread of their own beside the first
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator{});
}

/// Runs a ring on `comm`; returns the error that it ended with, if any.
std::optional<Error> ring_error(Communicator& comm, const Schedule& schedule) {
  try {
    RingRank ring(schedule, comm.arena(schedule.workspace_bytes));
    ring.prepare(0);
    run_host(ring.schedule, *ring.memory, comm.transport(), {.timeout = comm.timeout()});
    EXPECT_TRUE(ring.right(0));
    return std::nullopt;
  } catch (const Error& error) {  // also from arena(), if the others have failed by then
    return error;
  }
}

void expect_error(const std::optional<Error>& error, ErrorKind kind, const std::vector<Rank>& culprits, const std::string& words) {
  ASSERT_TRUE(error.has_value()) << "want: " << words;
  EXPECT_EQ(error->kind(), kind) << error->what();
  EXPECT_EQ(error->culprits(), culprits) << error->what();
  EXPECT_NE(std::string(error->what()).find(words), std::string::npos) << error->what();
}

/// For a rank that does not take part: stays until the others' error has reached it.
void stay_until_failed(Communicator& comm) {
  EXPECT_THROW((void)wait_until(comm.transport(), SteadyClock::now() + seconds(30), [] { return false; }), Error);
}

TEST(RunHost, RingsAreRightRunAfterRun) {
  const auto before = num_threads_of_process();
  for (const int num_ranks : {1, 2, 3, 4, 5, 8}) {
    Watchdog dog(seconds(120));
    run_ranks(num_ranks, [&](Communicator& comm) {
      const auto leash = dog.watch(comm.transport());
      std::minstd_rand random(static_cast<unsigned>(comm.rank() + 1));
      const auto schedule = ring_gather(comm.rank(), num_ranks, [&](int) {
        if (random() % 4 == 0) sleep(milliseconds(1));
      });
      EXPECT_EQ(schedule.is_sequential, num_ranks == 1);
      RingRank ring(schedule, comm.arena(schedule.workspace_bytes));
      for (int run = 0; run < 10; ++run) {
        ring.prepare(run);
        run_host(ring.schedule, *ring.memory, comm.transport(), {});
        ASSERT_TRUE(ring.right(run)) << "rank " << comm.rank() << " of " << num_ranks << ", run " << run;
      }
      EXPECT_EQ(comm.received_messages()[(comm.rank() + num_ranks - 1) % num_ranks], num_ranks == 1 ? 0u : 10u * (num_ranks - 1));
      EXPECT_EQ(comm.transport().status(comm.rank()).finished, 10u);
    });
  }
  EXPECT_EQ(num_threads_of_process(), before);
}

/// x goes around once, every rank adds one to it: nothing overlaps.
Schedule relay(Rank rank, int num_ranks, const CustomFunction& add_one) {
  Recorder plan("relay", rank, num_ranks);
  const Block x = plan.scratch(f32, {1, 1, 1, 1});
  const Block out = plan.output(Tensor::out, f32, {1, 1, 1, 1});
  Custom op;
  op.inout[0] = x;
  op.function = plan.function(add_one);
  if (rank == 0)
    plan.compute(Zero{x});
  else
    plan.exchange({}, {{rank - 1, x}});
  plan.compute(op);
  if (rank + 1 < num_ranks) plan.exchange({{rank + 1, x}}, {});
  plan.compute(Copy{x, out});
  return std::move(plan).finish("relay");
}

TEST(RunHost, SequentialSchedulesStayOnTheCallersThread) {
  Watchdog dog(seconds(60));
  const auto before = num_threads_of_process();
  std::atomic<std::ptrdiff_t> most{0};
  run_ranks(3, [&](Communicator& comm) {
    const std::thread::id caller = std::this_thread::get_id();
    const auto add_one = [&](std::span<const TensorView> views) {
      EXPECT_EQ(std::this_thread::get_id(), caller);
      most = std::max(most.load(), num_threads_of_process());
      *views[0].as<float>() += 1;
    };
    // The last rank's copy may overlap nothing; the others' copy may overlap their send.
    const Schedule schedule = relay(comm.rank(), 3, add_one);
    EXPECT_EQ(schedule.is_sequential, comm.rank() == 2);
    Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
    float out = 0;
    memory.bind(Tensor::out, view(&out, f32, {1, 1, 1, 1}));
    for (int run = 0; run < 5; ++run) {
      run_host(schedule, memory, comm.transport(), {});
      EXPECT_EQ(out, static_cast<float>(comm.rank() + 1));
    }
  });
  EXPECT_LE(most, before + 3 + 2 + 3);  // ranks, two progress threads, one thread per count
}

TEST(RunHost, TracesEveryStep) {
  Watchdog dog(seconds(60));
  run_ranks(4, [&](Communicator& comm) {
    const Schedule schedule = ring_gather(comm.rank(), 4, [](int) { sleep(milliseconds(2)); });
    RingRank ring(schedule, comm.arena(schedule.workspace_bytes));
    std::vector<TraceEvent> trace;
    run_host(ring.schedule, *ring.memory, comm.transport(), {.trace = &trace});
    ASSERT_EQ(trace.size(), schedule.steps.size());
    for (std::size_t i = 0; i < trace.size(); ++i) {
      EXPECT_EQ(trace[i].step, i);
      EXPECT_GE(trace[i].end_s, trace[i].begin_s);
      const bool pauses = schedule.steps[i].lane == Lane::compute && schedule.ops[schedule.steps[i].index].index() == Op(Custom{}).index();
      EXPECT_GE(trace[i].end_s - trace[i].begin_s, pauses ? 0.002 : 0.0);
    }
  });
}

TEST(RunHost, WrongBindingsAreRefusedBeforeAnythingIsSent) {
  auto comms = thread_communicators(2);
  const Schedule schedule = ring_gather(0, 2);
  std::vector<std::byte> arena(schedule.workspace_bytes);
  Bindings memory(schedule, arena.data());
  const auto refused = [](auto&& call, const std::string& words) {
    try {
      call();
      ADD_FAILURE() << "want: " << words;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument);
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  HostTensor wrong(f32, {1, 4, 1, ring_dim}), half(f16, {1, ring_tokens, 1, ring_dim}), q(f32, {1, ring_tokens, 1, ring_dim});
  refused([&] { memory.bind(Tensor::q, wrong.view()); }, "ring gather: q has shape (1, 4, 1, 5), want (1, 3, 1, 5)");
  refused([&] { memory.bind(Tensor::q, half.view()); }, "ring gather: q is f16, want f32");
  TensorView spread = wrong.view();
  spread.geometry.shape[1] = ring_tokens;
  spread.geometry.strides[1] = 6;
  refused([&] { memory.bind(Tensor::q, spread); }, "q is sent in place: it has stride 6 along axis 1, want 5");
  refused([&] { memory.bind(Tensor::out, static_cast<ConstTensorView>(q.view())); }, "out is read-only");
  memory.bind(Tensor::lse, wrong.view());  // the schedule has none
  memory.bind(Tensor::q, q.view());
  refused([&] { run_host(schedule, memory, comms[0].transport(), {}); }, "ring gather: out is not bound, want (1, 6, 1, 5)");
  EXPECT_EQ(comms[0].transport().status(0).operation, 0u);
  comms[0].transport().check();  // still usable
}

// --- Ends. ----------------------------------------------------------------------------------------------------------

constexpr milliseconds short_timeout{300};

TEST(RunHost, NamesARankThatNeverCalls) {
  Watchdog dog(seconds(60));
  run_ranks(4,
            [&](Communicator& comm) {
              const auto leash = dog.watch(comm.transport());
              EXPECT_FALSE(ring_error(comm, ring_gather(comm.rank(), 4)));
              if (comm.rank() == 2) return stay_until_failed(comm);
              const auto begin = SteadyClock::now();
              const auto error = ring_error(comm, ring_gather(comm.rank(), 4));
              EXPECT_LT(SteadyClock::now() - begin, short_timeout + seconds(2));
              expect_error(error, ErrorKind::stalled, {2}, "rank 2 has not called operation 2");
              EXPECT_EQ(std::string(error->what()).rfind("ring gather on rank ", 0), 0u) << error->what();
              EXPECT_NE(std::string(error->what()).find("(step "), std::string::npos) << error->what();
              EXPECT_THROW((void)comm.arena(1), Error);  // unusable from now on
              expect_error(error, ErrorKind::stalled, {2}, "waiting for rank");
            },
            {.timeout = short_timeout});
}

TEST(RunHost, NamesARankThatSleepsInAStep) {
  Watchdog dog(seconds(60));
  run_ranks(5,
            [&](Communicator& comm) {
              const auto leash = dog.watch(comm.transport());
              const Schedule schedule = ring_gather(comm.rank(), 5, [&](int i) {
                if (comm.rank() == 1 && i == 1) sleep_until_failed(comm.transport());
              });
              expect_error(ring_error(comm, schedule), ErrorKind::stalled, {1}, "rank 1 is inside compute step 4 (here: custom");
            },
            {.timeout = short_timeout});
}

TEST(RunHost, SlowRanksThatProgressAreNotStalled) {
  Watchdog dog(seconds(60));
  run_ranks(4,
            [&](Communicator& comm) {
              const auto leash = dog.watch(comm.transport());
              const auto error = ring_error(comm, ring_gather(comm.rank(), 4, [&](int) {
                                              if (comm.rank() == 0) sleep(milliseconds(200));
                                            }));
              EXPECT_FALSE(error.has_value()) << error->what();
            },
            {.timeout = short_timeout});
}

TEST(RunHost, NamesACycle) {
  Watchdog dog(seconds(60));
  run_ranks(3,
            [&](Communicator& comm) {
              Recorder plan("cycle", comm.rank(), 3);
              const Block from = plan.scratch(f32, {1, 1, 1, 4}), to = plan.scratch(f32, {1, 1, 1, 4});
              plan.compute(Zero{from});
              plan.exchange({}, {{(comm.rank() + 2) % 3, to}});
              plan.exchange({{(comm.rank() + 1) % 3, from}}, {});
              const Schedule schedule = std::move(plan).finish("cycle");
              std::optional<Error> error;
              try {
                const Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
                run_host(schedule, memory, comm.transport(), {.timeout = comm.timeout()});
              } catch (const Error& thrown) {
                error = thrown;
              }
              expect_error(error, ErrorKind::stalled, {0, 1, 2}, "ranks 0, 1, 2 wait for each other");
            },
            {.timeout = short_timeout});
}

TEST(RunHost, AStepThatThrowsEndsTheRunOnEveryRank) {
  Watchdog dog(seconds(60));
  run_ranks(4, [&](Communicator& comm) {
    const auto leash = dog.watch(comm.transport());
    const Schedule schedule = ring_gather(comm.rank(), 4, [&](int i) {
      if (comm.rank() == 3 && i == 2) throw std::runtime_error("no memory on the device");
    });
    const auto begin = SteadyClock::now();
    auto error = ring_error(comm, schedule);
    if (!error) error = ring_error(comm, schedule);  // a rank that needed nothing more from rank 3 may end the first run well
    expect_error(error, ErrorKind::local, {3}, "ring gather on rank 3 of 4: step 7, custom, block of rank 1: no memory on the device");
    EXPECT_LT(SteadyClock::now() - begin, seconds(2));
  });
}

TEST(RunHost, ARankThatLeavesIsNamedAtOnce) {
  Watchdog dog(seconds(60));
  run_ranks(4, [&](Communicator& comm) {
    const auto leash = dog.watch(comm.transport());
    if (comm.rank() == 2) return;
    const auto begin = SteadyClock::now();
    expect_error(ring_error(comm, ring_gather(comm.rank(), 4)), ErrorKind::dead, {2}, "rank 2 left its communicator");
    EXPECT_LT(SteadyClock::now() - begin, seconds(2));
  });
}

TEST(RunHost, RanksMayLeaveAsSoonAsTheyAreDone) {
  Watchdog dog(seconds(60));
  for (int round = 0; round < 20; ++round) {
    run_ranks(4, [&](Communicator& comm) {
      const auto error = ring_error(comm, ring_gather(comm.rank(), 4, [&](int i) {
                                      if (comm.rank() == round % 4 && i == 0) sleep(milliseconds(3));
                                    }));
      EXPECT_FALSE(error.has_value()) << error->what();
    });
  }
}

// A view of a temporary would be read after it is gone: it does not compile.
template <class Text>
inline constexpr bool describes = std::is_constructible_v<DescriptionView, Text>&& std::is_assignable_v<DescriptionView&, Text>;
static_assert(describes<const char (&)[6]> && describes<const char*> && describes<std::string_view>);
static_assert(describes<std::string&> && describes<const std::string&>);
static_assert(!describes<std::string> && !describes<const std::string> && !describes<std::nullptr_t>);
static_assert(std::is_trivially_copyable_v<DescriptionView>, "a view: a run allocates nothing for it");

TEST(RunHost, ADescriptionIsALiteralOrTextWithAName) {
  const std::string named = "ring";
  RunOptions options{.description = named};
  EXPECT_EQ(options.description.text().data(), named.data());
  options.description = "literal";
  EXPECT_EQ(options.description.text(), "literal");
  options.description = std::string_view(named).substr(1);
  EXPECT_EQ(options.description.text(), "ing");
  EXPECT_TRUE(RunOptions{}.description.text().empty());
}

TEST(RunHost, DifferentOperationsAreAMismatch) {
  Watchdog dog(seconds(60));
  run_ranks(2, [&](Communicator& comm) {
    const auto schedule = ring_gather(comm.rank(), 2, {}, comm.rank() == 0 ? "causal" : "full");
    RunOptions options;
    const std::string description = std::string("ring gather\nmask ") + (comm.rank() == 0 ? "causal" : "full");
    options.description = description;
    std::optional<Error> error;
    try {
      RingRank ring(schedule, comm.arena(schedule.workspace_bytes));
      run_host(schedule, *ring.memory, comm.transport(), options);
    } catch (const Error& thrown) {
      error = thrown;
    }
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->kind(), ErrorKind::mismatched);
    EXPECT_EQ(error->culprits(), std::vector<Rank>{1});  // of two the higher
    EXPECT_NE(std::string(error->what()).find("\"mask "), std::string::npos) << error->what();
    EXPECT_NE(std::string(error->what()).find("operation 1 (ring gather)"), std::string::npos) << error->what();
  });
}

TEST(RunHost, TheRanksThatFewerAgreeWithAreNamed) {
  Watchdog dog(seconds(120));
  const auto expect_named = [](int num_ranks, const std::vector<Rank>& others, const std::vector<Rank>& named, bool is_late) {
    run_ranks(num_ranks, [&](Communicator& comm) {
      const bool is_other = std::find(others.begin(), others.end(), comm.rank()) != others.end();
      (void)ring_error(comm, ring_gather(comm.rank(), num_ranks));  // plans of before do not count
      if (is_late && !is_other) sleep(milliseconds(comm.rank()));
      const auto error = ring_error(comm, ring_gather(comm.rank(), num_ranks, {}, is_other ? "full" : "causal"));
      ASSERT_TRUE(error.has_value());
      EXPECT_EQ(error->kind(), ErrorKind::mismatched) << error->what();
      EXPECT_EQ(error->culprits(), named) << num_ranks << " ranks: " << error->what();
    });
  };
  for (const int num_ranks : {3, 4, 5, 7, 8})
    for (const Rank odd : {0, num_ranks / 2, num_ranks - 1})
      for (const bool is_late : {false, true}) expect_named(num_ranks, {odd}, {odd}, is_late);
  expect_named(2, {0}, {1}, false);
  expect_named(2, {1}, {1}, true);
  expect_named(4, {1, 3}, {1, 3}, false);
  expect_named(4, {0, 2}, {1, 3}, false);  // as many: the lowest rank is taken to be right
  expect_named(5, {1, 2, 4}, {0, 3}, false);
}

TEST(RunHost, AbortFromAnotherThreadEndsARun) {
  Watchdog dog(seconds(60));
  const auto before = num_threads_of_process();
  const auto body = [&](Communicator& comm) {
    if (comm.rank() == 0) {
      std::thread aborter([&] {
        sleep(milliseconds(100));
        comm.abort("stopped by hand");
      });
      stay_until_failed(comm);
      aborter.join();
    } else {
      expect_error(ring_error(comm, ring_gather(comm.rank(), 3)), ErrorKind::local, {0}, "rank 0 of 3 aborted: stopped by hand");
    }
  };
  EXPECT_THROW(run_ranks(3, body), Error);
  EXPECT_EQ(num_threads_of_process(), before);
  run_ranks(3, [&](Communicator& comm) { EXPECT_FALSE(ring_error(comm, ring_gather(comm.rank(), 3))); });  // the process is fine
}

}  // namespace
}  // namespace seqccl::test
