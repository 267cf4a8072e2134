// attention.hpp - exact softmax attention over a sharded sequence, by any of the published methods.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "seqccl/communicator.hpp"
#include "seqccl/kernels.hpp"
#include "seqccl/mask.hpp"
#include "seqccl/mesh.hpp"
#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

/// How the shards meet. Which to use when: README, table of methods; derivations: collectives/<method>/notes.md.
enum class Method : std::uint8_t { automatic, ring, bidirectional_ring, kv_all_gather, head_swap, token_ring, balanced_helper };
[[nodiscard]] const char* name(Method method) noexcept;
/// @throws Error(argument) listing the names
[[nodiscard]] Method method_from_name(const std::string& name);

/// What travels in the backward pass of a ring: keys and their gradients, or queries and theirs (BurstAttention).
enum class Backward : std::uint8_t { standard, burst };
[[nodiscard]] const char* name(Backward backward) noexcept;

/// One softmax attention layer
/// ===========================
///
///     out = softmax(softcap(scale q k^T) masked) v,   lse = log of the softmax denominator (natural)
///
/// Letters: B batch, N tokens in all, T tokens on this rank, Hq / Hkv query / key heads (Hkv divides Hq), Dk / Dv head sizes.
struct AttentionSpec {
  std::int64_t batch = 1;
  std::int64_t q_heads = 1, kv_heads = 0;     // kv_heads 0: q_heads
  std::int64_t head_dim = 0, v_head_dim = 0;  // v_head_dim 0: head_dim
  DType dtype = f32;                          // of q, k, v, out, dout, dq, dk, dv; lse, sinks, dsinks are f32
  Partition partition;
  Mask mask;
  std::optional<float> scale{};  // default 1 / sqrt(head_dim)
  float softcap = 0;             // 0: none
  bool sinks = false;            // one extra logit per query head in the denominator
  Method method = Method::automatic;
  std::optional<Mesh> mesh{};              // heads: swap heads in groups of this size, the method runs across them; outer: ring of rings
  Backward backward = Backward::standard;  // burst: ring and bidirectional_ring
  int head_groups = 1;                     // work in this many groups of heads: one travels while another is attended to
  bool partials_in_dtype = false;          // partial results on the wire in dtype instead of f32 (token_ring, balanced_helper)
  AttendKernel kernel{};                   // your own attend kernel; default: the library's

  [[nodiscard]] std::int64_t num_kv_heads() const noexcept { return kv_heads != 0 ? kv_heads : q_heads; }
  [[nodiscard]] std::int64_t dim_v() const noexcept { return v_head_dim != 0 ? v_head_dim : head_dim; }
  [[nodiscard]] float scale_or_default() const noexcept;
  /// One "name = value" line per field: equal operations have equal texts on all ranks.
  [[nodiscard]] std::string describe() const;
};

/// @throws Error(argument) naming the field, its value and what would be right
void validate(const AttentionSpec& spec, int num_ranks);

/// Sets method, mesh and backward from a method's published name: those of Method, and
///
///     double_ring     ring, mesh natural(P, topology)             LoongTrain, BurstEngine
///     mesh            ring, heads = ranks per node                USP, LoongTrain, LongVILA
///     burst_backward  ring, backward = burst                      BurstAttention
///
/// A mesh that is already set is kept. @throws Error(argument) listing the names
void choose_method(AttentionSpec& spec, const std::string& name, const Topology& topology = {});
/// What Method::automatic stands for: the spec with the method, mesh and backward whose forward and backward together take the least
/// simulated time, of all names below; a mesh or backward that the spec sets is kept. Other methods come back as they are.
/// @throws Error(argument) if no method has the spec's mesh, backward and head_groups together
[[nodiscard]] AttentionSpec fastest_method(const AttentionSpec& spec, const Topology& topology = {});
/// The names that choose_method knows.
[[nodiscard]] std::vector<std::string> method_names();

/// Attention
/// =========
///
/// forward and backward of one layer on one communicator. Plans are recorded at the first use and kept. A plan keeps nothing
/// between calls: backward gets what it needs from the caller (out and lse of forward), so several forwards may come before
/// their backwards. Collective: all ranks call the same functions in the same order.
///
/// Shapes, per rank, any strides with a contiguous last axis:
///
///     q, out, dout, dq  (B, T, Hq, Dk | Dv)     k, dk  (B, T, Hkv, Dk)     v, dv  (B, T, Hkv, Dv)
///     lse  (B, Hq, T) f32, -inf where a query sees no key      sinks, dsinks  (Hq) f32, the same on every rank / this rank's share
///
/// Bitwise repeatable for a given P, partition, mask and method. Inputs never change; outputs are unspecified after an error.
/// @throws Error(argument) before anything is sent; Error(dead | stalled | mismatched | local) naming the culprit ranks
class Attention {
 public:
  /// Does not communicate. `comm` must outlive this object and stay where it is.
  /// Method::automatic stands for fastest_method(spec, comm.topology()), worked out here, on every rank: milliseconds of CPU time at 8
  /// ranks, 0.4 s at 64. Many ranks on one machine, or many layers, call that once and give its result to all.
  Attention(Communicator& comm, AttentionSpec spec);
  ~Attention();
  Attention(Attention&&) noexcept;
  Attention& operator=(Attention&&) noexcept;

  void forward(ConstTensorView q, ConstTensorView k, ConstTensorView v, TensorView out, TensorView lse, ConstTensorView sinks = {});

  /// Overwrites the gradients. `out` and `lse` are forward's results.
  void backward(ConstTensorView dout, ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView out, ConstTensorView lse,
                TensorView dq, TensorView dk, TensorView dv, ConstTensorView sinks = {}, TensorView dsinks = {});

  /// The method in use: never `automatic`.
  [[nodiscard]] Method method() const noexcept;
  [[nodiscard]] const AttentionSpec& spec() const noexcept;
  /// Method and why, messages, bytes per link, flops, workspace, exposed time.
  [[nodiscard]] std::string explain() const;
  [[nodiscard]] const Schedule& forward_schedule();
  [[nodiscard]] const Schedule& backward_schedule();
  /// When set, every run appends what it did to `trace` (cleared first). nullptr: off.
  void set_trace(std::vector<struct TraceEvent>* trace) noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

SEQCCL_END
