// bidirectional.cpp - sums of states over documents: reduce-scatter and all-gather of columns, two rounds.
// SPDX-License-Identifier: Apache-2.0
#include "bidirectional.hpp"

#include <algorithm>
#include <utility>

#include "layer.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// A state to be summed over ranks.
struct Sum {
  std::vector<Rank> ranks{};  // that have a part, ascending
  Block part{};               // mine; absent if I have none
};

/// All sums at once, each in rank order. Replaces `part` by the sum.
void all_reduce(Recorder& plan, const States& states, std::vector<Sum>& sums) {
  const Rank me = plan.rank();
  std::vector<Transfer> sends, receives;
  std::vector<std::vector<Block>> mine(sums.size());  // the parts of my block of columns, in rank order
  const auto blocks_of = [&](const Sum& sum) {
    return static_cast<int>(std::min<std::int64_t>(static_cast<std::int64_t>(sum.ranks.size()), states.value_dim));
  };
  for (std::size_t s = 0; s < sums.size(); ++s) {
    const Sum& sum = sums[s];
    if (!sum.part.present()) continue;
    for (int b = 0; b < blocks_of(sum); ++b) {
      const Rank owner = sum.ranks[static_cast<std::size_t>(b)];
      if (owner != me) {
        sends.push_back({owner, states.take(sum.part, b, blocks_of(sum))});
        continue;
      }
      for (const Rank from : sum.ranks) {
        if (from == me) {
          mine[s].push_back(states.take(sum.part, b, blocks_of(sum)));
        } else {
          mine[s].push_back(states.scratch(b, blocks_of(sum)));
          receives.push_back({from, mine[s].back()});
        }
      }
    }
  }
  plan.exchange(std::move(sends), std::move(receives));

  sends.clear(), receives.clear();
  for (std::size_t s = 0; s < sums.size(); ++s) {
    Sum& sum = sums[s];
    if (!sum.part.present() || sum.ranks.size() == 1) continue;
    std::vector<Block> columns;
    for (int b = 0; b < blocks_of(sum); ++b) {
      const Rank owner = sum.ranks[static_cast<std::size_t>(b)];
      columns.push_back(states.scratch(b, blocks_of(sum)));
      if (owner != me) {
        receives.push_back({owner, columns.back()});
        continue;
      }
      plan.compute(Copy{mine[s].front(), columns.back()}, me);
      for (std::size_t i = 1; i < mine[s].size(); ++i) plan.compute(Add{mine[s][i], columns.back()}, sum.ranks[i]);
      for (const Rank to : sum.ranks)
        if (to != me) sends.push_back({to, columns.back()});
    }
    mine[s] = std::move(columns);
  }
  plan.exchange(std::move(sends), std::move(receives));
  for (std::size_t s = 0; s < sums.size(); ++s)
    if (sums[s].part.present() && sums[s].ranks.size() > 1) sums[s].part = states.join(mine[s]);
}

/// For each document the sum of what `record` writes into a state for each of my runs.
template <class Record>
std::vector<Sum> sums_over(LinearLayer& layer, const std::vector<Places>& documents, const Record& record) {
  std::vector<Sum> sums;
  for (const Places& document : documents) {
    Sum& sum = sums.emplace_back();
    for (std::size_t v = document.first; v < document.end; ++v) {
      const Run& run = layer.runs[v];
      sum.ranks.push_back(run.owner);
      if (run.owner != layer.plan.rank()) continue;
      const Block state = layer.states().scratch();
      record(run, state);
      if (sum.part.present())
        layer.plan.compute(Add{state, sum.part}, run.owner);
      else
        sum.part = state;
    }
    std::sort(sum.ranks.begin(), sum.ranks.end());
    sum.ranks.erase(std::unique(sum.ranks.begin(), sum.ranks.end()), sum.ranks.end());
  }
  return sums;
}

}  // namespace

Schedule bidirectional_forward(const LinearSpec& spec, Rank rank) {
  LinearLayer layer("linear forward", spec, rank);
  Recorder& plan = layer.plan;
  const Block out = plan.output(Tensor::out, spec.dtype, layer.rows(spec.dim_v()));
  const Block sum = layer.sums_for(out);
  const std::vector<Places> documents = documents_of(layer.runs);
  std::vector<Sum> states = sums_over(layer, documents, [&](const Run& run, const Block& state) {
    plan.compute(LinearSummary{layer.of(layer.k, run), layer.of(layer.v, run), {}, state}, rank);
  });
  all_reduce(plan, layer.states(), states);
  if (!sum.empty()) plan.compute(Zero{sum}, rank);
  for (std::size_t d = 0; d < documents.size(); ++d)
    for (std::size_t v = documents[d].first; v < documents[d].end; ++v)
      if (const Run& run = layer.runs[v]; run.owner == rank)
        plan.compute(LinearEnter{layer.of(layer.q, run), {}, states[d].part, layer.of(sum, run), spec.scale}, rank);
  layer.copy_out(sum, out);
  return std::move(plan).finish(spec.describe());
}

// X = sum of dE: dq_t = scale E dout_t, dk_t = X v_t, dv_t = X^T k_t. E is summed again: nothing is kept of forward.
Schedule bidirectional_backward(const LinearSpec& spec, Rank rank) {
  LinearLayer layer("linear backward", spec, rank);
  Recorder& plan = layer.plan;
  const Block dout = plan.input(Tensor::dout, spec.dtype, layer.rows(spec.dim_v()));
  const Block dq = plan.output(Tensor::dq, spec.dtype, layer.rows(spec.head_dim));
  const Block dk = plan.output(Tensor::dk, spec.dtype, layer.rows(spec.head_dim));
  const Block dv = plan.output(Tensor::dv, spec.dtype, layer.rows(spec.dim_v()));
  const Block dq_sum = layer.sums_for(dq), dk_sum = layer.sums_for(dk), dv_sum = layer.sums_for(dv);
  const std::vector<Places> documents = documents_of(layer.runs);
  std::vector<Sum> sums = sums_over(layer, documents, [&](const Run& run, const Block& state) {
    plan.compute(LinearSummary{layer.of(layer.k, run), layer.of(layer.v, run), {}, state}, rank);
  });
  for (Sum& gradient : sums_over(layer, documents, [&](const Run&run, const Block&state) {
         plan.compute(LinearSummaryBackward{layer.of(layer.q, run), layer.of(dout, run), {}, state, {}, spec.scale}, rank);
       }))
    sums.push_back(std::move(gradient));
  all_reduce(plan, layer.states(), sums);
  for (const Block& sum : {dq_sum, dk_sum, dv_sum})
    if (!sum.empty()) plan.compute(Zero{sum}, rank);
  for (std::size_t d = 0; d < documents.size(); ++d)
    for (std::size_t v = documents[d].first; v < documents[d].end; ++v) {
      const Run& run = layer.runs[v];
      if (run.owner != rank) continue;
      const Block state = sums[d].part, gradient = sums[documents.size() + d].part;
      plan.compute(LinearEnter{layer.of(dout, run), {}, state, layer.of(dq_sum, run), spec.scale, false, true}, rank);
      plan.compute(LinearEnter{layer.of(layer.v, run), {}, gradient, layer.of(dk_sum, run), 1, false, true}, rank);
      plan.compute(LinearEnter{layer.of(layer.k, run), {}, gradient, layer.of(dv_sum, run), 1}, rank);
    }
  layer.copy_out(dq_sum, dq);
  layer.copy_out(dk_sum, dk);
  layer.copy_out(dv_sum, dv);
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
