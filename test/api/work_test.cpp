// work_test.cpp - started operations: overlap, order, errors, timeouts, lifetimes, and what is refused meanwhile.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/work.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "api/movement_support.hpp"
#include "seqccl/sequence_gather.hpp"

namespace seqccl::test {
namespace {

using std::chrono::milliseconds;

/// One gather of known numbers, with its tensors.
struct KnownGather {
  SequenceGatherSpec spec;
  HostTensor whole, mine, got;
  SequenceGather gather;

  explicit KnownGather(Communicator& comm, std::int64_t num_tokens = 23)
      : spec{.heads = 2, .head_dim = 4, .partition = Partition::zigzag(num_tokens, comm.size())},
        whole(coded(f32, {1, num_tokens, 2, 4})),
        mine(shard_of(whole, spec.partition, comm.rank())),
        got(f32, {1, num_tokens, 2, 4}),
        gather(comm, spec) {}
  void run() { gather.gather(std::as_const(mine).view(), got.view()); }
  [[nodiscard]] bool right() const { return got.bytes == whole.bytes; }
};

/// Closed until open() is called: shows what goes on meanwhile, without a clock.
class Gate {
 public:
  void open() { promise_.set_value(); }
  void pass() const { future_.wait(); }

 private:
  std::promise<void> promise_;
  std::shared_future<void> future_ = promise_.get_future().share();
};

TEST(Work, TheCallerGoesOnWhileTheOperationWaits) {
  for (const int num_ranks : ranks_of)
    on_ranks(num_ranks, [](Communicator& comm) {
      KnownGather known(comm);
      Gate gate;
      std::thread::id worker;
      Work work = comm.start([&] {
        gate.pass();
        worker = std::this_thread::get_id();
        known.run();
      });
      EXPECT_FALSE(work.test());
      EXPECT_FALSE(work.wait(milliseconds(1)));
      EXPECT_FALSE(work.wait(std::chrono::steady_clock::now() - milliseconds(1)));
      EXPECT_FALSE(work.wait(-milliseconds(1)));
      EXPECT_FALSE(known.right());
      gate.open();
      work.wait();
      EXPECT_TRUE(known.right());
      EXPECT_TRUE(work.test());
      EXPECT_TRUE(work.wait(std::chrono::nanoseconds::max()));
      EXPECT_NE(worker, std::this_thread::get_id());
      known.got.fill(0);
      known.run();  // nothing is going on any more: blocking again
      EXPECT_TRUE(known.right());
    });
}

TEST(Work, SeveralRunInTheOrderOfTheirStart) {
  for (const int num_ranks : ranks_of)
    on_ranks(num_ranks, [](Communicator& comm) {
      constexpr int count = 40;
      const SequenceGatherSpec spec{.heads = 1, .head_dim = 8, .partition = Partition::contiguous(4 * comm.size() + 1, comm.size())};
      const std::int64_t N = spec.partition.num_tokens(), T = spec.partition.tokens_on(comm.rank());
      SequenceGather sequence(comm, spec);
      HostTensor tokens(f32, {1, T, 1, 8}), whole(f32, {1, N, 1, 8});
      tokens.fill(1);
      std::vector<int> order;
      std::vector<std::thread::id> threads;
      std::vector<Work> works;
      double scale = 1;
      for (int i = 0; i < count; ++i) {
        // Each operation's input is the one before's output: x -> sum over ranks of x, halved.
        works.push_back(comm.start([&, i] {
          if ((i + comm.rank()) % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
          order.push_back(i);
          threads.push_back(std::this_thread::get_id());
          sequence.gather(std::as_const(tokens).view(), whole.view());
          sequence.reduce_scatter(std::as_const(whole).view(), tokens.view());
          for (std::int64_t j = 0; j < tokens.size(); ++j) tokens.set(j, tokens.get(j) / 2);
        }));
        scale *= comm.size() / 2.0;
      }
      works.back().wait();
      for (Work& work : works) EXPECT_TRUE(work.test());
      for (int i = 0; i < count; ++i) {
        ASSERT_EQ(order.at(static_cast<std::size_t>(i)), i);
        ASSERT_EQ(threads.at(static_cast<std::size_t>(i)), threads[0]);
      }
      for (std::int64_t j = 0; j < tokens.size(); ++j) ASSERT_NEAR(tokens.get(j) / scale, 1, 1e-5);
    });
}

TEST(Work, ErrorsOfTheOperationComeOutOfWaitAndTest) {
  for (const int num_ranks : ranks_of)
    on_ranks(num_ranks, [](Communicator& comm) {
      KnownGather known(comm);
      Work wrong = comm.start([&] { known.gather.gather(std::as_const(known.mine).view(), {}); });
      Work foreign = comm.start([] { throw std::runtime_error("no more paper"); });
      Work right = comm.start([&] { known.run(); });
      for (int i = 0; i < 2; ++i) {
        EXPECT_REFUSED("SequenceGather::gather: sequence is missing", wrong.wait());
        EXPECT_REFUSED("SequenceGather::gather: sequence is missing", wrong.test());
        EXPECT_REFUSED("SequenceGather::gather: sequence is missing", wrong.wait(milliseconds(1)));
      }
      try {
        foreign.wait();
        ADD_FAILURE() << "want an exception";
      } catch (const std::runtime_error& error) {
        EXPECT_STREQ(error.what(), "no more paper");
      }
      right.wait();  // what failed has failed alone
      EXPECT_TRUE(known.right());
      Work dropped = comm.start([] { throw std::runtime_error("nobody asks"); });
    });
}

TEST(Work, AFailedGroupEndsWhatWaitsAndWhatComesAfter) {
  for (const int num_ranks : {2, 3, 5, 8}) {
    std::atomic<int> caught{0};
    const auto body = [&](Communicator& comm) {
      KnownGather known(comm);
      const auto expect_abort = [&](auto&& call) {
        try {
          call();
          ADD_FAILURE() << "want an error";
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::local);
          EXPECT_EQ(error.culprits(), std::vector<Rank>{0});
          EXPECT_NE(std::string(error.what()).find("lunch"), std::string::npos) << error.what();
          ++caught;
        }
      };
      if (comm.rank() == 0) {
        comm.abort("lunch");
        ++caught;
        Work late = comm.start([&] { known.run(); });
        return expect_abort([&] { late.wait(); });
      }
      Work work = comm.start([&] { known.run(); }), next = comm.start([&] { known.run(); });
      expect_abort([&] { work.wait(); });
      expect_abort([&] { next.wait(); });
    };
    EXPECT_THROW(on_ranks(num_ranks, body), Error);
    EXPECT_EQ(caught, 2 * num_ranks);
  }
}

TEST(Work, WhileItGoesOnOnlyStartReachesTheCommunicator) {
  for (const int num_ranks : ranks_of)
    on_ranks(num_ranks, [](Communicator& comm) {
      KnownGather known(comm), other(comm);
      Gate gate;
      EXPECT_REFUSED("Communicator::start: operation is empty", comm.start({}));
      Work work = comm.start([&] {
        gate.pass();
        EXPECT_REFUSED("Communicator::start: called inside a started operation", comm.start([] {}));
        comm.set_num_threads(comm.num_threads());
        known.run();
      });
      EXPECT_REFUSED("Communicator: 1 started operations have not ended", other.run());
      EXPECT_REFUSED("Communicator::set_timeout: 1 started", comm.set_timeout(std::chrono::minutes(10)));
      EXPECT_REFUSED("Communicator::set_topology: 1 started", comm.set_topology({}));
      EXPECT_REFUSED("Communicator::set_num_threads: 1 started", comm.set_num_threads(1));
      EXPECT_EQ(comm.received_bytes(), std::vector<std::uint64_t>(static_cast<std::size_t>(comm.size()), 0));  // any thread, any moment
      Work next = comm.start([&] { other.run(); });
      gate.open();
      next.wait();
      EXPECT_TRUE(known.right() && other.right());
      other.got.fill(0);
      other.run();
      EXPECT_TRUE(other.right());
    });
}

TEST(Work, ItsEndOfLifeWaitsForTheOperation) {
  for (const int num_ranks : ranks_of)
    on_ranks(num_ranks, [](Communicator& comm) {
      KnownGather known(comm), other(comm);
      std::atomic<int> ended{0};
      const auto slow = [&](KnownGather& gather) {
        return [&gather, &ended] {
          std::this_thread::sleep_for(milliseconds(2));
          gather.run();
          ++ended;
        };
      };
      { const Work dropped = comm.start(slow(known)); }
      EXPECT_EQ(ended, 1);
      EXPECT_TRUE(known.right());

      Work work = comm.start(slow(known));
      work = comm.start(slow(other));  // waits for the first
      EXPECT_GE(ended, 2);
      Work moved = std::move(work);
      EXPECT_TRUE(work.test());  // NOLINT: holds nothing
      work.wait();
      moved.wait();
      EXPECT_EQ(ended, 3);
      Work& same = moved;
      moved = std::move(same);
      EXPECT_TRUE(moved.test());
      EXPECT_TRUE(other.right());
      Work nothing;
      nothing.wait();
      EXPECT_TRUE(nothing.test() && nothing.wait(milliseconds(0)));
    });
}

// A communicator goes while works are in its queue: all of them run first, and their handles can still be asked.
TEST(Work, TheCommunicatorsEndOfLifeFinishesWhatWasStarted) {
  for (const int num_ranks : ranks_of) {
    Watchdog watchdog(std::chrono::seconds(120));
    std::vector<Communicator> communicators = thread_communicators(num_ranks), replacements = thread_communicators(num_ranks);
    std::vector<std::thread> threads;
    std::atomic<int> ended{0};
    for (Rank rank = 0; rank < num_ranks; ++rank)
      threads.emplace_back([&, rank] {
        std::vector<Work> works;
        std::vector<std::unique_ptr<KnownGather>> known;
        {
          Communicator comm = std::move(communicators[static_cast<std::size_t>(rank)]);
          for (int i = 0; i < 3; ++i) known.push_back(std::make_unique<KnownGather>(comm));
          for (auto& gather : known)
            works.push_back(comm.start([&ended, one = gather.get()] {
              std::this_thread::sleep_for(milliseconds(1));
              one->run();
              ++ended;
            }));
          if (rank % 2 == 1) comm = std::move(replacements[static_cast<std::size_t>(rank)]);  // or by assignment
          if (rank % 2 == 1) {
            for (Work& work : works) EXPECT_TRUE(work.test());
          }
        }
        for (Work& work : works) EXPECT_TRUE(work.test());
        for (const auto& gather : known) EXPECT_TRUE(gather->right());
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(ended, 3 * num_ranks);
  }
}

std::size_t num_threads_of_process() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) ++count;
  return count;
}

TEST(Work, ThereIsNoThreadBeforeTheFirstStart) {
  if (!std::filesystem::exists("/proc/self/task")) return;  // no other way to count
  const std::size_t before = num_threads_of_process();
  {
    Communicator comm = std::move(thread_communicators(1)[0]);
    KnownGather known(comm);
    known.run();
    EXPECT_EQ(num_threads_of_process(), before);
    for (int i = 0; i < 3; ++i) {
      Work work = comm.start([&] { known.run(); });
      work.wait();
      EXPECT_EQ(num_threads_of_process(), before + 1);
    }
  }
  // A joined thread may stand in the list for a moment longer.
  for (int i = 0; i < 1000 && num_threads_of_process() != before; ++i) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(num_threads_of_process(), before);
}

}  // namespace
}  // namespace seqccl::test
