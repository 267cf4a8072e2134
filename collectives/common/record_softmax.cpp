// record_softmax.cpp - a whole pass around a method's body: the caller's tensors, the head swap of a mesh, conversions at the end.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "softmax.hpp"
#include "swap.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// The heads that each rank of a group attends with: query heads as evenly as they go, and the key heads that these use. One HeadShares
/// per group of heads that travels by itself, cut between key heads.
struct SwapHeads {
  struct Part {
    HeadShares queries, keys;
  };
  std::vector<Part> parts;
  bool replicates_keys = false;

  SwapHeads(const AttentionSpec& spec, int num_ranks) {
    const auto group = static_cast<std::int32_t>(spec.q_heads / spec.num_kv_heads());
    const std::int64_t num_parts = std::clamp<std::int64_t>(spec.head_groups, 1, spec.num_kv_heads());
    parts.resize(static_cast<std::size_t>(num_parts));
    std::vector<int> users(spec.num_kv_heads());
    for (const HeadRange& q : even_shares(spec.q_heads, num_ranks)) {
      const std::int32_t first = q.first / group, count = q.count == 0 ? 0 : (q.first + q.count - 1) / group - first + 1;
      for (std::int64_t i = 0; i < num_parts; ++i) {
        const auto key = static_cast<std::int32_t>(first + i * count / num_parts),
                   key_end = static_cast<std::int32_t>(first + (i + 1) * count / num_parts);
        const std::int32_t query = std::max(q.first, key * group), query_end = std::min(q.first + q.count, key_end * group);
        const bool some = key_end > key;
        parts[i].queries.push_back(some ? HeadRange{query, query_end - query} : HeadRange{});
        parts[i].keys.push_back(some ? HeadRange{key, key_end - key} : HeadRange{});
      }
      for (std::int32_t head = first; head < first + count; ++head) replicates_keys = replicates_keys || ++users[head] > 1;
    }
    // Fewer key heads than parts leave some parts to nobody.
    std::erase_if(parts, [](const Part& part) {
      return std::all_of(part.queries.begin(), part.queries.end(), [](const HeadRange& range) { return range.count == 0; });
    });
  }
};

/// Results: f32 sums go to the caller's tensor itself, or by way of scratch that is converted at the end.
class SoftmaxPlan {
 public:
  SoftmaxPlan(const char* name, Pass which_pass, const AttentionSpec& layer_spec, const Mesh& layer_mesh, Rank rank,
              const RecordOptions& options)
      : pass_(which_pass),
        spec_(layer_spec),
        mesh_(layer_mesh),
        heads_(layer_spec, layer_mesh.heads),
        plan_(name, rank, layer_spec.partition.num_ranks()),
        mask_(layer_spec.mask, layer_spec.partition.num_tokens(), layer_spec.batch),
        whole_(plan_, spec_, mask_, spec_.partition, rank, mesh_) {
    whole_.num_head_groups = spec_.head_groups;
    whole_.native_collectives = options.native_collectives;
    make_tensors(options.inputs_sendable);
  }

  Schedule record(Body body) && {
    if (mesh_.heads == 1)
      body(whole_);
    else
      record_swapped(body);
    for (const auto& [from, to] : conversions_)
      if (!to.empty()) plan_.compute(Copy{from, to});
    return std::move(plan_).finish(spec_.describe());
  }

 private:
  [[nodiscard]] bool complete_keys() const { return !heads_.replicates_keys; }

  void make_tensors(bool sendable) {
    const std::int64_t batch = spec_.batch, tokens = spec_.partition.tokens_on(plan_.rank());
    const std::int64_t q_heads = spec_.q_heads, kv_heads = spec_.num_kv_heads(), dim = spec_.head_dim, dim_v = spec_.dim_v();
    whole_.heads.group = static_cast<std::int32_t>(q_heads / kv_heads);
    whole_.q_heads = q_heads;
    whole_.kv_heads = kv_heads;
    const auto pieces = spec_.partition.pieces(plan_.rank());
    whole_.queries = {plan_.input(Tensor::q, spec_.dtype, {batch, tokens, q_heads, dim}, sendable), pieces};
    whole_.keys = {plan_.input(Tensor::k, spec_.dtype, {batch, tokens, kv_heads, dim}, sendable),
                   plan_.input(Tensor::v, spec_.dtype, {batch, tokens, kv_heads, dim_v}, sendable), pieces};
    if (spec_.sinks) whole_.sinks = plan_.input(Tensor::sinks, f32, {1, 1, q_heads, 1});

    const bool swaps = mesh_.heads > 1;  // then results come back complete, in the element type
    if (pass_ == Pass::forward) {
      whole_.state.out = result(Tensor::out, {batch, tokens, q_heads, dim_v}, swaps);
      whole_.state.lse = plan_.output(Tensor::lse, f32, {batch, tokens, q_heads, 1});
      return;
    }
    whole_.dout = plan_.input(Tensor::dout, spec_.dtype, {batch, tokens, q_heads, dim_v}, sendable);
    whole_.state.out = plan_.input(Tensor::out, spec_.dtype, {batch, tokens, q_heads, dim_v}, sendable);
    whole_.state.lse = plan_.input(Tensor::lse, f32, {batch, tokens, q_heads, 1});
    whole_.dq = result(Tensor::dq, {batch, tokens, q_heads, dim}, swaps);
    whole_.gradients.dk = result(Tensor::dk, {batch, tokens, kv_heads, dim}, swaps && complete_keys());
    whole_.gradients.dv = result(Tensor::dv, {batch, tokens, kv_heads, dim_v}, swaps && complete_keys());
    whole_.delta = whole_.scratch_f32(tokens, q_heads, 1);
    plan_.compute(RowDot{whole_.dout, whole_.state.out, whole_.delta});
    if (spec_.sinks)
      plan_.compute(SinkGradient{whole_.sinks, whole_.state.lse, whole_.delta, plan_.output(Tensor::dsinks, f32, {1, 1, q_heads, 1})});
  }

  // Sums: f32 outputs in place, 16-bit ones in scratch.
  Block result(Tensor tensor, Recorder::Shape shape, bool direct) {
    const Block to = plan_.output(tensor, spec_.dtype, shape);
    if (direct || spec_.dtype == f32) return to;
    const Block from = plan_.scratch(f32, shape);
    conversions_.emplace_back(from, to);
    return from;
  }

  /// What goes back: complete results in the element type, partial ones (replicated keys) in f32. The same on every rank, also on one
  /// without heads.
  Block narrowed(Swap& swap, const Block& sum, const HeadShares& shares, bool complete) {
    if (!complete || spec_.dtype == f32) return sum;
    const Block block = swap.scratch(spec_.dtype, shares, plan_.slot(sum).dim);
    swap.copy(sum, block);
    return block;
  }

  // In: every group of heads, one exchange each. Then the body on one group while the next still comes and the one before goes: its
  // results return on a lane of their own and are put in their places after this group's body, which so need not wait for them.
  void record_swapped(Body body) {
    const int ring = mesh_.ring_of(plan_.rank()), head = mesh_.head_of(plan_.rank());
    std::vector<Rank> swap_members, ring_members;
    for (int i = 0; i < mesh_.heads; ++i) swap_members.push_back(mesh_.rank_at(ring, i));
    for (int i = 0; i < mesh_.ring_size(); ++i) ring_members.push_back(mesh_.rank_at(i, head));
    std::vector<std::vector<Segment>> segments;  // of the groups of heads: what the ring is over
    for (int i = 0; i < mesh_.ring_size(); ++i) {
      std::vector<Rank> members;
      for (int j = 0; j < mesh_.heads; ++j) members.push_back(mesh_.rank_at(i, j));
      segments.push_back(SwapRows(spec_.partition, members).segments());
    }
    const Partition partition = Partition::from_segments(spec_.partition.num_tokens(), std::move(segments));

    const auto swapped = [&](auto&& record) {
      const Recorder::Group group(plan_, swap_members);
      Swap swap(plan_, spec_.partition, spec_.batch, swap_members);
      return record(swap);
    };
    const std::vector<SoftmaxLayer> layers = swapped([&](Swap& swap) {
      std::vector<SoftmaxLayer> result;
      for (const SwapHeads::Part& part : heads_.parts) result.push_back(enter(swap, part, partition, ring));
      return result;
    });
    std::vector<Return> returns;
    std::vector<std::vector<bool>> filled(3);  // heads of each result that are there
    const auto settle = [&](Swap& swap) {
      for (std::size_t i = 0; i < returns.size(); ++i) swap.settle(returns[i].parts, returns[i].home, filled[i]);
    };
    for (std::size_t i = 0; i < layers.size(); ++i) {
      {
        const Recorder::Group group(plan_, ring_members);
        SoftmaxLayer layer = layers[i];
        body(layer);
      }
      swapped([&](Swap& swap) {
        settle(swap);
        returns = leave(swap, heads_.parts[i], layers[i]);
      });
    }
    swapped(settle);
  }

  // Nothing of forward is kept, so backward swaps q, k, v again, with dout, lse and delta.
  SoftmaxLayer enter(Swap& swap, const SwapHeads::Part& part, const Partition& partition, Rank ring) {
    const auto& [queries, keys] = part;
    const Rank me = plan_.rank();  // in the group that swaps
    Messages in;
    const Block q = swap.enter(whole_.queries.q, queries, in);  // (B, N / R, Hq / U, Dk)
    const Block k = swap.enter(whole_.keys.k, keys, in);        // (B, N / R, Hkv / U, Dk)
    const Block v = swap.enter(whole_.keys.v, keys, in);
    Block dout, lse, delta;
    if (pass_ == Pass::backward) {
      dout = swap.enter(whole_.dout, queries, in);
      lse = swap.enter(whole_.state.lse, queries, in);
      delta = swap.enter(whole_.delta, queries, in);
    }
    in.record(plan_);

    const std::vector<Piece> pieces = swap.pieces();
    SoftmaxLayer layer(plan_, spec_, mask_, partition, ring, mesh_);
    layer.heads = {queries[me].first, keys[me].first, whole_.heads.group};
    layer.q_heads = queries[me].count;
    layer.kv_heads = keys[me].count;
    layer.queries = {q, pieces};
    layer.keys = {k, v, pieces};
    layer.sinks = whole_.sinks;
    if (pass_ == Pass::forward) {
      layer.state = {swap.scratch(f32, queries, spec_.dim_v()), swap.scratch(f32, queries, 1)};
    } else {
      layer.dout = dout;
      layer.state.lse = lse;
      layer.delta = delta;
      layer.dq = swap.scratch(f32, queries, spec_.head_dim);
      layer.gradients = {swap.scratch(f32, keys, spec_.head_dim), swap.scratch(f32, keys, spec_.dim_v())};
    }
    return layer;
  }

  /// What came back of one result, and where it belongs.
  struct Return {
    std::vector<Swap::Returned> parts;
    Block home;
  };

  /// Sends the results of a group of heads home, in one exchange.
  std::vector<Return> leave(Swap& swap, const SwapHeads::Part& part, const SoftmaxLayer& layer) {
    const auto& [queries, keys] = part;
    const bool complete = complete_keys();
    Messages out;
    std::vector<Return> returns;
    if (pass_ == Pass::forward) {
      returns.push_back({swap.leave(narrowed(swap, layer.state.out, queries, true), queries, out), whole_.state.out});
      returns.push_back({swap.leave(layer.state.lse, queries, out), whole_.state.lse});
    } else {
      returns.push_back({swap.leave(narrowed(swap, layer.dq, queries, true), queries, out), whole_.dq});
      returns.push_back({swap.leave(narrowed(swap, layer.gradients.dk, keys, complete), keys, out), whole_.gradients.dk});
      returns.push_back({swap.leave(narrowed(swap, layer.gradients.dv, keys, complete), keys, out), whole_.gradients.dv});
    }
    out.record(plan_, Lane::comm2);
    return returns;
  }

  Pass pass_;
  const AttentionSpec& spec_;
  Mesh mesh_;
  SwapHeads heads_;
  Recorder plan_;
  BoundMask mask_;
  SoftmaxLayer whole_;
  std::vector<std::pair<Block, Block>> conversions_;
};

}  // namespace

Schedule record_softmax(const char* name, Pass pass, Body body, const AttentionSpec& spec, const Mesh& mesh, Rank rank,
                        const RecordOptions& options) {
  return SoftmaxPlan(name, pass, spec, mesh, rank, options).record(body);
}

Schedule record_softmax(const char* name, Pass pass, Body body, const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  const Mesh flat{.heads = 1, .outer = 1, .inner = spec.partition.num_ranks()};
  return record_softmax(name, pass, body, spec, spec.mesh.value_or(flat), rank, options);
}

}  // namespace collectives
SEQCCL_END
