// linear_options.cpp - scans by name and the options of linear layers.
// SPDX-License-Identifier: Apache-2.0
#include "command/linear_options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "command/names.hpp"
#include "command/number_option.hpp"
#include "command/options.hpp"
#include "command/refusal.hpp"

namespace seqccl::command {

void LinearOptions::add_to(CLI::App& app, const char* words, const char* default_node) {
  app.add_option("--scan", scan, fmt::format("{}{}, or a published name such as lasp2, zeco", words, fmt::join(scan_list(), "|")))
      ->capture_default_str();
  app.add_option("--documents", documents, "LEN,LEN,...: packed sequences; the state is zero where one begins");
  app.add_flag("--not-causal", not_causal, "Every token reads the state that its whole document leaves (--kind basic)");
  add_count(app, "--column-blocks", column_blocks,
            fmt::format("pipelined_chain: blocks of columns of a state that follow each other (default: {})", LinearSpec{}.column_blocks),
            1, 1 << 20);
  add_count(app, "--ranks-per-node", ranks_per_node, fmt::format("hierarchical: M ranks share a node (default: {})", default_node), 1,
            max_ranks);
}

std::vector<Scan> LinearOptions::scans() const {
  const std::string name = resolve(scan_names(), scan);
  const auto require = [&](const char* option, bool is_given, Scan user) {
    if (!is_given) return;
    if (not_causal) throw Error(ErrorKind::argument, fmt::format("{}: --not-causal has none: it is one all-reduce", option));
    if (name != "all" && name != seqccl::name(user))
      throw Error(ErrorKind::argument, fmt::format("{}: --scan {} has none, want --scan {}", option, name, seqccl::name(user)));
  };
  require("--column-blocks", column_blocks != 0, Scan::pipelined_chain);
  require("--ranks-per-node", ranks_per_node != 0, Scan::hierarchical);
  if (not_causal && name != "all" && name != seqccl::name(Scan::all_gather))
    throw Error(ErrorKind::argument, fmt::format("--scan: '{}' would do nothing: --not-causal has no order to scan, it is one all-reduce; "
                                                 "want --scan all_gather, or none",
                                                 scan));
  if (not_causal) return {Scan::all_gather};  // without order there is nothing to scan: one all-reduce, whatever is named
  std::vector<Scan> scans;
  for (const std::string& each : name == "all" ? scan_list() : std::vector{name}) scans.push_back(scan_from_name(each));
  return scans;
}

void LinearOptions::require_nodes_used(std::string_view text) const {
  const std::string name = resolve(scan_names(), scan);
  if (!not_causal && (name == "all" || name == seqccl::name(Scan::hierarchical))) return;
  throw Error(ErrorKind::argument, fmt::format("--nodes: '{}' would do nothing: {} does not look at nodes; want --scan hierarchical", text,
                                               not_causal ? "--not-causal" : "--scan " + name));
}

int LinearOptions::ranks_per_node_of(int num_ranks, const Topology& topology) const {
  if (ranks_per_node > num_ranks)
    throw Error(ErrorKind::argument,
                fmt::format("--ranks-per-node: {} is not right, want at most the {} ranks", ranks_per_node, num_ranks));
  if (topology.node.empty()) return ranks_per_node;
  const int given = topology.ranks_per_node(num_ranks);
  if (ranks_per_node != 0 && ranks_per_node != given)
    throw Error(ErrorKind::argument,
                fmt::format("--ranks-per-node: {} is not right, --nodes has {} ranks a node; want one of the two", ranks_per_node, given));
  return given;
}

LinearSpec LinearOptions::chosen(LinearSpec spec, Scan chosen_scan, const Topology& topology) const {
  spec.scan = chosen_scan;
  if (column_blocks != 0) spec.column_blocks = column_blocks;
  spec.ranks_per_node = ranks_per_node_of(spec.partition.num_ranks(), topology);
  if (!documents.empty()) spec.documents = parse_counts("--documents", documents);
  if (not_causal) {
    spec.causal = false;
    spec.state_out = false;  // nothing enters or leaves a layer without order
  }
  return spec;
}

std::string refusal(const LinearSpec& spec) {
  return refusal_of([&] { validate(spec, spec.partition.num_ranks()); });
}

}  // namespace seqccl::command
