// balance_run_test.cpp - micro-batches of a plan run by the ordinary methods: exact per sequence, and nothing for strangers.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/balance.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "api/softmax_problem.hpp"
#include "seqccl/check.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

constexpr std::int64_t q_heads = 4, kv_heads = 2, head_dim = 16;
constexpr Method private_methods[] = {Method::ring, Method::kv_all_gather};

/// Mixed lengths over `num_ranks` ranks, in at least two micro-batches; transfers are cheap, so that groups are many and nested.
BalanceProblem mixed_problem(int num_ranks) {
  BalanceProblem problem;
  problem.lengths = {300, 64, 64, 17, 5, 129, 1, 0, 97, 210, 33};
  problem.num_ranks = num_ranks;
  problem.max_tokens_per_rank = 510 / num_ranks + 1;
  problem.cost = BatchCost::attention(q_heads, kv_heads, head_dim, 4, true);
  problem.cost.inside_latency_s = problem.cost.between_latency_s = 1e-7;
  return problem;
}

AttentionSpec spec_of(const MicroBatch& micro, Method method) {
  AttentionSpec spec;
  spec.q_heads = q_heads;
  spec.kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.partition = micro.partition;
  spec.mask = micro.mask;
  spec.method = method;
  return spec;
}

/// Tokens [first, first + length) of (1, N, H, D).
HostTensor tokens_of(const HostTensor& packed, std::int64_t first, std::int64_t length) {
  const std::int64_t H = packed.geometry.shape[2], D = packed.geometry.shape[3];
  HostTensor part(packed.dtype, {1, length, H, D});
  std::memcpy(part.bytes.data(), packed.bytes.data() + first * H * D * static_cast<std::int64_t>(size_bytes(packed.dtype)),
              part.bytes.size());
  return part;
}

/// The same of lse (1, H, N).
HostTensor lse_of(const HostTensor& packed, std::int64_t first, std::int64_t length) {
  const std::int64_t H = packed.geometry.shape[1], N = packed.geometry.shape[2];
  HostTensor part(packed.dtype, {1, H, length});
  for (std::int64_t h = 0; h < H; ++h)
    for (std::int64_t i = 0; i < length; ++i) part.set(h * length + i, packed.get(h * N + first + i));
  return part;
}

/// One sequence on its own: knows nothing of packing, documents, ranks.
void expect_as_if_alone(const SoftmaxProblem& packed, const SoftmaxProblem::Run& run, std::int64_t first, std::int64_t length,
                        bool has_backward) {
  const HostTensor q = tokens_of(packed.q, first, length), k = tokens_of(packed.k, first, length), v = tokens_of(packed.v, first, length),
                   dout = tokens_of(packed.dout, first, length);
  const std::vector<BandSlice> slices = Mask::causal().bind(length, 1);
  const reference::Attention alone{q.view(), k.view(), v.view(), {}, slices, packed.spec.scale_or_default(), 0};
  SoftmaxTensors exact = packed.empty(DType::f64, 1, length), plain = packed.empty(f32, 1, length);
  reference::attend(alone, exact.out.view(), exact.lse.view());
  reference::attend_backward(alone, dout.view(), exact.dq.view(), exact.dk.view(), exact.dv.view());
  reference::attend_plain(alone, plain.out.view(), plain.lse.view());
  reference::attend_backward_plain(alone, dout.view(), plain.dq.view(), plain.dk.view(), plain.dv.view());
  expect_accurate(tokens_of(run.whole.out, first, length), exact.out, plain.out, f32, false, "out");
  expect_accurate(lse_of(run.whole.lse, first, length), exact.lse, plain.lse, f32, false, "lse");
  if (!has_backward) return;
  if (length == 1) {  // the gradient of a softmax over one key is a difference of equal sums: 0 in theory
    EXPECT_LE(distance(tokens_of(run.whole.dq, first, length), exact.dq).max, 32 * epsilon(f32));
    EXPECT_LE(distance(tokens_of(run.whole.dk, first, length), exact.dk).max, 32 * epsilon(f32));
  } else {
    expect_accurate(tokens_of(run.whole.dq, first, length), exact.dq, plain.dq, f32, true, "dq");
    expect_accurate(tokens_of(run.whole.dk, first, length), exact.dk, plain.dk, f32, true, "dk");
  }
  expect_accurate(tokens_of(run.whole.dv, first, length), exact.dv, plain.dv, f32, true, "dv");
}

/// needs[reader][owner]: tokens of `owner` that come before a token of `reader` in a sequence that both share.
std::vector<std::vector<std::int64_t>> needs_of(const MicroBatch& micro) {
  const int num_ranks = micro.partition.num_ranks();
  std::vector<std::vector<std::int64_t>> needs(num_ranks, std::vector<std::int64_t>(num_ranks));
  for (std::size_t i = 0; i < micro.sequences.size(); ++i) {
    const std::int64_t first = micro.first_token[i],
                       end = i + 1 < micro.sequences.size() ? micro.first_token[i + 1] : micro.partition.num_tokens();
    std::vector<std::int64_t> last(num_ranks, -1);  // this rank's last token of the sequence
    for (std::int64_t token = first; token < end; ++token) last[micro.partition.place_of(token).rank] = token;
    for (std::int64_t token = first; token < end; ++token) {
      const Rank owner = micro.partition.place_of(token).rank;
      for (const Rank reader : micro.groups[i])
        if (reader != owner && token <= last[reader]) ++needs[reader][owner];
    }
  }
  return needs;
}

TEST(BalanceRun, EverySequenceAsIfItWereAlone) {
  for (const int num_ranks : up_to_if_sanitized(4, {1, 2, 3, 4, 5, 7, 8})) {
    const BalanceProblem batch = mixed_problem(num_ranks);
    const BatchPlan plan = balance(batch);
    ASSERT_GE(plan.micro_batches.size(), 2u);
    for (const MicroBatch& micro : plan.micro_batches)
      for (const Method method : private_methods) {
        SCOPED_TRACE(std::string(name(method)) + ", " + std::to_string(num_ranks) + " ranks\n" + plan.describe());
        const SoftmaxProblem problem(spec_of(micro, method));
        const SoftmaxProblem::Run run = problem.run();
        for (std::size_t i = 0; i < micro.sequences.size(); ++i)
          if (const std::int64_t length = batch.lengths[micro.sequences[i]]; length > 0)
            expect_as_if_alone(problem, run, micro.first_token[i], length, true);
        for (Rank rank = 0; rank < num_ranks; ++rank) {  // the transport counted what the schedules say
          EXPECT_EQ(run.received_bytes[rank], cost_of(entry_of(method).forward(problem.spec, rank, {})).total_received_bytes);
          EXPECT_EQ(run.received_backward[rank], cost_of(entry_of(method).backward(problem.spec, rank, {})).total_received_bytes);
        }
      }
  }
}

TEST(BalanceRun, AnyMethodIsExact) {
  const BalanceProblem batch = mixed_problem(4);
  const BatchPlan plan = balance(batch);
  for (const MicroBatch& micro : plan.micro_batches)
    for (const MethodEntry& entry : method_table()) {
      SCOPED_TRACE(entry.name);
      const SoftmaxProblem problem(spec_of(micro, entry.method));
      const SoftmaxProblem::Run run = problem.run();
      for (std::size_t i = 0; i < micro.sequences.size(); ++i)
        if (const std::int64_t length = batch.lengths[micro.sequences[i]]; length > 0)
          expect_as_if_alone(problem, run, micro.first_token[i], length, entry.backward != nullptr);
    }
}

// As many bytes as the reader's groups need of each owner arrive, and the results are right: so nothing else arrives.
TEST(BalanceRun, RanksReceiveWhatTheirGroupsNeedAndNothingElse) {
  int num_nested = 0;
  for (const int num_ranks : {2, 3, 4, 5, 7, 8, 16}) {
    for (const MicroBatch& micro : balance(mixed_problem(num_ranks)).micro_batches) {
      std::set<std::vector<Rank>> shared;
      for (const auto& group : micro.groups)
        if (group.size() > 1) shared.insert(group);
      num_nested += shared.size() > 1 ? 1 : 0;
      const auto needs = needs_of(micro);
      const std::uint64_t row_bytes = 2 * kv_heads * head_dim * 4;  // k and v; as many for dk and dv in f32
      for (const Method method : private_methods) {
        SCOPED_TRACE(std::string(name(method)) + ", " + std::to_string(num_ranks) + " ranks, " + micro.partition.describe());
        const AttentionSpec spec = spec_of(micro, method);
        const std::vector<Schedule> forward = record_all(entry_of(method).forward, spec),
                                    backward = record_all(entry_of(method).backward, spec);
        const Claim claim{&spec.partition, &spec.mask, 1, q_heads, kv_heads};
        EXPECT_TRUE(check(forward, claim).ok()) << check(forward, claim).text();
        EXPECT_TRUE(check(backward, claim).ok()) << check(backward, claim).text();

        std::uint64_t all_needs = 0, all_backward = 0;
        for (Rank reader = 0; reader < num_ranks; ++reader) {
          const Cost cost = cost_of(forward[reader]), cost_backward = cost_of(backward[reader]);
          std::uint64_t needed = 0;
          for (Rank other = 0; other < num_ranks; ++other) {
            needed += static_cast<std::uint64_t>(needs[reader][other]) * row_bytes;
            const bool related = std::any_of(micro.groups.begin(), micro.groups.end(), [&](const std::vector<Rank>& group) {
              return std::count(group.begin(), group.end(), reader) + std::count(group.begin(), group.end(), other) == 2;
            });
            if (!related && reader != other) {
              EXPECT_EQ(cost.received_bytes[other] + cost.sent_bytes[other], 0u) << reader << " and " << other;
              EXPECT_EQ(cost_backward.received_bytes[other] + cost_backward.sent_bytes[other], 0u) << reader << " and " << other;
            }
            if (method == Method::kv_all_gather) {
              EXPECT_EQ(cost_backward.received_bytes[other],
                        static_cast<std::uint64_t>(needs[reader][other] + needs[other][reader]) * row_bytes);
            }
          }
          EXPECT_EQ(cost.total_received_bytes, needed) << "rank " << reader;
          all_needs += needed;
          all_backward += cost_backward.total_received_bytes;
        }
        // Keys and values once more, and every row's gradient leaves each rank that read the row once.
        EXPECT_EQ(all_backward, 2 * all_needs);
      }
    }
  }
  EXPECT_GE(num_nested, 3) << "no micro-batch has several groups";
}

TEST(BalanceRun, TheCostModelCountsWhatTheSchedulesDo) {
  for (const int num_ranks : {1, 2, 4, 8}) {
    const std::int64_t length = 64;
    const BalanceProblem batch{{length}, num_ranks, {}, length / num_ranks, {}};
    const BatchPlan plan = balance(batch);
    ASSERT_EQ(plan.micro_batches.at(0).groups.at(0).size(), static_cast<std::size_t>(num_ranks));
    for (const Method method : private_methods)
      for (const bool backward : {false, true}) {
        const BatchCost both = BatchCost::attention(q_heads, kv_heads, head_dim, 4, true);
        const BatchCost forward = BatchCost::attention(q_heads, kv_heads, head_dim, 4, false);
        const AttentionSpec spec = spec_of(plan.micro_batches[0], method);
        double flops = 0, most_received = 0;
        for (const Schedule& schedule : record_all(backward ? entry_of(method).backward : entry_of(method).forward, spec)) {
          for (const Op& op : schedule.ops)
            if (std::holds_alternative<Attend>(op) || std::holds_alternative<AttendBackward>(op)) flops += cost_of(schedule, op).flops;
          most_received = std::max(most_received, static_cast<double>(cost_of(schedule).total_received_bytes));
        }
        const double flops_per_pair = both.flops_per_pair * (backward ? 1 : 0) + forward.flops_per_pair * (backward ? -1 : 1);
        EXPECT_DOUBLE_EQ(flops, flops_per_pair * static_cast<double>(length * (length + 1) / 2));
        // In the zigzag the first rank sees every key. Gradients come home instead, fewer to the rank that reads most.
        const double share = static_cast<double>(length * (num_ranks - 1)) / num_ranks;
        if (!backward) {
          EXPECT_DOUBLE_EQ(most_received, forward.bytes_per_token * share);
        } else {
          EXPECT_LE(most_received, (both.bytes_per_token - forward.bytes_per_token) * share);
        }
      }
  }
}

}  // namespace
}  // namespace seqccl::test
