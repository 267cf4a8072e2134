// sequence_gather.cpp - binds whole sequences and shards to the plans of both directions.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/sequence_gather.hpp"

#include <utility>
#include <vector>

#include "call.hpp"
#include "seqccl/collectives.hpp"

SEQCCL_BEGIN

struct SequenceGather::State {
  Communicator* comm;
  SequenceGatherSpec spec;
  std::vector<Segment> views;  // which rows of a whole sequence each of its slots is
  PlannedPass gather{nullptr}, reduce_scatter{nullptr};
  KeptCall kept{};  // of gather

  void require_shard(const char* who, const char* name, const ConstTensorView& view, DType dtype) const {
    require_contiguous_rows(who, name, view, dtype, {spec.batch, spec.partition.tokens_on(comm->rank()), spec.heads, spec.head_dim});
  }
  void require_sequence(const char* who, const char* name, const ConstTensorView& view) const {
    require_contiguous_rows(who, name, view, spec.dtype, {spec.batch, spec.partition.num_tokens(), spec.heads, spec.head_dim});
  }
  /// Binds every slot of a whole sequence to its rows.
  template <class View>
  void bind_sequence(OrderedCall& call, const View& sequence) const {
    using Byte = std::conditional_t<std::is_same_v<View, TensorView>, std::byte, const std::byte>;
    for (const Segment& rows : views) {
      View view = sequence;
      if (view) {
        view.data = static_cast<Byte*>(view.data) + rows.first * view.stride(1) * static_cast<std::int64_t>(size_bytes(spec.dtype));
        view.geometry.shape[1] = rows.count;
        view.geometry.strides[1] *= rows.step;
      }
      call.bind(view);
    }
  }
};

SequenceGather::SequenceGather(Communicator& comm, SequenceGatherSpec spec) {
  validate(spec, comm.size());
  std::vector<Segment> views = collectives::sequence_views(spec);
  state_ = std::make_unique<State>(State{&comm, std::move(spec), std::move(views)});
  State* state = state_.get();
  state->gather = PlannedPass([state](bool sendable, bool receivable) {
    return collectives::sequence_gather(state->spec, state->comm->rank(), {.inputs_sendable = sendable, .outputs_receivable = receivable});
  });
  state->reduce_scatter = PlannedPass([state](bool sendable) {
    return collectives::sequence_reduce_scatter(state->spec, state->comm->rank(), {.inputs_sendable = sendable});
  });
}
SequenceGather::~SequenceGather() = default;
SequenceGather::SequenceGather(SequenceGather&&) noexcept = default;
SequenceGather& SequenceGather::operator=(SequenceGather&&) noexcept = default;

const SequenceGatherSpec& SequenceGather::spec() const noexcept { return state_->spec; }

void SequenceGather::gather(ConstTensorView tokens, TensorView sequence) {
  if (state_->kept.repeat(*state_->comm, state_->gather, tokens, sequence)) return;
  const char* who = "SequenceGather::gather";
  state_->require_shard(who, "tokens", tokens, state_->spec.dtype);
  state_->require_sequence(who, "sequence", sequence);
  require_distinct(who, {{"tokens", tokens}}, {{"sequence", sequence}});
  state_->kept.run(*state_->comm, state_->gather, state_->spec, tokens, sequence, tokens, sequence,
                   [&](OrderedCall& call) { state_->bind_sequence(call, sequence); });
}

void SequenceGather::reduce_scatter(ConstTensorView partial, TensorView sums) {
  const char* who = "SequenceGather::reduce_scatter";
  state_->require_sequence(who, "partial", partial);
  state_->require_shard(who, "sums", sums, f32);
  require_distinct(who, {{"partial", partial}}, {{"sums", sums}});
  const Schedule& plan = state_->reduce_scatter.schedule(tokens_are_contiguous(partial));
  OrderedCall call(*state_->comm, plan);
  state_->bind_sequence(call, partial);
  call.bind(sums);
  call.run(state_->reduce_scatter.identity(plan, state_->spec));
}

SEQCCL_END
