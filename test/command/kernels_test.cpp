// kernels_test.cpp - `seqccl bench kernels`: rows, their numbers, and what it refuses.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "command/command.hpp"

namespace seqccl::command {
namespace {

struct Answer {
  int code = 0;
  std::string out, err;
};
Answer ask_kernels(std::vector<const char*> words) {
  words.insert(words.begin(), {"seqccl", "bench", "kernels"});
  std::ostringstream out, err;
  const int code = run_command(static_cast<int>(words.size()), words.data(), out, err);
  return {code, out.str(), err.str()};
}

TEST(BenchKernels, MeasuresEachRowAgainstThePeakOfTheSameRun) {
  const Answer answer = ask_kernels({"--filter", "decode,D64", "--repeat", "2", "--json"});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const auto all = nlohmann::json::parse(answer.out);
  EXPECT_FALSE(all["instruction_set"].get<std::string>().empty());
  ASSERT_EQ(all["results"].size(), 3U);
  for (const auto& row : all["results"]) {
    EXPECT_NE(row["kernel"].get<std::string>().find("decode"), std::string::npos);
    EXPECT_EQ(row["seconds"].size(), 2U);
    EXPECT_GT(row["peak_fraction"].get<double>(), 0);
    EXPECT_LT(row["peak_fraction"].get<double>(), 1.5);
    EXPECT_GT(row["flops"].get<double>(), 1e5);
  }
  EXPECT_NE(ask_kernels({"--filter", "decode/group4/D64", "--repeat", "1"}).out.find("of peak"), std::string::npos);
}

TEST(BenchKernels, ListsAndRefuses) {
  const Answer list = ask_kernels({"--list", "--filter", "linear_local"});
  EXPECT_EQ(list.code, 0);
  EXPECT_NE(list.out.find("linear_local/vector_gate/D128\n"), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(ask_kernels({"--list", "--json"}).out).size(),
            nlohmann::json::parse(ask_kernels({"--list", "--json", "--filter", "D"}).out).size());
  const Answer none = ask_kernels({"--filter", "nothing"});
  EXPECT_EQ(none.code, 2);
  EXPECT_EQ(none.err, "seqccl: --filter: no kernel's name has all of 'nothing'; --list shows the names, such as forward/full/D32\n");
  EXPECT_EQ(ask_kernels({"--repeat", "0"}).code, 2);
}

}  // namespace
}  // namespace seqccl::command
