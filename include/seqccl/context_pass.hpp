// context_pass.hpp - approximate long-context prefill: anchor, compressed selections of earlier ranks, and local keys.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "seqccl/communicator.hpp"
#include "seqccl/kernels.hpp"
#include "seqccl/schedule.hpp"
#include "seqccl/tensor.hpp"

SEQCCL_BEGIN

/// All vectors have one number per rank.
struct ContextPassSpec {
  std::int64_t batch = 1;
  std::int64_t q_heads = 1, kv_heads = 0;     // kv_heads 0: q_heads
  std::int64_t head_dim = 0, v_head_dim = 0;  // v_head_dim 0: head_dim
  DType dtype = f32;                          // of q, k, v, out; lse is f32
  std::vector<std::int64_t> tokens;           // T_r: of the sequence, on rank r
  std::int64_t anchor_tokens = 0;             // A: the same on every rank but the first, which has none
  std::vector<std::int64_t> passed_tokens{};  // S_r: that rank r passes on to later ranks; empty: none
  std::optional<float> scale{};               // default 1 / sqrt(head_dim)
  float softcap = 0;                          // 0: none
  AttendKernel kernel{};                      // your own attend kernel, which must accumulate; default: the library's

  [[nodiscard]] std::int64_t num_kv_heads() const noexcept { return kv_heads != 0 ? kv_heads : q_heads; }
  [[nodiscard]] std::int64_t dim_v() const noexcept { return v_head_dim != 0 ? v_head_dim : head_dim; }
  [[nodiscard]] float scale_or_default() const noexcept;
  [[nodiscard]] int num_ranks() const noexcept { return static_cast<int>(tokens.size()); }
  [[nodiscard]] std::int64_t tokens_on(Rank rank) const { return tokens[static_cast<std::size_t>(rank)]; }
  /// A, and 0 on the first rank.
  [[nodiscard]] std::int64_t anchor_on(Rank rank) const noexcept { return rank == 0 ? 0 : anchor_tokens; }
  [[nodiscard]] std::int64_t passed_by(Rank rank) const {
    return passed_tokens.empty() ? 0 : passed_tokens[static_cast<std::size_t>(rank)];
  }
  /// One "name = value" line per field: equal operations have equal texts on all ranks.
  [[nodiscard]] std::string describe() const;
};
/// @throws Error(argument) naming the field, its value and what would be right
void validate(const ContextPassSpec& spec, int num_ranks);

/// Context pass
/// ============
///
///     keys of rank 0                            | own, causal |
///     keys of rank 1       | anchor | passed by 0 | own, causal |
///     keys of rank 2       | anchor | passed by 0 | passed by 1 | own, causal |
///
/// Every query of rank r sees the A anchor tokens (a copy on every rank but the first), what ranks 0 .. r - 1 selected of their keys, and
/// the rank's own tokens up to itself. What is selected is the caller's approximation (APB: by a compressor); given that, the
/// result is exact softmax attention over these keys. Nothing passed: phase 1 of Star attention, without communication. Its phase
/// 2, and decoding after a prefill, are `Decode` over the ranks' k, v. Inference only: there is no backward.
///
/// Cost: one exchange, behind attention to own keys and anchor. Rank r receives B Hkv (Dk + Dv) b bytes for each passed token of
/// earlier ranks and sends its own S_r tokens to each later rank that has queries.
/// Sources: APB (arXiv:2502.12085), Star attention (arXiv:2411.17116).
class ContextPass {
 public:
  /// Does not communicate. `comm` must outlive this object and stay where it is.
  ContextPass(Communicator& comm, ContextPassSpec spec);
  ~ContextPass();
  ContextPass(ContextPass&&) noexcept;
  ContextPass& operator=(ContextPass&&) noexcept;

  /// Per rank, any strides with a contiguous last axis; what has no tokens may be left out:
  ///
  ///     q  (B, T, Hq, Dk)      k         (B, T, Hkv, Dk)  v         (B, T, Hkv, Dv)
  ///     out (B, T, Hq, Dv)     k_anchor  (B, A, Hkv, Dk)  v_anchor  (B, A, Hkv, Dv)      absent on rank 0
  ///     lse (B, Hq, T) f32     k_passed  (B, S, Hkv, Dk)  v_passed  (B, S, Hkv, Dv)      this rank's own selection
  ///
  /// A batch of 1 with contiguous selections is sent in place. Rules and errors as Attention.
  void forward(ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView k_anchor, ConstTensorView v_anchor,
               ConstTensorView k_passed, ConstTensorView v_passed, TensorView out, TensorView lse);

  [[nodiscard]] const ContextPassSpec& spec() const noexcept;
  [[nodiscard]] const Schedule& schedule();
  /// When set, every run appends what it did to `trace` (cleared first). nullptr: off.
  void set_trace(std::vector<struct TraceEvent>* trace) noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// passed[b][s][h] = from[b][rows[s]][h]. rows has S numbers, (B, S) if they differ per batch row, or (B, H, S) if per head too.
/// from (B, T, H, D) -> passed (B, S, H, D). @throws Error(argument) if shapes, dtypes or the number of rows do not fit, or a row is not in
/// [0, T)
void select_rows(ConstTensorView from, std::span<const std::int64_t> rows, TensorView passed);

SEQCCL_END
