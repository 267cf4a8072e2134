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

/// The transition A_t and update B_t of S_t = A_t S_(t-1) + B_t. B_t = k_t v_t^T, of delta kinds beta_t k_t v_t^T.
enum class LinearKind : std::uint8_t {
  basic,           ///< A = 1: LASP-2, Based, Rebased
  constant_decay,  ///< A = exp(log_decay[h]): RetNet, Lightning Attention
  scalar_gate,     ///< A = exp(log_decay[b, t, h]): Mamba2 / SSD, simple GLA
  vector_gate,     ///< A = diag(exp(log_decay[b, t, h, :])): GLA, HGRN2, GSA
  rwkv6,           ///< as vector_gate, but token t reads S_(t-1), and itself with a bonus: RWKV6
  delta,           ///< A = I - beta k k^T: DeltaNet
  gated_delta,     ///< A = exp(log_decay[b, t, h]) (I - beta k k^T): Gated DeltaNet
  kda,             ///< A = (I - beta k k^T) diag(exp(log_decay[b, t, h, :])): Kimi delta attention
};
[[nodiscard]] const char* name(LinearKind kind) noexcept;
[[nodiscard]] LinearKind linear_kind_from_name(const std::string& name);
/// True for delta, gated_delta, kda: they take beta, and a run's transition is a dense (Dk, Dk) matrix.
[[nodiscard]] constexpr bool is_delta(LinearKind kind) noexcept { return kind >= LinearKind::delta; }
/// Numbers of log_decay per token and head: 0, 1 or head_dim; a constant decay has 0 (and (H) in all).
[[nodiscard]] constexpr std::int64_t decay_size(LinearKind kind, std::int64_t head_dim) noexcept {
  if (kind == LinearKind::scalar_gate || kind == LinearKind::gated_delta) return 1;
  return kind == LinearKind::vector_gate || kind == LinearKind::rwkv6 || kind == LinearKind::kda ? head_dim : 0;
}

/// How the state that enters each rank is found: an exclusive scan over runs of tokens. m: bytes of a state, M: of a transition (0 without
/// decay). Bytes are those that a rank receives with one run a rank (contiguous); zigzag has 2 P - 1 runs and about twice as much. With
/// causal = false there is no order to scan in: an all-reduce, whatever is chosen here.
enum class Scan : std::uint8_t {
  all_gather,       ///< LASP-2, FLA CP: every rank gathers the summaries of earlier ranks; 1 round, up to (P - 1) (m + M)
  chain,            ///< LASP-1: the state passes from rank to rank; P - 1 rounds, m
  pipelined_chain,  ///< ZeCO: the chain in K blocks of columns; P - 2 + K rounds, m
  doubling,         ///< Kogge-Stone; ceil(log2 P) rounds, up to ceil(log2 P) m + (ceil(log2 P) - 1) M
  hierarchical,     ///< inside nodes, across nodes with the columns divided, inside again; 2 + ceil(log2 nodes) rounds
};
[[nodiscard]] const char* name(Scan scan) noexcept;
[[nodiscard]] Scan scan_from_name(const std::string& name);

/// One linear attention layer
/// ==========================
///
///     S_t = A_t S_(t-1) + B_t,   out_t = scale S_t^T q_t
///
/// Letters: B batch, N tokens, T tokens on this rank, H heads, Dk / Dv head sizes. Mixture of memories: a memory is one more head, in
/// which a token that is not routed to it has k = v = 0, beta = 0, log_decay = 0.
struct LinearSpec {
  std::int64_t batch = 1;
  std::int64_t heads = 1;
  std::int64_t head_dim = 0, v_head_dim = 0;  // v_head_dim 0: head_dim
  DType dtype = f32;
  Partition partition;  // every segment of step 1: striped is refused, it has no runs to scan over
  LinearKind kind = LinearKind::basic;
  Scan scan = Scan::all_gather;
  float scale = 1;
  bool state_in = false;                  // an initial state is given; it enters the first document
  bool state_out = false;                 // the final state (and in backward its gradient) is wanted / given; it leaves the last document
  std::vector<std::int64_t> documents{};  // packed sequences: lengths that sum to N, the state is zero where one begins; none given: one
  bool causal = true;                     // false: every token reads the state that its whole document leaves; basic only
  int column_blocks = 4;                  // pipelined_chain: K, at most v_head_dim
  int ranks_per_node = 0;                 // hierarchical; 0: Mesh::natural of the communicator's topology, without one of the ranks

  [[nodiscard]] std::int64_t dim_v() const noexcept { return v_head_dim != 0 ? v_head_dim : head_dim; }
  [[nodiscard]] std::string describe() const;
};
void validate(const LinearSpec& spec, int num_ranks);

/// Tensors of one rank. log_decay, beta, bonus, states and their gradients are f32, the rest `dtype`.
struct LinearInputs {
  ConstTensorView q, k, v;    // (B, T, H, Dk) (B, T, H, Dk) (B, T, H, Dv)
  ConstTensorView log_decay;  // (H) constant, (B, T, H) scalar, (B, T, H, Dk) vector; natural log, meant to be <= 0
  ConstTensorView state_in;   // (B, H, Dk, Dv), read on the rank that holds token 0
  ConstTensorView beta{};     // (B, T, H), delta kinds; |A| <= 1 needs 0 <= beta |k|^2 <= 2
  ConstTensorView bonus{};    // (H, Dk), rwkv6; the same on every rank
};
struct LinearOutputs {
  TensorView out;             // (B, T, H, Dv)
  TensorView entering_state;  // (B, R, H, Dk, Dv): the state that enters each of this rank's R segments; keep it for backward. Zero
                              // where a document begins.
                              // causal false: none may be given, backward sums the states of documents again
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
  TensorView dbeta{};     // as beta
  TensorView dbonus{};    // as bonus: this rank's share, add over ranks
};

/// Linear attention on one communicator; rules as Attention.
///
/// Every contiguous segment of a rank is one virtual rank, in sequence order, so zigzag works (2P virtual ranks), as do
/// uneven partitions and empty ranks. Every document is a scan of its own over the runs that it has, all of them side by side: nothing
/// travels past the beginning of a document. A document without tokens is as if it were not there.
///
/// Cost: local work, and the bytes and rounds of Scan; exact counts are in collectives/state_scan/notes.md.
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
