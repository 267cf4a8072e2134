// matrix_test.cpp - the fragment tables of mma and ldmatrix, written down a second time from the definition of the instruction set:
// which element of the matrix each register of each lane holds.
// SPDX-License-Identifier: Apache-2.0
#include <random>

#include "ptx/harness.hpp"
#include "seqccl/dtype.hpp"

namespace ptx::test {
namespace {

using seqccl::BFloat16;
using seqccl::Float16;

struct At {
  int row, column;
};

// "For m16n8k16 with 16-bit elements: groupID = lane / 4, threadInGroup = lane % 4." Element i of a lane's fragment (a: 8, b: 4, c: 4).
At a_16(int lane, int i) {
  const bool upper = i == 0 || i == 1 || i == 4 || i == 5;  // a0 a1 a4 a5 lie in rows 0-7, a2 a3 a6 a7 in rows 8-15
  return {lane / 4 + (upper ? 0 : 8), lane % 4 * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
At b_16(int lane, int i) { return {lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0), lane / 4}; }
At c_any(int lane, int i) { return {lane / 4 + (i >= 2 ? 8 : 0), lane % 4 * 2 + (i & 1)}; }
// m16n8k8 with 16-bit elements: a0..a3, b0 b1
At a_8(int lane, int i) { return {lane / 4 + (i >= 2 ? 8 : 0), lane % 4 * 2 + (i & 1)}; }
At b_8(int lane, int i) { return {lane % 4 * 2 + (i & 1), lane / 4}; }
// m16n8k8 with tf32: a0..a3, b0 b1, one element per register
At a_tf32(int lane, int i) { return {lane / 4 + (i == 1 || i == 3 ? 8 : 0), lane % 4 + (i >= 2 ? 4 : 0)}; }
At b_tf32(int lane, int i) { return {lane % 4 + (i == 1 ? 4 : 0), lane / 4}; }

template <class Half>
u16 half_bits(double value) {
  return Half(static_cast<float>(value)).bits;
}

struct Problem {
  int k;
  double a[16][16], b[16][8], c[16][8];
  explicit Problem(int depth, unsigned seed) : k(depth) {
    std::mt19937 random(seed);
    const auto small = [&] { return static_cast<double>(static_cast<int>(random() % 17)) - 8; };  // exact in every type, sums too
    for (auto& row : a)
      for (double& x : row) x = small();
    for (auto& row : b)
      for (double& x : row) x = small();
    for (auto& row : c)
      for (double& x : row) x = small();
  }
  [[nodiscard]] double d(int row, int column) const {
    double sum = c[row][column];
    for (int n = 0; n < k; ++n) sum += a[row][n] * b[n][column];
    return sum;
  }
};

// Loads 10 registers per lane from the input, multiplies, writes the result registers as f32 or pairs of f16.
std::vector<u32> multiply(const std::string& mma, int num_results, const std::vector<u32>& fragments) {
  std::string body = "mad.wide.u32 %d1, %thread, 64, %pointer1;\n";
  for (int n = 0; n < 12; ++n)
    body += "ld.global.u32 %r" + std::to_string(n) + ", [%d1+" + std::to_string(4 * n) + "];\nmov.b32 %f" + std::to_string(n) + ", %r" +
            std::to_string(n) + ";\n";
  body += mma + "\nmad.wide.u32 %d2, %thread, 16, %pointer0;\n";
  for (int n = 0; n < num_results; ++n) body += "st.global.b32 [%d2+" + std::to_string(4 * n) + "], %r" + std::to_string(20 + n) + ";\n";
  Harness harness(kernel_text(body, 2));
  harness.add_input(fragments);
  const Result result = harness.run(32);
  EXPECT_EQ(found(result), "clean") << result.text();
  EXPECT_EQ(result.counters.of(Work::matrix).executed, 1U);
  return harness.output<u32>(128);
}

u32 pair(u16 low, u16 high) { return low | (u32{high} << 16); }

// The 16 words of each lane: a from 0, b from 4, c from 6.
template <class Encode>
std::vector<u32> fragments_of(Encode encode) {
  std::vector<u32> words(32 * 16, 0);
  for (int lane = 0; lane < 32; ++lane) encode(lane, &words[static_cast<std::size_t>(lane) * 16]);
  return words;
}

template <class Half>
void check_halves(const std::string& type, int k) {
  const Problem p(k, 1);
  const auto words = fragments_of([&](int lane, u32* w) {
    for (int i = 0; i < k / 2; i += 2) {
      const At first = k == 16 ? a_16(lane, i) : a_8(lane, i), second = k == 16 ? a_16(lane, i + 1) : a_8(lane, i + 1);
      w[i / 2] = pair(half_bits<Half>(p.a[first.row][first.column]), half_bits<Half>(p.a[second.row][second.column]));
    }
    for (int i = 0; i < k / 4; i += 2) {
      const At first = k == 16 ? b_16(lane, i) : b_8(lane, i), second = k == 16 ? b_16(lane, i + 1) : b_8(lane, i + 1);
      w[4 + i / 2] = pair(half_bits<Half>(p.b[first.row][first.column]), half_bits<Half>(p.b[second.row][second.column]));
    }
    for (int i = 0; i < 4; ++i) w[6 + i] = static_cast<u32>(bits(static_cast<float>(p.c[c_any(lane, i).row][c_any(lane, i).column])));
  });
  const std::string a = k == 16 ? "{%r0, %r1, %r2, %r3}, {%r4, %r5}" : "{%r0, %r1}, {%r4}";
  const std::vector<u32> got =
      multiply("mma.sync.aligned.m16n8k" + std::to_string(k) + ".row.col.f32." + type + "." + type + ".f32 {%f20, %f21, %f22, %f23}, " + a +
                   ", {%f6, %f7, %f8, %f9};\nmov.b32 %r20, %f20;\nmov.b32 %r21, %f21;\nmov.b32 %r22, %f22;\nmov.b32 %r23, %f23;",
               4, words);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const At at = c_any(lane, i);
      EXPECT_EQ(as_float(got[static_cast<std::size_t>(4 * lane + i)]), p.d(at.row, at.column))
          << type << " lane " << lane << " register " << i;
    }
  }
}

TEST(Matrix, Bf16K16) { check_halves<BFloat16>("bf16", 16); }
TEST(Matrix, F16K16) { check_halves<Float16>("f16", 16); }
TEST(Matrix, Bf16K8) { check_halves<BFloat16>("bf16", 8); }
TEST(Matrix, F16K8) { check_halves<Float16>("f16", 8); }

TEST(Matrix, Tf32K8IgnoresTheLowBits) {
  const Problem p(8, 2);
  const auto words = fragments_of([&](int lane, u32* w) {
    for (int i = 0; i < 4; ++i)
      w[i] = static_cast<u32>(bits(static_cast<float>(p.a[a_tf32(lane, i).row][a_tf32(lane, i).column]))) | 0x1fff;
    for (int i = 0; i < 2; ++i) w[4 + i] = static_cast<u32>(bits(static_cast<float>(p.b[b_tf32(lane, i).row][b_tf32(lane, i).column])));
    for (int i = 0; i < 4; ++i) w[6 + i] = static_cast<u32>(bits(static_cast<float>(p.c[c_any(lane, i).row][c_any(lane, i).column])));
  });
  const std::vector<u32> got = multiply(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f20, %f21, %f22, %f23}, {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%f6, %f7, %f8, "
      "%f9};\n"
      "mov.b32 %r20, %f20;\nmov.b32 %r21, %f21;\nmov.b32 %r22, %f22;\nmov.b32 %r23, %f23;",
      4, words);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i)
      EXPECT_EQ(as_float(got[static_cast<std::size_t>(4 * lane + i)]), p.d(c_any(lane, i).row, c_any(lane, i).column));
  }
}

TEST(Matrix, F16WithF16Sums) {
  const Problem p(16, 3);
  const auto c_pair = [&](int lane, int n) {
    const At low = c_any(lane, 2 * n), high = c_any(lane, 2 * n + 1);
    return pair(half_bits<Float16>(p.c[low.row][low.column]), half_bits<Float16>(p.c[high.row][high.column]));
  };
  const auto words = fragments_of([&](int lane, u32* w) {
    for (int i = 0; i < 8; i += 2)
      w[i / 2] = pair(half_bits<Float16>(p.a[a_16(lane, i).row][a_16(lane, i).column]),
                      half_bits<Float16>(p.a[a_16(lane, i + 1).row][a_16(lane, i + 1).column]));
    for (int i = 0; i < 4; i += 2)
      w[4 + i / 2] = pair(half_bits<Float16>(p.b[b_16(lane, i).row][b_16(lane, i).column]),
                          half_bits<Float16>(p.b[b_16(lane, i + 1).row][b_16(lane, i + 1).column]));
    for (int n = 0; n < 2; ++n) w[6 + n] = c_pair(lane, n);
  });
  const std::vector<u32> got =
      multiply("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r20, %r21}, {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%r6, %r7};", 2, words);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const At at = c_any(lane, i);
      EXPECT_EQ(got[static_cast<std::size_t>(4 * lane + i / 2)] >> (16 * (i & 1)) & 0xffff, half_bits<Float16>(p.d(at.row, at.column)));
    }
  }
}

// ldmatrix: rows of tile m come from the addresses of lanes 8m to 8m + 7; lane l gets elements 2 (l % 4) and the next of row l / 4.
// Stored tiles: element (row, column) of tile m is 1000 m + 10 row + column. Rows lie `pitch` bytes apart.
std::vector<u32> load_tiles(int count, bool transposed, int pitch, Cost* cost = nullptr) {
  const std::string n = std::to_string(count);
  std::string targets = "%r20";
  for (int k = 1; k < count; ++k) targets += ", %r" + std::to_string(20 + k);
  // Each lane writes row lane % 8 of tile lane / 8, then all load.
  std::string body =
      ".shared .align 16 .b8 box[4096];\nmov.u32 %r9, box;\nmad.lo.u32 %r1, %thread, " + std::to_string(pitch) +
      ", %r9;\nand.b32 %r2, %thread, 7;\nshr.u32 %r3, %thread, 3;\nmul.lo.u32 %r4, %r3, 1000;\nmad.lo.u32 %r4, %r2, 10, %r4;\n";
  for (int c = 0; c < 8; ++c)
    body +=
        "add.u32 %r5, %r4, " + std::to_string(c) + ";\ncvt.u16.u32 %h1, %r5;\nst.shared.u16 [%r1+" + std::to_string(2 * c) + "], %h1;\n";
  body += "bar.warp.sync -1;\nldmatrix.sync.aligned.m8n8.x" + n + (transposed ? ".trans" : "") + ".shared.b16 {" + targets +
          "}, [%r1];\nmad.wide.u32 %d2, %thread, 16, %pointer0;\n";
  for (int k = 0; k < count; ++k) body += "st.global.u32 [%d2+" + std::to_string(4 * k) + "], %r" + std::to_string(20 + k) + ";\n";
  Harness harness(kernel_text(body));
  const Result result = harness.run(32);
  EXPECT_EQ(found(result), "clean") << result.text();
  if (cost != nullptr) *cost = result.counters.of(Work::fragment);
  return harness.output<u32>(128);
}

TEST(Matrix, Ldmatrix) {
  for (const int count : {1, 2, 4}) {
    for (const bool transposed : {false, true}) {
      const std::vector<u32> got = load_tiles(count, transposed, 16);
      for (int lane = 0; lane < 32; ++lane) {
        for (int tile = 0; tile < count; ++tile) {
          const int row = lane / 4, column = 2 * (lane % 4);
          const auto stored = [&](int r, int c) {
            return static_cast<u16>(1000 * tile + 10 * (transposed ? c : r) + (transposed ? r : c));
          };
          EXPECT_EQ(got[static_cast<std::size_t>(4 * lane + tile)], pair(stored(row, column), stored(row, column + 1)))
              << "x" << count << " lane " << lane;
        }
      }
    }
  }
}

TEST(Matrix, LdmatrixCountsBankConflicts) {
  Cost cost;
  load_tiles(4, false, 16, &cost);  // rows side by side: one pass per tile
  EXPECT_EQ(cost.bank_waves, 4U);
  EXPECT_EQ(cost.min_waves, 4U);
  load_tiles(4, false, 128, &cost);  // all rows in the same four banks
  EXPECT_EQ(cost.bank_waves, 32U);
  load_tiles(4, false, 80, &cost);  // five times 16 bytes apart: every row in banks of its own
  EXPECT_EQ(cost.bank_waves, 4U);
}

}  // namespace
}  // namespace ptx::test
