// counters_test.cpp - instructions by class, bank passes, sectors: against counts made by hand.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/harness.hpp"

namespace ptx::test {
namespace {

Counters count(const std::string& body, u32 num_threads = 32) {
  Harness harness(kernel_text(body), 4096);
  const Result result = harness.run(num_threads);
  EXPECT_EQ(found(result), "clean") << result.text();
  return result.counters;
}

TEST(Counters, InstructionsByClass) {
  const std::string body =
      "mov.f32 %f1, 0f3F800000;\nadd.f32 %f1, %f1, %f1;\nfma.rn.f32 %f2, %f1, %f1, %f1;\nex2.approx.f32 %f3, %f2;\ncvt.rzi.u32.f32 %r1, "
      "%f1;\nadd.u32 %r2, %r1, 1;\nbar.sync 0;\nshfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;";
  const Counters c = count(body, 96);  // three warps
  EXPECT_EQ(c.of(Work::floating).executed, 6U);
  EXPECT_EQ(c.of(Work::special).executed, 3U);
  EXPECT_EQ(c.of(Work::convert).executed, 3U);
  EXPECT_EQ(c.of(Work::barrier).executed, 3U);
  EXPECT_EQ(c.of(Work::exchange).executed, 3U);
  EXPECT_EQ(c.of(Work::integer).executed, 6U);  // and the address of out
  EXPECT_EQ(c.of(Work::control).executed, 3U);
  u64 sum = 0;
  for (const Cost& cost : c.by_work) sum += cost.executed;
  EXPECT_EQ(sum, c.total.executed);
}

Cost shared_cost(u32 stride, const std::string& type, u32 num_lanes_used = 32) {
  const std::string text = ".shared .align 16 .b8 box[16384];\nmov.u32 %r9, box;\nmad.lo.u32 %r1, %thread, " + std::to_string(stride) +
                           ", %r9;\nsetp.lt.u32 %p1, %thread, " + std::to_string(num_lanes_used) +
                           ";\nmov.u64 %d1, 0;\nmov.u32 %r2, 0;\ncvt.u16.u32 %h1, %r2;\n";
  const std::string value = type == "u32" ? "%r2" : type == "u64" ? "%d1" : type == "u16" ? "%h1" : "{%r2, %r2, %r2, %r2}";
  return count(text + "@%p1 st.shared." + type + " [%r1], " + value + ";").of(Work::shared);
}

TEST(Counters, BankConflicts) {
  EXPECT_EQ(shared_cost(4, "u32").bank_waves, 1U);
  EXPECT_EQ(shared_cost(8, "u32").bank_waves, 2U);
  EXPECT_EQ(shared_cost(128, "u32").bank_waves, 32U);
  EXPECT_EQ(shared_cost(132, "u32").bank_waves, 1U);  // padded
  EXPECT_EQ(shared_cost(128, "u32", 5).bank_waves, 5U);
  EXPECT_EQ(shared_cost(2, "u16").bank_waves, 1U);
  EXPECT_EQ(shared_cost(8, "u64").bank_waves, 2U);  // 256 bytes need two passes
  EXPECT_EQ(shared_cost(8, "u64").min_waves, 2U);
  EXPECT_EQ(shared_cost(16, "v4.u32").bank_waves, 4U);
  EXPECT_EQ(shared_cost(128, "v4.u32").bank_waves, 32U);
  EXPECT_EQ(shared_cost(128, "v4.u32").min_waves, 4U);
}

TEST(Counters, ABroadcastIsOnePass) {
  const std::string body =
      ".shared .align 4 .b8 box[128];\nmov.u32 %r9, box;\nmad.lo.u32 %r1, %thread, 4, %r9;\nst.shared.u32 [%r1], %thread;\nbar.sync 0;\n";
  const Counters c = count(body + "ld.shared.u32 %r2, [box+4];");
  EXPECT_EQ(c.of(Work::shared).requests, 2U);
  EXPECT_EQ(c.of(Work::shared).bank_waves, 2U);
}

TEST(Counters, Sectors) {
  const auto cost = [](u32 stride, u32 offset) {
    return count("mad.wide.u32 %d1, %thread, " + std::to_string(stride) + ", %pointer0;\nst.global.u32 [%d1+" + std::to_string(offset) +
                 "], %thread;")
        .of(Work::global);
  };
  EXPECT_EQ(cost(4, 0).sectors, 4U);
  EXPECT_EQ(cost(4, 0).min_sectors, 4U);
  EXPECT_EQ(cost(4, 4).sectors, 5U);  // not aligned
  EXPECT_EQ(cost(32, 0).sectors, 32U);
  EXPECT_EQ(cost(32, 0).min_sectors, 4U);
  EXPECT_EQ(cost(8, 0).sectors, 8U);
}

TEST(Counters, AsyncCopiesCountBothMemories) {
  Harness harness(
      kernel_text(".shared .align 16 .b8 box[512];\nmov.u32 %r9, box;\nmad.lo.u32 %r1, %thread, 16, %r9;\nmad.wide.u32 %d1, %thread, 16, "
                  "%pointer1;\ncp.async.cg.shared.global [%r1], [%d1], 16;\ncp.async.wait_all;",
                  2));
  harness.add_input(std::vector<u32>(128, 1));
  const Result result = harness.run(32);
  const Cost& cost = result.counters.of(Work::copy);
  EXPECT_EQ(cost.executed, 2U);
  EXPECT_EQ(cost.requests, 1U);
  EXPECT_EQ(cost.bank_waves, 4U);
  EXPECT_EQ(cost.sectors, 16U);
}

TEST(Counters, CostsByInstruction) {
  Harness harness(kernel_text("setp.lt.u32 %p1, %thread, 32;\n@!%p1 bra end;\nmov.u32 %r1, 1;\nend:"));
  const Kernel& kernel = harness.module().kernel("k");
  const Result result = harness.run(64);
  for (std::size_t n = 0; n < kernel.code.size(); ++n) {
    if (kernel.where(kernel.code[n]).find("mov.u32 %r1, 1;") != std::string::npos) {
      EXPECT_EQ(result.costs[n].executed, 1U);
    }
  }
}

}  // namespace
}  // namespace ptx::test
