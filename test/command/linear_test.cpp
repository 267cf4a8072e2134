// linear_test.cpp - every kind and scan of linear attention by the command: results, gradients, documents, refusals.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "command/linear_job.hpp"
#include "command/linear_options.hpp"
#include "command/support.hpp"

namespace seqccl::command::test {
namespace {

using nlohmann::json;

constexpr LinearKind all_kinds[] = {LinearKind::basic, LinearKind::constant_decay, LinearKind::scalar_gate, LinearKind::vector_gate,
                                    LinearKind::rwkv6, LinearKind::delta,          LinearKind::gated_delta, LinearKind::kda};

LinearSpec small(LinearKind kind) {
  LinearSpec spec;
  spec.batch = 2;
  spec.heads = 2;
  spec.head_dim = 8;
  spec.v_head_dim = 6;
  spec.kind = kind;
  spec.partition = Partition::contiguous(45, 1);
  return spec;
}

/// Writes random tensors of the kind, with gradients, states only if `has_states`.
std::string file_of(const Folder& folder, LinearKind kind, bool has_states = true) {
  const LinearTensors tensors = random_linear(small(kind), true, 7);
  const HostTensor state = random_tensor(f32, {2, 2, 8, 6}, 20), dstate = random_tensor(f32, {2, 2, 8, 6}, 21);
  std::vector<NamedTensor> named = {{"q", &tensors.q}, {"k", &tensors.k}, {"v", &tensors.v}, {"dout", &tensors.dout}};
  for (const NamedTensor& each :
       {NamedTensor{"log_decay", &tensors.log_decay}, NamedTensor{"beta", &tensors.beta}, NamedTensor{"bonus", &tensors.bonus}})
    if (each.tensor->present()) named.push_back(each);
  if (has_states) named.insert(named.end(), {{"state_in", &state}, {"dstate_out", &dstate}});
  const std::string path = folder.file(std::string(name(kind)) + ".safetensors");
  write_safetensors(path, named);
  return path;
}

TEST(Linear, every_kind_by_every_scan_is_right) {
  const Folder folder;
  for (const LinearKind kind : all_kinds)
    for (const char* partition : {"zigzag", "uneven:20,0,25"}) {
      const std::string out = folder.file("out.safetensors");
      const Ran ran = run({"run", "linear", "-i", file_of(folder, kind), "-o", out, "--ranks", "3", "--scan", "all", "--partition",
                           partition, "--check", "--json"});
      ASSERT_EQ(ran.code, 0) << name(kind) << '\n' << ran.out << ran.err;
      const json report = json::parse(ran.out);
      EXPECT_EQ(report.at("problem").at("kind"), name(kind));  // from the tensors alone
      EXPECT_EQ(report.at("results").size(), 5u);
      for (const json& result : report.at("results"))
        EXPECT_EQ(result.at("backward").at("moved_bytes"), result.at("backward").at("planned_bytes"));
      SafetensorsFile file(out);
      EXPECT_EQ(file.has("dlog_decay"), kind != LinearKind::basic && kind != LinearKind::delta);
      EXPECT_EQ(file.has("dbeta"), is_delta(kind));
      EXPECT_EQ(file.has("dbonus"), kind == LinearKind::rwkv6);
    }
}

TEST(Linear, documents_and_sums_without_order) {
  const Folder folder;
  const Ran packed = run({"run", "linear", "-i", file_of(folder, LinearKind::gated_delta), "--ranks", "4", "--scan", "all", "--documents",
                          "7,0,20,18", "--nodes", "2x2", "--column-blocks", "3", "--check", "--json"});
  ASSERT_EQ(packed.code, 0) << packed.out << packed.err;
  EXPECT_EQ(json::parse(packed.out).at("problem").at("documents"), "7,0,20,18");
  const std::string out = folder.file("out.safetensors"), basic = file_of(folder, LinearKind::basic, false);
  const Ran sums =
      run({"run", "linear", "-i", basic, "-o", out, "--ranks", "3", "--scan", "all", "--not-causal", "--documents", "20,25", "--check"});
  ASSERT_EQ(sums.code, 0) << sums.out << sums.err;
  EXPECT_FALSE(SafetensorsFile(out).has("state_out"));
}

TEST(Linear, what_is_not_right_is_named) {
  const Folder folder;
  const std::string delta = file_of(folder, LinearKind::delta), basic = file_of(folder, LinearKind::basic);
  const auto refused = [](std::vector<std::string> arguments, const std::string& words) {
    arguments.insert(arguments.begin(), {"run", "linear", "-i"});
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, 2);
    EXPECT_NE(ran.err.find(words), std::string::npos) << ran.err;
  };
  refused({basic, "--kind", "delta"}, "beta: it is not there, but --kind delta needs it: [B, N, H] (2, 45, 2)");
  refused({delta, "--kind", "basic"}, "beta: --kind basic has none");
  refused({delta, "--kind", "kda"}, "log_decay: it is not there, but --kind kda needs it: [B, N, H, Dk]");
  refused({delta, "--kind", "rwkv6"}, "log_decay: it is not there");
  refused({delta, "--scan", "tree"}, "want one of: all, all_gather, chain, pipelined_chain, doubling, hierarchical");
  refused({delta, "--documents", "20,20"}, "--documents: documents sum to 40, want 45");
  refused({delta, "--documents", "20,,25"}, "--documents");
  refused({delta, "--scan", "zeco", "--column-blocks", "7"}, "--column-blocks: column_blocks is 7, want 1 to 6");
  refused({delta, "--scan", "hierarchical", "--ranks-per-node", "9"}, "--ranks-per-node: 9 is not right, want at most the 4 ranks");
  refused({delta, "--not-causal"}, "--not-causal: " + delta + " has state_in");
  refused({basic, "--not-causal"}, "--not-causal: " + basic + " has state_in");
  const std::string no_state = file_of(folder, LinearKind::delta, false);
  refused({no_state, "--not-causal"}, "has beta, which means kind delta");
  refused({no_state, "--not-causal", "--kind", "delta"}, "--not-causal: causal is false with kind delta");  // asked for, not the file's
  refused({delta, "--scan", "chain", "--column-blocks", "2"}, "--column-blocks: --scan chain has none, want --scan pipelined_chain");
  refused({delta, "--scan", "lasp2", "--ranks-per-node", "2"}, "--ranks-per-node: --scan all_gather has none, want --scan hierarchical");
  refused({delta, "--ranks-per-node", "4", "--nodes", "2x2", "--scan", "all"}, "--nodes has 2 ranks a node");
}

TEST(Linear, random_problems_are_realistic) {
  LinearSpec spec = small(LinearKind::kda);
  const LinearTensors tensors = random_linear(spec, true, 3);
  for (std::int64_t row = 0; row < tensors.k.size(); row += 8) {
    double square = 0;
    for (std::int64_t d = 0; d < 8; ++d) square += tensors.k.get(row + d) * tensors.k.get(row + d);
    EXPECT_NEAR(square, 1, 1e-5);
  }
  for (std::int64_t i = 0; i < tensors.beta.size(); ++i) {
    EXPECT_GT(tensors.beta.get(i), 0);
    EXPECT_LT(tensors.beta.get(i), 1);
  }
  for (std::int64_t i = 0; i < tensors.log_decay.size(); ++i) EXPECT_LT(tensors.log_decay.get(i), 0);
  EXPECT_EQ(kind_of(tensors), LinearKind::kda);
}

TEST(Linear, bench_explain_and_draw_know_every_kind) {
  const Folder folder;
  for (const LinearKind kind : all_kinds) {
    const Ran bench = run({"bench", "linear", "--ranks", "2", "--tokens", "64", "--repeat", "1", "--warmup", "0", "--heads", "2",
                           "--head-dim", "8", "--kind", name(kind), "--backward", "--json"});
    ASSERT_EQ(bench.code, 0) << name(kind) << bench.out << bench.err;
    EXPECT_EQ(json::parse(bench.out).at("results").size(), 10u) << bench.out;
    const Ran explain =
        run({"explain", "linear", "--ranks", "4", "--nodes", "2x2", "--tokens", "256", "--kind", name(kind), "--backward", "--json"});
    ASSERT_EQ(explain.code, 0) << name(kind) << explain.out << explain.err;
    const json report = json::parse(explain.out);
    EXPECT_EQ(report.at("candidates").size(), 5u);
    for (const json& candidate : report.at("candidates")) EXPECT_TRUE(candidate.at("proven").get<bool>());
  }
  EXPECT_EQ(run({"explain", "linear", "--ranks", "3", "--tokens", "300", "--documents", "100,200", "--kind", "delta"}).code, 0);
  const Ran sums = run({"explain", "linear", "--ranks", "3", "--tokens", "300", "--not-causal", "--kind", "basic", "--backward"});
  EXPECT_EQ(sums.code, 0) << sums.out << sums.err;
  EXPECT_EQ(run({"draw", "linear", "--ranks", "4", "--tokens", "1k", "--scan", "zeco", "-o", folder.file("zeco.svg")}).code, 0);
}

}  // namespace
}  // namespace seqccl::command::test
