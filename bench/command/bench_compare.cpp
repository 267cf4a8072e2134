// bench_compare.cpp - `seqccl bench compare`: two results of `seqccl bench --json` row by row, as a gate.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <ostream>
#include <vector>

#include "command/bench_rows.hpp"
#include "command/command.hpp"
#include "command/json_file.hpp"
#include "command/number_option.hpp"
#include "command/report.hpp"
#include "command/subcommand.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

struct TimedRow {
  std::string what;  // and by which path; of several that are alike also which one
  double median_s = 0;
  std::int64_t num_wrong = 0;
};

std::int64_t wrong_of(const Json& row) {
  if (row.contains("num_wrong")) return row["num_wrong"].get<std::int64_t>();
  return row.contains("check") ? row["check"].at("num_wrong").get<std::int64_t>() : 0;
}

std::vector<TimedRow> read_rows(const std::string& option, const std::string& path) {
  const Json file = read_json(option, path);
  std::vector<TimedRow> rows;
  try {
    for (const Json& each : file.at("results")) {
      TimedRow row{row_key(each), each.at("median_s").get<double>(), wrong_of(each)};
      if (!(row.median_s > 0))
        throw Error(ErrorKind::argument, fmt::format("{}: {}: median_s of '{}' is {}, want above 0", option, path, row.what, row.median_s));
      const std::string plain = row.what;
      const auto is_there = [&](const TimedRow& other) { return other.what == row.what; };
      for (int number = 2; std::ranges::any_of(rows, is_there); ++number) row.what = fmt::format("{} ({})", plain, number);
      rows.push_back(std::move(row));
    }
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::argument, fmt::format("{}: {} is not what seqccl bench --json writes: {}", option, path, error.what()));
  }
  if (rows.empty()) throw Error(ErrorKind::argument, fmt::format("{}: {} has no rows, want results of seqccl bench --json", option, path));
  return rows;
}

class BenchCompare final : public Subcommand {
 public:
  explicit BenchCompare(CLI::App& parent) {
    CLI::App& app = add_to(parent, "compare", "Two results of bench --json row by row: slower, missing or wrong rows make exit code 1",
                           "  seqccl bench exchange --ranks 2,4 --transport shm --json > old.json\n"
                           "  seqccl bench exchange --ranks 2,4 --transport shm --json > new.json\n"
                           "  seqccl bench compare old.json new.json --tolerance 5%\n\n"
                           "Rows are compared by their medians, and only with rows of the same sizes, dtype, mask, partition and path. A "
                           "row is slower if it takes more than the tolerance longer than before.\n"
                           "On a busy machine medians move by more than a few percent: measure with more --repeat, or tolerate more.");
    app.add_option("old", old_path_, "Results to be measured against")->required();
    app.add_option("new", new_path_, "Results to be judged")->required();
    const auto read = [this](const std::string& option, const std::string& text) {
      const std::string number = text.ends_with('%') ? text.substr(0, text.size() - 1) : text;
      percent_ = parse_number(option, number, 0, 1e6, "percent, such as 5% or 12.5");
    };
    add_parsed(app, "--tolerance", read, "How much longer a row may take, in percent", "PERCENT", "5%");
  }

  int run(const Console& console) override {
    const std::vector<TimedRow> before = read_rows("old", old_path_), after = read_rows("new", new_path_);
    Table table({"row", "old", "new", "ratio", "verdict"});
    Json rows = Json::array(), missing = Json::array(), added = Json::array();
    std::vector<double> ratios;
    int num_bad = 0;
    for (const TimedRow& old_row : before) {
      const auto found = std::ranges::find_if(after, [&](const TimedRow& row) { return row.what == old_row.what; });
      if (found == after.end()) {
        table.add({old_row.what, human_seconds(old_row.median_s), "-", "-", "MISSING"});
        missing.push_back(old_row.what);
        continue;
      }
      const double ratio = found->median_s / old_row.median_s;
      const double limit = 1 + percent_ / 100;
      const char* verdict = found->num_wrong > 0 ? "WRONG" : ratio > limit ? "SLOWER" : ratio * limit < 1 ? "faster" : "same";
      num_bad += found->num_wrong > 0 || ratio > limit ? 1 : 0;
      ratios.push_back(ratio);
      table.add({old_row.what, human_seconds(old_row.median_s), human_seconds(found->median_s), short_number(ratio), verdict});
      rows.push_back(
          {{"row", old_row.what}, {"old_s", old_row.median_s}, {"new_s", found->median_s}, {"ratio", ratio}, {"verdict", verdict}});
    }
    for (const TimedRow& row : after)
      if (std::ranges::none_of(before, [&](const TimedRow& other) { return other.what == row.what; })) added.push_back(row.what);
    if (ratios.empty())
      throw Error(ErrorKind::argument,
                  fmt::format("new: {} has no row of {}, want results of the same problems and paths", new_path_, old_path_));
    std::ranges::sort(ratios);
    const double median = ratios[ratios.size() / 2];
    const bool is_good = num_bad == 0 && missing.empty();
    if (json()) {
      console.out << Json{{"tolerance_percent", percent_},
                          {"passed", is_good},
                          {"median_ratio", median},
                          {"rows", rows},
                          {"missing", missing},
                          {"added", added}}
                         .dump(1)
                  << '\n';
    } else {
      console.out << table.text();
      for (const Json& row : added) console.out << "not in the old results: " << row.get<std::string>() << '\n';
      console.out << fmt::format("{} rows, median ratio {}; {} slower than {:g}% or wrong, {} missing\n", ratios.size(),
                                 short_number(median), num_bad, percent_, missing.size());
    }
    return is_good ? exit_right : exit_check_failed;
  }

 private:
  std::string old_path_, new_path_;
  double percent_ = 5;
};

}  // namespace

std::unique_ptr<Subcommand> make_bench_compare(CLI::App& parent) { return std::make_unique<BenchCompare>(parent); }

}  // namespace seqccl::command
