// documents.cpp - finds the document of a position by bisection.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/documents.hpp"

#include <fmt/format.h>

#include <algorithm>

SEQCCL_BEGIN

Documents::Documents(std::span<const std::int64_t> lengths, std::int64_t num_tokens) {
  if (lengths.empty()) return;
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0) throw Error(ErrorKind::argument, fmt::format("Documents: lengths[{}] is {}, want 0 or more", i, lengths[i]));
    if (lengths[i] > num_tokens - sum)
      throw Error(ErrorKind::argument, fmt::format("Documents: lengths sum to more than num_tokens = {}", num_tokens));
    if (sum != 0 && lengths[i] != 0) starts_.push_back(sum);
    sum += lengths[i];
  }
  if (sum != num_tokens)
    throw Error(ErrorKind::argument, fmt::format("Documents: lengths sum to {}, want num_tokens = {}", sum, num_tokens));
}

std::int64_t Documents::start_of(std::int64_t position) const noexcept {
  const auto next = std::upper_bound(starts_.begin(), starts_.end(), position);
  return next == starts_.begin() ? 0 : *std::prev(next);
}

SEQCCL_END
