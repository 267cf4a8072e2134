// cluster_file.hpp - descriptions of a cluster as JSON: `seqccl calibrate` writes them, `--cluster FILE.json` reads them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "seqccl/simulate.hpp"

namespace seqccl::command {

/// What simulate.hpp calls a Cluster, apart from who shares a node, which --nodes says:
///
///     {
///       "seqccl_cluster": 1,                                     version of this form
///       "inside":  {"latency_us": 0.6, "gb_per_s": 11.0},        links between ranks of one node; GB are 1e9 bytes
///       "between": {"latency_us": 9.0, "gb_per_s": 1.9},         and of different nodes; may be left out
///       "gflop_per_s": 95.0,                                     of a rank's kernels while all ranks of its node compute
///       "memory_gb_per_s": 20.0,                                 of a rank's copies, bytes read and written, likewise
///       "step_overhead_us": 0.2,                                 per compute step
///       "measured": {...}                                        for people: where and how; not read
///     }
struct ClusterFile {
  Cluster cluster;
  bool has_between = false;
};
/// True of what is a file's name and no cluster's: it ends with .json.
[[nodiscard]] bool is_cluster_file(std::string_view text);
/// @throws Error(argument): not there, not JSON, a field that is missing, not known or not a number in range
[[nodiscard]] ClusterFile read_cluster(const std::string& path);
[[nodiscard]] nlohmann::ordered_json to_json(const ClusterFile& file);

}  // namespace seqccl::command
