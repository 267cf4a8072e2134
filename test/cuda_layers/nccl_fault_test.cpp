// nccl_fault_test.cpp - what goes wrong in NCCL or on a device ends with the class of the error and the rank to blame, on every rank.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "api/softmax_cases.hpp"
#include "cuda_layers/one_layer.hpp"

namespace seqccl::test {
namespace {

using namespace std::chrono_literals;
const std::chrono::milliseconds short_timeout(is_sanitized ? 6000 : 1500);  // long enough for all to have come to the first operation

struct Outcome {
  std::vector<Thrown> of_rank;
  Outcome(int num_ranks, const std::function<void(Communicator&, Thrown&)>& body, std::chrono::nanoseconds timeout) {
    of_rank.resize(static_cast<std::size_t>(num_ranks));
    try {
      run_ranks(num_ranks, [&](Communicator& comm) { body(comm, of_rank[static_cast<std::size_t>(comm.rank())]); }, {.timeout = timeout});
    } catch (const Error&) {  // the ranks' own are looked at
    }
  }
  void expect(std::optional<ErrorKind> kind, const std::vector<Rank>& culprits, const std::string& words = "") const {
    for (std::size_t rank = 0; rank < of_rank.size(); ++rank) {
      if (of_rank[rank].text == "left out") continue;
      EXPECT_EQ(of_rank[rank].kind, kind) << "rank " << rank << ": " << of_rank[rank].text;
      EXPECT_EQ(of_rank[rank].culprits, culprits) << "rank " << rank << ": " << of_rank[rank].text;
      EXPECT_NE(of_rank[rank].text.find(words), std::string::npos) << "rank " << rank << ": " << of_rank[rank].text;
    }
    EXPECT_EQ(nccl_world().violations, "");
  }
};

/// A layer that runs until something ends it: enqueues, waits for its stream as a program would, and looks. `num_runs` at most.
Outcome run_layers(int num_ranks, Method method, const std::function<void()>& harm, int num_runs = 4,
                   std::chrono::nanoseconds timeout = short_timeout, cuda::DeviceOptions device = {.watch_interval = 5ms}) {
  begin(1);
  const MakeNccl make(num_ranks, 1, device);
  harm();
  return Outcome(
      num_ranks,
      [&](Communicator& comm, Thrown& thrown) {
        thrown = error_of([&] {
          const auto place = make(comm);
          OneLayer layer(ring_spec(num_ranks, method), comm, *place);
          for (int run = 0; run < num_runs; ++run) {
            layer.forward_and_look(comm);
          }
        });
      },
      timeout);
}

TEST(CudaNcclFaults, WithoutOneAllIsWell) {
  for (const int num_ranks : {1, 2, 4})
    run_layers(
        num_ranks, Method::ring, [] {}, 4, 100s)
        .expect(std::nullopt, {}, "nothing");
}

/// The group of one rank never ends on its device: all wait for each other, which is all that can be told; nobody waits for ever.
TEST(CudaNcclFaults, AGroupThatHangsOnTheDeviceIsAStall) {
  for (const int num_ranks : {2, 4}) {
    for (const int victim : {0, 1}) {
      const Outcome outcome = run_layers(num_ranks, Method::ring, [&] {
        nccl_world().hangs = [victim](int rank, std::uint64_t group) { return rank == victim && group == 1; };
      });
      for (const Thrown& thrown : outcome.of_rank) {
        EXPECT_EQ(thrown.kind, ErrorKind::stalled) << thrown.text;
        EXPECT_NE(std::find(thrown.culprits.begin(), thrown.culprits.end(), victim), thrown.culprits.end()) << thrown.text;
        EXPECT_NE(thrown.text.find("on the device"), std::string::npos) << thrown.text;
      }
      EXPECT_EQ(nccl_world().violations, "");
    }
  }
}

TEST(CudaNcclFaults, AnErrorOfNcclOnOneRankIsThatRanks) {
  for (const nccl::Result result : {nccl::system_error, nccl::unhandled_cuda_error, nccl::internal_error}) {
    const Outcome outcome = run_layers(
        3, Method::ring,
        [&] {
          nccl_world().async_error = [result](int rank, std::uint64_t group) { return rank == 2 && group == 2 ? result : nccl::success; };
        },
        4, 100s);
    outcome.expect(ErrorKind::local, {2}, "the stand-in's last word");
  }
}

TEST(CudaNcclFaults, AGroupThatCannotBeLaunchedIsThatRanks) {
  const Outcome outcome = run_layers(
      3, Method::token_ring,
      [&] {
        nccl_world().group_result = [](int rank, std::uint64_t group) {
          return rank == 1 && group == 1 ? nccl::internal_error : nccl::success;
        };
      },
      4, 100s);
  outcome.expect(ErrorKind::local, {1}, "internal error");
}

/// NCCL says that a peer has gone, not which: the ranks on the host know who left.
TEST(CudaNcclFaults, AnErrorOfAPeerIsNamedByTheHost) {
  begin(1);
  const MakeNccl make(3, 1, {.watch_interval = 5ms});
  nccl_world().async_error = [](int rank, std::uint64_t group) { return rank != 1 && group == 2 ? nccl::remote_error : nccl::success; };
  std::atomic<bool> has_left{false};
  const Outcome outcome(
      3,
      [&](Communicator& comm, Thrown& thrown) {
        if (comm.rank() == 1) {
          const auto place = make(comm);
          OneLayer layer(ring_spec(3), comm, *place);
          layer.forward();
          place->finish();
          thrown.text = "left out";
          has_left = true;
          return;
        }
        thrown = error_of([&] {
          const auto place = make(comm);
          OneLayer layer(ring_spec(3), comm, *place);
          layer.forward();
          place->finish();
          while (!has_left) std::this_thread::yield();
          layer.forward_and_look(comm);
        });
      },
      100s);
  outcome.expect(ErrorKind::dead, {1});
}

TEST(CudaNcclFaults, ARankThatDoesNotCallIsNamed) {
  begin(1);
  const MakeNccl make(4, 1, {.watch_interval = 5ms});
  std::atomic<int> num_done{0};
  const Outcome outcome(
      4,
      [&](Communicator& comm, Thrown& thrown) {
        thrown = error_of([&] {
          const auto place = make(comm);
          OneLayer layer(ring_spec(4), comm, *place);
          layer.forward();
          place->finish();
          if (comm.rank() == 2) {
            while (num_done < 3) std::this_thread::yield();
          } else {
            layer.forward();
            layer.wait();
          }
          comm.check();
        });
        ++num_done;
      },
      short_timeout);
  outcome.expect(ErrorKind::stalled, {2}, "operation 2 not called");
}

TEST(CudaNcclFaults, ARankThatCallsSomethingElseIsNamed) {
  begin(1);
  const MakeNccl make(3, 1, {.watch_interval = 5ms});
  const Outcome outcome(
      3,
      [&](Communicator& comm, Thrown& thrown) {
        thrown = error_of([&] {
          const auto place = make(comm);
          OneLayer layer(ring_spec(3, comm.rank() == 1 ? Method::head_swap : Method::ring), comm, *place);
          layer.forward();
          layer.wait();
          for (;;) {  // a rank may have got all its messages, of the wrong operation
            comm.check();
            std::this_thread::sleep_for(1ms);
          }
        });
      },
      100s);  // noticed long before
  for (const Thrown& thrown : outcome.of_rank) {
    EXPECT_EQ(thrown.kind, ErrorKind::mismatched) << thrown.text;
    EXPECT_EQ(thrown.culprits, std::vector<Rank>{1}) << thrown.text;
  }
}

/// Not an operation of ours: the caller's own work, before it on the stream, takes for ever.
TEST(CudaNcclFaults, ADeviceThatDoesNotComeToTheOperationIsNamed) {
  begin(1);
  const MakeNccl make(2, 1, {.watch_interval = 5ms});
  std::atomic<int> num_done{0};
  const Outcome outcome(
      2,
      [&](Communicator& comm, Thrown& thrown) {
        thrown = error_of([&] {
          const auto place = make(comm);
          const cudaStream_t stream = dynamic_cast<OnDevice&>(*place).stream();
          OneLayer layer(ring_spec(2), comm, *place);
          layer.forward();
          place->finish();
          if (comm.rank() == 1) {
            standin::Runtime& r = standin::runtime();
            const std::lock_guard lock(r.mutex);
            r.enqueue(*r.stream(stream), "a kernel that does not end", [&] { return num_done > 0 ? cudaSuccess : cudaErrorNotReady; });
          }
          layer.forward();
          if (comm.rank() == 1) {
            while (num_done == 0) std::this_thread::yield();
          }
          require(cudaStreamSynchronize(stream), "wait");
          comm.check();
        });
        ++num_done;
      },
      short_timeout);
  outcome.expect(ErrorKind::stalled, {1}, "the device has not come to it");
}

TEST(CudaNcclFaults, AGroupThatNcclDoesNotTakeOverEndsInTime) {
  const Outcome outcome = run_layers(
      2, Method::ring, [&] { nccl_world().never_launches = [](int rank, std::uint64_t group) { return rank == 0 && group == 2; }; });
  for (const Thrown& thrown : outcome.of_rank) EXPECT_EQ(thrown.kind, ErrorKind::stalled) << thrown.text;
}

TEST(CudaNcclFaults, AnAbortEndsWhatIsOnEveryDevice) {
  begin(1);
  const MakeNccl make(3, 1, {.watch_interval = 5ms});
  nccl_world().hangs = [](int, std::uint64_t group) { return group == 1; };
  std::atomic<int> num_enqueued{0};
  const Outcome outcome(
      3,
      [&](Communicator& comm, Thrown& thrown) {
        thrown = error_of([&] {
          const auto place = make(comm);
          OneLayer layer(ring_spec(3), comm, *place);
          layer.forward();
          ++num_enqueued;
          while (num_enqueued < 3) std::this_thread::yield();
          if (comm.rank() == 2) comm.abort("enough");
          layer.wait_and_look(comm);
        });
      },
      100s);
  outcome.expect(ErrorKind::local, {2}, "enough");
}

TEST(CudaNcclFaults, TheErrorComesToTheCallback) {
  std::mutex mutex;
  std::vector<std::vector<Rank>> told;
  const Outcome outcome = run_layers(2, Method::ring,
                                     [&] {
                                       nccl_world().async_error = [](int rank, std::uint64_t group) {
                                         return rank == 1 && group == 0 ? nccl::system_error : nccl::success;
                                       };
                                     },
                                     4, 100s, {.watch_interval = 5ms, .on_error = [&](const Error& error) {
                                                 const std::lock_guard lock(mutex);
                                                 told.push_back(error.culprits());
                                               }});
  outcome.expect(ErrorKind::local, {1});
  EXPECT_LE(told.size(), 2U);  // once on a rank, if its own call was not first
  for (const auto& culprits : told) EXPECT_EQ(culprits, std::vector<Rank>{1});
}

TEST(CudaNcclFaults, ARankThatDoesNotComeToTheMeetingIsNamed) {
  begin(1);
  const MakeNccl make(3, 1);
  std::atomic<int> num_done{0};
  const Outcome outcome(
      3,
      [&](Communicator& comm, Thrown& thrown) {
        if (comm.rank() == 0) {
          while (num_done < 2) std::this_thread::yield();
          thrown.text = "left out";
          return;
        }
        thrown = error_of([&] { (void)make(comm); });
        ++num_done;
      },
      short_timeout);
  outcome.expect(ErrorKind::stalled, {0}, "has not come to nccl_transport");
}

/// The others go on with a new communicator, and NCCL's of their own.
TEST(CudaNcclFaults, SurvivorsShrinkAndGoOn) {
  begin(1);
  const MakeNccl make(4, 1, {.watch_interval = 5ms});
  const Outcome outcome(
      4,
      [&](Communicator& comm, Thrown& thrown) {
        const Rank rank = comm.rank();
        thrown = error_of([&] {
          {
            const auto place = make(comm);
            OneLayer layer(ring_spec(4), comm, *place);
            layer.forward();
            place->finish();
            if (rank == 3) return;
            const Thrown first = error_of([&] { layer.forward_and_look(comm); });
            EXPECT_EQ(first.kind, ErrorKind::dead) << first.text;
            EXPECT_EQ(first.culprits, std::vector<Rank>{3}) << first.text;
          }
          comm = comm.shrink();
          EXPECT_EQ(comm.size(), 3);
          const auto place = make(comm);
          OneLayer layer(ring_spec(3), comm, *place);
          layer.forward();
          place->finish();
        });
        if (rank == 3) thrown.text = "left out";
      },
      short_timeout);
  outcome.expect(std::nullopt, {}, "nothing");
}

}  // namespace
}  // namespace seqccl::test
