// outcome.cpp - outcomes as bytes, and back.
// SPDX-License-Identifier: Apache-2.0
#include "outcome.hpp"

#include <algorithm>

#include "seqccl/bootstrap.hpp"
#include "wire.hpp"

SEQCCL_BEGIN
namespace bootstrap {
namespace {

/// Takes numbers and strings from a text that another rank has made.
class Reader {
 public:
  explicit Reader(std::string_view text) : rest_(text) {}
  std::string_view bytes(std::size_t count) {
    if (count > rest_.size()) throw Error(ErrorKind::internal, "bootstrap: the result of rank 0 is cut off");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  std::uint64_t number(int num_bytes) { return read_number(bytes(static_cast<std::size_t>(num_bytes))); }
  std::string string() {
    const std::size_t length = number(4);
    return std::string(bytes(length));
  }

 private:
  std::string_view rest_;
};

}  // namespace

std::string encode(const Outcome& outcome) {
  std::string text;
  append_number(text, static_cast<std::uint64_t>(outcome.num_ranks), 4);
  append_number(text, outcome.error ? 1 : 0, 1);
  const auto append_string = [&](std::string_view string) {
    append_number(text, string.size(), 4);
    text += string;
  };
  for (const std::string& value : outcome.values) append_string(value);
  if (!outcome.error) return text;
  append_number(text, static_cast<std::uint64_t>(outcome.error->kind()), 1);
  append_string(outcome.error->what());
  append_number(text, outcome.error->culprits().size(), 4);
  for (const Rank culprit : outcome.error->culprits()) append_number(text, static_cast<std::uint64_t>(culprit), 4);
  return text;
}

Outcome decode(std::string_view text) {
  Reader reader(text);
  Outcome outcome{.num_ranks = static_cast<int>(reader.number(4)), .values = {}, .error = {}};
  if (reader.number(1) == 0) {
    for (int rank = 0; rank < outcome.num_ranks; ++rank) outcome.values.push_back(reader.string());
    return outcome;
  }
  const auto kind = static_cast<ErrorKind>(std::min<std::uint64_t>(reader.number(1), static_cast<std::uint64_t>(ErrorKind::internal)));
  const std::string what = reader.string();
  std::vector<Rank> culprits;
  for (std::uint64_t left = reader.number(4); left > 0; --left) culprits.push_back(static_cast<Rank>(reader.number(4)));
  outcome.error = Error(kind, what, std::move(culprits));
  return outcome;
}

std::uint64_t leading_number(std::string_view text, int num_bytes) { return Reader(text).number(num_bytes); }

std::string first_piece(std::string_view text) {
  std::string piece;
  append_number(piece, text.size(), outcome_size_bytes);
  piece += text.substr(0, max_store_value_bytes - outcome_size_bytes);
  return piece;
}

}  // namespace bootstrap
SEQCCL_END
