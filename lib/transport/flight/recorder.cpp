// recorder.cpp - keeps operations, descriptions and the first failure; reads the rings while they are written.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <functional>
#include <thread>
#include <tuple>
#include <utility>

#include "seqccl/log.hpp"
#include "seqccl/transport.hpp"
#include "snapshot.hpp"
#include "whole_file.hpp"

SEQCCL_BEGIN
namespace {

template <class Clock>
FlightRecorder::Nanoseconds now_of() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

/// `text` as part of a file's name.
std::string for_file_name(const std::string& text) {
  constexpr std::size_t max_chars = 64;
  std::string name = text.substr(0, max_chars);
  for (char& letter : name)
    if (!std::isalnum(static_cast<unsigned char>(letter)) && letter != '-' && letter != '_' && letter != '.') letter = '_';
  return name;
}

}  // namespace

FlightRecorder::FlightRecorder()
    : made_steady_ns_(now_of<SteadyClock>()), made_system_ns_(now_of<std::chrono::system_clock>()), process_(::getpid()) {
  for (Ring& ring : rings_) ring.entries = std::make_unique<Entry[]>(ring_entries);
  operations_.resize(num_operations);
  descriptions_.reserve(num_descriptions);
}

// --- Operations. ----------------------------------------------------------------------------------------------------

void FlightRecorder::begin_operation(const Begin& begin, const Schedule& schedule, std::string_view description) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t text = describe(schedule, description);
  num_begun_ = begin.number;
  Operation& operation = operations_[begin.number % num_operations];
  operation.number = begin.number;
  operation.fingerprint = schedule.fingerprint;
  operation.name = schedule.name;  // into the memory of an older name
  operation.begin_ns = begin.now;
  operation.end_ns = -1;
  operation.timeout_ns = begin.timeout.count();
  operation.description = text;
  schedule_ = &schedule;  // the last: nothing throws any more
}

void FlightRecorder::end_operation(Nanoseconds now) noexcept {
  const std::lock_guard lock(mutex_);
  operations_[num_begun_ % num_operations].end_ns = now;
  schedule_ = nullptr;
}

void FlightRecorder::forget_schedule() noexcept {
  const std::lock_guard lock(mutex_);
  schedule_ = nullptr;
}

// Training repeats a few operations: their texts are compared, not copied.
std::uint64_t FlightRecorder::describe(const Schedule& schedule, std::string_view text) {
  const auto same = [&](const Description& known) {
    return known.fingerprint == schedule.fingerprint && text.substr(0, max_description_bytes) == known.text;
  };
  if (!descriptions_.empty() && same(descriptions_.back())) return descriptions_.back().id;
  const auto found = std::find_if(descriptions_.begin(), descriptions_.end(), same);
  if (found != descriptions_.end()) {
    std::rotate(found, found + 1, descriptions_.end());  // the least recently used one comes first
    return descriptions_.back().id;
  }
  if (descriptions_.size() == num_descriptions) {
    std::rotate(descriptions_.begin(), descriptions_.begin() + 1, descriptions_.end());
    descriptions_.pop_back();
  }
  descriptions_.push_back({++last_description_, schedule.fingerprint, std::string(text.substr(0, max_description_bytes))});
  return last_description_;
}

// --- Reading. -------------------------------------------------------------------------------------------------------

std::vector<FlightRecorder::StepRecord> FlightRecorder::steps() const {
  std::vector<StepRecord> result;
  for (const Ring& ring : rings_) {
    const std::uint64_t begun = ring.begun.load(std::memory_order_acquire);
    for (std::uint64_t number = begun < ring_entries ? 0 : begun - ring_entries; number < begun; ++number) {
      const Entry& entry = ring.entries[number % ring_entries];
      const std::uint64_t turn = entry.turn.load(std::memory_order_acquire);
      if (turn == 0 || static_cast<std::uint32_t>(turn) != static_cast<std::uint32_t>(number + 1)) continue;  // overwritten meanwhile
      const Nanoseconds begin_ns = entry.begin_ns.load(std::memory_order_acquire);
      const std::uint64_t what = entry.what.load(std::memory_order_acquire), end = entry.end.load(std::memory_order_acquire);
      if (entry.turn.load(std::memory_order_relaxed) != turn) continue;
      const std::uint64_t took = end & duration_mask;
      // Of the operation's number the low half is kept; the rest is that of the newest.
      const auto behind = static_cast<std::uint32_t>(num_begun_) - static_cast<std::uint32_t>(turn >> 32);
      result.push_back({num_begun_ - behind, static_cast<std::uint32_t>(what >> 32), static_cast<std::int16_t>(what >> 16 & 0xffff),
                        static_cast<std::uint8_t>(what >> 8 & 0xff), static_cast<Lane>(what & 0xff), begin_ns,
                        took == 0 ? -1 : begin_ns + static_cast<Nanoseconds>(took - 1), static_cast<Rank>(end >> duration_bits) - 1});
    }
  }
  const auto order = [](const StepRecord& step) { return std::tuple(step.begin_ns, step.operation, step.step); };
  std::sort(result.begin(), result.end(), [&](const StepRecord& a, const StepRecord& b) { return order(a) < order(b); });
  return result;
}

std::string FlightRecorder::label_of(const StepRecord& step) const {
  if (step.operation == num_begun_ && schedule_ != nullptr && step.step < schedule_->steps.size())
    return schedule_->label(schedule_->steps[step.step]);
  if (step.operation == num_begun_ && step.step < failed_labels_.size()) return failed_labels_[step.step];
  const char* kind = step.lane == Lane::compute ? op_name(step.kind) : "exchange";
  return step.about < 0 ? kind : fmt::format("{}, block of rank {}", kind, step.about);
}

std::vector<FlightRecorder::Sight> FlightRecorder::look(Transport& transport) {
  std::vector<Sight> sights;
  const auto bytes = transport.received_bytes(), messages = transport.received_messages();
  for (Rank rank = 0; rank < transport.num_ranks(); ++rank) {
    const RankStatus& status = transport.status(rank);
    const auto index = static_cast<std::size_t>(rank);
    // In this order: what the rank has ended it had begun.
    Sight sight;
    sight.ended = status.finished.load();
    sight.begun = status.operation.load();
    sight.compute_step = status.compute_step.load();
    sight.waiting_for = status.waiting_for.load();
    sight.progress_ns = status.progress_ns.load();
    sight.left = status.left.load();
    sight.heard = transport.status_time(rank) != SteadyClock::time_point::min();
    sight.received_bytes = bytes[index];
    sight.received_messages = messages[index];
    sights.push_back(sight);
  }
  return sights;
}

FlightRecorder::Snapshot FlightRecorder::snapshot(Transport& transport, const char* reason) {
  Snapshot result;
  result.reason = reason;
  result.rank = transport.rank();
  result.num_ranks = transport.num_ranks();
  result.transport = transport.name();
  const RankStatus& own = transport.status(transport.rank());
  result.num_ended = own.finished.load();
  const std::lock_guard lock(mutex_);
  result.written_ns = now_of<SteadyClock>();
  result.made_steady_ns = made_steady_ns_;
  result.made_system_ns = made_system_ns_;
  result.process = process_;
  result.job = job_;
  result.group = group_;
  result.num_begun = num_begun_;
  for (std::uint64_t number = num_begun_ < num_operations ? 1 : num_begun_ - num_operations + 1; number <= num_begun_; ++number)
    if (operations_[number % num_operations].number == number) result.operations.push_back(operations_[number % num_operations]);
  result.descriptions = descriptions_;
  result.steps = steps();
  for (const StepRecord& step : result.steps) result.labels.push_back(label_of(step));
  result.error = error_;
  result.error_ns = error_ns_;
  result.sights = error_ ? failed_sights_ : look(transport);
  return result;
}

// --- Writing. -------------------------------------------------------------------------------------------------------

void FlightRecorder::set_directory(const std::string& directory) {
  if (!directory.empty() && ::mkdir(directory.c_str(), 0777) != 0 && errno != EEXIST)
    throw Error(ErrorKind::argument,
                fmt::format("SEQCCL_FLIGHT_RECORD is '{}', which cannot be made: {}", directory, std::strerror(errno)));
  struct stat status {};
  if (!directory.empty() && (::stat(directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)))
    throw Error(ErrorKind::argument, fmt::format("SEQCCL_FLIGHT_RECORD is '{}', want a folder", directory));
  // Not access(): to root every folder is writable, also where the file system takes no files.
  const std::string probe =
      fmt::format("{}/.seqccl-{}-{:x}", directory, ::getpid(), std::hash<std::thread::id>{}(std::this_thread::get_id()));
  if (const std::string why = directory.empty() ? "" : write_whole_file(probe, ""); !why.empty())
    throw Error(ErrorKind::argument, fmt::format("SEQCCL_FLIGHT_RECORD is '{}', want a folder that can be written: {}", directory, why));
  if (!directory.empty()) ::unlink(probe.c_str());
  const std::lock_guard lock(mutex_);
  directory_ = directory;
}

void FlightRecorder::set_job(std::string job, std::string group) {
  const std::lock_guard lock(mutex_);
  job_ = std::move(job);
  group_ = std::move(group);
}

void FlightRecorder::set_job_after(const FlightRecorder& before) {
  std::string job, group;
  {
    const std::lock_guard lock(before.mutex_);
    job = before.job_;
    group = (before.group_.empty() ? "world" : before.group_) + "-shrunk";
  }
  set_job(std::move(job), std::move(group));
}

std::string FlightRecorder::failed(const Error& error, Transport& transport) noexcept {
  try {
    if (::getpid() != process_) return {};  // a copy in a forked child: the rank lives on in its own process
    auto sights = look(transport);
    std::string path;
    {
      const std::lock_guard lock(mutex_);
      if (error_) return {};
      error_ = error;
      error_ns_ = now_of<SteadyClock>();
      failed_sights_ = std::move(sights);
      if (schedule_ != nullptr)
        for (const Step& step : schedule_->steps) failed_labels_.push_back(schedule_->label(step));
      if (directory_.empty()) return {};
      const std::string job = job_.empty() ? fmt::format("pid{}", process_) : for_file_name(job_);
      const std::string group = group_.empty() || group_ == "world" ? "" : "-" + for_file_name(group_);
      path = fmt::format("{}/seqccl-{}{}-rank{}.json", directory_, job, group, transport.rank());
    }
    const std::string why = write_whole_file(path, json(snapshot(transport, "failure")));
    if (why.empty()) {
      log_line(fmt::format("rank {} of {}: flight record: {}", transport.rank(), transport.num_ranks(), path));
      return {};
    }
    log_line(fmt::format("rank {} of {}: no flight record: cannot write '{}': {}", transport.rank(), transport.num_ranks(), path, why));
    return fmt::format("no flight record: cannot write '{}': {}", path, why);
  } catch (const std::exception& why) {  // no memory, say; the error that is told must be the first
    try {
      return fmt::format("no flight record: {}", why.what());
    } catch (...) {
      return {};
    }
  }
}

void FlightRecorder::write(const std::string& path, Transport& transport) {
  const std::string why = write_whole_file(path, json(snapshot(transport, "asked")));
  if (!why.empty()) throw Error(ErrorKind::argument, fmt::format("Communicator::write_flight_record: cannot write '{}': {}", path, why));
}

SEQCCL_END
