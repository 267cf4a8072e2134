// shape_options.cpp - problems that are described by numbers instead of a file: for bench, explain and draw.
// SPDX-License-Identifier: Apache-2.0
#include "command/shape_options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "command/cluster_file.hpp"
#include "command/names.hpp"
#include "command/number_option.hpp"
#include "command/options.hpp"
#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

/// "LATENCY_US,GB_S"
LinkClass parse_link(const char* option, const std::string& text) {
  double numbers[2] = {0, 0};
  const char *at = text.data(), *end = at + text.size();
  for (int i = 0; i < 2; ++i) {
    const auto [next, error] = std::from_chars(at, end, numbers[i]);
    const bool is_last = i == 1;
    if (error != std::errc{} || (is_last ? next != end : next == end || *next != ','))
      throw Error(ErrorKind::argument, fmt::format("{}: '{}' is not right, want LATENCY_US,GB_PER_S such as 2,10", option, text));
    at = next + 1;
  }
  if (!(numbers[0] >= 0) || !(numbers[1] > 0) || numbers[0] > 1e9 || numbers[1] > 1e9)
    throw Error(ErrorKind::argument, fmt::format("{}: '{}' is not right, want a latency >= 0 and a rate > 0", option, text));
  return {numbers[0] * 1e-6, numbers[1] * 1e9};
}

}  // namespace

void require_tokens(std::int64_t num_tokens) {
  if (num_tokens < 1 || num_tokens > max_size)
    throw Error(ErrorKind::argument, fmt::format("--tokens: {} is not right, want 1 to 2^40", num_tokens));
}

void AttentionShape::add_sizes_to(CLI::App& app) {
  add_count(app, "--batch", batch, "B", 1, max_size);
  add_count(app, "--q-heads", q_heads, "Hq", 1, max_size);
  add_count(app, "--kv-heads", kv_heads, "Hkv, a divisor of Hq", 1, max_size);
  add_count(app, "--head-dim", head_dim, "D", 1, max_size);
  add_count(app, "--v-head-dim", v_head_dim, "Dv (default: D)", 1, max_size);
  app.add_option("--dtype", dtype, "f32|f16|bf16")->capture_default_str();
}

void AttentionShape::add_to(CLI::App& app) {
  add_sizes_to(app);
  app.add_option("--mask", mask, mask_help)->capture_default_str();
  app.add_option("--partition", partition, "contiguous|zigzag|striped|uneven:T0,T1,...")->capture_default_str();
}

AttentionSpec AttentionShape::sizes(std::int64_t num_tokens) const {
  require_tokens(num_tokens);
  if (q_heads % kv_heads != 0)
    throw Error(ErrorKind::argument, fmt::format("--kv-heads: {} is not right, want a divisor of --q-heads {}", kv_heads, q_heads));
  AttentionSpec spec;
  spec.batch = batch;
  spec.q_heads = q_heads;
  spec.kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.v_head_dim = v_head_dim;
  spec.dtype = parse_dtype(dtype);
  return spec;
}

AttentionSpec AttentionShape::spec(std::int64_t num_tokens, int num_ranks) const {
  AttentionSpec spec = sizes(num_tokens);
  spec.mask = parse_mask(mask, num_tokens);
  spec.partition = parse_partition(partition, num_tokens, num_ranks);
  return spec;
}

nlohmann::ordered_json AttentionShape::sizes_json() const {
  return {{"batch", batch},
          {"q_heads", q_heads},
          {"kv_heads", kv_heads},
          {"head_dim", head_dim},
          {"v_head_dim", v_head_dim == 0 ? head_dim : v_head_dim},
          {"dtype", seqccl::name(parse_dtype(dtype))}};
}
nlohmann::ordered_json AttentionShape::json() const {
  nlohmann::ordered_json fields = sizes_json();
  fields["mask"] = mask;
  fields["partition"] = partition;
  return fields;
}

void LinearShape::add_to(CLI::App& app) {
  add_count(app, "--batch", batch, "B", 1, max_size);
  add_count(app, "--heads", heads, "H", 1, max_size);
  add_count(app, "--head-dim", head_dim, "Dk", 1, max_size);
  add_count(app, "--v-head-dim", v_head_dim, "Dv (default: Dk)", 1, max_size);
  app.add_option("--dtype", dtype, "f32|f16|bf16")->capture_default_str();
  app.add_option("--kind", kind, fmt::format("{}", fmt::join(kind_list(), "|")))->capture_default_str();
  app.add_option("--partition", partition, "contiguous|zigzag|uneven:T0,T1,...")->capture_default_str();
}

LinearSpec LinearShape::spec(std::int64_t num_tokens, int num_ranks) const {
  require_tokens(num_tokens);
  LinearSpec spec;
  spec.batch = batch;
  spec.heads = heads;
  spec.head_dim = head_dim;
  spec.v_head_dim = v_head_dim;
  spec.dtype = parse_dtype(dtype);
  spec.kind = parse_kind(kind);
  spec.partition = parse_partition(partition, num_tokens, num_ranks);
  spec.state_out = true;
  return spec;
}

nlohmann::ordered_json LinearShape::json() const {
  return {{"batch", batch},
          {"heads", heads},
          {"head_dim", head_dim},
          {"v_head_dim", v_head_dim == 0 ? head_dim : v_head_dim},
          {"dtype", seqccl::name(parse_dtype(dtype))},
          {"kind", kind},
          {"partition", partition}};
}

void ClusterOptions::add_to(CLI::App& app, bool has_memory) {
  app.add_option("--cluster", base,
                 "threads (the default: ranks as threads of one machine: 1,8 inside, 20 GFLOP/s, 8 GB/s memory) | gpus (8 to a node: 5,300 "
                 "inside, 10,45 between, 400000 GFLOP/s, 2500 GB/s memory, 5 us a kernel) | FILE.json, as seqccl calibrate writes it; the "
                 "options below change single "
                 "figures");
  app.add_option("--nodes", nodes, "KxM: K nodes of M ranks (default: threads one node, gpus 8 ranks a node)");
  app.add_option("--inside", inside, "Links inside a node: LATENCY_US,GB_PER_S (nodes of several ranks)");
  app.add_option("--between", between,
                 "Links between nodes: LATENCY_US,GB_PER_S (several nodes: --nodes, or --cluster gpus beyond 8 ranks)");
  add_number(app, "--gflops", gflops, "GFLOP/s of a rank's kernels", 1e-6, 1e9, "a number from 1e-6 to 1e9");
  if (has_memory) add_number(app, "--memory", memory, "GB/s of a rank's memory", 1e-6, 1e9, "a number from 1e-6 to 1e9");
}

std::string cluster_kind(const std::string& text) {
  return is_cluster_file(text) ? text : resolve(cluster_names(), text.empty() ? "threads" : text);
}

Cluster ClusterOptions::cluster(int num_ranks) const {
  const Cluster cluster = one_cluster(num_ranks);
  require_used(std::span(&cluster, 1));
  return cluster;
}

void ClusterOptions::require_used(std::span<const Cluster> clusters) const {
  const auto nodes_of = [](const Cluster& each) { return std::set<int>(each.topology.node.begin(), each.topology.node.end()).size(); };
  const auto none = [&](auto&& is_there) { return std::none_of(clusters.begin(), clusters.end(), is_there); };
  if (!between.empty() && none([&](const Cluster& each) { return nodes_of(each) > 1; }))
    throw Error(ErrorKind::argument,
                fmt::format("--between: '{}' would do nothing: all ranks are on one node; want --nodes KxM with K above "
                            "1, or --cluster gpus with more ranks (8 to a node, so 16, 24, ...)",
                            between));
  if (!inside.empty() &&
      none([&](const Cluster& each) { return each.topology.node.empty() || nodes_of(each) < each.topology.node.size(); }))
    throw Error(ErrorKind::argument,
                fmt::format("--inside: '{}' would do nothing: every rank is a node of its own; want --nodes KxM with M above 1", inside));
}

Cluster ClusterOptions::one_cluster(int num_ranks) const {
  Cluster cluster = Cluster::thread_ranks();
  const std::string kind = cluster_kind(base);
  const std::optional<ClusterFile> file = is_cluster_file(kind) ? std::optional(read_cluster(kind)) : std::nullopt;
  if (file) cluster = file->cluster;
  if (kind == "gpus") cluster = {{}, {5e-6, 300e9}, {10e-6, 45e9}, 400e12, 2500e9, 5e-6};
  cluster.topology = parse_nodes(nodes, num_ranks);
  if (kind == "gpus" && nodes.empty() && num_ranks > 8 && num_ranks % 8 == 0) cluster.topology = Topology::nodes(num_ranks / 8, 8);
  if (file && !file->has_between && between.empty() && !cluster.topology.node.empty())
    throw Error(ErrorKind::argument, fmt::format("--nodes: '{}' has links between nodes, but '{}' has none; want --between "
                                                 "LATENCY_US,GB_PER_S, or a file of seqccl calibrate --between PATH",
                                                 nodes, kind));
  if (!inside.empty()) cluster.inside = parse_link("--inside", inside);
  if (!between.empty()) cluster.between = parse_link("--between", between);
  if (gflops > 0) cluster.flops_per_s = gflops * 1e9;
  if (memory > 0) cluster.memory_bytes_per_s = memory * 1e9;
  return cluster;
}

}  // namespace seqccl::command
