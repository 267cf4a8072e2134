// spec.hpp - what the checks of all specs share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <array>
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

/// What a scan of states needs of its settings; `columns` = value dim of a state.
void check_scan(const char* who, Scan scan, int column_blocks, std::int64_t columns, int ranks_per_node, const Partition& partition);

/// The value of that name. @throws Error(argument) listing the names
template <class Value, std::size_t count>
[[nodiscard]] Value from_name(const std::string& text, const char* who, const std::array<Value, count>& values) {
  std::string known;
  for (const Value value : values) {
    if (text == name(value)) return value;
    known += (known.empty() ? "" : ", ") + std::string(name(value));
  }
  throw refuse(who, fmt::format("'{}' is not known; there are: {}", text, known));
}

}  // namespace collectives
SEQCCL_END
