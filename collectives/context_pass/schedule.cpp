// schedule.cpp - context_pass: selections go to later ranks while each rank attends its own keys and the anchor.
// SPDX-License-Identifier: Apache-2.0
#include <utility>
#include <vector>

#include "seqccl/collectives.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

class ContextPassLayer {
 public:
  ContextPassLayer(const ContextPassSpec& pass_spec, Rank my_rank, const RecordOptions& options)
      : spec_(pass_spec),
        rank_(my_rank),
        plan_("context_pass", my_rank, pass_spec.num_ranks()),
        inputs_sendable_(options.inputs_sendable) {}

  Schedule record() && {
    const std::int64_t own = spec_.tokens_on(rank_);
    q_ = plan_.input(Tensor::q, spec_.dtype, {spec_.batch, own, spec_.q_heads, spec_.head_dim});
    const Keys local = input(own), anchor = input(spec_.anchor_on(rank_)), selected = input(spec_.passed_by(rank_), inputs_sendable_);
    const Block out = plan_.output(Tensor::out, spec_.dtype, {spec_.batch, own, spec_.q_heads, spec_.dim_v()});
    state_ = {spec_.dtype == f32 ? out : scratch_f32(spec_.dim_v()), plan_.output(Tensor::lse, f32, {spec_.batch, own, spec_.q_heads, 1})};

    const Keys passed = exchange(selected);
    attend(local, {0, own, 0, own, -unbounded, 0}, /*fresh=*/true);
    attend(anchor, {0, own, 0, anchor.k.num_tokens}, /*fresh=*/false);
    attend(passed, {0, own, 0, passed.k.num_tokens}, /*fresh=*/false);
    if (spec_.dtype != f32 && own != 0) plan_.compute(Copy{state_.out, out});
    return std::move(plan_).finish(spec_.describe());
  }

 private:
  struct Keys {
    Block k, v;
    [[nodiscard]] Keys tokens(std::int64_t first, std::int64_t count) const { return {k.tokens(first, count), v.tokens(first, count)}; }
  };
  struct State {
    Block out, lse;
  };

  [[nodiscard]] Recorder::Shape k_shape(std::int64_t tokens) const { return {spec_.batch, tokens, spec_.num_kv_heads(), spec_.head_dim}; }
  [[nodiscard]] Recorder::Shape v_shape(std::int64_t tokens) const { return {spec_.batch, tokens, spec_.num_kv_heads(), spec_.dim_v()}; }
  [[nodiscard]] Keys input(std::int64_t tokens, bool sendable = false) {
    const Block k = plan_.input(Tensor::k, spec_.dtype, k_shape(tokens), sendable);
    return {k, plan_.input(Tensor::v, spec_.dtype, v_shape(tokens), sendable)};
  }
  [[nodiscard]] Block scratch_f32(std::int64_t dim) {
    return plan_.scratch(f32, {spec_.batch, spec_.tokens_on(rank_), spec_.q_heads, dim});
  }

  /// Gives my selection to the later ranks that have queries; the selections of earlier ranks, in rank order.
  Keys exchange(const Keys& selected) {
    std::vector<Transfer> sends, receives;
    const auto append = [](std::vector<Transfer>& list, Rank peer, const Keys& keys) {
      list.push_back({peer, keys.k});
      list.push_back({peer, keys.v});
    };
    bool is_wanted = false;
    for (Rank later = rank_ + 1; later < spec_.num_ranks(); ++later) is_wanted |= spec_.tokens_on(later) != 0;
    if (is_wanted && !selected.k.empty()) {
      const Keys ready = {plan_.sendable(selected.k), plan_.sendable(selected.v)};
      for (Rank later = rank_ + 1; later < spec_.num_ranks(); ++later)
        if (spec_.tokens_on(later) != 0) append(sends, later, ready);
    }
    std::int64_t total = 0;
    for (Rank earlier = 0; earlier < rank_; ++earlier) total += spec_.tokens_on(rank_) == 0 ? 0 : spec_.passed_by(earlier);
    const Keys passed = {plan_.scratch(spec_.dtype, k_shape(total)), plan_.scratch(spec_.dtype, v_shape(total))};
    std::int64_t first = 0;
    for (Rank earlier = 0; earlier < rank_ && total != 0; ++earlier) {
      append(receives, earlier, passed.tokens(first, spec_.passed_by(earlier)));
      first += spec_.passed_by(earlier);
    }
    plan_.exchange(std::move(sends), std::move(receives));
    return passed;
  }

  void attend(const Keys& keys, const BandSlice& seen, bool fresh) {
    if (q_.empty() || (keys.k.empty() && !fresh)) return;
    const BandSlice slice = tighten(seen);
    State into = state_;
    const bool merges = !fresh && spec_.kernel && !spec_.kernel.accumulates;
    if (merges) into = {scratch_f32(spec_.dim_v()), scratch_f32(1)};
    Attend op{.q = q_, .k = keys.k, .v = keys.v, .out = into.out, .lse = into.lse};
    op.slices = plan_.slices(std::span(&slice, 1));
    op.heads.group = static_cast<std::int32_t>(spec_.q_heads / spec_.num_kv_heads());
    op.scale = spec_.scale_or_default();
    op.softcap = spec_.softcap;
    op.fresh = fresh || merges;
    plan_.compute(op);
    if (merges) plan_.compute(Merge{into.out, into.lse, state_.out, state_.lse});
  }

  const ContextPassSpec& spec_;
  const Rank rank_;
  Recorder plan_;
  const bool inputs_sendable_;
  Block q_;
  State state_;
};

}  // namespace

Schedule context_pass(const ContextPassSpec& spec, Rank rank, const RecordOptions& options) {
  return ContextPassLayer(spec, rank, options).record();
}

}  // namespace collectives
SEQCCL_END
