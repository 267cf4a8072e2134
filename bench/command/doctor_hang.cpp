// doctor_hang.cpp - the operation that hung: how far each rank came, whom it waits for, and where all the waiting ends.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "command/doctor_findings.hpp"
#include "command/table.hpp"
#include "seqccl/flight_recorder.hpp"

namespace seqccl::command {
namespace {

using Doing = RankAtMoment::Doing;

constexpr Nanoseconds worth_a_word = 1000000000;  // a wait that nobody has given up yet

bool names(const std::optional<RecordedError>& error, ErrorKind kind, Rank rank) {
  return error && error->kind == name(kind) && std::find(error->culprits.begin(), error->culprits.end(), rank) != error->culprits.end();
}

std::string since_text(const Moment& moment, const RankAtMoment& rank) {
  if (!rank.since_ns) return "";
  const Nanoseconds until = moment.is_failure || rank.record == nullptr ? moment.at_ns : rank.record->written_ns;
  return fmt::format(" for {}", duration_text(until - *rank.since_ns));
}

/// What a rank does: "is inside step 4 (custom, block of rank 1) for 1.2 s".
std::string doing_text(const Moment& moment, const RankAtMoment& rank) {
  const std::string since = since_text(moment, rank);
  switch (rank.doing) {
    case Doing::not_called:
      return fmt::format(
          "has not called operation {}{}", moment.operation,
          rank.ended == 0 ? ""
                          : fmt::format("; it ended operation {}{}", rank.ended, rank.since_ns ? ", " + since.substr(5) + " before" : ""));
    case Doing::computing:
      return fmt::format("is inside {}{}", rank.step_text(), since);
    case Doing::waiting:
      return rank.step ? fmt::format("waits for rank {} in {}{}", rank.waits_for, rank.step_text(), since)
                       : fmt::format("waits for rank {}{}", rank.waits_for, since);
    case Doing::nothing:
      return rank.step ? fmt::format("has begun {} and does nothing{}", rank.step_text(), since)
                       : fmt::format("is in the operation and does nothing{}", since);
    case Doing::ended:
      return fmt::format("has ended operation {}", moment.operation);
    case Doing::left:
      return "has left its communicator";
    case Doing::died:
      return rank.step ? fmt::format("has died inside {}", rank.step_text()) : "has died";
    case Doing::unknown:
      break;
  }
  return "has not said what it does";
}

ErrorKind kind_of(Doing doing) {
  return doing == Doing::left || doing == Doing::died ? ErrorKind::dead
         : doing == Doing::ended                      ? ErrorKind::mismatched
                                                      : ErrorKind::stalled;
}

/// Index of the first step that the rank has not ended.
std::uint32_t first_open_step(const RankAtMoment& rank) {
  if (rank.doing == Doing::ended) return UINT32_MAX;
  // Up to the first gap; what is older than a record that is full has ended.
  const bool is_full = rank.record != nullptr && rank.record->steps.size() >= FlightRecorder::ring_entries;
  std::uint32_t next = is_full && !rank.steps_ended.empty() ? *rank.steps_ended.begin() : 0;
  for (const std::uint32_t step : rank.steps_ended)
    if (step == next) ++next;
  return std::min(next, rank.lowest_open.value_or(next));
}

std::string chain_text(const Moment& moment, const std::vector<Rank>& chain) {
  constexpr std::size_t shown_at_each_end = 4;
  std::string text;
  for (std::size_t i = 0; i < chain.size(); ++i) {
    const RankAtMoment& rank = moment.ranks[static_cast<std::size_t>(chain[i])];
    if (chain.size() > 2 * shown_at_each_end + 1 && i >= shown_at_each_end && i + shown_at_each_end < chain.size()) {
      if (i == shown_at_each_end) text += fmt::format(", {} ranks further", chain.size() - 2 * shown_at_each_end);
      continue;
    }
    const bool closes = i + 1 == chain.size() && i > 0 && std::find(chain.begin(), chain.end() - 1, chain[i]) != chain.end() - 1;
    if (i > 0) text += ", ";
    if (closes)
      text += fmt::format("rank {} again", chain[i]);
    else
      text += fmt::format("rank {} {}", chain[i],
                          i + 1 < chain.size() && rank.doing == Doing::waiting && rank.step ? fmt::format("waits in {}", rank.step_text())
                                                                                            : doing_text(moment, rank));
  }
  return text;
}

/// Where to look now.
std::string advice_for(const std::vector<FlightRecord>& records, const Moment& moment, const Root& root) {
  if (root.ranks.size() != 1) return "";
  const RankAtMoment& rank = moment.ranks[static_cast<std::size_t>(root.ranks.front())];
  Nanoseconds timeout_ns = 0;
  for (const FlightRecord& record : records)
    if (const RecordedOperation* operation = record.operation(moment.operation)) timeout_ns = operation->timeout_ns;
  if (root.kind == name(ErrorKind::stalled) && timeout_ns > 0)
    return fmt::format("what rank {} is at; if it may take longer than the timeout of {}, raise it (Communicator::set_timeout)", rank.rank,
                       duration_text(timeout_ns));
  if (rank.doing == Doing::died)
    return fmt::format("how the process of rank {} ended: its exit code or signal, its output, out of memory", rank.rank);
  if (rank.doing == Doing::left) return fmt::format("why the program of rank {} returned early: its output, an exception", rank.rank);
  return "";
}

}  // namespace

std::optional<Root> root_of(const std::vector<FlightRecord>& records, const Moment& moment) {
  const auto& error = moment.first->error;
  const auto rank_of = [&](Rank rank) -> const RankAtMoment& { return moment.ranks[static_cast<std::size_t>(rank)]; };
  if (error && error->kind != name(ErrorKind::stalled) && !error->culprits.empty()) {
    // Whoever died, failed or called something else is known at once; the others may be in the midst of their work.
    const Rank culprit = error->culprits.front();
    if (error->kind == name(ErrorKind::mismatched)) {
      std::vector<Rank> ranks = error->culprits;
      if (const auto difference = find_difference(records); difference && !difference->data["odd_ranks"].empty()) {
        difference->data["odd_ranks"].get_to(ranks);
        return Root{ranks, error->kind, fmt::format("{} called something else than the others", ranks_text(ranks))};
      }
      std::sort(ranks.begin(), ranks.end());
      return Root{ranks, error->kind, fmt::format("{} disagree", ranks_text(ranks))};
    }
    if (error->culprits.size() > 1) return Root{error->culprits, error->kind, fmt::format("{} together", ranks_text(error->culprits))};
    const RankAtMoment& rank = rank_of(culprit);
    if (error->kind == name(ErrorKind::local))
      return Root{{culprit}, error->kind, fmt::format("rank {} failed by itself{}", culprit, rank.step ? " in " + rank.step_text() : "")};
    return Root{{culprit}, error->kind, fmt::format("rank {} {}", culprit, doing_text(moment, rank))};
  }
  if (moment.operation == 0) return std::nullopt;
  // The end of the longest chain of waits; all who wait in vain come to the same end.
  std::vector<Rank> longest;
  for (const RankAtMoment& rank : moment.ranks)
    if (const auto chain = moment.chain_from(rank.rank); rank.doing == Doing::waiting && chain.size() > longest.size()) longest = chain;
  if (longest.empty())
    for (const RankAtMoment& rank : moment.ranks)
      if (rank.doing != Doing::ended && longest.empty()) longest = {rank.rank};
  if (longest.empty()) return std::nullopt;
  const RankAtMoment& last = rank_of(longest.back());
  if (last.doing == Doing::waiting) {  // in a circle
    std::vector<Rank> circle(std::find(longest.begin(), longest.end(), last.rank), longest.end() - 1);
    std::sort(circle.begin(), circle.end());
    return Root{circle, name(ErrorKind::stalled), fmt::format("{} wait for each other", ranks_text(circle))};
  }
  return Root{{last.rank}, name(kind_of(last.doing)), fmt::format("rank {} {}", last.rank, doing_text(moment, last))};
}

std::optional<Finding> find_hang(const std::vector<FlightRecord>& records, const Moment& moment) {
  if (moment.operation == 0) return std::nullopt;
  const std::optional<Root> root = root_of(records, moment);
  if (!root) return std::nullopt;
  if (!moment.is_failure) {
    // Asked for in the midst of work: somebody begins or ends a step all the time.
    Nanoseconds quiet = INT64_MAX;
    for (const FlightRecord& record : records) {
      const Nanoseconds progress = record.peers[static_cast<std::size_t>(record.rank)].progress_ns;
      quiet = std::min(quiet, record.written_ns - progress);
    }
    if (quiet < worth_a_word) return std::nullopt;
  }

  Finding finding{fmt::format("{} {}", operation_text(records, moment.operation), moment.is_failure ? "did not end" : "does not go on"),
                  {},
                  {{"kind", "hung"}, {"operation", moment.operation}, {"ranks", Json::array()}}};
  finding.headline.front() = 'O';

  constexpr std::size_t max_rows = 16;
  std::vector<const RankAtMoment*> by_distance;
  for (const RankAtMoment& rank : moment.ranks) by_distance.push_back(&rank);
  if (by_distance.size() > max_rows) {  // the least far are worth a look
    std::stable_sort(by_distance.begin(), by_distance.end(),
                     [](const RankAtMoment* a, const RankAtMoment* b) { return a->steps_ended.size() < b->steps_ended.size(); });
  }
  Table table({"rank", "steps ended", "last step ended", "at that moment"});
  for (const RankAtMoment* each : by_distance) {
    const RankAtMoment& rank = *each;
    const bool failed_itself = moment.first->error && names(moment.first->error, ErrorKind::local, rank.rank);
    const std::string then = doing_text(moment, rank) + (failed_itself ? "; it failed by itself" : "") +
                             (rank.record == nullptr ? fmt::format(" (no record; as rank {} saw it)", rank.seen_by) : "");
    const std::string last = rank.last_ended == nullptr ? (rank.record == nullptr ? "?" : "none")
                                                        : fmt::format("step {} ({})", rank.last_ended->step, rank.last_ended->label);
    if (finding.data["ranks"].size() < max_rows)
      table.add({std::to_string(rank.rank), rank.record == nullptr ? "?" : std::to_string(rank.steps_ended.size()), last, then});
    Json row = {{"rank", rank.rank},
                {"has_record", rank.record != nullptr},
                {"doing", then},
                {"operations_begun", rank.begun},
                {"operations_ended", rank.ended}};
    if (rank.record != nullptr) row["steps_ended"] = rank.steps_ended.size();
    if (rank.last_ended != nullptr) row["last_step_ended"] = rank.last_ended->step;
    if (rank.step) row["step"] = *rank.step;
    if (rank.waits_for >= 0) row["waits_for"] = rank.waits_for;
    finding.data["ranks"].push_back(row);
  }
  std::string text = table.text();
  while (!text.empty()) {
    finding.lines.push_back(text.substr(0, text.find('\n')));
    text.erase(0, text.find('\n') + 1);
  }
  if (by_distance.size() > max_rows)
    finding.lines.push_back(fmt::format("... and {} ranks that are as far or further", by_distance.size() - max_rows));

  // The first step at which the ranks part.
  std::uint32_t step = UINT32_MAX;
  for (const RankAtMoment& rank : moment.ranks)
    if (rank.record != nullptr) step = std::min(step, first_open_step(rank));
  std::vector<Rank> behind, beyond;
  std::string label;
  for (const RankAtMoment& rank : moment.ranks) {
    if (rank.record == nullptr) continue;
    (first_open_step(rank) == step ? behind : beyond).push_back(rank.rank);
    if (rank.step == step && label.empty()) label = fmt::format(" (on rank {}: {})", rank.rank, rank.label);
  }
  if (step != UINT32_MAX) {
    finding.lines.push_back(beyond.empty() ? fmt::format("no rank has ended step {}{}", step, label)
                                           : fmt::format("the ranks part at step {}{}: {} ended it, {} did not", step, label,
                                                         ranks_text(beyond), ranks_text(behind)));
    finding.data["first_open_step"] = {{"step", step}, {"not_ended_by", behind}, {"ended_by", beyond}};
  }

  // The longest way to the root.
  std::vector<Rank> chain;
  for (const RankAtMoment& rank : moment.ranks) {
    const std::vector<Rank> way = moment.chain_from(rank.rank);
    const bool reaches = std::find(root->ranks.begin(), root->ranks.end(), way.back()) != root->ranks.end();
    if (reaches && way.size() > std::max<std::size_t>(chain.size(), 1)) chain = way;
  }
  if (!chain.empty()) finding.lines.push_back("chain of waits: " + chain_text(moment, chain));
  finding.lines.push_back(fmt::format("root: {}", root->words));
  finding.lines.push_back(fmt::format("class: {}", root->kind));
  if (const std::string advice = advice_for(records, moment, *root); !advice.empty()) finding.lines.push_back("next: " + advice);
  finding.data["chain"] = chain;
  finding.data["root"] = root->ranks;
  finding.data["root_words"] = root->words;
  finding.data["class"] = root->kind;
  const auto& error = moment.first->error;
  if (error && error->kind == name(ErrorKind::stalled) && !error->culprits.empty() && error->culprits != root->ranks)
    finding.lines.push_back(
        fmt::format("the error names {}: the records, which know more than one rank, win", ranks_text(error->culprits)));
  return finding;
}

}  // namespace seqccl::command
