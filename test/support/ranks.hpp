// ranks.hpp - the numbers of ranks at which everything is tested, and what sanitizers leave to the release build.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <vector>

namespace seqccl::test {

/// Odd, even, prime, not powers of two; many bugs appear from 4 up.
inline constexpr int ranks_of[] = {1, 2, 3, 4, 5, 7, 8};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool is_sanitized = true;
#else
inline constexpr bool is_sanitized = false;
#endif

/// Sanitizers look for what is wrong with memory and threads, ten times slower, and find it at small sizes: of a sweep over sizes they do
/// those up to `most`.
inline std::vector<int> up_to_if_sanitized(int most, std::initializer_list<int> sizes) {
  std::vector<int> chosen;
  for (const int size : sizes)
    if (!is_sanitized || size <= most) chosen.push_back(size);
  return chosen;
}

}  // namespace seqccl::test
