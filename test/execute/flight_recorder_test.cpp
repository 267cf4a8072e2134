// flight_recorder_test.cpp - what ranks write when their group fails or when they are asked, also while they run.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "rings.hpp"
#include "seqccl/communicator.hpp"
#include "support/alarm.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// A folder of its own in which failures are recorded as long as this object lives.
class Records {
 public:
  explicit Records(bool on = true) {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() / ("seqccl-" + std::string(info->name()) + "-" + std::to_string(::getpid()));
    std::filesystem::remove_all(path_);
    if (on)
      ::setenv("SEQCCL_FLIGHT_RECORD", path_.c_str(), 1);
    else
      std::filesystem::create_directories(path_);
  }
  ~Records() {
    ::unsetenv("SEQCCL_FLIGHT_RECORD");
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Records(const Records&) = delete;
  Records& operator=(const Records&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return (path_ / name).string(); }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    if (std::filesystem::exists(path_))
      for (const auto& entry : std::filesystem::directory_iterator(path_)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  [[nodiscard]] std::string text_of_rank(Rank rank) const {
    const std::string end = "-rank" + std::to_string(rank) + ".json";
    for (const std::string& name : names())
      if (name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0) return text(file(name));
    return "";
  }
  static std::string text(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

 private:
  std::filesystem::path path_;
};

std::size_t count(const std::string& text, const std::string& words) {
  std::size_t number = 0;
  for (std::size_t at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++number;
  return number;
}
#define EXPECT_HAS(text, words) EXPECT_NE((text).find(words), std::string::npos) << (text)

/// Runs `num_runs` rings; false once the group has failed.
bool run_rings(Communicator& comm, const Schedule& schedule, int num_runs) {
  try {
    RingRank ring(schedule, comm.arena(schedule.workspace_bytes));
    for (int run = 0; run < num_runs; ++run) {
      ring.prepare(run);
      run_host(ring.schedule, *ring.memory, comm.transport(), {.timeout = comm.timeout()});
      EXPECT_TRUE(ring.right(run));
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// Runs one schedule without tensors of the caller's; false once the group has failed.
bool run(Communicator& comm, const Schedule& schedule) {
  try {
    run_host(schedule, Bindings(schedule, comm.arena(schedule.workspace_bytes)), comm.transport(), {.timeout = comm.timeout()});
    return true;
  } catch (const Error&) {
    return false;
  }
}

TEST(FlightRecorder, ARecordThatIsAskedForHasStepsOperationsAndPeers) {
  const Records records(false);
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8}) {
    Watchdog dog(seconds(60));
    run_ranks(num_ranks, [&](Communicator& comm) {
      const Schedule schedule = ring_gather(comm.rank(), num_ranks);
      ASSERT_TRUE(run_rings(comm, schedule, 3));
      const std::string path = records.file("of" + std::to_string(num_ranks) + "-" + std::to_string(comm.rank()));
      comm.write_flight_record(path);
      const std::string text = Records::text(path);
      EXPECT_HAS(text, "\"schema\": \"seqccl flight record\"");
      EXPECT_HAS(text, "\"reason\": \"asked\"");
      EXPECT_HAS(text, "\"error\": null");
      EXPECT_HAS(text, "\"transport\": \"threads\"");
      EXPECT_HAS(text, "\"rank\": " + std::to_string(comm.rank()) + ",\n \"num_ranks\": " + std::to_string(num_ranks) + ",");
      EXPECT_HAS(text, "\"operations_begun\": 3,\n \"operations_ended\": 3,");
      EXPECT_EQ(count(text, "\"name\": \"ring gather\""), 3u);
      EXPECT_EQ(count(text, "\"id\": "), 1u) << "one description for three equal operations";
      EXPECT_EQ(count(text, "\"step\": "), 3 * schedule.steps.size());
      EXPECT_EQ(count(text, "\"end_ns\": null"), 0u) << "all has ended";
      EXPECT_EQ(count(text, "\"lane\": \"comm\""), 3u * (num_ranks - 1));
      EXPECT_EQ(count(text, "\"waiting_for\": "), static_cast<std::size_t>(num_ranks));
      if (num_ranks > 1) {
        const Rank left = (comm.rank() + num_ranks - 1) % num_ranks;
        EXPECT_HAS(text, "\"received_messages\": " + std::to_string(3 * (num_ranks - 1)));
        EXPECT_HAS(text, "{\"rank\": " + std::to_string(left) + ", \"operations_begun\": ");
      }
    });
  }
}

TEST(FlightRecorder, TheLastStepsAreKept) {
  const Records records(false);
  run_ranks(1, [&](Communicator& comm) {
    Recorder plan("long", 0, 1);
    const Block x = plan.scratch(f32, {1, 1, 1, 1});
    for (int i = 0; i < 300; ++i) plan.compute(Zero{x}, i % 7);
    const Schedule schedule = std::move(plan).finish("long");
    const Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
    for (int run = 0; run < 300; ++run) {
      const std::string description = "long\nturn = " + std::to_string(run % 20);  // more of them than are kept
      RunOptions options;
      options.description = description;
      run_host(schedule, memory, comm.transport(), options);
    }
    comm.write_flight_record(records.file("record"));
    const std::string text = Records::text(records.file("record"));
    EXPECT_EQ(count(text, "\"step\": "), FlightRecorder::ring_entries);
    EXPECT_EQ(count(text, "\"name\": "), FlightRecorder::num_operations);
    EXPECT_EQ(count(text, "\"id\": "), FlightRecorder::num_descriptions);
    EXPECT_HAS(text, "{\"operation\": 300, \"step\": 299, \"lane\": \"compute\", \"label\": \"zero, block of rank 5\"");
    EXPECT_HAS(text, "\"lines\": [\"long\", \"turn = 19\"]");
    EXPECT_EQ(text.find("turn = 3\""), std::string::npos) << "the oldest goes first";
    EXPECT_EQ(text.find("\"operation\": 293,"), std::string::npos);
  });
}

// Readers see whole entries: every step that they see is one that was run, its times in order.
TEST(FlightRecorder, MayBeReadWhileRanksRun) {
  const Records records(false);
  Watchdog dog(seconds(120));
  run_ranks(4, [&](Communicator& comm) {
    std::atomic<bool> over{false};
    int num_written = 0;
    std::thread reader([&] {
      const std::string path = records.file(std::to_string(comm.rank()));
      do {
        comm.write_flight_record(path);
        ++num_written;
        const std::string text = Records::text(path);
        EXPECT_EQ(text.substr(text.size() - 2), "}\n");
        std::size_t at = 0;
        while ((at = text.find("{\"operation\": ", at)) != std::string::npos) {
          unsigned long long operation = 0, begin = 0, end = 0;
          unsigned step = 0;
          char lane[16] = {}, label[64] = {};
          const std::string line = text.substr(at++, 300);
          const int fields = std::sscanf(line.c_str(),
                                         "{\"operation\": %llu, \"step\": %u, \"lane\": \"%15[a-z0-9]\", \"label\": \"%63[^\"]\", "
                                         "\"begin_ns\": %llu, \"end_ns\": %llu",
                                         &operation, &step, lane, label, &begin, &end);
          ASSERT_GE(fields, 5) << line;
          EXPECT_GE(operation, 1u);
          EXPECT_LE(operation, 60u);
          EXPECT_LT(step, 11u);
          EXPECT_EQ(std::string(lane) == "comm", std::string(label).rfind("exchange", 0) == 0) << line;
          EXPECT_TRUE(fields < 6 || end >= begin) << line;
        }
      } while (!over);
    });
    EXPECT_TRUE(run_rings(comm, ring_gather(comm.rank(), 4, [](int) {}), 60));
    over = true;
    reader.join();
    EXPECT_GE(num_written, 1);
  });
}

TEST(FlightRecorder, ARankThatSleepsInItsStepIsInEveryRecord) {
  for (const int num_ranks : {2, 3, 4, 5, 7, 8}) {
    const Records records;
    Watchdog dog(seconds(60));
    const Rank slow = num_ranks / 2;
    run_ranks(num_ranks,
              [&](Communicator& comm) {
                EXPECT_TRUE(run(comm, relay_all(comm.rank(), num_ranks)));
                EXPECT_FALSE(run(comm, relay_all(comm.rank(), num_ranks, [&] {
                                   if (comm.rank() == slow) sleep_until_failed(comm.transport());
                                 })));
              },
              {.timeout = milliseconds(200)});
    ASSERT_EQ(records.names().size(), static_cast<std::size_t>(num_ranks)) << "one whole file a rank, and nothing else";
    const std::string slow_text = std::to_string(slow);
    for (Rank rank = 0; rank < num_ranks; ++rank) {
      const std::string text = records.text_of_rank(rank);
      EXPECT_HAS(text, "\"reason\": \"failure\"");
      EXPECT_HAS(text, "\"error\": {\"class\": \"stalled\", \"culprits\": [" + slow_text + "]");
      EXPECT_HAS(text, "\"operations_begun\": 2,\n \"operations_ended\": 1,");
      EXPECT_HAS(text, "{\"operation\": 2, \"step\": 0, \"lane\": \"compute\", \"label\": \"custom, block of rank " + std::to_string(rank));
      if (rank == slow) continue;
      // The schedule is gone when a run ends, but not before its labels have been written.
      const std::string left = std::to_string((rank + num_ranks - 1) % num_ranks);
      EXPECT_HAS(text, "\"label\": \"exchange, to " + std::to_string((rank + 1) % num_ranks) + ", from " + left + "\", \"begin_ns\": ");
      EXPECT_HAS(text, "\"end_ns\": null, \"waited_for\": ");
      EXPECT_HAS(text, "{\"rank\": " + slow_text + ", \"operations_begun\": 2, \"operations_ended\": 1, \"compute_step\": 0, ");
    }
  }
}

TEST(FlightRecorder, RanksThatNeverNoticedWriteWhenTheyEnd) {
  const Records records;
  Watchdog dog(seconds(60));
  run_ranks(3,
            [&](Communicator& comm) {
              if (comm.rank() == 1) return std::this_thread::sleep_for(milliseconds(600));  // calls nothing
              EXPECT_FALSE(run_rings(comm, ring_gather(comm.rank(), 3), 1));
            },
            {.timeout = milliseconds(200)});
  EXPECT_EQ(records.names().size(), 3u);
  EXPECT_HAS(records.text_of_rank(1), "\"culprits\": [1]");
  EXPECT_HAS(records.text_of_rank(1), "\"operations\": []");
  EXPECT_HAS(records.text_of_rank(0), "rank 1 has not called operation 1");
}

TEST(FlightRecorder, AnAbortIsRecordedByAll) {
  const Records records;
  Watchdog dog(seconds(60));
  EXPECT_THROW(run_ranks(3,
                         [&](Communicator& comm) {
                           if (comm.rank() == 2) return comm.abort("a \"quoted\" reason\n\xff\xc3\xa9");
                           EXPECT_FALSE(run_rings(comm, ring_gather(comm.rank(), 3), 1));
                         }),
               Error);
  EXPECT_EQ(records.names().size(), 3u);
  for (Rank rank = 0; rank < 3; ++rank)
    EXPECT_HAS(records.text_of_rank(rank), "rank 2 of 3 aborted: a \\\"quoted\\\" reason\\u000a\\ufffd\xc3\xa9\"}");
}

TEST(FlightRecorder, WhatHappensAfterwardsDoesNotReplaceTheFirstFailure) {
  const Records records;
  Watchdog dog(seconds(60));
  const auto body = [&](Communicator& comm) {
    if (comm.rank() == 0) comm.abort("first");
    EXPECT_FALSE(run_rings(comm, ring_gather(comm.rank(), 2), 1));
    comm.abort("second");
    EXPECT_FALSE(run_rings(comm, ring_gather(comm.rank(), 2), 1));
    comm.write_flight_record(records.file("again" + std::to_string(comm.rank())));
  };
  EXPECT_THROW(run_ranks(2, body), Error);
  EXPECT_EQ(records.names().size(), 4u);
  for (Rank rank = 0; rank < 2; ++rank) {
    EXPECT_HAS(records.text_of_rank(rank), "aborted: first");
    EXPECT_HAS(Records::text(records.file("again" + std::to_string(rank))), "aborted: first");
  }
}

TEST(FlightRecorder, AFolderThatCannotBeWrittenIsRefusedAtOnceAndNeverHidesTheError) {
  ::setenv("SEQCCL_FLIGHT_RECORD", "/proc/no such folder", 1);
  try {
    (void)thread_communicators(2);
    ADD_FAILURE() << "want an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::argument);
    EXPECT_HAS(std::string(error.what()), "SEQCCL_FLIGHT_RECORD is '/proc/no such folder', which cannot be made: ");
  }
  ::unsetenv("SEQCCL_FLIGHT_RECORD");

  const Records records;
  auto comms = thread_communicators(2);
  EXPECT_THROW(comms[0].write_flight_record(records.file("no/such/folder")), Error);
  std::filesystem::remove_all(records.file(""));
  const Schedule schedule = ring_gather(0, 2);
  RingRank ring(schedule);
  { const Communicator gone = std::move(comms[1]); }
  try {
    run_host(schedule, *ring.memory, comms[0].transport(), {});
    ADD_FAILURE() << "want an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::dead);
    EXPECT_EQ(error.culprits(), std::vector<Rank>{1});
    EXPECT_HAS(std::string(error.what()), "rank 1 left its communicator (no flight record: cannot write '");
  }
}

TEST(FlightRecorder, NothingIsWrittenWithoutAFailureOrWithoutBeingTold) {
  const Records on;
  run_ranks(2, [&](Communicator& comm) { EXPECT_TRUE(run_rings(comm, ring_gather(comm.rank(), 2), 2)); });
  EXPECT_TRUE(on.names().empty());
  ::unsetenv("SEQCCL_FLIGHT_RECORD");
  EXPECT_THROW(run_ranks(2, [&](Communicator& comm) { comm.abort("stopped"); }), Error);
  EXPECT_TRUE(on.names().empty());
}

TEST(FlightRecorderProcesses, SurvivorsOfAKilledRankWriteTheirs) {
  for (const int num_ranks : {2, 3, 4, 5, 7, 8}) {
    const Records records;
    const Alarm alarm(60);
    const Rank victim = num_ranks - 1;
    try {
      run_processes(num_ranks,
                    [&](Communicator& comm) {
                      EXPECT_TRUE(run(comm, relay_all(comm.rank(), num_ranks)));
                      (void)run(comm, relay_all(comm.rank(), num_ranks, [&] {
                                  if (comm.rank() != victim) return;
                                  std::this_thread::sleep_for(milliseconds(100));  // all are here
                                  ::raise(SIGKILL);
                                }));
                    },
                    {.timeout = seconds(30)});
      ADD_FAILURE() << "want an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.culprits(), std::vector<Rank>{victim}) << error.what();
    }
    ASSERT_EQ(records.names().size(), static_cast<std::size_t>(num_ranks - 1));
    for (Rank rank = 0; rank < num_ranks; ++rank) {
      const std::string text = records.text_of_rank(rank);
      if (rank == victim) {
        EXPECT_EQ(text, "");
        continue;
      }
      EXPECT_HAS(text, "\"error\": {\"class\": \"dead\", \"culprits\": [" + std::to_string(victim) + "]");
      EXPECT_HAS(text, "\"transport\": \"shm\"");
      EXPECT_HAS(text, "\"job\": \"pid" + std::to_string(::getpid()) + "\"");
      EXPECT_EQ(records.names().front().rfind("seqccl-pid" + std::to_string(::getpid()) + "-rank", 0), 0u) << records.names().front();
    }
  }
}

TEST(FlightRecorderProcesses, ACopyInAForkedChildWritesNothing) {
  const Records records;
  const Alarm alarm(60);
  auto comms = thread_communicators(1);
  const int child = ::fork();
  if (child == 0) {
    comms[0].abort("in a child");
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(records.names().empty());
}

}  // namespace
}  // namespace seqccl::test
