// nccl_test.cpp - plans over NCCL: order of groups, graphs, communicators of the caller's, what a mutation does.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <mutex>
#include <thread>

#include "api/softmax_cases.hpp"
#include "cuda_layers/one_layer.hpp"

namespace seqccl::test {
namespace {

TEST(CudaNccl, TheLibraryIsFoundAndTold) {
  (void)nccl_world();
  const TransportState state = cuda::nccl_state();
  EXPECT_TRUE(state.is_there);
  EXPECT_NE(state.text.find("NCCL 2.28.9"), std::string::npos) << state.text;
  EXPECT_NE(state.text.find(NCCL_STANDIN), std::string::npos) << state.text;
}

/// A device that runs one group at a time, in the order of launches: so does one with CUDA_DEVICE_MAX_CONNECTIONS=1, or with all its thread
/// blocks in use. If the program order of ranks could deadlock, it would here.
TEST(CudaNccl, EveryMethodRunsOnADeviceThatRunsOneGroupAtATime) {
  for (const Method method : all_methods()) {
    for (const int num_ranks : {2, 3, 4, 8}) {
      if (is_sanitized && num_ranks != 3) continue;
      begin(1);
      const MakeNccl make(num_ranks);
      nccl_world().one_at_a_time = true;
      run_ranks(num_ranks, [&](Communicator& comm) {
        const auto place = make(comm);
        OneLayer layer(ring_spec(num_ranks, method), comm, *place);
        layer.forward();
        layer.forward();
        place->finish();
      });
      EXPECT_EQ(nccl_world().violations, "") << name(method);
    }
  }
}

TEST(CudaNccl, AGraphOfSeveralRanksReplaysTheSameBits) {
  for (const int num_ranks : {1, 2, 3, 4, 8}) {
    if (is_sanitized && num_ranks != 3) continue;
    for (const Method method : {Method::ring, Method::token_ring, Method::head_swap}) {
      if ((num_ranks == 1 || num_ranks == 8) && method != Method::ring) continue;
      SCOPED_TRACE(std::string(name(method)) + " on " + std::to_string(num_ranks));
      begin(3);
      const MakeNccl make(num_ranks, 3, {.watch_interval = std::chrono::milliseconds(1)});
      run_ranks(num_ranks, [&](Communicator& comm) {
        const auto place = make(comm);
        const cudaStream_t stream = dynamic_cast<OnDevice&>(*place).stream();
        AttentionSpec spec = ring_spec(num_ranks, method);
        spec.q_heads = spec.kv_heads = 8;
        OneLayer layer(spec, comm, *place);
        layer.forward();
        place->finish();
        const HostTensor eager = layer.out;
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t executable = nullptr;
        require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin");  // the watchdogs must not break it
        layer.forward();
        std::this_thread::sleep_for(std::chrono::milliseconds(3));
        require(cudaStreamEndCapture(stream, &graph), "end");
        require(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
        layer.forward_with(layer.other);
        for (int replay = 0; replay < 2; ++replay) {
          require(cudaGraphLaunch(executable, stream), "launch");
          place->finish();
          EXPECT_EQ(layer.out.bytes, eager.bytes) << "replay " << replay;
        }
        comm.check();
        cudaGraphExecDestroy(executable);
        cudaGraphDestroy(graph);
      });
      EXPECT_EQ(reports(), "");
      EXPECT_EQ(nccl_world().violations, "");
    }
  }
}

TEST(CudaNccl, TheCallersCommunicatorIsSplitAndLeftAlone) {
  constexpr int num_ranks = 3;
  begin(2);
  MakeNccl make(num_ranks, 2);
  const nccl::Library& library = nccl::library();
  nccl::UniqueId id;
  library.get_unique_id(&id);
  run_ranks(num_ranks, [&](Communicator& comm) {
    require(cudaSetDevice(comm.rank()), "cudaSetDevice");
    nccl::Comm* own = nullptr;
    ASSERT_EQ(library.comm_init_rank_config(&own, num_ranks, id, comm.rank(), nullptr), nccl::success);
    MakeNccl split = make;
    split.nccl_options = {.parent = reinterpret_cast<ncclComm*>(own), .num_lanes = 2};
    {
      const std::unique_ptr<Place> place = split(comm);
      OneLayer ring(ring_spec(num_ranks), comm, *place), both_ways(ring_spec(num_ranks, Method::token_ring), comm, *place);
      ring.forward();
      both_ways.forward();
      place->finish();
      comm.abort("enough");
      EXPECT_EQ(error_of([&] { comm.check(); }).kind, ErrorKind::local);
    }
    nccl::Result state{};
    EXPECT_EQ(library.comm_get_async_error(own, &state), nccl::success);
    EXPECT_EQ(state, nccl::success);
    EXPECT_EQ(library.comm_destroy(own), nccl::success);
    comm = comm.shrink();  // all have come so far; what run_ranks tells is not ours
  });
  EXPECT_EQ(nccl_world().num_splits, num_ranks * 2U);
  EXPECT_EQ(nccl_world().num_aborts, num_ranks * 2U);
  EXPECT_EQ(nccl_world().violations, "");
}

TEST(CudaNccl, WhatIsAskedForReachesNccl) {
  begin(0);
  const MakeNccl make(1, 0, {.watch_interval = {}}, {.num_lanes = 1, .fewest_blocks = 2, .most_blocks = 4, .no_blocks = true});
  run_ranks(1, [&](Communicator& comm) {
    const auto end = cuda::nccl_transport(comm, make.nccl_options);
    EXPECT_NE(end->describe().find("at most 4 thread blocks"), std::string::npos) << end->describe();
    EXPECT_NE(end->describe().find("unknown"), std::string::npos) << end->describe();
  });
  EXPECT_EQ(nccl_world().last_config.fewest_blocks, 2);
  EXPECT_EQ(nccl_world().last_config.most_blocks, 4);
  EXPECT_EQ(nccl_world().last_config.block_policy, nccl::zero_blocks);
  EXPECT_EQ(nccl_world().last_config.blocking, 0);
}

TEST(CudaNccl, WhatDoesNotFitIsRefused) {
  begin(0);
  const MakeNccl make(2, 0);
  run_ranks(2, [&](Communicator& comm) {
    const auto refused = [&](cuda::NcclOptions options) { return error_of([&] { (void)cuda::nccl_transport(comm, options); }); };
    EXPECT_EQ(refused({.num_lanes = 0}).text, "nccl_transport: num_lanes is 0, want 1 to 3");
    EXPECT_EQ(refused({.fewest_blocks = -1}).text, "nccl_transport: fewest_blocks is -1, want 0 for NCCL's choice, or more");
    EXPECT_EQ(refused({.fewest_blocks = 8, .most_blocks = 4}).text,
              "nccl_transport: fewest_blocks is 8, want at most most_blocks, which is 4");
    MakeNccl few = make;
    few.nccl_options.num_lanes = 1;
    const auto place = few(comm);
    OneLayer both_ways(ring_spec(2, Method::token_ring), comm, *place);
    const Thrown thrown = error_of([&] { both_ways.forward(); });
    EXPECT_EQ(thrown.kind, ErrorKind::argument);
    EXPECT_NE(thrown.text.find("NcclOptions::num_lanes is 1, want 2"), std::string::npos) << thrown.text;
    OneLayer ring(ring_spec(2), comm, *place);  // the communicator is as good as before
    ring.forward();
    place->finish();
  });
}

/// Two ranks on one device are what NCCL refuses: told on every rank, by NCCL's word.
TEST(CudaNccl, TwoRanksOnOneDeviceAreToldOf) {
  begin(0);
  (void)MakeNccl(2, 0);
  standin::runtime().num_devices = 1;
  const Thrown thrown = error_of([&] { run_ranks(2, [&](Communicator& comm) { (void)cuda::nccl_transport(comm); }); });
  EXPECT_EQ(thrown.kind, ErrorKind::local) << thrown.text;
  EXPECT_EQ(thrown.culprits.size(), 1U);
  EXPECT_NE(thrown.text.find("invalid usage"), std::string::npos) << thrown.text;
  EXPECT_NE(nccl_world().violations.find("same device"), std::string::npos);
}

/// All outputs of a ring of 3 ranks that runs twice; what the stand-ins have to say against it is in `said`.
std::string ring_over_nccl(std::uint64_t seed, const std::function<void()>& mutate, std::string& said,
                           std::chrono::milliseconds timeout = std::chrono::seconds(100)) {
  begin(seed);
  constexpr int num_ranks = 3;
  const MakeNccl make(num_ranks, seed, {.watch_interval = std::chrono::milliseconds(5)});
  mutate();
  std::mutex mutex;
  std::array<std::string, num_ranks> of_rank;
  try {
    run_ranks(num_ranks,
              [&](Communicator& comm) {
                const auto place = make(comm);
                OneLayer layer(ring_spec(num_ranks), comm, *place);
                layer.forward();
                layer.forward_with(layer.other);
                place->finish();
                comm.check();
                of_rank[static_cast<std::size_t>(comm.rank())].assign(reinterpret_cast<const char*>(layer.out.bytes.data()),
                                                                      layer.out.bytes.size());
              },
              {.timeout = timeout});
  } catch (const Error& error) {
    said = error.what();
  }
  said += nccl_world().violations + reports();
  return of_rank[0] + of_rank[1] + of_rank[2];
}

TEST(CudaNccl, AMutationIsFound) {
  std::string said;
  const std::string right = ring_over_nccl(
      1, [] {}, said);
  ASSERT_EQ(said, "");
  ASSERT_NE(right, "");
  const auto is_found = [&](const std::function<void()>& mutate, std::chrono::milliseconds timeout = std::chrono::seconds(100)) {
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
      std::string words;
      if (ring_over_nccl(seed, mutate, words, timeout) != right || !words.empty()) return true;
    }
    return false;
  };
  EXPECT_FALSE(is_found([] {}));
  constexpr std::chrono::milliseconds soon(1500);  // they hang
  EXPECT_TRUE(is_found([] { nccl_world().no_groups = true; }, soon)) << "messages without a group";
  const auto other_peer = [](int rank, std::uint64_t group, int peer) { return rank == 1 && group == 1 ? 2 - peer : peer; };
  EXPECT_TRUE(is_found([&] { nccl_world().other_peer = other_peer; }, soon)) << "a wrong peer";
  for (const int lost : {0, 1, 2}) {
    EXPECT_TRUE(is_found([&] {
      auto count = std::make_shared<std::atomic<int>>(0);
      standin::runtime().drops_wait = [count, lost](const void*) { return count->fetch_add(1) % 3 == lost; };
    })) << "every third wait for an event";
  }
}

}  // namespace
}  // namespace seqccl::test
