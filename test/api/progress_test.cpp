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

/// True if somebody who looks from time to time sees `kernel` publish several times in one run. A busy machine may not let him look: then
/// it runs again.
bool publishes_on_its_way(const std::function<void(ThreadBudget)>& kernel) {
  for (int run = 0; run < 30; ++run) {
    std::atomic<std::int64_t> progress{0};
    int num_times = 0;
    {
      const std::jthread watcher([&](const std::stop_token& over) {
        for (std::int64_t last = 0; !over.stop_requested(); std::this_thread::yield())
          if (const std::int64_t now = progress; now != last) last = now, ++num_times;
      });
      kernel({1, &progress});
    }
    if (num_times > 3) return true;
  }
  return false;
}

// One batch and one head: nothing but the loop over chunks can publish before the end.
TEST(Progress, LinearKernelsPublishChunkByChunk) {
  const std::int64_t tokens = 20000, dim = 32;
  const HostTensor x = random_tensor(f32, {1, tokens, 1, dim}, 1), bonus = random_tensor(f32, {1, 1, 1, dim}, 2);
  HostTensor beta(f32, {1, tokens, 1, 1}), scalar(f32, {1, tokens, 1, 1}), vector(f32, {1, tokens, 1, dim});
  for (HostTensor* tensor : {&beta, &scalar, &vector}) tensor->fill(0);
  ConstTensorView every_token = bonus.view();
  every_token.geometry.shape[1] = tokens;
  every_token.geometry.strides[1] = 0;
  HostTensor dq = x, dk = x, dv = x, state(f32, {1, 1, dim, dim});
  const auto each = [&](const char* kind, ConstTensorView decay, ConstTensorView delta, ConstTensorView with_bonus) {
    EXPECT_TRUE(publishes_on_its_way([&](ThreadBudget threads) {
      cpu::linear_backward({.q = x.view(),
                            .k = x.view(),
                            .v = x.view(),
                            .log_decay = decay,
                            .dout = x.view(),
                            .dq = dq.view(),
                            .dk = dk.view(),
                            .dv = dv.view(),
                            .num_threads = threads,
                            .beta = delta,
                            .bonus = with_bonus});
    })) << kind
        << " backward";
    LinearSummaryArguments summary{.k = x.view(), .v = x.view(), .log_decay = decay, .state = state.view()};
    if (delta) return;  // publishes from the same chunks, and wants a transition too
    EXPECT_TRUE(publishes_on_its_way([&](ThreadBudget threads) {
      summary.num_threads = threads;
      cpu::linear_summary(summary);
    })) << kind
        << " summary";
  };
  each("basic", {}, {}, {});
  each("scalar gate", std::as_const(scalar).view(), {}, {});
  each("vector gate", std::as_const(vector).view(), {}, {});
  each("RWKV6", std::as_const(vector).view(), {}, every_token);
  each("delta", {}, std::as_const(beta).view(), {});
}

}  // namespace
}  // namespace seqccl::test
