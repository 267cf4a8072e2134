// shape_options.hpp - problems that are described by numbers instead of a file: for bench, explain and draw.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "seqccl/attention.hpp"
#include "seqccl/linear_attention.hpp"
#include "seqccl/simulate.hpp"

namespace seqccl::command {

/// Softmax attention.
struct AttentionShape {
  std::int64_t batch = 1, q_heads = 8, kv_heads = 2, head_dim = 64, v_head_dim = 0;
  std::string dtype = "f32", mask = "causal", partition = "zigzag";

  void add_to(CLI::App& app);
  void add_sizes_to(CLI::App& app);  // all but mask and partition
  /// @throws Error(argument)
  [[nodiscard]] AttentionSpec spec(std::int64_t num_tokens, int num_ranks) const;
  [[nodiscard]] AttentionSpec sizes(std::int64_t num_tokens) const;  // without mask and partition
  /// For rows of results.
  [[nodiscard]] nlohmann::ordered_json json() const;
  [[nodiscard]] nlohmann::ordered_json sizes_json() const;
};

/// Linear attention.
struct LinearShape {
  std::int64_t batch = 1, heads = 8, head_dim = 64, v_head_dim = 0;
  std::string dtype = "f32", partition = "contiguous", kind = "scalar_gate";

  void add_to(CLI::App& app);
  [[nodiscard]] LinearSpec spec(std::int64_t num_tokens, int num_ranks) const;
  [[nodiscard]] nlohmann::ordered_json json() const;
};

/// @throws Error(argument) unless 1 to 2^40
void require_tokens(std::int64_t num_tokens);

/// What --cluster means: "threads", "gpus" or the file that it names. @throws Error(argument)
[[nodiscard]] std::string cluster_kind(const std::string& text);

/// The machine that explain and draw simulate.
struct ClusterOptions {
  std::string base, nodes, inside, between;
  double gflops = 0, memory = 0;

  void add_to(CLI::App& app, bool has_memory = true);
  /// @throws Error(argument), also if --inside or --between is for links that it does not have
  [[nodiscard]] Cluster cluster(int num_ranks) const;
  /// The same without that: one of several machines.
  [[nodiscard]] Cluster one_cluster(int num_ranks) const;
  /// @throws Error(argument) if --inside or --between is for links that none of them has
  void require_used(std::span<const Cluster> clusters) const;
};

}  // namespace seqccl::command
