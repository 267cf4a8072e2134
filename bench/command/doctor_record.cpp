// doctor_record.cpp - reads a flight record; believes nothing that the file says before it has looked at it.
// SPDX-License-Identifier: Apache-2.0
#include "command/doctor_record.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>

namespace seqccl::command {
namespace {

using Json = nlohmann::json;

constexpr std::uintmax_t max_file_bytes = std::uintmax_t{256} << 20;
constexpr std::int64_t max_ns = std::int64_t{1} << 61, max_ranks_of_record = 65535;
constexpr const char* want = "want a file that SEQCCL_FLIGHT_RECORD or Communicator::write_flight_record has made";

/// One JSON object with the way to it, for messages. Every getter throws Error(argument) if the field is not what it should be.
class Fields {
 public:
  Fields(const std::string& file, std::string place, const Json& json) : file_(file), place_(std::move(place)), json_(json) {
    if (!json.is_object()) throw wrong("is no object");
  }

  [[nodiscard]] const Json& at(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) throw wrong(fmt::format("has no '{}'", key));
    return *found;
  }
  [[nodiscard]] bool is_null(const char* key) const { return at(key).is_null(); }
  [[nodiscard]] std::string text(const char* key) const { return text_of(key, at(key)); }
  [[nodiscard]] std::string text_of(const char* key, const Json& value) const {
    if (!value.is_string()) throw wrong(fmt::format("has '{}' that is no text", key));
    return value.get<std::string>();
  }
  [[nodiscard]] bool flag(const char* key) const {
    if (!at(key).is_boolean()) throw wrong(fmt::format("has '{}' that is neither true nor false", key));
    return at(key).get<bool>();
  }
  [[nodiscard]] std::int64_t number(const char* key, std::int64_t low, std::int64_t high) const {
    return number_of(key, at(key), low, high);
  }
  [[nodiscard]] std::int64_t number_of(const char* key, const Json& value, std::int64_t low, std::int64_t high) const {
    const bool fits =
        value.is_number_integer() && !(value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX));
    if (!fits || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high)
      throw wrong(fmt::format("has '{}' that is no whole number from {} to {}", key, low, high));
    return value.get<std::int64_t>();
  }
  [[nodiscard]] const Json& list(const char* key) const {
    if (!at(key).is_array()) throw wrong(fmt::format("has '{}' that is no list", key));
    return at(key);
  }
  [[nodiscard]] Fields inside(const char* key) const { return Fields(file_, fmt::format("{}{}: ", place_, key), at(key)); }
  /// Calls `read(fields)` for each object of a list.
  template <class Read>
  void each(const char* key, Read&& read) const {
    std::size_t i = 0;
    for (const Json& item : list(key)) read(Fields(file_, fmt::format("{}{} {}: ", place_, key, i++), item));
  }
  [[nodiscard]] Error wrong(const std::string& what) const {
    return {ErrorKind::argument, fmt::format("{}: {}{}; {}", file_, place_, what, want)};
  }

 private:
  const std::string& file_;
  std::string place_;
  const Json& json_;
};

void require_schema(const Fields& top) {
  if (top.text("schema") != "seqccl flight record") throw top.wrong(fmt::format("is '{}'", top.text("schema").substr(0, 100)));
  if (const std::int64_t version = top.number("schema_version", INT64_MIN, INT64_MAX); version != 1)
    throw top.wrong(fmt::format("is of schema version {}, this seqccl reads version 1: use the one that wrote it", version));
}

}  // namespace

const RecordedOperation* FlightRecord::operation(std::uint64_t number) const {
  const auto found = std::find_if(operations.begin(), operations.end(), [&](const auto& each) { return each.number == number; });
  return found == operations.end() ? nullptr : &*found;
}

FlightRecord parse_flight_record(const std::string& file, const std::string& text) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::exception&) {
    const bool cut = text.rfind("{\n \"schema\": \"seqccl flight record\"", 0) == 0;
    throw Error(ErrorKind::argument, fmt::format("{}: {}; {}", file,
                                                 text.empty() ? "is empty"
                                                 : cut        ? "is a flight record that is cut off or damaged"
                                                              : "is no JSON",
                                                 want));
  }
  const Fields top(file, "", json);
  require_schema(top);

  FlightRecord record;
  record.file = file;
  record.version = top.text("seqccl");
  record.job = top.text("job");
  record.group = top.text("group");
  record.host = top.text("host");
  record.transport = top.text("transport");
  record.reason = top.text("reason");
  record.num_ranks = static_cast<int>(top.number("num_ranks", 1, max_ranks_of_record));
  record.rank = static_cast<Rank>(top.number("rank", 0, record.num_ranks - 1));
  record.process = top.number("process", 0, INT64_MAX);
  record.begun = static_cast<std::uint64_t>(top.number("operations_begun", 0, INT64_MAX));
  record.ended = static_cast<std::uint64_t>(top.number("operations_ended", 0, INT64_MAX));

  const Fields clock = top.inside("clock");
  const Nanoseconds offset = clock.number("system_ns", 0, max_ns) - clock.number("steady_ns", 0, max_ns);
  const auto moment = [&](const Fields& fields, const char* key) { return fields.number(key, 0, max_ns) + offset; };
  const auto end_of = [&](const Fields& fields, Nanoseconds begin_ns) -> std::optional<Nanoseconds> {
    if (fields.is_null("end_ns")) return std::nullopt;
    return std::max(begin_ns, moment(fields, "end_ns"));
  };
  record.written_ns = moment(top, "written_ns");

  if (!top.is_null("error")) {
    const Fields error = top.inside("error");
    RecordedError& kept = record.error.emplace();
    kept.kind = error.text("class");
    kept.text = error.text("text");
    kept.at_ns = moment(error, "at_ns");
    for (const Json& rank : error.list("culprits"))
      kept.culprits.push_back(static_cast<Rank>(error.number_of("culprits", rank, 0, record.num_ranks - 1)));
  }
  top.each("descriptions", [&](const Fields& each) {
    std::vector<std::string>& lines = record.descriptions[static_cast<std::uint64_t>(each.number("id", 0, INT64_MAX))];
    for (const Json& line : each.list("lines")) lines.push_back(each.text_of("lines", line));
  });
  top.each("operations", [&](const Fields& each) {
    RecordedOperation operation;
    operation.number = static_cast<std::uint64_t>(each.number("number", 1, INT64_MAX));
    operation.name = each.text("name");
    operation.fingerprint = each.text("fingerprint");
    operation.begin_ns = moment(each, "begin_ns");
    operation.end_ns = end_of(each, operation.begin_ns);
    operation.timeout_ns = each.number("timeout_ns", 0, INT64_MAX);
    operation.description = static_cast<std::uint64_t>(each.number("description", 0, INT64_MAX));
    if (!record.operations.empty() && record.operations.back().number >= operation.number) throw each.wrong("is out of order");
    record.operations.push_back(std::move(operation));
  });
  top.each("steps", [&](const Fields& each) {
    RecordedStep step;
    step.operation = static_cast<std::uint64_t>(each.number("operation", 0, INT64_MAX));
    step.step = static_cast<std::uint32_t>(each.number("step", 0, UINT32_MAX));
    step.lane = each.text("lane");
    step.label = each.text("label");
    step.begin_ns = moment(each, "begin_ns");
    step.end_ns = end_of(each, step.begin_ns);
    if (!each.is_null("waited_for")) step.waited_for = static_cast<Rank>(each.number("waited_for", 0, record.num_ranks - 1));
    record.steps.push_back(std::move(step));
  });
  top.each("peers", [&](const Fields& each) {
    if (each.number("rank", 0, record.num_ranks - 1) != static_cast<std::int64_t>(record.peers.size())) throw each.wrong("is out of order");
    RecordedPeer peer;
    peer.begun = static_cast<std::uint64_t>(each.number("operations_begun", 0, INT64_MAX));
    peer.ended = static_cast<std::uint64_t>(each.number("operations_ended", 0, INT64_MAX));
    peer.compute_step = static_cast<int>(each.number("compute_step", -1, INT32_MAX));
    peer.waiting_for = static_cast<Rank>(each.number("waiting_for", -1, record.num_ranks - 1));
    peer.progress_ns = moment(each, "progress_ns");
    peer.left = each.flag("left");
    peer.heard = each.flag("heard");
    peer.received_bytes = static_cast<std::uint64_t>(each.number("received_bytes", 0, INT64_MAX));
    peer.received_messages = static_cast<std::uint64_t>(each.number("received_messages", 0, INT64_MAX));
    record.peers.push_back(peer);
  });
  if (static_cast<int>(record.peers.size()) != record.num_ranks)
    throw top.wrong(fmt::format("has {} peers of {} ranks", record.peers.size(), record.num_ranks));
  return record;
}

FlightRecord read_flight_record(const std::string& file) {
  const auto refuse = [&](const std::string& what) { return Error(ErrorKind::argument, fmt::format("{}: {}; {}", file, what, want)); };
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (!std::filesystem::exists(status)) throw refuse("is not there");
  if (!std::filesystem::is_regular_file(status)) throw refuse("is no file");
  const std::uintmax_t num_bytes = std::filesystem::file_size(file, error);
  if (!error && num_bytes > max_file_bytes)
    throw refuse(fmt::format("has {} bytes, a flight record has at most {}", num_bytes, max_file_bytes));
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw refuse(fmt::format("cannot be opened: {}", std::strerror(errno)));
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (stream.bad()) throw refuse("cannot be read");
  return parse_flight_record(file, text);
}

}  // namespace seqccl::command
