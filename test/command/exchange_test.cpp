// exchange_test.cpp - `seqccl bench exchange`: raw messages arrive whole, are counted, and a wrong number is seen.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "command/exchange_job.hpp"
#include "command/support.hpp"
#include "seqccl/check.hpp"
#include "seqccl/communicator.hpp"
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
      for (const Pattern pattern : all_patterns)
        for (const std::int64_t num_bytes : {1, 1000, 300000}) {
          RunSettings settings;
          settings.num_ranks = num_ranks;
          settings.repeat = 2;
          settings.transport = transport;
          const DType dtype = num_bytes == 1000 ? bf16 : f32;
          const ExchangePlan plan = ExchangePlan::of(pattern, num_ranks, num_bytes, dtype);
          const ExchangeRun run = run_exchange(plan, settings);
          EXPECT_EQ(run.num_wrong, 0);
          EXPECT_EQ(run.seconds.size(), 2u);
          EXPECT_EQ(run.whole.moved_bytes, run.whole.planned_bytes);
          EXPECT_EQ(run.whole.moved_messages, run.whole.planned_messages);
          const bool is_to_all = pattern == Pattern::all_gather || pattern == Pattern::all_to_all;
          const int num_messages = num_ranks == 1 ? 0 : is_to_all ? num_ranks * (num_ranks - 1) : pattern == Pattern::ring ? num_ranks : 2;
          const auto messages = static_cast<std::uint64_t>(num_messages);
          EXPECT_EQ(run.whole.moved_messages, messages * static_cast<std::uint64_t>(plan.num_inner()));
          EXPECT_EQ(run.whole.moved_bytes, run.whole.moved_messages * size_bytes(dtype) * static_cast<std::uint64_t>(plan.part));
        }
    }
}

TEST(Exchange, plans_are_proven) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (const Pattern pattern : all_patterns) {
      std::vector<Schedule> schedules;
      for (Rank rank = 0; rank < num_ranks; ++rank) schedules.push_back(ExchangePlan::of(pattern, num_ranks, 4096).schedule(rank));
      EXPECT_EQ(check_matching(schedules).text() + check_deadlock_free(schedules).text(), "") << name(pattern) << " on " << num_ranks;
      for (const Schedule& schedule : schedules) EXPECT_EQ(check_races(schedule).text(), "") << name(pattern) << " on " << num_ranks;
    }
}

template <class Word>
void wrong_numbers_are_seen() {
  std::vector<Word> got;
  for (std::int64_t i = 0; i < 5000; ++i) got.push_back(sent_number<Word>(3, i));
  EXPECT_EQ(count_wrong<Word>(got, 3), 0);
  EXPECT_EQ(count_wrong<Word>(got, 2), 5000);
  got[4097] = static_cast<Word>(got[4097] + 1);
  got[0] = 0;
  EXPECT_EQ(count_wrong<Word>(got, 3), 2);
}

TEST(Exchange, a_wrong_number_is_seen) {
  wrong_numbers_are_seen<std::uint32_t>();
  wrong_numbers_are_seen<std::uint16_t>();
  for (std::int64_t stream = 0; stream < 3855; ++stream) ASSERT_NE(sent_number<std::uint16_t>(stream, stream % 5000), 0);
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
  ASSERT_EQ(rows.size(), 21u);  // ping-pong once, the others at both numbers of ranks
  for (const json& row : rows) {
    EXPECT_EQ(row.at("transport"), "shm");
    EXPECT_EQ(row.at("num_wrong"), 0);
    EXPECT_EQ(row.at("moved_bytes"), row.at("planned_bytes"));
    const double ranks = row.at("ranks").get<double>(), algbw = row.at("algbw_gb_per_s").get<double>();
    EXPECT_NEAR(algbw, row.at("bytes").get<double>() / row.at("median_s").get<double>() / 1e9, 1e-6 * algbw);
    EXPECT_NEAR(row.at("busbw_gb_per_s").get<double>(),
                algbw * (row.at("bytes").get<double>() > row.at("count").get<double>() * 4 ? (ranks - 1) / ranks : 1), 1e-6 * algbw);
  }
  EXPECT_EQ(rows[3].at("bytes"), 8);
  EXPECT_EQ(rows[6].at("bytes"), 16);  // one number of each of four ranks
  const Ran text = run(arguments);
  for (const char* word : {"transport shm", "algbw", "busbw", "#wrong", "ping_pong", "all_to_all",
                           "\n# Avg bus bandwidth    : ", "\n# Out of bounds values : 0 OK\n"})
    EXPECT_NE(text.out.find(word), std::string::npos) << word << '\n' << text.out;
  const auto refused = [](std::vector<std::string> options, const std::string& words) {
    options.insert(options.begin(), {"bench", "exchange"});
    const Ran bad = run(options);
    EXPECT_EQ(bad.code, exit_bad_input);
    EXPECT_NE(bad.err.find(words), std::string::npos) << bad.err;
  };
  refused({"--ranks", "1"}, "one rank has nobody to send to");
  refused({"--bytes", "0"}, "--bytes: 0 is not right");
  refused({"--pattern", "rings"}, "want one of: all, ping_pong, all_gather, all_to_all, ring");
  refused({"-b", "4k", "-e", "8"}, "--end: 8 is not right, want at least --begin, which is 4096");
  refused({"-b", "8", "--bytes", "8"}, "--bytes: is given with -b, -e, -f or -i");
  refused({"-f", "2", "-i", "8"}, "--increment: is given with --factor");
  refused({"-e", "16m", "-i", "4"}, "are more than 1000 sizes");
  refused({"--csv", "--json"}, "--csv: is given with --json");
  refused({"-x", "ucx:"}, "want ucx:NAME with a transport of UCX, such as ucx:tcp");
  refused({"-x", "ucx:tcp,ucx:tcp"}, "has ucx:tcp twice");
  refused({"-x", "shm,"}, "--transport: '' is not known; want one of: threads, shm, ucx");
}

std::vector<json> rows_of(std::vector<std::string> options) {
  options.insert(options.begin(), {"bench", "exchange", "-n", "2", "-w", "0", "-p", "3", "--json"});
  const Ran ran = run(options);
  EXPECT_EQ(ran.code, exit_right) << ran.err;
  return ran.code == exit_right ? json::parse(ran.out).at("results").get<std::vector<json>>() : std::vector<json>{};
}

TEST(Exchange, the_letters_of_nccl_tests_choose_sizes_and_types) {
  const Watchdog dog(std::chrono::seconds(120));
  const auto sizes_of = [](const std::vector<json>& rows) {
    std::vector<std::int64_t> sizes;
    for (const json& row : rows) sizes.push_back(row.at("bytes").get<std::int64_t>());
    return sizes;
  };
  const std::vector<json> twice = rows_of({"-b", "8", "-e", "64", "-f", "2", "-d", "bf16", "-c", "0", "--pattern", "ring"});
  EXPECT_EQ(sizes_of(twice), (std::vector<std::int64_t>{8, 16, 32, 64}));
  for (const json& row : twice) {
    EXPECT_EQ(row.at("type"), "bf16");
    EXPECT_EQ(row.at("count").get<std::int64_t>() * 2, row.at("bytes").get<std::int64_t>());
    EXPECT_FALSE(row.contains("num_wrong"));
    EXPECT_LE(row.at("median_s").get<double>(), row.at("p99_s").get<double>());
    EXPECT_EQ(row.at("p99_s"), row.at("max_s"));  // of two runs
  }
  EXPECT_EQ(sizes_of(rows_of({"-b", "4k", "-e", "12k", "-i", "4k", "--pattern", "ping_pong"})),
            (std::vector<std::int64_t>{4096, 8192, 12288}));
  EXPECT_EQ(sizes_of(rows_of({"-b", "1m", "-e", "1m", "--pattern", "sendrecv"})), (std::vector<std::int64_t>{1 << 20}));
}

TEST(Exchange, several_paths_are_measured_beside_each_other) {
  const Watchdog dog(std::chrono::seconds(120));
  const std::vector<json> rows = rows_of({"-x", "shm,threads", "--bytes", "8,4k", "--pattern", "ring"});
  ASSERT_EQ(rows.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rows[i].at("transport"), i < 2 ? "shm" : "threads");
    EXPECT_EQ(rows[i].at("path"), i < 2 ? "shared memory" : "own memory");
  }
  const std::vector<std::string> arguments = {"bench", "exchange",    "-n",      "2", "-p",        "2",
                                              "-x",    "threads,shm", "--bytes", "8", "--pattern", "ring"};
  const Ran text = run(arguments);
  for (const char* words : {"transport threads", "transport shm", "\nmedian ", "\nring, 2 ranks, 8 bytes, f32  ", "x)\n"})
    EXPECT_NE(text.out.find(words), std::string::npos) << words << '\n' << text.out;
  std::vector<std::string> with_csv = arguments;
  with_csv.emplace_back("--csv");
  std::istringstream lines(run(with_csv).out);
  std::vector<std::string> all;
  for (std::string line; std::getline(lines, line);) all.push_back(line);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].rfind("pattern,ranks,bytes,count,type,median_s,", 0), 0u) << all[0];
  EXPECT_EQ(all[1].rfind("ring,2,8,2,f32,", 0), 0u) << all[1];
  for (const std::string& line : all) {
    std::size_t num_commas = 0;  // those outside quotes
    bool is_quoted = false;
    for (const char letter : line) {
      is_quoted = is_quoted != (letter == '"');
      num_commas += letter == ',' && !is_quoted ? 1 : 0;
    }
    EXPECT_EQ(num_commas, static_cast<std::size_t>(std::ranges::count(all[0], ','))) << line;
  }
}

TEST(Exchange, the_list_says_which_paths_there_are) {
  const Watchdog dog(std::chrono::seconds(240));
  const Ran ran = run({"bench", "exchange", "--list", "--json"});
  ASSERT_EQ(ran.code, exit_right) << ran.err;
  std::map<std::string, bool> there;
  for (const json& path : json::parse(ran.out)) {
    there[path.at("path")] = path.at("is_there");
    EXPECT_FALSE(path.at("why").get<std::string>().empty());
  }
  EXPECT_TRUE(there.at("threads"));
  EXPECT_EQ(there.at("ucx"), transport_state(ProcessTransport::ucx).is_there);
  EXPECT_EQ(there.at("ucx:tcp"), there.at("ucx"));
  if (!there.at("ucx")) return;
  const Ran missing = run({"bench", "exchange", "-x", "shm,ucx:nosuch"});
  EXPECT_EQ(missing.code, exit_bad_input);
  EXPECT_NE(missing.err.find("--transport: ucx:nosuch cannot be used here: two processes tried it: "), std::string::npos) << missing.err;
  EXPECT_EQ(missing.out, "");
  // UCX itself would leave aside what is not there.
  const Ran partly = run({"bench", "exchange", "-x", "ucx:nosuch+tcp"});
  EXPECT_EQ(partly.code, exit_bad_input);
  EXPECT_NE(partly.err.find("messages went by tcp, not by nosuch"), std::string::npos) << partly.err;
}

}  // namespace
}  // namespace seqccl::command::test
