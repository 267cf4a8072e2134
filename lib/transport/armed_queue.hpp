// armed_queue.hpp - receives that have been armed and have not come, first in, first out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "seqccl/version.hpp"

SEQCCL_BEGIN

struct Armed {
  std::byte* data = nullptr;
  std::size_t num_bytes = 0;
  std::uint64_t flag = 0;
  std::uint64_t offset = 0;  // of `data` in memory that is shared, where a credit says it
};

/// Keeps its memory.
class ArmedQueue {
 public:
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] const Armed& operator[](std::size_t i) const noexcept { return ring_[(first_ + i) & (ring_.size() - 1)]; }
  [[nodiscard]] const Armed& front() const noexcept { return ring_[first_]; }
  void pop_front() noexcept {
    first_ = (first_ + 1) & (ring_.size() - 1);
    --count_;
  }
  void push_back(const Armed& armed) {
    if (count_ == ring_.size()) {
      std::vector<Armed> larger(std::max<std::size_t>(4, 2 * ring_.size()));  // a power of two
      for (std::size_t i = 0; i < count_; ++i) larger[i] = (*this)[i];
      ring_ = std::move(larger);
      first_ = 0;
    }
    ring_[(first_ + count_++) & (ring_.size() - 1)] = armed;
  }

 private:
  std::vector<Armed> ring_;
  std::size_t first_ = 0, count_ = 0;
};

SEQCCL_END
