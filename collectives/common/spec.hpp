// spec.hpp - what the checks of all specs share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <utility>

#include "seqccl/attention.hpp"
#include "seqccl/linear_attention.hpp"

SEQCCL_BEGIN
namespace collectives {

/// "AttentionSpec: head_dim is 0, want 1 or more"
[[nodiscard]] Error refuse(const char* who, const std::string& what);

/// The extents' product in bytes must fit 62 bits: everything later computes with it.
void check_sizes(const char* who, std::span<const std::pair<const char*, std::int64_t>> extents);
inline void check_sizes(const char* who, std::initializer_list<std::pair<const char*, std::int64_t>> extents) {
  check_sizes(who, std::span(extents.begin(), extents.size()));
}

}  // namespace collectives
SEQCCL_END
