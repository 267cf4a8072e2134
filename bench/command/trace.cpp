// trace.cpp - lines in a file in memory, and Chrome's JSON.
// SPDX-License-Identifier: Apache-2.0
#include "command/trace.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

[[noreturn]] void fail(const char* what) {
  throw Error(ErrorKind::local, fmt::format("--trace: no memory for it: {}: {}", what, std::strerror(errno)));
}

}  // namespace

TraceBoard::TraceBoard(const RunSettings& settings) {
  if (!settings.trace) return;
  file_ = Descriptor(::memfd_create("seqccl-trace", MFD_CLOEXEC));
  if (!file_.is_open()) fail("memfd_create");
}

void TraceBoard::add(const Schedule& schedule, const std::vector<TraceEvent>& events, SteadyClock::time_point begin) {
  const double begin_s = std::chrono::duration<double>(begin - origin_).count();
  std::string lines;
  for (const TraceEvent& event : events) {
    const Step& step = schedule.steps[event.step];
    lines +=
        nlohmann::json{schedule.rank, static_cast<int>(step.lane), schedule.label(step), begin_s + event.begin_s, begin_s + event.end_s}
            .dump() +
        '\n';
  }
  auto at = static_cast<off_t>(end_[0].fetch_add(lines.size()));
  for (std::string_view left = lines; !left.empty();) {
    const ssize_t count = ::pwrite(file_.number(), left.data(), left.size(), at);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("write");
    left.remove_prefix(static_cast<std::size_t>(count));
    at += count;
  }
}

std::vector<TraceStep> TraceBoard::steps() const {
  std::vector<TraceStep> steps;
  if (!is_open()) return steps;
  std::string text(end_[0].load(), '\0');
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t count = ::pread(file_.number(), text.data() + at, text.size() - at, static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("read");
    at += static_cast<std::size_t>(count);
  }
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json step = nlohmann::json::parse(line);
    steps.push_back({step[0].get<Rank>(), step[1].get<int>(), step[2].get<std::string>(), step[3].get<double>(), step[4].get<double>()});
  }
  std::stable_sort(steps.begin(), steps.end(), [](const TraceStep& a, const TraceStep& b) { return a.rank < b.rank; });
  return steps;
}

void write_chrome_trace(const std::string& path, const std::vector<TraceStep>& steps) {
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  std::vector<std::pair<Rank, int>> named;
  for (const TraceStep& step : steps) {
    const std::pair<Rank, int> row{step.rank, step.lane};
    if (std::find(named.begin(), named.end(), row) == named.end()) {
      named.push_back(row);
      const std::string lane = step.lane == 0 ? "compute" : step.lane == 1 ? "comm" : fmt::format("comm{}", step.lane);
      events.push_back(
          {{"name", "process_name"}, {"ph", "M"}, {"pid", step.rank}, {"args", {{"name", fmt::format("rank {}", step.rank)}}}});
      events.push_back({{"name", "thread_name"}, {"ph", "M"}, {"pid", step.rank}, {"tid", step.lane}, {"args", {{"name", lane}}}});
    }
    events.push_back({{"name", step.label},
                      {"ph", "X"},
                      {"pid", step.rank},
                      {"tid", step.lane},
                      {"ts", step.begin_s * 1e6},
                      {"dur", (step.end_s - step.begin_s) * 1e6}});
  }
  std::ofstream stream(path);
  stream << nlohmann::ordered_json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump(1) << '\n';
  stream.close();
  if (!stream) throw Error(ErrorKind::argument, fmt::format("--trace: {}: cannot be written: {}", path, std::strerror(errno)));
}

}  // namespace seqccl::command
