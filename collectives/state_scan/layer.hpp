// layer.hpp - the tensors of a linear attention layer on one rank.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <vector>

#include "states.hpp"

SEQCCL_BEGIN
namespace collectives {

struct LinearLayer {
  const LinearSpec& spec;
  Recorder plan;
  std::int64_t tokens, segments;
  std::vector<Run> runs;  // of all ranks, in sequence order
  Block q, k, v, log_decay, beta, bonus;

  /// Named by the pass, and by the kind and scan that pictures and errors tell it by: "linear forward, kda by chain".
  LinearLayer(const char* pass, const LinearSpec& layer_spec, Rank rank)
      : spec(layer_spec),
        plan(fmt::format("{}, {} by {}", pass, name(layer_spec.kind), layer_spec.causal ? name(layer_spec.scan) : "all_reduce"), rank,
             layer_spec.partition.num_ranks()),
        tokens(layer_spec.partition.tokens_on(rank)),
        segments(static_cast<std::int64_t>(layer_spec.partition.segments(rank).size())),
        runs(runs_of(layer_spec.partition, layer_spec.documents)) {
    // Only states travel: these are never sent, so they may have any strides.
    q = plan.input(Tensor::q, spec.dtype, rows(spec.head_dim));
    k = plan.input(Tensor::k, spec.dtype, rows(spec.head_dim));
    v = plan.input(Tensor::v, spec.dtype, rows(spec.dim_v()));
    if (has_decay()) log_decay = plan.input(Tensor::log_decay, f32, decay_shape());
    if (is_delta(spec.kind)) beta = plan.input(Tensor::beta, f32, rows(1));
    if (has_bonus()) bonus = plan.input(Tensor::bonus, f32, bonus_shape());
  }

  [[nodiscard]] bool is_constant() const { return spec.kind == LinearKind::constant_decay; }
  [[nodiscard]] bool has_decay() const { return is_constant() || decay_size(spec.kind, spec.head_dim) != 0; }
  [[nodiscard]] bool has_bonus() const { return spec.kind == LinearKind::rwkv6; }
  [[nodiscard]] Recorder::Shape rows(std::int64_t dim) const { return {spec.batch, tokens, spec.heads, dim}; }
  [[nodiscard]] Recorder::Shape decay_shape() const {
    return is_constant() ? Recorder::Shape{1, 1, spec.heads, 1} : rows(decay_size(spec.kind, spec.head_dim));
  }
  [[nodiscard]] Recorder::Shape bonus_shape() const { return {1, 1, spec.heads, spec.head_dim}; }
  [[nodiscard]] States states() { return {plan, spec.batch, spec.heads, spec.head_dim, spec.dim_v()}; }

  /// The rows of a run; of an absent tensor none.
  [[nodiscard]] static Block of(const Block& block, const Run& run) {
    return block.present() ? block.tokens(run.local, run.count) : Block{};
  }
  /// The same of log_decay or its gradient: a constant has no rows.
  [[nodiscard]] Block decay_of(const Block& block, const Run& run) const { return is_constant() ? block : of(block, run); }
  /// Where sums in f32 for `output` go: itself, or scratch that copy_out moves there.
  [[nodiscard]] Block sums_for(const Block& output) {
    const Slot& slot = plan.slot(output);
    return slot.dtype == f32 ? output : plan.scratch(f32, {slot.batch, slot.tokens, slot.heads, slot.dim});
  }
  void copy_out(const Block& sums, const Block& output) {
    if (sums != output && !output.empty()) plan.compute(Copy{sums, output}, plan.rank());
  }
};

}  // namespace collectives
SEQCCL_END
