// progress_test.cpp - a long kernel that publishes progress is slow, one that does not is stalled.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "seqccl/execute.hpp"
#include "seqccl/recorder.hpp"
#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using std::chrono::milliseconds;

/// One forward pass on two ranks with a timeout of 0.4 s; on rank 1 the kernel takes 1.2 s.
void run_with_slow_kernel(bool publishes) {
  Watchdog dog(std::chrono::seconds(60));
  run_ranks(2,
            [&](Communicator& comm) {
              const auto leash = dog.watch(comm.transport());
              AttentionSpec spec;
              spec.partition = Partition::contiguous(8, 2);
              spec.head_dim = 4;
              spec.method = Method::head_swap;
              spec.q_heads = 2;
              const bool slow = comm.rank() == 1;
              spec.kernel = {.name = "slow", .accumulates = true, .run = [slow, publishes](const AttendArguments& arguments) {
                               for (int i = 0; slow && i < 12; ++i) {
                                 std::this_thread::sleep_for(milliseconds(100));
                                 if (publishes) arguments.num_threads.note_progress();
                               }
                               cpu::attend(arguments);
                             }};
              const HostTensor x = random_tensor(f32, {1, 4, 2, 4}, 1);
              HostTensor out(f32, {1, 4, 2, 4}), lse(f32, {1, 2, 4});
              Attention attention(comm, spec);
              attention.forward(x.view(), x.view(), x.view(), out.view(), lse.view());
            },
            {.timeout = milliseconds(400)});
}

TEST(Progress, ASlowKernelThatPublishesIsWaitedFor) { EXPECT_NO_THROW(run_with_slow_kernel(true)); }

TEST(Progress, ASilentKernelIsStalledAndNamed) {
  try {
    run_with_slow_kernel(false);
    FAIL() << "nobody noticed";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::stalled) << error.what();
    EXPECT_EQ(error.culprits(), std::vector<Rank>{1}) << error.what();
    EXPECT_NE(std::string(error.what()).find("inside compute step"), std::string::npos) << error.what();
  }
}

/// Rank 0 waits for a reply to a question that its own slow kernel still works on; rank 1 waits for the question.
void ask_slowly(bool publishes) {
  Watchdog dog(std::chrono::seconds(60));
  run_ranks(2, [&](Communicator& comm) {
    const auto leash = dog.watch(comm.transport());
    Recorder plan("question", comm.rank(), 2);
    const Block x = plan.scratch(f32, {1, 1, 1, 4}), question = plan.scratch(f32, {1, 1, 1, 4}), lse = plan.scratch(f32, {1, 1, 1, 1});
    const Block reply = plan.scratch(f32, {1, 1, 1, 4});
    if (comm.rank() == 0) {
      plan.exchange({}, {{1, reply}}, Lane::comm);
      plan.compute(Zero{x});
      Attend op{.q = x, .k = x, .v = x, .out = question, .lse = lse};
      op.fresh = true;
      plan.compute(op);
      plan.exchange({{1, question}}, {}, Lane::comm2);
    } else {
      plan.exchange({}, {{0, question}}, Lane::comm2);
      plan.compute(Copy{question, reply});
      plan.exchange({{0, reply}}, {}, Lane::comm);
    }
    const Schedule schedule = std::move(plan).finish("question");
    const Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
    const AttendKernel kernel{.name = "slow", .accumulates = true, .run = [publishes](const AttendArguments& arguments) {
                                for (int i = 0; i < 12; ++i) {
                                  std::this_thread::sleep_for(milliseconds(100));
                                  if (publishes) arguments.num_threads.note_progress();
                                }
                                cpu::attend(arguments);
                              }};
    run_host(schedule, memory, comm.transport(), {.timeout = milliseconds(400), .attend = kernel});
  });
}

TEST(Progress, ARankThatComputesWhatAllWaitForIsNotACycle) {
  EXPECT_NO_THROW(ask_slowly(true));
  try {
    ask_slowly(false);
    FAIL() << "nobody noticed";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::stalled) << error.what();
    EXPECT_EQ(error.culprits(), std::vector<Rank>{0}) << error.what();
  }
}

TEST(Progress, TheLibrarysKernelsPublish) {
  const HostTensor x = random_tensor(f32, {1, 130, 2, 16}, 1), statistic = random_tensor(f32, {1, 130, 2, 1}, 2);
  HostTensor out(f32, {1, 130, 2, 16}), lse(f32, {1, 130, 2, 1}), dq = out, dk = out, dv = out;
  const std::vector<BandSlice> all{{0, 130, 0, 130}};
  for (const int num_threads : {1, 2}) {
    std::atomic<std::int64_t> progress{0};
    cpu::attend({.q = x.view(),
                 .k = x.view(),
                 .v = x.view(),
                 .out = out.view(),
                 .lse = lse.view(),
                 .slices = all,
                 .fresh = true,
                 .num_threads = {num_threads, &progress}});
    EXPECT_GT(progress, 0);
    progress = 0;
    cpu::attend_backward({.q = x.view(),
                          .k = x.view(),
                          .v = x.view(),
                          .dout = x.view(),
                          .lse = statistic.view(),
                          .delta = statistic.view(),
                          .dq = dq.view(),
                          .dk = dk.view(),
                          .dv = dv.view(),
                          .slices = all,
                          .fresh_dq = true,
                          .fresh_dkv = true,
                          .num_threads = {num_threads, &progress}});
    EXPECT_GT(progress, 0);
  }
}

/// True if somebody who looks from time to time sees `kernel`, which takes a number of tokens, publish several times in one run. A busy
/// machine may not let him look: then it runs again, and longer.
bool publishes_on_its_way(const std::function<void(std::int64_t, ThreadBudget)>& kernel) {
  for (std::int64_t tokens = 20'000; tokens < 10'000'000; tokens *= 4)
    for (int run = 0; run < 4; ++run) {
      std::atomic<std::int64_t> progress{0};
      std::atomic<bool> looks{false};
      int num_times = 0;
      {
        const std::jthread watcher([&](const std::stop_token& over) {
          looks = true;
          for (std::int64_t last = 0; !over.stop_requested(); std::this_thread::yield())
            if (const std::int64_t now = progress; now != last) last = now, ++num_times;
        });
        while (!looks) std::this_thread::yield();
        kernel(tokens, {1, &progress});
      }
      if (num_times > 3) return true;
    }
  return false;
}

// One batch and one head: nothing but the loop over chunks can publish before the end.
TEST(Progress, LinearKernelsPublishChunkByChunk) {
  const std::int64_t dim = 16;
  // All tokens lie in the same place, so that there can be any number of them.
  const HostTensor x = random_tensor(f32, {1, 1, 1, dim}, 1), bonus = random_tensor(f32, {1, 1, 1, dim}, 2);
  HostTensor dq = x, dk = x, dv = x, state(f32, {1, 1, dim, dim});
  HostTensor zeros(f32, {1, 1, 1, dim});
  zeros.fill(0);
  const auto repeated = [](auto view, std::int64_t tokens, std::int64_t width) {
    view.geometry.shape[1] = tokens;
    view.geometry.strides[1] = 0;
    view.geometry.shape[3] = width;
    return view;
  };
  struct Gates {
    const char* kind;
    std::int64_t decay, beta, bonus;  // numbers of each per token
  };
  for (const Gates& gates : {Gates{"basic", 0, 0, 0}, Gates{"scalar gate", 1, 0, 0}, Gates{"vector gate", dim, 0, 0},
                             Gates{"RWKV6", dim, 0, dim}, Gates{"delta", 0, 1, 0}}) {
    const auto zero = [&](std::int64_t tokens, std::int64_t width) {
      return width == 0 ? ConstTensorView{} : repeated(std::as_const(zeros).view(), tokens, width);
    };
    EXPECT_TRUE(publishes_on_its_way([&](std::int64_t tokens, ThreadBudget threads) {
      const ConstTensorView every_token = gates.bonus == 0 ? ConstTensorView{} : repeated(bonus.view(), tokens, dim);
      const ConstTensorView rows = repeated(x.view(), tokens, dim);
      cpu::linear_backward({.q = rows,
                            .k = rows,
                            .v = rows,
                            .log_decay = zero(tokens, gates.decay),
                            .dout = rows,
                            .dq = repeated(dq.view(), tokens, dim),
                            .dk = repeated(dk.view(), tokens, dim),
                            .dv = repeated(dv.view(), tokens, dim),
                            .num_threads = threads,
                            .beta = zero(tokens, gates.beta),
                            .bonus = every_token});
    })) << gates.kind
        << " backward";
    if (gates.beta != 0) continue;  // publishes from the same chunks, and wants a transition too
    EXPECT_TRUE(publishes_on_its_way([&](std::int64_t tokens, ThreadBudget threads) {
      const ConstTensorView rows = repeated(x.view(), tokens, dim);
      cpu::linear_summary({.k = rows, .v = rows, .log_decay = zero(tokens, gates.decay), .state = state.view(), .num_threads = threads});
    })) << gates.kind
        << " summary";
  }
}

}  // namespace
}  // namespace seqccl::test
