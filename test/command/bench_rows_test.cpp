// bench_rows_test.cpp - results of bench: matrices with outliers, files that are compared, comma-separated values.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include "command/bench_rows.hpp"
#include "command/support.hpp"
#include "support/watchdog.hpp"

namespace seqccl::command::test {
namespace {

using Row = nlohmann::ordered_json;
using nlohmann::json;
using seqccl::test::Watchdog;

TEST(BenchRows, commas_and_quotes_are_kept_apart) {
  const Row rows = {{{"a", "x, \"y\""}, {"list", {1, 2}}, {"b", 1.5}}, {{"b", 2}, {"c", true}}};
  EXPECT_EQ(csv_text(rows), "a,b,c\n\"x, \"\"y\"\"\",1.5,\n,2,true\n");
}

TEST(BenchRows, pairs_that_are_worse_than_the_others_are_marked) {
  Row rows = Row::array();
  for (int first = 0; first < 4; ++first)
    for (int second = first + 1; second < 4; ++second)
      for (const std::int64_t bytes : {8, 4000000}) {
        const bool is_slow = first == 1 && second == 3;
        const double seconds = bytes == 8 ? (is_slow ? 4e-6 : 2e-6) : (first == 0 && second == 2 ? 4e-3 : 1e-3);
        rows.push_back({{"ranks", 4}, {"first", first}, {"second", second}, {"bytes", bytes}, {"median_s", seconds}});
      }
  const std::string text = matrix_text(rows);
  for (const char* words :
       {"4 ranks: latency of 8 bytes, us, one way\n", "   1  2.00      -  2.00  4.00*\n", "   3  2.00  4.00*  2.00      -\n",
        "min 2.00, median 2.00, max 4.00; * more than 1.5 times worse than the median: 1-3\n",
        "4 ranks: bandwidth of 4000000 bytes, GB/s, one way\n",
        "min 1.00, median 4.00, max 4.00; * more than 1.5 times worse than the median: 0-2\n"})
    EXPECT_NE(text.find(words), std::string::npos) << words << '\n' << text;
}

TEST(BenchMatrix, every_pair_is_measured_once_at_two_sizes) {
  const Watchdog dog(std::chrono::seconds(240));
  for (const int num_ranks : {2, 3, 5, 8}) {
    const Ran ran = run({"bench", "exchange", "-x", "shm", "-p", std::to_string(num_ranks), "--matrix", "-n", "1", "-w", "0", "--json"});
    ASSERT_EQ(ran.code, exit_right) << ran.err;
    const json rows = json::parse(ran.out).at("results");
    ASSERT_EQ(rows.size(), static_cast<std::size_t>(num_ranks * (num_ranks - 1)));
    std::size_t at = 0;
    for (const std::int64_t bytes : {std::int64_t{8}, std::int64_t{4} << 20})
      for (int first = 0; first < num_ranks; ++first)
        for (int second = first + 1; second < num_ranks; ++second, ++at) {
          EXPECT_EQ(rows[at].at("first"), first);
          EXPECT_EQ(rows[at].at("second"), second);
          EXPECT_EQ(rows[at].at("bytes"), bytes);
          EXPECT_EQ(rows[at].at("num_wrong"), 0);
          EXPECT_EQ(rows[at].at("path"), "shared memory");
          EXPECT_GT(rows[at].at("median_s").get<double>(), 0);
        }
  }
  const Ran text = run({"bench", "exchange", "-p", "3", "--matrix", "-n", "1"});
  expect_words(text.out, {"3 ranks: latency of 8 bytes", "3 ranks: bandwidth of 4194304 bytes"});
  const Ran refused = run({"bench", "exchange", "--matrix", "--bytes", "8"});
  EXPECT_EQ(refused.code, exit_bad_input);
  expect_words(refused.err, {"--matrix: has sizes of its own"});
  expect_words(run({"bench", "exchange", "--matrix", "--pattern", "ring"}).err, {"want it without --pattern ring"});
  expect_words(run({"bench", "exchange", "--matrix", "-p", "65"}).err, {"--ranks: 65 are 2080 pairs, want at most 64"});
}

/// Results of rows of these medians, at 2, 3, ... ranks.
std::string results(const std::vector<double>& medians, std::int64_t num_wrong = 0) {
  Row rows = Row::array();
  int num_ranks = 2;
  for (const double median : medians)
    rows.push_back(
        {{"pattern", "ring"}, {"ranks", num_ranks++}, {"bytes", 8}, {"median_s", median}, {"num_wrong", num_wrong}, {"transport", "shm"}});
  return Row{{"results", rows}}.dump();
}

TEST(BenchCompare, slower_missing_and_wrong_rows_fail) {
  const Folder folder;
  const std::string before = folder.file("old.json"), after = folder.file("new.json");
  write_text(before, results({1e-6, 1e-3}));
  const auto compared = [&](const std::string& text, const std::string& tolerance) {
    write_text(after, text);
    return run({"bench", "compare", before, after, "--tolerance", tolerance});
  };
  const Ran same = compared(results({1.04e-6, 0.5e-3}), "5%");
  EXPECT_EQ(same.code, exit_right) << same.out;
  expect_words(same.out, {"ring, 2 ranks, 8 bytes, shm", "1.04  same", "0.50  faster",
                          "2 rows, median ratio 1.04; 0 slower than 5% or wrong, 0 missing"});
  const Ran slower = compared(results({1.04e-6, 1.06e-3}), "5%");
  EXPECT_EQ(slower.code, exit_check_failed);
  expect_words(slower.out, {"1.04  same", "1.06  SLOWER"});
  EXPECT_EQ(compared(results({1.04e-6, 1.06e-3}), "6.5").code, exit_right);
  const Ran missing = compared(results({1e-6}), "5%");
  EXPECT_EQ(missing.code, exit_check_failed);
  expect_words(missing.out, {"MISSING", "1 missing"});
  const Ran wrong = compared(results({1e-6, 1e-3}, 3), "5%");
  EXPECT_EQ(wrong.code, exit_check_failed);
  expect_words(wrong.out, {"WRONG"});
  const Ran more = compared(results({1e-6, 1e-3, 1}), "0");
  EXPECT_EQ(more.code, exit_right);
  expect_words(more.out, {"not in the old results: ring, 4 ranks, 8 bytes, shm"});
}

TEST(BenchCompare, rows_of_other_problems_are_not_compared) {
  const Folder folder;
  const std::string before = folder.file("old.json"), after = folder.file("new.json");
  const Row row = {{"method", "ring"},      {"pass", "forward"}, {"ranks", 2},        {"tokens", 64},
                   {"dtype", "f32"},        {"q_heads", 8},      {"kv_heads", 2},     {"mask", "causal"},
                   {"partition", "zigzag"}, {"median_s", 1e-3},  {"transport", "shm"}};
  write_text(before, Row{{"results", Row::array({row})}}.dump());
  EXPECT_EQ(run({"bench", "compare", before, before}).code, exit_right);
  for (const auto& [field, other] : std::vector<std::pair<std::string, Row>>{
           {"dtype", "bf16"}, {"q_heads", 16}, {"kv_heads", 8}, {"mask", "full"}, {"partition", "contiguous"}}) {
    Row changed = row;
    changed[field] = other;
    write_text(after, Row{{"results", Row::array({changed})}}.dump());
    const Ran alone = run({"bench", "compare", before, after});
    EXPECT_EQ(alone.code, exit_bad_input) << field;
    // Beside a row that is the same the two are told apart, too.
    write_text(after, Row{{"results", Row::array({changed, row})}}.dump());
    const Ran both = run({"bench", "compare", before, after});
    EXPECT_EQ(both.code, exit_right) << field << '\n' << both.out;
    expect_words(both.out, {"1 rows", "not in the old results: ring forward"});
  }
}

TEST(BenchCompare, what_cannot_be_compared_is_refused) {
  const Folder folder;
  const std::string good = folder.file("good.json"), bad = folder.file("bad.json");
  write_text(good, results({1e-6}));
  const auto refused = [&](const std::string& text, const std::vector<std::string>& words) {
    write_text(bad, text);
    const Ran ran = run({"bench", "compare", good, bad});
    EXPECT_EQ(ran.code, exit_bad_input) << text;
    expect_words(ran.err, words);
  };
  refused("", {"new: '", "cannot be read (it is empty)"});
  refused("{", {"is not JSON: "});
  refused("[]", {"is not what seqccl bench --json writes: "});
  refused(R"({"results": [{"ranks": 2}]})", {"is not what seqccl bench --json writes: "});
  refused(R"({"results": []})", {"has no rows"});
  refused(results({-1}), {"median_s of 'ring, 2 ranks, 8 bytes, shm' is -1, want above 0"});
  refused(R"({"results": [{"method": "x", "ranks": 2, "median_s": 1, "transport": "shm"}]})", {"has no row of "});
  const Ran gone = run({"bench", "compare", folder.file("none"), good});
  EXPECT_EQ(gone.code, exit_bad_input);
  expect_words(gone.err, {"old: '", "No such file"});
  expect_words(run({"bench", "compare", good, good, "--tolerance", "-1"}).err,
               {"--tolerance: '-1' is not right, want percent, such as 5%"});
}

TEST(BenchCompare, reads_what_bench_writes) {
  const Watchdog dog(std::chrono::seconds(120));
  const Folder folder;
  const std::string path = folder.file("results.json");
  for (const std::vector<std::string>& what : {std::vector<std::string>{"exchange", "--bytes", "8,9", "-p", "2", "-n", "1"},
                                               std::vector<std::string>{"attention", "-p", "2", "-n", "64", "--repeat", "1", "--method",
                                                                        "ring", "--backward", "--head-dim", "8"}}) {
    std::vector<std::string> arguments = {"bench"};
    arguments.insert(arguments.end(), what.begin(), what.end());
    arguments.emplace_back("--json");
    write_text(path, run(arguments).out);
    const Ran ran = run({"bench", "compare", path, path, "--tolerance", "0", "--json"});
    ASSERT_EQ(ran.code, exit_right) << ran.err;
    const json all = json::parse(ran.out);
    EXPECT_EQ(all.at("median_ratio"), 1);
    EXPECT_EQ(all.at("rows").size(), what[0] == "exchange" ? 8u : 2u);
  }
}

}  // namespace
}  // namespace seqccl::command::test
