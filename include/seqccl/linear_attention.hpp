// linear_attention.hpp - linear attention and state-space layers over a sharded sequence: local work and a scan of states.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "seqccl/communicator.hpp"
#include "seqccl/partition.hpp"
#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

/// The transition A_t of S_t = A_t S_(t-1) + k_t v_t^T.
enum class LinearKind : std::uint8_t {
  basic,           ///< A = 1: LASP-2, Based, Rebased
  constant_decay,  ///< A = exp(log_decay[h]): RetNet, Lightning Attention
  scalar_gate,     ///< A = exp(log_decay[b, t, h]): Mamba2 / SSD, simple GLA
  vector_gate,     ///< A = diag(exp(log_decay[b, t, h, :])): GLA, HGRN2, GSA
};
[[nodiscard]] const char* name(LinearKind kind) noexcept;
[[nodiscard]] LinearKind linear_kind_from_name(const std::string& name);

/// How the state that enters each rank is found: an exclusive scan over ranks.
enum class Scan : std::uint8_t {
  all_gather,  ///< LASP-2: every rank gathers the summaries of earlier ranks, one round
  chain,       ///< LASP-1: the state passes from rank to rank, P - 1 rounds of one state
};
[[nodiscard]] const char* name(Scan scan) noexcept;
[[nodiscard]] Scan scan_from_name(const std::string& name);

/// One linear attention layer
/// ==========================
///
///     S_t = A_t S_(t-1) + k_t v_t^T,   out_t = scale S_t^T q_t
///
/// Letters: B batch, N tokens, T tokens on this rank, H heads, Dk / Dv head sizes.
struct LinearSpec {
  std::int64_t batch = 1;
  std::int64_t heads = 1;
  std::int64_t head_dim = 0, v_head_dim = 0;  // v_head_dim 0: head_dim
  DType dtype = f32;
  Partition partition;  // every segment of step 1: striped is refused, it has no runs to scan over
  LinearKind kind = LinearKind::basic;
  Scan scan = Scan::all_gather;
  float scale = 1;
  bool state_in = false;   // an initial state is given
  bool state_out = false;  // the final state (and in backward its gradient) is wanted / given

  [[nodiscard]] std::int64_t dim_v() const noexcept { return v_head_dim != 0 ? v_head_dim : head_dim; }
  [[nodiscard]] std::string describe() const;
};
void validate(const LinearSpec& spec, int num_ranks);

/// Tensors of one rank. log_decay, states and their gradients are f32, the rest `dtype`.
struct LinearInputs {
  ConstTensorView q, k, v;    // (B, T, H, Dk) (B, T, H, Dk) (B, T, H, Dv)
  ConstTensorView log_decay;  // (H) constant, (B, T, H) scalar, (B, T, H, Dk) vector; natural log, <= 0
  ConstTensorView state_in;   // (B, H, Dk, Dv), read on the rank that holds token 0
};
struct LinearOutputs {
  TensorView out;             // (B, T, H, Dv)
  TensorView entering_state;  // (B, R, H, Dk, Dv): the state that enters each of this rank's R segments; keep it for backward
  TensorView state_out;       // (B, H, Dk, Dv), written on the rank that holds the last token
};
struct LinearOutputGradients {
  ConstTensorView dout;            // (B, T, H, Dv)
  ConstTensorView entering_state;  // as forward wrote it
  ConstTensorView dstate_out;      // (B, H, Dk, Dv), read on the rank that holds the last token
};
struct LinearInputGradients {
  TensorView dq, dk, dv;
  TensorView dlog_decay;  // as log_decay; of a constant decay this rank's share: add over ranks
  TensorView dstate_in;   // (B, H, Dk, Dv), written on the rank that holds token 0
};

/// Linear attention on one communicator; rules as Attention.
///
/// Every contiguous segment of a rank is one virtual rank, in sequence order, so zigzag works (2P virtual ranks), as do
/// uneven partitions and empty ranks.
class LinearAttention {
 public:
  LinearAttention(Communicator& comm, LinearSpec spec);
  ~LinearAttention();
  LinearAttention(LinearAttention&&) noexcept;
  LinearAttention& operator=(LinearAttention&&) noexcept;

  void forward(const LinearInputs& inputs, const LinearOutputs& outputs);
  void backward(const LinearInputs& inputs, const LinearOutputGradients& gradients, const LinearInputGradients& results);

  [[nodiscard]] const LinearSpec& spec() const noexcept;
  [[nodiscard]] std::string explain() const;
  [[nodiscard]] const Schedule& forward_schedule();
  [[nodiscard]] const Schedule& backward_schedule();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

SEQCCL_END
