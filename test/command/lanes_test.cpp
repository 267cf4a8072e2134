// lanes_test.cpp - kernels and messages of a plan by themselves, and how much of one the other hides.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <string>
#include <vector>

#include "command/lanes.hpp"
#include "command/support.hpp"
#include "seqccl/collectives.hpp"
#include "support/watchdog.hpp"

namespace seqccl::command::test {
namespace {

using nlohmann::json;
using seqccl::test::Watchdog;

TEST(Lanes, overlap_is_as_osu_has_it) {
  EXPECT_DOUBLE_EQ(overlap_percent(10, 10, 4), 100);  // all hidden
  EXPECT_DOUBLE_EQ(overlap_percent(14, 10, 4), 0);    // one after the other
  EXPECT_DOUBLE_EQ(overlap_percent(11, 10, 4), 75);
  EXPECT_DOUBLE_EQ(overlap_percent(20, 10, 4), 0);   // slower than one after the other
  EXPECT_DOUBLE_EQ(overlap_percent(9, 10, 4), 125);  // noise is not hidden
  EXPECT_TRUE(std::isnan(overlap_percent(10, 10, 0)));
}

TEST(Lanes, a_plan_falls_into_its_kernels_and_its_messages) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (const Method method : {Method::ring, Method::kv_all_gather, Method::token_ring}) {
      AttentionSpec spec;
      spec.q_heads = spec.kv_heads = 8;
      spec.head_dim = 8;
      spec.method = method;
      spec.partition = Partition::zigzag(16 * num_ranks, num_ranks);
      spec.mask = Mask::causal();
      for (const Schedule& whole : record_all(entry_of(method).backward, spec)) {
        const Schedule kernels = only_compute(whole), messages = only_communication(whole);
        EXPECT_EQ(kernels.steps.size() + messages.steps.size(), whole.steps.size());
        EXPECT_NE(kernels.fingerprint, whole.fingerprint);
        EXPECT_NE(messages.fingerprint, whole.fingerprint);
        EXPECT_EQ(messages.workspace_bytes, whole.workspace_bytes);
        for (const Step& step : kernels.steps) {
          EXPECT_EQ(step.lane, Lane::compute);
          for (std::size_t lane = 1; lane < num_lanes; ++lane) EXPECT_EQ(step.after[lane], 0u);
        }
        for (const Step& step : messages.steps) {
          EXPECT_NE(step.lane, Lane::compute);
          EXPECT_EQ(step.after[0], 0u);
        }
      }
    }
}

TEST(Lanes, bench_measures_all_three_and_results_stay_right) {
  const Watchdog dog(std::chrono::seconds(240));
  for (const char* transport : {"threads", "shm"}) {
    const Ran ran = run({"bench",      "attention",  "-p",     "1,2,3,5",    "-n", "160",         "-x",
                         transport,    "--head-dim", "8",      "--kv-heads", "8",  "--repeat",    "2",
                         "--backward", "--overlap",  "--json", "--threads",  "1",  "--partition", "contiguous"});
    ASSERT_EQ(ran.code, exit_right) << ran.err;
    const json rows = json::parse(ran.out).at("results");
    ASSERT_GT(rows.size(), 8u);
    for (const json& row : rows) {
      EXPECT_GT(row.at("overall_s").get<double>(), 0);
      EXPECT_GT(row.at("compute_s").get<double>(), 0);
      EXPECT_GT(row.at("compute_slowdown").get<double>(), 0);
      if (row.contains("check")) {
        EXPECT_EQ(row.at("check").at("num_wrong"), 0);
      }
      if (row.at("ranks") == 1) {
        EXPECT_EQ(row.at("pure_comm_s"), 0);
        EXPECT_FALSE(row.contains("overlap_percent"));
        continue;
      }
      EXPECT_DOUBLE_EQ(
          row.at("overlap_percent").get<double>(),
          overlap_percent(row.at("overall_s").get<double>(), row.at("compute_s").get<double>(), row.at("pure_comm_s").get<double>()));
    }
  }
  expect_words(run({"bench", "attention", "-p", "2", "-n", "64", "--method", "ring", "--repeat", "1", "--overlap"}).out,
               {"Overall", "Compute", "Pure comm.", "Overlap %", "Slowdown", "max(0, 100 - (Overall - Compute) / Pure comm. 100)"});
  const json without = json::parse(run({"bench", "attention", "-p", "2", "-n", "64", "--method", "ring", "--repeat", "1", "--json"}).out);
  EXPECT_FALSE(without.at("results").at(0).contains("overlap_percent"));
}

}  // namespace
}  // namespace seqccl::command::test
