// doctor_test.cpp - `seqccl doctor`: it names the culprit, the operation and the step, from records of real failures.
// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <thread>

#include "command/support.hpp"
#include "execute/rings.hpp"
#include "seqccl/attention.hpp"
#include "seqccl/communicator.hpp"
#include "support/watchdog.hpp"

namespace seqccl::command::test {
namespace {

using seqccl::test::relay_all;
using seqccl::test::ring_gather;
using seqccl::test::RingRank;
using seqccl::test::Watchdog;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Json = nlohmann::json;

/// Failures are recorded in a folder as long as this object lives.
class Recorded {
 public:
  Recorded() { ::setenv("SEQCCL_FLIGHT_RECORD", folder.file("").c_str(), 1); }
  ~Recorded() { ::unsetenv("SEQCCL_FLIGHT_RECORD"); }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  [[nodiscard]] std::string record_of(Rank rank) const {
    const std::string end = "-rank" + std::to_string(rank) + ".json";
    for (const auto& entry : std::filesystem::directory_iterator(folder.file(""))) {
      const std::string path = entry.path();
      if (path.size() > end.size() && path.compare(path.size() - end.size(), end.size(), end) == 0) return path;
    }
    return folder.file("there is none");
  }
  Folder folder;
};

struct Diagnosed {
  int code = 0;
  std::string text, err;
  Json json;
  [[nodiscard]] Json finding(const std::string& kind) const {
    for (const Json& each : json["findings"])
      if (each["kind"] == kind) return each;
    return nullptr;
  }
};
Diagnosed doctor(const std::vector<std::string>& files) {
  std::vector<std::string> arguments = {"doctor"};
  arguments.insert(arguments.end(), files.begin(), files.end());
  const Ran text = run(arguments);
  arguments.emplace_back("--json");
  const Ran json = run(arguments);
  EXPECT_EQ(text.code, json.code);
  return {text.code, text.out, text.err, json.out.empty() ? Json() : Json::parse(json.out)};
}
Diagnosed doctor(const Recorded& recorded) { return doctor(std::vector<std::string>{recorded.folder.file("")}); }

#define EXPECT_HAS(text, words) EXPECT_NE((text).find(words), std::string::npos) << (text)

void run_ring(Communicator& comm, const Schedule& schedule, const std::string& description = "") {
  RingRank ring(schedule, comm.arena(schedule.workspace_bytes));
  ring.prepare(0);
  RunOptions options;
  options.timeout = comm.timeout();
  options.description = description;
  run_host(ring.schedule, *ring.memory, comm.transport(), options);
}
/// Errors are what these tests are about.
template <class Body>
void quietly(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_NE(error.kind(), ErrorKind::argument) << error.what();
  }
}

/// A schedule without tensors of the caller's.
void run_relay(Communicator& comm, const std::function<void()>& before = {}) {
  const Schedule schedule = relay_all(comm.rank(), comm.size(), before);
  run_host(schedule, Bindings(schedule, comm.arena(schedule.workspace_bytes)), comm.transport(), {.timeout = comm.timeout()});
}

/// The slow rank sleeps in step 0 of its second operation.
void stall_in_a_step(Communicator& comm, Rank slow) {
  quietly([&] {
    run_relay(comm);
    run_relay(comm, [&] {
      if (comm.rank() == slow) std::this_thread::sleep_for(milliseconds(500));
    });
  });
}

void expect_stalled_rank(const Diagnosed& found, int num_ranks, Rank slow) {
  EXPECT_EQ(found.code, exit_check_failed);
  EXPECT_EQ(found.err, "");
  const Json hung = found.finding("hung");
  ASSERT_FALSE(hung.is_null()) << found.text;
  EXPECT_EQ(hung["operation"], 2);
  EXPECT_EQ(hung["class"], "stalled");
  EXPECT_EQ(hung["root"], std::vector<Rank>{slow}) << found.text;
  ASSERT_EQ(hung["ranks"].size(), static_cast<std::size_t>(num_ranks));
  EXPECT_EQ(hung["ranks"][static_cast<std::size_t>(slow)]["step"], 0) << found.text;
  EXPECT_HAS(found.text, "Verdict: stalled in operation 2, \"relay\": rank " + std::to_string(slow) +
                             " is inside step 0 (custom, block of rank " + std::to_string(slow) + ")");
  EXPECT_EQ(hung["chain"].back(), slow);
  EXPECT_GE(hung["chain"].size(), 2u) << "somebody waits for it";
  for (std::size_t i = 0; i + 1 < hung["chain"].size(); ++i) {
    const auto waiting = hung["chain"][i].get<std::size_t>();
    EXPECT_EQ(hung["ranks"][waiting]["waits_for"], hung["chain"][i + 1]) << found.text;
  }
  EXPECT_EQ(found.finding("failed")["class"], "stalled");
  EXPECT_EQ(found.finding("failed")["culprits"], std::vector<Rank>{slow});
  EXPECT_TRUE(found.finding("different").is_null()) << found.text;
}

TEST(Doctor, NamesTheRankThatSleepsAndItsStep) {
  for (const int num_ranks : {2, 4, 7}) {
    const Recorded recorded;
    Watchdog dog(seconds(60));
    const Rank slow = num_ranks / 2;
    run_ranks(num_ranks, [&](Communicator& comm) { stall_in_a_step(comm, slow); }, {.timeout = milliseconds(250)});
    const Diagnosed found = doctor(recorded);
    EXPECT_TRUE(found.finding("missing").is_null());
    expect_stalled_rank(found, num_ranks, slow);
  }
}

TEST(Doctor, NamesTheProcessThatSleepsAlsoWithoutItsRecord) {
  for (const int num_ranks : {3, 8}) {
    const Recorded recorded;
    Watchdog dog(seconds(60));
    const Rank slow = num_ranks / 2;
    quietly([&] { run_processes(num_ranks, [&](Communicator& comm) { stall_in_a_step(comm, slow); }, {.timeout = milliseconds(250)}); });
    expect_stalled_rank(doctor(recorded), num_ranks, slow);

    std::filesystem::remove(recorded.record_of(slow));
    const Diagnosed found = doctor(recorded);
    EXPECT_EQ(found.finding("missing")["ranks"], std::vector<Rank>{slow});
    const Json hung = found.finding("hung");
    ASSERT_FALSE(hung.is_null()) << found.text;
    EXPECT_EQ(hung["root"], std::vector<Rank>{slow}) << found.text;
    EXPECT_EQ(hung["ranks"][static_cast<std::size_t>(slow)]["step"], 0) << found.text;
    EXPECT_HAS(found.text, "it was in step 0 (on rank ");
  }
}

TEST(Doctor, NamesTheProcessThatWasKilled) {
  for (const int num_ranks : {2, 3, 4, 5, 7, 8}) {
    const Recorded recorded;
    Watchdog dog(seconds(60));
    const Rank victim = num_ranks - 1;
    try {
      run_processes(num_ranks,
                    [&](Communicator& comm) {
                      quietly([&] {
                        run_relay(comm);
                        run_relay(comm, [&] {
                          if (comm.rank() != victim) return;
                          std::this_thread::sleep_for(milliseconds(100));  // all are here
                          ::raise(SIGKILL);
                        });
                      });
                    },
                    {.timeout = seconds(30)});
      ADD_FAILURE() << "want an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.culprits(), std::vector<Rank>{victim}) << error.what();
    }
    const Diagnosed found = doctor(recorded);
    EXPECT_EQ(found.code, exit_check_failed);
    EXPECT_EQ(found.finding("missing")["ranks"], std::vector<Rank>{victim}) << found.text;
    EXPECT_HAS(found.text, "then its process ended");
    EXPECT_EQ(found.finding("failed")["class"], "dead");
    EXPECT_HAS(found.text, "Verdict: dead in operation 2, \"relay\": rank " + std::to_string(victim) + " has died inside step 0 (on rank ");
    EXPECT_EQ(found.finding("hung")["root"], std::vector<Rank>{victim}) << found.text;
  }
}

TEST(Doctor, NamesTheRankThatNeverCalls) {
  const Recorded recorded;
  Watchdog dog(seconds(60));
  run_ranks(4,
            [&](Communicator& comm) {
              quietly([&] {
                run_ring(comm, ring_gather(comm.rank(), 4));
                if (comm.rank() == 3) return std::this_thread::sleep_for(milliseconds(700));
                run_ring(comm, ring_gather(comm.rank(), 4));
              });
            },
            {.timeout = milliseconds(250)});
  const Diagnosed found = doctor(recorded);
  EXPECT_HAS(found.text, "Verdict: stalled in operation 2, \"ring gather\": rank 3 has not called operation 2; it ended operation 1, ");
  EXPECT_HAS(found.text, "chain of waits: ");
  EXPECT_EQ(found.finding("hung")["root"], std::vector<Rank>{3});
}

TEST(Doctor, NamesARankThatLeft) {
  const Recorded recorded;
  Watchdog dog(seconds(60));
  run_ranks(3, [&](Communicator& comm) {
    if (comm.rank() == 1) return;
    quietly([&] { run_ring(comm, ring_gather(comm.rank(), 3)); });
  });
  std::filesystem::remove(recorded.record_of(1));  // there only if it was so slow to leave that it saw the failure
  const Diagnosed found = doctor(recorded);
  EXPECT_HAS(found.text, "Verdict: dead in operation 1, \"ring gather\": rank 1 has left its communicator");
}

TEST(Doctor, NamesTheStepThatThrows) {
  const Recorded recorded;
  Watchdog dog(seconds(60));
  run_ranks(3, [&](Communicator& comm) {
    quietly([&] {
      run_relay(comm, [&] {
        if (comm.rank() == 2) throw std::runtime_error("no memory on the device");
      });
    });
  });
  const Diagnosed found = doctor(recorded);
  EXPECT_HAS(found.text, "Verdict: local in operation 1, \"relay\": rank 2 failed by itself in step 0 (custom, block of rank 2)");
  EXPECT_HAS(found.text, "no memory on the device");
}

TEST(Doctor, ShowsFieldByFieldWhereTheRanksDiffer) {
  for (const int num_ranks : {2, 3, 4, 5, 7, 8}) {
    const Recorded recorded;
    Watchdog dog(seconds(60));
    const Rank odd = num_ranks - 1;
    quietly([&] {
      run_ranks(num_ranks, [&](Communicator& comm) {
        AttentionSpec spec;
        spec.head_dim = 8;
        spec.method = Method::ring;
        spec.partition = Partition::contiguous(8 * num_ranks, num_ranks);
        const seqccl::test::HostTensor x = seqccl::test::random_tensor(f32, {1, 8, 1, 8}, 1);
        seqccl::test::HostTensor out = x, lse(f32, {1, 1, 8});
        quietly([&] {
          Attention same(comm, spec);
          same.forward(x.view(), x.view(), x.view(), out.view(), lse.view());
          if (comm.rank() == odd) spec.softcap = 30;
          Attention other(comm, spec);
          other.forward(x.view(), x.view(), x.view(), out.view(), lse.view());
        });
      });
    });
    const Diagnosed found = doctor(recorded);
    EXPECT_EQ(found.code, exit_check_failed);
    const Json different = found.finding("different");
    ASSERT_FALSE(different.is_null()) << found.text;
    EXPECT_EQ(different["operation"], 2);
    ASSERT_EQ(different["fields"].size(), 1u) << found.text;
    ASSERT_TRUE(different["fields"].contains("softcap")) << found.text;
    EXPECT_EQ(different["fields"]["softcap"].back(), Json({{"value", "30"}, {"ranks", {odd}}}));
    EXPECT_EQ(found.finding("failed")["class"], "mismatched");
    EXPECT_HAS(found.text, "30 on rank " + std::to_string(odd));
    EXPECT_HAS(found.text, "Verdict: mismatched from operation 2 on: softcap: 0 on rank");
  }
}

TEST(Doctor, SeesAnOtherOrder) {
  for (const bool left_out : {false, true}) {
    const Recorded recorded;
    Watchdog dog(seconds(60));
    run_ranks(4, [&](Communicator& comm) {
      quietly([&] {
        const std::vector<const char*> usual = {"a", "b", "c"},
                                       odd = left_out ? std::vector<const char*>{"b", "c"} : std::vector<const char*>{"b", "a", "c"};
        for (const char* name : comm.rank() == 2 ? odd : usual) {
          Recorder plan(name, comm.rank(), 4);  // without messages: nobody notices
          plan.compute(Zero{plan.scratch(f32, {1, 1, 1, 1})});
          const Schedule schedule = std::move(plan).finish(name);
          run_host(schedule, Bindings(schedule, comm.arena(schedule.workspace_bytes)), comm.transport(), {});
        }
      });
      comm.write_flight_record(recorded.folder.file("seqccl-" + std::to_string(comm.rank()) + ".json"));
    });
    const Diagnosed found = doctor(recorded);
    EXPECT_EQ(found.finding("different")["operation"], 1) << found.text;
    EXPECT_HAS(found.text, left_out ? "rank 2 calls as operation 1 what the others call as 2: it has left one out"
                                    : "rank 2 calls operations 1 and 2 in the other order");
    EXPECT_HAS(found.text, "ranks 0, 1, 3: \"a\"");
  }
}

TEST(Doctor, NamesACircle) {
  const Recorded recorded;
  Watchdog dog(seconds(60));
  run_ranks(3,
            [&](Communicator& comm) {
              quietly([&] {
                Recorder plan("cycle", comm.rank(), 3);
                const Block from = plan.scratch(f32, {1, 1, 1, 4}), to = plan.scratch(f32, {1, 1, 1, 4});
                plan.exchange({}, {{(comm.rank() + 2) % 3, to}});
                plan.exchange({{(comm.rank() + 1) % 3, from}}, {});
                const Schedule schedule = std::move(plan).finish("cycle");
                run_host(schedule, Bindings(schedule, comm.arena(schedule.workspace_bytes)), comm.transport(), {.timeout = comm.timeout()});
              });
            },
            {.timeout = milliseconds(250)});
  EXPECT_HAS(doctor(recorded).text, "Verdict: stalled in operation 1, \"cycle\": ranks 0 to 2 wait for each other");
}

/// A record of a rank that ended three operations, each of a step of `compute_ms`.
Json made_record(Rank rank, int num_ranks, std::int64_t compute_ms) {
  constexpr std::int64_t ms = 1000000;
  Json record = {{"schema", "seqccl flight record"},
                 {"schema_version", 1},
                 {"seqccl", "0.1.0"},
                 {"job", "made"},
                 {"group", "world"},
                 {"rank", rank},
                 {"num_ranks", num_ranks},
                 {"host", "h"},
                 {"process", 1},
                 {"transport", "shm"},
                 {"reason", "asked"},
                 {"clock", {{"steady_ns", 0}, {"system_ns", 1000000000000000000}}},
                 {"written_ns", 10000 * ms},
                 {"error", nullptr},
                 {"operations_begun", 3},
                 {"operations_ended", 3},
                 {"descriptions", Json::array()},
                 {"operations", Json::array()},
                 {"steps", Json::array()},
                 {"peers", Json::array()}};
  for (std::int64_t number = 1; number <= 3; ++number) {
    const std::int64_t begin = number * 2000 * ms, end = begin + compute_ms * ms;
    record["operations"].push_back({{"number", number},
                                    {"name", "made"},
                                    {"fingerprint", "1"},
                                    {"begin_ns", begin},
                                    {"end_ns", end},
                                    {"timeout_ns", 600000 * ms},
                                    {"description", 0}});
    record["steps"].push_back({{"operation", number},
                               {"step", 1},
                               {"lane", "compute"},
                               {"label", "attend, block of rank 1"},
                               {"begin_ns", begin},
                               {"end_ns", end},
                               {"waited_for", nullptr}});
  }
  for (Rank peer = 0; peer < num_ranks; ++peer)
    record["peers"].push_back({{"rank", peer},
                               {"operations_begun", 3},
                               {"operations_ended", 3},
                               {"compute_step", -1},
                               {"waiting_for", -1},
                               {"progress_ns", 9999 * ms},
                               {"left", false},
                               {"heard", true},
                               {"received_bytes", 0},
                               {"received_messages", 0}});
  return record;
}

TEST(Doctor, NamesASlowRankAndIsContentWithEqualOnes) {
  for (const Rank slow : {-1, 1})
    for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8}) {
      if (slow >= num_ranks) continue;
      const Folder folder;
      for (Rank rank = 0; rank < num_ranks; ++rank)
        write_text(folder.file("seqccl-" + std::to_string(rank) + ".json"),
                   made_record(rank, num_ranks, rank == slow ? 100 : 40 + rank).dump());
      const Diagnosed found = doctor(std::vector<std::string>{folder.file("")});
      EXPECT_EQ(found.err, "");
      if (slow < 0) {
        EXPECT_EQ(found.code, exit_right) << found.text;
        EXPECT_HAS(found.text, "Verdict: nothing wrong found");
        EXPECT_TRUE(found.json["findings"].empty());
        continue;
      }
      EXPECT_EQ(found.code, exit_check_failed);
      ASSERT_EQ(found.finding("slow")["ranks"].size(), 1u) << found.text;
      EXPECT_EQ(found.finding("slow")["ranks"][0], Json({{"rank", slow}, {"compute_ns", 300000000}}));
      EXPECT_EQ(found.finding("slow")["num_operations"], 3);
      EXPECT_HAS(found.text, "rank 1: 300 ms; longest step: 100 ms in step 1 (attend, block of rank 1) of operation 1");
    }
}

// A live hang, asked from outside: nobody has given up yet, all wait for rank 17, which has left no record.
TEST(Doctor, ManyRanksFitOnAPage) {
  const Folder folder;
  constexpr int num_ranks = 48;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    if (rank == 17) continue;
    Json record = made_record(rank, num_ranks, 40);
    for (Json& peer : record["peers"]) {
      peer["operations_ended"] = 2;
      peer["progress_ns"] = 6000000000;
      peer["waiting_for"] = (peer["rank"].get<Rank>() + num_ranks - 1) % num_ranks;
    }
    record["peers"][17]["waiting_for"] = -1;
    record["peers"][17]["compute_step"] = 3;
    record["operations_ended"] = 2;
    record["operations"][2]["end_ns"] = nullptr;
    record["steps"].push_back({{"operation", 3},
                               {"step", 2},
                               {"lane", "comm"},
                               {"label", "exchange, to 1, from 0"},
                               {"begin_ns", 6000000000},
                               {"end_ns", nullptr},
                               {"waited_for", (rank + num_ranks - 1) % num_ranks}});
    write_text(folder.file("seqccl-" + std::to_string(rank) + ".json"), record.dump());
  }
  const Diagnosed found = doctor(std::vector<std::string>{folder.file("")});
  EXPECT_HAS(found.text, "Verdict: stalled in operation 3, \"made\": rank 17 is inside step 3");
  EXPECT_EQ(found.finding("hung")["root"], std::vector<Rank>{17}) << found.text;
  EXPECT_EQ(found.finding("hung")["chain"].size(), 48u) << found.text;
  EXPECT_HAS(found.text, "40 ranks further");
  EXPECT_LT(std::count(found.text.begin(), found.text.end(), '\n'), 40) << found.text;
  EXPECT_EQ(found.finding("hung")["ranks"].size(), 48u);
}

// --- Files. ---------------------------------------------------------------------------------------------------------

/// Records of `num_ranks` healthy ranks in `folder`; returns their files.
std::vector<std::string> healthy(const Folder& folder, int num_ranks, const std::string& name = "seqccl-healthy") {
  std::vector<std::string> files;
  for (Rank rank = 0; rank < num_ranks; ++rank) files.push_back(folder.file(name + "-rank" + std::to_string(rank) + ".json"));
  run_ranks(num_ranks, [&](Communicator& comm) {
    run_ring(comm, ring_gather(comm.rank(), num_ranks), "operation = ring\nmask = causal");
    comm.write_flight_record(files[static_cast<std::size_t>(comm.rank())]);
  });
  return files;
}
std::string text_of(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(Doctor, FilesThatAreNotRightAreNamedAndTheRestIsUsed) {
  const Folder folder;
  const std::vector<std::string> files = healthy(folder, 3);
  const std::string good = text_of(files[0]);
  const std::string bad = folder.file("bad");
  const auto expect_refused = [&](const std::string& text, const std::vector<std::string>& words) {
    write_text(bad, text);
    const Diagnosed found = doctor({files[0], files[1], files[2], bad});
    EXPECT_EQ(found.code, exit_check_failed);
    EXPECT_HAS(found.err, bad + ": ");
    expect_words(found.err, words);
    EXPECT_HAS(found.text, "3 of 3 ranks");
    EXPECT_EQ(found.json["refused"].size(), 1u);
    EXPECT_EQ(run({"doctor", bad}).code, text == good ? exit_check_failed : exit_bad_input);
  };
  expect_refused("", {"is empty", "want a file that SEQCCL_FLIGHT_RECORD"});
  expect_refused("hello", {"is no JSON"});
  expect_refused(R"({"a": 1})", {"has no 'schema'"});
  expect_refused("[1, 2]", {"is no object"});
  expect_refused(good.substr(0, good.size() / 2), {"is a flight record that is cut off or damaged"});
  expect_refused(replaced(good, "\"schema_version\": 1", "\"schema_version\": 2"), {"schema version 2", "reads version 1"});
  expect_refused(replaced(good, "\"num_ranks\": 3", "\"num_ranks\": -3"), {"'num_ranks' that is no whole number from 1 to"});
  expect_refused(replaced(good, "\"num_ranks\": 3", "\"num_ranks\": 4"), {"has 3 peers of 4 ranks"});
  expect_refused(replaced(good, "\"begin_ns\": ", "\"begin_ns\": 99999999999"), {"operations 0: has 'begin_ns'"});
  expect_refused(replaced(good, "\"left\": ", "\"left\": 1"), {""});
  expect_refused(good, {"is a second record of rank 0 beside " + files[0], "want one a rank"});

  Folder other;
  const Diagnosed found = doctor({files[0], files[1], files[2], healthy(folder, 2, "other")[0]});
  EXPECT_HAS(found.err, "2 ranks; want one group at a time");
  EXPECT_EQ(doctor({folder.file("no such file"), files[0], files[1], files[2]}).code, exit_check_failed);
}

TEST(Doctor, OfTwoRunsInAFolderTheLaterIsRead) {
  const Folder folder;
  for (const std::string& file : healthy(folder, 3, "seqccl-older")) {
    Json record = Json::parse(text_of(file));
    record["job"] = "older";
    write_text(file, record.dump());
  }
  (void)healthy(folder, 2, "seqccl-newer");
  const Diagnosed found = doctor(std::vector<std::string>{folder.file("")});
  EXPECT_HAS(found.text, "2 of 2 ranks");
  EXPECT_HAS(found.err, "is of job 'older'");
}

TEST(Doctor, BadUseIsRefused) {
  const Folder folder;
  EXPECT_EQ(run({"doctor"}).code, exit_bad_input);
  EXPECT_HAS(run({"doctor"}).err, "FILES");
  const Ran empty = run({"doctor", folder.file("")});
  EXPECT_EQ(empty.code, exit_bad_input);
  EXPECT_HAS(empty.err, "has none in it, want flight records");
  const Ran none = run({"doctor", folder.file("a"), folder.file("b")});
  EXPECT_EQ(none.code, exit_bad_input);
  EXPECT_HAS(none.err, folder.file("a") + ": is not there");
  EXPECT_HAS(none.err, "none of 2 files is a flight record");
}

}  // namespace
}  // namespace seqccl::command::test
