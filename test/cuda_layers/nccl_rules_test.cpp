// nccl_rules_test.cpp - what the stand-in for libnccl forbids, each rule with a program that breaks it.
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <functional>
#include <thread>

#include "cuda/device.hpp"
#include "cuda/device_operands.hpp"
#include "cuda_layers/nccl_world.hpp"

namespace seqccl::test {
namespace {

/// Two ranks, each driven from this thread with its device current; communicators that do not block.
class NcclRules : public ::testing::Test {
 protected:
  void SetUp() override {
    begin(0);
    standin::runtime().num_devices = 2;
    nccl_world().reset(1, 0);
    library.get_unique_id(&id);
    for (int rank = 0; rank < 2; ++rank) {
      on(rank);
      nccl::Config config(library.version_code);
      config.blocking = 0;
      (void)library.comm_init_rank_config(&comms[static_cast<std::size_t>(rank)], 2, id, rank, &config);
      require(cudaStreamCreateWithFlags(&streams[static_cast<std::size_t>(rank)], cudaStreamNonBlocking), "stream");
      memory.push_back(std::make_unique<DeviceBuffer>(64));
      require(cudaMemset(memory.back()->data(), 0, 64), "cudaMemset");
    }
    for (const int rank : {0, 1}) EXPECT_EQ(state(rank), nccl::success);
  }
  void TearDown() override {
    for (nccl::Comm* const each : comms) (void)library.comm_abort(each);  // what is left of them
    on(0);
    memory.clear();
  }
  static void on(int rank) { require(cudaSetDevice(rank), "cudaSetDevice"); }
  [[nodiscard]] nccl::Comm* comm(int rank) const { return comms[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] cudaStream_t stream(int rank) const { return streams[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] void* data(int rank) const { return memory[static_cast<std::size_t>(rank)]->data(); }
  [[nodiscard]] nccl::Result state(int rank) const {
    nccl::Result result{};
    (void)library.comm_get_async_error(comm(rank), &result);
    return result;
  }
  nccl::Result send(int rank, int peer, std::size_t count = 64) {
    on(rank);
    const nccl::Result result = library.send(data(rank), count, nccl::int8, peer, comm(rank), stream(rank));
    (void)state(rank);
    return result;
  }
  nccl::Result receive(int rank, int peer, std::size_t count = 64) {
    on(rank);
    const nccl::Result result = library.recv(data(rank), count, nccl::int8, peer, comm(rank), stream(rank));
    (void)state(rank);
    return result;
  }
  /// That the rule with these words was broken, and no other.
  static void expect_broken(const std::string& words) {
    EXPECT_NE(nccl_world().violations.find(words), std::string::npos) << nccl_world().violations;
    nccl_world().violations.clear();
  }

  const nccl::Library& library = (nccl_world(), nccl::library());
  nccl::UniqueId id;
  std::array<nccl::Comm*, 2> comms{};
  std::array<cudaStream_t, 2> streams{};
  std::vector<std::unique_ptr<DeviceBuffer>> memory;
};

TEST_F(NcclRules, ASendMeetsAReceiveAndBothStreamsWait) {
  on(0);
  require(cudaMemset(data(0), 7, 64), "cudaMemset");
  EXPECT_EQ(receive(1, 0), nccl::success);
  on(1);
  EXPECT_EQ(cudaStreamQuery(stream(1)), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamQuery(stream(1)), cudaErrorNotReady);
  EXPECT_EQ(send(0, 1), nccl::success);
  require(cudaStreamSynchronize(stream(1)), "wait");
  std::array<unsigned char, 64> got{};
  require(cudaMemcpy(got.data(), data(1), 64, cudaMemcpyDeviceToHost), "cudaMemcpy");
  EXPECT_EQ(got[63], 7);
  EXPECT_EQ(nccl_world().violations, "");
}

TEST_F(NcclRules, CountsMustBeTheSame) {
  (void)send(0, 1, 32);
  (void)receive(1, 0, 64);
  require(cudaStreamSynchronize(stream(1)), "wait");
  expect_broken("a send of 32 bytes meets a receive of 64");
}

TEST_F(NcclRules, TypesMustBeTheSame) {
  on(0);
  (void)library.send(data(0), 64, static_cast<nccl::DataType>(1), 1, comm(0), stream(0));
  (void)state(0);
  (void)receive(1, 0);
  require(cudaStreamSynchronize(stream(1)), "wait");
  expect_broken("a send of 64 bytes meets a receive of 64");
}

TEST_F(NcclRules, GroupsEndAsOftenAsTheyBegin) {
  EXPECT_EQ(library.group_end(), nccl::invalid_usage);
  expect_broken("ncclGroupEnd without ncclGroupStart");
}

TEST_F(NcclRules, NothingIsLaunchedBeforeTheOutermostGroupEnds) {
  on(0);
  library.group_start();
  library.group_start();
  EXPECT_EQ(send(0, 1), nccl::success);
  library.group_end();
  EXPECT_EQ(nccl_world().num_groups, 0U);
  library.group_end();
  EXPECT_EQ(nccl_world().num_groups, 1U);
}

TEST_F(NcclRules, AMessageToOneselfMeetsInItsGroup) {
  EXPECT_EQ(send(0, 0), nccl::invalid_usage);
  expect_broken("a send to itself without a receive in its group");
}

TEST_F(NcclRules, PeersAreRanks) {
  EXPECT_EQ(send(0, 2), nccl::invalid_argument);
  expect_broken("peer 2");
}

TEST_F(NcclRules, AStreamIsOfTheDeviceOfItsCommunicator) {
  on(0);
  EXPECT_EQ(library.send(data(0), 64, nccl::int8, 1, comm(0), stream(1)), nccl::invalid_argument);
  expect_broken("a stream of another device");
  on(1);
  EXPECT_EQ(library.send(data(0), 64, nccl::int8, 1, comm(0), stream(0)), nccl::invalid_argument);
  expect_broken("a stream of another device");
}

TEST_F(NcclRules, MessagesAreInDeviceMemory) {
  EXPECT_EQ(send(0, 1, 65), nccl::invalid_argument);
  expect_broken("outside of device memory");
}

TEST_F(NcclRules, ACommunicatorInProgressIsOnlyAsked) {
  nccl_world().never_launches = [](int, std::uint64_t) { return true; };
  EXPECT_EQ(send(0, 1), nccl::in_progress);
  EXPECT_EQ(state(0), nccl::in_progress);
  EXPECT_EQ(send(0, 1), nccl::invalid_usage);
  expect_broken("in progress");
  EXPECT_EQ(library.comm_destroy(comm(0)), nccl::invalid_usage);
  expect_broken("operations outstanding");
}

TEST_F(NcclRules, NothingAfterTheEnd) {
  EXPECT_EQ(library.comm_abort(comm(0)), nccl::success);
  EXPECT_EQ(send(0, 1), nccl::invalid_usage);
  expect_broken("a message on a communicator that has ended");
  EXPECT_EQ(library.comm_abort(comm(0)), nccl::invalid_usage);
  expect_broken("has ended");
  EXPECT_EQ(library.comm_destroy(comm(0)), nccl::invalid_usage);
  expect_broken("has ended");
}

TEST_F(NcclRules, NothingIsDestroyedThatIsStillRunning) {
  (void)send(0, 1);
  EXPECT_EQ(library.comm_destroy(comm(0)), nccl::invalid_usage);
  expect_broken("operations outstanding");
  nccl::Comm* child = nullptr;
  EXPECT_EQ(library.comm_split(comm(0), 0, 0, &child, nullptr), nccl::invalid_usage);
  expect_broken("outstanding");
}

TEST_F(NcclRules, AnAbortEndsWhatIsOnTheDeviceHereOnly) {
  (void)receive(0, 1);
  (void)receive(1, 0);
  on(0);
  EXPECT_EQ(cudaStreamQuery(stream(0)), cudaErrorNotReady);
  EXPECT_EQ(library.comm_abort(comm(0)), nccl::success);
  require(cudaStreamSynchronize(stream(0)), "wait");
  on(1);
  EXPECT_EQ(cudaStreamQuery(stream(1)), cudaErrorNotReady);
  EXPECT_EQ(library.comm_abort(comm(1)), nccl::success);
  require(cudaStreamSynchronize(stream(1)), "wait");
}

TEST_F(NcclRules, GroupsOfOneCommunicatorAreOrderedOnTheDevice) {
  on(0);
  cudaStream_t other = nullptr;
  require(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), "stream");
  (void)send(0, 1);
  (void)library.send(data(0), 64, nccl::int8, 1, comm(0), other);
  (void)state(0);
  (void)cudaStreamQuery(stream(0)), (void)cudaStreamQuery(other);
  (void)cudaStreamQuery(stream(0)), (void)cudaStreamQuery(other);
  expect_broken("two groups of a communicator run at once");
}

TEST_F(NcclRules, ARankIsInACommunicatorOnce) {
  nccl::UniqueId another;
  library.get_unique_id(&another);
  nccl::Comm* made = nullptr;
  nccl::Config config(library.version_code);
  config.blocking = 0;
  on(0);
  EXPECT_EQ(library.comm_init_rank_config(&made, 3, another, 0, &config), nccl::in_progress);
  EXPECT_EQ(library.comm_init_rank_config(&made, 3, another, 1, &config), nccl::invalid_usage);
  expect_broken("on the same device");
  on(1);
  EXPECT_EQ(library.comm_init_rank_config(&made, 3, another, 0, &config), nccl::invalid_usage);
  expect_broken("has come twice");
  EXPECT_EQ(library.comm_init_rank_config(&made, 2, another, 1, &config), nccl::invalid_argument);
  expect_broken("disagree about their number");
  EXPECT_EQ(library.comm_init_rank_config(&made, 2, nccl::UniqueId{}, 1, &config), nccl::invalid_argument);
  expect_broken("an id that ncclGetUniqueId has not given");
  config.magic = 0;
  EXPECT_EQ(library.comm_init_rank_config(&made, 3, another, 1, &config), nccl::invalid_argument);
  expect_broken("not initialised");
}

/// The rules of the CUDA runtime about devices (CUDA programming guide, multi-device system).
TEST_F(NcclRules, StreamsAndEventsBelongToDevices) {
  on(1);
  cudaEvent_t event = nullptr;
  require(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  EXPECT_EQ(cudaEventRecord(event, stream(0)), cudaErrorInvalidResourceHandle);
  require(cudaEventRecord(event, stream(1)), "record");
  require(cudaStreamWaitEvent(stream(0), event, 0), "a stream may wait for another device's event");
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  (void)cudaGetLastError();
}

/// Another thread's capture in the global mode forbids questions, unless this thread has taken another mode.
TEST_F(NcclRules, AQuestionBreaksAnotherThreadsCapture) {
  on(0);
  cudaGraph_t graph = nullptr;
  cudaEvent_t event = nullptr;
  require(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  require(cudaEventRecord(event, stream(0)), "record");
  for (const bool is_careful : {true, false}) {
    require(cudaStreamBeginCapture(stream(0), cudaStreamCaptureModeGlobal), "begin");
    cudaError_t asked = cudaSuccess;
    std::thread([&] {
      cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;
      if (is_careful) require(cudaThreadExchangeStreamCaptureMode(&mode), "mode");
      asked = cudaEventQuery(event);
    }).join();
    if (is_careful)
      EXPECT_NE(asked, cudaErrorStreamCaptureUnsupported);
    else
      EXPECT_EQ(asked, cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(cudaStreamEndCapture(stream(0), &graph), is_careful ? cudaSuccess : cudaErrorStreamCaptureInvalidated);
    cudaGraphDestroy(graph);
  }
}

}  // namespace
}  // namespace seqccl::test
