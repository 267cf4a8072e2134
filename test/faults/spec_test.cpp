// spec_test.cpp - the text of SEQCCL_FAULT: what is understood, what is refused and in which words, and that no text does harm.
// SPDX-License-Identifier: Apache-2.0
#include "../../lib/transport/fault/spec.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <mutex>
#include <random>

#include "seqccl/seqccl.hpp"

namespace seqccl::test {
namespace {

using namespace std::chrono_literals;
using fault::Kind, fault::Spec, fault::parse;

std::string refusal(const std::string& text) {
  try {
    (void)parse(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::argument) << text;
    return error.what();
  }
  ADD_FAILURE() << text << " is not refused";
  return {};
}

TEST(FaultSpec, UnderstandsEveryKey) {
  EXPECT_TRUE(parse("").empty());
  EXPECT_TRUE(parse(" ; ").empty());
  const auto two = parse("rank=2,op=ring,step=3,kind=stall:500ms; rank=0, operation=7, step=*, kind=kill");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0], (Spec{.rank = 2, .op = "ring", .step = 3, .kind = Kind::stall, .time = 500ms}));
  EXPECT_EQ(two[1], (Spec{.rank = 0, .operation = 7, .kind = Kind::kill}));
  EXPECT_EQ(parse("rank=1,kind=delay:3us")[0].time, 3us);
  EXPECT_EQ(parse("rank=1,kind=delay:2s")[0].time, 2s);
  EXPECT_EQ(parse("rank=1,kind=delay:9ns")[0].time, 9ns);
  for (const Kind kind : {Kind::kill, Kind::stop, Kind::exit, Kind::corrupt, Kind::mismatch})
    EXPECT_EQ(parse(std::string("rank=1,kind=") + name(kind))[0].kind, kind);
}

TEST(FaultSpec, RefusesNamingKeyValueAndWhatIsRight) {
  const std::vector<std::vector<std::string>> cases{
      {"rank=x,kind=kill", "rank is \"x\"", "a rank, from 0"},
      {"rank=-1,kind=kill", "rank is \"-1\"", "a rank, from 0"},
      {"rank=99999999999,kind=kill", "rank is \"99999999999\"", "a rank"},
      {"rank=1,kind=explode", "kind is \"explode\"", "kill, stop, exit"},
      {"rank=1,kind=stall", "kind is \"stall\"", "stall:500ms"},
      {"rank=1,kind=kill:3s", "kind is \"kill:3s\"", "no time"},
      {"rank=1,kind=stall:500", "the time of kind stall is \"500\"", "a unit"},
      {"rank=1,kind=stall:ms", "the time of kind stall is \"\"", "whole number"},
      {"rank=1,kind=stall:999999999999999999999s", "the time of kind stall", "at most a day"},
      {"rank=1,kind=stall:2h", "the time of kind stall is \"2h\"", "ns, us, ms or s"},
      {"rank=1,step=1.5,kind=kill", "step is \"1.5\"", "the index of a step"},
      {"rank=1,operation=0,kind=kill", "operation is \"0\"", "from 1"},
      {"rank=1,op=,kind=kill", "op is \"\"", "name of a schedule"},
      {"rank=1,rank=2,kind=kill", "rank is \"2\"", "once"},
      {"rank=1,when=now,kind=kill", "a key is \"when\"", "rank, op, operation, step or kind"},
      {"rank=1,kill", "a part is \"kill\"", "KEY=VALUE"},
      {"kind=kill", "a fault is \"kind=kill\"", "rank="},
      {"rank=1", "a fault is \"rank=1\"", "kind="},
  };
  for (const auto& words : cases) {
    const std::string text = refusal(words[0]);
    EXPECT_NE(text.find("SEQCCL_FAULT: " + words[1]), std::string::npos) << text;
    EXPECT_NE(text.find(words[2]), std::string::npos) << text;
  }
}

TEST(FaultSpec, StrikesAtNameOrFirstWordOperationAndStep) {
  const Spec spec = parse("rank=0,op=ring,operation=2,step=5,kind=kill")[0];
  EXPECT_TRUE(spec.strikes("ring forward", 2, 5));
  EXPECT_TRUE(spec.strikes("ring", 2, 5));
  EXPECT_TRUE(parse("rank=0,op=linear forward,kind=kill")[0].strikes("linear forward, kda by chain", 1, 0));
  EXPECT_TRUE(parse("rank=0,op=linear,kind=kill")[0].strikes("linear forward, kda by chain", 1, 0));
  EXPECT_FALSE(parse("rank=0,op=linear backward,kind=kill")[0].strikes("linear forward, kda by chain", 1, 0));
  EXPECT_FALSE(spec.strikes("rings forward", 2, 5));
  EXPECT_FALSE(spec.strikes("ring forward", 3, 5));
  EXPECT_FALSE(spec.strikes("ring forward", 2, 4));
  EXPECT_TRUE(parse("rank=0,op=ring forward,kind=kill")[0].strikes("ring forward", 9, 9));
  EXPECT_TRUE(parse("rank=0,kind=kill")[0].strikes("anything", 1, 0));
}

// What is understood says so in a text that means the same; everything else is an Error(argument).
TEST(FaultSpec, AnyTextIsUnderstoodOrRefused) {
  std::mt19937 random(5);
  const std::vector<std::string> parts{"rank", "op",    "step",  "kind", "operation", "=",    ",", ";",
                                       ":",    "1",     "7",     "-3",   "kill",      "stop", "*", " ",
                                       "ms",   "stall", "delay", "5ms",  "ring",      "\0",   "é", "18446744073709551616"};
  int num_understood = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text = round % 2 == 0 ? "" : "rank=3,kind=stall:5ms,op=ring,step=2;rank=1,kind=kill";
    for (int i = static_cast<int>(random() % 8); i >= 0; --i)
      text.insert(random() % (text.size() + 1),
                  round % 3 == 0 ? std::string(1, static_cast<char>(random())) : parts[random() % parts.size()]);
    try {
      for (const Spec& spec : parse(text)) {
        EXPECT_EQ(parse(spec.describe()).at(0), spec) << text;
        ++num_understood;
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument) << text;
    }
  }
  EXPECT_GT(num_understood, 100);
}

/// SEQCCL_FAULT for a while.
struct Asked {
  explicit Asked(const char* text) { ::setenv("SEQCCL_FAULT", text, 1); }
  ~Asked() { ::unsetenv("SEQCCL_FAULT"); }
};

TEST(FaultRanks, AWrongTextIsTheCallersMistake) {
  const Asked asked("rank=0,kind=nonsense");
  const auto expect_refused = [](auto&& body) {
    try {
      body();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument) << error.what();
    }
  };
  expect_refused([] { run_ranks(2, [](Communicator&) {}); });
  expect_refused([] { (void)thread_communicators(2); });
  expect_refused([] { run_processes(2, [](Communicator&) {}); });
}

TEST(FaultRanks, TheHostOfThreadRanksIsNeverEnded) {
  for (const char* kind : {"kill", "stop", "exit"}) {
    const Asked asked((std::string("rank=0,kind=") + kind).c_str());
    try {
      run_ranks(2, [](Communicator&) {});
      ADD_FAILURE() << kind << " is not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument);
      EXPECT_NE(std::string(error.what()).find(kind), std::string::npos) << error.what();
    }
  }
}

TEST(FaultRanks, TheLogSaysThatFaultsAreOn) {
  std::mutex mutex;
  std::vector<std::string> lines;
  set_log_sink([&](std::string_view line) {
    const std::lock_guard lock(mutex);
    lines.emplace_back(line);
  });
  {
    const Asked asked("rank=1,op=never,kind=corrupt;rank=5,kind=corrupt");
    run_ranks(2, [](Communicator&) {});
  }
  set_log_sink({});
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_NE(lines[0].find("rank 5 is not one of the 2 ranks"), std::string::npos) << lines[0];
  EXPECT_NE(lines[1].find("faults are on (SEQCCL_FAULT): rank=1,op=never"), std::string::npos) << lines[1];
  EXPECT_NE(lines[2].find("no such operation and step has come, so this did nothing: rank=1,op=never"), std::string::npos) << lines[2];
  run_ranks(2, [](Communicator&) {});  // no fault, no line, and no sink
  EXPECT_EQ(lines.size(), 3u);
}

}  // namespace
}  // namespace seqccl::test
