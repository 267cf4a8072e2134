// command_test.cpp - the command as its users call it: results in files, tables, JSON, exit codes.
// SPDX-License-Identifier: Apache-2.0
#include "command/command.hpp"

#include <cmath>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "command/support.hpp"
#include "seqccl/attention.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command::test {
namespace {

using nlohmann::json;

/// A small problem with gradients.
std::string softmax_file(const Folder& folder, DType dtype = f32) {
  const std::string path = folder.file("in.safetensors");
  const HostTensor q = random_tensor(dtype, {2, 50, 4, 8}, 1), k = random_tensor(dtype, {2, 50, 2, 8}, 2),
                   v = random_tensor(dtype, {2, 50, 2, 6}, 3);
  const HostTensor dout = random_tensor(dtype, {2, 50, 4, 6}, 4);
  write_safetensors(path, {{"q", &q}, {"k", &k}, {"v", &v}, {"dout", &dout}});
  return path;
}

std::string linear_file(const Folder& folder, const std::vector<std::int64_t>& decay_shape, bool has_states = false) {
  const std::string path = folder.file("linear.safetensors");
  const HostTensor q = random_tensor(f32, {2, 50, 3, 8}, 1), k = random_tensor(f32, {2, 50, 3, 8}, 2, 0.35),
                   v = random_tensor(f32, {2, 50, 3, 6}, 3);
  const HostTensor dout = random_tensor(f32, {2, 50, 3, 6}, 4), state = random_tensor(f32, {2, 3, 8, 6}, 5),
                   dstate = random_tensor(f32, {2, 3, 8, 6}, 6);
  HostTensor log_decay = random_tensor(f32, decay_shape, 7);
  for (std::int64_t i = 0; i < log_decay.size(); ++i) log_decay.set(i, -0.1 * std::abs(log_decay.get(i)));
  std::vector<NamedTensor> tensors = {{"q", &q}, {"k", &k}, {"v", &v}, {"dout", &dout}};
  if (!decay_shape.empty()) tensors.push_back({"log_decay", &log_decay});
  if (has_states) tensors.insert(tensors.end(), {{"state_in", &state}, {"dstate_out", &dstate}});
  write_safetensors(path, tensors);
  return path;
}

TEST(Command, help_and_version_are_right_and_go_to_out) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--help"},
                                                    {"run", "--help"},
                                                    {"run", "attention", "--help"},
                                                    {"run", "linear", "--help"},
                                                    {"bench", "attention", "--help"},
                                                    {"run", "decode", "--help"},
                                                    {"bench", "decode", "--help"},
                                                    {"bench", "context_pass", "--help"},
                                                    {"explain", "attention", "--help"},
                                                    {"explain", "decode", "--help"},
                                                    {"explain", "context_pass", "--help"},
                                                    {"explain", "balance", "--help"},
                                                    {"explain", "crossovers", "--help"}}) {
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, 0);
    EXPECT_NE(ran.out.find("--help"), std::string::npos);
    EXPECT_EQ(ran.err, "");
  }
  EXPECT_NE(run({"run", "attention", "--help"}).out.find("Examples:"), std::string::npos);
  EXPECT_EQ(run({"--version"}).out.rfind("seqccl 0.", 0), 0u);
}

TEST(Command, exit_codes_of_errors) {
  EXPECT_EQ(exit_code_of(ErrorKind::argument), 2);
  for (const ErrorKind kind : {ErrorKind::dead, ErrorKind::stalled, ErrorKind::mismatched, ErrorKind::local})
    EXPECT_EQ(exit_code_of(kind), 3);
}

TEST(Command, bad_usage_is_2_and_says_so_on_err) {
  const Folder folder;
  const std::string in = softmax_file(folder);
  const auto refused = [](const std::vector<std::string>& arguments, const std::string& words) {
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, 2) << words;
    EXPECT_EQ(ran.out, "");
    EXPECT_NE(ran.err.find(words), std::string::npos) << ran.err;
  };
  refused({}, "seqccl: a subcommand is missing, want one of: info, run");
  refused({"fly"}, "'fly' is not known; want one of: info, run, bench, calibrate, explain, draw");
  refused({"run", "atention"}, "did you mean 'attention'?");
  refused({"run", "attention"}, "--input");
  refused({"run", "attention", "-i", in, "--rank", "4"}, "--rank");
  refused({"run", "attention", "-i", folder.file("none")}, "cannot be opened");
  refused({"run", "attention", "-i", in, "--ranks", "0"}, "--ranks");
  refused({"run", "attention", "-i", in, "--ranks", "four"}, "--ranks");
  refused({"run", "attention", "-i", in, "--method", "rng"}, "did you mean 'ring'?");
  refused({"run", "attention", "-i", in, "-x", "nccl"}, "not there yet");
  refused({"run", "attention", "-i", in, "--mesh", "inner:3"}, "--mesh: mesh has heads 1 x outer 1 x inner 3");
  refused({"run", "attention", "-i", in, "--mask", "documents:20,20"}, "50");
  refused({"run", "attention", "-i", in, "--partition", "uneven:1,2,3"}, "4 numbers");
  refused({"run", "attention", "-i", in, "--dtype", "f8"}, "--dtype");
  refused({"run", "attention", "-i", in, "--check=most"}, "--check");
  refused({"run", "attention", "-i", in, "--timeout", "-1"}, "--timeout");
  refused({"run", "attention", "-i", in, "--method", "ring", "-o", folder.file("no/out.safetensors")}, "cannot be created");
  refused({"run", "linear", "-i", linear_file(folder, {3}), "--kind", "delta"}, "log_decay: --kind delta has none");
  refused({"run", "linear", "-i", linear_file(folder, {3}), "--kind", "vector_gate"}, "log_decay");
  refused({"run", "linear", "-i", linear_file(folder, {3}), "--kind", "basic"}, "log_decay");
  refused({"run", "linear", "-i", linear_file(folder, {3}), "--partition", "striped"}, "striped");
  refused({"explain", "attention", "--ranks", "4", "--tokens", "0"}, "--tokens");
  refused({"explain", "attention", "--ranks", "4", "--rank", "4", "--method", "ring"}, "--rank");
  refused({"draw", "attention", "--method", "all"}, "one method");
}

TEST(Command, wrong_tensors_are_named) {
  const Folder folder;
  const std::string path = folder.file("in.safetensors");
  const HostTensor q = random_tensor(f32, {1, 8, 4, 8}, 1), k = random_tensor(f32, {1, 8, 2, 8}, 2),
                   half = random_tensor(f16, {1, 8, 2, 8}, 2);
  const HostTensor short_k = random_tensor(f32, {1, 7, 2, 8}, 2), three = random_tensor(f32, {1, 8, 3, 8}, 3),
                   flat = random_tensor(f32, {8, 8}, 3);
  const auto refused = [&](const std::vector<NamedTensor>& tensors, const std::string& words) {
    write_safetensors(path, tensors);
    const Ran ran = run({"run", "attention", "-i", path, "--method", "ring"});
    EXPECT_EQ(ran.code, 2);
    EXPECT_NE(ran.err.find(words), std::string::npos) << ran.err;
  };
  refused({{"q", &q}, {"k", &k}}, "no tensor 'v'");
  refused({{"q", &q}, {"k", &short_k}, {"v", &k}}, "k: shape is (1, 7, 2, 8), want [B, N, Hkv, D] (1, 8, 2, 8)");
  refused({{"q", &q}, {"k", &three}, {"v", &three}}, "want a divisor of the 4 heads");
  refused({{"q", &q}, {"k", &half}, {"v", &half}}, "k: dtype is f16");
  refused({{"q", &flat}, {"k", &k}, {"v", &k}}, "q: shape is (8, 8)");
  refused({{"q", &q}, {"k", &k}, {"v", &k}, {"dout", &k}}, "dout: shape");
  refused({{"q", &q}, {"k", &k}, {"v", &k}, {"sinks", &k}}, "sinks: shape");
}

TEST(Command, all_methods_are_right_and_agree_with_the_file_they_write) {
  const Folder folder;
  const std::string in = softmax_file(folder), out = folder.file("out.safetensors");
  const Ran ran = run({"run", "attention", "-i", in, "-o", out, "--ranks", "2", "--method", "all", "--mask", "causal+documents:20,0,30",
                       "--partition", "uneven:17,33", "--softcap", "20", "--check", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.out << ran.err;
  EXPECT_EQ(ran.err, "");
  const json report = json::parse(ran.out);
  EXPECT_TRUE(report.at("passed").get<bool>());
  EXPECT_EQ(report.at("results").size(), 9u);
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(report.at("results")[i].at("method"), method_names()[i]);
  for (const json& result : report.at("results")) {
    EXPECT_EQ(result.at("forward").at("moved_bytes"), result.at("forward").at("planned_bytes")) << result.at("method");
    EXPECT_EQ(result.at("check").at("num_wrong"), 0);
    EXPECT_EQ(result.at("check").at("coverage"), "all 50 query rows");
    EXPECT_EQ(result.at("check").at("tensors").size(), 5u);
  }
  SafetensorsFile file(out);
  EXPECT_EQ(file.read("out").shape(), (std::vector<std::int64_t>{2, 50, 4, 6}));
  EXPECT_EQ(file.read("lse").shape(), (std::vector<std::int64_t>{2, 4, 50}));
  EXPECT_EQ(file.read("dq").shape(), (std::vector<std::int64_t>{2, 50, 4, 8}));
  EXPECT_EQ(file.read("dk").shape(), (std::vector<std::int64_t>{2, 50, 2, 8}));
  EXPECT_EQ(file.read("dv").shape(), (std::vector<std::int64_t>{2, 50, 2, 6}));
  EXPECT_EQ(folder.num_files(), 2u);
}

TEST(Command, the_table_has_the_numbers_of_the_json) {
  const Folder folder;
  const Ran ran = run(
      {"run", "attention", "-i", softmax_file(folder), "--ranks", "3", "--method", "ring", "--dtype", "bf16", "--check", "--repeat", "3"});
  ASSERT_EQ(ran.code, 0) << ran.out << ran.err;
  for (const char* word : {"dtype bf16", "ring", "forward", "backward", "moved", "planned", "#wrong", "pass", "all 50 query rows"})
    EXPECT_NE(ran.out.find(word), std::string::npos) << word << '\n' << ran.out;
}

TEST(Command, nan_in_the_input_stays_visible_and_is_not_an_error) {
  const Folder folder;
  const std::string path = folder.file("in.safetensors");
  HostTensor q = random_tensor(f32, {1, 12, 2, 4}, 1);
  const HostTensor k = random_tensor(f32, {1, 12, 2, 4}, 2);
  q.set(3 * 8, std::nan(""));  // token 3, head 0
  write_safetensors(path, {{"q", &q}, {"k", &k}, {"v", &k}});
  const std::string out = folder.file("out.safetensors");
  const Ran ran = run({"run", "attention", "-i", path, "-o", out, "--ranks", "3", "--method", "ring", "--check"});
  EXPECT_EQ(ran.code, 0) << ran.out << ran.err;
  const HostTensor result = SafetensorsFile(out).read("out");
  EXPECT_TRUE(std::isnan(result.get(3 * 8)));
  EXPECT_FALSE(std::isnan(result.get(3 * 8 + 4)));
  EXPECT_FALSE(std::isnan(result.get(4 * 8)));
}

TEST(Command, every_method_runs_backward_and_forward_only) {
  const Folder folder;
  const std::string in = softmax_file(folder);
  for (const std::string method : {"token_ring", "bidirectional_ring", "balanced_helper"})
    EXPECT_EQ(run({"run", "attention", "-i", in, "--method", method, "--ranks", "3", "--check"}).code, 0) << method;
  EXPECT_EQ(run({"run", "attention", "-i", in, "--method", "token_ring", "--ranks", "2", "--forward-only", "--check"}).code, 0);
}

TEST(Command, trace_is_a_chrome_trace) {
  const Folder folder;
  const std::string trace = folder.file("trace.json");
  ASSERT_EQ(run({"run", "attention", "-i", softmax_file(folder), "--method", "ring", "--ranks", "3", "--trace", trace}).code, 0);
  std::ifstream stream(trace);
  const json events = json::parse(stream).at("traceEvents");
  int num_steps = 0;
  for (const json& event : events) {
    if (event.at("ph") != "X") continue;
    ++num_steps;
    EXPECT_GE(event.at("dur").get<double>(), 0);
    EXPECT_LT(event.at("pid").get<int>(), 3);
  }
  EXPECT_GT(num_steps, 3 * 3);
}

TEST(Command, linear_kinds_and_scans_are_right) {
  const Folder folder;
  for (const std::vector<std::int64_t>& decay : {std::vector<std::int64_t>{}, {3}, {2, 50, 3}, {2, 50, 3, 8}}) {
    const std::string in = linear_file(folder, decay, true), out = folder.file("out.safetensors");
    const Ran ran =
        run({"run", "linear", "-i", in, "-o", out, "--ranks", "3", "--scan", "all", "--partition", "zigzag", "--check", "--json"});
    EXPECT_EQ(ran.code, 0) << ran.out << ran.err;
    if (ran.code != 0) continue;
    EXPECT_EQ(json::parse(ran.out).at("results").size(), 5u);
    SafetensorsFile file(out);
    EXPECT_EQ(file.read("state_out").shape(), (std::vector<std::int64_t>{2, 3, 8, 6}));
    EXPECT_EQ(file.read("dstate_in").shape(), (std::vector<std::int64_t>{2, 3, 8, 6}));
    EXPECT_EQ(file.has("dlog_decay"), !decay.empty());
    if (!decay.empty()) {
      EXPECT_EQ(file.read("dlog_decay").shape(), decay);
    }
  }
}

TEST(Command, gradients_that_vanish_are_right) {
  const Folder folder;
  const Ran ran =
      run({"run", "attention", "-i", softmax_file(folder), "--ranks", "3", "--method", "all", "--mask", "window:0,0", "--check"});
  EXPECT_EQ(ran.code, exit_right) << ran.out << ran.err;  // every query sees one key: dq and dk are rounding
}

TEST(Command, what_is_left_aside_is_named) {
  const Folder folder;
  const std::string path = folder.file("typo.safetensors");
  const HostTensor q = random_tensor(f32, {1, 8, 2, 4}, 1), sinks = random_tensor(f32, {2}, 2);
  write_safetensors(path, {{"q", &q}, {"k", &q}, {"v", &q}, {"d_out", &q}});
  const Ran ran = run({"run", "attention", "-i", path, "--ranks", "2", "--method", "ring"});
  EXPECT_EQ(ran.code, exit_right);
  EXPECT_NE(ran.out.find("not used of the input: d_out"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("no dout in the input: forward only"), std::string::npos) << ran.out;
  write_safetensors(path, {{"q", &q}, {"k", &q}, {"v", &q}, {"sinks", &sinks}});
  const Ran decode = run({"run", "decode", "-i", path, "--ranks", "2"});
  EXPECT_EQ(decode.code, exit_bad_input);
  EXPECT_NE(decode.err.find("it has sinks, and decode has none"), std::string::npos) << decode.err;
}

TEST(Command, files_are_told_apart) {
  const Folder folder;
  const std::string path = softmax_file(folder), other = folder.file("x");
  const auto refused = [&](std::vector<std::string> arguments, const char* words) {
    arguments.insert(arguments.begin(), {"run", "attention", "--ranks", "2", "--method", "ring"});
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, exit_bad_input);
    EXPECT_NE((ran.out + ran.err).find(words), std::string::npos) << ran.out << ran.err;
  };
  refused({"-i", path, "-o", path}, "is the file of");
  refused({"-i", path, "-o", other, "--trace", folder.file("./x")}, "is the file of");
  refused({"-i", path, "-o", ""}, "--output: is empty");
  refused({"-i", "", "-o", other}, "--input: is empty");
  refused({"-i", path, "--trace", ""}, "--trace: is empty");
  refused({"-i", path, "--mask", ""}, "--mask: is empty");
  refused({"-i", path, "--nodes", ""}, "--nodes: is empty");
  refused({"-i", path, "--nodes="}, "--nodes: a value is missing");
}

TEST(Command, output_that_cannot_be_written_is_an_error) {
  std::ofstream full("/dev/full");
  if (!full) GTEST_SKIP() << "this system has no /dev/full";
  std::ostringstream err;
  const char* argv[] = {"seqccl", "explain", "attention", "--ranks", "2", "--tokens", "64", "--method", "ring"};
  EXPECT_EQ(run_command(9, argv, full, err), exit_bad_input);
  EXPECT_NE(err.str().find("could not be written"), std::string::npos) << err.str();
}

TEST(Command, bench_that_runs_nothing_is_an_error) {
  const Ran ran = run({"bench", "linear", "--ranks", "2", "--tokens", "300", "--partition", "striped"});
  EXPECT_EQ(ran.code, exit_bad_input);
  EXPECT_NE(ran.err.find("nothing ran"), std::string::npos) << ran.err;
}

TEST(Command, without_order_there_is_one_scan) {
  const Ran ran =
      run({"explain", "linear", "--tokens", "64", "--ranks", "4", "--kind", "basic", "--not-causal", "--scan", "all", "--json"});
  ASSERT_EQ(ran.code, exit_right) << ran.err;
  const json all = json::parse(ran.out);
  ASSERT_EQ(all["candidates"].size(), 1u);
  EXPECT_EQ(all["candidates"][0]["method"], "all_reduce");
}

TEST(Command, explain_automatic_shows_what_the_library_picks) {
  for (const char* kv_heads : {"8", "1"}) {
    AttentionSpec spec;
    spec.q_heads = 8;
    spec.kv_heads = std::stoi(kv_heads);
    spec.head_dim = 64;
    spec.partition = Partition::zigzag(1024, 4);
    spec.mask = Mask::causal();
    const AttentionSpec fastest = fastest_method(spec);
    const Ran ran = run({"explain", "attention", "--ranks", "4", "--tokens", "1k", "--q-heads", "8", "--kv-heads", kv_heads, "--head-dim",
                         "64", "--dtype", "f32", "--mask", "causal", "--partition", "zigzag", "--json"});
    ASSERT_EQ(ran.code, exit_right) << ran.err;
    AttentionSpec shown = spec;
    choose_method(shown, json::parse(ran.out)["best"].get<std::string>());
    EXPECT_EQ(shown.method, fastest.method) << kv_heads;
    EXPECT_EQ(shown.backward, fastest.backward) << kv_heads;
    EXPECT_EQ(shown.mesh, fastest.mesh) << kv_heads;
  }
}

TEST(Command, explain_proves_and_compares) {
  const Ran text = run({"explain", "attention", "--ranks", "4", "--tokens", "1k", "--method", "all", "--rank", "1"});
  EXPECT_EQ(text.code, 0) << text.out << text.err;
  EXPECT_NE(text.out.find("proven"), std::string::npos);
  const Ran numbers =
      run({"explain", "attention", "--ranks", "4", "--nodes", "2x2", "--between", "10,1", "--tokens", "1k", "--json", "--backward"});
  ASSERT_EQ(numbers.code, 0) << numbers.out << numbers.err;
  const json report = json::parse(numbers.out);
  EXPECT_EQ(report.at("candidates").size(), 9u);
  for (const json& candidate : report.at("candidates")) {
    EXPECT_TRUE(candidate.at("proven").get<bool>());
    EXPECT_GT(candidate.at("simulated_s").get<double>(), 0);
    EXPECT_EQ(candidate.at("ranks").size(), 4u);
  }
  EXPECT_EQ(run({"explain", "linear", "--ranks", "3", "--tokens", "300", "--backward"}).code, 0);
}

TEST(Command, draw_writes_svg) {
  const Folder folder;
  const Ran ran = run({"draw", "attention", "--ranks", "4", "--tokens", "1k"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("<svg"), std::string::npos);
  const Ran linear = run({"draw", "linear", "--ranks", "4", "--tokens", "1k", "--scan", "chain", "-o", folder.file("chain.svg"), "--json"});
  EXPECT_EQ(linear.code, 0) << linear.err;
  EXPECT_GT(json::parse(linear.out).at("simulated_s").get<double>(), 0);
  EXPECT_GT(std::filesystem::file_size(folder.file("chain.svg")), 500u);
}

TEST(Command, drawings_say_how_large_they_are_and_huge_ones_are_refused) {
  const Folder folder;
  const std::string file = folder.file("ring.svg");
  const Ran ran = run({"draw", "attention", "--ranks", "4", "--tokens", "1k", "-o", file});
  EXPECT_EQ(ran.code, exit_right) << ran.err;
  EXPECT_EQ(ran.out.find("wrote " + file + ", " + human_bytes(static_cast<double>(std::filesystem::file_size(file)))), 0u) << ran.out;
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"draw", "attention", "--ranks", "1024", "--method", "ring", "-o", folder.file("huge.svg")},
        {"draw", "linear", "--ranks", "512", "--scan", "zeco", "--column-blocks", "64", "-o", folder.file("huge.svg")}}) {
    const Ran huge = run(arguments);
    EXPECT_EQ(huge.code, exit_bad_input);
    for (const std::string& words :
         {"--ranks: " + arguments[3] + " ranks take ", std::string("MiB; want at most 100000 steps: fewer ranks")})
      EXPECT_NE(huge.err.find(words), std::string::npos) << huge.err;
    EXPECT_FALSE(std::filesystem::exists(folder.file("huge.svg")));
  }
}

/// The fill of every legend entry, by its name.
std::map<std::string, std::string> legend_of(const std::string& svg) {
  std::map<std::string, std::string> fills;
  const std::regex entry(R"x(<rect class="(p\d+)"[^>]*rx="2"/><text[^>]*>([^<]*)</text>)x");
  for (std::sregex_iterator at(svg.begin(), svg.end(), entry), end; at != end; ++at) {
    const std::size_t style = svg.find("." + (*at)[1].str() + "{fill:");
    fills[(*at)[2]] = svg.substr(svg.find('#', style), 7);
  }
  return fills;
}

TEST(Command, drawings_of_scans_say_what_they_are) {
  const Ran ran = run({"draw", "linear", "--ranks", "4", "--tokens", "1k", "--scan", "zeco", "--kind", "kda", "--column-blocks", "4"});
  ASSERT_EQ(ran.code, exit_right) << ran.err;
  EXPECT_NE(ran.out.find("linear forward, kda by pipelined_chain, 4 ranks</text>"), std::string::npos);
  EXPECT_NE(ran.out.find("<title>linear forward, kda by pipelined_chain, 4 ranks</title>"), std::string::npos);
  const auto title = [](std::vector<std::string> options) {
    options.insert(options.begin(), "draw");
    options.insert(options.end(), {"--ranks", "4", "--tokens", "256"});
    const std::string svg = run(options).out;
    const std::size_t begin = svg.find("<title>") + 7;
    return svg.substr(begin, svg.find("</title>") - begin);
  };
  EXPECT_EQ(title({"linear", "--not-causal", "--kind", "basic", "--backward"}), "linear backward, basic by all_reduce, 4 ranks");
  EXPECT_EQ(title({"attention", "--method", "ring"}), "ring forward, 4 ranks");
  EXPECT_EQ(title({"attention", "--mesh", "heads:2,inner:2"}), "ring forward on a mesh, heads 2 x outer 1 x inner 2, 4 ranks");
  EXPECT_EQ(title({"attention", "--method", "burst_backward", "--backward"}), "ring backward, burst, 4 ranks");
  const auto fills = legend_of(ran.out);
  for (const char* name : {"copy", "take columns", "put columns", "state step"}) EXPECT_EQ(fills.count(name), 1u) << name;
  std::set<std::string> colours;
  for (const auto& [name, fill] : fills) colours.insert(fill);
  EXPECT_EQ(colours.size(), fills.size());
}

TEST(Command, bench_measures_and_checks) {
  const Ran ran = run({"bench", "attention", "--ranks", "1,2", "--tokens", "96", "--repeat", "2", "--warmup", "0", "--backward",
                       "--q-heads", "4", "--head-dim", "8", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.out << ran.err;
  const json report = json::parse(ran.out);
  EXPECT_GE(report.at("results").size(), 8u);
  for (const json& row : report.at("results")) {
    EXPECT_EQ(row.at("seconds").size(), 2u);
    EXPECT_LE(row.at("min_s"), row.at("median_s"));
    EXPECT_EQ(row.at("moved_bytes"), row.at("planned_bytes"));
  }
  const Ran linear =
      run({"bench", "linear", "--ranks", "2", "--tokens", "96", "--repeat", "1", "--warmup", "0", "--heads", "2", "--head-dim", "8"});
  EXPECT_EQ(linear.code, 0) << linear.out << linear.err;
  EXPECT_NE(linear.out.find("all_gather"), std::string::npos);
}

TEST(Command, info_tells_what_there_is_and_why_not) {
  const json info = json::parse(run({"info", "--json"}).out);
  EXPECT_EQ(info.at("transports").at("threads"), "yes");
  EXPECT_NE(info.at("transports").at("nccl").get<std::string>().find("not in this version"), std::string::npos);
  EXPECT_FALSE(info.at("kernels").get<std::string>().empty());
  EXPECT_EQ(info.at("methods").size(), method_names().size());
  EXPECT_EQ(info.at("scans").size(), 5u);
  EXPECT_EQ(info.at("kinds").size(), 8u);
  EXPECT_EQ(info.at("decode"), (json{"butterfly", "tree", "all_to_all"}));
  EXPECT_NE(run({"info"}).out.find("transports"), std::string::npos);
}

}  // namespace
}  // namespace seqccl::command::test
