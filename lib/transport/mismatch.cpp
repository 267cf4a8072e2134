// mismatch.cpp - compares two descriptions line by line.
// SPDX-License-Identifier: Apache-2.0
#include "mismatch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

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

std::vector<Rank> odd_ranks(Transport& transport, Rank a, Rank b) {
  using namespace std::chrono_literals;
  constexpr auto patience = 250ms, pause = 1ms, between_questions = 20ms;
  const auto begin = SteadyClock::now();
  auto next_question = begin;
  const std::uint64_t number = std::min(transport.status(a).operation.load(), transport.status(b).operation.load());
  const auto num_ranks = static_cast<std::size_t>(transport.num_ranks());
  std::vector<std::optional<std::uint64_t>> seen(num_ranks), plans(num_ranks);  // of operation `number`
  for (bool all_known = false; !all_known && SteadyClock::now() - begin < patience; std::this_thread::sleep_for(pause)) {
    all_known = true;
    const bool asks = SteadyClock::now() >= next_question;
    if (asks) next_question += between_questions;
    for (std::size_t at = 0; at < num_ranks; ++at) {
      const auto rank = static_cast<Rank>(at);
      if (plans[at]) continue;
      RankStatus& status = transport.status(rank);
      const std::uint64_t operation = status.operation.load();
      if (transport.status_time(rank) < begin || operation < number) {
        all_known = all_known && status.left.load();
        if (asks && rank != transport.rank()) transport.ask_for_status(rank);
        continue;
      }
      if (operation > number + 1) continue;  // too far on to tell
      // Believed at the second look: a rank changes its plans and then the number, not all at once.
      const std::uint64_t plan = operation == number ? status.plan.load() : status.earlier_plan.load();
      if (std::exchange(seen[at], plan) == plan)
        plans[at] = plan;
      else
        all_known = false;
    }
  }
  const auto &plan_a = plans[static_cast<std::size_t>(a)], &plan_b = plans[static_cast<std::size_t>(b)];
  if (!plan_a || !plan_b || plan_a == plan_b) return {std::min(a, b), std::max(a, b)};

  const auto num_with = [&](std::uint64_t plan) { return std::count(plans.begin(), plans.end(), plan); };
  std::optional<std::uint64_t> right;  // of the largest group; of several, that with the lowest rank
  for (const auto& plan : plans)
    if (plan && (!right || num_with(*plan) > num_with(*right))) right = plan;
  std::vector<Rank> odd;
  for (std::size_t at = 0; at < num_ranks; ++at)
    if (plans[at] && plans[at] != right) odd.push_back(static_cast<Rank>(at));
  return odd;
}

Error mismatch_error(Transport& transport, const MismatchSide& sender, const MismatchSide& receiver) {
  const Rank noticed_by = transport.rank();
  const int num_ranks = transport.num_ranks();
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
          odd_ranks(transport, mine.rank, theirs.rank)};
}

SEQCCL_END
