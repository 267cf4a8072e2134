// shm_test.cpp - the conformance suite over shared memory, and ranks as processes: numbers, death, stalls, strangers.
// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <barrier>
#include <csignal>
#include <cstring>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "../../lib/transport/shm/transport.hpp"
#include "conformance.hpp"
#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using namespace std::chrono_literals;

/// Ranks are threads, each of which maps all segments for itself.
Harness shm(const std::string& name, const WaitPolicy& policy) {
  return {name, [policy](int num_ranks, const std::function<void(Transport&)>& body) {
            std::vector<std::string> cards(static_cast<std::size_t>(num_ranks));
            std::barrier meeting(num_ranks);
            std::vector<std::thread> ranks;
            for (Rank rank = 0; rank < num_ranks; ++rank)
              ranks.emplace_back([&, rank] {
                auto end = shm_transport(
                    rank, num_ranks,
                    [&](std::string_view mine) {
                      cards[static_cast<std::size_t>(rank)] = mine;
                      meeting.arrive_and_wait();
                      return cards;
                    },
                    policy, 30s);
                body(*end);
              });
            for (std::thread& rank : ranks) rank.join();
          }};
}

INSTANTIATE_TEST_SUITE_P(Shm, TransportTest,
                         ::testing::Values(shm("default", WaitPolicy{}), shm("blocking", WaitPolicy{.spins = 0, .yields = 0})),
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

std::size_t num_descriptors() {
  std::size_t count = 0;
  DIR* folder = ::opendir("/proc/self/fd");
  while (folder != nullptr && ::readdir(folder) != nullptr) ++count;
  if (folder != nullptr) ::closedir(folder);
  return count;
}

/// One forward pass; every rank writes its rows of the result.
std::vector<float> attention_on(int num_ranks, Method method, bool processes) {
  const std::int64_t tokens = 96, heads = 4, dim = 16;
  AttentionSpec spec;
  spec.q_heads = heads;
  spec.kv_heads = 2;
  spec.head_dim = dim;
  spec.method = method;
  spec.partition = Partition::zigzag(tokens, num_ranks);
  spec.mask = Mask::causal();
  const HostTensor q = random_tensor(f32, {1, tokens, heads, dim}, 1), k = random_tensor(f32, {1, tokens, 2, dim}, 2),
                   v = random_tensor(f32, {1, tokens, 2, dim}, 3);
  Shared<float> out(static_cast<std::size_t>(tokens * heads * dim));
  const auto body = [&](Communicator& comm) {
    const std::int64_t T = spec.partition.tokens_on(comm.rank());
    HostTensor my_q(f32, {1, T, heads, dim}), my_k(f32, {1, T, 2, dim}), my_v(f32, {1, T, 2, dim}), my_out(f32, {1, T, heads, dim}),
        lse(f32, {1, heads, T});
    spec.partition.shard(q.view(), comm.rank(), my_q.view());
    spec.partition.shard(k.view(), comm.rank(), my_k.view());
    spec.partition.shard(v.view(), comm.rank(), my_v.view());
    Attention attention(comm, spec);
    for (int repeat = 0; repeat < 3; ++repeat)
      attention.forward(std::as_const(my_q).view(), std::as_const(my_k).view(), std::as_const(my_v).view(), my_out.view(), lse.view());
    spec.partition.unshard(std::as_const(my_out).view(), comm.rank(), view(static_cast<void*>(out.data()), f32, {1, tokens, heads, dim}));
  };
  if (processes)
    run_processes(num_ranks, body, {.timeout = 60s});
  else
    run_ranks(num_ranks, body);
  return {out.data(), out.data() + tokens * heads * dim};
}

TEST(ShmProcesses, ResultsAreThoseOfThreadRanksBitByBit) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (const Method method : {Method::ring, Method::kv_all_gather, Method::head_swap, Method::token_ring})
      EXPECT_EQ(attention_on(num_ranks, method, true), attention_on(num_ranks, method, false)) << num_ranks << " ranks, " << name(method);
}

TEST(ShmProcesses, NothingIsLeftBehind) {
  const std::size_t before = num_descriptors();
  for (int round = 0; round < 5; ++round) run_processes(3, [](Communicator&) {});
  EXPECT_EQ(num_descriptors(), before);
}

TEST(ShmProcesses, ARankThatThrowsIsNamedAndTheOthersEnd) {
  const Error error = error_of([] {
    run_processes(3, [](Communicator& comm) {
      if (comm.rank() == 1) throw std::runtime_error("no more milk");
      (void)wait_until(comm.transport(), SteadyClock::now() + 60s, [] { return false; });
    });
  });
  EXPECT_EQ(error.kind(), ErrorKind::local) << error.what();
  EXPECT_EQ(error.culprits(), std::vector<Rank>{1}) << error.what();
  EXPECT_NE(std::string(error.what()).find("no more milk"), std::string::npos) << error.what();
}

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
                     AttentionSpec spec;
                     spec.head_dim = 8;
                     spec.method = Method::ring;
                     spec.partition = Partition::contiguous(64, comm.size());
                     const HostTensor x = random_tensor(f32, {1, spec.partition.tokens_on(comm.rank()), 1, 8}, 1);
                     HostTensor out = x, lse(f32, {1, 1, x.geometry.shape[1]});
                     Attention attention(comm, spec);
                     const auto run = [&] { attention.forward(x.view(), x.view(), x.view(), out.view(), lse.view()); };
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

TEST(ShmProcesses, AKilledRankIsNamedByAllOthersSoon) {
  for (const int num_ranks : {2, 3, 5, 8})
    for (const Rank victim : {0, num_ranks - 1}) {
      const auto told = told_when_a_rank(num_ranks, victim, [] { ::raise(SIGKILL); }, {.timeout = 60s});
      for (Rank rank = 0; rank < num_ranks; ++rank) {
        if (rank == victim) continue;
        const Told& mine = told[static_cast<std::size_t>(rank)];
        EXPECT_EQ(mine.kind, static_cast<int>(ErrorKind::dead)) << "rank " << rank << " of " << num_ranks << ": " << mine.text;
        EXPECT_EQ(mine.culprit, victim);
        EXPECT_EQ(mine.num_culprits, 1);
        EXPECT_LT(mine.seconds, 10) << "far below the timeout";
      }
    }
}

TEST(ShmProcesses, ARankThatExitsWithoutLeavingIsDead) {
  const auto told = told_when_a_rank(3, 1, [] { ::_exit(0); }, {.timeout = 60s});
  for (const Rank rank : {0, 2}) {
    EXPECT_EQ(told[static_cast<std::size_t>(rank)].kind, static_cast<int>(ErrorKind::dead));
    EXPECT_EQ(told[static_cast<std::size_t>(rank)].culprit, 1);
  }
}

TEST(ShmProcesses, AStoppedRankIsStalled) {
  // The others fail after the timeout; then the stopped one is of no more use and is killed by the parent's death signal or here.
  Shared<pid_t> stopped(1);
  std::thread killer;
  const auto told = told_when_a_rank(3, 2,
                                     [&] {
                                       stopped[0] = ::getpid();
                                       if (::fork() == 0) {  // wakes it long after the others have given up
                                         std::this_thread::sleep_for(3s);
                                         ::kill(stopped[0], SIGKILL);
                                         ::_exit(0);
                                       }
                                       ::raise(SIGSTOP);
                                     },
                                     {.timeout = 500ms});
  for (const Rank rank : {0, 1}) {
    const Told& mine = told[static_cast<std::size_t>(rank)];
    EXPECT_EQ(mine.kind, static_cast<int>(ErrorKind::stalled));
    EXPECT_EQ(mine.culprit, 2);
    EXPECT_LT(mine.seconds, 2.5);  // the timeout + 2 s
  }
}

TEST(ShmProcesses, ALateRankIsWaitedFor) {
  EXPECT_NO_THROW(run_processes(3,
                                [](Communicator& comm) {
                                  AttentionSpec spec;
                                  spec.head_dim = 8;
                                  spec.method = Method::ring;
                                  spec.partition = Partition::contiguous(64, comm.size());
                                  const HostTensor x = random_tensor(f32, {1, spec.partition.tokens_on(comm.rank()), 1, 8}, 1);
                                  HostTensor out = x, lse(f32, {1, 1, x.geometry.shape[1]});
                                  Attention attention(comm, spec);
                                  for (int round = 0; round < 30; ++round) {
                                    if (round == 10 && comm.rank() == 1) std::this_thread::sleep_for(400ms);
                                    attention.forward(x.view(), x.view(), x.view(), out.view(), lse.view());
                                  }
                                },
                                {.timeout = 30s}));
}

TEST(ShmProcesses, ACopyInAForkedChildIsNoRank) {
  EXPECT_NO_THROW(run_processes(2,
                                [](Communicator& comm) {
                                  if (comm.rank() == 1) {
                                    const pid_t child = ::fork();
                                    if (child == 0) {
                                      { const Communicator copy = std::move(comm); }  // destroyed here, and not where the rank lives
                                      ::_exit(0);
                                    }
                                    int status = 0;
                                    ::waitpid(child, &status, 0);
                                  }
                                  EXPECT_FALSE(comm.transport().status(1).left);
                                  AttentionSpec spec;
                                  spec.head_dim = 8;
                                  spec.method = Method::ring;
                                  spec.partition = Partition::contiguous(64, comm.size());
                                  const HostTensor x = random_tensor(f32, {1, spec.partition.tokens_on(comm.rank()), 1, 8}, 1);
                                  HostTensor out = x, lse(f32, {1, 1, x.geometry.shape[1]});
                                  Attention attention(comm, spec);
                                  for (int round = 0; round < 20; ++round)
                                    attention.forward(x.view(), x.view(), x.view(), out.view(), lse.view());
                                },
                                {.timeout = 30s}));
}

// Too few descriptors to meet: an error soon, not a wait for the whole bootstrap_timeout, and no endless loop.
TEST(ShmProcesses, TooFewDescriptorsIsAnErrorSoon) {
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit few{static_cast<rlim_t>(num_descriptors() + 4), limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  const auto begin = SteadyClock::now();
  const Error error = error_of([] { run_processes(4, [](Communicator&) {}, {.bootstrap_timeout = 5s}); });
  EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_NE(error.kind(), ErrorKind::internal) << error.what();
  EXPECT_LT(SteadyClock::now() - begin, 20s);
}

TEST(ShmProcesses, AStrangerAtTheSocketDoesNoHarm) {
  std::vector<std::string> cards(3);
  std::barrier meeting(3);
  std::vector<std::thread> ranks;
  std::atomic<int> num_met{0};
  for (Rank rank = 0; rank < 3; ++rank)
    ranks.emplace_back([&, rank] {
      const auto end = shm_transport(
          rank, 3,
          [&](std::string_view mine) {
            cards[static_cast<std::size_t>(rank)] = mine;
            meeting.arrive_and_wait();
            // Rank 2 has not connected to rank 0 yet. Garbage, and silence, come first.
            std::istringstream words(cards[0]);
            std::string kind, place, socket;
            words >> kind >> place >> socket;
            sockaddr_un address{};
            address.sun_family = AF_UNIX;
            std::copy(socket.begin(), socket.end(), address.sun_path + 1);
            for (const char* text : rank == 2 ? std::vector<const char*>{"garbage", ""} : std::vector<const char*>{}) {
              const int stranger = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
              EXPECT_EQ(::connect(stranger, reinterpret_cast<sockaddr*>(&address),
                                  static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + socket.size())),
                        0);
              if (*text != 0) (void)::send(stranger, text, 7, MSG_NOSIGNAL);
              if (*text != 0) ::close(stranger);  // the silent one stays
            }
            meeting.arrive_and_wait();
            return cards;
          },
          WaitPolicy{}, 30s);
      ++num_met;
      while (num_met < 3) std::this_thread::yield();
    });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(num_met, 3);
}

}  // namespace
}  // namespace seqccl::test
