// balance_test.cpp - `seqccl explain balance`: lengths from the line and from files, plans as text and as JSON, refusals.
// SPDX-License-Identifier: Apache-2.0
#include "command/support.hpp"

namespace seqccl::command::test {
namespace {

using nlohmann::json;

TEST(Balance, every_sequence_is_assigned_once) {
  const Ran ran = run({"explain", "balance", "--lengths", "4k,1k,1k,512,100,0,7", "--ranks", "4", "--max-tokens", "2k", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const json plan = json::parse(ran.out);
  EXPECT_LE(plan.at("lower_bound_s").get<double>(), plan.at("seconds").get<double>());
  std::vector<int> seen(7, 0);
  for (const json& micro : plan.at("micro_batches")) {
    for (const json& tokens : micro.at("rank_tokens")) EXPECT_LE(tokens.get<int>(), 2048);
    for (const json& one : micro.at("sequences")) ++seen.at(one.at("sequence").get<std::size_t>());
  }
  for (std::size_t i = 0; i < 7; ++i) EXPECT_TRUE(seen[i] == 1 || (i == 5 && seen[i] == 0)) << i;
  const Ran text = run({"explain", "balance", "--lengths", "4k,1k,1k", "--ranks", "2"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("micro-batch"), std::string::npos) << text.out;
}

TEST(Balance, lengths_from_a_file) {
  const Folder folder;
  const std::string path = folder.file("lengths.txt");
  write_text(path, "# two documents\n4k, 100\n\n  7 # a short one\r\n");
  const Ran ran = run({"explain", "balance", "--lengths", path, "--ranks", "2", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  std::size_t num_sequences = 0;
  const json plan = json::parse(ran.out);
  for (const json& micro : plan.at("micro_batches")) num_sequences += micro.at("sequences").size();
  EXPECT_EQ(num_sequences, 3u);
}

TEST(Balance, what_is_not_right_is_named) {
  const Folder folder;
  const std::string path = folder.file("lengths.txt");
  const auto refused = [](std::vector<std::string> options, const std::string& words) {
    options.insert(options.begin(), {"explain", "balance"});
    const Ran ran = run(options);
    EXPECT_EQ(ran.code, 2);
    EXPECT_NE(ran.err.find(words), std::string::npos) << ran.err;
  };
  refused({}, "--lengths");
  refused({"--lengths", folder.file("none")}, "cannot be opened");
  refused({"--lengths", "4k,x"}, "--lengths: 'x' is not right");
  write_text(path, "100\n2q\n");
  refused({"--lengths", path}, "line 2: '2q' is not right");
  write_text(path, "# nothing\n");
  refused({"--lengths", path}, "there are no lengths");
  refused({"--lengths", "-5,3"}, "--lengths: length 0 is -5");
  refused({"--lengths", "3,-5"}, "--lengths: length 1 is -5");
  refused({"--lengths", "4k", "--ranks", "0"}, "--ranks");
  refused({"--lengths", "4k,9k", "--ranks", "2", "--max-tokens", "4k"}, "9216");
  refused({"--lengths", "4k", "--max-tokens", "many"}, "--max-tokens");
}

}  // namespace
}  // namespace seqccl::command::test
