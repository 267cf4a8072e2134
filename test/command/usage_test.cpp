// usage_test.cpp - every wrong command line is answered in one line: the option, what was written, what is wanted, what was meant.
// SPDX-License-Identifier: Apache-2.0
#include "command/usage.hpp"

#include <algorithm>

#include "command/support.hpp"

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
