// recorded.hpp - recorded schedules of all ranks with what they claim, and how to break them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "seqccl/check.hpp"
#include "seqccl/collectives.hpp"

namespace seqccl::test {

/// Schedules of all ranks of one operation, to be checked or broken.
struct Recorded {
  std::vector<Schedule> ranks;
  Partition partition;
  Mask mask;
  bool softmax = true;
  std::int64_t batch = 1, q_heads = 1, kv_heads = 1;
  std::vector<std::int64_t> documents{};  // linear
  bool causal = true;

  [[nodiscard]] Claim claim() const { return {&partition, softmax ? &mask : nullptr, batch, q_heads, kv_heads, &documents, causal}; }
  [[nodiscard]] CheckReport races() const {
    CheckReport all;
    for (const Schedule& schedule : ranks)
      for (const std::string& problem : check_races(schedule).problems) all.problems.push_back(problem);
    return all;
  }
  [[nodiscard]] CheckReport matching() const { return check_matching(ranks); }
  [[nodiscard]] CheckReport deadlock() const { return check_deadlock_free(ranks); }
  [[nodiscard]] CheckReport coverage() const { return check_coverage(ranks, claim()); }

  /// The `number`-th op of kind T on a rank.
  template <class T>
  T& op(Rank rank, int number = 0) {
    for (Op& op : ranks[rank].ops)
      if (T* typed = std::get_if<T>(&op); typed != nullptr && number-- == 0) return *typed;
    throw std::logic_error("no such op");
  }
  Exchange& exchange(Rank rank, int number) { return ranks[rank].exchanges.at(static_cast<std::size_t>(number)); }
  Transfer& send(Rank rank, int exchange_number, int number) {
    return ranks[rank].transfers[exchange(rank, exchange_number).first + static_cast<std::uint32_t>(number)];
  }
  Transfer& receive(Rank rank, int exchange_number, int number) {
    const Exchange& at = exchange(rank, exchange_number);
    return ranks[rank].transfers[at.first + at.num_sends + static_cast<std::uint32_t>(number)];
  }
  /// The step that does op or exchange `index` of a lane.
  Step& step(Rank rank, Lane lane, int index) {
    for (Step& step : ranks[rank].steps)
      if (step.lane == lane && index-- == 0) return step;
    throw std::logic_error("no such step");
  }
};

inline AttentionSpec small_spec(Partition partition, Mask mask) {
  AttentionSpec spec;
  spec.q_heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 8;
  spec.partition = std::move(partition);
  spec.mask = std::move(mask);
  return spec;
}

using RecordSoftmax = Schedule (*)(const AttentionSpec&, Rank, const RecordOptions&);
using RecordLinear = Schedule (*)(const LinearSpec&, Rank, const RecordOptions&);

inline Recorded recorded(RecordSoftmax record, const AttentionSpec& spec, const RecordOptions& options = {}) {
  return {record_all(record, spec, options), spec.partition, spec.mask, true, spec.batch, spec.q_heads, spec.num_kv_heads()};
}
inline Recorded recorded(RecordLinear record, const LinearSpec& spec) {
  return {record_all(record, spec), spec.partition, {}, false, spec.batch, spec.heads, spec.heads, spec.documents, spec.causal};
}

/// Succeeds if the report has a problem whose text contains `word`.
inline ::testing::AssertionResult says(const CheckReport& report, const std::string& word) {
  for (const std::string& problem : report.problems)
    if (problem.find(word) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "nothing about \"" << word << "\" in:\n" << (report.ok() ? "no problem\n" : report.text());
}
inline ::testing::AssertionResult passes(const CheckReport& report) {
  if (report.ok()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << report.text();
}

}  // namespace seqccl::test
