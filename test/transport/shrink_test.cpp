// shrink_test.cpp - after a failure the survivors agree who they are, and go on with the numbers of a smaller group.
// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <barrier>

#include "shrink_support.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

Error error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  return {ErrorKind::internal, "nothing was thrown"};
}

// --- Ranks as threads. ----------------------------------------------------------------------------------------------

void run_threads(const Story& story, Outcome& outcome) {
  run_ranks(story.num_ranks, [&](Communicator& comm) { live(comm, story, outcome); }, {.timeout = story.timeout, .num_threads = 1});
}

TEST(ShrinkThreads, ARankThatThrowsIsLeftBehind) {
  const Watchdog dog(60s);
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (const Rank victim : std::set<Rank>{num_ranks % 2, num_ranks - 1}) {
      SharedOutcome outcome;
      Story story{.num_ranks = num_ranks, .num_left = num_ranks - 1};
      story.in_round = [&](Rank me, int, int round) {
        if (me == victim && round == 3) throw std::runtime_error("no more milk");
      };
      run_threads(story, *outcome);
      expect_survived(*outcome, num_ranks, {victim});
      EXPECT_STREQ(outcome->told[static_cast<std::size_t>(victim)].text.data(), "no more milk");
    }
}

TEST(ShrinkThreads, TwiceInARow) {
  const Watchdog dog(60s);
  for (const int num_ranks : {3, 4, 5, 7, 8}) {
    SharedOutcome outcome;
    Story story{.num_ranks = num_ranks, .num_left = num_ranks - 2};
    story.in_round = [&](Rank me, int size, int round) {
      if (round == 3 && ((me == 0 && size == num_ranks) || (me == 2 && size == num_ranks - 1))) throw std::runtime_error("no more milk");
    };
    run_threads(story, *outcome);
    expect_survived(*outcome, num_ranks, {0, 2});
    EXPECT_EQ(outcome->told[1].num_shrinks, 2);
  }
}

TEST(ShrinkThreads, WhoComesLateIsLeftOutAndDoesNoHarm) {
  const Watchdog dog(60s);
  SharedOutcome outcome;
  Story story{.num_ranks = 4, .num_left = 3, .timeout = 300ms, .shrink_timeout = 300ms};
  story.in_round = [&](Rank me, int size, int round) {
    if (me != 1 || size != 4 || round != 3) return;
    while (outcome->num_done < 3) std::this_thread::sleep_for(1ms);
  };
  run_threads(story, *outcome);
  expect_survived(*outcome, 4, {1});
  EXPECT_TRUE(outcome->told[1].is_left_out) << outcome->told[1].text.data();
  for (const Rank rank : {0, 2, 3}) EXPECT_LT(outcome->told[static_cast<std::size_t>(rank)].longest_seconds, 0.3 + 2);
}

TEST(ShrinkThreads, WhoComesInTimeBelongsToIt) {
  const Watchdog dog(60s);
  SharedOutcome outcome;
  Story story{.num_ranks = 4, .num_left = 4, .timeout = 300ms};
  story.in_round = [&](Rank me, int, int round) {
    if (me == 1 && round == 3 && outcome->told[1].num_shrinks == 0) std::this_thread::sleep_for(800ms);
  };
  run_threads(story, *outcome);
  expect_survived(*outcome, 4, {});
}

// The settings go along, and the one who is shrunk is spent.
TEST(ShrinkThreads, AHealthyGroupKeepsItsMembersAndSettings) {
  const Watchdog dog(60s);
  std::barrier all_are_done(4);  // the first to shrink ends what the others are doing
  run_ranks(4,
            [&](Communicator& comm) {
              attend(comm, nullptr);
              all_are_done.arrive_and_wait();
              const std::string place = std::filesystem::temp_directory_path() /
                                        ("seqccl-shrink-" + std::to_string(::getpid()) + "-" + std::to_string(comm.rank()) + ".json");
              Communicator next = comm.shrink();
              EXPECT_EQ(next.size(), 4);
              EXPECT_EQ(next.rank(), comm.rank());
              EXPECT_EQ(next.former_ranks(), (std::vector<Rank>{0, 1, 2, 3}));
              EXPECT_TRUE(comm.former_ranks().empty());
              EXPECT_EQ(next.timeout(), 41s);
              EXPECT_EQ(next.num_threads(), 3);
              EXPECT_EQ(next.topology().node, (std::vector<int>{0, 0, 1, 1}));
              attend(next, nullptr);

              EXPECT_EQ(error_of([&] { attend(comm, nullptr); }).kind(), ErrorKind::local);
              const Error again = error_of([&] { (void)comm.shrink(); });
              EXPECT_EQ(again.kind(), ErrorKind::argument);
              EXPECT_NE(std::string(again.what()).find("shrunk this communicator before"), std::string::npos) << again.what();
              attend(next, nullptr);

              next.write_flight_record(place);
              std::ifstream file(place);
              const std::string text((std::istreambuf_iterator<char>(file)), {});
              EXPECT_NE(text.find("\"world-shrunk\""), std::string::npos) << text.substr(0, 400);
              std::filesystem::remove(place);
            },
            {.timeout = 41s, .topology = {{0, 0, 1, 1}}, .num_threads = 3});
}

TEST(Shrink, WhatIsWrongIsSaid) {
  std::vector<Communicator> alone = thread_communicators(1);
  const Error error = error_of([&] { (void)alone[0].shrink({.timeout = 0ns}); });
  EXPECT_EQ(error.kind(), ErrorKind::argument) << error.what();
  Work work = alone[0].start([] { std::this_thread::sleep_for(200ms); });
  const Error busy = error_of([&] { (void)alone[0].shrink(); });
  EXPECT_EQ(busy.kind(), ErrorKind::argument) << busy.what();
  work.wait();
  EXPECT_EQ(alone[0].shrink().size(), 1);
}

// Two at different moments: whoever leaves while the others vote, before or after it has come to nothing.
TEST(ShrinkThreads, ARankThatLeavesWhileTheOthersVoteIsNotWaitedFor) {
  const Watchdog dog(60s);
  SharedOutcome outcome;
  Story story{.num_ranks = 5, .num_left = 3};
  story.in_round = [&](Rank me, int, int round) {
    if (me == 1 && round == 3) throw std::runtime_error("no more milk");
  };
  story.before_shrink = [](Rank me, int) {
    if (me != 3) return;
    std::this_thread::sleep_for(100ms);
    throw std::runtime_error("nor bread");
  };
  run_threads(story, *outcome);
  expect_survived(*outcome, 5, {1, 3});
}

// --- Ranks as processes over shm. -----------------------------------------------------------------------------------

enum class End { kill, exit };
void end(End how) {
  if (how == End::kill) ::raise(SIGKILL);
  ::_exit(0);
}

TEST(ShrinkShm, ARankThatEndsIsLeftBehind) {
  for (const int num_ranks : {2, 3, 4, 5, 7, 8}) {
    const End how = num_ranks % 3 == 2 ? End::kill : End::exit;
    const Rank victim = how == End::kill ? 0 : num_ranks - 1;
    SharedOutcome outcome;
    Story story{.num_ranks = num_ranks, .num_left = num_ranks - 1};
    story.in_round = [&](Rank me, int, int round) {
      if (me == victim && round == 3) end(how);
    };
    run_story(story, *outcome, how == End::kill);
    expect_survived(*outcome, num_ranks, {victim});
  }
}

// At a time: the later of the two may see the other's end and shrink before its own.
TEST(ShrinkShm, TwoAtATimeAndTwoInARow) {
  for (const int num_ranks : {3, 5})
    for (const bool at_a_time : {true, false}) {
      SharedOutcome outcome;
      Story story{.num_ranks = num_ranks, .num_left = num_ranks - 2};
      story.in_round = [&](Rank me, int size, int round) {
        if (round == 3 && (me == 0 || me == 2) && (at_a_time || size == (me == 0 ? num_ranks : num_ranks - 1))) end(End::kill);
      };
      run_story(story, *outcome, true);
      expect_survived(*outcome, num_ranks, {0, 2});
    }
}

// A rank has come, the vote waits for another, and the first is killed: nobody goes on with it.
TEST(ShrinkShm, ARankThatHasComeAndDiesIsLeftBehind) {
  SharedOutcome outcome;
  Story story{.num_ranks = 5, .num_left = 3};
  story.in_round = [](Rank me, int, int round) {
    if (me == 1 && round == 3) end(End::kill);
  };
  story.before_shrink = [](Rank me, int) {
    if (me == 0) after(50ms, SIGKILL);
    if (me == 3) std::this_thread::sleep_for(300ms);
  };
  run_story(story, *outcome, true);
  expect_survived(*outcome, 5, {0, 1});
  EXPECT_EQ(outcome->told[2].num_shrinks, 1);
}

TEST(ShrinkShm, WhoIsStoppedInTheMiddleIsLeftOutAndDoesNoHarm) {
  SharedOutcome outcome;
  Story story{.num_ranks = 4, .num_left = 3, .timeout = 400ms, .shrink_timeout = 400ms};
  story.in_round = [](Rank me, int, int round) {
    if (me == 0 && round == 3) ::raise(SIGSTOP);
  };
  story.at_the_end = [&](Rank me) {
    if (me == 1) ::kill(outcome->told[0].process, SIGCONT);
    while (outcome->num_done == 0) std::this_thread::sleep_for(1ms);  // until he has been told
  };
  run_story(story, *outcome, false);
  expect_survived(*outcome, 4, {0});
  EXPECT_TRUE(outcome->told[0].is_left_out) << outcome->told[0].text.data();
  for (const Rank rank : {1, 2, 3}) EXPECT_LT(outcome->told[static_cast<std::size_t>(rank)].longest_seconds, 0.4 + 2);
}

TEST(ShrinkShm, WhoWakesInTimeBelongsToIt) {
  SharedOutcome outcome;
  Story story{.num_ranks = 3, .num_left = 3, .timeout = 300ms};
  story.in_round = [&](Rank me, int, int round) {
    if (me == 2 && round == 3 && outcome->told[2].num_shrinks == 0) ::raise(SIGSTOP);
  };
  story.before_shrink = [&](Rank me, int) {
    if (me == 0) ::kill(outcome->told[2].process, SIGCONT);
  };
  run_story(story, *outcome, false);
  expect_survived(*outcome, 3, {});
}

// The fewer descriptors a rank has left, the earlier it fails: before it has come, or after the others count on it.
TEST(ShrinkShm, ARankWithoutDescriptorsIsLeftBehind) {
  bool has_failed_early = false, has_failed_late = false, has_not_failed = false;
  for (std::size_t spare = 0; spare < 14; spare += 2) {
    SharedOutcome outcome;
    Story story{.num_ranks = 4, .num_left = 2};
    story.in_round = [](Rank me, int size, int round) {
      if (me == 3 && round == 3) end(End::kill);
      if (me == 1 && size == 3 && round == 3) throw std::runtime_error("went on");
    };
    story.before_shrink = [&](Rank me, int) {
      const rlimit limit{Belongings::now().num_descriptors - 1 + spare, 1024};  // the listing itself had one
      if (me == 1) (void)::setrlimit(RLIMIT_NOFILE, &limit);
    };
    run_story(story, *outcome, true);
    expect_survived(*outcome, 4, {1, 3});
    const bool went_on = std::string(outcome->told[1].text.data()) == "went on";
    (went_on ? has_not_failed : outcome->told[0].num_shrinks == 1 ? has_failed_early : has_failed_late) = true;
  }
  EXPECT_TRUE(has_failed_early && has_failed_late && has_not_failed) << has_failed_early << has_failed_late << has_not_failed;
}

// A fault that has not struck belongs to its rank, also when that has another number.
TEST(ShrinkShm, FaultsThatWereAskedForGoAlong) {
  ASSERT_EQ(::setenv("SEQCCL_FAULT", "rank=0,op=ring,step=1,kind=kill;rank=2,op=kv_all_gather,kind=mismatch", 1), 0);
  SharedOutcome outcome;
  const Alarm alarm(60);
  EXPECT_THROW(run_processes(3,
                             [&](Communicator& comm) {
                               const Rank me = comm.rank();
                               while (error_of([&] { attend(comm, nullptr); }).kind() == ErrorKind::internal) {  // nothing has failed yet
                               }
                               comm = comm.shrink();
                               attend(comm, nullptr);
                               const Error error = error_of([&] { attend(comm, nullptr, Method::kv_all_gather); });
                               outcome->told[static_cast<std::size_t>(me)].is_finished = error.kind() == ErrorKind::mismatched;
                             },
                             {.timeout = 30s, .transport = ProcessTransport::shm}),
               Error);
  ::unsetenv("SEQCCL_FAULT");
  EXPECT_TRUE(outcome->told[1].is_finished);
  EXPECT_TRUE(outcome->told[2].is_finished);
}

TEST(ShrinkShm, NothingIsLeftBehindInARankThatGoesOn) {
  SharedOutcome outcome;
  const Alarm alarm(60);
  run_processes(3,
                [&](Communicator& comm) {
                  const auto mine = static_cast<std::size_t>(comm.rank());
                  attend(comm, nullptr);
                  const Belongings before = Belongings::now();
                  for (int round = 0; round < 10; ++round) {
                    for (++outcome->num_done; outcome->num_done < 3 * (round + 1);) std::this_thread::yield();
                    comm = comm.shrink();
                    attend(comm, nullptr);
                  }
                  const Belongings after = Belongings::now();
                  // Neighbours are counted as one mapping; ten shrinks that lost one each would show.
                  outcome->told[mine].is_finished =
                      after.num_descriptors == before.num_descriptors && after.num_memory_files < before.num_memory_files + 5;
                },
                {.timeout = 30s, .transport = ProcessTransport::shm});
  for (std::size_t rank = 0; rank < 3; ++rank) EXPECT_TRUE(outcome->told[rank].is_finished) << rank;
}

}  // namespace
}  // namespace seqccl::test
