// movement.cpp - the masked gather of keys and its transpose alone, between the caller's tensors.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "gather.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// The recording of one direction on one rank: my own rows come first in the caller's tensors, then the gather's.
struct KvMovement {
  const KvAllGatherSpec& spec;
  Recorder plan;
  BoundMask mask;
  Gather gather;
  std::int64_t own;

  KvMovement(const char* name, const KvAllGatherSpec& kv_spec, Rank rank)
      : spec(kv_spec),
        plan(name, rank, spec.partition.num_ranks()),
        mask(spec.mask, spec.partition.num_tokens(), spec.batch),
        gather(plan, spec.partition, mask, spec.batch, /*native=*/false),
        own(spec.partition.tokens_on(rank)) {}
  KvMovement(const KvMovement&) = delete;  // gather refers to plan
  KvMovement& operator=(const KvMovement&) = delete;

  [[nodiscard]] std::int64_t num_rows() const { return own + gather.num_rows(); }
  [[nodiscard]] Recorder::Shape k_shape(std::int64_t rows) const { return {spec.batch, rows, spec.kv_heads, spec.head_dim}; }
  [[nodiscard]] Recorder::Shape v_shape(std::int64_t rows) const { return {spec.batch, rows, spec.kv_heads, spec.dim_v()}; }
  void copy(const Block& from, const Block& to) {
    if (!from.empty()) plan.compute(Copy{from, to});
  }
};

}  // namespace

std::vector<Piece> kv_gather_pieces(const KvAllGatherSpec& spec, Rank rank) {
  const KvMovement movement("pieces", spec, rank);
  std::vector<Piece> result = spec.partition.pieces(rank);
  for (Piece piece : movement.gather.pieces()) {
    piece.row += movement.own;
    result.push_back(piece);
  }
  return result;
}

Schedule kv_gather(const KvAllGatherSpec& spec, Rank rank, const RecordOptions& options) {
  KvMovement movement("kv_all_gather gather", spec, rank);
  Recorder& plan = movement.plan;
  Gather& gather = movement.gather;
  const std::int64_t own = movement.own;
  const Keys keys = {plan.input(Tensor::k, spec.dtype, movement.k_shape(own), options.inputs_sendable),
                     plan.input(Tensor::v, spec.dtype, movement.v_shape(own), options.inputs_sendable),
                     {}};
  const Block k_all = plan.output(Tensor::user, spec.dtype, movement.k_shape(movement.num_rows()));
  const Block v_all = plan.output(Tensor::user, spec.dtype, movement.v_shape(movement.num_rows()));
  const Keys remote = gather.gather(keys);
  movement.copy(keys.k, k_all.tokens(0, own));  // while the others' keys come in
  movement.copy(keys.v, v_all.tokens(0, own));
  movement.copy(remote.k, k_all.tokens(own, gather.num_rows()));
  movement.copy(remote.v, v_all.tokens(own, gather.num_rows()));
  return std::move(plan).finish(spec.describe());
}

Schedule kv_reduce(const KvAllGatherSpec& spec, Rank rank, const RecordOptions& options) {
  KvMovement movement("kv_all_gather reduce", spec, rank);
  Recorder& plan = movement.plan;
  Gather& gather = movement.gather;
  const std::int64_t own = movement.own;
  const Block dk_all = plan.input(Tensor::user, f32, movement.k_shape(movement.num_rows()), options.inputs_sendable);
  const Block dv_all = plan.input(Tensor::user, f32, movement.v_shape(movement.num_rows()), options.inputs_sendable);
  const KeyGradients home = {plan.output(Tensor::user, f32, movement.k_shape(own)), plan.output(Tensor::user, f32, movement.v_shape(own))};
  const KeyGradients sums = {plan.sendable(dk_all.tokens(own, gather.num_rows())), plan.sendable(dv_all.tokens(own, gather.num_rows()))};
  movement.copy(dk_all.tokens(0, own), home.dk);
  movement.copy(dv_all.tokens(0, own), home.dv);
  gather.add(gather.send_home(sums), home);
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
