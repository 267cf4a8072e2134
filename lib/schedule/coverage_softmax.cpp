// coverage_softmax.cpp - what the ops of softmax attention do to names and sums.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "coverage_pairs.hpp"

SEQCCL_BEGIN
namespace checker {

namespace {

/// Rows named as `names` get the sums of `added`; fresh: instead of what is there, else on top of it.
void accumulate(Coverage& run, const Block& block, const char* operand, What what, std::span<const Fragment> names,
                std::span<const SumId> added, bool fresh) {
  if (!block.present()) return;
  std::vector<Fragment> result;
  const auto push = [&](const Fragment& name, SumId sum) {
    result.push_back(name);
    result.back().what = what;
    result.back().complete = false;
    result.back().sum = sum;
  };
  if (!fills(names, block.num_tokens, block.num_heads))
    return run.problem(fmt::format("its {} has other extents than the rows that it stands for", operand));
  if (fresh) {
    for (std::size_t i = 0; i < names.size(); ++i) push(names[i], added[i]);
    return run.write(block, result);
  }
  const std::vector<Fragment> present = run.read(block, operand);
  bool is_right = true;
  for_each_overlap(present, names, [&](std::size_t, const Fragment& there, std::size_t i, const Fragment& name) {
    const bool is_cleared = there.what == What::zero && what != What::out && what != What::lse;
    if (!is_cleared && (there.what != what || there.complete || !same_name(there, name))) {
      if (is_right) run.problem(fmt::format("adds to {}, which is {}, rows of {}", operand, describe(there), describe(name)));
      is_right = false;
      return;
    }
    push(name, is_cleared ? added[i] : run.sums.add(there.sum, added[i]));
  });
  if (is_right) run.write(block, result);
}

/// out and lse belong together: same rows, same sums.
bool is_state(Coverage& run, const Block& out_block, std::span<const Fragment> out, const Block& lse_block, std::span<const Fragment> lse) {
  if (out.empty() || lse.empty()) return false;
  bool is_right = out_block.num_tokens == lse_block.num_tokens && out_block.num_heads == lse_block.num_heads;
  if (!is_right) run.problem("its out and lse have different extents");
  for_each_overlap(out, lse, [&](std::size_t, const Fragment& a, std::size_t, const Fragment& b) {
    if (!is_right || (same_name(a, b) && a.sum == b.sum && a.complete == b.complete)) return;
    run.problem(fmt::format("{} and {} do not belong together", describe(a), describe(b)));
    is_right = false;
  });
  return is_right;
}

/// Reads an operand that must name the same queries and heads as `q`.
bool names_same(Coverage& run, std::span<const Fragment> q, const Block& block, const char* operand, What what, bool complete) {
  const std::vector<Fragment> found = run.read(block, operand, what);
  bool is_right = !found.empty() && fills(q, block.num_tokens, block.num_heads);
  if (!found.empty() && !is_right) run.problem(fmt::format("its {} has other extents than the rows that it goes with", operand));
  for_each_overlap(q, found, [&](std::size_t, const Fragment& a, std::size_t, const Fragment& b) {
    if (!is_right) return;
    if (!same_name(a, b))
      run.problem(fmt::format("its {} is {}, with {}", operand, describe(b), describe(a)));
    else if (complete && !b.complete)
      run.problem(fmt::format("its {} is only a partial result", operand));
    else
      return;
    is_right = false;
  });
  return is_right;
}

/// One more logit for each query.
void add_sinks(Coverage& run, const Attend& op, Pairs& pairs) {
  if (!op.fresh) return run.problem("takes sinks, but is not fresh");
  const std::vector<Fragment> sinks = run.read(op.sinks, "sinks", What::sinks);
  if (sinks.empty()) return;
  if (op.sinks.num_heads != op.q.num_heads) return run.problem("has not one sink per query head");
  for (std::size_t i = 0; i < pairs.q.size(); ++i) {
    const Fragment& q = pairs.q[i];
    for (const Fragment& sink : sinks) {
      const Fragment part = clip(sink, {0, 1}, q.head_first, q.num_heads);
      if (part.rows.count == 0) continue;
      const std::int64_t head = q.head + part.head_first - q.head_first;
      if (part.head != head) return run.problem(fmt::format("uses the sink of head {} for head {}", part.head, head));
      const SumId sum = run.sums.of({Contribution::Kind::sink, q.tokens, {}, head, part.num_heads, 0});
      pairs.of_q[i] = run.sums.add(pairs.of_q[i], sum);
    }
  }
}

}  // namespace

void apply(Coverage& run, const Attend& op) {
  if (op.q.empty()) return;
  Pairs pairs = follow_pairs(run, op.q, op.k, op.v, op.slices, op.heads);
  if (!pairs.is_right) return;
  if (op.sinks.present()) add_sinks(run, op, pairs);
  if (!op.fresh && !is_state(run, op.out, run.read(op.out, "out"), op.lse, run.read(op.lse, "lse"))) return;
  accumulate(run, op.out, "out", What::out, pairs.q, pairs.of_q, op.fresh);
  accumulate(run, op.lse, "lse", What::lse, pairs.q, pairs.of_q, op.fresh);
}

void apply(Coverage& run, const Merge& op) {
  if (op.out.empty()) return;
  const std::vector<Fragment> out = run.read(op.part_out, "part_out", What::out), lse = run.read(op.part_lse, "part_lse", What::lse);
  if (!is_state(run, op.part_out, out, op.part_lse, lse)) return;
  if (!is_state(run, op.out, run.read(op.out, "out", What::out), op.lse, run.read(op.lse, "lse", What::lse))) return;
  std::vector<SumId> sums;
  for (const Fragment& fragment : out) {
    sums.push_back(fragment.sum);
    if (fragment.complete) return run.problem("merges a complete result");
  }
  accumulate(run, op.out, "out", What::out, out, sums, false);
  accumulate(run, op.lse, "lse", What::lse, out, sums, false);
}

void apply(Coverage& run, const RowDot& op) {
  if (op.delta.empty()) return;
  std::vector<Fragment> rows = run.read(op.dout, "dout", What::dout);
  if (rows.empty() || !names_same(run, rows, op.out, "out", What::out, true)) return;
  if (!fills(rows, op.delta.num_tokens, op.delta.num_heads)) return run.problem("its delta has other extents than dout");
  for (Fragment& fragment : rows) fragment.what = What::delta;
  run.write(op.delta, rows);
}

void apply(Coverage& run, const AttendBackward& op) {
  const Pairs pairs = follow_pairs(run, op.q, op.k, op.v, op.slices, op.heads);
  if (!pairs.is_right) return;
  if (!op.q.empty() &&
      !(names_same(run, pairs.q, op.dout, "dout", What::dout, true) && names_same(run, pairs.q, op.lse, "lse", What::lse, true) &&
        names_same(run, pairs.q, op.delta, "delta", What::delta, true)))
    return;
  accumulate(run, op.dq, "dq", What::dq, pairs.q, pairs.of_q, op.fresh_dq);
  accumulate(run, op.dk, "dk", What::dk, pairs.k, pairs.of_k, op.fresh_dkv);
  accumulate(run, op.dv, "dv", What::dv, pairs.k, pairs.of_k, op.fresh_dkv);
}

void apply(Coverage& run, const SinkGradient& op) {
  const std::vector<Fragment> rows = run.read(op.lse, "lse", What::lse);
  Fragment result{.what = What::dsinks};
  if (rows.empty()) {  // no query, no gradient
    if (op.lse.empty()) run.fill(op.dsinks, result);
    return;
  }
  const std::vector<Fragment> sinks = run.read(op.sinks, "sinks", What::sinks);
  if (sinks.empty() || !names_same(run, rows, op.delta, "delta", What::delta, true)) return;
  result.head = rows.front().head - rows.front().head_first;
  for (const Fragment& fragment : rows) {
    if (!fragment.complete) return run.problem("its lse is only a partial result");
    if (fragment.head - fragment.head_first != result.head || sinks.front().head - sinks.front().head_first != result.head)
      return run.problem(fmt::format("its lse is {}, its sinks {}", describe(fragment), describe(sinks.front())));
    result.sum =
        run.sums.add(result.sum, run.sums.of({Contribution::Kind::tokens, fragment.tokens, {}, fragment.head, fragment.num_heads, 0}));
  }
  run.fill(op.dsinks, result);
}

}  // namespace checker
SEQCCL_END
