// ucx_test.cpp - the conformance suite over UCX, and ranks as processes: numbers, death, stalls, strangers, hosts, a missing library.
// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <barrier>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include "../../lib/transport/ucx/transport.hpp"
#include "conformance.hpp"
#include "support/alarm.hpp"
#include "support/watchdog.hpp"
#include "transport/ucx_support.hpp"

#if defined(__SANITIZE_ADDRESS__)
// What libucs keeps for itself.
extern "C" const char* __lsan_default_suppressions() { return "leak:libucs\n"; }
#endif

namespace seqccl::test {
namespace {

using namespace ucx_ranks;
using namespace std::chrono_literals;

/// Ranks are threads, each with a UCX context and a control thread of its own.
/// `num_hosts`: played, by turns; ranks of one host share memory. 0: all go over UCX.
Harness over_ucx(const std::string& name, const WaitPolicy& policy, const char* transports, int num_hosts = 0) {
  return {name, [policy, transports, num_hosts](int num_ranks, const std::function<void(Transport&)>& body) {
            NEEDS_UCX();
            const Variable chosen("UCX_TLS", transports);
            std::vector<std::string> cards(static_cast<std::size_t>(num_ranks));
            std::barrier meeting(num_ranks);
            std::vector<std::thread> ranks;
            for (Rank rank = 0; rank < num_ranks; ++rank)
              ranks.emplace_back([&, rank] {
                const ucx::Door door(rank, num_ranks, num_hosts == 0 ? "" : "host" + std::to_string(rank % num_hosts));
                cards[static_cast<std::size_t>(rank)] = door.card().text();
                meeting.arrive_and_wait();
                const UcxRank end = ucx_transport(rank, door, cards, policy, 30s, num_hosts != 0);
                body(*end.transport);
              });
            for (std::thread& rank : ranks) rank.join();
          }};
}

INSTANTIATE_TEST_SUITE_P(Ucx, TransportTest,
                         ::testing::Values(over_ucx("default", WaitPolicy{}, nullptr),
                                           over_ucx("blocking", WaitPolicy{.spins = 0, .yields = 0}, nullptr),
                                           over_ucx("tcp", WaitPolicy{}, "tcp,self"), over_ucx("one_host_shared", WaitPolicy{}, nullptr, 1),
                                           over_ucx("two_hosts", WaitPolicy{}, "tcp,self", 2),
                                           over_ucx("two_hosts_blocking", WaitPolicy{.spins = 0, .yields = 0}, "tcp,self", 2)),
                         [](const auto& instance) { return instance.param.name; });

TEST(UcxProcesses, ResultsAreThoseOfThreadRanksBitByBit) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  const ProcessRanks options = over_ucx_within(30s);
  for (const Method method : {Method::ring, Method::kv_all_gather, Method::token_ring})
    EXPECT_EQ(attention_on(3, method, &options), attention_on(3, method, nullptr)) << name(method);
}

TEST(UcxProcesses, AKilledRankIsNamed) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  const auto told = told_when_a_rank(
      3, 1, [] { ::raise(SIGKILL); }, over_ucx_within(30s));
  for (const std::size_t rank : {0u, 2u}) {
    EXPECT_EQ(told[rank].kind, static_cast<int>(ErrorKind::dead)) << told[rank].text;
    EXPECT_EQ(told[rank].culprit, 1) << told[rank].text;
    EXPECT_LT(told[rank].seconds, 5);
  }
}

TEST(UcxProcesses, ARankThatExitsWithoutLeavingIsDead) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  const auto told = told_when_a_rank(
      3, 1, [] { ::_exit(0); }, over_ucx_within(60s));
  for (const std::size_t rank : {0u, 2u}) {
    EXPECT_EQ(told[rank].kind, static_cast<int>(ErrorKind::dead)) << told[rank].text;
    EXPECT_EQ(told[rank].culprit, 1);
  }
}

TEST(UcxProcesses, ALateRankIsWaitedForAndAThrowIsNamed) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  EXPECT_NO_THROW(run_processes(
      3,
      [](Communicator& comm) {
        Ring run(comm);
        for (int round = 0; round < 30; ++round) {
          if (round == 10 && comm.rank() == 1) std::this_thread::sleep_for(400ms);
          run();
        }
      },
      over_ucx_within(30s)));
  const Error error = error_of([] {
    run_processes(
        3,
        [](Communicator& comm) {
          if (comm.rank() == 1) throw std::runtime_error("no more milk");
          (void)wait_until(comm.transport(), SteadyClock::now() + 60s, [] { return false; });
        },
        over_ucx_within(60s));
  });
  EXPECT_EQ(error.kind(), ErrorKind::local) << error.what();
  EXPECT_EQ(error.culprits(), std::vector<Rank>{1}) << error.what();
}

// What a rank has sent comes, though it leaves at once and the other looks late.
TEST(UcxProcesses, ALeavingRanksLastMessagesCome) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  for (const char* transports : {static_cast<const char*>(nullptr), "tcp,self"}) {
    const Variable chosen("UCX_TLS", transports);
    EXPECT_NO_THROW(run_processes(
        2,
        [](Communicator& comm) {
          constexpr std::size_t num_bytes = 10'000;
          std::byte* arena = comm.arena(8 * num_bytes);
          Transport& transport = comm.transport();
          if (comm.rank() == 0) {
            std::memset(arena, 7, num_bytes);
            for (int i = 0; i < 8; ++i)
              if (!wait_until(transport, SteadyClock::now() + 30s, [&] {
                    return transport.try_send({1, Lane::comm, arena, num_bytes, 1});
                  }))
                throw Error(ErrorKind::internal, "not sent");
            return;
          }
          std::this_thread::sleep_for(300ms);
          std::uint64_t ticket = 0;
          for (std::size_t i = 0; i < 8; ++i) ticket = transport.arm({0, Lane::comm, arena + i * num_bytes, num_bytes, 1});
          if (!wait_until(transport, SteadyClock::now() + 30s, [&] { return transport.arrived(0, Lane::comm, ticket); }))
            throw Error(ErrorKind::internal, "not come");
          if (arena[8 * num_bytes - 1] != std::byte{7}) throw Error(ErrorKind::internal, "wrong bytes");
        },
        over_ucx_within(30s)));
  }
}

TEST(UcxProcesses, RanksOfSeveralHostsAreMetOverUcxAndKnowTheirNodes) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  Shared<int> right(4);
  const auto body = [&](Communicator& comm) {
    Ring run(comm);
    run();
    const std::vector<int> want = {0, 1, 0, 1};
    right[static_cast<std::size_t>(comm.rank())] = comm.topology().node == want ? 1 : 0;
  };
  // run_processes gives all ranks one set of options: ranks name their host themselves.
  std::vector<pid_t> ranks;
  Shared<char> cards(4 * 2000);
  Shared<std::atomic<int>> num_here(1);
  for (Rank rank = 0; rank < 4; ++rank) {
    const pid_t process = ::fork();
    ASSERT_GE(process, 0);
    if (process == 0) {
      int code = 1;
      try {
        ProcessRanks options;
        options.timeout = 30s;
        options.host = rank % 2 == 0 ? "even" : "odd";
        Communicator comm = Communicator::from_callback(
            rank, 4,
            [&](std::string_view mine) {
              std::copy(mine.begin(), mine.end(), cards.data() + rank * 2000);
              ++num_here[0];
              while (num_here[0] < 4) std::this_thread::sleep_for(1ms);
              std::vector<std::string> all;
              for (Rank peer = 0; peer < 4; ++peer) all.emplace_back(cards.data() + peer * 2000);
              return all;
            },
            options);
        body(comm);
        code = 0;
      } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      }
      ::_exit(code);
    }
    ranks.push_back(process);
  }
  for (const pid_t process : ranks) {
    int status = -1;
    ::waitpid(process, &status, 0);
    EXPECT_EQ(status, 0);
  }
  for (std::size_t rank = 0; rank < 4; ++rank) EXPECT_EQ(right[rank], 1) << rank;
}

TEST(UcxProcesses, ACopyInAForkedChildIsNoRank) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  EXPECT_NO_THROW(run_processes(
      2,
      [](Communicator& comm) {
        Ring run(comm);
        run();
        if (comm.rank() == 1) {
          const pid_t child = ::fork();
          if (child == 0) {
            ::alarm(20);
            { const Communicator copy = std::move(comm); }  // destroyed here, and not where the rank lives
            ::_exit(0);
          }
          int status = -1;
          ::waitpid(child, &status, 0);
          if (status != 0) throw Error(ErrorKind::internal, "the child did not end well");
        }
        run();
      },
      over_ucx_within(30s)));
}

extern "C" void own_handler(int) {}

TEST(UcxProcesses, TheUsersSignalHandlersStay) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  // In a process of its own, which has not loaded UCX: this one has.
  EXPECT_NO_THROW(run_processes(1,
                                [](Communicator&) {
                                  const auto actions = [] {
                                    std::vector<void (*)(int)> result;
                                    for (int signal = 1; signal < NSIG; ++signal) {
                                      struct sigaction action {};
                                      result.push_back(::sigaction(signal, nullptr, &action) == 0 ? action.sa_handler : nullptr);
                                    }
                                    return result;
                                  };
                                  struct sigaction own {};
                                  own.sa_handler = own_handler;
                                  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGUSR1}) ::sigaction(signal, &own, nullptr);
                                  const auto before = actions();
                                  {
                                    const Communicator comm = Communicator::from_callback(
                                        0, 1, [](std::string_view mine) { return std::vector<std::string>{std::string(mine)}; },
                                        over_ucx_within(30s));
                                    if (actions() != before) throw Error(ErrorKind::internal, "changed by the constructor");
                                  }
                                  if (actions() != before) throw Error(ErrorKind::internal, "changed by the destructor");
                                },
                                {.transport = ProcessTransport::shm}));
}

// In a program started anew: the library is loaded once, and this one may have it.
TEST(UcxLibrary, IsMissedWithWords) {
  const char* const nowhere = "/nowhere/libucp.so";
  const char* const chosen = std::getenv("SEQCCL_UCX_LIBRARY");
  if (chosen == nullptr || std::string(chosen) != nowhere) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::setenv("SEQCCL_UCX_LIBRARY", nowhere, 1);
      ::execl("/proc/self/exe", "test_transport", "--gtest_filter=UcxLibrary.IsMissedWithWords", "--gtest_brief=1",
              static_cast<char*>(nullptr));
      ::_exit(3);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    return;
  }
  EXPECT_FALSE(transport_state(ProcessTransport::ucx).is_there);
  const Error error = error_of([] {
    run_processes(
        2, [](Communicator&) {}, over_ucx_within(5s));
  });
  EXPECT_EQ(error.kind(), ErrorKind::argument) << error.what();
#if SEQCCL_HAS_UCX
  EXPECT_NE(std::string(error.what()).find(nowhere), std::string::npos) << error.what();
  EXPECT_NE(std::string(error.what()).find("SEQCCL_UCX_LIBRARY"), std::string::npos) << error.what();
#endif
}

TEST(UcxEnvironment, SeqcclTransportIsRead) {
  const Variable rank("SEQCCL_RANK", "0"), size("SEQCCL_WORLD_SIZE", "1"), where("SEQCCL_ADDR", "127.0.0.1"), port("SEQCCL_PORT", "29871");
  const Variable transport("SEQCCL_TRANSPORT", "pigeon");
  const Error error = error_of([] { (void)Communicator::from_env(); });
  EXPECT_EQ(error.kind(), ErrorKind::argument);
  EXPECT_NE(std::string(error.what()).find("pigeon"), std::string::npos) << error.what();
}

TEST(UcxEnvironment, SeqcclTimeoutReplacesTheProgramsOwn) {
  const Variable rank("SEQCCL_RANK", "0"), size("SEQCCL_WORLD_SIZE", "1"), where("SEQCCL_ADDR", "127.0.0.1"), port("SEQCCL_PORT", "29872");
  {
    const Variable timeout("SEQCCL_TIMEOUT", "2.5");
    EXPECT_EQ(Communicator::from_env({.timeout = 60s}).timeout(), 2500ms);
  }
  EXPECT_EQ(Communicator::from_env({.timeout = 60s}).timeout(), 60s);
  for (const char* wrong : {"soon", "-1", "0", "2 s"}) {
    const Variable timeout("SEQCCL_TIMEOUT", wrong);
    const Error error = error_of([] { (void)Communicator::from_env(); });
    EXPECT_EQ(error.kind(), ErrorKind::argument) << wrong;
    EXPECT_NE(std::string(error.what()).find("SEQCCL_TIMEOUT is \""), std::string::npos) << error.what();
  }
}

// Silence, garbage, and one who says he is rank 2 and does not know the card.
TEST(UcxControlPlane, AStrangerAtTheDoorDoesNoHarm) {
  NEEDS_UCX();
  Watchdog dog(60s);
  std::vector<std::string> cards(3);
  std::barrier meeting(3);
  std::atomic<int> num_met{0};
  std::vector<std::thread> ranks;
  std::vector<int> strangers;
  for (Rank rank = 0; rank < 3; ++rank)
    ranks.emplace_back([&, rank] {
      const ucx::Door door(rank, 3, "");
      cards[static_cast<std::size_t>(rank)] = door.card().text();
      meeting.arrive_and_wait();
      if (rank == 2) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<std::uint16_t>(ucx::Card::parse(0, cards[0]).port));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        for (const int kind : {0, 1, 2}) {
          const int stranger = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
          EXPECT_EQ(::connect(stranger, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
          std::string says(44, 'x');
          if (kind == 2) {
            char challenge[24];
            EXPECT_EQ(::recv(stranger, challenge, sizeof(challenge), MSG_WAITALL), 24);
            std::copy(challenge, challenge + 8, says.begin());
            says[8] = 2;
            says[9] = says[10] = says[11] = 0;
          }
          if (kind != 0) (void)!::send(stranger, says.data(), says.size(), MSG_NOSIGNAL);
          strangers.push_back(stranger);
        }
      }
      const UcxRank end = ucx_transport(rank, door, cards, WaitPolicy{}, 30s, false);
      ++num_met;
      EXPECT_TRUE(wait_until(*end.transport, SteadyClock::now() + 30s, [&] { return num_met == 3; }));
    });
  for (std::thread& rank : ranks) rank.join();
  for (const int stranger : strangers) ::close(stranger);
  EXPECT_EQ(num_met, 3);
}

}  // namespace
}  // namespace seqccl::test
