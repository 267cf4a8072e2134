// doctor_findings.cpp - missing ranks, versions, different operations, the error, slow ranks.
// SPDX-License-Identifier: Apache-2.0
#include "command/doctor_findings.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace seqccl::command {
namespace {

/// Ranks with the same of something, those of the most ranks first.
template <class Key>
using Camps = std::vector<std::pair<Key, std::vector<Rank>>>;

template <class Key>
Camps<Key> sorted_camps(const std::map<Key, std::vector<Rank>>& camps) {
  Camps<Key> sorted(camps.begin(), camps.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  return sorted;
}

std::string cut(const std::string& text, std::size_t max_chars = 160) {
  return text.size() <= max_chars ? text : text.substr(0, max_chars) + "...";
}

// --- Different operations. ------------------------------------------------------------------------------------------

using Identity = std::pair<std::string, std::string>;  // fingerprint, name

Camps<Identity> camps_of(const std::vector<FlightRecord>& records, std::uint64_t number) {
  std::map<Identity, std::vector<Rank>> camps;
  for (const FlightRecord& record : records)
    if (const RecordedOperation* operation = record.operation(number))
      camps[{operation->fingerprint, operation->name}].push_back(record.rank);
  return sorted_camps(camps);
}

const FlightRecord& record_of(const std::vector<FlightRecord>& records, Rank rank) {
  return *std::find_if(records.begin(), records.end(), [&](const FlightRecord& each) { return each.rank == rank; });
}

/// The lines of an operation's description by their names: "mask" of "mask = causal".
std::map<std::string, std::string> fields_of(const FlightRecord& record, std::uint64_t number) {
  std::map<std::string, std::string> fields;
  const auto description = record.descriptions.find(record.operation(number)->description);
  if (description == record.descriptions.end()) return fields;
  for (const std::string& line : description->second) {
    const std::size_t equals = line.find(" = ");
    std::string& field = fields[equals == std::string::npos ? "" : line.substr(0, equals)];
    field += (field.empty() ? "" : "; ") + (equals == std::string::npos ? line : line.substr(equals + 3));
  }
  return fields;
}

/// Field by field, what the ranks do not agree on.
void compare_fields(const std::vector<FlightRecord>& records, std::uint64_t number, Finding& finding) {
  std::map<std::string, std::map<std::string, std::vector<Rank>>> by_field;
  std::size_t num_described = 0, num_ranks = 0;
  for (const FlightRecord& record : records) {
    if (record.operation(number) == nullptr) continue;
    ++num_ranks;
    const auto fields = fields_of(record, number);
    num_described += fields.empty() ? 0 : 1;
    for (const auto& [name, value] : fields)
      if (!name.empty()) by_field[name][value].push_back(record.rank);
  }
  finding.data["fields"] = Json::object();
  for (const auto& [name, values] : by_field) {
    std::size_t num_with = 0;
    for (const auto& [value, ranks] : values) num_with += ranks.size();
    if (values.size() == 1 && num_with == num_described) continue;
    std::vector<std::string> sides;
    for (const auto& [value, ranks] : sorted_camps(values)) {
      sides.push_back(fmt::format("{} on {}", value.empty() ? "nothing" : cut(value), ranks_text(ranks)));
      finding.data["fields"][name].push_back({{"value", value}, {"ranks", ranks}});
    }
    if (num_with < num_described) sides.emplace_back("absent on the others");
    finding.lines.push_back(fmt::format("{}: {}", name, fmt::join(sides, "; ")));
  }
  if (num_described < num_ranks)
    finding.lines.emplace_back("not all records still have the description of this operation");
  else if (finding.data["fields"].empty())
    finding.lines.emplace_back("their descriptions are equal: the plans differ in something that the descriptions do not say");
}

/// Was an operation left out, put in, or exchanged with the next?
std::string order_hint(const std::vector<FlightRecord>& records, std::uint64_t number, const Identity& usual, Rank odd) {
  const auto identity = [&](const FlightRecord& record, std::uint64_t of) {
    const RecordedOperation* operation = record.operation(of);
    return operation == nullptr ? Identity{} : Identity{operation->fingerprint, operation->name};
  };
  const FlightRecord& record = record_of(records, odd);
  const Identity its = identity(record, number), its_next = identity(record, number + 1);
  Identity usual_next;
  for (const FlightRecord& other : records)
    if (identity(other, number) == usual && usual_next == Identity{}) usual_next = identity(other, number + 1);
  if (its == usual_next && its_next == usual)
    return fmt::format("rank {} calls operations {} and {} in the other order", odd, number, number + 1);
  if (its == usual_next)
    return fmt::format("rank {} calls as operation {} what the others call as {}: it has left one out", odd, number, number + 1);
  if (its_next == usual)
    return fmt::format("rank {} calls as operation {} what the others call as {}: it has one more before it", odd, number + 1, number);
  return "";
}

}  // namespace

// --- Words. ---------------------------------------------------------------------------------------------------------

std::string ranks_text(const std::vector<Rank>& ranks) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    if (end - i > 2)
      parts.push_back(fmt::format("{} to {}", ranks[i], ranks[end - 1]));
    else
      for (std::size_t k = i; k < end; ++k) parts.push_back(std::to_string(ranks[k]));
    i = end;
  }
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(parts, ", "));
}

std::string duration_text(Nanoseconds duration) {
  const double us = static_cast<double>(duration) / 1e3;
  if (us < 0) return "0 us";
  return us < 999.5     ? fmt::format("{:.3g} us", us)
         : us < 999.5e3 ? fmt::format("{:.3g} ms", us / 1e3)
         : us < 99.5e6  ? fmt::format("{:.3g} s", us / 1e6)
                        : fmt::format("{:.0f} s", us / 1e6);
}

std::string time_of_day_text(Nanoseconds moment) {
  constexpr Nanoseconds second = 1000000000;
  const Nanoseconds seconds = moment >= 0 ? moment / second : -((second - 1 - moment) / second);
  return fmt::format("{:%Y-%m-%d %H:%M:%S}.{:03} UTC", fmt::gmtime(static_cast<std::time_t>(seconds)),
                     (moment - seconds * second) / 1000000);
}

std::string operation_text(const std::vector<FlightRecord>& records, std::uint64_t number) {
  const auto camps = camps_of(records, number);
  return camps.empty() ? fmt::format("operation {}", number) : fmt::format("operation {}, \"{}\"", number, camps.front().first.second);
}

// --- Findings. ------------------------------------------------------------------------------------------------------

std::optional<Finding> find_missing(const Moment& moment) {
  std::vector<Rank> missing;
  for (const RankAtMoment& rank : moment.ranks)
    if (rank.record == nullptr) missing.push_back(rank.rank);
  if (missing.empty()) return std::nullopt;
  Finding finding{
      fmt::format("{} left no record", ranks_text(missing)), {}, {{"kind", "missing"}, {"ranks", missing}, {"seen", Json::array()}}};
  constexpr std::size_t max_lines = 16;
  for (const Rank missed : missing) {
    const RankAtMoment& rank = moment.ranks[static_cast<std::size_t>(missed)];
    std::string words = rank.heard ? fmt::format("rank {} saw that rank {} had begun {} operations and ended {}", rank.seen_by, missed,
                                                 rank.begun, rank.ended)
                                   : fmt::format("rank {} has never heard from rank {} what it did", rank.seen_by, missed);
    if (rank.doing == RankAtMoment::Doing::died) words += "; then its process ended";
    if (rank.doing == RankAtMoment::Doing::left) words += "; it has left its communicator";
    if (rank.doing == RankAtMoment::Doing::waiting) words += fmt::format("; it waits for rank {}", rank.waits_for);
    if (rank.step) words += fmt::format("; it was in {}", rank.step_text());
    if (rank.since_ns) words += fmt::format("; last sign of life {} before", duration_text(moment.at_ns - *rank.since_ns));
    if (finding.lines.size() < max_lines) finding.lines.push_back(words);
    finding.data["seen"].push_back({{"rank", missed},
                                    {"by", rank.seen_by},
                                    {"heard", rank.heard},
                                    {"operations_begun", rank.begun},
                                    {"operations_ended", rank.ended}});
  }
  if (missing.size() > max_lines) finding.lines.push_back(fmt::format("and {} more", missing.size() - max_lines));
  if (!moment.is_failure) finding.lines.emplace_back("no record tells of a failure: these were asked for");
  return finding;
}

std::optional<Finding> find_versions(const std::vector<FlightRecord>& records) {
  std::map<std::string, std::vector<Rank>> versions;
  for (const FlightRecord& record : records) versions[record.version].push_back(record.rank);
  if (versions.size() == 1) return std::nullopt;
  Finding finding{"The ranks run different versions of seqccl", {}, {{"kind", "versions"}, {"versions", Json::object()}}};
  for (const auto& [version, ranks] : sorted_camps(versions)) {
    finding.lines.push_back(fmt::format("{} on {}", version, ranks_text(ranks)));
    finding.data["versions"][version] = ranks;
  }
  return finding;
}

std::optional<Finding> find_difference(const std::vector<FlightRecord>& records) {
  std::set<std::uint64_t> numbers;
  for (const FlightRecord& record : records)
    for (const RecordedOperation& operation : record.operations) numbers.insert(operation.number);
  for (const std::uint64_t number : numbers) {
    const auto camps = camps_of(records, number);
    if (camps.size() < 2) continue;
    Finding finding{
        fmt::format("The ranks called different things as operation {}", number), {}, {{"kind", "different"}, {"operation", number}}};
    for (const auto& [identity, ranks] : camps) {
      finding.lines.push_back(fmt::format("{}: \"{}\", fingerprint {}", ranks_text(ranks), identity.second, identity.first));
      finding.data["camps"].push_back({{"ranks", ranks}, {"name", identity.second}, {"fingerprint", identity.first}});
    }
    compare_fields(records, number, finding);
    // Who is odd is clear only where most ranks agree.
    const auto& usual = camps.front();
    for (std::size_t i = 1; i < camps.size() && usual.second.size() > camps[i].second.size(); ++i)
      for (const Rank odd : camps[i].second)
        if (const std::string hint = order_hint(records, number, usual.first, odd); !hint.empty()) {
          finding.lines.push_back(hint);
          finding.data["hints"].push_back(hint);
        }
    // A hint says most, then a field, then the names.
    const bool has_field = finding.lines.size() > camps.size() && !finding.data["fields"].empty();
    finding.verdict = fmt::format("mismatched from operation {} on: {}", number,
                                  finding.data.contains("hints") ? finding.data["hints"].front().get<std::string>()
                                  : has_field                    ? finding.lines[camps.size()]
                                              : fmt::format("{}", fmt::join(finding.lines.begin(), finding.lines.begin() + 2, "; ")));
    std::vector<Rank> odd;
    for (std::size_t i = 1; i < camps.size() && usual.second.size() > camps[1].second.size(); ++i)
      odd.insert(odd.end(), camps[i].second.begin(), camps[i].second.end());
    std::sort(odd.begin(), odd.end());
    finding.data["odd_ranks"] = odd;
    return finding;
  }
  return std::nullopt;
}

std::optional<Finding> find_error(const std::vector<FlightRecord>& records, const Moment& moment) {
  if (!moment.is_failure) return std::nullopt;
  const RecordedError& error = *moment.first->error;
  std::vector<Rank> culprits = error.culprits;
  std::sort(culprits.begin(), culprits.end());
  Finding finding{fmt::format("The group failed: {}{}", error.kind, culprits.empty() ? "" : ", culprit " + ranks_text(culprits)),
                  {fmt::format("recorded first by rank {}, at {}:", moment.first->rank, time_of_day_text(moment.at_ns)), error.text},
                  {{"kind", "failed"},
                   {"class", error.kind},
                   {"culprits", culprits},
                   {"text", error.text},
                   {"recorded_first_by", moment.first->rank},
                   {"at_ns", moment.at_ns}}};
  std::map<std::string, std::vector<Rank>> others;
  for (const FlightRecord& record : records)
    if (record.error && record.error->text != error.text) others[record.error->text].push_back(record.rank);
  for (const auto& [text, ranks] : others) finding.lines.push_back(fmt::format("but {}: {}", ranks_text(ranks), text));
  return finding;
}

std::optional<Finding> find_slow(const std::vector<FlightRecord>& records) {
  constexpr double times_median = 2;
  constexpr Nanoseconds least_excess = 10000000;  // in all: shorter ones are the machine's
  if (records.size() < 2) return std::nullopt;

  // Operations that all records have whole, the same and ended.
  std::uint64_t from = 1;
  for (const FlightRecord& record : records)
    for (const RecordedStep& step : record.steps)
      if (step.computes()) {
        if (step.operation > 1) from = std::max(from, step.operation + 1);  // of the oldest the beginning may be gone
        break;
      }
  std::set<std::uint64_t> numbers;
  for (const RecordedOperation& operation : records.front().operations) {
    const auto ended = [&](const FlightRecord& record) {
      const RecordedOperation* own = record.operation(operation.number);
      return own != nullptr && own->end_ns && own->fingerprint == operation.fingerprint;
    };
    if (operation.number >= from && std::all_of(records.begin(), records.end(), ended)) numbers.insert(operation.number);
  }
  struct Computed {
    Rank rank = 0;
    Nanoseconds total_ns = 0;
    const RecordedStep* longest = nullptr;
  };
  std::vector<Computed> all;
  for (const FlightRecord& record : records) {
    Computed& mine = all.emplace_back();
    mine.rank = record.rank;
    for (const RecordedStep& step : record.steps) {
      if (!step.computes() || !step.end_ns || numbers.count(step.operation) == 0) continue;
      mine.total_ns += *step.end_ns - step.begin_ns;
      if (mine.longest == nullptr || *step.end_ns - step.begin_ns > *mine.longest->end_ns - mine.longest->begin_ns) mine.longest = &step;
    }
  }
  std::vector<Nanoseconds> totals;
  for (const Computed& each : all) totals.push_back(each.total_ns);
  std::nth_element(totals.begin(), totals.begin() + static_cast<std::ptrdiff_t>((totals.size() - 1) / 2), totals.end());
  const Nanoseconds median = totals[(totals.size() - 1) / 2];

  Finding finding{"", {}, {{"kind", "slow"}, {"median_ns", median}, {"num_operations", numbers.size()}, {"ranks", Json::array()}}};
  std::vector<Rank> slow;
  for (const Computed& each : all) {
    if (each.total_ns - median < least_excess || static_cast<double>(each.total_ns) < times_median * static_cast<double>(median)) continue;
    slow.push_back(each.rank);
    finding.lines.push_back(fmt::format("rank {}: {}; longest step: {} in step {} ({}) of operation {}", each.rank,
                                        duration_text(each.total_ns), duration_text(*each.longest->end_ns - each.longest->begin_ns),
                                        each.longest->step, each.longest->label, each.longest->operation));
    finding.data["ranks"].push_back({{"rank", each.rank}, {"compute_ns", each.total_ns}});
  }
  if (slow.empty()) return std::nullopt;
  finding.headline = fmt::format("{} computed {} times as long as the median rank or longer, over {} equal operations", ranks_text(slow),
                                 times_median, numbers.size());
  finding.lines.push_back(
      fmt::format("median of the ranks: {}; a mask over contiguous shards gives ranks unequal work too", duration_text(median)));
  return finding;
}

}  // namespace seqccl::command
