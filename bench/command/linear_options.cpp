// linear_options.cpp - scans by name and the options of linear layers.
// SPDX-License-Identifier: Apache-2.0
#include "command/linear_options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "command/choices.hpp"
#include "command/names.hpp"
#include "command/options.hpp"

namespace seqccl::command {

void LinearOptions::add_to(CLI::App& app, const char* words) {
  app.add_option("--scan", scan, fmt::format("{}{}, or a published name such as lasp2, zeco", words, fmt::join(scan_list(), "|")))
      ->capture_default_str();
  app.add_option("--documents", documents, "LEN,LEN,...: packed sequences; the state is zero where one begins");
  app.add_flag("--not-causal", not_causal, "Every token reads the state that its whole document leaves (--kind basic)");
  app.add_option("--column-blocks", column_blocks, "pipelined_chain: blocks of columns of a state that follow each other")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--ranks-per-node", ranks_per_node, "hierarchical: M ranks share a node (default: as --nodes has it, or a natural number)")
      ->check(CLI::Range(1, 1024));
}

std::vector<Scan> LinearOptions::scans() const {
  const std::string name = resolve(scan_names(), scan);
  if (not_causal) return {Scan::all_gather};  // without order there is nothing to scan: one all-reduce, whatever is named
  std::vector<Scan> scans;
  for (const std::string& each : name == "all" ? scan_list() : std::vector{name}) scans.push_back(scan_from_name(each));
  return scans;
}

LinearSpec LinearOptions::chosen(LinearSpec spec, Scan chosen_scan, const Topology& topology) const {
  spec.scan = chosen_scan;
  spec.column_blocks = column_blocks;
  spec.ranks_per_node = ranks_per_node;
  if (ranks_per_node == 0 && !topology.node.empty()) spec.ranks_per_node = topology.ranks_per_node(spec.partition.num_ranks());
  if (!documents.empty()) spec.documents = parse_counts("--documents", documents);
  if (not_causal) {
    spec.causal = false;
    spec.state_out = false;  // nothing enters or leaves a layer without order
  }
  return spec;
}

std::string refusal(const LinearSpec& spec) {
  try {
    validate(spec, spec.partition.num_ranks());
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::argument) throw;
    return with_option(error.what());
  }
  return {};
}

}  // namespace seqccl::command
