// ucx_shrink_test.cpp - ranks that share no memory agree who goes on, whoever is killed, stopped or late.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>

#include "shrink_support.hpp"
#include "ucx_support.hpp"

namespace seqccl::test {
namespace {

Story over_ucx(int num_ranks, int num_left) { return {.num_ranks = num_ranks, .num_left = num_left, .transport = ProcessTransport::ucx}; }

TEST(UcxShrink, AKilledRankIsLeftBehind) {
  NEEDS_UCX_IN_PROCESSES();
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (const Rank victim : std::set<Rank>{0, num_ranks - 1}) {
      SharedOutcome outcome;
      Story story = over_ucx(num_ranks, num_ranks - 1);
      story.in_round = [&](Rank me, int, int round) {
        if (me == victim && round == 3) ::raise(SIGKILL);
      };
      run_story(story, *outcome, true);
      expect_survived(*outcome, num_ranks, {victim});
      if (::testing::Test::HasFailure()) FAIL() << num_ranks << " ranks, rank " << victim;
    }
}

TEST(UcxShrink, ARankThatEndsByItselfIsLeftBehind) {
  NEEDS_UCX_IN_PROCESSES();
  for (const int num_ranks : {2, 3, 5, 8}) {
    SharedOutcome outcome;
    Story story = over_ucx(num_ranks, num_ranks - 1);
    story.in_round = [&](Rank me, int, int round) {
      if (me == 1 && round == 3) ::_exit(0);
    };
    run_story(story, *outcome, false);
    expect_survived(*outcome, num_ranks, {1});
  }
}

// Over TCP only, as between hosts.
TEST(UcxShrink, TwoAtATimeAndTwoInARow) {
  NEEDS_UCX_IN_PROCESSES();
  const ucx_ranks::Variable tcp("UCX_TLS", "tcp,self");
  for (const int num_ranks : {3, 4, 5, 7, 8})
    for (const bool at_a_time : {true, false}) {
      SharedOutcome outcome;
      Story story = over_ucx(num_ranks, num_ranks - 2);
      story.in_round = [&](Rank me, int size, int round) {
        if (round == 3 && (me == 0 || me == 2) && (at_a_time || size == (me == 0 ? num_ranks : num_ranks - 1))) ::raise(SIGKILL);
      };
      run_story(story, *outcome, true);
      expect_survived(*outcome, num_ranks, {0, 2});
      EXPECT_TRUE(at_a_time || outcome->told[1].num_shrinks == 2);
      if (::testing::Test::HasFailure()) FAIL() << num_ranks << " ranks" << (at_a_time ? "" : ", in a row");
    }
}

// All but one of eight, one after the other.
TEST(UcxShrink, DownToOne) {
  NEEDS_UCX_IN_PROCESSES();
  SharedOutcome outcome;
  Story story = over_ucx(8, 1);
  story.in_round = [](Rank me, int size, int round) {
    if (me == size - 1 && size > 1 && round == 2) ::raise(SIGKILL);
  };
  run_story(story, *outcome, true);
  expect_survived(*outcome, 8, {1, 2, 3, 4, 5, 6, 7});
  EXPECT_EQ(outcome->told[0].num_shrinks, 7);
}

TEST(UcxShrink, ARankThatThrowsOrLeavesWhileTheOthersVoteIsNotWaitedFor) {
  NEEDS_UCX_IN_PROCESSES();
  SharedOutcome outcome;
  Story story = over_ucx(5, 3);
  story.in_round = [](Rank me, int, int round) {
    if (me == 1 && round == 3) throw std::runtime_error("no more milk");
  };
  story.before_shrink = [](Rank me, int) {
    if (me != 3) return;
    std::this_thread::sleep_for(100ms);
    throw std::runtime_error("nor bread");
  };
  run_story(story, *outcome, false);
  expect_survived(*outcome, 5, {1, 3});
}

// The vote waits for rank 3. Who would lead it, and the next one, are killed meanwhile.
TEST(UcxShrink, RanksThatHaveComeAndDieAreLeftBehind) {
  NEEDS_UCX_IN_PROCESSES();
  for (const int num_ranks : {4, 5, 7, 8}) {
    SharedOutcome outcome;
    Story story = over_ucx(num_ranks, num_ranks - 3);
    story.in_round = [](Rank me, int, int round) {
      if (me == 2 && round == 3) ::raise(SIGKILL);
    };
    story.before_shrink = [](Rank me, int) {
      if (me < 2) after(50ms * (me + 1), SIGKILL);
      if (me == 3) std::this_thread::sleep_for(400ms);
    };
    run_story(story, *outcome, true);
    expect_survived(*outcome, num_ranks, {0, 1, 2});
    EXPECT_EQ(outcome->told[3].num_shrinks, 1);
  }
}

TEST(UcxShrink, WhoIsStoppedInTheMiddleIsLeftOutAndDoesNoHarm) {
  NEEDS_UCX_IN_PROCESSES();
  for (const int num_ranks : {3, 5}) {
    SharedOutcome outcome;
    Story story = over_ucx(num_ranks, num_ranks - 1);
    story.timeout = story.shrink_timeout = 1s;
    story.in_round = [](Rank me, int, int round) {
      if (me == 0 && round == 3) ::raise(SIGSTOP);
    };
    story.at_the_end = [&](Rank me) {
      if (me == 1) ::kill(outcome->told[0].process, SIGCONT);
      while (outcome->num_done == 0) std::this_thread::sleep_for(1ms);  // until he has been told
    };
    run_story(story, *outcome, false);
    expect_survived(*outcome, num_ranks, {0});
    EXPECT_TRUE(outcome->told[0].is_left_out) << outcome->told[0].text.data();
    for (Rank rank = 1; rank < num_ranks; ++rank) EXPECT_LT(outcome->told[static_cast<std::size_t>(rank)].longest_seconds, 1 + 2);
  }
}

// It computes, or sleeps, while its control thread votes that it is left out.
TEST(UcxShrink, WhoComesLateIsLeftOutAndDoesNoHarm) {
  NEEDS_UCX_IN_PROCESSES();
  for (const int num_ranks : {2, 5}) {
    SharedOutcome outcome;
    Story story = over_ucx(num_ranks, num_ranks - 1);
    story.timeout = story.shrink_timeout = 1s;
    story.in_round = [&](Rank me, int size, int round) {
      if (me != 0 || size != num_ranks || round != 3) return;
      while (outcome->num_done < num_ranks - 1) std::this_thread::sleep_for(1ms);
    };
    run_story(story, *outcome, false);
    expect_survived(*outcome, num_ranks, {0});
    EXPECT_TRUE(outcome->told[0].is_left_out) << outcome->told[0].text.data();
  }
}

TEST(UcxShrink, WhoWakesInTimeBelongsToIt) {
  NEEDS_UCX_IN_PROCESSES();
  SharedOutcome outcome;
  Story story = over_ucx(3, 3);
  story.timeout = 1s;
  story.in_round = [&](Rank me, int, int round) {
    if (me == 2 && round == 3 && outcome->told[2].num_shrinks == 0) ::raise(SIGSTOP);
  };
  story.before_shrink = [&](Rank me, int) {
    if (me == 0) ::kill(outcome->told[2].process, SIGCONT);
  };
  run_story(story, *outcome, false);
  expect_survived(*outcome, 3, {});
}

// Half of them are stopped: the half with the lowest rank may go on, the other may not, and leaves. Then those who wake go on.
TEST(UcxShrink, HalfOfTheRanksGoOnOnlyIfTheLowestIsAmongThem) {
  NEEDS_UCX_IN_PROCESSES();
  for (const int num_ranks : {2, 4}) {
    const bool lowest_is_stopped = num_ranks == 4;
    const auto is_stopped = [&](Rank rank) { return lowest_is_stopped == (rank < num_ranks / 2); };
    const Rank waker = lowest_is_stopped ? num_ranks - 1 : 0;
    SharedOutcome outcome;
    Story story = over_ucx(num_ranks, num_ranks / 2);
    story.timeout = story.shrink_timeout = 1s;
    story.in_round = [&](Rank me, int size, int round) {
      if (size == num_ranks && round == 3 && is_stopped(me)) ::raise(SIGSTOP);
    };
    const auto wake_the_others = [&] {
      for (Rank rank = 0; rank < num_ranks; ++rank)
        if (is_stopped(rank)) ::kill(outcome->told[static_cast<std::size_t>(rank)].process, SIGCONT);
    };
    std::set<Rank> upper;
    for (Rank rank = num_ranks / 2; rank < num_ranks; ++rank) upper.insert(rank);
    story.at_the_end = [&](Rank me) {
      if (me == waker) wake_the_others();
      while (outcome->num_done < num_ranks / 2) std::this_thread::sleep_for(1ms);
    };
    story.after_error = [&](Rank me) {
      if (me != waker) return;
      while (outcome->num_done < num_ranks / 2 - 1) std::this_thread::sleep_for(1ms);
      wake_the_others();
    };
    run_story(story, *outcome, false);
    expect_survived(*outcome, num_ranks, upper);
    for (const Rank rank : upper) {
      const Told& told = outcome->told[static_cast<std::size_t>(rank)];
      if (lowest_is_stopped)
        EXPECT_NE(std::string(told.text.data()).find("do not answer, but their processes have not ended"), std::string::npos)
            << rank << ": " << told.text.data();
      else
        EXPECT_TRUE(told.is_left_out) << rank << ": " << told.text.data();
    }
  }
}

// The fewer descriptors a rank has left, the earlier it fails; it needs them only after the vote.
TEST(UcxShrink, ARankWithoutDescriptorsIsLeftBehind) {
  NEEDS_UCX_IN_PROCESSES();
  bool has_failed = false, has_not_failed = false;
  for (const std::size_t spare : {6, 12, 24, 31, 100}) {  // with none at all UBSan itself cannot look at a class
    SharedOutcome outcome;
    Story story = over_ucx(4, 2);
    story.in_round = [](Rank me, int size, int round) {
      if (me == 3 && round == 3) ::raise(SIGKILL);
      if (me == 1 && size == 3 && round == 3) throw std::runtime_error("went on");
    };
    story.before_shrink = [&](Rank me, int) {
      const rlimit limit{Belongings::now().num_descriptors - 1 + spare, 1024};  // the listing itself had one
      if (me == 1) (void)::setrlimit(RLIMIT_NOFILE, &limit);
    };
    run_story(story, *outcome, true);
    expect_survived(*outcome, 4, {1, 3});
    const std::string text = outcome->told[1].text.data();
    (text == "went on" ? has_not_failed : has_failed) = true;
    EXPECT_TRUE(text == "went on" || text.find("Communicator::shrink: rank 1 of 4 cannot go on") != std::string::npos)
        << spare << ": " << text;
  }
  EXPECT_TRUE(has_failed && has_not_failed) << has_failed << has_not_failed;
}

TEST(UcxShrink, FaultsThatWereAskedForGoAlong) {
  NEEDS_UCX_IN_PROCESSES();
  const ucx_ranks::Variable faults("SEQCCL_FAULT", "rank=0,op=ring,step=1,kind=kill;rank=2,op=kv_all_gather,kind=mismatch");
  SharedOutcome outcome;
  const Alarm alarm(60);
  const auto body = [&](Communicator& comm) {
    Told& told = outcome->told[static_cast<std::size_t>(comm.rank())];
    for (++outcome->num_done; outcome->num_done < 3;) std::this_thread::yield();  // until all have met
    try {
      while (ucx_ranks::error_of([&] { attend(comm, nullptr); }).kind() == ErrorKind::internal) {  // nothing has failed yet
      }
      comm = comm.shrink();
      attend(comm, nullptr);
      attend(comm, nullptr, Method::kv_all_gather);
    } catch (const Error& error) {
      std::strncpy(told.text.data(), error.what(), told.text.size() - 1);
      told.is_finished = error.kind() == ErrorKind::mismatched;
    }
  };
  EXPECT_THROW(run_processes(3, body, ucx_ranks::over_ucx_within(30s)), Error);
  for (const std::size_t rank : {1, 2}) EXPECT_TRUE(outcome->told[rank].is_finished) << outcome->told[rank].text.data();
}

// A group that is well ends where it is shrunk; hosts go along, and nothing is left behind.
TEST(UcxShrink, AHealthyGroupKeepsItsMembersAndLeavesNothingBehind) {
  NEEDS_UCX_IN_PROCESSES();
  SharedOutcome outcome;
  const Alarm alarm(60);
  run_processes(
      3,
      [&](Communicator& comm) {
        const auto mine = static_cast<std::size_t>(comm.rank());
        attend(comm, nullptr);
        const Belongings before = Belongings::now();
        bool is_well = true;
        for (int round = 0; round < 10; ++round) {
          for (++outcome->num_done; outcome->num_done < 3 * (round + 1);) std::this_thread::yield();
          Communicator next = comm.shrink();
          is_well = is_well && next.size() == 3 && next.rank() == comm.rank() && next.timeout() == comm.timeout();
          is_well = is_well && next.former_ranks() == std::vector<Rank>{0, 1, 2};
          is_well = is_well && ucx_ranks::error_of([&] { attend(comm, nullptr); }).kind() == ErrorKind::local;
          const Error again = ucx_ranks::error_of([&] { (void)comm.shrink(); });
          is_well = is_well && again.kind() == ErrorKind::argument &&
                    std::string(again.what()).find("shrunk this communicator before") != std::string::npos;
          attend(next, nullptr);
          comm = std::move(next);
        }
        const Belongings after = Belongings::now();
        // UCX opens some when it needs them; ten shrinks that lost one each would show.
        outcome->told[mine].is_finished = is_well && after.num_descriptors < before.num_descriptors + 5;
      },
      ucx_ranks::over_ucx_within(30s));
  for (std::size_t rank = 0; rank < 3; ++rank) EXPECT_TRUE(outcome->told[rank].is_finished) << rank;
}

// Between hosts over TCP, on a host through shared memory; afterwards too.
TEST(UcxShrink, RanksOfSeveralHostsGoOnThroughSharedMemoryAndUcx) {
  NEEDS_UCX_IN_PROCESSES();
  const ucx_ranks::Variable tcp("UCX_TLS", "tcp,self");
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (const int num_hosts : std::set<int>{2, num_ranks / 2 + 1}) {
      SharedOutcome outcome;
      Story story = over_ucx(num_ranks, num_ranks - 1);
      story.transport = ProcessTransport::shm;
      story.num_hosts = num_hosts;
      story.in_round = [&](Rank me, int, int round) {
        if (me == num_ranks / 2 && round == 3) ::raise(SIGKILL);
      };
      run_story(story, *outcome, true);
      expect_survived(*outcome, num_ranks, {num_ranks / 2});
      if (::testing::Test::HasFailure()) FAIL() << num_ranks << " ranks on " << num_hosts << " hosts";
    }
}

TEST(UcxNeighbours, MessagesOfOneHostNeedNoProgressOfUcx) {
  NEEDS_UCX_IN_PROCESSES();
  SharedOutcome outcome;
  const Alarm alarm(60);
  const ProcessRanks options{.timeout = 30s, .num_threads = 1, .transport = ProcessTransport::shm};
  run_processes(
      4,
      [&](Communicator& outer) {
        Communicator comm = on_played_hosts(outer.rank(), 4, 2, *outcome, options);
        Transport& transport = comm.transport();
        const Rank me = comm.rank(), neighbour = me ^ 2;
        const Buffer buffer = comm.allocate(200'000);
        std::byte* const arena = comm.arena(200'000);
        std::vector<std::byte> mine(200'000, std::byte(me + 1));
        bool is_right = std::string(transport.name()) == "ucx+shm" && transport.is_receivable(buffer.data(), buffer.num_bytes()) &&
                        comm.topology().node == std::vector<int>{0, 1, 0, 1};
        for (std::byte* place : {arena, buffer.data()})
          for (const std::size_t num_bytes : {std::size_t{8}, mine.size()}) {
            const std::uint64_t ticket = transport.arm({neighbour, Lane::comm, place, num_bytes, 7});
            bool is_sent = false;
            while (!is_sent || !transport.arrived(neighbour, Lane::comm, ticket))  // no idle(), which would let UCX work
              is_sent = is_sent || transport.try_send({neighbour, Lane::comm, mine.data(), num_bytes, 7});
            is_right = is_right && place[num_bytes - 1] == std::byte(neighbour + 1);
          }
        // Of a mixed communicator each peer is named by its own path.
        const std::vector<std::string> near = transport.paths(neighbour), far = transport.paths(me ^ 1);
        is_right = is_right && near == std::vector<std::string>{"shared memory"} && std::ranges::find(far, near.front()) == far.end();
        is_right = is_right && comm.received_bytes()[static_cast<std::size_t>(neighbour)] == 2 * (8 + mine.size()) &&
                   comm.received_messages()[static_cast<std::size_t>(neighbour)] == 4;
        attend(comm, nullptr);
        outcome->told[static_cast<std::size_t>(me)].is_finished = is_right;
      },
      options);
  for (std::size_t rank = 0; rank < 4; ++rank) EXPECT_TRUE(outcome->told[rank].is_finished) << rank;
}

}  // namespace
}  // namespace seqccl::test
