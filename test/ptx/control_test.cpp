// control_test.cpp - branches, loops, divergence and what brings lanes together again, calls, tables.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/harness.hpp"

namespace ptx::test {
namespace {

const std::string store_r0 = "\ncvt.u64.u32 %d0, %r0;\nst.global.u64 [%out], %d0;";

std::vector<u64> run_text(const std::string& text, u32 num_threads = 32, u64 seed = 0) {
  Harness harness(text);
  const Result result = harness.run(num_threads, seed);
  EXPECT_EQ(found(result), "clean") << result.text();
  return harness.output(num_threads);
}

TEST(Control, BothSidesOfABranch) {
  const std::string body =
      "setp.lt.u32 %p1, %thread, 10;\n@%p1 bra low;\nmov.u32 %r0, 200;\nbra.uni join;\nlow:\nmov.u32 %r0, 100;\njoin:\nadd.u32 %r0, %r0, "
      "%thread;" +
      store_r0;
  const std::vector<u64> got = run_text(kernel_text(body));
  for (u64 n = 0; n < 32; ++n) EXPECT_EQ(got[n], (n < 10 ? 100 : 200) + n);
}

TEST(Control, ALoopThatEveryLaneLeavesElsewhere) {
  const std::string body =
      "mov.u32 %r0, 0;\nmov.u32 %r1, 0;\nagain:\nadd.u32 %r0, %r0, %r1;\nadd.u32 %r1, %r1, 1;\nsetp.le.u32 %p1, %r1, %thread;\n@%p1 bra "
      "again;" +
      store_r0;
  for (const u64 seed : {0, 1, 2}) {
    const std::vector<u64> got = run_text(kernel_text(body), 64, seed);
    for (u64 n = 0; n < 64; ++n) EXPECT_EQ(got[n], n * (n + 1) / 2);
  }
}

TEST(Control, LanesComeTogetherAfterABranch) {
  const std::string body =
      "setp.lt.u32 %p1, %thread, 10;\n@%p1 bra low;\nmov.u32 %r1, 2;\nbra.uni join;\nlow:\nmov.u32 %r1, 1;\njoin:\nmov.u32 %r2, "
      "1;\nmov.u32 %r0, %r1;" +
      store_r0;
  Harness harness(kernel_text(body));
  const Result result = harness.run(32);
  EXPECT_EQ(found(result), "clean");
  for (std::size_t n = 0; n < result.costs.size(); ++n)
    EXPECT_LE(result.costs[n].executed, 1U) << n;  // each instruction once, also behind the join
}

TEST(Control, AShuffleWaitsForLanesOnTheWay) {
  const std::string body =
      "setp.lt.u32 %p1, %thread, 10;\nmov.u32 %r1, 7;\n@%p1 bra slow;\nbra.uni join;\nslow:\nmov.u32 %r1, 8;\nbra.uni "
      "join;\njoin:\nshfl.sync.bfly.b32 %r0, %r1, 16, 31, -1;" +
      store_r0;
  const std::vector<u64> got = run_text(kernel_text(body));
  for (u64 n = 0; n < 32; ++n) EXPECT_EQ(got[n], (n ^ 16) < 10 ? 8U : 7U);
}

TEST(Control, PredicatesAndGuards) {
  const std::string body = "setp.lt.u32 %p1, %thread, 10;\nmov.u32 %r0, 1;\n@%p1 mov.u32 %r0, 2;\n@!%p1 add.u32 %r0, %r0, 5;" + store_r0;
  const std::vector<u64> got = run_text(kernel_text(body));
  for (u64 n = 0; n < 32; ++n) EXPECT_EQ(got[n], n < 10 ? 2U : 6U);
}

TEST(Control, EarlyExit) {
  const std::string body =
      "mov.u64 %d1, 5;\nst.global.u64 [%out], %d1;\nsetp.ge.u32 %p1, %thread, 10;\n@%p1 exit;\nbar.sync 0;\nmov.u64 %d1, 6;\nst.global.u64 "
      "[%out], %d1;";
  const std::vector<u64> got = run_text(kernel_text(body), 64);
  for (u64 n = 0; n < 64; ++n) EXPECT_EQ(got[n], n < 10 ? 6U : 5U);
}

TEST(Control, ABranchTable) {
  const std::string body =
      "and.b32 %r1, %thread, 3;\nbrx.idx %r1, table;\ntable: .branchtargets zero, one, two, one;\nzero:\nmov.u32 %r0, 10;\nbra "
      "end;\none:\nmov.u32 %r0, 11;\nbra end;\ntwo:\nmov.u32 %r0, 12;\nend:" +
      store_r0;
  const std::vector<u64> got = run_text(kernel_text(body));
  for (u64 n = 0; n < 32; ++n) EXPECT_EQ(got[n], n % 4 == 3 ? 11 : 10 + n % 4);
  Harness beyond(kernel_text("mov.u32 %r1, 4;\nbrx.idx %r1, table;\ntable: .branchtargets end, end;\nend:"));
  EXPECT_EQ(found(beyond.run()), "out of bounds");
}

// twice(x) = x + x; plus(a, b) = twice(a) + b
const std::string functions =
    ".func (.param .b32 result) twice(.param .b32 x)\n{\n.reg .b32 %r<3>;\nld.param.u32 %r1, [x];\nadd.u32 %r2, %r1, %r1;\nst.param.b32 "
    "[result], %r2;\nret;\n}\n"
    ".func (.param .b32 result) plus(.param .b32 a, .param .b32 b)\n{\n.reg .b32 %r<6>;\nld.param.u32 %r1, [a];\nld.param.u32 %r2, [b];\n"
    "{\n.param .b32 p0;\n.param .b32 r0;\nst.param.b32 [p0], %r1;\ncall.uni (r0), twice, (p0);\nld.param.b32 %r3, [r0];\n}\nadd.u32 %r4, "
    "%r3, %r2;\nst.param.b32 [result], %r4;\nret;\n}\n";
const std::string call_plus =
    "{\n.param .b32 p0;\n.param .b32 p1;\n.param .b32 r0;\nst.param.b32 [p0], %thread;\nst.param.b32 [p1], 1000;\ncall.uni (r0), plus, "
    "(p0, p1);\nld.param.b32 %r0, [r0];\n}\n";

TEST(Control, Calls) {
  const std::vector<u64> got = run_text(kernel_text(call_plus + store_r0, 1, functions), 64);
  for (u64 n = 0; n < 64; ++n) EXPECT_EQ(got[n], 2 * n + 1000);
}

TEST(Control, CallsOfSomeLanes) {
  const std::string body = "mov.u32 %r0, 3;\nsetp.lt.u32 %p1, %thread, 20;\n@%p1 bra over;\n" + call_plus + "over:" + store_r0;
  const std::vector<u64> got = run_text(kernel_text(body, 1, functions));
  for (u64 n = 0; n < 32; ++n) EXPECT_EQ(got[n], n < 20 ? 3 : 2 * n + 1000);
}

TEST(Control, AResultThatWasNotStoredIsUninitialised) {
  const std::string empty = ".func (.param .b32 result) plus(.param .b32 a, .param .b32 b)\n{\nret;\n}\n";
  Harness harness(kernel_text(call_plus, 1, empty));
  EXPECT_EQ(found(harness.run()), "uninitialised local memory");
}

TEST(Control, BlocksAndGrids) {
  const std::string body =
      "mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %ctaid.y;\nmov.u32 %r3, %nctaid.x;\nmad.lo.u32 %r4, %r2, %r3, %r1;\nmov.u32 %r5, "
      "%ntid.x;\nmad.lo.u32 %r6, %r4, %r5, %thread;\nmad.wide.u32 %d1, %r6, 8, %pointer0;\ncvt.u64.u32 %d2, %r6;\nst.global.u64 [%d1], "
      "%d2;";
  for (const u64 seed : {0, 5}) {
    Harness harness(kernel_text(body), 6 * 16);
    EXPECT_EQ(found(harness.run(16, seed, {3, 2})), "clean");
    for (u64 n = 0; n < 96; ++n) EXPECT_EQ(harness.output(96)[n], n);
  }
}

TEST(Control, ReductionsAtABarrier) {
  const std::string body =
      "setp.lt.u32 %p1, %thread, 40;\nbarrier.red.popc.aligned.u32 %r1, 0, %p1;\nbarrier.red.and.aligned.pred %p2, 0, "
      "%p1;\nbarrier.red.or.aligned.pred %p3, 0, %p1;\nselp.u32 %r2, 100, 0, %p2;\nselp.u32 %r3, 1000, 0, %p3;\nadd.u32 %r0, %r1, "
      "%r2;\nadd.u32 %r0, %r0, %r3;" +
      store_r0;
  EXPECT_EQ(run_text(kernel_text(body), 64)[5], 1040U);
  EXPECT_EQ(run_text(kernel_text(body), 32)[5], 1132U);
}

TEST(Exchange, Shuffles) {
  const auto run = [](const std::string& shuffle) { return run_text(kernel_text("mov.u32 %r1, %thread;\n" + shuffle + store_r0)); };
  const auto up = run("shfl.sync.up.b32 %r0, %r1, 3, 0, -1;"), down = run("shfl.sync.down.b32 %r0, %r1, 3, 31, -1;"),
             index = run("shfl.sync.idx.b32 %r0, %r1, 5, 31, -1;");
  const auto segment = run("shfl.sync.idx.b32 %r0, %r1, 5, 0x181f, -1;");  // segments of 8
  const auto inside = run("shfl.sync.down.b32 %r2|%p1, %r1, 3, 31, -1;\nselp.u32 %r0, 1, 0, %p1;");
  for (u64 n = 0; n < 32; ++n) {
    EXPECT_EQ(up[n], n < 3 ? n : n - 3);
    EXPECT_EQ(down[n], n > 28 ? n : n + 3);
    EXPECT_EQ(index[n], 5U);
    EXPECT_EQ(segment[n], n / 8 * 8 + 5);
    EXPECT_EQ(inside[n], n <= 28 ? 1U : 0U);
  }
}

TEST(Exchange, VotesMatchesReductions) {
  const auto run = [](const std::string& body) {
    return run_text(kernel_text("and.b32 %r1, %thread, 1;\nsetp.eq.u32 %p1, %r1, 1;\n" + body + store_r0))[3];
  };
  EXPECT_EQ(run("vote.sync.ballot.b32 %r0, %p1, -1;"), 0xaaaaaaaaU);
  EXPECT_EQ(run("vote.sync.ballot.b32 %r0, !%p1, -1;"), 0x55555555U);
  EXPECT_EQ(run("vote.sync.any.pred %p2, %p1, -1;\nselp.u32 %r0, 1, 0, %p2;"), 1U);
  EXPECT_EQ(run("vote.sync.all.pred %p2, %p1, -1;\nselp.u32 %r0, 1, 0, %p2;"), 0U);
  EXPECT_EQ(run("vote.sync.uni.pred %p2, %p1, -1;\nselp.u32 %r0, 1, 0, %p2;"), 0U);
  EXPECT_EQ(run("match.any.sync.b32 %r0, %r1, -1;"), 0xaaaaaaaaU);
  EXPECT_EQ(run("match.all.sync.b32 %r0|%p2, %r1, -1;"), 0U);
  EXPECT_EQ(run("redux.sync.add.u32 %r0, %thread, -1;"), 496U);
  EXPECT_EQ(run("redux.sync.max.s32 %r0, %thread, -1;"), 31U);
  EXPECT_EQ(run("redux.sync.xor.b32 %r0, %r1, -1;"), 0U);
  EXPECT_EQ(run("activemask.b32 %r0;"), 0xffffffffU);
}

TEST(Atomics, AllKinds) {
  // Every lane adds to one word; each gets a different old value.
  const std::string box = ".shared .b32 box;\nsetp.eq.u32 %p1, %thread, 0;\n@%p1 st.shared.u32 [box], 5;\nbar.sync 0;\n";
  const auto last = [&](const std::string& body) {
    return run_text(kernel_text(box + body + "\nbar.sync 0;\nld.shared.u32 %r0, [box];" + store_r0), 64)[0];
  };
  EXPECT_EQ(last("atom.shared.add.u32 %r1, [box], 2;"), 133U);
  EXPECT_EQ(last("red.shared.max.u32 [box], %thread;"), 63U);
  EXPECT_EQ(last("red.shared.min.s32 [box], -3;"), 0xfffffffdU);
  EXPECT_EQ(last("atom.shared.exch.b32 %r1, [box], 9;"), 9U);
  EXPECT_EQ(last("atom.shared.cas.b32 %r1, [box], 5, 77;"), 77U);
  EXPECT_EQ(last("atom.shared.cas.b32 %r1, [box], 6, 77;"), 5U);
  EXPECT_EQ(last("atom.shared.inc.u32 %r1, [box], 6;"), (5 + 64) % 7U);
  EXPECT_EQ(last("atom.shared.dec.u32 %r1, [box], 6;"), (5 + 6) % 7U);
  EXPECT_EQ(last("red.shared.or.b32 [box], %thread;"), 63U);
  Harness old(kernel_text(box + "atom.shared.add.u32 %r0, [box], 1;" + store_r0));
  EXPECT_EQ(found(old.run(64)), "clean");
  u64 sum = 0;
  for (const u64 value : old.output(64)) sum += value;
  EXPECT_EQ(sum, 64 * 5 + 63 * 64 / 2U);
  Harness floats(kernel_text("atom.global.add.f32 %f1, [%pointer1], 0f3F000000;\nred.global.add.f64 [%pointer2], 0d3FE0000000000000;", 3));
  floats.add_input(std::vector<float>{1, 0});
  floats.add_input(std::vector<double>{1});
  EXPECT_EQ(found(floats.run(32)), "clean");
  EXPECT_EQ(floats.output<float>(1, 1)[0], 17.0F);
  EXPECT_EQ(floats.output<double>(1, 2)[0], 17.0);
}

TEST(Memory, VectorsExtensionAndGenericAddresses) {
  const auto one = [](const std::string& body) { return run_text(kernel_text(body + store_r0), 1)[0]; };
  const std::string box = ".shared .align 16 .b8 box[32];\n";
  EXPECT_EQ(one(box + "mov.u32 %r1, 1;\nmov.u32 %r2, 2;\nst.shared.v2.u32 [box+8], {%r1, %r2};\nld.shared.v2.u32 {%r3, %r4}, "
                      "[box+8];\nsub.u32 %r0, %r4, %r3;"),
            1U);
  EXPECT_EQ(one(box + "mov.u32 %r1, 0x80;\nst.shared.u32 [box], %r1;\nld.shared.s8 %r0, [box];"), 0xffffff80U);
  EXPECT_EQ(one(box + "mov.u32 %r1, 0x80;\nst.shared.u32 [box], %r1;\nld.shared.u8 %r0, [box];"), 0x80U);
  EXPECT_EQ(one(box + "mov.u32 %r1, 7;\nst.shared.u32 [box], %r1;\nmov.u64 %d1, box;\ncvta.shared.u64 %d2, %d1;\nld.u32 %r0, [%d2];"), 7U);
  EXPECT_EQ(one(box + "mov.u64 %d1, box;\ncvta.shared.u64 %d2, %d1;\nmov.u32 %r1, 7;\nst.u32 [%d2+4], %r1;\ncvta.to.shared.u64 %d3, "
                      "%d2;\nld.shared.u32 %r0, [%d3+4];"),
            7U);
  EXPECT_EQ(one(".local .align 8 .b8 depot[8];\nmov.u64 %d1, depot;\ncvta.local.u64 %d2, %d1;\nmov.u32 %r1, 9;\nst.u32 [%d2+4], "
                "%r1;\nld.local.u32 %r0, [depot+4];"),
            9U);
  EXPECT_EQ(one("cvta.to.global.u64 %d1, %pointer0;\nmov.u32 %r1, 3;\nst.global.u32 [%d1], %r1;\nld.u32 %r0, [%pointer0];"), 3U);
}

TEST(Memory, LocalMemoryIsPerThread) {
  const std::vector<u64> got =
      run_text(kernel_text(".local .b32 own;\nst.local.u32 [own], %thread;\nbar.sync 0;\nld.local.u32 %r0, [own];" + store_r0), 64);
  for (u64 n = 0; n < 64; ++n) EXPECT_EQ(got[n], n);
}

TEST(Memory, VariablesOfTheModule) {
  const std::string before =
      ".global .align 4 .u32 counts[3] = {1, 2, 3};\n.global .align 8 .u64 link = generic(counts)+4;\n.global .align 4 .b8 "
      "zeros[8];\n.const .align 4 .f32 third = 0f40400000;\n";
  const std::string body =
      "mov.u64 %d1, link;\nld.global.u64 %d2, [%d1];\nld.u32 %r1, [%d2];\nld.global.u32 %r2, [zeros+4];\nld.const.u32 %r3, "
      "[third];\nadd.u32 %r0, %r1, %r2;\nadd.u32 %r0, %r0, %r3;" +
      store_r0;
  EXPECT_EQ(run_text(kernel_text(body, 1, before), 1)[0], 2 + 0x40400000U);
}

}  // namespace
}  // namespace ptx::test
