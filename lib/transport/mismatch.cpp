// mismatch.cpp - compares two descriptions line by line.
// SPDX-License-Identifier: Apache-2.0
#include "mismatch.hpp"

#include <fmt/format.h>

#include <string_view>

SEQCCL_BEGIN
namespace {

std::string_view take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
  return line;
}

std::string_view first_line(std::string_view text) { return text.empty() ? "not described" : take_line(text); }

std::string first_difference(std::string_view a, std::string_view b) {
  while (!a.empty() || !b.empty()) {
    const std::string_view line_a = take_line(a), line_b = take_line(b);
    if (line_a != line_b) return fmt::format("first difference: \"{}\" against \"{}\"", line_a, line_b);
  }
  return "their descriptions are equal";
}

}  // namespace

std::string where(const MismatchSide& side) {
  return side.step < 0 ? fmt::format("its operation {} ({})", side.operation, first_line(side.text))
                       : fmt::format("its operation {} ({}), step {}", side.operation, first_line(side.text), side.step);
}

Error mismatch_error(Rank noticed_by, int num_ranks, const MismatchSide& sender, const MismatchSide& receiver) {
  const bool sends = noticed_by == sender.rank;
  const MismatchSide &mine = sends ? sender : receiver, &theirs = sends ? receiver : sender;
  const bool is_same = sender.num_bytes == receiver.num_bytes && mine.operation == theirs.operation && mine.text == theirs.text;
  const auto what = is_same ? fmt::format(
                                  "{} a message that carries another flag than rank {} {}, though both call the same: it was damaged "
                                  "on its way, or their plans differ in what their descriptions do not say",
                                  sends ? "sends" : "expects", theirs.rank, sends ? "expects" : "sends")
                    : sender.num_bytes != receiver.num_bytes
                        ? fmt::format("{} {} bytes where rank {} {} {}", sends ? "sends" : "expects", mine.num_bytes, theirs.rank,
                                      sends ? "expects" : "sends", theirs.num_bytes)
                        : fmt::format("{} a message of another operation than rank {} {}", sends ? "sends" : "expects", theirs.rank,
                                      sends ? "expects" : "sends");
  return {ErrorKind::mismatched,
          fmt::format("rank {} of {}: {}: rank {} is in {}, rank {} in {}{}", noticed_by, num_ranks, what, mine.rank, where(mine),
                      theirs.rank, where(theirs), is_same ? "" : "; " + first_difference(mine.text, theirs.text)),
          {mine.rank, theirs.rank}};
}

SEQCCL_END
