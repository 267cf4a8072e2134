// methods.cpp - the table of softmax methods.
// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "seqccl/collectives.hpp"

SEQCCL_BEGIN

std::span<const MethodEntry> method_table() noexcept {
  using namespace collectives;
  static constexpr std::array table{
      MethodEntry{Method::ring, "ring", ring_forward, ring_backward},
      MethodEntry{Method::bidirectional_ring, "bidirectional_ring", bidirectional_ring_forward, bidirectional_ring_backward},
      MethodEntry{Method::kv_all_gather, "kv_all_gather", kv_all_gather_forward, kv_all_gather_backward},
      MethodEntry{Method::head_swap, "head_swap", head_swap_forward, head_swap_backward},
      MethodEntry{Method::token_ring, "token_ring", token_ring_forward, token_ring_backward},
      MethodEntry{Method::balanced_helper, "balanced_helper", balanced_helper_forward, balanced_helper_backward},
  };
  return table;
}

const MethodEntry& entry_of(Method method) {
  for (const MethodEntry& entry : method_table())
    if (entry.method == method) return entry;
  throw Error(ErrorKind::internal, "entry_of: automatic is not a method of its own");
}

SEQCCL_END
