// streams.cpp - streams, events, host functions, graphs.
// SPDX-License-Identifier: Apache-2.0
#include "runtime.hpp"

struct CUgraph_st : standin::Graph {};
struct CUgraphExec_st : standin::Graph {};

namespace standin {
namespace {

/// Runs `body` under the lock, unless an earlier error has ended the device.
template <class Body>
cudaError_t call(Body body) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  if (r.sticky_error != cudaSuccess) return r.sticky_error;
  return r.fail(body(r));
}
Event* event_of(Runtime& r, cudaEvent_t handle) {
  const auto found = r.events.find(handle);
  return found == r.events.end() ? nullptr : found->second.get();
}
/// A number that looks like a pointer to nothing and is never used again, so that a handle that was destroyed is refused.
template <class Handle>
Handle new_handle(Runtime& r) {
  return reinterpret_cast<Handle>(0x5eed0000 + 16 * ++r.num_handles);
}
/// Waiting breaks a capture ("synchronising a stream that is being captured invalidates the capture").
cudaError_t refuse_in_capture(Capture& capture) {
  capture.broken = true;
  return cudaErrorStreamCaptureUnsupported;
}
cudaError_t wait_for(Runtime& r, u64 task) {
  ++r.num_host_waits;
  return r.run_until(task);
}
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

}  // namespace

/// cudaThreadExchangeStreamCaptureMode: in mode global a thread is kept from potentially unsafe calls by a capture of its own that is not
/// relaxed and by any thread's that is global; in mode thread-local by its own only; in mode relaxed by none.
bool Runtime::may_be_unsafe() {
  bool may = true;
  for (const auto& [handle, stream] : streams) {
    if (!stream->capture || stream->capture->broken || capture_mode == cudaStreamCaptureModeRelaxed) continue;
    const bool is_own = stream->capture->thread == std::this_thread::get_id();
    const bool forbids = is_own ? stream->capture->mode != cudaStreamCaptureModeRelaxed
                                : stream->capture->mode == cudaStreamCaptureModeGlobal && capture_mode == cudaStreamCaptureModeGlobal;
    if (forbids) stream->capture->broken = true, may = false;
  }
  return may;
}
}  // namespace standin

using standin::call;
using standin::Runtime;

extern "C" {
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
  return call([&](Runtime& r) {
    *handle = standin::new_handle<cudaStream_t>(r);
    auto stream = std::make_unique<standin::Stream>();
    stream->blocking = flags != cudaStreamNonBlocking;
    stream->device = standin::current_device();
    r.streams[*handle] = std::move(stream);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreate(cudaStream_t* handle) { return cudaStreamCreateWithFlags(handle, cudaStreamDefault); }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int) { return cudaStreamCreateWithFlags(handle, flags); }
cudaError_t cudaStreamDestroy(cudaStream_t handle) {  // its tasks still run
  return call([&](Runtime& r) {
    if (r.streams.erase(handle) == 0) return cudaErrorInvalidResourceHandle;
    return cudaSuccess;
  });
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return call([&](Runtime& r) {
    standin::Stream* stream = r.stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture) return standin::refuse_in_capture(*stream->capture);
    const standin::u64 waited = r.enqueue(*stream, "wait", [] { return cudaSuccess; });
    return standin::wait_for(r, waited);
  });
}
cudaError_t cudaDeviceSynchronize() {
  return call([](Runtime& r) {
    ++r.num_host_waits;
    return r.run_device(standin::current_device());
  });
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {  // every question brings the device a little further
  return call([&](Runtime& r) {
    standin::Stream* stream = r.stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture) return standin::refuse_in_capture(*stream->capture);
    if (!r.may_be_unsafe()) return cudaErrorStreamCaptureUnsupported;
    if (r.is_done(stream->last)) return cudaSuccess;
    r.run_a_little();
    return cudaErrorNotReady;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned) {
  return call([&](Runtime& r) {
    *handle = standin::new_handle<cudaEvent_t>(r);
    r.events[*handle] = std::make_unique<standin::Event>();
    r.events[*handle]->device = standin::current_device();
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  return call([&](Runtime& r) {
    if (r.events.erase(handle) == 0) return cudaErrorInvalidResourceHandle;
    return cudaSuccess;
  });
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  return call([&](Runtime& r) {
    standin::Event* event = standin::event_of(r, handle);
    standin::Stream* stream = r.stream(stream_handle);
    if (event == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->device != stream->device) return cudaErrorInvalidResourceHandle;  // "cudaEventRecord() will fail if they are of two devices"
    *event = {};
    event->device = stream->device;
    event->recorded = true;
    if (stream->capture) {
      event->capture = stream->capture;
      event->nodes = stream->capture_last;
    } else {
      event->task = r.enqueue(*stream, "event", [] { return cudaSuccess; });
    }
    return cudaSuccess;
  });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned) {
  return call([&](Runtime& r) {
    standin::Event* event = standin::event_of(r, handle);
    standin::Stream* stream = r.stream(stream_handle);
    if (event == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (r.drops_wait && r.drops_wait(stream_handle)) return cudaSuccess;
    if (event->capture) {  // the stream joins the capture
      if (stream->capture && stream->capture != event->capture) return cudaErrorStreamCaptureMerge;
      stream->capture = event->capture;
      stream->capture->streams.insert(stream_handle);
      stream->capture_last.insert(stream->capture_last.end(), event->nodes.begin(), event->nodes.end());
      return cudaSuccess;
    }
    if (stream->capture) return event->recorded ? cudaErrorStreamCaptureIsolation : cudaSuccess;
    if (event->recorded) stream->also_after.push_back(event->task);
    return cudaSuccess;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return call([&](Runtime& r) {
    standin::Event* event = standin::event_of(r, handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->capture) return standin::refuse_in_capture(*event->capture);
    return standin::wait_for(r, event->task);
  });
}
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return call([&](Runtime& r) {
    standin::Event* event = standin::event_of(r, handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->capture) return standin::refuse_in_capture(*event->capture);
    if (!r.may_be_unsafe()) return cudaErrorStreamCaptureUnsupported;
    if (r.is_done(event->task)) return cudaSuccess;
    r.run_a_little();
    return cudaErrorNotReady;
  });
}
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  return call([&](Runtime& r) {
    standin::Stream* stream = r.stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    r.enqueue(*stream, "host function", [=] {
      function(data);
      return cudaSuccess;
    });
    return cudaSuccess;
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return call([&](Runtime& r) {
    standin::Stream* stream = r.stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->is_default) return cudaErrorStreamCaptureUnsupported;  // "capture must not be begun on the legacy stream"
    if (stream->capture) return cudaErrorIllegalState;
    stream->capture = std::make_shared<standin::Capture>();
    stream->capture->streams.insert(handle);
    stream->capture->origin = handle;
    stream->capture->mode = mode, stream->capture->thread = std::this_thread::get_id();
    stream->capture_last.clear();
    return cudaSuccess;
  });
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, standin::capture_mode);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return call([&](Runtime& r) {
    standin::Stream* stream = r.stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    *status = !stream->capture          ? cudaStreamCaptureStatusNone
              : stream->capture->broken ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}
/// Every stream that joined must have been joined back: its last node must come before the origin's next.
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return call([&](Runtime& r) {
    standin::Stream* stream = r.stream(handle);
    if (stream == nullptr || !stream->capture) return cudaErrorIllegalState;
    const std::shared_ptr<standin::Capture> capture = stream->capture;
    if (capture->origin != handle) return cudaErrorStreamCaptureUnmatched;
    std::set<standin::u64> joined;
    std::vector<standin::u64> left = stream->capture_last;
    while (!left.empty()) {
      const standin::u64 node = left.back();
      left.pop_back();
      if (!joined.insert(node).second) continue;
      const auto& after = capture->graph.nodes[node].after;
      left.insert(left.end(), after.begin(), after.end());
    }
    bool all_joined = joined.size() == capture->graph.nodes.size();
    for (const void* member : capture->streams) {
      const auto found = r.streams.find(member);
      if (found == r.streams.end()) continue;
      found->second->capture.reset();
      found->second->capture_last.clear();
    }
    *graph = nullptr;
    if (capture->broken) return cudaErrorStreamCaptureInvalidated;
    if (!all_joined) return cudaErrorStreamCaptureUnjoined;
    auto* made = new CUgraph_st;
    made->nodes = capture->graph.nodes;
    *graph = made;
    return cudaSuccess;
  });
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  return call([&](Runtime&) {
    auto* made = new CUgraphExec_st;
    made->nodes = graph->nodes;
    *executable = made;
    return cudaSuccess;
  });
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  return call([&](Runtime& r) {
    standin::Stream* stream = r.stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    const standin::u64 begin = r.enqueue(*stream, "graph", [] { return cudaSuccess; });
    std::vector<standin::u64> all;
    for (const standin::Node& node : executable->nodes) {
      standin::Task task{node.name, {begin}, node.run, node.device};
      for (const standin::u64 before : node.after) task.after.push_back(all[before]);
      r.pending.emplace(++r.num_tasks, std::move(task));
      all.push_back(r.num_tasks);
    }
    stream->also_after = all;
    r.enqueue(*stream, "end of graph", [] { return cudaSuccess; });
    return cudaSuccess;
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
}
