// doctor.cpp - `seqccl doctor`: merges the flight records of a group's ranks and says in words what went wrong.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <ostream>
#include <tuple>

#include "command/command.hpp"
#include "command/doctor_findings.hpp"
#include "command/subcommand.hpp"

namespace seqccl::command {
namespace {

constexpr const char* doctor_examples =
    "  SEQCCL_FLIGHT_RECORD=records seqccl launch --ranks 4 -- ./my_program     # writes records/seqccl-JOB-rankK.json if it fails\n"
    "  seqccl doctor records\n"
    "  seqccl doctor records/seqccl-*.json --json\n\n"
    "Exit code: 0 nothing wrong found, 1 something found, 2 no file is a flight record";

/// `paths` with the records of a folder in its place. @throws Error(argument) if a folder has none
std::vector<std::string> files_of(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    std::vector<std::string> inside;
    for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
      const std::string name = entry.path().filename();
      if (name.rfind("seqccl-", 0) == 0 && entry.path().extension() == ".json") inside.push_back(entry.path());
    }
    if (inside.empty())
      throw Error(ErrorKind::argument, fmt::format("{}: {}, want flight records (seqccl-*.json)", path,
                                                   error ? "cannot be read: " + error.message() : "has none in it"));
    std::sort(inside.begin(), inside.end());
    files.insert(files.end(), inside.begin(), inside.end());
  }
  return files;
}

/// What can be used of `files`, one record a rank and all of one group, in order of ranks. The rest is told in `refused`.
std::vector<FlightRecord> read_group(const std::vector<std::string>& files, std::vector<std::string>& refused) {
  using Group = std::tuple<std::string, std::string, int>;  // job, group, number of ranks
  std::vector<FlightRecord> all;
  using Weight = std::pair<Nanoseconds, std::size_t>;  // when its job wrote last, number of files
  std::map<std::string, Nanoseconds> latest_of;
  std::map<Group, Weight> groups;
  for (const std::string& file : files) {
    try {
      all.push_back(read_flight_record(file));
    } catch (const Error& error) {
      refused.emplace_back(error.what());
    }
  }
  const auto group_of = [](const FlightRecord& record) { return Group{record.job, record.group, record.num_ranks}; };
  for (const FlightRecord& record : all) {
    Nanoseconds& latest = latest_of.emplace(record.job, record.written_ns).first->second;
    latest = std::max(latest, record.written_ns);
  }
  for (const FlightRecord& record : all) groups[group_of(record)] = {latest_of[record.job], groups[group_of(record)].second + 1};
  // A folder that is used again holds older jobs too; of the latest job, the group with most files.
  const auto chosen = std::max_element(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  std::map<Rank, FlightRecord> of_rank;
  for (FlightRecord& record : all) {
    if (const Group group = group_of(record); group != chosen->first) {
      const auto words = [](const Group& each) {
        return fmt::format("job '{}', group '{}', {} ranks", std::get<0>(each), std::get<1>(each), std::get<2>(each));
      };
      refused.push_back(
          fmt::format("{}: is of {}; want one group at a time, taken are those of {}", record.file, words(group), words(chosen->first)));
    } else if (const auto known = of_rank.find(record.rank); known != of_rank.end()) {
      refused.push_back(
          fmt::format("{}: is a second record of rank {} beside {}; want one a rank", record.file, record.rank, known->second.file));
    } else {
      of_rank.emplace(record.rank, std::move(record));
    }
  }
  std::vector<FlightRecord> records;
  for (auto& [rank, record] : of_rank) records.push_back(std::move(record));
  return records;
}

std::string hosts_text(const std::vector<FlightRecord>& records) {
  std::vector<std::string> hosts;
  for (const FlightRecord& record : records)
    if (std::find(hosts.begin(), hosts.end(), record.host) == hosts.end()) hosts.push_back(record.host);
  return hosts.size() > 4 ? fmt::format("{} hosts", hosts.size())
                          : fmt::format("{} {}", hosts.size() == 1 ? "host" : "hosts", fmt::join(hosts, ", "));
}

class Doctor final : public Subcommand {
 public:
  explicit Doctor(CLI::App& parent) {
    CLI::App& app = add_to(parent, "doctor", "Merge the flight records of all ranks and say what went wrong", doctor_examples);
    app.add_option("FILES", paths_, "Flight records, or folders of them")->required();
  }

  int run(const Console& console) override {
    std::vector<std::string> refused;
    const std::vector<FlightRecord> records = read_group(files_of(paths_), refused);
    for (const std::string& why : refused) console.err << "seqccl: doctor: " << why << '\n';
    if (records.empty()) throw Error(ErrorKind::argument, fmt::format("doctor: none of {} files is a flight record", refused.size()));

    const Moment moment = moment_of(records);
    std::vector<Finding> findings;
    const auto keep = [&](std::optional<Finding> finding) {
      if (finding) findings.push_back(std::move(*finding));
    };
    keep(find_missing(moment));
    keep(find_versions(records));
    keep(find_difference(records));
    keep(find_error(records, moment));
    keep(find_hang(records, moment));
    keep(find_slow(records));

    const std::string verdict = verdict_of(records, moment, findings);
    if (json())
      print_json(console, records, refused, findings, verdict);
    else
      print_text(console, records, moment, findings, verdict);
    return findings.empty() && refused.empty() ? exit_right : exit_check_failed;
  }

 private:
  /// All in one sentence.
  static std::string verdict_of(const std::vector<FlightRecord>& records, const Moment& moment, const std::vector<Finding>& findings) {
    if (findings.empty()) return "nothing wrong found";
    for (const Finding& finding : findings)
      if (!finding.verdict.empty()) return finding.verdict;
    const auto is_hang = [](const Finding& finding) { return finding.data["kind"] == "hung"; };
    const bool hangs = std::any_of(findings.begin(), findings.end(), is_hang);
    if (const auto root = root_of(records, moment); root && (hangs || moment.is_failure))
      return fmt::format("{}{}: {}", root->kind, hangs ? " in " + operation_text(records, moment.operation) : "", root->words);
    return findings.front().headline;
  }

  static void print_text(const Console& console, const std::vector<FlightRecord>& records, const Moment& moment,
                         const std::vector<Finding>& findings, const std::string& verdict) {
    const FlightRecord& any = records.front();
    console.out << fmt::format(
        "{} of {} ranks{}, transport {}, {}, {}\n", records.size(), any.num_ranks, any.job.empty() ? "" : fmt::format(", job {}", any.job),
        any.transport, hosts_text(records),
        moment.is_failure ? "failed at " + time_of_day_text(moment.at_ns) : "asked at " + time_of_day_text(moment.at_ns));
    console.out << fmt::format("Verdict: {}\n", verdict);
    int number = 0;
    for (const Finding& finding : findings) {
      console.out << fmt::format("\n{}. {}\n", ++number, finding.headline);
      for (const std::string& line : finding.lines) console.out << "   " << line << '\n';
    }
  }

  static void print_json(const Console& console, const std::vector<FlightRecord>& records, const std::vector<std::string>& refused,
                         const std::vector<Finding>& findings, const std::string& verdict) {
    Json all = {{"num_ranks", records.front().num_ranks},
                {"job", records.front().job},
                {"verdict", verdict},
                {"files", Json::array()},
                {"refused", refused},
                {"findings", Json::array()}};
    for (const FlightRecord& record : records)
      all["files"].push_back({{"rank", record.rank}, {"file", record.file}, {"host", record.host}, {"reason", record.reason}});
    for (const Finding& finding : findings) {
      Json each = finding.data;
      each["headline"] = finding.headline;
      each["lines"] = finding.lines;
      all["findings"].push_back(each);
    }
    // File names and the caller's texts may hold anything: what is no UTF-8 is replaced.
    console.out << all.dump(1, ' ', false, Json::error_handler_t::replace) << '\n';
  }

  std::vector<std::string> paths_;
};

}  // namespace

std::unique_ptr<Subcommand> make_doctor(CLI::App& parent) { return std::make_unique<Doctor>(parent); }

}  // namespace seqccl::command
