// json.cpp - a flight record as JSON text, in the form that seqccl/flight_recorder.hpp describes.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <iterator>
#include <string_view>
#include <vector>

#include "seqccl/version.hpp"
#include "snapshot.hpp"

SEQCCL_BEGIN
namespace {

constexpr std::string_view lane_names[] = {"compute", "comm", "comm2", "comm3"};
static_assert(std::size(lane_names) == num_lanes);

/// Length of the UTF-8 character at the front of `text`; 0 if there is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first < 0xe0 ? 2 : (first & 0xf0) == 0xe0 ? 3 : first >= 0xf0 && first < 0xf5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Too long a form of a small number, half of a surrogate pair, or beyond the last character.
  const unsigned char second = byte(1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) || (first == 0xf0 && second < 0x90) ||
      (first == 0xf4 && second >= 0x90))
    return 0;
  return length;
}

/// In quotes. Names and descriptions may be the caller's: whatever is no UTF-8 becomes the replacement character.
std::string quoted(std::string_view text) {
  std::string result = "\"";
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0)
      result += "\\ufffd";
    else if (text[0] == '"' || text[0] == '\\')
      result += {'\\', text[0]};
    else if (static_cast<unsigned char>(text[0]) < 0x20)
      result += fmt::format("\\u{:04x}", static_cast<int>(text[0]));
    else
      result += text.substr(0, length);
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return result + '"';
}

template <class Number>
std::string or_null(Number number) {
  return number < 0 ? "null" : fmt::format("{}", number);
}

/// "[a, b]" on one line, or an item on each line.
template <class Items, class Text>
std::string list(const Items& items, Text&& text_of, bool in_lines = true) {
  std::string text = "[";
  for (const auto& item : items) {
    if (text.size() > 1) text += in_lines ? "," : ", ";
    if (in_lines) text += "\n  ";
    text += text_of(item);
  }
  return text + (in_lines && text.size() > 1 ? "\n ]" : "]");
}

std::string lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return list(lines, quoted, false);
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "";
}

}  // namespace

std::string FlightRecorder::json(const Snapshot& record) {
  std::string text = "{\n";
  const auto add = [&](std::string_view key, std::string_view value, bool last = false) {
    fmt::format_to(std::back_inserter(text), " \"{}\": {}{}\n", key, value, last ? "" : ",");
  };
  const auto number = [](auto value) { return fmt::format("{}", value); };

  add("schema", quoted("seqccl flight record"));
  add("schema_version", "1");
  add("seqccl", quoted(fmt::format("{}.{}.{}", SEQCCL_VERSION_MAJOR, SEQCCL_VERSION_MINOR, SEQCCL_VERSION_PATCH)));
  add("job", quoted(record.job));
  add("group", quoted(record.group));
  add("rank", number(record.rank));
  add("num_ranks", number(record.num_ranks));
  add("host", quoted(host_name()));
  add("process", number(record.process));
  add("transport", quoted(record.transport));
  add("reason", quoted(record.reason));
  add("clock", fmt::format("{{\"steady_ns\": {}, \"system_ns\": {}}}", record.made_steady_ns, record.made_system_ns));
  add("written_ns", number(record.written_ns));
  add("error", !record.error
                   ? "null"
                   : fmt::format("{{\"class\": {}, \"culprits\": {}, \"at_ns\": {}, \"text\": {}}}", quoted(name(record.error->kind())),
                                 list(record.error->culprits(), number, false), record.error_ns, quoted(record.error->what())));
  add("operations_begun", number(record.num_begun));
  add("operations_ended", number(record.num_ended));
  add("descriptions", list(record.descriptions, [](const Description& each) {
        return fmt::format("{{\"id\": {}, \"lines\": {}}}", each.id, lines_of(each.text));
      }));
  add("operations", list(record.operations, [](const Operation& each) {
        return fmt::format(
            "{{\"number\": {}, \"name\": {}, \"fingerprint\": \"{:016x}\", \"begin_ns\": {}, \"end_ns\": {}, \"timeout_ns\": {}, "
            "\"description\": {}}}",
            each.number, quoted(each.name), each.fingerprint, each.begin_ns, or_null(each.end_ns), each.timeout_ns, each.description);
      }));
  const std::string* label = record.labels.data();
  add("steps", list(record.steps, [&](const StepRecord& each) {
        return fmt::format(
            "{{\"operation\": {}, \"step\": {}, \"lane\": \"{}\", \"label\": {}, \"begin_ns\": {}, \"end_ns\": {}, \"waited_for\": {}}}",
            each.operation, each.step, lane_names[static_cast<std::size_t>(each.lane)], quoted(*label++), each.begin_ns,
            or_null(each.end_ns), or_null(each.waited_for));
      }));
  Rank rank = 0;
  add("peers",
      list(record.sights,
           [&](const Sight& each) {
             return fmt::format(
                 "{{\"rank\": {}, \"operations_begun\": {}, \"operations_ended\": {}, \"compute_step\": {}, \"waiting_for\": {}, "
                 "\"progress_ns\": {}, \"left\": {}, \"heard\": {}, \"received_bytes\": {}, \"received_messages\": {}}}",
                 rank++, each.begun, each.ended, each.compute_step, each.waiting_for, each.progress_ns, each.left, each.heard,
                 each.received_bytes, each.received_messages);
           }),
      true);
  return text + "}\n";
}

SEQCCL_END
