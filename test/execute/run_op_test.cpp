// run_op_test.cpp - ops of the linear kinds on bound memory: a whole layer against the reference, and blocks of a state's columns.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "kernels/delta_problem.hpp"
#include "seqccl/execute.hpp"
#include "seqccl/recorder.hpp"

namespace seqccl::test {
namespace {

/// A schedule of one rank whose slots are scratch, filled from tensors before it runs.
class Desk {
 public:
  Recorder plan{"desk", 0, 1};

  /// A slot with the numbers of `tensor`, seen as `shape`.
  Block put(const HostTensor& tensor, Recorder::Shape shape) {
    const Block block = plan.scratch(tensor.dtype, shape);
    inputs_.emplace_back(block, tensor);
    return block;
  }
  /// A f32 slot that nobody has written.
  Block space(Recorder::Shape shape) { return put(HostTensor(DType::f32, {shape.batch, shape.tokens, shape.heads, shape.dim}), shape); }

  void run() {
    schedule_ = std::move(plan).finish("desk");
    arena_.resize(schedule_.workspace_bytes);
    memory_.emplace_back(schedule_, arena_.data());
    for (auto& [block, tensor] : inputs_) {
      const TensorView to = memory_[0].view(block);
      tensor.geometry = contiguous({to.extent(0), to.extent(1), to.extent(2), to.extent(3)});
      cpu::copy(tensor.view(), to, 1);
    }
    for (const Op& op : schedule_.ops) run_op(op, memory_[0], {}, 2);
  }
  /// The numbers of a block after the run, in the shape of `like`.
  HostTensor get(const Block& block, const HostTensor& like) const {
    const TensorView from = memory_[0].view(block);
    HostTensor result(from.dtype, {from.extent(0), from.extent(1), from.extent(2), from.extent(3)});
    cpu::copy(from, result.view(), 1);
    result.geometry = like.geometry;
    return result;
  }

 private:
  std::vector<std::pair<Block, HostTensor>> inputs_;
  Schedule schedule_;
  std::vector<std::byte> arena_;
  std::vector<Bindings> memory_;
};

/// A layer of one run, recorded as the scan of one rank would be.
LinearResults recorded_results(const LinearInputs& in) {
  const auto [batch, tokens, heads, key_dim, value_dim] = in.shape;
  const bool delta = in.kind == Kind::delta, bonus = in.kind == Kind::bonus;
  const bool decays = in.decay != Decay::none, constant = in.decay == Decay::constant;
  const auto scale = static_cast<float>(in.scale);
  const Recorder::Shape keys{batch, tokens, heads, key_dim}, values{batch, tokens, heads, value_dim};
  const Recorder::Shape states{batch, 1, heads, key_dim * value_dim}, squares{batch, 1, heads, key_dim * key_dim};
  const std::int64_t width = in.decay == Decay::vector ? key_dim : 1;
  const Recorder::Shape decay_shape = constant ? Recorder::Shape{1, 1, heads, 1} : Recorder::Shape{batch, tokens, heads, width};
  const Recorder::Shape sum_shape{batch, 1, heads, width}, beta_shape{batch, tokens, heads, 1}, bonus_shape{1, 1, heads, key_dim};

  Desk desk;
  const auto absent_unless = [](bool there, auto&& make) { return there ? make() : Block{}; };
  const Block q = desk.put(in.q, keys), k = desk.put(in.k, keys), v = desk.put(in.v, values), dout = desk.put(in.dout, values);
  const Block state = desk.put(in.state, states), leaving = desk.put(in.state, states), dleaving = desk.put(in.dleaving, states);
  const Block log_decay = absent_unless(decays, [&] { return desk.put(in.log_decay, decay_shape); });
  const Block beta = absent_unless(delta, [&] { return desk.put(in.beta, beta_shape); });
  const Block u = absent_unless(bonus, [&] { return desk.put(in.bonus, bonus_shape); });
  const Block out = desk.space(values), dq = desk.space(keys), dk = desk.space(keys), dv = desk.space(values);
  const Block dlog_decay = absent_unless(decays, [&] { return desk.space(decay_shape); });
  const Block dbeta = absent_unless(delta, [&] { return desk.space(beta_shape); });
  const Block dbonus = absent_unless(bonus, [&] { return desk.space(bonus_shape); });
  const auto summary_blocks = [&] {
    return std::array{Block(desk.space(states)), absent_unless(decays && !constant && !delta, [&] { return desk.space(sum_shape); }),
                      absent_unless(delta, [&] { return desk.space(squares); })};
  };
  const auto step = [&](const std::array<Block, 3>& summary, const Block& to) {
    StateStep op{.log_sum = summary[1], .update = summary[0], .state = to, .transition = summary[2]};
    if (constant && !delta) op.log_sum = log_decay, op.repeat = in.shape.tokens;
    desk.plan.compute(op);
  };

  const auto ahead = summary_blocks(), back = summary_blocks();
  desk.plan.compute(
      LinearSummary{.k = k, .v = v, .log_decay = log_decay, .state = ahead[0], .log_sum = ahead[1], .beta = beta, .transition = ahead[2]});
  step(ahead, leaving);
  desk.plan.compute(LinearLocal{.q = q,
                                .k = k,
                                .v = v,
                                .log_decay = log_decay,
                                .out = out,
                                .scale = scale,
                                .beta = beta,
                                .bonus = u,
                                .state = delta ? state : Block{}});
  if (!delta) {
    desk.plan.compute(LinearEnter{.q = q, .log_decay = log_decay, .state = state, .out = out, .scale = scale, .before = bonus});
  }
  desk.plan.compute(LinearBackward{.q = q,
                                   .k = k,
                                   .v = v,
                                   .log_decay = log_decay,
                                   .dout = dout,
                                   .state = state,
                                   .dleaving = dleaving,
                                   .dq = dq,
                                   .dk = dk,
                                   .dv = dv,
                                   .dlog_decay = dlog_decay,
                                   .scale = scale,
                                   .beta = beta,
                                   .bonus = u,
                                   .dbeta = dbeta,
                                   .dbonus = dbonus});
  desk.plan.compute(LinearSummaryBackward{.q = q,
                                          .dout = dout,
                                          .log_decay = log_decay,
                                          .dstate = back[0],
                                          .log_sum = back[1],
                                          .scale = scale,
                                          .before = bonus,
                                          .k = delta ? k : Block{},
                                          .beta = beta,
                                          .transition = back[2]});
  step(back, dleaving);
  desk.run();

  LinearResults r;
  r.out = desk.get(out, in.v), r.state_out = desk.get(leaving, in.state), r.dstate_in = desk.get(dleaving, in.state);
  r.dq = desk.get(dq, in.q), r.dk = desk.get(dk, in.k), r.dv = desk.get(dv, in.v);
  if (decays) r.dlog_decay = desk.get(dlog_decay, in.log_decay);
  if (delta) r.dbeta = desk.get(dbeta, in.beta);
  if (bonus) r.dbonus = desk.get(dbonus, in.bonus);
  return r;
}

TEST(RunOp, ALinearLayerEqualsTheReferenceForEveryKindAndDecay) {
  for (const Kind kind : all_kinds) {
    for (const Decay decay : all_decays) {
      for (const std::int64_t batch : {1, 2}) {
        const LinearInputs in = linear_inputs({batch, 90, 3, 9, 7}, decay, DType::f32, 800, DType::f32, kind);
        if (kind == Kind::delta)
          expect_delta_close(recorded_results(in), in);
        else
          expect_close(recorded_results(in), reference_results(in), reference_results(in, true), describe(in));
      }
    }
  }
}

TEST(RunOp, SharesOfAConstantDecayAreAddedAndThoseOfAGateAreNot) {
  // two runs of one token: dlog_decay of a gate is one row each, that of a constant is one number for both
  for (const bool constant : {true, false}) {
    const LinearInputs in = linear_inputs({1, 2, 2, 4, 3}, constant ? Decay::constant : Decay::scalar, DType::f32, 810);
    const Recorder::Shape keys{1, 2, 2, 4}, values{1, 2, 2, 3}, states{1, 1, 2, 12}, logs{1, constant ? 1 : 2, 2, 1};
    Desk desk;
    const Block q = desk.put(in.q, keys), k = desk.put(in.k, keys), v = desk.put(in.v, values), dout = desk.put(in.dout, values);
    const Block state = desk.put(in.state, states), log_decay = desk.put(in.log_decay, logs);
    const Block dq = desk.space(keys), dk = desk.space(keys), dv = desk.space(values), dlog_decay = desk.space(logs),
                alone = desk.space(logs);
    const auto backward = [&](std::int64_t token, const Block& into, bool add) {
      const auto row = [&](const Block& block) { return block.tokens(token, 1); };
      desk.plan.compute(LinearBackward{.q = row(q),
                                       .k = row(k),
                                       .v = row(v),
                                       .log_decay = constant ? log_decay : row(log_decay),
                                       .dout = row(dout),
                                       .state = state,
                                       .dq = row(dq),
                                       .dk = row(dk),
                                       .dv = row(dv),
                                       .dlog_decay = constant ? into : row(into),
                                       .add_constant = add});
    };
    backward(0, dlog_decay, false);
    backward(1, dlog_decay, true);
    backward(0, alone, false);
    if (!constant) backward(1, alone, false);
    desk.run();
    const HostTensor sum = desk.get(dlog_decay, in.log_decay), first = desk.get(alone, in.log_decay);
    for (std::int64_t i = 0; i < sum.size(); ++i) {
      EXPECT_NE(first.get(i), 0);
      EXPECT_EQ(sum.get(i) == first.get(i), !constant) << i << ": " << sum.get(i);
    }
  }
}

TEST(RunOp, ATransitionStepsColumnsAndTransitions) {
  // a state goes through two transitions: at once, in blocks of columns, and after the transitions were composed
  constexpr std::int64_t batch = 2, heads = 3, key_dim = 9, value_dim = 7;
  const Recorder::Shape states{batch, 1, heads, key_dim * value_dim}, squares{batch, 1, heads, key_dim * key_dim};
  const HostTensor one = random_tensor(DType::f32, {batch, heads, key_dim, key_dim}, 1, 0.3);
  const HostTensor two = random_tensor(DType::f32, {batch, heads, key_dim, key_dim}, 2, 0.3);
  const HostTensor numbers = random_tensor(DType::f32, {batch, heads, key_dim, value_dim}, 3);
  Desk desk;
  const Block first = desk.put(one, squares), second = desk.put(two, squares), both = desk.put(one, squares);
  const Block whole = desk.put(numbers, states), parts = desk.put(numbers, states), composed = desk.put(numbers, states);
  for (const Block& transition : {first, second}) desk.plan.compute(StateStep{.state = whole, .transition = transition});
  for (const auto& [begin, width] : {std::pair<std::int64_t, std::int64_t>{0, 3}, {3, 1}, {4, 3}}) {
    const Block columns = desk.space({batch, 1, heads, key_dim * width});
    desk.plan.compute(TakeColumns{.state = parts, .columns = columns, .key_dim = key_dim, .first = begin});
    for (const Block& transition : {first, second}) desk.plan.compute(StateStep{.state = columns, .transition = transition});
    desk.plan.compute(PutColumns{.columns = columns, .state = parts, .key_dim = key_dim, .first = begin});
  }
  desk.plan.compute(StateStep{.state = both, .transition = second});
  desk.plan.compute(StateStep{.state = composed, .transition = both});
  desk.run();
  const HostTensor want = desk.get(whole, numbers);
  EXPECT_GT(distance(numbers, want).relative_rms, 0.1);
  EXPECT_EQ(desk.get(parts, numbers).bytes, want.bytes);
  EXPECT_LE(distance(desk.get(composed, numbers), want).relative_rms, 1e-6);
}

TEST(RunOp, ATransposedStateGivesKeysFromValues) {
  constexpr std::int64_t batch = 2, tokens = 5, heads = 2, key_dim = 4, value_dim = 3;
  const HostTensor v = random_tensor(DType::f32, {batch, tokens, heads, value_dim}, 1);
  const HostTensor numbers = random_tensor(DType::f32, {batch, heads, key_dim, value_dim}, 2);
  HostTensor turned(DType::f32, {batch, heads, value_dim, key_dim});
  for (std::int64_t i = 0; i < numbers.size(); ++i) {
    const std::int64_t state = i / (key_dim * value_dim), d = i / value_dim % key_dim, e = i % value_dim;
    turned.set((state * value_dim + e) * key_dim + d, numbers.get(i));
  }
  Desk desk;
  const Recorder::Shape rows{batch, tokens, heads, value_dim}, out{batch, tokens, heads, key_dim};
  const Block values = desk.put(v, rows), state = desk.put(numbers, {batch, 1, heads, key_dim * value_dim});
  const Block transpose = desk.put(turned, {batch, 1, heads, key_dim * value_dim});
  const Block got = desk.space(out), want = desk.space(out);
  for (const Block& block : {got, want}) desk.plan.compute(Zero{block});
  desk.plan.compute(LinearEnter{.q = values, .state = state, .out = got, .scale = 2, .transposed = true});
  desk.plan.compute(LinearEnter{.q = values, .state = transpose, .out = want, .scale = 2});
  desk.run();
  const HostTensor like(DType::f32, {batch, tokens, heads, key_dim});
  EXPECT_EQ(desk.get(got, like).bytes, desk.get(want, like).bytes);
}

}  // namespace
}  // namespace seqccl::test
