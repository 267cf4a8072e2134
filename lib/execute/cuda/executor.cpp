// executor.cpp - enqueues a plan: lanes become streams, clocks events.
// SPDX-License-Identifier: Apache-2.0
#include "executor.hpp"

#include <fmt/format.h>

#include <variant>

SEQCCL_BEGIN
namespace cuda {

CudaExecutor::CudaExecutor(Transport& control, std::unique_ptr<DeviceTransport> data, const DeviceOptions& options)
    : control_(control),
      data_(std::move(data)),
      stream_(options.stream),
      op_workspace_bytes_(options.op_workspace_bytes),
      received_bytes_(static_cast<std::size_t>(control.num_ranks())),
      received_messages_(static_cast<std::size_t>(control.num_ranks())) {
  if (options.watch_interval.count() > 0)
    watchdog_ = std::make_unique<Watchdog>(control_, *data_, calls_, Watchdog::Options{options.watch_interval, options.on_error});
}

bool CudaExecutor::is_capturing() const {
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  require_cuda(cudaStreamIsCapturing(stream_, &capturing), "cudaStreamIsCapturing");
  return capturing != cudaStreamCaptureStatusNone;
}

std::byte* CudaExecutor::Memory::at_least(std::size_t num_bytes) {
  if (num_bytes > num_bytes_) {
    all_.push_back(allocate_on_device(num_bytes));
    num_bytes_ = num_bytes;
  }
  return all_.empty() ? nullptr : all_.back().get();
}

cudaStream_t CudaExecutor::stream_of(Lane lane) {
  if (lane == Lane::compute) return stream_;
  StreamHandle& stream = streams_[static_cast<std::size_t>(lane)];
  if (!stream) stream = make_stream();
  return stream.get();
}
cudaEvent_t CudaExecutor::event(std::size_t index) {
  while (events_.size() <= index) events_.push_back(make_event());
  return events_[index].get();
}
void CudaExecutor::record(cudaEvent_t event, cudaStream_t stream) {
  require_cuda(cudaEventRecord(event, stream), "cudaEventRecord");
  ++counts_.event_records;
}
void CudaExecutor::wait(cudaStream_t stream, cudaEvent_t event) {
  require_cuda(cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
  ++counts_.event_waits;
}

const DevicePlan& CudaExecutor::plan_of(const Schedule& schedule, const Bindings& memory, const RunOptions& options) {
  const auto known = plans_.find(&schedule);
  if (known != plans_.end() && known->second.is_of(schedule)) return known->second;
  if (is_capturing())
    throw Error(ErrorKind::argument,
                fmt::format("{}: its first run is being captured into a graph, want one run before: it copies tables to the device",
                            schedule.name));
  if (known != plans_.end()) plans_.erase(known);
  return plans_.try_emplace(&schedule, schedule, memory, op_workspace_bytes_, static_cast<bool>(options.attend)).first->second;
}

void CudaExecutor::run(const Schedule& schedule, const Bindings& memory, const RunOptions& options) {
  const Rank rank = control_.rank();
  if (schedule.rank != rank || schedule.num_ranks != control_.num_ranks())
    throw Error(ErrorKind::argument, fmt::format("{}: the plan is for rank {} of {}, want rank {} of {}", schedule.name, schedule.rank,
                                                 schedule.num_ranks, rank, control_.num_ranks()));
  if (options.trace != nullptr)
    throw Error(ErrorKind::argument, fmt::format("{}: steps on a device cannot be traced, want no trace", schedule.name));
  const std::lock_guard lock(calls_);
  control_.check();
  const CurrentDevice current(device_);
  bool has_begun = false;
  try {
    data_->check();
    const DevicePlan& plan = plan_of(schedule, memory, options);
    (void)workspace_.at_least(plan.workspace_bytes());
    if (!schedule.exchanges.empty()) data_->prepare(plan.lanes().communicating(), is_capturing());
    begin_operation(schedule, options);
    has_begun = true;
    enqueue_watched(schedule, memory, options, plan);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::argument && !has_begun) throw;  // nothing has been sent
    end_group(with_culprit(control_, error));
  } catch (const std::exception& why) {
    end_group(Error(ErrorKind::local, fmt::format("rank {} of {}: {}: {}", rank, control_.num_ranks(), schedule.name, why.what()), {rank}));
  }
}

/// For all ranks: without this one they would wait.
void CudaExecutor::end_group(const Error& error) {
  data_->abort(error);
  control_.abort(error);  // the first of all wins
  control_.check();
  throw error;
}

void CudaExecutor::begin_operation(const Schedule& schedule, const RunOptions& options) {
  const std::string_view text = options.description.text();
  control_.describe_operation(text.empty() ? std::string_view(schedule.name) : text);
  RankStatus& status = control_.status(control_.rank());
  status.progress_ns.store(SteadyClock::now().time_since_epoch().count(), std::memory_order_release);
  status.earlier_plan.store(status.plan.load(std::memory_order_relaxed), std::memory_order_relaxed);
  status.plan.store(schedule.fingerprint, std::memory_order_relaxed);
  status.operation.store(status.operation.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  counts_ = {};
}

/// What is captured runs whenever its graph does, or never: it is not watched.
void CudaExecutor::enqueue_watched(const Schedule& schedule, const Bindings& memory, const RunOptions& options, const DevicePlan& plan) {
  RankStatus& status = control_.status(control_.rank());
  const std::uint64_t number = status.operation.load(std::memory_order_relaxed);
  if (!watchdog_ || is_capturing()) {
    enqueue(schedule, memory, options, plan);
    status.finished.store(number, std::memory_order_release);
    return;
  }
  WatchedOperation watched = watchdog_->take();
  watched.name = schedule.name, watched.number = number, watched.plan = schedule.fingerprint, watched.timeout = options.timeout;
  require_cuda(cudaEventRecord(watched.begin.get(), stream_), "cudaEventRecord");
  enqueue(schedule, memory, options, plan);
  require_cuda(cudaEventRecord(watched.end.get(), stream_), "cudaEventRecord");
  watchdog_->watch(std::move(watched));
}

void CudaExecutor::enqueue(const Schedule& schedule, const Bindings& memory, const RunOptions& options, const DevicePlan& plan) {
  const LaneEvents& lanes = plan.lanes();
  constexpr std::size_t first_step_event = num_lanes;  // event 0 is the fork, event n the join of lane n
  bool forked = false;
  for (int lane = 1; lane < num_lanes; ++lane) {
    if (!lanes.is_used[static_cast<std::size_t>(lane)]) continue;
    if (!forked) record(event(0), stream_);
    forked = true;
    wait(stream_of(static_cast<Lane>(lane)), event(0));
  }
  const DeviceMemory workspace{workspace_.at_least(0), workspace_.num_bytes()};
  for (std::size_t index = 0; index < schedule.steps.size(); ++index) {
    const Step& step = schedule.steps[index];
    const cudaStream_t stream = stream_of(step.lane);
    for (std::uint32_t n = lanes.first_wait[index]; n < lanes.first_wait[index + 1]; ++n)
      wait(stream, event(first_step_event + static_cast<std::size_t>(lanes.waits[n])));
    if (step.lane == Lane::compute) {
      const CudaKernels kernels{plan.op(step.index), workspace, stream};
      std::visit(OpRunner<CudaKernels>{kernels, memory, options.attend, 1}, schedule.ops[step.index]);
      ++counts_.ops;
    } else {
      exchange(schedule, memory, step);
    }
    if (lanes.recorded[index] >= 0) record(event(first_step_event + static_cast<std::size_t>(lanes.recorded[index])), stream);
  }
  for (int lane = 1; lane < num_lanes; ++lane) {
    if (!lanes.is_used[static_cast<std::size_t>(lane)]) continue;
    record(event(static_cast<std::size_t>(lane)), stream_of(static_cast<Lane>(lane)));
    wait(stream_, event(static_cast<std::size_t>(lane)));
  }
}

void CudaExecutor::exchange(const Schedule& schedule, const Bindings& memory, const Step& step) {
  const Exchange& exchange = schedule.exchanges[step.index];
  const auto gather = [&](std::span<const Transfer> transfers, std::vector<DeviceMessage>& messages) {
    messages.clear();
    for (const Transfer& transfer : transfers)
      messages.push_back({transfer.peer, memory.data(transfer.block), schedule.num_bytes(transfer.block)});
  };
  gather(schedule.sends(exchange), sends_);
  gather(schedule.receives(exchange), receives_);
  data_->exchange(step.lane, sends_, receives_, stream_of(step.lane));
  for (const DeviceMessage& message : receives_) {
    received_bytes_[static_cast<std::size_t>(message.peer)].fetch_add(message.num_bytes, std::memory_order_relaxed);
    received_messages_[static_cast<std::size_t>(message.peer)].fetch_add(1, std::memory_order_relaxed);
  }
  ++counts_.exchanges;
}

}  // namespace cuda
SEQCCL_END
