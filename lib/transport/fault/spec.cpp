// spec.cpp - parses and prints faults; what it does not understand is an error, never left out.
// SPDX-License-Identifier: Apache-2.0
#include "spec.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <limits>
#include <set>
#include <utility>

SEQCCL_BEGIN
namespace fault {
namespace {

constexpr std::array<const char*, 7> kind_names{"kill", "stop", "exit", "stall", "delay", "corrupt", "mismatch"};

[[noreturn]] void refuse(std::string_view key, std::string_view value, std::string_view want) {
  throw Error(ErrorKind::argument, fmt::format("SEQCCL_FAULT: {} is \"{}\", want {}", key, value, want));
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

/// Cuts off and returns what comes before `mark`.
std::string_view take_until(std::string_view& text, char mark) {
  const std::size_t end = text.find(mark);
  const std::string_view part = text.substr(0, end);
  text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
  return trimmed(part);
}

std::int64_t whole_number(std::string_view key, std::string_view value, std::int64_t least, std::int64_t most, std::string_view want) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc{} || end != value.data() + value.size() || number < least || number > most) refuse(key, value, want);
  return number;
}

std::chrono::nanoseconds time_of(std::string_view kind, std::string_view value) {
  constexpr const char* want = "a whole number and a unit, ns, us, ms or s, as in stall:500ms, at most a day";
  const std::size_t digits = std::min(value.find_first_not_of("0123456789"), value.size());
  const std::string_view unit = value.substr(digits);
  const std::int64_t scale = unit == "ns" ? 1 : unit == "us" ? 1'000 : unit == "ms" ? 1'000'000 : unit == "s" ? 1'000'000'000 : 0;
  const std::string key = fmt::format("the time of kind {}", kind);
  if (scale == 0) refuse(key, value, want);
  constexpr std::int64_t day = std::int64_t{86'400} * 1'000'000'000;
  return std::chrono::nanoseconds(whole_number(key, value.substr(0, digits), 0, day / scale, want) * scale);
}

/// As time_of reads it, in the largest unit that keeps it whole.
std::string time_text(std::chrono::nanoseconds time) {
  for (const auto& [unit, scale] : {std::pair{"s", 1'000'000'000}, std::pair{"ms", 1'000'000}, std::pair{"us", 1'000}})
    if (time.count() % scale == 0) return fmt::format("{}{}", time.count() / scale, unit);
  return fmt::format("{}ns", time.count());
}

void set_kind(Spec& spec, std::string_view value) {
  std::string_view rest = value;
  const std::string_view word = take_until(rest, ':');
  const bool has_time = value.find(':') != std::string_view::npos;
  for (std::size_t i = 0; i < kind_names.size(); ++i)
    if (word == kind_names[i]) {
      spec.kind = static_cast<Kind>(i);
      const bool wants_time = spec.kind == Kind::stall || spec.kind == Kind::delay;
      if (has_time != wants_time) refuse("kind", value, wants_time ? "a time with it, as in stall:500ms" : "no time with it");
      if (wants_time) spec.time = time_of(word, trimmed(rest));
      return;
    }
  refuse("kind", value, "kill, stop, exit, stall:TIME, delay:TIME, corrupt or mismatch");
}

Spec parse_one(std::string_view text) {
  const std::string_view whole = text;
  Spec spec;
  std::set<std::string_view> seen;
  while (!text.empty()) {
    std::string_view value = take_until(text, ',');
    const bool has_value = value.find('=') != std::string_view::npos;
    const std::string_view key = take_until(value, '=');
    value = trimmed(value);
    if (!has_value) refuse("a part", key, "KEY=VALUE");
    if (!seen.insert(key).second) refuse(key, value, "each key once in a fault");
    if (key == "rank") {
      spec.rank = static_cast<Rank>(whole_number(key, value, 0, std::numeric_limits<Rank>::max(), "a rank, from 0"));
    } else if (key == "op") {
      if (value.empty()) refuse(key, value, "the name of a schedule or its first word, as in ring, or *");
      spec.op = value;
    } else if (key == "operation") {
      spec.operation = static_cast<std::uint64_t>(
          whole_number(key, value, 1, std::numeric_limits<std::int64_t>::max(), "the number of an operation of the communicator, from 1"));
    } else if (key == "step") {
      spec.step = value == "*" ? -1
                               : whole_number(key, value, 0, std::numeric_limits<std::uint32_t>::max(),
                                              "the index of a step, from 0, or * for the first that begins");
    } else if (key == "kind") {
      set_kind(spec, value);
    } else {
      refuse("a key", key, "rank, op, operation, step or kind");
    }
  }
  for (const char* needed : {"rank", "kind"})
    if (!seen.contains(needed)) refuse("a fault", whole, fmt::format("{}=... in it", needed));
  return spec;
}

}  // namespace

const char* name(Kind kind) noexcept { return kind_names[static_cast<std::size_t>(kind)]; }

bool is_for_processes(Kind kind) noexcept { return kind == Kind::kill || kind == Kind::stop || kind == Kind::exit; }

bool Spec::strikes(std::string_view schedule_name, std::uint64_t operation_number, std::uint32_t step_index) const noexcept {
  if (operation != 0 && operation != operation_number) return false;
  if (step >= 0 && step != static_cast<std::int64_t>(step_index)) return false;
  const auto begins = [&](char end) { return op == schedule_name.substr(0, schedule_name.find(end)); };
  return op == "*" || op == schedule_name || begins(',') || begins(' ');  // "linear forward, kda by chain"
}

std::string Spec::describe() const {
  std::string text = fmt::format("rank={},op={}", rank, op);
  if (operation != 0) text += fmt::format(",operation={}", operation);
  text += step < 0 ? ",step=*" : fmt::format(",step={}", step);
  text += fmt::format(",kind={}", name(kind));
  if (kind == Kind::stall || kind == Kind::delay) text += ":" + time_text(time);
  return text;
}

std::vector<Spec> parse(std::string_view text) {
  std::vector<Spec> specs;
  while (!text.empty()) {
    const std::string_view one = take_until(text, ';');
    if (!one.empty()) specs.push_back(parse_one(one));
  }
  return specs;
}

}  // namespace fault
SEQCCL_END
