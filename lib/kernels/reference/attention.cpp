// attention.cpp - the definition of right for softmax attention: the obvious loops in double.
// SPDX-License-Identifier: Apache-2.0
#include "attention_loops.hpp"

SEQCCL_BEGIN
namespace reference {

void attend(const Attention& problem, TensorView out, TensorView lse, std::span<const std::int64_t> rows, int num_threads) {
  AttentionLoops<double>(problem).forward(out, lse, rows, num_threads);
}

void attend_backward(const Attention& problem, ConstTensorView dout, TensorView dq, TensorView dk, TensorView dv, TensorView dsinks,
                     int num_threads) {
  AttentionLoops<double>(problem).backward(dout, dq, dk, dv, dsinks, num_threads);
}

}  // namespace reference
SEQCCL_END
