// rings.hpp - small schedules recorded by hand, whose results say which block was copied when.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "seqccl/execute.hpp"
#include "seqccl/recorder.hpp"
#include "seqccl/transport.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {

inline constexpr std::int64_t ring_tokens = 3, ring_dim = 5;

/// Gathers all ranks' q into out by passing blocks around a ring with two spare blocks: from four ranks on, a spare block is
/// received into again, after it was copied. `pause(i)` runs before the i-th copy, on the compute lane.
inline Schedule ring_gather(Rank rank, int num_ranks, const std::function<void(int)>& pause = {}, const std::string& identity = "ring") {
  Recorder plan("ring gather", rank, num_ranks);
  Block current = plan.input(Tensor::q, f32, {1, ring_tokens, 1, ring_dim}, true);
  const Block out = plan.output(Tensor::out, f32, {1, num_ranks * ring_tokens, 1, ring_dim});
  const Block spare[2] = {plan.scratch(f32, {1, ring_tokens, 1, ring_dim}), plan.scratch(f32, {1, ring_tokens, 1, ring_dim})};
  const Rank right = (rank + 1) % num_ranks, left = (rank + num_ranks - 1) % num_ranks;
  for (int i = 0; i < num_ranks; ++i) {
    const Rank owner = (rank - i + num_ranks) % num_ranks;
    if (i + 1 < num_ranks) plan.exchange({{right, current}}, {{left, spare[i % 2]}}, Lane::comm, Native::none, owner);
    if (pause) {
      Custom op;
      op.in[0] = current;
      op.function = plan.function([pause, i](std::span<const TensorView>) { pause(i); });
      plan.compute(op, owner);
    }
    plan.compute(Copy{current, out.tokens(owner * ring_tokens, ring_tokens)}, owner);
    current = spare[i % 2];
  }
  return std::move(plan).finish(identity);
}

/// A number that every rank passes on to its right, once for every other rank. `before` runs first, as step 0, and all wait for all of
/// them: exchanges are steps 1, 3, ...
inline Schedule relay_all(Rank rank, int num_ranks, const std::function<void()>& before = {}) {
  Recorder plan("relay", rank, num_ranks);
  const Block x = plan.scratch(f32, {1, 1, 1, 1}), y = plan.scratch(f32, {1, 1, 1, 1});
  Custom op;
  op.inout[0] = x;
  op.function = plan.function([before](std::span<const TensorView>) {
    if (before) before();
  });
  plan.compute(op, rank);
  for (int i = 1; i < num_ranks; ++i) {
    plan.exchange({{(rank + 1) % num_ranks, x}}, {{(rank + num_ranks - 1) % num_ranks, y}}, Lane::comm, Native::none, rank);
    plan.compute(Copy{y, x}, rank);
  }
  return std::move(plan).finish("relay of " + std::to_string(num_ranks));
}

/// One rank's schedule with its memory.
struct RingRank {
  Schedule schedule;
  HostTensor q, out;
  std::vector<std::byte> own_arena;
  std::unique_ptr<Bindings> memory;

  explicit RingRank(Schedule plan, std::byte* arena = nullptr)
      : schedule(std::move(plan)),
        q(f32, {1, ring_tokens, 1, ring_dim}),
        out(f32, {1, schedule.num_ranks * ring_tokens, 1, ring_dim}),
        own_arena(arena == nullptr ? schedule.workspace_bytes : 0, std::byte{0xff}) {
    memory = std::make_unique<Bindings>(schedule, arena == nullptr ? own_arena.data() : arena);
    memory->bind(Tensor::q, q.view());
    memory->bind(Tensor::out, out.view());
  }
  static double value(Rank rank, int run, std::int64_t i) { return rank * 1000 + run * 100 + static_cast<double>(i); }
  /// Input of run `run`, output poisoned.
  void prepare(int run) {
    for (std::int64_t i = 0; i < q.size(); ++i) q.set(i, value(schedule.rank, run, i));
    out.fill(-1);
  }
  [[nodiscard]] bool right(int run) const {
    for (std::int64_t i = 0; i < out.size(); ++i) {
      if (out.get(i) != value(static_cast<Rank>(i / q.size()), run, i % q.size())) return false;
    }
    return true;
  }
};

/// For a rank that is to be found asleep. However long the first of the others takes to notice (a machine may be busy); then all look at
/// it before it goes on.
inline void sleep_until_failed(Transport& transport) {
  try {
    for (int i = 0; i < 5000; ++i, std::this_thread::sleep_for(std::chrono::milliseconds(5))) transport.check();
  } catch (const Error&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
  }
}

}  // namespace seqccl::test
