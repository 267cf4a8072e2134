// bench_rows.hpp - rows of `seqccl bench` as other tools read them, and beside each other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace seqccl::command {

/// Objects as lines of comma-separated values under their names; lists and objects inside them are left out.
[[nodiscard]] std::string csv_text(const nlohmann::ordered_json& rows);

/// What a row measures, apart from the path: "all_gather, 4 ranks, 64.0 KiB, f32", "ring forward, 4 ranks, 4096 tokens".
[[nodiscard]] std::string row_text(const nlohmann::ordered_json& row);

/// The same with all that makes rows different problems: path, dtype, sizes, mask, partition, as far as the row has them. Rows are compared
/// only if it is the same.
[[nodiscard]] std::string row_key(const nlohmann::ordered_json& row);

/// The median times of several paths in one table, a column per path, with how many times longer than the first each takes.
[[nodiscard]] std::string paths_text(const nlohmann::ordered_json& rows);

/// Rows of pairs of ranks as tables of ranks by ranks: latency of the smallest size in us, bandwidth of the largest in GB/s, and what is
/// `outlier` times worse than the median marked.
[[nodiscard]] std::string matrix_text(const nlohmann::ordered_json& rows);
inline constexpr double outlier = 1.5;

}  // namespace seqccl::command
