// options.hpp - the little languages of the command line: masks, partitions, meshes, lists of sizes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "command/ranks.hpp"
#include "seqccl/linear_attention.hpp"
#include "seqccl/mask.hpp"
#include "seqccl/mesh.hpp"
#include "seqccl/partition.hpp"

namespace seqccl::command {

inline constexpr std::int64_t max_ranks = 1024;
/// Of tokens and sizes.
inline constexpr std::int64_t max_size = std::int64_t{1} << 40;

// All throw Error(argument) that names the option, what was written and what would be right.

/// For --help.
inline constexpr const char* mask_help =
    "full|causal|prefix:LEN|window:LEFT,RIGHT|documents:LEN,LEN,...|slices:FILE, joined by + to intersect. FILE: a JSON list of "
    R"({"q": [FIRST, END], "k": [FIRST, END], "low": L, "high": H, "batch": B}: query i sees key j if low <= j - i <= high)";
/// full|causal|prefix:LEN|window:LEFT,RIGHT|documents:LEN,LEN,...|slices:FILE, joined by '+' for intersections. FILE is JSON:
/// [{"q": [first, end], "k": [first, end], "low": ..., "high": ..., "batch": ...}, ...]: keys j with low <= j - i <= high.
[[nodiscard]] Mask parse_mask(std::string_view text);
/// The same, of a sequence of so many tokens: what lies beyond it would do nothing and is refused.
[[nodiscard]] Mask parse_mask(std::string_view text, std::int64_t num_tokens);

/// contiguous|zigzag|striped|uneven:T0,T1,...
[[nodiscard]] Partition parse_partition(std::string_view text, std::int64_t num_tokens, int num_ranks);

/// heads:U,outer:O,inner:I in any order, what is left out is 1; and heads_outermost, which needs heads and rings to choose between.
[[nodiscard]] Mesh parse_mesh(std::string_view text);

/// KxM: K nodes of M ranks. "" is one node.
[[nodiscard]] Topology parse_nodes(std::string_view text, int num_ranks);

/// A whole number; k, m, g mean 2^10, 2^20, 2^30.
[[nodiscard]] std::int64_t parse_count(std::string_view option, std::string_view text);
[[nodiscard]] std::int64_t parse_count(std::string_view option, std::string_view text, std::int64_t low, std::int64_t high);
/// A number from `low` to `high`; `want` says so in words.
[[nodiscard]] double parse_number(std::string_view option, std::string_view text, double low, double high, std::string_view want);
/// For --help; empty if it is below `low`, which stands for "not given".
[[nodiscard]] std::string number_text(double number, double low);
/// The number as parse_count reads it: "4k".
[[nodiscard]] std::string count_text(std::int64_t count);
/// Numbers with commas between them.
[[nodiscard]] std::vector<std::int64_t> parse_counts(std::string_view option, std::string_view text);

[[nodiscard]] DType parse_dtype(std::string_view text);
[[nodiscard]] LinearKind parse_kind(std::string_view text);
[[nodiscard]] RankTransport parse_transport(std::string_view text);
/// For --help.
inline constexpr const char* transport_help =
    "What ranks are: threads of this process|shm: processes that share memory|ucx: processes that talk over UCX";
/// What SEQCCL_TRANSPORT says; threads if it is not set, or automatic.
[[nodiscard]] std::string default_transport();
/// 1 to max_ranks. @throws Error(argument)
void require_ranks(std::int64_t num_ranks);

}  // namespace seqccl::command
