// snapshot.hpp - a flight record as values, between the moment it is taken and the file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "seqccl/flight_recorder.hpp"

SEQCCL_BEGIN

struct FlightRecorder::StepRecord {
  std::uint64_t operation = 0;
  std::uint32_t step = 0;
  std::int16_t about = -1;
  std::uint8_t kind = 0;  // index in Op
  Lane lane = Lane::compute;
  Nanoseconds begin_ns = 0, end_ns = -1;  // -1: goes on
  Rank waited_for = -1;
};

struct FlightRecorder::Snapshot {
  const char* reason = "";
  Rank rank = 0;
  int num_ranks = 0, process = 0;
  std::string transport, job, group;
  Nanoseconds made_steady_ns = 0, made_system_ns = 0, written_ns = 0;
  std::uint64_t num_begun = 0, num_ended = 0;
  std::vector<Operation> operations;
  std::vector<Description> descriptions;
  std::vector<StepRecord> steps;
  std::vector<std::string> labels;  // of steps
  std::optional<Error> error;
  Nanoseconds error_ns = 0;
  std::vector<Sight> sights;
};

SEQCCL_END
