// linear_options.hpp - the scan of a linear layer by any of its published names, and what else shapes it: documents, order, blocks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "seqccl/linear_attention.hpp"

namespace seqccl::command {

/// --scan, --documents, --not-causal, --column-blocks, --ranks-per-node.
struct LinearOptions {
  std::string scan{};  // its default
  std::string documents{};
  bool not_causal = false;
  int column_blocks = 0, ranks_per_node = 0;  // 0: not given

  /// `words`: what --scan takes besides the names of scans.
  /// `default_node`: what --ranks-per-node is if it is not given.
  void add_to(CLI::App& app, const char* words, const char* default_node = "as --nodes has it, or a natural number");
  /// One scan, or every one for "all". @throws Error(argument), also if an option is given that none of them takes
  [[nodiscard]] std::vector<Scan> scans() const;
  /// @throws Error(argument) if --nodes says who shares a node and no named scan asks; `text` is what was written
  void require_nodes_used(std::string_view text) const;
  /// What tables call it.
  [[nodiscard]] const char* label(Scan scan_of_row) const { return not_causal ? "all_reduce" : seqccl::name(scan_of_row); }
  /// `spec` as these options and the scan want it; nodes of `topology` are those of hierarchical. @throws Error(argument)
  [[nodiscard]] LinearSpec chosen(LinearSpec spec, Scan scan, const Topology& topology) const;

 private:
  [[nodiscard]] int ranks_per_node_of(int num_ranks, const Topology& topology) const;
};

/// Why the library refuses this problem, beginning with the option to change; empty if it does not.
[[nodiscard]] std::string refusal(const LinearSpec& spec);

}  // namespace seqccl::command
