// linear_bonus.hpp - what the bonus of RWKV6 adds to a chunk, forward and backward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "linear_chunk.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

/// A token reads the state before it, and itself with weight w_t = sum_d q_td u_d k_td:  out_t += w_t v_t. With s_t = v_t . dO_t
///
///     dq_t += s_t u k_t    dk_t += s_t u q_t    du += sum_t s_t q_t k_t    dv_t += w_t dO_t
class Bonus {
 public:
  /// `bonus`: absent, or (B, T, H, Dk) f32 with strides 0 on B, T.
  Bonus(const ConstTensorView& bonus, std::int64_t head, std::int64_t key_dim, Workspace& workspace) : key_dim_(key_dim) {
    if (!bonus) return;
    numbers_ = workspace.rows(1, key_dim), share_ = workspace.rows(1, key_dim);
    weighted_ = workspace.rows(chunk_tokens, key_dim);
    numbers_.row = share_.row = 0;
    if (bonus.extent(0) > 0 && bonus.extent(1) > 0) load_tokens(bonus, 0, head, 0, 1, 1, numbers_);
  }

  /// w_t of `count` tokens.
  void weights(Rows q, Rows k, std::int64_t count, float* to) const {
    row_ops().multiply(count, key_dim_, numbers_, k, weighted_);
    row_ops().dots(count, key_dim_, q, weighted_, to);
  }
  /// What tokens add to their own rows, s being given. dq is that of readers: of token t + 1 in row t. `carry` (Dk) is what the first token
  /// behind the chunk adds to the last row, and becomes what this chunk's first token adds to the chunk before.
  void backward(Rows q, Rows k, const float* s, std::int64_t count, RowsOut dq, RowsOut dk, float* carry, double* dbonus) const {
    const RowOps& ops = row_ops();
    ops.multiply(count, key_dim_, numbers_, k, weighted_);
    ops.scale_add(count - 1, key_dim_, s + 1, weighted_ + 1, dq);
    const float once[] = {1.0F};
    ops.scale_add(1, key_dim_, once, {carry, 0}, dq + (count - 1));
    ops.scale(1, key_dim_, s, weighted_, {carry, 0});
    ops.multiply(count, key_dim_, numbers_, q, weighted_);
    ops.scale_add(count, key_dim_, s, weighted_, dk);
    ops.scale(count, key_dim_, s, k, weighted_);
    std::fill_n(share_.data, key_dim_, 0.0F);
    ops.multiply_add(count, key_dim_, weighted_, q, share_);
    for (std::int64_t d = 0; d < key_dim_; ++d) dbonus[d] += share_.data[d];
  }

 private:
  std::int64_t key_dim_;
  RowsOut numbers_{}, share_{}, weighted_{};  // (Dk) (Dk) (C, Dk)
};

}  // namespace cpu::linear
SEQCCL_END
