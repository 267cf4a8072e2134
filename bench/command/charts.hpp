// charts.hpp - rows of `seqccl bench --json` as pictures.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace seqccl::command {

/// One of several lines over the same axes.
struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x, y above 0, by ascending x
};
/// Lines over two logarithmic axes; x are bytes, y is said by `unit`.
struct LineChart {
  std::string title, unit;
  std::vector<Series> series;
};
/// Bars from 0, each with its value in words beside it.
struct Bar {
  std::string name;
  double value = 0;
  std::string text;
};
struct BarChart {
  std::string title;
  std::vector<Bar> bars;
};

struct Charts {
  std::vector<LineChart> lines;
  std::vector<BarChart> bars;
};
/// What the rows have: exchanges over sizes, times by method, overlap where it was measured.
/// @throws nlohmann::json::exception of rows that are not those of bench
[[nodiscard]] Charts charts_of(const nlohmann::ordered_json& rows);

/// One picture, all charts below each other.
[[nodiscard]] std::string svg_text(const Charts& charts);
/// Text inside XML or HTML.
[[nodiscard]] std::string escaped(const std::string& text);

}  // namespace seqccl::command
