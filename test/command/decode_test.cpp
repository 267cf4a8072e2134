// decode_test.cpp - decoding steps and context_pass by the command: right for every merge, cache and selection; refusals.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "command/context_pass_job.hpp"
#include "command/decode_job.hpp"
#include "command/support.hpp"

namespace seqccl::command::test {
namespace {

using nlohmann::json;

std::string input(const Folder& folder, DType dtype = f32) {
  const std::string path = folder.file("in.safetensors");
  const HostTensor q = random_tensor(dtype, {2, 61, 6, 8}, 1), k = random_tensor(dtype, {2, 61, 3, 8}, 2),
                   v = random_tensor(dtype, {2, 61, 3, 5}, 3);
  write_safetensors(path, {{"q", &q}, {"k", &k}, {"v", &v}});
  return path;
}

TEST(Decode, every_merge_over_blocks_and_pages_is_right) {
  const Folder folder;
  const std::string in = input(folder), out = folder.file("out.safetensors");
  for (const std::vector<std::string>& options : {std::vector<std::string>{},
                                                  {"--new-tokens", "4"},
                                                  {"--new-tokens", "5", "--run-tokens", "2", "--page-tokens", "4"},
                                                  {"--new-tokens", "3", "--result", "by_heads", "--partition", "striped"},
                                                  {"--partition", "uneven:0,60,0", "--repeat", "3"}}) {
    std::vector<std::string> arguments = {"run", "decode", "-i", in, "-o", out, "--ranks", "3", "--merge", "all", "--check", "--json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const Ran ran = run(arguments);
    ASSERT_EQ(ran.code, 0) << ran.out << ran.err;
    const json report = json::parse(ran.out);
    EXPECT_TRUE(report.at("passed").get<bool>());
    ASSERT_EQ(report.at("results").size(), 3u);
    const std::int64_t new_tokens = report.at("problem").at("Tq");
    for (const json& result : report.at("results"))
      EXPECT_EQ(result.at("step").at("moved_bytes"), result.at("step").at("planned_bytes")) << result.at("method");
    SafetensorsFile file(out);
    EXPECT_EQ(file.read("out").shape(), (std::vector<std::int64_t>{2, new_tokens, 6, 5}));
    EXPECT_EQ(file.read("lse").shape(), (std::vector<std::int64_t>{2, 6, new_tokens}));
  }
}

TEST(Decode, the_result_is_the_end_of_causal_attention) {
  const Folder folder;
  const std::string in = input(folder), all = folder.file("all.safetensors"), last = folder.file("last.safetensors");
  ASSERT_EQ(run({"run", "attention", "-i", in, "-o", all, "--ranks", "2", "--method", "ring", "--mask", "causal"}).code, 0);
  ASSERT_EQ(run({"run", "decode", "-i", in, "-o", last, "--ranks", "4", "--new-tokens", "2"}).code, 0);
  const HostTensor want = SafetensorsFile(all).read("out"), got = SafetensorsFile(last).read("out");
  for (std::int64_t b = 0; b < 2; ++b)
    for (std::int64_t i = 0; i < 2 * 6 * 5; ++i)
      EXPECT_NEAR(got.get(b * 60 + i), want.get((b * 61 + 59) * 30 + i), 1e-5) << "row " << b << ", number " << i;
}

TEST(Decode, a_wrong_result_is_seen) {
  AttentionSpec sizes;
  sizes.q_heads = sizes.kv_heads = 2;
  sizes.head_dim = 4;
  const DecodeOptions options{"butterfly"};
  DecodeStep step(options.spec(sizes, 20), options, "contiguous", 20, 3);
  AttentionTensors tensors{
      random_tensor(f32, {1, 1, 2, 4}, 1), random_tensor(f32, {1, 20, 2, 4}, 2), random_tensor(f32, {1, 20, 2, 4}, 3), {}, {}};
  step.spec.merge = DecodeMerge::butterfly;
  RunSettings settings;
  settings.num_ranks = 3;
  DecodeRun run = run_decode(tensors, step, settings);
  const DecodeReference reference(tensors, step);
  ASSERT_EQ(run.out.size(), 3u);
  EXPECT_TRUE(reference.judge(run).passed());
  run.out[2].set(5, run.out[2].get(5) + 1e-3);  // one number on the last rank
  EXPECT_FALSE(reference.judge(run).passed());
  run.out[2].set(5, std::nan(""));
  EXPECT_FALSE(reference.judge(run).passed());
}

TEST(Decode, what_is_not_right_is_named) {
  const Folder folder;
  const std::string in = input(folder);
  const auto refused = [&](std::vector<std::string> arguments, const std::string& words) {
    arguments.insert(arguments.begin(), {"run", "decode", "-i", in});
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, 2);
    EXPECT_NE(ran.err.find(words), std::string::npos) << ran.err;
  };
  refused({"--merge", "ring"}, "--merge: 'ring' is not known; want one of: automatic, all, butterfly, tree, all_to_all");
  refused({"--result", "nowhere"}, "--result");
  refused({"--new-tokens", "61"}, "--new-tokens: 61 is not right, want fewer than the 61 tokens");
  refused({"--new-tokens", "0"}, "--new-tokens");
  refused({"--partition", "uneven:1,2,3,4"}, "60 tokens");
  refused({"--page-tokens", "0"}, "--page-tokens");
  refused({"--forward-only"}, "--forward-only");
}

TEST(Decode, bench_and_explain) {
  const Ran bench = run({"bench", "decode", "--ranks", "1,3", "--tokens", "200", "--repeat", "2", "--warmup", "0", "--q-heads", "4",
                         "--head-dim", "8", "--new-tokens", "2", "--dtype", "bf16", "--json"});
  ASSERT_EQ(bench.code, 0) << bench.out << bench.err;
  const json rows = json::parse(bench.out).at("results");
  ASSERT_EQ(rows.size(), 6u);
  for (const json& row : rows) {
    EXPECT_EQ(row.at("pass"), "step");
    EXPECT_EQ(row.at("check").at("num_wrong"), 0);
    EXPECT_EQ(row.at("moved_bytes"), row.at("planned_bytes"));
  }
  for (const char* ranks : {"1", "4", "5", "8"}) {
    const Ran explain = run({"explain", "decode", "--ranks", ranks, "--tokens", "1000", "--new-tokens", "3", "--batch", "2", "--json"});
    ASSERT_EQ(explain.code, 0) << explain.out << explain.err;
    const json candidates = json::parse(explain.out).at("candidates");
    EXPECT_EQ(candidates.size(), 3u);
    for (const json& candidate : candidates) EXPECT_TRUE(candidate.at("proven").get<bool>());
  }
  const Ran one = run({"explain", "decode", "--merge", "tree", "--rank", "0"});
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_NE(one.out.find("steps of rank 0"), std::string::npos);
}

TEST(ContextPass, bench_is_right_with_and_without_selections) {
  for (const std::vector<std::string>& options : {std::vector<std::string>{},
                                                  {"--passed", "0"},
                                                  {"--anchor", "0", "--passed", "3"},
                                                  {"--partition", "uneven:40,0,60", "--passed", "0"},
                                                  {"--dtype", "f16", "--batch", "2"}}) {
    std::vector<std::string> arguments = {"bench", "context_pass", "--ranks", "3",          "--tokens", "100",        "--repeat",
                                          "1",     "--q-heads",    "4",       "--head-dim", "8",        "--kv-heads", "2",
                                          "--json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const Ran ran = run(arguments);
    ASSERT_EQ(ran.code, 0) << ran.out << ran.err;
    const json rows = json::parse(ran.out).at("results");
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_TRUE(rows[0].at("check").at("passed").get<bool>());
    EXPECT_EQ(rows[0].at("moved_bytes"), rows[0].at("planned_bytes"));
  }
}

TEST(ContextPass, a_key_that_is_left_out_is_seen) {
  AttentionSpec sizes;
  sizes.q_heads = sizes.kv_heads = 2;
  sizes.head_dim = 4;
  const Partition partition = Partition::contiguous(30, 3);
  const ContextPassSpec spec = ContextPassOptions{2, 3}.spec(sizes, partition);
  const AttentionTensors tensors{
      random_tensor(f32, {1, 30, 2, 4}, 1), random_tensor(f32, {1, 30, 2, 4}, 2), random_tensor(f32, {1, 30, 2, 4}, 3), {}, {}};
  Selections selections = random_selections(spec, 4);
  RunSettings settings;
  settings.num_ranks = 3;
  const ContextPassRun run = run_context_pass(tensors, spec, partition, selections, settings);
  EXPECT_TRUE(judge_context_pass(tensors, spec, partition, selections, run).passed());
  selections[1] = {0, 1, 2};
  if (random_selections(spec, 4)[1] == selections[1]) selections[1] = {3, 4, 5};
  EXPECT_FALSE(judge_context_pass(tensors, spec, partition, selections, run).passed());
}

TEST(ContextPass, explain_and_refusals) {
  const Ran ran = run({"explain", "context_pass", "--ranks", "4", "--tokens", "1000", "--anchor", "16", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.out << ran.err;
  EXPECT_TRUE(json::parse(ran.out).at("candidates")[0].at("proven").get<bool>());
  EXPECT_EQ(run({"explain", "context_pass", "--ranks", "4", "--passed", "0"}).code, 0);
  const auto refused = [](std::vector<std::string> options, const std::string& words) {
    options.insert(options.begin(), {"bench", "context_pass", "--ranks", "4", "--tokens", "100"});
    const Ran refused_run = run(options);
    EXPECT_EQ(refused_run.code, 2);
    EXPECT_NE(refused_run.err.find(words), std::string::npos) << refused_run.err;
  };
  refused({"--anchor", "26"}, "--anchor: 26 is not right, want at most the 25 tokens of rank 0");
  refused({"--passed", "26"}, "--passed: 26 is not right, want at most the 25 tokens of rank 0");
  refused({"--partition", "zigzag"}, "want contiguous or uneven");
}

}  // namespace
}  // namespace seqccl::command::test
