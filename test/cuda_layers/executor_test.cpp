// executor_test.cpp - how plans are enqueued: events, nothing that waits, graphs, movement, what is refused, what a lost event does.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <set>
#include <thread>

#include "api/softmax_cases.hpp"
#include "cuda_layers/one_layer.hpp"
#include "seqccl/log.hpp"

namespace seqccl::test {
namespace {

/// Waits that no other path through lanes and clocks implies, and the steps that they are for, by the definition.
struct Crossings {
  std::uint64_t waits = 0, records = 0, extra_lanes = 0;
  explicit Crossings(const Schedule& schedule) {
    const std::size_t num_steps = schedule.steps.size();
    std::vector<std::set<std::size_t>> before(num_steps);  // all steps that are done when it begins
    std::vector<std::vector<std::size_t>> of_lane(num_lanes);
    std::set<std::size_t> awaited;
    for (std::size_t index = 0; index < num_steps; ++index) {
      const Step& step = schedule.steps[index];
      const auto own = static_cast<std::size_t>(step.lane);
      std::vector<std::size_t> direct;
      if (!of_lane[own].empty()) direct.push_back(of_lane[own].back());
      for (std::size_t lane = 0; lane < num_lanes; ++lane)
        if (lane != own && step.after[lane] > 0) direct.push_back(of_lane[lane][step.after[lane] - 1]);
      for (const std::size_t from : direct) {
        const bool implied =
            std::any_of(direct.begin(), direct.end(), [&](std::size_t other) { return other != from && before[other].count(from) > 0; });
        if (schedule.steps[from].lane != step.lane && !implied) {
          ++waits;
          awaited.insert(from);
        }
        before[index].insert(from);
        before[index].insert(before[from].begin(), before[from].end());
      }
      of_lane[own].push_back(index);
    }
    records = awaited.size();
    for (std::size_t lane = 1; lane < num_lanes; ++lane) extra_lanes += of_lane[lane].empty() ? 0 : 1;
  }
};

TEST(CudaExecutor, RecordsAndWaitsAreThoseOfTheClocksAndTheHostNeverWaits) {
  for (const Method method : all_methods()) {
    for (const int num_ranks : {1, 2, 4}) {
      begin(1);
      const AttentionSpec spec = ring_spec(num_ranks, method);
      const MakeDevice make(num_ranks);
      std::atomic<int> at_gate{0};
      std::atomic<std::uint64_t> host_waits{0};
      run_ranks(num_ranks, [&](Communicator& comm) {
        const auto place = make(comm);
        OneLayer layer(spec, comm, *place);
        layer.forward();  // makes the plan
        layer.forward();
        const cuda::DeviceCounts got = cuda::last_counts(comm);
        const Crossings want(entry_of(method).forward(spec, comm.rank(), {}));
        EXPECT_EQ(got.event_records, want.records + (want.extra_lanes > 0 ? 1 : 0) + want.extra_lanes) << name(method);
        EXPECT_EQ(got.event_waits, want.waits + 2 * want.extra_lanes) << name(method);
        // All have made their plans: from here on nobody waits for the device.
        ++at_gate;
        while (at_gate < num_ranks) std::this_thread::yield();
        host_waits = standin::runtime().num_host_waits;
        ++at_gate;
        while (at_gate < 2 * num_ranks) std::this_thread::yield();
        layer.forward();
        ++at_gate;
        while (at_gate < 3 * num_ranks) std::this_thread::yield();
        EXPECT_EQ(standin::runtime().num_host_waits, host_waits);
        ++at_gate;
        while (at_gate < 4 * num_ranks) std::this_thread::yield();
        place->finish();
      });
      EXPECT_EQ(reports(), "");
    }
  }
}

TEST(CudaExecutor, OneRankIsCapturedIntoAGraphAndReplaysTheSameBits) {
  begin(2);
  const AttentionSpec spec = ring_spec(1);
  const MakeDevice make(1);
  run_ranks(1, [&](Communicator& comm) {
    const auto place = make(comm);
    OneLayer layer(spec, comm, *place);
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    cuda::set_stream(comm, stream);
    (void)place->in(layer.q.view()), (void)place->in(layer.k.view()), (void)place->in(layer.v.view());
    (void)place->out(layer.out.view()), (void)place->out(layer.lse.view());
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin");
    try {
      layer.forward();
      ADD_FAILURE() << "a first run was captured";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument);
      EXPECT_NE(std::string(error.what()).find("want one run before"), std::string::npos) << error.what();
    }
    require(cudaStreamEndCapture(stream, &graph), "end");
    cudaGraphDestroy(graph);
    layer.forward();
    require(cudaStreamSynchronize(stream), "wait");
    place->finish();
    const HostTensor eager = layer.out;
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin");
    layer.forward();
    require(cudaStreamEndCapture(stream, &graph), "end");
    require(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
    require(cudaGraphLaunch(executable, stream), "launch");
    require(cudaStreamSynchronize(stream), "wait");
    place->finish();
    EXPECT_EQ(layer.out.bytes, eager.bytes);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  });
  EXPECT_EQ(reports(), "");
}

/// All outputs of two runs of a ring of 3 ranks, the second over the first's workspace; "" where the device found something wrong.
/// `drops(waits on rank 0's own stream, so far; is it that stream)`: which waits for events are lost.
std::string ring_results(std::uint64_t seed, const std::function<bool(int, bool)>& drops = {}, int* num_waits = nullptr) {
  begin(seed);
  constexpr int num_ranks = 3;
  const MakeDevice make(num_ranks);
  const AttentionSpec spec = ring_spec(num_ranks);
  std::array<std::string, num_ranks> of_rank;
  std::atomic<const void*> first_stream{nullptr};
  int count = 0;
  standin::runtime().drops_wait = [&](const void* stream) {
    const bool is_first = stream == first_stream;
    const bool is_dropped = drops && drops(count, is_first);
    if (is_first) ++count;
    return is_dropped;
  };
  run_ranks(num_ranks, [&](Communicator& comm) {
    const auto place = make(comm);
    if (comm.rank() == 0) first_stream = dynamic_cast<const OnDevice&>(*place).stream();
    OneLayer layer(spec, comm, *place);
    layer.forward();
    layer.forward_with(layer.other);
    place->finish();
    of_rank[static_cast<std::size_t>(comm.rank())].assign(reinterpret_cast<const char*>(layer.out.bytes.data()), layer.out.bytes.size());
  });
  standin::runtime().drops_wait = nullptr;
  if (num_waits != nullptr) *num_waits = count;
  std::string all;
  for (const std::string& one : of_rank) all += one;
  return reports().empty() ? all : "";
}

TEST(CudaExecutor, ALostEventIsFound) {
  int num_waits = 0;
  const std::string right = ring_results(0, {}, &num_waits);
  ASSERT_NE(right, "");
  for (const std::uint64_t seed : {1, 2, 3}) EXPECT_EQ(ring_results(seed), right) << "seed " << seed;
  const auto is_found = [&](const std::function<bool(int, bool)>& drops) {
    for (std::uint64_t seed = 1; seed <= 20; ++seed)
      if (ring_results(seed, drops) != right) return true;
    return false;
  };
  // Rank 0 attends to the blocks of two peers, each of which it waits for; its last wait, the join, is for the same step again.
  ASSERT_EQ(num_waits, 2 * 3);
  for (const int lost : {0, 1, 3, 4})
    EXPECT_TRUE(is_found([&](int wait, bool is_first) { return is_first && wait == lost; })) << "wait " << lost;
  EXPECT_TRUE(is_found([](int, bool is_first) { return !is_first; })) << "no other stream waits";
}

TEST(CudaExecutor, MovementPrimitivesMoveTheSameBytes) {
  for (const auto& [num_ranks, is_nccl] :
       {std::pair(1, false), {2, false}, {3, false}, {4, false}, {2, true}, {3, true}, {4, true}, {8, true}}) {
    begin(1);
    const MakePlace make = is_nccl ? MakePlace(MakeNccl(num_ranks)) : MakePlace(MakeDevice(num_ranks));
    const Partition partition = Partition::zigzag(24, num_ranks);
    const HostTensor whole = random_tensor(bf16, {1, 24, 4, 8}, 3);
    run_ranks(num_ranks, [&, num_ranks = num_ranks](Communicator& comm) {
      HostTensor mine(bf16, {1, partition.tokens_on(comm.rank()), 4, 8}), gathered(bf16, {1, 24, 4, 8}), back = mine;
      partition.shard(whole.view(), comm.rank(), mine.view());
      const auto place = make(comm);
      HeadSwap swap(comm, {.heads = 4, .head_dim = 8, .dtype = bf16, .partition = partition});
      HostTensor heads(bf16, {1, 24, swap.heads_of(comm.rank()).count, 8});
      swap.to_heads(place->in(mine.view()), place->out(heads.view()));
      swap.to_tokens(place->in(heads.view()), place->out(back.view()));
      SequenceGather gather(comm, {.heads = 4, .head_dim = 8, .dtype = bf16, .partition = partition});
      gather.gather(place->in(mine.view()), place->out(gathered.view()));
      place->finish();
      EXPECT_EQ(back.bytes, mine.bytes) << "rank " << comm.rank() << " of " << num_ranks;
      EXPECT_EQ(gathered.bytes, whole.bytes) << "rank " << comm.rank() << " of " << num_ranks;
    });
    EXPECT_EQ(reports(), "");
    EXPECT_EQ(nccl_world().violations, "");
  }
}

TEST(CudaExecutor, OneConnectionToTheDeviceIsWarnedOf) {
  begin(0);
  std::string lines;
  set_log_sink([&](std::string_view line) { lines += line; });
  ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1", 1);
  const MakeDevice make(1);
  run_ranks(1, [&](Communicator& comm) { (void)make(comm); });
  EXPECT_NE(lines.find("CUDA_DEVICE_MAX_CONNECTIONS is 1"), std::string::npos) << lines;
  ::unsetenv("CUDA_DEVICE_MAX_CONNECTIONS");
  lines.clear();
  const MakeDevice again(1);
  run_ranks(1, [&](Communicator& comm) { (void)again(comm); });
  EXPECT_EQ(lines, "");
  set_log_sink({});
}

TEST(CudaExecutor, WhatDoesNotFitIsRefused) {
  begin(0);
  auto ends = cuda::shared_device_transports(2);
  run_ranks(2, [&](Communicator& comm) {
    if (comm.rank() == 1) return;
    EXPECT_EQ(error_of([&] { cuda::use_device(comm, std::move(ends[1])); }).text, "use_device: data is of rank 1 of 2, want rank 0 of 2");
    EXPECT_EQ(error_of([&] { cuda::use_device(comm, nullptr); }).text, "use_device: data is null, want a DeviceTransport of rank 0");
    EXPECT_EQ(error_of([&] { cuda::set_stream(comm, nullptr); }).text,
              "set_stream: the communicator is on the host (threads), want use_device before");
    cuda::use_device(comm, std::move(ends[0]));
    EXPECT_NE(error_of([&] { cuda::use_device(comm, nullptr); }).text.find("is on a device already"), std::string::npos);
    const DecodeSpec decode{.q_heads = 2, .head_dim = 8};
    EXPECT_NE(error_of([&] { Decode step(comm, decode); }).text.find("caches on devices are not supported yet"), std::string::npos);
  });
  EXPECT_NE(error_of([] { (void)cuda::shared_device_transports(0); }).text.find("num_ranks is 0"), std::string::npos);
}

/// A rank that leaves, one that never comes.
TEST(CudaExecutor, ARankThatDoesNotComeIsNamed) {
  for (const bool leaves : {true, false}) {
    begin(0);
    auto ends = cuda::shared_device_transports(2, leaves ? std::chrono::seconds(100) : std::chrono::milliseconds(50));
    const AttentionSpec spec = ring_spec(2);
    std::atomic<bool> over{false};
    const auto run = [&] {
      run_ranks(2, [&](Communicator& comm) {
        if (comm.rank() == 1) {
          if (leaves) ends[1].reset();
          while (!over) std::this_thread::yield();
          return;
        }
        OnDevice place(comm, std::move(ends[0]), {.watch_interval = {}});
        OneLayer layer(spec, comm, place);
        try {
          layer.forward();
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), leaves ? ErrorKind::dead : ErrorKind::stalled) << error.what();
          EXPECT_EQ(error.culprits(), std::vector<Rank>{1});
          over = true;
          throw;
        }
        over = true;
      });
    };
    EXPECT_THROW(run(), Error);
  }
}

}  // namespace
}  // namespace seqccl::test
