// flight_recorder.hpp - what a rank did last, kept in fixed memory and written as a file when its group fails.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "seqccl/error.hpp"
#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

class Transport;

/// Flight recorder
/// ===============
///
///     SEQCCL_FLIGHT_RECORD=records seqccl launch --ranks 4 -- ./train      // on failure every rank that lives writes its record
///     comm.write_flight_record("now.json");                                // at any moment, from any thread
///     seqccl doctor records                                                // merges them: who is missing, who differs, who is waited for
///
/// Every communicator has one, always on: the last 2 x 2048 steps, 256 operations and 16 descriptions in about 300 KiB. A run allocates
/// nothing; a step costs a few nanoseconds (lib/execute/notes.md). Files are named seqccl-JOB-rankK.json (seqccl-JOB-GROUP-rankK.json for a
/// communicator that is not of the group "world"); JOB is the launcher's, or pid and a number. A file is there whole or not at all. The
/// first failure is written, at the moment in which the rank notices: one that sits in a long step, when that has ended.
///
/// The file is one JSON object. Times are integers, nanoseconds of this host's steady clock; clock maps them to the time of day.
///
///     schema, schema_version     "seqccl flight record", 1: another number when a reader of this one would misunderstand it
///     seqccl                     "0.1.0"
///     job, group                 strings; "" where unknown
///     rank, num_ranks, host, process, transport
///     reason                     "failure" or "asked"
///     clock                      {steady_ns, system_ns}, both read when the communicator was made
///     written_ns
///     error                      null, or {class, culprits, text, at_ns}; at_ns: when this rank noticed
///     operations_begun, operations_ended
///     descriptions               [{id, lines}]: what the operations below were, a line for each field; the same text has one id
///     operations                 oldest first: [{number, name, fingerprint (hex), begin_ns, end_ns or null, timeout_ns, description (id)}]
///     steps                      oldest first: [{operation, step, lane, label, begin_ns, end_ns or null, waited_for (rank) or null}]
///     peers                      of every rank, as this one saw it when it failed or was asked: [{rank, operations_begun,
///                                operations_ended, compute_step (-1: none), waiting_for (-1: nobody), progress_ns, left, heard (false: it
///                                never said what it did), received_bytes, received_messages}]
///
/// waited_for is the peer that the step waited for last. Labels are those of the schedule where it is still known, that is in the operation
/// that runs or failed; of older ones only kind and block are. Where no step lasts, as in a
/// movement of small tensors, steps bear the time at which their run began.
class FlightRecorder {
 public:
  using Nanoseconds = std::int64_t;  // of the steady clock

  static constexpr std::size_t ring_entries = 2048;  // steps kept of the compute lane, and of all the others
  static constexpr std::size_t num_operations = 256, num_descriptions = 16, max_description_bytes = 8192;

  FlightRecorder();
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  // --- For executors. ---

  struct Begin {
    std::uint64_t number = 0;  // of the operation, from 1
    Nanoseconds now = 0;
    std::chrono::nanoseconds timeout{};
  };
  /// `schedule` must be there until end_operation or forget_schedule: labels are read from it.
  void begin_operation(const Begin& begin, const Schedule& schedule, std::string_view description);
  void end_operation(Nanoseconds now) noexcept;
  void forget_schedule() noexcept;

  // Steps of the compute lane come from one thread, those of all other lanes from one thread; a lane has one step at a time.
  void begin_step(std::uint64_t operation, const Schedule& schedule, std::uint32_t index, Nanoseconds now) noexcept {
    const Step& step = schedule.steps[index];
    const auto lane = static_cast<std::size_t>(step.lane);
    Ring& ring = rings_[lane == 0 ? 0 : 1];
    const std::uint64_t number = ring.begun.load(std::memory_order_relaxed);
    Entry& entry = ring.entries[number % ring_entries];
    const std::uint64_t kind = lane == 0 ? schedule.ops[step.index].index() : 0;
    // Emptied first, and what follows is released: who reads a new word with an old turn sees the turn change under him.
    entry.turn.store(0, std::memory_order_relaxed);
    entry.begin_ns.store(now, std::memory_order_release);
    entry.what.store(std::uint64_t{index} << 32 | std::uint64_t{static_cast<std::uint16_t>(step.about)} << 16 | kind << 8 | lane,
                     std::memory_order_release);
    entry.end.store(0, std::memory_order_release);
    entry.turn.store(turn_of(number, operation), std::memory_order_release);
    ring.open[lane] = number;
    ring.begun.store(number + 1, std::memory_order_release);
  }
  void wait_in_step(Lane lane, Rank peer) noexcept {
    if (Entry* entry = open_entry(lane)) entry->end.store(waited_for(peer), std::memory_order_relaxed);
  }
  void end_step(Lane lane, Nanoseconds now) noexcept {
    Entry* entry = open_entry(lane);
    if (entry == nullptr) return;
    const Nanoseconds took = now - entry->begin_ns.load(std::memory_order_relaxed);
    const std::uint64_t stored = took < 0                                          ? 1
                                 : took >= static_cast<Nanoseconds>(duration_mask) ? duration_mask
                                                                                   : static_cast<std::uint64_t>(took) + 1;
    entry->end.store((entry->end.load(std::memory_order_relaxed) & ~duration_mask) | stored, std::memory_order_relaxed);
  }

  // --- For communicators. Any thread. ---

  /// Where a failure is written; "": nowhere. The folder is made if it is not there. @throws Error(argument) if it cannot be written
  void set_directory(const std::string& directory);
  void set_job(std::string job, std::string group);
  /// Of a communicator that `before`'s was shrunk to: its job, and a group of its own, so that no file replaces another.
  void set_job_after(const FlightRecorder& before);

  /// The group has failed: keeps `error` with what the others were doing and writes the file, the first time. Returns why it could not
  /// be written, else "".
  std::string failed(const Error& error, Transport& transport) noexcept;
  /// @throws Error(argument) naming `path` if it cannot be written
  void write(const std::string& path, Transport& transport);

 private:
  // One step. Each word is read and written whole; `turn` says which step the others are of, 0 while they change.
  struct Entry {
    std::atomic<std::uint64_t> turn{0};    // operation << 32 | number of the entry + 1, low 32 bits of each
    std::atomic<Nanoseconds> begin_ns{0};  //
    std::atomic<std::uint64_t> what{0};    // step << 32 | about << 16 | kind of op << 8 | lane
    std::atomic<std::uint64_t> end{0};     // rank waited for + 1 << 48 | nanoseconds + 1, 0 while the step goes on
  };
  static_assert(sizeof(Entry) == 32);
  struct alignas(64) Ring {
    std::unique_ptr<Entry[]> entries;
    std::array<std::uint64_t, num_lanes> open{};  // number of each lane's last entry; its own thread's
    alignas(64) std::atomic<std::uint64_t> begun{0};
  };
  struct Operation {
    std::uint64_t number = 0, fingerprint = 0;
    std::string name;
    Nanoseconds begin_ns = 0, end_ns = -1, timeout_ns = 0;
    std::uint64_t description = 0;  // Description::id
  };
  struct Description {
    std::uint64_t id = 0, fingerprint = 0;
    std::string text;
  };
  /// A rank as another one sees it.
  struct Sight {
    std::uint64_t begun = 0, ended = 0, received_bytes = 0, received_messages = 0;
    Nanoseconds progress_ns = 0;
    int compute_step = -1, waiting_for = -1;
    bool left = false, heard = true;  // not heard: the rank has never said what it does, and the rest is not known
  };
  struct StepRecord;
  struct Snapshot;

  static constexpr int duration_bits = 48;
  static constexpr std::uint64_t duration_mask = (std::uint64_t{1} << duration_bits) - 1;
  static std::uint64_t turn_of(std::uint64_t number, std::uint64_t operation) noexcept {
    return operation << 32 | static_cast<std::uint32_t>(number + 1);
  }
  static std::uint64_t waited_for(Rank peer) noexcept { return static_cast<std::uint64_t>(peer + 1) << duration_bits; }
  [[nodiscard]] Entry* open_entry(Lane lane) noexcept {
    Ring& ring = rings_[lane == Lane::compute ? 0 : 1];
    const std::uint64_t number = ring.open[static_cast<std::size_t>(lane)];
    Entry& entry = ring.entries[number % ring_entries];
    // Not if so many steps of other lanes have begun since that this one's entry is another's.
    return static_cast<std::uint32_t>(entry.turn.load(std::memory_order_relaxed)) == static_cast<std::uint32_t>(number + 1) ? &entry
                                                                                                                            : nullptr;
  }

  [[nodiscard]] std::uint64_t describe(const Schedule& schedule, std::string_view text);
  [[nodiscard]] std::vector<StepRecord> steps() const;
  [[nodiscard]] std::string label_of(const StepRecord& step) const;
  [[nodiscard]] static std::vector<Sight> look(Transport& transport);
  [[nodiscard]] Snapshot snapshot(Transport& transport, const char* reason);
  [[nodiscard]] static std::string json(const Snapshot& snapshot);

  std::array<Ring, 2> rings_;
  const Nanoseconds made_steady_ns_, made_system_ns_;
  const int process_;

  mutable std::mutex mutex_;  // of all that follows; runs take it twice
  std::vector<Operation> operations_;
  std::uint64_t num_begun_ = 0;
  std::vector<Description> descriptions_;
  std::uint64_t last_description_ = 0;
  const Schedule* schedule_ = nullptr;      // of operation num_begun_, as long as it runs
  std::vector<std::string> failed_labels_;  // of its steps, once it has failed
  std::string directory_, job_, group_;
  std::optional<Error> error_;
  Nanoseconds error_ns_ = 0;
  std::vector<Sight> failed_sights_;
};

SEQCCL_END
