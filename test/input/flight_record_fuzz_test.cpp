// flight_record_fuzz_test.cpp - whatever a flight record holds, it is read or refused.
// SPDX-License-Identifier: Apache-2.0
#include "command/doctor_record.hpp"
#include "input/damaged.hpp"
#include "seqccl/communicator.hpp"
#include "seqccl/execute.hpp"
#include "seqccl/recorder.hpp"

namespace seqccl::command::test {
namespace {

std::string valid_record(const Folder& folder) {
  const std::string path = folder.file("record");
  run_ranks(2, [&](Communicator& comm) {
    Recorder plan("swap", comm.rank(), 2);
    const Block x = plan.scratch(f32, {1, 1, 1, 1}), y = plan.scratch(f32, {1, 1, 1, 1});
    plan.compute(Zero{x});
    plan.exchange({{1 - comm.rank(), x}}, {{1 - comm.rank(), y}});
    const Schedule schedule = std::move(plan).finish("swap");
    run_host(schedule, Bindings(schedule, comm.arena(schedule.workspace_bytes)), comm.transport(), {});
    if (comm.rank() == 0) comm.write_flight_record(path);
  });
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(FlightRecordFuzz, DamageIsRefusedWithTheFilesName) {
  const Folder folder;
  const std::string valid = valid_record(folder);
  EXPECT_EQ(parse_flight_record("valid", valid).steps.size(), 2u);
  EXPECT_EQ(parse_flight_record("valid", valid).num_ranks, 2);
  std::mt19937_64 random(7);
  int num_refused = 0;
  for (int i = 0; i < 20000; ++i) {
    // Damage hits the front of what it is given: every part is in front once in a while.
    const std::size_t at = random() % valid.size();
    const std::string text = valid.substr(0, at) + damaged(valid.substr(at), random);
    try {
      (void)parse_flight_record("the file", text);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument);
      EXPECT_EQ(std::string(error.what()).rfind("the file: ", 0), 0u) << error.what();
      ++num_refused;
    }
  }
  EXPECT_GT(num_refused, 10000);
  EXPECT_LT(num_refused, 20000) << "damage inside a text or a number is still a record";
}

TEST(FlightRecordFuzz, DeepNestsAndHugeNumbersAreRefused) {
  EXPECT_REFUSED(parse_flight_record("f", std::string(2000000, '[')), "f: is no JSON");
  EXPECT_REFUSED(parse_flight_record("f", std::string(100000, '[') + std::string(100000, ']')), "f: is no object");
  EXPECT_REFUSED(parse_flight_record("f", R"({"schema": "seqccl flight record", "schema_version": 99999999999999999999})"),
                 "no whole number");
}

}  // namespace
}  // namespace seqccl::command::test
