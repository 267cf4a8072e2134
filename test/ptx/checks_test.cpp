// checks_test.cpp - each check but those of races: a kernel that trips it, and its neighbour that does not.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/harness.hpp"

namespace ptx::test {
namespace {

std::string run_body(const std::string& body, u32 num_threads = 32, const std::string& before = "", u64 dynamic_shared_bytes = 0) {
  Harness harness(kernel_text(body, 1, before));
  return found(harness.run(num_threads, 0, {}, dynamic_shared_bytes));
}

TEST(Checks, ACorrectKernelIsClean) {
  Harness harness(kernel_text("cvt.u64.u32 %d1, %thread;\nst.global.u64 [%out], %d1;"));
  const Result result = harness.run(64);
  EXPECT_EQ(found(result), "clean") << result.text();
  for (u64 n = 0; n < 64; ++n) EXPECT_EQ(harness.output(64)[n], n);
}

TEST(Checks, GlobalOutOfBounds) {
  const std::string body = "mov.u64 %d1, 0;\nst.global.u64 [%out], %d1;";
  EXPECT_EQ(run_body(body, 64), "clean");
  EXPECT_EQ(run_body(body, 65), "out of bounds");                                      // one past the end
  EXPECT_EQ(run_body("ld.global.u64 %d1, [%out+-8];"), "out of bounds");               // one before the beginning
  EXPECT_EQ(run_body("mov.u64 %d1, 0;\nst.global.u64 [%d1], %d1;"), "out of bounds");  // null
  EXPECT_EQ(run_body("cvt.u32.u64 %r1, %out;\ncvt.u64.u32 %d2, %r1;\nst.global.u64 [%d2], %d2;"), "out of bounds");  // truncated to 32 bits
}

TEST(Checks, GlobalUseAfterFree) {
  Harness harness(kernel_text("ld.global.u64 %d1, [%pointer1];\nst.global.u64 [%out], %d1;", 2));
  const u64 address = harness.add_input(std::vector<u64>{7});
  EXPECT_EQ(found(harness.run()), "clean");
  harness.memory().free(address);
  const Result result = harness.run();
  EXPECT_EQ(found(result), "out of bounds");
  EXPECT_NE(result.text().find("freed"), std::string::npos) << result.text();
}

TEST(Checks, SharedOutOfBounds) {
  const std::string before = ".extern .shared .align 16 .b8 smem[];\n";
  const std::string body = "shl.b32 %r1, %thread, 2;\nmov.u32 %r2, smem;\nadd.u32 %r1, %r1, %r2;\nst.shared.u32 [%r1], %r1;";
  EXPECT_EQ(run_body(body, 32, before, 128), "clean");
  EXPECT_EQ(run_body(body, 32, before, 124), "out of bounds");
  EXPECT_EQ(run_body(".shared .b32 box[32];\n" + std::string("shl.b32 %r1, %thread, 2;\nst.shared.u32 [%r1+4], %r1;"), 32),
            "out of bounds");
}

TEST(Checks, LocalAndParameterOutOfBounds) {
  EXPECT_EQ(run_body(".local .align 8 .b8 depot[16];\nst.local.u64 [depot+8], %out;\nld.local.u64 %d1, [depot+8];"), "clean");
  EXPECT_EQ(run_body(".local .align 8 .b8 depot[16];\nst.local.u64 [depot+16], %out;"), "out of bounds");
  EXPECT_EQ(run_body("ld.param.u64 %d1, [parameter0+8];"), "out of bounds");
}

TEST(Checks, Misaligned) {
  EXPECT_EQ(run_body("ld.global.u32 %r1, [%pointer0+2];"), "misaligned");
  EXPECT_EQ(run_body("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%pointer0+8];"), "misaligned");
  EXPECT_EQ(run_body(".shared .align 16 .b8 box[64];\nst.shared.v2.u32 [box+4], {%thread, %thread};"), "misaligned");
}

TEST(Checks, UninitialisedRegister) {
  EXPECT_EQ(run_body("add.u32 %r1, %r2, 1;"), "uninitialised register");
  EXPECT_EQ(run_body("setp.lt.u32 %p1, %thread, 16;\n@%p1 mov.u32 %r1, 0;\nadd.u32 %r2, %r1, 1;"),
            "uninitialised register");  // half of the lanes
  EXPECT_EQ(run_body("setp.lt.u32 %p1, %thread, 16;\n@%p1 mov.u32 %r1, 0;\n@%p1 add.u32 %r2, %r1, 1;"), "clean");
  EXPECT_EQ(run_body("@%p1 mov.u32 %r1, 0;"), "uninitialised register");  // the guard
  EXPECT_EQ(run_body("mov.u32 %r1, %r2;"), "clean");                      // compilers copy what they never use
  EXPECT_EQ(run_body("mov.u32 %r1, %r2;\nadd.u32 %r3, %r1, 1;"), "uninitialised register");
}

TEST(Checks, UninitialisedMemory) {
  EXPECT_EQ(run_body("ld.global.u64 %d1, [%out];"), "uninitialised global memory");
  EXPECT_EQ(run_body("st.global.u32 [%out], %thread;\nld.global.u64 %d1, [%out];"), "uninitialised global memory");  // four of eight bytes
  EXPECT_EQ(run_body("st.global.u64 [%out], %out;\nld.global.u64 %d1, [%out];"), "clean");
  EXPECT_EQ(run_body(".shared .b32 box;\nld.shared.u32 %r1, [box];"), "uninitialised shared memory");
  EXPECT_EQ(run_body(".shared .b32 box;\natom.shared.add.u32 %r1, [box], 1;"), "uninitialised shared memory");
  EXPECT_EQ(run_body(".local .b32 box;\nld.local.u32 %r1, [box];"), "uninitialised local memory");
}

/// Compilers load neighbours of what they need: a vector's element that nobody has written matters when it is used.
TEST(Checks, AnUnwrittenElementOfAVectorLoadMattersWhenItIsUsed) {
  const std::string load = ".shared .align 16 .b32 box[4];\nst.shared.u32 [box], %thread;\nld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [box];\n";
  EXPECT_EQ(run_body(load + "add.u32 %r5, %r1, 1;", 1), "clean");
  EXPECT_EQ(run_body(load + "add.u32 %r5, %r2, 1;", 1), "uninitialised register");
  EXPECT_EQ(run_body(load + "mov.u32 %r2, 7;\nadd.u32 %r5, %r2, 1;", 1), "clean");
}

TEST(Checks, SharedMemoryOfAnEarlierBlockIsUninitialised) {
  Harness harness(kernel_text(
      ".shared .b32 box;\nmov.u32 %r1, %ctaid.x;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [box], %r1;\nld.shared.u32 %r2, [box];"));
  EXPECT_EQ(found(harness.run(1, 0, {1})), "clean");
  EXPECT_EQ(found(harness.run(1, 0, {2})), "uninitialised shared memory");
}

TEST(Checks, ConstantMemoryIsReadOnly) {
  const std::string before = ".const .align 4 .u32 table[2] = {5, 6};\n";
  EXPECT_EQ(run_body("mov.u64 %d1, table;\nld.const.u32 %r1, [table+4];\nst.global.u32 [%out], %r1;", 1, before), "clean");
  EXPECT_EQ(run_body("mov.u64 %d1, table;\nst.global.u32 [%d1], %thread;", 1, before), "write to constant memory");
}

TEST(Checks, DivergenceAtABarrier) {
  EXPECT_EQ(run_body("bar.sync 0;", 64), "clean");
  EXPECT_EQ(run_body("setp.lt.u32 %p1, %thread, 16;\n@%p1 bar.sync 0;", 64), "divergence");
  EXPECT_EQ(run_body("setp.lt.u32 %p1, %thread, 16;\n@%p1 bra over;\nbar.sync 0;\nover:"), "clean");  // the lanes that branch have exited
  EXPECT_EQ(run_body("setp.lt.u32 %p1, %thread, 16;\n@%p1 bra over;\nbar.sync 0;\nbra end;\nover:\nbar.sync 1;\nend:"), "divergence");
  EXPECT_EQ(run_body("setp.lt.u32 %p1, %thread, 32;\n@%p1 bar.sync 0;", 64), "clean");  // the second warp exits, so it does not count
}

TEST(Checks, DivergenceAtMemberMasks) {
  const std::string half = "setp.lt.u32 %p1, %thread, 16;\n";
  EXPECT_EQ(run_body(half + "@%p1 shfl.sync.idx.b32 %r1, %thread, 0, 31, 0xffff;"), "clean");
  EXPECT_EQ(run_body(half + "@%p1 shfl.sync.idx.b32 %r1, %thread, 0, 31, -1;"), "divergence");
  EXPECT_EQ(run_body(half + "@%p1 shfl.sync.idx.b32 %r1, %thread, 0, 31, 0xff;"), "divergence");     // a lane outside its own mask
  EXPECT_EQ(run_body(half + "@%p1 shfl.sync.idx.b32 %r1, %thread, 20, 31, 0xffff;"), "divergence");  // reads a lane that is not there
  EXPECT_EQ(run_body(half + "@%p1 bra over;\nbar.warp.sync 0xffff0000;\nbra end;\nover:\nbar.warp.sync 0xffff;\nend:"), "clean");
  EXPECT_EQ(run_body(half + "@%p1 bra over;\nbar.warp.sync -1;\nbra end;\nover:\nbar.warp.sync -1;\nend:\nbar.warp.sync -1;"),
            "divergence");
}

TEST(Checks, MatrixInstructionsNeedTheWholeWarp) {
  const std::string zero = "mov.u32 %r1, 0;\nmov.f32 %f1, 0f00000000;\n";
  const std::string mma =
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f2, %f3, %f4, %f5}, {%r1, %r1}, {%r1}, {%f1, %f1, %f1, %f1};\n";
  EXPECT_EQ(run_body(zero + mma), "clean");
  EXPECT_EQ(run_body(zero + "setp.lt.u32 %p1, %thread, 31;\n@%p1 " + mma), "divergence");
  EXPECT_EQ(run_body(zero + mma, 48), "divergence");  // half a warp
  EXPECT_EQ(run_body(zero + "setp.eq.u32 %p1, %thread, 3;\n@%p1 exit;\n" + mma), "divergence");
}

TEST(Checks, Deadlock) {
  EXPECT_EQ(run_body("setp.lt.u32 %p1, %thread, 32;\n@%p1 bar.sync 1, 64;\n@!%p1 bar.sync 2, 64;", 64), "deadlock");
  EXPECT_EQ(run_body("setp.lt.u32 %p1, %thread, 32;\n@%p1 bar.sync 1, 64;\n@!%p1 bar.arrive 1, 64;", 64), "clean");
}

TEST(Checks, MisusedBarrier) {
  EXPECT_EQ(run_body("bar.sync 16;"), "misused barrier");
  EXPECT_EQ(run_body("bar.sync 1, 33;"), "misused barrier");
  EXPECT_EQ(run_body("setp.lt.u32 %p1, %thread, 32;\nselp.u32 %r1, 64, 96, %p1;\nbar.sync 1, %r1;", 64), "misused barrier");
  EXPECT_EQ(run_body("barrier.sync %thread;"), "misused barrier");
}

TEST(Checks, EndlessLoop) { EXPECT_EQ(run_body("again:\nbra again;"), "too long"); }

TEST(Checks, TrapAndMissingFunctions) {
  EXPECT_EQ(run_body("trap;"), "trap");
  EXPECT_EQ(run_body("setp.gt.u32 %p1, %thread, 40;\n@%p1 trap;"), "clean");
  EXPECT_EQ(run_body("call.uni f;", 32, ".extern .func f;\n"), "missing function");
  EXPECT_EQ(run_body("call.uni __assertfail;", 32, ".extern .func __assertfail;\n"), "trap");
}

TEST(Checks, AReportSaysWhereAndWho) {
  Harness harness(kernel_text(".loc 1 42 0\nmov.u64 %d1, 0;\nst.global.u64 [%out], %d1;\n", 1, ".file 1 \"folder/attend.cu\"\n"));
  const Result result = harness.run(65);
  ASSERT_EQ(result.reports.size(), 1U);
  const std::string& text = result.reports[0].text;
  EXPECT_FALSE(result.completed);
  EXPECT_TRUE(result.reports[0].fatal);
  for (const char* part : {"out of bounds", "8 bytes", "512 bytes into an allocation of 512", "buffer 0", "block (0, 0, 0) thread 64",
                           "attend.cu:42", "test.ptx:", "st.global.u64 [%out], %d1;"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  }
}

TEST(Checks, AFindingIsCountedOncePerInstruction) {
  Harness harness(kernel_text("ld.global.u64 %d1, [%out];\nld.global.u64 %d2, [%out];"));
  const Result result = harness.run(32);
  ASSERT_EQ(result.reports.size(), 2U);
  EXPECT_EQ(result.reports[0].count, 32U);
  EXPECT_TRUE(result.completed);
}

TEST(Checks, LaunchesThatNoDeviceWouldStart) {
  Harness harness(kernel_text("mov.u32 %r1, 0;"));
  EXPECT_THROW((void)harness.run(0), Error);
  EXPECT_THROW((void)harness.run(1025), Error);
  EXPECT_THROW((void)harness.run(32, 0, {0, 1, 1}), Error);
  EXPECT_THROW((void)harness.run(32, 0, {1, 65536, 1}), Error);
  EXPECT_THROW((void)harness.run(32, 0, {}, 300'000), Error);
  const Kernel& kernel = harness.module().kernel("k");
  EXPECT_THROW((void)run(kernel, harness.memory(), {.arguments = {}}), Error);
  EXPECT_THROW(Arguments(kernel).add(u32{1}), Error);
  EXPECT_THROW(Arguments(kernel).add(u64{1}).add(u64{1}), Error);
  Harness bound(header + ".visible .entry k(.param .u64 a)\n.maxntid 64, 1, 1\n{\nret;\n}\n");
  EXPECT_EQ(found(bound.run(64)), "clean");
  EXPECT_THROW((void)bound.run(65), Error);
}

}  // namespace
}  // namespace ptx::test
