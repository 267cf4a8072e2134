// runtime_test.cpp - the stand-in for the CUDA runtime: order of work, what it refuses, graphs.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <vector>

#include "cuda/device.hpp"
#include "cuda/runtime/runtime.hpp"

namespace seqccl::test {
namespace {

class StandIn : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { begin(static_cast<std::uint64_t>(GetParam())); }
  static cudaStream_t new_stream() {
    cudaStream_t stream = nullptr;
    require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    return stream;
  }
  static cudaEvent_t new_event() {
    cudaEvent_t event = nullptr;
    require(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    return event;
  }
};

/// Appends its number to a list when it runs.
struct Note {
  std::vector<int>* list;
  int number;
};
void take_note(void* data) {
  const auto* note = static_cast<Note*>(data);
  note->list->push_back(note->number);
}

TEST_P(StandIn, AStreamIsInOrderAndNothingRunsBeforeSomebodyWaits) {
  std::vector<int> list;
  Note notes[] = {{&list, 0}, {&list, 1}, {&list, 2}};
  const cudaStream_t stream = new_stream();
  for (Note& note : notes) require(cudaLaunchHostFunc(stream, take_note, &note), "host function");
  EXPECT_TRUE(list.empty());
  require(cudaStreamSynchronize(stream), "wait");
  EXPECT_EQ(list, (std::vector<int>{0, 1, 2}));
}

TEST_P(StandIn, AnEventOrdersTwoStreams) {
  std::vector<int> list;
  Note first{&list, 0}, second{&list, 1};
  const cudaStream_t a = new_stream(), b = new_stream();
  const cudaEvent_t event = new_event();
  require(cudaLaunchHostFunc(a, take_note, &first), "host function");
  require(cudaEventRecord(event, a), "record");
  require(cudaStreamWaitEvent(b, event, 0), "wait event");
  require(cudaLaunchHostFunc(b, take_note, &second), "host function");
  require(cudaStreamSynchronize(b), "wait");
  EXPECT_EQ(list, (std::vector<int>{0, 1}));
}

/// A wait for an event that is recorded later is none: "if cudaEventRecord() has not been called, the call has no effect".
TEST_P(StandIn, AWaitForAnEventThatWasNotRecordedIsNone) {
  std::vector<int> list;
  Note note{&list, 0};
  const cudaStream_t a = new_stream(), b = new_stream();
  const cudaEvent_t event = new_event();
  require(cudaStreamWaitEvent(b, event, 0), "wait event");
  require(cudaLaunchHostFunc(b, take_note, &note), "host function");
  require(cudaEventRecord(event, a), "record");
  require(cudaStreamSynchronize(b), "wait");
  EXPECT_EQ(list, (std::vector<int>{0}));
}

TEST_P(StandIn, CopiesFromPinnedMemoryReadItWhenTheyRunAndFromOtherMemoryAtOnce) {
  const cudaStream_t stream = new_stream();
  void* pinned = nullptr;
  require(cudaMallocHost(&pinned, 4), "cudaMallocHost");
  int pageable = 1, got = 0;
  *static_cast<int*>(pinned) = 1;
  const DeviceBuffer one(4), two(4);
  require(cudaMemcpyAsync(one.data(), &pageable, 4, cudaMemcpyHostToDevice, stream), "copy");
  require(cudaMemcpyAsync(two.data(), pinned, 4, cudaMemcpyHostToDevice, stream), "copy");
  pageable = *static_cast<int*>(pinned) = 2;
  require(cudaStreamSynchronize(stream), "wait");
  require(cudaMemcpy(&got, one.data(), 4, cudaMemcpyDeviceToHost), "copy");
  EXPECT_EQ(got, 1);
  require(cudaMemcpy(&got, two.data(), 4, cudaMemcpyDefault), "copy");
  EXPECT_EQ(got, 2);
  require(cudaFreeHost(pinned), "cudaFreeHost");
}

TEST_P(StandIn, RefusesWhatADeviceRefuses) {
  const DeviceBuffer buffer(16);
  char host[32] = {};
  EXPECT_EQ(cudaMemcpy(buffer.data(), host, 17, cudaMemcpyHostToDevice), cudaErrorInvalidValue);  // beyond the allocation
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(buffer.data(), host, 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);  // the other way round
  EXPECT_EQ(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(host)), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaFreeHost(host), cudaErrorInvalidValue);
  const cudaStream_t gone = new_stream();
  require(cudaStreamDestroy(gone), "destroy");
  EXPECT_EQ(cudaStreamSynchronize(gone), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaFree(static_cast<char*>(buffer.data()) + 4), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(host, cudaFuncAttributeMaxDynamicSharedMemorySize, 1), cudaErrorInvalidDeviceFunction);
}

TEST_P(StandIn, AGraphRunsItsNodesInAnyOrderThatTheCaptureAllows) {
  std::vector<int> list;
  Note notes[] = {{&list, 0}, {&list, 1}, {&list, 2}, {&list, 3}};
  const cudaStream_t a = new_stream(), b = new_stream();
  const cudaEvent_t fork = new_event(), join = new_event();
  require(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal), "begin");
  require(cudaLaunchHostFunc(a, take_note, &notes[0]), "host function");
  require(cudaEventRecord(fork, a), "record");
  require(cudaStreamWaitEvent(b, fork, 0), "wait event");
  require(cudaLaunchHostFunc(a, take_note, &notes[1]), "host function");
  require(cudaLaunchHostFunc(b, take_note, &notes[2]), "host function");
  require(cudaEventRecord(join, b), "record");
  require(cudaStreamWaitEvent(a, join, 0), "wait event");
  require(cudaLaunchHostFunc(a, take_note, &notes[3]), "host function");
  cudaGraph_t graph = nullptr;
  require(cudaStreamEndCapture(a, &graph), "end");
  EXPECT_TRUE(list.empty());
  cudaGraphExec_t executable = nullptr;
  require(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  for (int replay = 0; replay < 2; ++replay) {
    list.clear();
    require(cudaGraphLaunch(executable, a), "launch");
    require(cudaStreamSynchronize(a), "wait");
    ASSERT_EQ(list.size(), 4U);
    EXPECT_EQ(list.front(), 0);
    EXPECT_EQ(list.back(), 3);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

TEST_P(StandIn, CaptureRules) {
  const cudaStream_t a = new_stream(), b = new_stream();
  const cudaEvent_t fork = new_event();
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal), cudaErrorStreamCaptureUnsupported);  // the default stream
  // Waiting ends a capture.
  require(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal), "begin");
  EXPECT_EQ(cudaStreamSynchronize(a), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureInvalidated);
  // A stream that joined must be joined back.
  require(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal), "begin");
  require(cudaEventRecord(fork, a), "record");
  require(cudaStreamWaitEvent(b, fork, 0), "wait event");
  std::vector<int> list;
  Note note{&list, 0};
  require(cudaLaunchHostFunc(b, take_note, &note), "host function");
  EXPECT_EQ(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureUnjoined);
  // Only the stream that began may end it.
  require(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal), "begin");
  require(cudaEventRecord(fork, a), "record");
  require(cudaStreamWaitEvent(b, fork, 0), "wait event");
  EXPECT_EQ(cudaStreamEndCapture(b, &graph), cudaErrorStreamCaptureUnmatched);
}

/// Two streams without an event between them: some order of the two is seen that is not that of the calls.
TEST(StandInOrder, StreamsWithoutAnEventRunInEitherOrder) {
  bool swapped = false;
  for (std::uint64_t seed = 1; seed < 20 && !swapped; ++seed) {
    begin(seed);
    std::vector<int> list;
    Note first{&list, 0}, second{&list, 1};
    cudaStream_t a = nullptr, b = nullptr;
    require(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), "stream");
    require(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking), "stream");
    require(cudaLaunchHostFunc(a, take_note, &first), "host function");
    require(cudaLaunchHostFunc(b, take_note, &second), "host function");
    require(cudaDeviceSynchronize(), "wait");
    swapped = list == std::vector<int>{1, 0};
  }
  EXPECT_TRUE(swapped);
}

/// The default stream waits for blocking streams and they for it.
TEST(StandInOrder, TheDefaultStreamIsOrderedWithBlockingStreams) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    begin(seed);
    std::vector<int> list;
    Note notes[] = {{&list, 0}, {&list, 1}, {&list, 2}};
    cudaStream_t a = nullptr;
    require(cudaStreamCreate(&a), "stream");
    require(cudaLaunchHostFunc(a, take_note, &notes[0]), "host function");
    require(cudaLaunchHostFunc(nullptr, take_note, &notes[1]), "host function");
    require(cudaLaunchHostFunc(a, take_note, &notes[2]), "host function");
    require(cudaDeviceSynchronize(), "wait");
    EXPECT_EQ(list, (std::vector<int>{0, 1, 2})) << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, StandIn, ::testing::Values(0, 1, 2, 3));

}  // namespace
}  // namespace seqccl::test
