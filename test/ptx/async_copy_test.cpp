// async_copy_test.cpp - cp.async: data arrives at the wait that covers it, and no earlier.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/harness.hpp"

namespace ptx::test {
namespace {

// Each thread copies 16 bytes of the input to its place in shared memory, then `rest`, then reads the first word.
std::string copying(const std::string& rest, const std::string& source_bytes = "", const std::string& place = "%thread") {
  return ".shared .align 16 .b8 box[2048];\nmov.u32 %r9, box;\nshl.b32 %r1, %thread, 4;\nadd.u32 %r1, %r1, %r9;\nmad.wide.u32 %d1, "
         "%thread, 16, %pointer1;\ncp.async.cg.shared.global [%r1], [%d1], 16" +
         source_bytes + ";\n" + rest + "\nmad.lo.u32 %r2, " + place +
         ", 16, %r9;\nld.shared.u32 %r3, [%r2];\ncvt.u64.u32 %d2, %r3;\nst.global.u64 [%out], %d2;";
}

std::vector<u32> words(u32 count) {
  std::vector<u32> values(count);
  for (u32 n = 0; n < count; ++n) values[n] = 1000 + n;
  return values;
}

std::string run_body(const std::string& body, u32 num_threads = 32, u32 num_words = 256) {
  Harness harness(kernel_text(body, 2));
  harness.add_input(words(num_words));
  return found(harness.run(num_threads));
}

constexpr const char* commit = "cp.async.commit_group;\n";

TEST(AsyncCopy, LandsAtTheWait) {
  Harness harness(kernel_text(copying("cp.async.commit_group;\ncp.async.wait_group 0;"), 2));
  harness.add_input(words(256));
  const Result result = harness.run(64);
  EXPECT_EQ(found(result), "clean") << result.text();
  for (u32 n = 0; n < 64; ++n) EXPECT_EQ(harness.output(64)[n], 1000 + 4 * n);
}

TEST(AsyncCopy, ReadingBeforeTheWaitIsFound) {
  EXPECT_EQ(run_body(copying("cp.async.wait_all;")), "clean");
  EXPECT_EQ(run_body(copying(std::string(commit) + "cp.async.wait_group 0;")), "clean");
  EXPECT_EQ(run_body(copying("")), "cp.async in flight, exit with cp.async in flight");
  EXPECT_EQ(run_body(copying(std::string(commit) + "cp.async.wait_group 1;")), "cp.async in flight, exit with cp.async in flight");
  EXPECT_EQ(run_body(copying("cp.async.wait_group 0;")), "cp.async in flight, exit with cp.async in flight");  // not committed
  EXPECT_EQ(run_body(copying(std::string(commit) + commit + "cp.async.wait_group 1;")), "clean");              // an empty group counts
}

TEST(AsyncCopy, OthersNeedABarrierToo) {
  const std::string other = "%r4";
  const std::string wait = "xor.b32 %r4, %thread, 1;\ncp.async.wait_all;\n";
  EXPECT_EQ(run_body(copying(wait, "", other)), "race in shared memory");
  EXPECT_EQ(run_body(copying(wait + "bar.warp.sync -1;", "", other)), "clean");
  EXPECT_EQ(run_body(copying("xor.b32 %r4, %thread, 1;\nbar.warp.sync -1;\ncp.async.wait_all;", "", other)),
            "race in shared memory");  // the wrong way round
  EXPECT_EQ(run_body(copying("xor.b32 %r4, %thread, 32;\ncp.async.wait_all;\nbar.sync 0;", "", other), 64), "clean");
}

TEST(AsyncCopy, OverwritingTheTargetIsFound) {
  EXPECT_EQ(run_body(copying("st.shared.u32 [%r1], %thread;\ncp.async.wait_all;")), "cp.async in flight");
  // A second copy to a place that others still read: the pipeline without its trailing barrier.
  const std::string again =
      "cp.async.wait_all;\nbar.sync 0;\nxor.b32 %r4, %thread, 32;\nmad.lo.u32 %r2, %r4, 16, %r9;\nld.shared.u32 %r3, [%r2];\n";
  const std::string second = "cp.async.cg.shared.global [%r1], [%d1], 16;\ncp.async.wait_all;";
  EXPECT_EQ(run_body(copying(again + second), 64), "race in shared memory");
  EXPECT_EQ(run_body(copying(again + "bar.sync 0;\n" + second), 64), "clean");
}

TEST(AsyncCopy, FillsWithZeros) {
  // %r7: bytes of the source
  Harness ragged(kernel_text(
      "setp.lt.u32 %p1, %thread, 2;\nselp.u32 %r7, 8, 0, %p1;\n" +
          copying("cp.async.wait_all;\nld.shared.u32 %r6, [%r1+8];\nld.shared.u32 %r8, [%r1+4];\nor.b32 %r6, %r6, %r8;", ", %r7") +
          "\ncvt.u64.u32 %d3, %r6;\nst.global.u64 [%out], %d3;",
      2));
  ragged.add_input(words(8));  // two threads' worth: the others read nothing
  const Result result = ragged.run(32);
  EXPECT_EQ(found(result), "clean") << result.text();
  const std::vector<u64> second = ragged.output(32);
  EXPECT_EQ(second[0], 1001U);  // word 1, and a zero for word 2
  EXPECT_EQ(second[1], 1005U);
  EXPECT_EQ(second[2], 0U);
}

TEST(AsyncCopy, IsCheckedLikeAnyAccess) {
  EXPECT_EQ(run_body(copying("cp.async.wait_all;"), 32, 127), "out of bounds");  // the last thread's source
  EXPECT_EQ(run_body("mov.u32 %r1, 0;\n.shared .align 16 .b8 box[64];\ncp.async.cg.shared.global [%r1], [%pointer1+8], 16;"), "misaligned");
  EXPECT_EQ(run_body("mov.u32 %r1, 8;\n.shared .align 16 .b8 box[64];\ncp.async.cg.shared.global [%r1], [%pointer1], 16;"), "misaligned");
  EXPECT_EQ(run_body("mov.u32 %r1, 64;\n.shared .align 16 .b8 box[64];\ncp.async.cg.shared.global [%r1], [%pointer1], 16;"),
            "out of bounds");
  EXPECT_EQ(
      run_body("mov.u32 %r1, 0;\nmov.u32 %r2, 17;\n.shared .align 16 .b8 box[64];\ncp.async.cg.shared.global [%r1], [%pointer1], 16, %r2;"),
      "misaligned");
}

TEST(AsyncCopy, SmallOnesToo) {
  Harness harness(
      kernel_text(".shared .align 16 .b8 box[512];\nmov.u32 %r9, box;\nmad.lo.u32 %r1, %thread, 4, %r9;\nmad.wide.u32 %d1, %thread, 4, "
                  "%pointer1;\ncp.async.ca.shared.global [%r1], [%d1], 4;\ncp.async.wait_all;\nld.shared.u32 %r3, [%r1];\ncvt.u64.u32 %d2, "
                  "%r3;\nst.global.u64 [%out], %d2;",
                  2));
  harness.add_input(words(32));
  EXPECT_EQ(found(harness.run(32)), "clean");
  EXPECT_EQ(harness.output(32)[31], 1031U);
}

}  // namespace
}  // namespace ptx::test
