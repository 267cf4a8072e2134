// delta.hpp - the linear ops of the delta kinds: delta rule, gated delta, KDA.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "seqccl/kernels.hpp"

SEQCCL_BEGIN
namespace cpu {

/// As the ops of the same names in kernels.hpp, where `beta` is given. The decay kind is that of log_decay: absent, scalar or vector.
void delta_summary(const LinearSummaryArguments& arguments);
void delta_local(const LinearLocalArguments& arguments);
void delta_summary_backward(const LinearSummaryBackwardArguments& arguments);
void delta_backward(const LinearBackwardArguments& arguments);

}  // namespace cpu
SEQCCL_END
