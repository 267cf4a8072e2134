// choices_test.cpp - methods by name with meshes, burst and head groups, from the command line to checked results and sweeps.
// SPDX-License-Identifier: Apache-2.0
#include "command/choices.hpp"

#include <algorithm>
#include <cmath>

#include "command/refusal.hpp"
#include "command/support.hpp"
#include "command/sweep.hpp"

namespace seqccl::command::test {
namespace {

using nlohmann::json;

std::string input(const Folder& folder) {
  const std::string path = folder.file("in.safetensors");
  const HostTensor q = random_tensor(f32, {1, 61, 8, 8}, 1), k = random_tensor(f32, {1, 61, 4, 8}, 2),
                   dout = random_tensor(f32, {1, 61, 8, 8}, 4);
  write_safetensors(path, {{"q", &q}, {"k", &k}, {"v", &k}, {"dout", &dout}});
  return path;
}

/// `run attention` on 8 ranks with the given options added.
Ran run_on_8(const std::string& in, std::vector<std::string> options) {
  options.insert(options.begin(), {"run", "attention", "-i", in, "--ranks", "8", "--mask", "causal", "--partition", "zigzag"});
  return run(options);
}

TEST(Choices, meshes_bursts_and_head_groups_are_right) {
  const Folder folder;
  const std::string in = input(folder);
  for (const std::vector<std::string>& options :
       {std::vector<std::string>{"--method", "ring", "--mesh", "heads:2,outer:2,inner:2", "--burst"},
        {"--method", "ring", "--mesh", "heads:4,inner:2,heads_outermost"},
        {"--method", "kv_all_gather", "--mesh", "heads:2,inner:4", "--head-groups", "2"},
        {"--method", "head_swap", "--head-groups", "2"},
        {"--method", "token_ring", "--dtype", "bf16", "--partials-in-dtype"},
        {"--method", "usp", "--nodes", "2x4"},
        {"--method", "burst_engine", "--nodes", "4x2"}}) {
    std::vector<std::string> checked = options;
    checked.insert(checked.end(), {"--check", "--json"});
    const Ran ran = run_on_8(in, checked);
    ASSERT_EQ(ran.code, 0) << options[1] << '\n' << ran.out << ran.err;
    EXPECT_TRUE(json::parse(ran.out).at("passed").get<bool>());
  }
}

TEST(Choices, what_cannot_be_names_the_option) {
  const Folder folder;
  const std::string in = input(folder);
  const auto refused = [&](const std::vector<std::string>& options, const std::string& words) {
    const Ran ran = run_on_8(in, options);
    EXPECT_EQ(ran.code, 2);
    EXPECT_NE(ran.err.find(words), std::string::npos) << ran.err;
  };
  refused({"--mesh", "heads:3"}, "--mesh: mesh has heads 3");
  refused({"--method", "token_ring", "--burst"}, "--burst: backward is burst: method token_ring");
  refused({"--method", "ring", "--head-groups", "2"}, "--head-groups: head_groups is 2");
  refused({"--method", "ring", "--head-groups", "0"}, "--head-groups");
  refused({"--method", "kv_all_gather", "--mesh", "outer:2,inner:4"}, "--mesh: mesh outer is 2");
  refused({"--method", "mesh", "--mesh", "heads=2"}, "heads:U,outer:O,inner:I");
  const Ran all = run_on_8(in, {"--method", "all", "--burst", "--json"});
  ASSERT_EQ(all.code, 0) << all.err;
  const json report = json::parse(all.out);
  EXPECT_EQ(report.at("results").size(), 5u);  // ring, bidirectional_ring, and the three names around ring
  EXPECT_EQ(report.at("refused").size(), 4u);
  EXPECT_NE(report.at("refused")[0].at("why").get<std::string>().find("--burst"), std::string::npos);
}

TEST(Choices, with_option_leaves_other_words_alone) {
  EXPECT_EQ(with_option("AttentionSpec: head_groups is 0, want 1 or more"), "--head-groups: head_groups is 0, want 1 or more");
  EXPECT_EQ(with_option("LinearSpec: partition is striped: no"), "--partition: partition is striped: no");
  EXPECT_EQ(with_option("AttentionSpec: batch is 0"), "batch is 0");
  EXPECT_EQ(with_option("Mask::bind: document lengths sum to 3"), "--mask: document lengths sum to 3");
  EXPECT_EQ(with_option("Mask: documents sum to 3"), "Mask: documents sum to 3");
}

TEST(Choices, explain_shows_the_mesh_and_where_methods_win) {
  const std::vector<std::string> base = {"explain", "attention", "--ranks", "8", "--nodes", "2x4", "--between", "8,1", "--tokens", "1k"};
  std::vector<std::string> one = base, all = base;
  one.insert(one.end(), {"--method", "ring", "--mesh", "heads:2,outer:2,inner:2"});
  const Ran text = run(one);
  ASSERT_EQ(text.code, 0) << text.err;
  for (const char* words : {"mesh: heads 2 x outer 2 x inner 2", "0 1 | 2 3 | 4 5 | 6 7", "rings of rings", "proven"})
    EXPECT_NE(text.out.find(words), std::string::npos) << words << '\n' << text.out;
  all.insert(all.end(), {"--method", "all", "--json"});
  const json report = json::parse(run(all).out);
  ASSERT_EQ(report.at("wins").size(), 9u);
  int num_wins = 0, num_settings = 0;
  for (const json& wins : report.at("wins")) {
    num_wins += wins.at("fastest_in").get<int>();
    num_settings = std::max(num_settings, wins.at("of").get<int>());
    EXPECT_FALSE(wins.at("text").get<std::string>().empty());
  }
  EXPECT_EQ(num_wins, num_settings);
  EXPECT_EQ(report.at("candidates")[7].at("mesh"), (json{{"heads", 4}, {"outer", 1}, {"inner", 2}, {"heads_outermost", false}}));
}

TEST(Choices, automatic_is_answered_with_the_name_that_ran) {
  const Folder folder;
  const Ran ran = run_on_8(input(folder), {"--method", "automatic", "--nodes", "2x4", "--check", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const std::string ran_as = json::parse(ran.out).at("results")[0].at("method");
  const std::vector<std::string> names = method_names();
  EXPECT_NE(std::find(names.begin(), names.end(), ran_as), names.end()) << ran_as;
  AttentionSpec given, chosen;
  given.partition = chosen.partition = Partition::contiguous(8, 8);
  for (const std::string& each : names) {
    chosen = given;
    choose_method(chosen, each, Topology::nodes(2, 4));
    EXPECT_EQ(published_name(given, chosen, Topology::nodes(2, 4)), each);
  }
}

TEST(Choices, mesh_picture_lists_groups) {
  EXPECT_EQ(mesh_picture(std::nullopt), "");
  const std::string picture = mesh_picture(Mesh{.heads = 2, .outer = 1, .inner = 2, .heads_outermost = true});
  EXPECT_NE(picture.find("swapped within    0 2 | 1 3"), std::string::npos) << picture;
  EXPECT_NE(picture.find("rings                       0 1 | 2 3"), std::string::npos) << picture;
}

TEST(Choices, draw_and_bench_take_them) {
  const Folder folder;
  EXPECT_EQ(run({"draw", "attention", "--ranks", "4", "--tokens", "256", "--method", "usp", "-o", folder.file("mesh.svg")}).code, 0);
  const Ran ran =
      run({"bench",     "attention", "--ranks",    "2,4", "--tokens", "96",          "--repeat",         "1", "--warmup",   "0",
           "--q-heads", "4",         "--head-dim", "8",   "--method", "double_ring", "--ranks-per-node", "2", "--backward", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.out << ran.err;
  const json report = json::parse(ran.out);
  ASSERT_EQ(report.at("results").size(), 4u);
  EXPECT_EQ(report.at("results")[0].at("method"), "double_ring");
}

TEST(Sweep, the_winner_is_the_first_that_is_within_a_percent) {
  AttentionSpec spec;
  spec.q_heads = spec.kv_heads = 4;
  spec.head_dim = 32;
  spec.partition = Partition::contiguous(4096, 4);
  Sweep sweep({"compute"}, parse_choices("all"), Passes::forward);
  Cluster slow = Cluster::thread_ranks(), fast = slow;
  slow.flops_per_s = 1e6;  // nothing that is sent matters
  fast.flops_per_s = 1e15;
  const Sweep::Machine machines[] = {{{"slow"}, slow}, {{"fast"}, fast}};
  sweep.add(spec, {}, machines);
  ASSERT_EQ(sweep.rows().size(), 2u);
  EXPECT_FALSE(sweep.rows()[0].runner_up);
  EXPECT_EQ(sweep.choices()[sweep.rows()[0].winner], "ring");
  const Sweep::Row& row = sweep.rows()[1];
  ASSERT_TRUE(row.runner_up);
  EXPECT_GT(row.runner_up_ratio(), even);
  EXPECT_LE(row.seconds[row.winner], even * row.best_s);
  for (std::size_t i = 0; i < row.winner; ++i) EXPECT_FALSE(row.seconds[i] <= even * row.best_s);
  EXPECT_TRUE(std::isnan(row.seconds[8]));  // burst_backward is ring in a forward pass
  EXPECT_EQ(sweep.wins()[row.winner].num_wins, 1u);
}

TEST(Sweep, crossovers_on_given_figures) {
  const Ran ran = run({"explain", "crossovers", "--cluster", "gpus", "--ranks", "4", "--tokens", "4k", "--kv-heads", "32,4", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const json report = json::parse(ran.out);
  EXPECT_EQ(report.at("settings").size(), 2u * 5u);
  for (const json& setting : report.at("settings")) {
    EXPECT_EQ(setting.at("cluster"), "gpus");
    EXPECT_GE(setting.at("runner_up_ratio").get<double>(), 1);
    EXPECT_GE(setting.at("simulated_s").size(), 6u);
  }
  EXPECT_EQ(report.at("wins").size(), 9u);
  const Ran text = run({"explain", "crossovers", "--ranks", "2", "--tokens", "1k", "--gflops", "1000"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("settings simulated"), std::string::npos);
  EXPECT_EQ(run({"explain", "crossovers", "--cluster", "tpus"}).code, 2);
  EXPECT_NE(run({"explain", "crossovers", "--kv-heads", "3"}).err.find("--kv-heads: 3 is not right"), std::string::npos);
}

}  // namespace
}  // namespace seqccl::command::test
