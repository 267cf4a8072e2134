// pairwise.hpp - a small set of cases in which every pair of levels of any two factors occurs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <tuple>
#include <vector>

namespace seqccl::test {

/// Rows of levels, one per factor; greedy, deterministic for a seed. levels[f] is the number of levels of factor f.
inline std::vector<std::vector<int>> pairwise_cases(const std::vector<int>& levels, std::uint64_t seed = 1) {
  std::set<std::tuple<int, int, int, int>> open;  // factor, level, factor, level
  const int num_factors = static_cast<int>(levels.size());
  for (int f = 0; f < num_factors; ++f)
    for (int g = f + 1; g < num_factors; ++g)
      for (int i = 0; i < levels[f]; ++i)
        for (int j = 0; j < levels[g]; ++j) open.insert({f, i, g, j});
  std::mt19937_64 random(seed);
  const auto covered = [&](const std::vector<int>& row) {
    int count = 0;
    for (int f = 0; f < num_factors; ++f)
      for (int g = f + 1; g < num_factors; ++g) count += static_cast<int>(open.count({f, row[f], g, row[g]}));
    return count;
  };
  std::vector<std::vector<int>> cases;
  while (!open.empty()) {
    std::vector<int> best;
    int best_count = -1;
    for (int attempt = 0; attempt < 40; ++attempt) {
      std::vector<int> row(num_factors);
      for (int f = 0; f < num_factors; ++f) row[f] = static_cast<int>(random() % levels[f]);
      const auto& [f, i, g, j] = *std::next(open.begin(), static_cast<long>(random() % std::min<std::size_t>(open.size(), 8)));
      row[f] = i;
      row[g] = j;
      if (const int count = covered(row); count > best_count) {
        best_count = count;
        best = row;
      }
    }
    for (int f = 0; f < num_factors; ++f)
      for (int g = f + 1; g < num_factors; ++g) open.erase({f, best[f], g, best[g]});
    cases.push_back(best);
  }
  return cases;
}

}  // namespace seqccl::test
