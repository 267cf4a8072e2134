// bidirectional.hpp - linear attention without an order: every token reads the sum over its document.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "seqccl/collectives.hpp"

SEQCCL_BEGIN
namespace collectives {

///     out_t = scale E^T q_t,    E = sum of k v^T over the document of t
///
/// An all-reduce of E over the ranks that have tokens of the document, backward one of E and dE = scale sum of q dout^T together.
[[nodiscard]] Schedule bidirectional_forward(const LinearSpec& spec, Rank rank);
[[nodiscard]] Schedule bidirectional_backward(const LinearSpec& spec, Rank rank);

}  // namespace collectives
SEQCCL_END
