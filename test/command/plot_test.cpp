// plot_test.cpp - results become pictures with every row in them; what is no result is refused.
// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "command/charts.hpp"
#include "command/support.hpp"

namespace seqccl::command::test {
namespace {

using Results = nlohmann::ordered_json;

Results plotted_exchanges() {
  Results rows = Results::array();
  for (const char* path : {"threads", "shm"})
    for (const std::int64_t bytes : {64, 0, 8})
      rows.push_back({{"pattern", "ring"},
                      {"ranks", 2},
                      {"bytes", bytes},
                      {"median_s", 1e-6},
                      {"busbw_gb_per_s", static_cast<double>(bytes) / 1e3},
                      {"transport", path}});
  return rows;
}

TEST(Plot, exchanges_are_lines_by_path_and_methods_are_bars) {
  const Charts charts = charts_of(plotted_exchanges());
  ASSERT_EQ(charts.lines.size(), 2u);
  EXPECT_TRUE(charts.bars.empty());
  for (const LineChart& chart : charts.lines) {
    ASSERT_EQ(chart.series.size(), 2u);
    EXPECT_EQ(chart.series[0].name, "threads ring, 2 ranks");
    ASSERT_EQ(chart.series[0].points.size(), 2u);  // 0 bytes have no logarithm
    EXPECT_LT(chart.series[0].points[0].first, chart.series[0].points[1].first);
  }
  EXPECT_DOUBLE_EQ(charts.lines[0].series[0].points[0].second, 1);
  EXPECT_DOUBLE_EQ(charts.lines[1].series[1].points[1].second, 0.064);

  Results row = {{"method", "ring"}, {"pass", "forward"}, {"ranks", 2}, {"tokens", 64}, {"median_s", 2e-3}, {"transport", "shm"}};
  Results rows = Results::array({row});
  row["overlap_percent"] = 75.0;
  row["compute_slowdown"] = 1.25;
  rows.push_back(row);
  const Charts bars = charts_of(rows);
  EXPECT_TRUE(bars.lines.empty());
  ASSERT_EQ(bars.bars.size(), 2u);
  EXPECT_EQ(bars.bars[0].bars.size(), 2u);
  ASSERT_EQ(bars.bars[1].bars.size(), 1u);
  EXPECT_DOUBLE_EQ(bars.bars[1].bars[0].value, 75);
  EXPECT_EQ(bars.bars[1].bars[0].text, "75%, kernels 1.25x");
}

TEST(Plot, writes_svg_and_html) {
  const Folder folder;
  const std::string results = folder.file("results.json");
  Results rows = plotted_exchanges();
  rows[0]["path"] = "<path> & more";
  write_text(results, Results{{"transport", "threads,shm"}, {"results", rows}}.dump());
  const Ran svg = run({"plot", results});
  ASSERT_EQ(svg.code, exit_right) << svg.err;
  EXPECT_TRUE(svg.out.starts_with("<svg xmlns=")) << svg.out;
  EXPECT_TRUE(svg.out.ends_with("</svg>\n"));
  expect_words(svg.out, {"Latency, microseconds", "Bus bandwidth, GB/s", "threads ring, 2 ranks", "<polyline"});
  for (const char* bad : {"nan", "inf"}) EXPECT_EQ(svg.out.find(bad), std::string::npos);
  const std::string page = folder.file("report.html");
  const Ran html = run({"plot", results, "-o", page});
  ASSERT_EQ(html.code, exit_right) << html.err;
  expect_words(html.out, {"wrote " + page + ": 6 rows, 2 pictures"});
  std::ifstream stream(page);
  const std::string text(std::istreambuf_iterator<char>(stream), {});
  expect_words(text, {"<!DOCTYPE html>", "6 rows, transport threads,shm", "&lt;path&gt; &amp; more", "<svg", "<th>median_s</th>"});
  EXPECT_EQ(text.find("<path>"), std::string::npos);
}

TEST(Plot, what_is_no_result_is_refused) {
  const Folder folder;
  const std::string path = folder.file("results.json");
  const auto refused = [&](const std::string& text, const std::string& words) {
    write_text(path, text);
    const Ran ran = run({"plot", path});
    EXPECT_EQ(ran.code, exit_bad_input) << text;
    expect_words(ran.err, {"results: '" + path + "'", words});
  };
  refused("", "(it is empty)");
  refused("{", "is not JSON");
  refused("[1]", "has no list named results, want what seqccl bench --json writes");
  refused(R"({"results": []})", "has no rows");
  refused(R"({"results": [{"ranks": 2}]})", "is not what seqccl bench --json writes");
  refused(R"({"results": [{"pattern": "ring", "ranks": 2, "bytes": 0, "median_s": 1, "transport": "shm"}]})", "has nothing to draw");
  write_text(path, Results{{"results", plotted_exchanges()}}.dump());
  expect_words(run({"plot", path, "-o", "picture.png"}).err, {"--output: 'picture.png' is not right, want a name that ends with .svg"});
  expect_words(run({"plot", path, "-o", folder.file("no/x.svg")}).err, {"--output: '", "cannot be written"});
}

}  // namespace
}  // namespace seqccl::command::test
