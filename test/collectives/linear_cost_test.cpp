// linear_cost_test.cpp - bytes, exchanges and rounds of the scans against the closed forms in collectives/state_scan/notes.md.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>

#include "collectives/linear_plans.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/simulate.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

using Bytes = std::uint64_t;
constexpr std::int64_t H = 3, Dk = 8, Dv = 48;

/// floor(log2 v), 0 for 0.
Bytes floor_log2(int v) { return v == 0 ? 0 : static_cast<Bytes>(std::bit_width(static_cast<unsigned>(v)) - 1); }
int ceil_log2(int v) { return v <= 1 ? 0 : std::bit_width(static_cast<unsigned>(v - 1)); }
bool is_power_of_two(int v) { return std::has_single_bit(static_cast<unsigned>(v)); }

class ScanCost : public ::testing::TestWithParam<int> {
 protected:
  const int P = GetParam();
  static constexpr Bytes m_E = H * Dk * Dv * 4;  // a state, f32
  [[nodiscard]] static Bytes m_M(LinearKind kind) { return 4 * H * static_cast<Bytes>(is_delta(kind) ? Dk * Dk : decay_size(kind, Dk)); }
  [[nodiscard]] static LinearSpec spec(const Partition& partition, LinearKind kind, Scan scan) {
    LinearSpec result = linear_spec(partition, kind, scan);
    result.v_head_dim = Dv;
    return result;
  }
  [[nodiscard]] LinearSpec contiguous(LinearKind kind, Scan scan) const { return spec(Partition::contiguous(4 * P, P), kind, scan); }
  /// 2 P chunks, of which P - 1 and P are one run: 2 P - 1 places, rank r at r and 2 P - 2 - r.
  [[nodiscard]] LinearSpec zigzag(LinearKind kind, Scan scan) const { return spec(Partition::zigzag(4 * P, P), kind, scan); }

  /// One kind of each transition where there are many ranks.
  [[nodiscard]] std::vector<LinearKind> kinds() const {
    if (P <= 9) return {std::begin(all_kinds), std::end(all_kinds)};
    return {LinearKind::constant_decay, LinearKind::vector_gate, LinearKind::kda};
  }
  static Bytes received(const Schedule& schedule) { return cost_of(schedule).total_received_bytes; }
  /// Rank r forward, and in the mirror backward.
  void expect_received(const LinearSpec& layer, Rank r, Bytes bytes) const {
    EXPECT_EQ(received(collectives::linear_forward(layer, r)), bytes) << layer.describe() << "rank " << r;
    EXPECT_EQ(received(collectives::linear_backward(layer, P - 1 - r)), bytes) << layer.describe() << "backward, rank " << P - 1 - r;
  }
  /// Zigzag is its own mirror.
  static void expect_received_zigzag(const LinearSpec& layer, Rank r, Bytes bytes) {
    EXPECT_EQ(received(collectives::linear_forward(layer, r)), bytes) << layer.describe() << "rank " << r;
    EXPECT_EQ(received(collectives::linear_backward(layer, r)), bytes) << layer.describe() << "backward, rank " << r;
  }
  /// The critical path in messages: every message takes one second, everything else no time.
  static void expect_rounds(const LinearSpec& layer, int rounds) {
    Cluster cluster;
    cluster.inside = cluster.between = {1.0, 1e30};
    cluster.flops_per_s = cluster.memory_bytes_per_s = 1e30;
    cluster.step_overhead_s = 0;
    EXPECT_NEAR(simulate(record_all(collectives::linear_forward, layer), cluster).seconds, rounds, 1e-6) << layer.describe();
    EXPECT_NEAR(simulate(record_all(collectives::linear_backward, layer), cluster).seconds, rounds, 1e-6) << layer.describe();
  }
};

TEST_P(ScanCost, AllGather) {
  for (const LinearKind kind : kinds()) {
    for (int r = 0; r < P; ++r) {
      const auto earlier = static_cast<Bytes>(r);
      expect_received(contiguous(kind, Scan::all_gather), r, earlier * m_E + (earlier > 1 ? earlier - 1 : 0) * m_M(kind));
      EXPECT_LE(collectives::linear_forward(contiguous(kind, Scan::all_gather), r).exchanges.size(), 1u);
      // The runs before its last one but its own, and of these T but of the first run.
      const auto states = static_cast<Bytes>(r == P - 1 ? P - 1 : 2 * P - 3 - r);
      expect_received_zigzag(zigzag(kind, Scan::all_gather), r, states * m_E + (states > 0 ? states - (r > 0 || P == 1) : 0) * m_M(kind));
    }
    expect_rounds(contiguous(kind, Scan::all_gather), P > 1 ? 1 : 0);
    expect_rounds(zigzag(kind, Scan::all_gather), P > 1 ? 1 : 0);
  }
}

TEST_P(ScanCost, ChainsPassOneStateAndNoTransition) {
  for (const LinearKind kind : kinds())
    for (const int K : {1, 4, 5}) {
      LinearSpec layer = contiguous(kind, K == 1 ? Scan::chain : Scan::pipelined_chain), both_ways = zigzag(kind, layer.scan);
      layer.column_blocks = both_ways.column_blocks = K;
      for (int r = 0; r < P; ++r) {
        expect_received(layer, r, r > 0 ? m_E : 0);
        expect_received_zigzag(both_ways, r, (Bytes{r > 0} + Bytes{r < P - 1}) * m_E);
        EXPECT_EQ(cost_of(collectives::linear_forward(layer, r)).total_received_messages, r > 0 ? static_cast<Bytes>(K) : 0);
      }
      expect_rounds(layer, P > 1 ? P - 2 + K : 0);
      expect_rounds(both_ways, P > 1 ? 2 * P - 3 + K : 0);
    }
}

TEST_P(ScanCost, Doubling) {
  for (const LinearKind kind : kinds()) {
    for (int r = 0; r < P; ++r) {
      expect_received(contiguous(kind, Scan::doubling), r, r == 0 ? 0 : (floor_log2(r) + 1) * m_E + floor_log2(r) * m_M(kind));
      EXPECT_LE(collectives::linear_forward(contiguous(kind, Scan::doubling), r).exchanges.size(), static_cast<std::size_t>(ceil_log2(P)));
      // Its two places are 2 (P - 1 - r) apart: if that is a power of two, one hop is a copy.
      const int apart = 2 * (P - 1 - r), second = 2 * P - 2 - r;
      const bool is_local = apart > 0 && is_power_of_two(apart);
      const Bytes states = (r > 0 ? floor_log2(r) + 1 : 0) + (apart > 0 ? floor_log2(second) + 1 : 0) - is_local;
      const Bytes transitions = floor_log2(r) + (apart > 0 ? floor_log2(second) : 0) - (is_local && r >= apart);
      expect_received_zigzag(zigzag(kind, Scan::doubling), r, states * m_E + transitions * m_M(kind));
    }
    expect_rounds(contiguous(kind, Scan::doubling), ceil_log2(P));
    // 2 P - 1 places; with one more than a power of two the last round has only the hop from rank 0 to itself.
    expect_rounds(zigzag(kind, Scan::doubling), ceil_log2(2 * P - 2));
  }
}

// Over all ranks: P L - 2^L + 1 states and P (L - 1) - (2^L - 2) transitions in L rounds.
TEST_P(ScanCost, DoublingInAll) {
  const Bytes L = static_cast<Bytes>(ceil_log2(P)), all = Bytes{1} << L, ranks = static_cast<Bytes>(P);
  Bytes total = 0;
  for (const Schedule& schedule : record_all(collectives::linear_forward, contiguous(LinearKind::kda, Scan::doubling)))
    total += received(schedule);
  EXPECT_EQ(total, (ranks * L - all + 1) * m_E + (P > 1 ? ranks * (L - 1) - (all - 2) : 0) * m_M(LinearKind::kda));
}

TEST_P(ScanCost, Hierarchical) {
  for (const int g : {1, 2, 3, 4, 8, 16}) {
    if (P % g != 0) continue;
    const int R = P / g;
    for (const LinearKind kind : {LinearKind::constant_decay, LinearKind::vector_gate, LinearKind::gated_delta}) {
      LinearSpec layer = contiguous(kind, Scan::hierarchical);
      layer.ranks_per_node = g;
      for (const bool backward : {false, true})
        for (int r = 0; r < P; ++r) {  // place in the order of the scan
          const Rank rank = backward ? P - 1 - r : r;
          const Cost cost = cost_of(backward ? collectives::linear_backward(layer, rank) : collectives::linear_forward(layer, rank));
          Bytes inside = 0, across = 0;
          for (Rank peer = 0; peer < P; ++peer) (peer / g == rank / g ? inside : across) += cost.received_bytes[peer];
          const int n = r / g, j = r % g;
          EXPECT_EQ(across, n == 0 ? 0 : (floor_log2(n) + 1) * m_E / g + floor_log2(n) * m_M(kind)) << layer.describe() << rank;
          // Nobody asks for what the last run leaves, nor for T of the first. Nothing enters the first.
          const int others = g - 1, last_is_other = n == R - 1 && j != g - 1, first_is_other = n == 0 && j != 0;
          const auto states = static_cast<Bytes>(others - last_is_other + (r == 0 ? 0 : others));
          EXPECT_EQ(inside, states * m_E / g + static_cast<Bytes>(others - last_is_other - first_is_other) * m_M(kind))
              << layer.describe() << rank;
        }
      expect_rounds(layer, P == 1 ? 0 : (g > 1 ? 2 : 0) + ceil_log2(R));

      LinearSpec both_ways = zigzag(kind, Scan::hierarchical);
      both_ways.ranks_per_node = g;
      for (int r = 0; r < P; ++r) {
        const Cost cost = cost_of(collectives::linear_forward(both_ways, r));
        Bytes across = 0;
        for (Rank peer = 0; peer < P; ++peer) across += peer / g == r / g ? 0 : cost.received_bytes[peer];
        const int n = r / g, apart = 2 * (R - 1 - n), second = 2 * R - 2 - n;  // virtual nodes n and 2 R - 2 - n
        const bool is_local = apart > 0 && is_power_of_two(apart);
        const Bytes states = (n > 0 ? floor_log2(n) + 1 : 0) + (apart > 0 ? floor_log2(second) + 1 : 0) - is_local;
        const Bytes transitions = floor_log2(n) + (apart > 0 ? floor_log2(second) : 0) - (is_local && n >= apart);
        EXPECT_EQ(across, states * m_E / g + transitions * m_M(kind)) << both_ways.describe() << r;
      }
      expect_rounds(both_ways, P == 1 ? 0 : (g > 1 ? 2 : 0) + ceil_log2(2 * R - 2));
    }
  }
}

// Every document is a scan of its own, and all of them run side by side: the longest one counts.
TEST_P(ScanCost, DocumentsShareRounds) {
  if (P < 4) return;
  // Boundaries in the middle of every second rank: each document has runs on 3 ranks, of which two are shared.
  std::vector<std::int64_t> documents{2};
  for (int rank = 0; rank + 2 < P; rank += 2) documents.push_back(8);
  documents.push_back(4 * P - 2 - 8 * (static_cast<std::int64_t>(documents.size()) - 1));
  for (const Scan scan : all_scans) {
    LinearSpec layer = contiguous(LinearKind::gated_delta, scan);
    layer.documents = documents;
    layer.ranks_per_node = 1;
    const int longest = 3;
    expect_rounds(layer, scan == Scan::all_gather        ? 1
                         : scan == Scan::chain           ? longest - 1
                         : scan == Scan::pipelined_chain ? longest - 2 + layer.column_blocks
                                                         : ceil_log2(longest));
    // A document on one rank sends nothing.
    layer.documents.assign(static_cast<std::size_t>(P), 4);
    for (const Schedule& schedule : record_all(collectives::linear_forward, layer)) EXPECT_EQ(received(schedule), 0u);
  }
}

TEST_P(ScanCost, WithoutOrder) {
  if (Dv % P != 0) return;
  LinearSpec layer = contiguous(LinearKind::basic, Scan::all_gather);
  layer.causal = false;
  for (Rank r = 0; r < P; ++r) {
    EXPECT_EQ(received(collectives::linear_forward(layer, r)), 2 * static_cast<Bytes>(P - 1) * m_E / P);
    EXPECT_EQ(received(collectives::linear_backward(layer, r)), 4 * static_cast<Bytes>(P - 1) * m_E / P);
  }
  expect_rounds(layer, P > 1 ? 2 : 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, ScanCost, ::testing::ValuesIn(up_to_if_sanitized(9, {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 64})));

}  // namespace
}  // namespace seqccl::test
