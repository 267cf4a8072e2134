// delta.hpp - the linear kernels of the delta kinds: chunks of 64 tokens in WY form; linear_* call these where beta is given.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "seqccl/kernels.hpp"

SEQCCL_BEGIN
namespace cpu {

// S_t = (I - beta_t k_t k_t^T) diag(exp(log_decay_t)) S_(t-1) + beta_t k_t v_t^T,  out_t = scale S_t^T q_t. delta_notes.md has the maths.
// DeltaNet has no log_decay, gated delta (B, T, H, 1), KDA (B, T, H, Dk).

/// state = E, and transition = T of the run, if given.
void delta_summary(const LinearSummaryArguments& arguments);
/// out, given the entering state (absent: zero).
void delta_local(const LinearLocalArguments& arguments);
/// dstate = gradient of the entering state from the run's own outputs; transition = transpose of the run's, if given.
void delta_summary_backward(const LinearSummaryBackwardArguments& arguments);
/// dq, dk, dv, and dbeta, dlog_decay if given.
void delta_backward(const LinearBackwardArguments& arguments);

}  // namespace cpu
SEQCCL_END
