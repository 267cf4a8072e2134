// parser_test.cpp - what reads as PTX and what does not, each error with its line; a light fuzz that the parser must survive.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/parser.hpp"

#include <random>

#include "ptx/harness.hpp"

namespace ptx::test {
namespace {

/// The error of loading the text and decoding its kernels, or "fine".
std::string problem(const std::string& text) {
  try {
    DeviceMemory memory;
    const Module module(memory, text, "x.ptx");
    for (const std::string& name : module.kernel_names()) (void)module.kernel(name);
  } catch (const Error& error) {
    return error.what();
  }
  return "fine";
}
std::string problem_of_body(const std::string& body) {
  return problem(header + ".visible .entry k()\n{\n.reg .b32 %r<3>; .reg .pred %p1;\n" + body + "\nret;\n}\n");
}

TEST(Parser, WhatCompilersEmit) {
  EXPECT_EQ(problem(header), "fine");
  EXPECT_EQ(problem(".version 8.0\n.target sm_90a, debug\n.address_size 64\n.file 1 \"a.cu\", 17, 18\n.visible .func f;\n"), "fine");
  EXPECT_EQ(
      problem(
          header +
          ".visible .entry k(.param .u64 .ptr .global .align 16 a, .param .align 8 .b8 b[56])\n.maxntid 128, 1, 1\n.minnctapersm "
          "2\n{\n.pragma \"nounroll\";\n.loc 1 2 3, function_name $n+4, inlined_at 1 4 5\nret;\n}\n.section .debug_str\n{\n.b8 1,2\n}\n"),
      "fine");
  EXPECT_EQ(
      problem_of_body(
          "/* a comment\n of two lines */ mov.u32 %r1, 0x1F; // another\n{ .reg .b32 %r<2>; mov.u32 %r1, -1; }\n$L__1: @!%p1 bra $L__1;"),
      "fine");
}

TEST(Parser, ErrorsNameTheLine) {
  EXPECT_EQ(problem(header + "\n.bogus x;\n"), "x.ptx:5: unknown directive, found '.bogus'");
  EXPECT_EQ(problem_of_body("mov.u32 %r1, 1"), "x.ptx:8: expected ';', found 'ret'");
  EXPECT_EQ(problem_of_body("frob.u32 %r1, %r2;"), "x.ptx:7: unknown instruction 'frob.u32'");
  EXPECT_EQ(problem_of_body("add.u32 %r1, %r2;"), "x.ptx:7: 'add.u32' has 2 registers, want 3");
  EXPECT_EQ(problem_of_body("add.u32 %r1, %r2, %r7;"), "x.ptx:7: unknown name '%r7'");
  EXPECT_EQ(problem_of_body("add.u32 %r1, %r2, !%r1;"), "x.ptx:7: '!' before an operand of 'add.u32'");
  EXPECT_EQ(problem_of_body("bra nowhere;"), "x.ptx:7: no label 'nowhere'");
  EXPECT_EQ(problem_of_body("call.uni nothing;"), "x.ptx:7: call of 'nothing', which is not a function of this module");
  EXPECT_EQ(problem_of_body("mov.u32 %r1, 0f12;"), "x.ptx:7: malformed number '0f12'");
  EXPECT_EQ(problem_of_body("mov.u32 %r1, 99999999999999999999;"), "x.ptx:7: malformed number '99999999999999999999'");
  EXPECT_EQ(problem_of_body("mov.u32 %r1, #;"), "x.ptx:7: unexpected character '#'");
  EXPECT_NE(problem_of_body("{").find("expected an instruction, found the end of the file"), std::string::npos);
  EXPECT_NE(problem(header + "/* no end").find("x.ptx:4: a comment does not end"), std::string::npos);
  EXPECT_NE(problem(header + ".global .align 3 .u32 x;").find("power of two"), std::string::npos);
  EXPECT_NE(problem(header + ".global .u32 x[1] = {1, 2};").find("more values than room"), std::string::npos);
  EXPECT_NE(problem(".address_size 32\n").find("only .address_size 64"), std::string::npos);
}

TEST(Parser, RefusesRecursion) {
  const std::string text =
      header +
      ".func f;\n.func g\n{\ncall.uni f;\nret;\n}\n.func f\n{\ncall.uni g;\nret;\n}\n.visible .entry k()\n{\ncall.uni f;\nret;\n}\n";
  EXPECT_NE(problem(text).find("calls itself"), std::string::npos) << problem(text);
}

// Instructions of other architectures and rare forms are refused where they are decoded, not run as something else.
TEST(Parser, UnknownFormsAreRefused) {
  for (const char* form :
       {"add.cc.u32 %r1, %r1, %r2;", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32 %r1, %r1;",
        "ld.global.L2::cache_hint.u32 %r1, [%r2], %r1;", "atom.shared.add.u16 %r1, [%r2], 1;", "shfl.idx.b32 %r1, %r2, 0, 31;",
        "cp.async.bulk.commit_group;", "cvt.rn.e4m3x2.f32 %r1, %r1, %r2;", "prmt.b32.f4e %r1, %r1, %r1, %r2;", "add.rz.f64 %r1, %r1, %r2;",
        "wgmma.fence.sync.aligned;", "barrier.cluster.arrive;"}) {
    EXPECT_NE(problem_of_body(form).find("x.ptx:7: "), std::string::npos) << form << ": " << problem_of_body(form);
  }
}

TEST(Parser, KernelsByName) {
  DeviceMemory memory;
  const Module module(memory, header + ".entry first() { ret; }\n.entry first_too() { ret; }\n.entry other() { ret; }\n", "x.ptx");
  EXPECT_EQ(module.kernel("first").name, "first");
  EXPECT_EQ(module.kernel("oth").name, "other");
  EXPECT_THROW((void)module.kernel("fir"), Error);
  EXPECT_THROW((void)module.kernel("none"), Error);
  EXPECT_EQ(module.kernel_names().size(), 3U);
}

TEST(Parser, ParametersAreAligned) {
  DeviceMemory memory;
  const Module module(memory, header + ".entry k(.param .u8 a, .param .u64 b, .param .align 16 .b8 c[20], .param .u32 d) { ret; }\n",
                      "x.ptx");
  const Kernel& kernel = module.kernel("k");
  const u64 offsets[] = {0, 8, 16, 36};
  for (std::size_t n = 0; n < 4; ++n) EXPECT_EQ(kernel.parameters[n].offset, offsets[n]);
  EXPECT_EQ(kernel.parameter_bytes, 40U);
}

// Broken text ends in Error, or loads and then runs to some end: never in undefined behaviour (the sanitizers look on).
TEST(Parser, SurvivesBrokenText) {
  const std::string good = kernel_text(
      ".shared .align 16 .b8 box[64];\nsetp.lt.u32 %p1, %thread, 16;\n@%p1 bra over;\nld.global.v2.u32 {%r1, %r2}, [%out+8];\nmov.b64 "
      "{%r3, %r4}, %out;\nover:\nbar.sync 0, 32;\nshfl.sync.bfly.b32 %r5|%p2, %thread, 1, 31, -1;\nst.shared.u32 [box+4], "
      "%thread;\natom.shared.add.u32 %r6, [box], 1;\ncp.async.ca.shared.global [box], [%out], 8;",
      1, ".const .align 4 .f32 table[2] = {0f3F800000, 1.5};\n.func (.param .b32 r) f(.param .b32 a)\n{\nret;\n}\n");
  ASSERT_EQ(problem(good), "fine");
  const std::string marks = "{}()[]<>,;:=+-!|@\".%_0x9abf \n";
  std::mt19937 random(
      7U + static_cast<unsigned>(::testing::UnitTest::GetInstance()->random_seed()));  // --gtest_shuffle --gtest_random_seed=N tries others
  int num_loaded = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text = good;
    for (u32 n = 0, edits = 1 + random() % 3; n < edits; ++n) {
      const std::size_t at = random() % text.size();
      if (random() % 2 == 0) {  // a digit for a digit: most of these load
        if (text[at] >= '0' && text[at] <= '9') text[at] = static_cast<char>('0' + random() % 10);
        continue;
      }
      switch (random() % 4) {
        case 0:
          text.erase(at, 1 + random() % 12);
          break;
        case 1:
          text.insert(at, 1, marks[random() % marks.size()]);
          break;
        case 2:
          text[at] = marks[random() % marks.size()];
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 30));
          break;
      }
    }
    try {
      DeviceMemory memory;
      const Module module(memory, text, "x.ptx");
      const Kernel& kernel = module.kernel("k");
      ++num_loaded;
      const std::vector<u8> arguments(kernel.parameter_bytes, 0);
      (void)run(kernel, memory, {.block = {32}, .arguments = arguments, .max_warp_instructions = 2000});
    } catch (const Error&) {
    }
  }
  EXPECT_GT(num_loaded, 200);
  EXPECT_LT(num_loaded, 3900);
}

}  // namespace
}  // namespace ptx::test
