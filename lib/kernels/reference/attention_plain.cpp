// attention_plain.cpp - the bar for low precision: the same obvious loops with sums in float.
// SPDX-License-Identifier: Apache-2.0
#include "attention_loops.hpp"

SEQCCL_BEGIN
namespace reference {

void attend_plain(const Attention& problem, TensorView out, TensorView lse, int num_threads) {
  AttentionLoops<float>(problem).forward(out, lse, {}, num_threads);
}

void attend_backward_plain(const Attention& problem, ConstTensorView dout, TensorView dq, TensorView dk, TensorView dv, int num_threads) {
  AttentionLoops<float>(problem).backward(dout, dq, dk, dv, {}, num_threads);
}

}  // namespace reference
SEQCCL_END
