// exchange_test.cpp - `seqccl bench exchange`: raw messages arrive whole, are counted, and a wrong number is seen.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include "command/exchange_job.hpp"
#include "command/support.hpp"
#include "seqccl/check.hpp"
#include "support/watchdog.hpp"

namespace seqccl::command::test {
namespace {

using nlohmann::json;
using seqccl::test::Watchdog;

TEST(Exchange, every_pattern_is_right_at_every_number_of_ranks) {
  const Watchdog dog(std::chrono::seconds(240));
  for (const RankTransport transport : {RankTransport::threads, RankTransport::shm, RankTransport::ucx})
    for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8}) {
      if (transport == RankTransport::ucx && (num_ranks > 4 || !transport_state(ProcessTransport::ucx).is_there))
        continue;  // slow to begin
      for (const Pattern pattern : {Pattern::ping_pong, Pattern::all_gather})
        for (const std::int64_t num_bytes : {1, 1000, 300000}) {
          RunSettings settings;
          settings.num_ranks = num_ranks;
          settings.repeat = 2;
          settings.transport = transport;
          const ExchangePlan plan = ExchangePlan::of(pattern, num_ranks, num_bytes);
          const ExchangeRun run = run_exchange(plan, settings);
          EXPECT_EQ(run.num_wrong, 0);
          EXPECT_EQ(run.seconds.size(), 2u);
          EXPECT_EQ(run.whole.moved_bytes, run.whole.planned_bytes);
          EXPECT_EQ(run.whole.moved_messages, run.whole.planned_messages);
          const auto messages = static_cast<std::uint64_t>(pattern == Pattern::all_gather ? num_ranks * (num_ranks - 1)
                                                           : num_ranks > 1                ? 2
                                                                                          : 0);
          EXPECT_EQ(run.whole.moved_messages, messages * static_cast<std::uint64_t>(plan.num_inner()));
          EXPECT_EQ(run.whole.moved_bytes, run.whole.moved_messages * 4 * static_cast<std::uint64_t>(plan.part));
        }
    }
}

TEST(Exchange, plans_are_proven) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (const Pattern pattern : {Pattern::ping_pong, Pattern::all_gather}) {
      std::vector<Schedule> schedules;
      for (Rank rank = 0; rank < num_ranks; ++rank) schedules.push_back(ExchangePlan::of(pattern, num_ranks, 4096).schedule(rank));
      EXPECT_EQ(check_matching(schedules).text() + check_deadlock_free(schedules).text(), "") << name(pattern) << " on " << num_ranks;
      for (const Schedule& schedule : schedules) EXPECT_EQ(check_races(schedule).text(), "") << name(pattern) << " on " << num_ranks;
    }
}

TEST(Exchange, a_wrong_number_is_seen) {
  std::vector<float> got;
  for (std::int64_t i = 0; i < 5000; ++i) got.push_back(sent_number(3, i));
  EXPECT_EQ(count_wrong(got, 3), 0);
  EXPECT_EQ(count_wrong(got, 2), 5000);
  got[4097] += 1;
  got[0] = 0;
  EXPECT_EQ(count_wrong(got, 3), 2);
}

TEST(Exchange, bench_has_the_columns_of_nccl_tests) {
  const Watchdog dog(std::chrono::seconds(120));
  const std::vector<std::string> arguments = {"bench",       "exchange", "--ranks",  "2,4", "--bytes",  "8,4k,1m",
                                              "--transport", "shm",      "--repeat", "3",   "--warmup", "1"};
  std::vector<std::string> with_json = arguments;
  with_json.emplace_back("--json");
  const Ran ran = run(with_json);
  ASSERT_EQ(ran.code, exit_right) << ran.err;
  const json rows = json::parse(ran.out).at("results");
  ASSERT_EQ(rows.size(), 9u);  // ping-pong once, all-gather at both numbers of ranks
  for (const json& row : rows) {
    EXPECT_EQ(row.at("transport"), "shm");
    EXPECT_EQ(row.at("num_wrong"), 0);
    EXPECT_EQ(row.at("moved_bytes"), row.at("planned_bytes"));
    const double ranks = row.at("ranks").get<double>(), algbw = row.at("algbw_gb_per_s").get<double>();
    EXPECT_NEAR(algbw, row.at("bytes").get<double>() / row.at("median_s").get<double>() / 1e9, 1e-6 * algbw);
    EXPECT_NEAR(row.at("busbw_gb_per_s").get<double>(), algbw * (row.at("pattern") == "all_gather" ? (ranks - 1) / ranks : 1),
                1e-6 * algbw);
  }
  EXPECT_EQ(rows[3].at("bytes"), 8);
  EXPECT_EQ(rows[6].at("bytes"), 16);  // one number of each of four ranks
  const Ran text = run(arguments);
  for (const char* word : {"transport shm", "algbw GB/s", "busbw GB/s", "#wrong", "ping_pong"})
    EXPECT_NE(text.out.find(word), std::string::npos) << word << '\n' << text.out;
  const auto refused = [](std::vector<std::string> options, const std::string& words) {
    options.insert(options.begin(), {"bench", "exchange"});
    const Ran bad = run(options);
    EXPECT_EQ(bad.code, exit_bad_input);
    EXPECT_NE(bad.err.find(words), std::string::npos) << bad.err;
  };
  refused({"--ranks", "1"}, "one rank has nobody to send to");
  refused({"--bytes", "0"}, "--bytes: 0 is not right");
  refused({"--pattern", "ring"}, "want one of: all, ping_pong, all_gather");
}

}  // namespace
}  // namespace seqccl::command::test
