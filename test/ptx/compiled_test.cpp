// compiled_test.cpp - PTX as nvcc emits it: right numbers under every schedule, and a finding for each line that is taken away.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <fstream>
#include <random>
#include <sstream>

#include "ptx/harness.hpp"
#include "seqccl/dtype.hpp"

namespace ptx::test {
namespace {

using seqccl::BFloat16;

std::string committed() {
  std::ifstream file(PTX_INPUT "/kernels.ptx");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_GT(text.str().size(), 1000U) << PTX_INPUT "/kernels.ptx";
  return text.str();
}

/// The n-th occurrence of `from` replaced.
std::string replaced(std::string text, const std::string& from, const std::string& to, int n = 0) {
  std::size_t at = text.find(from);
  for (; n > 0 && at != std::string::npos; --n) at = text.find(from, at + 1);
  EXPECT_NE(at, std::string::npos) << "the text has no '" << from << "'";
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

struct Attended {
  Result result;
  double error = 0;  // largest difference from the sums in double; NaN is infinity
};

Attended attend(const std::string& text, int num_keys, u64 seed = 0, int missing_queries = 0) {
  DeviceMemory memory;
  const Module module(memory, text, "kernels.ptx");
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const auto tensor = [&](int rows) {
    std::vector<u16> values(static_cast<std::size_t>(rows) * 16);
    for (u16& value : values) value = BFloat16(normal(random)).bits;
    return values;
  };
  const auto value = [](const std::vector<u16>& all, int row, int column) {
    BFloat16 half;
    half.bits = all[static_cast<std::size_t>(row * 16 + column)];
    return static_cast<double>(static_cast<float>(half));
  };
  const std::vector<u16> q = tensor(32), k = tensor(num_keys), v = tensor(num_keys);
  const auto upload = [&](const std::vector<u16>& values, const char* name, u64 short_by = 0) {
    const u64 num_bytes = values.size() * 2 - short_by, address = memory.allocate(num_bytes, name);
    memory.write(address, values.data(), num_bytes);
    return address;
  };
  const u64 out = memory.allocate(32 * 16 * 4, "out");
  const double scale = 0.25;
  const Kernel& kernel = module.kernel("attend_tile");
  Arguments arguments(kernel);
  arguments.add(upload(q, "q", static_cast<u64>(missing_queries) * 32))
      .add(upload(k, "k"))
      .add(upload(v, "v"))
      .add(out)
      .add(num_keys)
      .add(static_cast<float>(scale * std::log2(std::exp(1.0))));
  Attended made{run(kernel, memory, {.block = {64}, .arguments = arguments.bytes(), .seed = seed, .max_warp_instructions = 1'000'000})};
  std::vector<float> got(32 * 16);
  memory.read(got.data(), out, got.size() * 4);
  for (int row = 0; row < 32; ++row) {
    std::vector<double> sums(16, 0);
    double total = 0;
    for (int key = 0; key < num_keys; ++key) {
      double score = 0;
      for (int d = 0; d < 16; ++d) score += value(q, row, d) * value(k, key, d);
      const double weight = std::exp(scale * score);
      total += weight;
      for (int d = 0; d < 16; ++d) sums[static_cast<std::size_t>(d)] += weight * value(v, key, d);
    }
    for (int d = 0; d < 16; ++d) {
      const double error =
          std::abs(sums[static_cast<std::size_t>(d)] / total - static_cast<double>(got[static_cast<std::size_t>(row * 16 + d)]));
      made.error = error <= made.error ? made.error : error < 1e9 ? error : std::numeric_limits<double>::infinity();
    }
  }
  return made;
}

TEST(Compiled, AttentionAgreesWithTheSumsInDouble) {
  const std::string text = committed();
  for (const int num_keys : {1, 15, 16, 17, 40, 64}) {
    for (const u64 seed : {0, 1, 2, 3}) {
      const Attended got = attend(text, num_keys, seed);
      EXPECT_EQ(found(got.result), "clean") << num_keys << " keys, seed " << seed << "\n" << got.result.text();
      EXPECT_LT(got.error, 8e-3) << num_keys << " keys, seed " << seed;  // weights are rounded to bf16: 2^-9 of values up to about 3
    }
  }
}

TEST(Compiled, CountsWhatTheTilesNeed) {
  const Counters c = attend(committed(), 64).result.counters;
  EXPECT_EQ(c.of(Work::matrix).executed, 2U * 4 * 4);  // warps, tiles of keys, products of 16x8x16
  EXPECT_EQ(c.of(Work::fragment).executed, 2U * 4 * 2);
  EXPECT_EQ(c.of(Work::fragment).bank_waves, c.of(Work::fragment).min_waves);  // the swizzle
  EXPECT_EQ(c.of(Work::copy).bank_waves, c.of(Work::copy).min_waves);
  EXPECT_EQ(c.of(Work::copy).sectors, c.of(Work::copy).min_sectors);
  EXPECT_EQ(c.of(Work::local).executed, 0U);  // nothing spilled
}

// What each line is for. Lock step and one block at a time would hide most of these from a comparison of numbers.
TEST(Compiled, EveryMutantIsFound) {
  const std::string text = committed();
  const auto what = [&](const std::string& mutant, u64 seed = 0) { return found(attend(mutant, 40, seed).result); };
  const std::string barrier = "bar.sync \t0;";
  for (const u64 seed : {0, 1, 2}) {
    EXPECT_NE(what(replaced(text, barrier, ""), seed).find("race in shared memory"), std::string::npos);  // before the tiles are read
    EXPECT_NE(what(replaced(text, barrier, "", 1), seed), "clean");                                       // before they are overwritten
    EXPECT_EQ(what(replaced(text, "bar.warp.sync \t-1;", ""), seed), "race in shared memory");
  }
  EXPECT_NE(what(replaced(text, "cp.async.wait_group 1;", "cp.async.wait_group 2;")).find("cp.async in flight"), std::string::npos);
  EXPECT_EQ(what(replaced(text, "cp.async.wait_group 0;", "")), "exit with cp.async in flight");
  EXPECT_NE(what(replaced(text, "cp.async.commit_group;", "", 1)).find("cp.async in flight"), std::string::npos);
  EXPECT_EQ(what(replaced(text, barrier, "setp.lt.u32 %p1, %tid.x, 40;\n@%p1 bar.sync 0;")), "divergence");
  EXPECT_EQ(what(replaced(text, "bar.warp.sync \t-1;", "bar.warp.sync 1;")), "divergence");
}

TEST(Compiled, OutOfBoundsIsFound) {
  EXPECT_EQ(found(attend(committed(), 40, 0, 1).result), "out of bounds");  // 31 rows of queries
  const std::string report = attend(committed(), 40, 0, 1).result.text();
  EXPECT_NE(report.find("kernels.cu:"), std::string::npos) << report;
  EXPECT_NE(report.find("(q)"), std::string::npos) << report;
}

TEST(Compiled, AWrongFragmentGivesWrongNumbers) {
  // The upper half of the warp takes the other half of each row: clean, but wrong.
  const Attended got =
      attend(replaced(committed(), "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", "ldmatrix.sync.aligned.m8n8.x4.shared.b16"), 40);
  EXPECT_EQ(found(got.result), "clean");
  EXPECT_GT(got.error, 0.1);
}

float polynomial(float x, int degree) {
  float sum = 0;
  for (int n = 0; n < degree; ++n) sum = sum * x + 1;
  return sum;
}

TEST(Compiled, CallsArraysSwitchesAtomics) {
  const std::string text = committed();
  for (const u64 seed : {0, 1}) {
    DeviceMemory memory;
    const Module module(memory, text, "kernels.ptx");
    const int count = 150;
    std::vector<int> in(static_cast<std::size_t>(count));
    for (int n = 0; n < count; ++n) in[static_cast<std::size_t>(n)] = n * 37 % 1000;
    const u64 d_in = memory.allocate(in.size() * 4), d_out = memory.allocate(in.size() * 4), d_histogram = memory.allocate(28);
    memory.write(d_in, in.data(), in.size() * 4);
    memory.fill(d_histogram, 0, 28);
    const Kernel& kernel = module.kernel("corners");
    const auto arguments = Arguments(kernel).add(d_in).add(d_out).add(d_histogram).add(count).bytes();
    const Result result = run(kernel, memory, {.grid = {3}, .block = {64}, .arguments = arguments, .seed = seed});
    EXPECT_EQ(found(result), "clean") << result.text();
    std::vector<float> out(in.size());
    memory.read(out.data(), d_out, out.size() * 4);
    std::vector<int> histogram(7), want(7, 0);
    memory.read(histogram.data(), d_histogram, 28);
    for (std::size_t n = 0; n < in.size(); ++n) {
      const int x = in[n];
      int digits[8];
      for (int d = 0, rest = x; d < 8; ++d, rest /= 7) digits[d] = rest % 7;
      ++want[static_cast<std::size_t>(digits[0])];
      const float f = static_cast<float>(x);
      const float values[] = {polynomial(0.5F, x & 7),           std::exp(-0.01F * f),        std::log(1.0F + f), f / 3.0F, std::sqrt(f),
                              static_cast<float>(digits[x & 7]), polynomial(-1.0F, digits[1])};
      EXPECT_NEAR(out[n], values[digits[0]], 1e-6 * std::max(1.0F, std::abs(values[digits[0]]))) << "in " << x;
    }
    EXPECT_EQ(histogram, want);
  }
}

}  // namespace
}  // namespace ptx::test
