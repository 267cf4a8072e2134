// usage_test.cpp - every wrong command line is answered in one line: the option, what was written, what is wanted, what was meant.
// SPDX-License-Identifier: Apache-2.0
#include "command/usage.hpp"

#include <algorithm>
#include <regex>

#include "command/options.hpp"
#include "command/support.hpp"
#include "command/tensor.hpp"

namespace seqccl::command::test {
namespace {

void expect_refused(const std::vector<std::string>& arguments, const std::string& line) {
  const Ran ran = run(arguments);
  EXPECT_EQ(ran.code, exit_bad_input) << line;
  EXPECT_EQ(ran.out, "");
  EXPECT_EQ(ran.err.rfind("seqccl: " + line, 0), 0u) << ran.err;
  EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
}

TEST(Usage, misspelt_options_and_subcommands_have_suggestions) {
  expect_refused({"run", "attention", "--metod", "ring"}, "--metod: 'run attention' has no such option (did you mean '--method'?)");
  expect_refused({"run", "attention", "--inptu=x"}, "--inptu: 'run attention' has no such option (did you mean '--input'?)");
  expect_refused({"explain", "linear", "--not_causal"}, "--not_causal: 'explain linear' has no such option (did you mean '--not-causal'?)");
  expect_refused({"launch", "--rank", "2", "--", "true"}, "--rank: 'launch' has no such option (did you mean '--ranks'?)");
  expect_refused({"--colour-of-the-sky"}, "--colour-of-the-sky: 'seqccl' has no such option; --help lists them");
  expect_refused({"runn"}, "subcommand: 'runn' is not known; want one of: info, run, bench");
  expect_refused({"run", "atention"}, "run: 'atention' is not known; want one of: attention, linear, decode (did you mean 'attention'?)");
  expect_refused({"draw"}, "draw: a subcommand is missing, want one of: attention, linear");
}

TEST(Usage, errors_say_who_has_the_option_and_end_with_an_example) {
  const std::string example = "; for example: seqccl bench attention --ranks 2,4,8 --tokens 4k,16k --method all --repeat 5\n";
  const auto said = [](const std::vector<std::string>& arguments) {
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, exit_bad_input);
    EXPECT_EQ(ran.out, "");
    return ran.err;
  };
  EXPECT_EQ(said({"bench", "attention", "--heads", "4"}),
            "seqccl: --heads: 'bench attention' has no such option (did you mean '--q-heads' or '--kv-heads'?) (bench linear, explain "
            "linear, draw linear have it); --help lists them" +
                example);
  EXPECT_EQ(said({"bench", "attention", "--dtype"}), "seqccl: --dtype: a value is missing after it" + example);
  EXPECT_EQ(said({"bench", "attention", "here"}), "seqccl: bench attention: 'here' is not expected here, want options" + example);
  EXPECT_EQ(said({"bench", "attention", "--wait", "spin", "--wait", "block"}),
            "seqccl: --wait: is given more than once, want it once" + example);
  EXPECT_EQ(said({"bench"}),
            "seqccl: bench: a subcommand is missing, want one of: attention, linear, decode, context_pass, exchange, kernels, compare; for example: "
            "seqccl "
            "bench attention --ranks 2,4 --tokens 4k,16k\n");
  EXPECT_EQ(said({"draw"}),
            "seqccl: draw: a subcommand is missing, want one of: attention, linear; for example: seqccl draw attention --ranks 4 --method "
            "ring -o ring.svg\n");
  EXPECT_EQ(said({"doctor"}), "seqccl: FILES: is missing, 'doctor' needs it; for example: seqccl doctor records\n");
  expect_refused({"explain", "linear", "--column", "3"}, "--column: 'explain linear' has no such option (did you mean '--column-blocks'?)");
  expect_refused({"run", "decode", "--nodes", "2x2"},
                 "--nodes: 'run decode' has no such option (run attention, run linear, explain attention and 7 more have it)");
}

/// Every subcommand with options, as the words to ask for it.
std::vector<std::vector<std::string>> all_subcommands() {
  std::vector<std::vector<std::string>> all = {{"info"}, {"launch"}, {"doctor"}};
  for (const char* what : {"attention", "linear", "decode"}) all.push_back({"run", what});
  for (const char* what : {"attention", "linear", "decode", "context_pass", "exchange"}) all.push_back({"bench", what});
  for (const char* what : {"attention", "linear", "decode", "context_pass", "balance", "crossovers"}) all.push_back({"explain", what});
  for (const char* what : {"attention", "linear"}) all.push_back({"draw", what});
  return all;
}

TEST(Usage, every_count_takes_suffixes) {
  int num_options = 0;
  for (const std::vector<std::string>& subcommand : all_subcommands()) {
    std::vector<std::string> asked = subcommand;
    asked.emplace_back("--help");
    const std::string help = run(asked).out;
    const std::regex count(R"x((--[a-z-]+) COUNT)x");
    for (std::sregex_iterator at(help.begin(), help.end(), count), end; at != end; ++at, ++num_options) {
      const std::string option = (*at)[1];
      const auto answer = [&](const char* text) {
        asked = subcommand;
        asked.insert(asked.end(), {option, text});
        return run(asked).err;
      };
      expect_words(answer("4q"), {option + ": '4q' is not right, want a whole number, such as 4096 or 4k"});
      for (const char* huge : {"8388607G", "8388607g"})  // read, and then too large for all: at most 2^40
        expect_words(answer(huge), {option + ": '" + huge + "' is not right, want ", " to "});
    }
  }
  EXPECT_GE(num_options, 80);
  for (const char* text : {"2k", "2K"}) EXPECT_EQ(parse_count("", text), 2048);
  for (const char* text : {"2m", "2M"}) EXPECT_EQ(parse_count("", text), 2 << 20);
  // Lists of counts, and what has counts in it.
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"explain", "attention", "--tokens", "1k", "--partition", "uneven:0,0,0,1k"},
        {"explain", "attention", "--tokens", "1k", "--mask", "prefix:1K"},
        {"explain", "linear", "--tokens", "2k", "--documents", "1k,1024"},
        {"explain", "balance", "--lengths", "1k,2K", "--ranks", "2"}})
    EXPECT_EQ(run(arguments).code, exit_right) << arguments[3];
}

TEST(Usage, values_are_named_with_their_option) {
  expect_refused({"explain", "attention", "--ranks", "abc"}, "--ranks: 'abc' is not right, want a whole number");
  expect_refused({"explain", "attention", "-p", "1025"}, "--ranks: '1025' is not right, want 1 to 1024");
  expect_refused({"info", "--ranks", "1025"}, "--ranks: '1025' is not right, want 1 to 1024");
  expect_refused({"bench", "attention", "--batch", "1e3"}, "--batch: '1e3' is not right, want a whole number, such as 4096 or 4k");
  expect_refused({"bench", "linear", "--heads", "0"}, "--heads: '0' is not right, want 1 to 2^40");
  expect_refused({"explain", "attention", "--rank", "-1"}, "--rank: '-1' is not right, want 0 to 1023");
  expect_refused({"run", "attention", "-i", "x", "--timeout", "soon"}, "--timeout: 'soon' is not right, want seconds");
  expect_refused({"run", "attention", "-i", "x", "--scale", "nan"}, "--scale: 'nan' is not right, want a number");
  expect_refused({"run", "attention", "-i", "x", "--softcap", "-1"}, "--softcap: '-1' is not right, want a number >= 0");
  expect_refused({"explain", "attention", "--gflops", "0"}, "--gflops: '0' is not right, want a number from 1e-6 to 1e9");
  expect_refused({"run", "attention"}, "--input: is missing, 'run attention' needs it");
  expect_refused({"run", "attention", "-i"}, "--input: a value is missing after it");
  expect_refused({"info", "--ranks", "2", "--ranks", "3"}, "--ranks: is given more than once");
  expect_refused({"info", "now"}, "info: 'now' is not expected here");
  expect_refused({"explain", "attention", "--cluster", ""}, "--cluster: is empty");
}

TEST(Usage, what_the_library_refuses_begins_with_the_option) {
  expect_refused({"explain", "attention", "--mask", "documents:1,2"}, "--mask: document lengths sum to 3, want num_tokens = 16384");
  expect_refused({"draw", "attention", "--mask", "documents:1,2"}, "--mask: document lengths sum to 3");
  expect_refused({"explain", "linear", "--documents", "1,2"}, "--documents: documents sum to 3, want 16384");
  expect_refused({"explain", "attention", "--partition", "uneven:1,2"}, "--partition: 'uneven:1,2' is not right, want 4 numbers");
}

TEST(Usage, options_that_would_do_nothing_are_refused) {
  expect_refused({"explain", "linear", "--scan", "lasp1", "--column-blocks", "8"}, "--column-blocks: --scan chain has none");
  expect_refused({"bench", "linear", "--kind", "basic", "--not-causal", "--column-blocks", "8"}, "--column-blocks: --not-causal has none");
  expect_refused({"explain", "linear", "--scan", "chain", "--ranks-per-node", "2"}, "--ranks-per-node: --scan chain has none");
  expect_refused({"explain", "linear", "--nodes", "2x2", "--ranks-per-node", "4"}, "--ranks-per-node: 4 is not right, --nodes has 2 ranks");
  expect_refused({"explain", "linear", "--ranks-per-node", "8"}, "--ranks-per-node: 8 is not right, want at most the 4 ranks");
  expect_refused({"bench", "attention", "--tokens", "64", "--ranks-per-node", "8"},
                 "--ranks-per-node: 8 is not right, want a divisor of 2");
  EXPECT_EQ(run({"explain", "linear", "--ranks", "4", "--tokens", "64", "--nodes", "2x2", "--ranks-per-node", "2"}).code, exit_right);
}

TEST(Usage, attention_options_that_would_do_nothing_are_refused) {
  const std::vector<std::string> explain = {"explain", "attention", "--ranks", "4", "--tokens", "64"};
  const auto refused = [&](std::vector<std::string> options, const std::string& line) {
    for (const char* subcommand : {"explain", "draw"}) {
      std::vector<std::string> all = explain;
      all[0] = subcommand;
      all.insert(all.end(), options.begin(), options.end());
      expect_refused(all, line);
    }
    options.insert(options.begin(), {"bench", "attention", "--ranks", "4", "--tokens", "64"});
    expect_refused(options, line);
  };
  refused({"--method", "ring", "--burst"},
          "--burst: it changes the backward pass and there is none, so it would do nothing; want --backward");
  refused({"--method", "ring", "--dtype", "bf16", "--partials-in-dtype"}, "--partials-in-dtype: --method ring sends no partial results");
  refused({"--method", "token_ring", "--partials-in-dtype"}, "--partials-in-dtype: dtype is f32, in which partial results travel anyway");
  refused({"--method", "ring", "--mask", "prefix:65"}, "--mask: 'prefix:65' is not right, want prefix:LEN of at most the 64 tokens");
  refused({"--method", "ring", "--mask", "causal+window:64,0"}, "--mask: 'window:64,0' is not right, want bounds of at most 63");
  refused({"--method", "ring", "--mask", "full+causal"}, "--mask: 'full+causal' is not right, want the other masks without the full one");
  refused({"--method", "ring", "--mask", "causal+prefix:8"}, "--mask: 'causal+prefix:8' is not right, want prefix:LEN without causal");
  refused({"--method", "ring", "--mesh", "heads:4,heads_outermost"}, "--mesh: 'heads:4,heads_outermost' is not right");
  const auto taken = [&](std::vector<std::string> options) {
    options.insert(options.begin(), explain.begin(), explain.end());
    const Ran ran = run(options);
    EXPECT_EQ(ran.code, exit_right) << ran.err;
  };
  taken({"--method", "token_ring", "--dtype", "f16", "--partials-in-dtype"});
  taken({"--method", "all", "--dtype", "bf16", "--partials-in-dtype"});
  taken({"--method", "automatic", "--burst"});  // which decides by both passes
  taken({"--method", "ring", "--burst", "--backward"});
  taken({"--method", "ring", "--mask", "prefix:64"});
  taken({"--method", "ring", "--mask", "window:63,0"});
}

TEST(Usage, nodes_and_links_that_nobody_looks_at_are_refused) {
  const Folder folder;
  const std::string in = folder.file("in.safetensors"), slices = folder.file("prefix.json");
  const HostTensor q = random_tensor(f32, {1, 16, 2, 4}, 1);
  write_safetensors(in, {{"q", &q}, {"k", &q}, {"v", &q}});
  const auto attention = [&](std::vector<std::string> options) {
    options.insert(options.begin(), {"run", "attention", "-i", in, "--ranks", "4"});
    return options;
  };
  expect_refused(attention({"--method", "ring", "--nodes", "2x2"}),
                 "--nodes: '2x2' would do nothing: --method ring does not look at nodes");
  expect_refused(attention({"--method", "double_ring", "--mesh", "outer:2,inner:2", "--nodes", "2x2"}),
                 "--nodes: '2x2' would do nothing: --mesh says already who is where");
  expect_refused(attention({"--method", "ring", "--burst"}),
                 "--burst: it changes the backward pass and there is none, so it would do nothing; want an input with dout");
  expect_refused(attention({"--mask", "prefix:17"}), "--mask: 'prefix:17' is not right, want prefix:LEN of at most the 16 tokens");
  write_text(slices, R"([{"q": [0, 16], "k": [0, 8]}, {"q": [0, 17], "k": [8, 9]}])");
  expect_refused(attention({"--mask", "slices:" + slices}), "--mask: 'slices:");
  write_text(slices, R"([{"q": [0, 16], "k": [0, 8]}])");
  EXPECT_EQ(run(attention({"--mask", "causal+slices:" + slices})).code, exit_right);  // a file may be named prefix
  EXPECT_EQ(run(attention({"--method", "double_ring", "--nodes", "2x2"})).code, exit_right);
  expect_refused({"run", "linear", "-i", in, "--scan", "chain", "--nodes", "2x2"},
                 "--nodes: '2x2' would do nothing: --scan chain does not look at nodes; want --scan hierarchical");
  expect_refused({"run", "decode", "-i", in, "--nodes", "2x2"}, "--nodes: 'run decode' has no such option");
  expect_refused({"bench", "attention", "--ranks", "4", "--method", "ring", "--ranks-per-node", "2"},
                 "--ranks-per-node: '2' would do nothing");
  expect_refused({"bench", "attention", "--ranks", "2,3", "--ranks-per-node", "2"},
                 "--ranks-per-node: 2 is not right, want a divisor of 3");
  expect_refused({"explain", "linear", "--kind", "basic", "--not-causal", "--scan", "chain"}, "--scan: 'chain' would do nothing");

  for (const char* what : {"attention", "linear", "decode", "context_pass"})
    expect_refused({"explain", what, "--between", "8,2"}, "--between: '8,2' would do nothing: all ranks are on one node; want --nodes KxM");
  expect_refused({"explain", "balance", "--lengths", "8,9", "--between", "8,2"}, "--between: '8,2' would do nothing");
  expect_refused({"explain", "attention", "--nodes", "4x1", "--inside", "8,2"}, "--inside: '8,2' would do nothing: every rank is a node");
  expect_refused({"explain", "crossovers", "--between", "8,2"}, "--between: '8,2' would do nothing");
  expect_refused({"explain", "crossovers", "--cluster", "gpus", "--ranks", "4,8", "--between", "8,2"}, "--between: '8,2' would do nothing");
  const Ran one_of_two = run({"explain", "crossovers", "--cluster", "gpus", "--ranks", "4,16", "--tokens", "1k", "--kv-heads", "4",
                              "--forward-only", "--between", "8,2"});
  EXPECT_EQ(one_of_two.code, exit_right) << one_of_two.err;
}

TEST(Usage, what_a_subcommand_does_not_use_it_does_not_take) {
  const std::vector<std::string> balance = {"explain", "balance", "--lengths", "8,9"};
  for (const char* option : {"--batch", "--v-head-dim", "--memory"}) {
    std::vector<std::string> all = balance;
    all.insert(all.end(), {option, "2"});
    expect_refused(all, std::string(option) + ": 'explain balance' has no such option");
  }
  expect_refused({"explain", "decode", "--page-tokens", "4"}, "--page-tokens: 'explain decode' has no such option");
  expect_refused({"explain", "attention", "--method", "ring", "--rank", "0", "--json"}, "--rank: 0 would do nothing");
}

TEST(Usage, counts_take_suffixes_and_help_shows_defaults) {
  const Ran ran = run({"explain", "attention", "--tokens", "1k", "--batch", "1k", "--method", "ring", "--head-dim", "8", "--json"});
  EXPECT_EQ(ran.code, exit_right) << ran.err;
  const std::string help = run({"explain", "attention", "--help"}).out;
  expect_words(help, {"-n,--tokens COUNT=16k", "--head-dim COUNT=64", "--ranks COUNT=4"});
  EXPECT_EQ(help.find("--v-head-dim COUNT="), std::string::npos);
  EXPECT_EQ(run({"run", "linear", "--help"}).out.find("striped"), std::string::npos);  // always refused there
  EXPECT_EQ(run({"bench", "linear", "--help"}).out.find("--nodes"), std::string::npos);
  EXPECT_NE(run({"explain", "linear", "--help"}).out.find("as --nodes has it"), std::string::npos);
}

TEST(Usage, head_groups_that_are_not_there_are_noted) {
  const std::vector<std::string> sizes = {"--tokens", "64", "--q-heads", "4", "--kv-heads", "2", "--head-dim", "8"};
  const auto noted = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), sizes.begin(), sizes.end());
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, exit_right) << ran.err;
    return ran.out.find("--head-groups: 3 is more than the 2 key heads") != std::string::npos;
  };
  EXPECT_TRUE(noted({"explain", "attention", "--method", "kv_all_gather", "--head-groups", "3"}));
  EXPECT_TRUE(noted({"explain", "attention", "--method", "kv_all_gather", "--head-groups", "3", "--json"}));
  EXPECT_TRUE(noted({"bench", "attention", "--method", "kv_all_gather", "--head-groups", "3", "--ranks", "2", "--repeat", "1"}));
  EXPECT_FALSE(noted({"explain", "attention", "--method", "kv_all_gather", "--head-groups", "2"}));
}

TEST(Usage, the_column_that_decided_is_named) {
  const std::vector<std::string> base = {"explain", "attention", "--ranks", "4", "--tokens", "256"};
  const auto said = [&](std::vector<std::string> options) {
    options.insert(options.begin(), base.begin(), base.end());
    return run(options).out;
  };
  EXPECT_NE(said({}).find("which has the least in column 'both passes'"), std::string::npos);
  EXPECT_NE(said({"--method", "all"}).find("which has the least in column 'simulated'"), std::string::npos);
  EXPECT_EQ(said({"--method", "ring"}).find("shown below"), std::string::npos);
}

}  // namespace
}  // namespace seqccl::command::test
