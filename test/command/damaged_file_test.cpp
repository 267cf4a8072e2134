// damaged_file_test.cpp - whatever a file holds, the command computes or refuses.
// SPDX-License-Identifier: Apache-2.0
#include "command/command.hpp"
#include "command/support.hpp"
#include "input/damaged.hpp"

namespace seqccl::command::test {
namespace {

TEST(DamagedFile, never_crashes_the_command) {
  const Folder folder;
  const std::string valid = valid_file(folder), path = folder.file("damaged");
  std::mt19937_64 random(2);
  for (int i = 0; i < 300; ++i) {
    write_text(path, damaged(valid, random));
    const Ran ran = run({"run", "attention", "-i", path, "--ranks", "1", "--method", "ring"});
    EXPECT_TRUE(ran.code == exit_right || ran.code == exit_bad_input) << ran.code << ran.err;
  }
}

}  // namespace
}  // namespace seqccl::command::test
