// ucx_test.cpp - the conformance suite over UCX, and ranks as processes: numbers, death, stalls, strangers, hosts, a missing library.
// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <barrier>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "../../lib/transport/ucx/library.hpp"
#include "../../lib/transport/ucx/transport.hpp"
#include "conformance.hpp"
#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using namespace std::chrono_literals;

#define NEEDS_UCX() \
  if (!ucx::find_library().is_there) GTEST_SKIP() << ucx::find_library().text

/// A variable of the environment, as long as this lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(value == nullptr ? nullptr : name) {
    if (name_ == nullptr) return;
    const char* before = std::getenv(name);
    if (before != nullptr) before_ = before;
    had_ = before != nullptr;
    ::setenv(name, value, 1);
  }
  ~Variable() {
    if (name_ == nullptr) return;
    if (had_)
      ::setenv(name_, before_.c_str(), 1);
    else
      ::unsetenv(name_);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::string before_;
  bool had_ = false;
};

/// Ranks are threads, each with a UCX context and a control thread of its own.
Harness over_ucx(const std::string& name, const WaitPolicy& policy, const char* transports) {
  return {name, [policy, transports](int num_ranks, const std::function<void(Transport&)>& body) {
            NEEDS_UCX();
            const Variable chosen("UCX_TLS", transports);
            std::vector<std::string> cards(static_cast<std::size_t>(num_ranks));
            std::barrier meeting(num_ranks);
            std::vector<std::thread> ranks;
            for (Rank rank = 0; rank < num_ranks; ++rank)
              ranks.emplace_back([&, rank] {
                const ucx::Door door(rank, num_ranks, "");
                cards[static_cast<std::size_t>(rank)] = door.card().text();
                meeting.arrive_and_wait();
                const UcxRank end = ucx_transport(rank, door, cards, policy, 30s);
                body(*end.transport);
              });
            for (std::thread& rank : ranks) rank.join();
          }};
}

INSTANTIATE_TEST_SUITE_P(Ucx, TransportTest,
                         ::testing::Values(over_ucx("default", WaitPolicy{}, nullptr),
                                           over_ucx("blocking", WaitPolicy{.spins = 0, .yields = 0}, nullptr),
                                           over_ucx("tcp", WaitPolicy{}, "tcp,self")),
                         [](const auto& instance) { return instance.param.name; });

/// An array that parent and ranks see.
template <class T>
class Shared {
 public:
  explicit Shared(std::size_t count) : count_(count) {
    data_ = static_cast<T*>(::mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  ~Shared() { ::munmap(data_, count_ * sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T& operator[](std::size_t i) { return data_[i]; }
  T* data() { return data_; }

 private:
  std::size_t count_;
  T* data_;
};

Error error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  return {ErrorKind::internal, "nothing was thrown"};
}

ProcessRanks over_ucx_within(std::chrono::nanoseconds timeout) {
  ProcessRanks options;
  options.timeout = timeout;
  options.transport = ProcessTransport::ucx;
  return options;
}

/// One forward pass; every rank writes its rows of the result.
std::vector<float> attention_on(int num_ranks, Method method, const ProcessRanks* processes) {
  const std::int64_t tokens = 192, heads = 8, dim = 64;
  AttentionSpec spec;
  spec.q_heads = heads;
  spec.kv_heads = heads;
  spec.head_dim = dim;
  spec.method = method;
  spec.partition = Partition::zigzag(tokens, num_ranks);
  spec.mask = Mask::causal();
  const HostTensor q = random_tensor(f32, {1, tokens, heads, dim}, 1), k = random_tensor(f32, {1, tokens, heads, dim}, 2),
                   v = random_tensor(f32, {1, tokens, heads, dim}, 3);
  Shared<float> out(static_cast<std::size_t>(tokens * heads * dim));
  const auto body = [&](Communicator& comm) {
    const std::int64_t T = spec.partition.tokens_on(comm.rank());
    HostTensor my_q(f32, {1, T, heads, dim}), my_k(f32, {1, T, heads, dim}), my_v(f32, {1, T, heads, dim}), my_out(f32, {1, T, heads, dim}),
        lse(f32, {1, heads, T});
    spec.partition.shard(q.view(), comm.rank(), my_q.view());
    spec.partition.shard(k.view(), comm.rank(), my_k.view());
    spec.partition.shard(v.view(), comm.rank(), my_v.view());
    Attention attention(comm, spec);
    for (int repeat = 0; repeat < 3; ++repeat)
      attention.forward(std::as_const(my_q).view(), std::as_const(my_k).view(), std::as_const(my_v).view(), my_out.view(), lse.view());
    spec.partition.unshard(std::as_const(my_out).view(), comm.rank(), view(static_cast<void*>(out.data()), f32, {1, tokens, heads, dim}));
  };
  if (processes != nullptr)
    run_processes(num_ranks, body, *processes);
  else
    run_ranks(num_ranks, body);
  return {out.data(), out.data() + tokens * heads * dim};
}

TEST(UcxProcesses, ResultsAreThoseOfThreadRanksBitByBit) {
  NEEDS_UCX();
  Watchdog dog(240s);
  const ProcessRanks options = over_ucx_within(60s);
  for (const char* transports : {static_cast<const char*>(nullptr), "tcp,self"}) {
    const Variable chosen("UCX_TLS", transports);
    for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
      for (const Method method : {Method::ring, Method::kv_all_gather, Method::head_swap, Method::token_ring}) {
        if (method == Method::head_swap && 8 % num_ranks != 0) continue;
        EXPECT_EQ(attention_on(num_ranks, method, &options), attention_on(num_ranks, method, nullptr))
            << num_ranks << " ranks, " << name(method) << ", " << (transports == nullptr ? "all" : transports);
      }
  }
}

/// An operation that all ranks go through.
class Ring {
 public:
  explicit Ring(Communicator& comm) {
    spec_.head_dim = 8;
    spec_.method = Method::ring;
    spec_.partition = Partition::contiguous(64, comm.size());
    x_ = random_tensor(f32, {1, spec_.partition.tokens_on(comm.rank()), 1, 8}, 1);
    out_ = x_;
    lse_ = HostTensor(f32, {1, 1, x_.geometry.shape[1]});
    attention_.emplace(comm, spec_);
  }
  void operator()() {
    attention_->forward(std::as_const(x_).view(), std::as_const(x_).view(), std::as_const(x_).view(), out_.view(), lse_.view());
  }

 private:
  AttentionSpec spec_;
  HostTensor x_, out_, lse_;
  std::optional<Attention> attention_;
};

// Each survivor writes down what it was told, and when.
struct Told {
  int kind = -1, num_culprits = 0;
  Rank culprit = -1;
  double seconds = 0;
  char text[300] = {};
};
std::vector<Told> told_when_a_rank(int num_ranks, Rank victim, const std::function<void()>& ends, const ProcessRanks& options) {
  Shared<Told> told(static_cast<std::size_t>(num_ranks));
  Shared<std::atomic<std::int64_t>> when(1);
  EXPECT_THROW(run_processes(
                   num_ranks,
                   [&](Communicator& comm) {
                     Ring run(comm);
                     Told& mine = told[static_cast<std::size_t>(comm.rank())];
                     try {
                       for (int round = 0; round < 20; ++round) run();
                       if (comm.rank() == victim) {
                         when[0] = SteadyClock::now().time_since_epoch().count();
                         ends();
                       }
                       for (int round = 0; round < 1'000'000; ++round) run();
                     } catch (const Error& error) {
                       mine = {static_cast<int>(error.kind()),
                               static_cast<int>(error.culprits().size()),
                               error.culprits().empty() ? -1 : error.culprits().front(),
                               static_cast<double>(SteadyClock::now().time_since_epoch().count() - when[0].load()) * 1e-9,
                               {}};
                       std::strncpy(mine.text, error.what(), sizeof(mine.text) - 1);
                       throw;
                     }
                   },
                   options),
               Error);
  return {told.data(), told.data() + num_ranks};
}

TEST(UcxProcesses, AKilledRankIsNamedByAllOthersSoon) {
  NEEDS_UCX();
  Watchdog dog(120s);
  for (const char* transports : {static_cast<const char*>(nullptr), "tcp,self"}) {
    const Variable chosen("UCX_TLS", transports);
    for (const int num_ranks : {2, 3, 5, 8})
      for (const Rank victim : {0, num_ranks - 1}) {
        const auto begin = SteadyClock::now();
        const auto told = told_when_a_rank(
            num_ranks, victim, [] { ::raise(SIGKILL); }, over_ucx_within(60s));
        EXPECT_LT(SteadyClock::now() - begin, 15s) << "the survivors' destructors too";
        for (Rank rank = 0; rank < num_ranks; ++rank) {
          if (rank == victim) continue;
          const Told& mine = told[static_cast<std::size_t>(rank)];
          EXPECT_EQ(mine.kind, static_cast<int>(ErrorKind::dead)) << "rank " << rank << " of " << num_ranks << ": " << mine.text;
          EXPECT_EQ(mine.culprit, victim) << mine.text;
          EXPECT_EQ(mine.num_culprits, 1);
          EXPECT_LT(mine.seconds, 5) << "far below the timeout";
        }
      }
  }
}

TEST(UcxProcesses, ARankThatExitsWithoutLeavingIsDead) {
  NEEDS_UCX();
  Watchdog dog(60s);
  const auto told = told_when_a_rank(
      3, 1, [] { ::_exit(0); }, over_ucx_within(60s));
  for (const std::size_t rank : {0u, 2u}) {
    EXPECT_EQ(told[rank].kind, static_cast<int>(ErrorKind::dead)) << told[rank].text;
    EXPECT_EQ(told[rank].culprit, 1);
  }
}

TEST(UcxProcesses, AStoppedRankIsStalled) {
  NEEDS_UCX();
  Watchdog dog(60s);
  Shared<pid_t> stopped(1);
  const auto told = told_when_a_rank(
      3, 2,
      [&] {
        stopped[0] = ::getpid();
        if (::fork() == 0) {  // ends it long after the others have given up
          std::this_thread::sleep_for(4s);
          ::kill(stopped[0], SIGKILL);
          ::_exit(0);
        }
        ::raise(SIGSTOP);
      },
      over_ucx_within(500ms));
  for (const std::size_t rank : {0u, 1u}) {
    EXPECT_EQ(told[rank].kind, static_cast<int>(ErrorKind::stalled)) << told[rank].text;
    EXPECT_EQ(told[rank].culprit, 2) << told[rank].text;
    EXPECT_LT(told[rank].seconds, 2.5);  // the timeout + 2 s
  }
}

// Its own threads are busy elsewhere; the control thread answers for it.
TEST(UcxProcesses, ARankThatDoesNotCallIsNamedAfterTheTimeout) {
  NEEDS_UCX();
  Watchdog dog(60s);
  const auto told = told_when_a_rank(
      3, 1, [] { std::this_thread::sleep_for(4s); }, over_ucx_within(500ms));
  for (const std::size_t rank : {0u, 2u}) {
    EXPECT_EQ(told[rank].kind, static_cast<int>(ErrorKind::stalled)) << told[rank].text;
    EXPECT_EQ(told[rank].culprit, 1) << told[rank].text;
    EXPECT_NE(std::string(told[rank].text).find("has not called operation 21"), std::string::npos) << told[rank].text;
    EXPECT_LT(told[rank].seconds, 2.5);
  }
}

TEST(UcxProcesses, ALateRankIsWaitedForAndAThrowIsNamed) {
  NEEDS_UCX();
  Watchdog dog(60s);
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
  NEEDS_UCX();
  Watchdog dog(60s);
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
  NEEDS_UCX();
  Watchdog dog(60s);
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
  NEEDS_UCX();
  Watchdog dog(60s);
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
  NEEDS_UCX();
  Watchdog dog(60s);
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

// Must not be in a process that has loaded the library: it is loaded once.
TEST(UcxLibrary, IsMissedWithWords) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::execl("/proc/self/exe", "test_transport", "--gtest_filter=UcxLibrary.DISABLED_MissingChild", "--gtest_also_run_disabled_tests",
            static_cast<char*>(nullptr));
    ::_exit(3);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}
TEST(UcxLibrary, DISABLED_MissingChild) {
  const Variable file("SEQCCL_UCX_LIBRARY", "/nowhere/libucp.so");
  const TransportState state = transport_state(ProcessTransport::ucx);
  EXPECT_FALSE(state.is_there);
  const Error error = error_of([] {
    run_processes(
        2, [](Communicator&) {}, over_ucx_within(5s));
  });
  EXPECT_EQ(error.kind(), ErrorKind::argument) << error.what();
#if SEQCCL_HAS_UCX
  EXPECT_NE(std::string(error.what()).find("/nowhere/libucp.so"), std::string::npos) << error.what();
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
      const UcxRank end = ucx_transport(rank, door, cards, WaitPolicy{}, 30s);
      ++num_met;
      EXPECT_TRUE(wait_until(*end.transport, SteadyClock::now() + 30s, [&] { return num_met == 3; }));
    });
  for (std::thread& rank : ranks) rank.join();
  for (const int stranger : strangers) ::close(stranger);
  EXPECT_EQ(num_met, 3);
}

}  // namespace
}  // namespace seqccl::test
