// documents.hpp - where the documents of a packed sequence begin.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "seqccl/error.hpp"

SEQCCL_BEGIN

/// Documents of a packed sequence
/// ==============================
///
///     lengths {2, 0, 4}      position 0 1 2 3 4 5
///                            start    0 0 2 2 2 2
///
/// The same lengths as Mask::documents takes. No lengths: the whole sequence is one document.
class Documents {
 public:
  Documents() = default;
  /// @throws Error(argument) if a length is negative, or there are lengths and they do not sum to num_tokens
  Documents(std::span<const std::int64_t> lengths, std::int64_t num_tokens);

  /// First position of the document that `position` lies in.
  [[nodiscard]] std::int64_t start_of(std::int64_t position) const noexcept;

 private:
  std::vector<std::int64_t> starts_;  // of the documents with tokens but the first, ascending
};

SEQCCL_END
