// race_test.cpp - races in shared and global memory, and every way of ordering accesses that rules them out.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/harness.hpp"

namespace ptx::test {
namespace {

// Each thread writes its word of `box` and reads that of another, `distance` further, with `between` in between.
std::string exchanging(const std::string& between, u32 distance) {
  return ".shared .align 4 .b8 box[512];\nmov.u32 %r9, box;\nshl.b32 %r1, %thread, 2;\nadd.u32 %r1, %r1, %r9;\nxor.b32 %r2, %thread, " +
         std::to_string(distance) + ";\nshl.b32 %r2, %r2, 2;\nadd.u32 %r2, %r2, %r9;\nst.shared.u32 [%r1], %thread;\n" + between +
         "\nld.shared.u32 %r3, [%r2];\ncvt.u64.u32 %d1, %r3;\nst.global.u64 [%out], %d1;";
}

std::string run_body(const std::string& body, u32 num_threads = 64, u64 seed = 0, Dim grid = {}) {
  Harness harness(kernel_text(body), 128);
  return found(harness.run(num_threads, seed, grid));
}

TEST(Races, ABarrierOrdersTheBlock) {
  for (const u64 seed : {0, 1, 2}) {
    EXPECT_NE(run_body(exchanging("", 32), 64, seed), "clean");
    EXPECT_EQ(run_body(exchanging("bar.sync 0;", 32), 64, seed), "clean");
    EXPECT_EQ(run_body(exchanging("bar.sync 3;", 1), 64, seed), "clean");
    EXPECT_EQ(run_body(exchanging("barrier.sync 0;", 32), 64, seed), "clean");
  }
}

TEST(Races, ASyncwarpOrdersItsMembersOnly) {
  EXPECT_EQ(run_body(exchanging("", 1)), "race in shared memory");  // lock step hides it: the numbers are right
  EXPECT_EQ(run_body(exchanging("bar.warp.sync -1;", 1)), "clean");
  const std::string halves =
      "and.b32 %r5, %thread, 16;\nsetp.eq.u32 %p1, %r5, 0;\n@%p1 bar.warp.sync 0xffff;\n@!%p1 bar.warp.sync 0xffff0000;";
  EXPECT_EQ(run_body(exchanging(halves, 1)), "clean");
  EXPECT_EQ(run_body(exchanging(halves, 16)), "race in shared memory");
  EXPECT_EQ(run_body(exchanging("shfl.sync.idx.b32 %r6, %thread, 0, 31, -1;", 1)), "race in shared memory");  // a shuffle orders no memory
  EXPECT_EQ(run_body(exchanging("membar.cta;", 1)), "race in shared memory");
}

TEST(Races, ASyncwarpPassesOnWhatABarrierTaught) {
  // Thread 0 learns from thread 32 at barrier 1, the others of its warp from thread 0.
  const std::string body =
      exchanging("setp.eq.u32 %p2, %thread, 0;\nsetp.eq.u32 %p3, %thread, 32;\nbarrier.sync 1, 64;\nbar.warp.sync -1;", 32);
  EXPECT_EQ(run_body(body), "clean");
}

TEST(Races, NamedBarriersOrderOnlyWhoUsesThem) {
  // Threads 0-63 use barrier 1, threads 64-127 barrier 2.
  const std::string pairs = "setp.lt.u32 %p1, %thread, 64;\nselp.u32 %r5, 1, 2, %p1;\nbar.sync %r5, 64;";
  for (const u64 seed : {0, 1, 2, 3}) {
    EXPECT_EQ(run_body(exchanging(pairs, 32), 128, seed), "clean");
    EXPECT_NE(run_body(exchanging(pairs, 64), 128, seed), "clean");
  }
  EXPECT_EQ(run_body(exchanging(pairs + "\nbar.sync 0;", 64), 128), "clean");
}

TEST(Races, AnArrivalReleasesButLearnsNothing) {
  // Warp 0 produces and arrives, warp 1 waits and consumes.
  const std::string produce = "setp.lt.u32 %p1, %thread, 32;\n@%p1 bra producer;\n";
  const std::string text =
      ".shared .align 4 .b8 box[512];\nmov.u32 %r9, box;\nshl.b32 %r1, %thread, 2;\nadd.u32 %r1, %r1, %r9;\n" + produce;
  const std::string consumer = "bar.sync 1, 64;\nld.shared.u32 %r3, [%r1+-128];\nbra end;\nproducer:\n";
  EXPECT_EQ(run_body(text + consumer + "st.shared.u32 [%r1], %thread;\nbar.arrive 1, 64;\nend:"), "clean");
  // It overwrites what the consumer may still be reading.
  for (const u64 seed : {0, 1, 2, 3}) {
    EXPECT_EQ(run_body(text + consumer + "st.shared.u32 [%r1], %thread;\nbar.arrive 1, 64;\nst.shared.u32 [%r1], %thread;\nend:", 64, seed),
              "race in shared memory");
    EXPECT_EQ(run_body(text + "bar.sync 1, 64;\nld.shared.u32 %r3, [%r1+-128];\nbar.arrive 2, 64;\nbra end;\nproducer:\nst.shared.u32 "
                              "[%r1], %thread;\nbar.arrive 1, 64;\nbar.sync 2, 64;\nst.shared.u32 [%r1], %thread;\nend:",
                       64, seed),
              "clean");
  }
}

TEST(Races, ThreeKinds) {
  const std::string box = ".shared .b32 box;\nsetp.eq.u32 %p1, %thread, 0;\n";
  EXPECT_EQ(run_body(box + "st.shared.u32 [box], %thread;"), "race in shared memory");  // write, write
  EXPECT_EQ(
      run_body(box + "@%p1 st.shared.u32 [box], %thread;\nbar.sync 0;\nld.shared.u32 %r1, [box];\n@%p1 st.shared.u32 [box], %thread;"),
      "race in shared memory");  // read, write
  EXPECT_EQ(
      run_body(
          box +
          "@%p1 st.shared.u32 [box], %thread;\nbar.sync 0;\nld.shared.u32 %r1, [box];\nbar.sync 0;\n@%p1 st.shared.u32 [box], %thread;"),
      "clean");
  // Only the last of many readers is unordered.
  EXPECT_EQ(run_body(box + "setp.eq.u32 %p2, %thread, 63;\n@%p1 st.shared.u32 [box], %thread;\nbar.sync 0;\n@!%p2 ld.shared.u32 %r1, "
                           "[box];\nbar.sync 0;\n@%p2 ld.shared.u32 %r1, [box];\n@%p1 st.shared.u32 [box], %thread;"),
            "race in shared memory");
}

TEST(Races, AreExactToTheByte) {
  const std::string box = ".shared .align 4 .b8 box[256];\nmov.u32 %r9, box;\nadd.u32 %r1, %thread, %r9;\ncvt.u16.u32 %h1, %thread;\n";
  EXPECT_EQ(run_body(box + "st.shared.u8 [%r1], %h1;\nld.shared.u8 %h2, [%r1];"), "clean");  // four threads, one word
  EXPECT_EQ(run_body(box + "setp.lt.u32 %p1, %thread, 31;\nst.shared.u8 [%r1], %h1;\n@%p1 ld.shared.u8 %h2, [%r1+1];", 32),
            "race in shared memory");
  EXPECT_EQ(run_body(box + "st.shared.u8 [%r1], %h1;\nbar.sync 0;\nand.b32 %r2, %r1, 252;\nld.shared.u32 %r3, [%r2];"), "clean");
  EXPECT_EQ(
      run_body(box + "st.shared.u8 [%r1], %h1;\nbar.sync 0;\nand.b32 %r2, %r1, 252;\nld.shared.u32 %r3, [%r2];\nst.shared.u8 [%r1], %h1;"),
      "race in shared memory");
}

TEST(Races, AtomicsDoNotRaceWithEachOther) {
  const std::string box = ".shared .b32 box;\nsetp.eq.u32 %p1, %thread, 0;\n@%p1 st.shared.u32 [box], 0;\n";
  EXPECT_EQ(run_body(box + "bar.sync 0;\natom.shared.add.u32 %r1, [box], 1;\nbar.sync 0;\nld.shared.u32 %r2, [box];"), "clean");
  EXPECT_EQ(run_body(box + "bar.sync 0;\natom.shared.add.u32 %r1, [box], 1;\nld.shared.u32 %r2, [box];"), "race in shared memory");
  EXPECT_EQ(run_body(box + "atom.shared.add.u32 %r1, [box], 1;\nbar.sync 0;"), "race in shared memory");
}

TEST(Races, GlobalMemoryWithinABlock) {
  const std::string neighbour = "st.global.u64 [%out], %out;\n", read = "setp.lt.u32 %p1, %thread, 63;\n@%p1 ld.global.u64 %d2, [%out+8];";
  EXPECT_NE(run_body(neighbour + read, 64), "clean");
  EXPECT_EQ(run_body(neighbour + "bar.sync 0;\n" + read, 64), "clean");
}

TEST(Races, BetweenBlocks) {
  const std::string own = "mov.u32 %r1, %ctaid.x;\nmad.wide.u32 %d1, %r1, 256, %out;\n";
  EXPECT_EQ(run_body(own + "st.global.u64 [%d1], %d1;", 32, 0, {4}), "clean");
  EXPECT_EQ(run_body("st.global.u64 [%out], %out;", 32, 0, {1}), "clean");
  for (const u64 seed : {0, 1, 2}) {
    EXPECT_EQ(run_body("st.global.u64 [%out], %out;", 32, seed, {4}), "race between blocks");
    // Each block reads all and then writes its own part in place.
    EXPECT_NE(run_body(own + "ld.global.u64 %d2, [%pointer0];\nst.global.u64 [%d1], %d1;", 32, seed, {4}).find("race between blocks"),
              std::string::npos);
  }
  EXPECT_EQ(run_body("red.global.add.u64 [%out], 1;", 32, 0, {4}), "uninitialised global memory");  // but no race
}

TEST(Races, EachBlockHasSharedMemoryOfItsOwn) {
  const std::string box = ".shared .align 16 .b8 box[512];\nmov.u32 %r9, box;\nmad.lo.u32 %r1, %thread, 16, %r9;\n";
  EXPECT_EQ(run_body(box + "st.shared.u32 [%r1], %thread;\nbar.sync 0;\nld.shared.u32 %r2, [box+16];", 32, 0, {4}), "clean");
  EXPECT_EQ(
      run_body(box + "cp.async.cg.shared.global [%r1], [%pointer0], 16, 0;\ncp.async.wait_all;\nld.shared.u32 %r2, [%r1];", 32, 0, {4}),
      "clean");
}

TEST(Races, LaunchesAreOrdered) {
  Harness harness(kernel_text("st.global.u64 [%out], %out;"));
  EXPECT_EQ(found(harness.run(32)), "clean");
  EXPECT_EQ(found(harness.run(64)), "clean");
}

TEST(Races, ShadowForgetsReadersAtAWrite) {
  Clocks clocks;
  clocks.reset(4);
  Shadow shadow(16);
  const auto actor = [&](u32 thread, u32 block = 1, u32 first = 1) { return Actor{block, first, thread, &clocks}; };
  EXPECT_EQ(shadow.read(0, 4, actor(0), true), Conflict::unwritten);
  EXPECT_EQ(shadow.write(0, 4, actor(0)), Conflict::none);
  EXPECT_EQ(shadow.read(0, 4, actor(1), true), Conflict::read_after_write);
  EXPECT_EQ(shadow.write(1, 1, actor(0)), Conflict::write_after_read);
  EXPECT_EQ(shadow.write(1, 1, actor(0)), Conflict::none);
  EXPECT_EQ(shadow.write(0, 4, actor(0)), Conflict::write_after_read);  // the other three bytes
  EXPECT_EQ(shadow.write(0, 4, actor(2, 2, 1)), Conflict::other_block);
  EXPECT_EQ(shadow.write(0, 4, actor(3, 3, 3)), Conflict::none);  // a later launch
}

TEST(Races, ClocksPassOnKnowledge) {
  Clocks clocks;
  clocks.reset(96);
  EXPECT_FALSE(clocks.knows(0, 40, 1));
  EXPECT_TRUE(clocks.knows(40, 40, 1));
  Clocks::Row row;
  clocks.give(0, all_lanes, row);
  clocks.give(32, 0x100, row);  // thread 40
  const u32 handle = clocks.take(0, all_lanes, row);
  clocks.take_same(32, 0x100, handle);
  EXPECT_TRUE(clocks.knows(5, 40, 1));
  EXPECT_TRUE(clocks.knows(40, 5, 1));
  EXPECT_FALSE(clocks.knows(5, 40, 2));  // what it does afterwards
  EXPECT_FALSE(clocks.knows(5, 41, 1));
  EXPECT_EQ(clocks.now(40), 2U);
  EXPECT_EQ(clocks.now(41), 1U);
  // 64 learns of 5 by way of 41, which never met it.
  Clocks::Row second;
  clocks.give(32, 0x300, second);
  clocks.take(32, 0x300, second);
  Clocks::Row third;
  clocks.give(32, 0x200, third);
  clocks.give(64, 1, third);
  clocks.take(64, 1, third);
  EXPECT_TRUE(clocks.knows(64, 5, 1));
  EXPECT_FALSE(clocks.knows(65, 5, 1));
}

}  // namespace
}  // namespace ptx::test
