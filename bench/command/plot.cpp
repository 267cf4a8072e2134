// plot.cpp - `seqccl plot`: results of `seqccl bench --json` as one SVG, or as one page of HTML with the rows below the pictures.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <ostream>
#include <string>
#include <vector>

#include "command/charts.hpp"
#include "command/command.hpp"
#include "command/json_file.hpp"
#include "command/output_file.hpp"
#include "command/subcommand.hpp"
#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

using Rows = nlohmann::ordered_json;

/// Every field of the rows that is not a list.
std::string html_table(const Rows& rows) {
  std::vector<std::string> names;
  for (const Rows& row : rows)
    for (const auto& [key, value] : row.items())
      if (!value.is_structured() && std::find(names.begin(), names.end(), key) == names.end()) names.push_back(key);
  std::string text = "<table>\n<tr>";
  for (const std::string& name : names) text += "<th>" + escaped(name) + "</th>";
  text += "</tr>\n";
  for (const Rows& row : rows) {
    text += "<tr>";
    for (const std::string& name : names) {
      const bool has = row.contains(name) && !row[name].is_structured();
      const std::string cell = !has                          ? ""
                               : row[name].is_string()       ? row[name].get<std::string>()
                               : row[name].is_number_float() ? fmt::format("{:.4g}", row[name].get<double>())
                                                             : row[name].dump();
      text += "<td>" + escaped(cell) + "</td>";
    }
    text += "</tr>\n";
  }
  return text + "</table>\n";
}

std::string html_text(const std::string& source, const Rows& file, const std::string& svg) {
  const Rows& rows = file.at("results");
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>" + escaped(source) +
         "</title>\n<style>body{font-family:sans-serif;margin:1.5em;color:#222}svg{max-width:100%;height:auto}div{overflow-x:auto}"
         "table{border-collapse:collapse;font-size:12px}td,th{padding:3px 8px;text-align:right;white-space:nowrap;border-bottom:1px solid "
         "#ddd}</style>\n</head>\n<body>\n<h1>seqccl bench: " +
         escaped(source) + "</h1>\n<p>" + fmt::format("{} rows", rows.size()) +
         (file.contains("transport") && file["transport"].is_string() ? ", transport " + escaped(file["transport"].get<std::string>())
                                                                      : "") +
         (file.contains("error") ? "; the benchmark was not finished" : "") + "</p>\n" + svg + "<div>\n" + html_table(rows) +
         "</div>\n</body>\n</html>\n";
}

class Plot final : public Subcommand {
 public:
  explicit Plot(CLI::App& parent) {
    CLI::App& app = add_without_json(
        parent, "plot", "Results of bench --json as pictures: one SVG, or one page of HTML with a table of the rows",
        "  seqccl bench exchange --ranks 2 --transport threads,shm,ucx:tcp --json > results.json\n"
        "  seqccl plot results.json -o results.svg\n"
        "  seqccl bench attention --ranks 2 --overlap --json > overlap.json && seqccl plot overlap.json -o report.html\n\n"
        "Exchanges: latency and bus bandwidth over sizes, a line per path, pattern and number of ranks, both axes logarithmic.\n"
        "Methods: median times, and overlap where bench attention --overlap has measured it. Files load nothing else.");
    app.add_option("results", results_, "What seqccl bench --json has written")->required();
    app.add_option("-o,--output", output_, "FILE.svg or FILE.html (default: SVG to stdout)");
  }

  int run(const Console& console) override {
    const bool is_html = output_.ends_with(".html");
    if (!output_.empty() && !is_html && !output_.ends_with(".svg"))
      throw Error(ErrorKind::argument, fmt::format("--output: '{}' is not right, want a name that ends with .svg or .html", output_));
    const Rows file = read_json("results", results_);
    if (!file.is_object() || !file.contains("results") || !file["results"].is_array())
      throw Error(ErrorKind::argument,
                  fmt::format("results: '{}' has no list named results, want what seqccl bench --json writes", results_));
    if (file["results"].empty())
      throw Error(ErrorKind::argument, fmt::format("results: '{}' has no rows, want results of seqccl bench --json", results_));
    Charts charts;
    try {
      charts = charts_of(file["results"]);
    } catch (const nlohmann::json::exception& error) {
      throw Error(ErrorKind::argument, fmt::format("results: '{}' is not what seqccl bench --json writes: {}", results_, error.what()));
    }
    if (charts.lines.empty() && charts.bars.empty())
      throw Error(ErrorKind::argument, fmt::format("results: '{}' has nothing to draw: all its sizes or times are 0", results_));
    const std::string svg = svg_text(charts);
    if (output_.empty()) {
      console.out << svg;
      return exit_right;
    }
    OutputFile("--output", output_).finish(is_html ? html_text(results_, file, svg) : svg);
    console.out << fmt::format("wrote {}: {} rows, {} pictures\n", output_, file["results"].size(),
                               charts.lines.size() + charts.bars.size());
    return exit_right;
  }

 private:
  std::string results_, output_;
};

}  // namespace

std::unique_ptr<Subcommand> make_plot(CLI::App& parent) { return std::make_unique<Plot>(parent); }

}  // namespace seqccl::command
