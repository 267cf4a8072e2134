// charts.cpp - lines over logarithmic axes and bars, as SVG that needs nothing else.
// SPDX-License-Identifier: Apache-2.0
#include "command/charts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "command/bench_rows.hpp"
#include "command/table.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

constexpr double chart_width = 960, chart_left = 80, chart_right = 30, line_height = 320, bar_height = 22, bar_left = 420;
constexpr const char* series_colours[] = {"#3d6fb0", "#e2794a", "#2f8a7d", "#8e5aa8", "#b5853c", "#b0567a", "#6b9b37", "#555f6b"};

/// From the power of ten at or below the least value to the one at or above the largest.
struct LogAxis {
  double low = 0, high = 1;  // exponents

  void take(double value) {
    const double least = std::floor(std::log10(value)), most = std::ceil(std::log10(value));
    low = is_set ? std::min(low, least) : least;
    high = is_set ? std::max(high, most) : most;
    is_set = true;
  }
  [[nodiscard]] double at(double value) const { return high > low ? (std::log10(value) - low) / (high - low) : 0.5; }

 private:
  bool is_set = false;
};

std::string axis_number(double value) { return value >= 1e-3 && value < 1e6 ? fmt::format("{:g}", value) : fmt::format("{:.0e}", value); }

class Pictures {
 public:
  std::string draw(const Charts& charts) && {
    for (const LineChart& chart : charts.lines) lines(chart);
    for (const BarChart& chart : charts.bars) bars(chart);
    return fmt::format(
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:g}\" height=\"{1:g}\" viewBox=\"0 0 {0:g} {1:g}\" "
               "font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
               chart_width, top_ + 10) +
           svg_ + "</svg>\n";
  }

 private:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(svg_), format, std::forward<Args>(args)...);
  }
  void text(double x, double y, const char* anchor, const std::string& words) {
    add("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, escaped(words));
  }
  void title(const std::string& words) {
    add("<text x=\"{}\" y=\"{:.1f}\" font-size=\"15\" font-weight=\"bold\">{}</text>\n", 20, top_ + 26, escaped(words));
    top_ += 44;
  }

  void lines(const LineChart& chart) {
    LogAxis across, up;
    for (const Series& each : chart.series)
      for (const auto& [x, y] : each.points) across.take(x), up.take(y);
    title(fmt::format("{}, {} over bytes of a message", chart.title, chart.unit));
    double legend = chart_left;
    for (std::size_t i = 0; i < chart.series.size(); ++i) {
      const double width = 34 + 7 * static_cast<double>(chart.series[i].name.size());
      if (legend > chart_left && legend + width > chart_width - chart_right) legend = chart_left, top_ += 18;
      add("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"14\" height=\"4\" fill=\"{}\"/>\n", legend, top_ + 2, colour(i));
      text(legend + 18, top_ + 8, "start", chart.series[i].name);
      legend += width;
    }
    top_ += 24;
    const double bottom = top_ + line_height, width = chart_width - chart_left - chart_right;
    const auto px = [&](double value) { return chart_left + across.at(value) * width; };
    const auto py = [&](double value) { return bottom - up.at(value) * line_height; };
    for (double power = across.low; power <= across.high; ++power) {
      const double x = px(std::pow(10, power));
      add("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>\n", x, top_, bottom);
      text(x, bottom + 16, "middle", axis_number(std::pow(10, power)));
    }
    for (double power = up.low; power <= up.high; ++power) {
      const double y = py(std::pow(10, power));
      add("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{2:.1f}\" y2=\"{1:.1f}\" stroke=\"#ddd\"/>\n", chart_left, y, chart_left + width);
      text(chart_left - 6, y + 4, "end", axis_number(std::pow(10, power)));
    }
    for (std::size_t i = 0; i < chart.series.size(); ++i) {
      std::string path;
      for (const auto& [x, y] : chart.series[i].points) path += fmt::format("{:.1f},{:.1f} ", px(x), py(y));
      add("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n", path, colour(i));
      for (const auto& [x, y] : chart.series[i].points)
        add("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", px(x), py(y), colour(i));
    }
    top_ = bottom + 34;
  }

  void bars(const BarChart& chart) {
    double most = 0;
    for (const Bar& bar : chart.bars) most = std::max(most, bar.value);
    title(chart.title);
    for (const Bar& bar : chart.bars) {
      const double width = most > 0 ? bar.value / most * (chart_width - bar_left - 150) : 0;
      text(bar_left - 8, top_ + 13, "end", bar.name);
      add("<rect x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"/>\n", bar_left, top_, width, bar_height - 5, colour(0));
      text(bar_left + width + 6, top_ + 13, "start", bar.text);
      top_ += bar_height;
    }
    top_ += 14;
  }

  static const char* colour(std::size_t index) { return series_colours[index % std::size(series_colours)]; }

  std::string svg_;
  double top_ = 0;
};

}  // namespace

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char letter : text)
    safe += letter == '&'                               ? "&amp;"
            : letter == '<'                             ? "&lt;"
            : letter == '>'                             ? "&gt;"
            : letter == '"'                             ? "&quot;"
            : static_cast<unsigned char>(letter) < 0x20 ? std::string(" ")
                                                        : std::string(1, letter);
  return safe;
}

Charts charts_of(const nlohmann::ordered_json& rows) {
  LineChart latency{"Latency", "microseconds", {}}, bandwidth{"Bus bandwidth", "GB/s", {}};
  BarChart times{"Median time by method", {}}, overlap{"Communication hidden behind kernels (overlap)", {}};
  const auto point = [](LineChart& chart, const std::string& name, double x, double y) {
    const auto found = std::ranges::find(chart.series, name, &Series::name);
    Series& series = found != chart.series.end() ? *found : chart.series.emplace_back(Series{name, {}});
    if (x > 0 && y > 0) series.points.emplace_back(x, y);  // a logarithm has no place for 0 bytes
  };
  for (const auto& row : rows) {
    const double median_s = row.at("median_s").get<double>();
    const std::string path = row.at("transport").get<std::string>();
    if (row.contains("pattern")) {
      const std::string name = fmt::format("{} {}, {} ranks", path, row["pattern"].get<std::string>(), row.at("ranks").get<int>());
      const auto bytes = row.at("bytes").get<double>();
      point(latency, name, bytes, median_s * 1e6);
      if (row.contains("busbw_gb_per_s")) point(bandwidth, name, bytes, row["busbw_gb_per_s"].get<double>());
      continue;
    }
    const std::string name = row_text(row) + ", " + path;
    times.bars.push_back({name, median_s, human_seconds(median_s)});
    if (row.contains("overlap_percent")) {
      const double percent = row["overlap_percent"].get<double>();
      overlap.bars.push_back({name, percent, fmt::format("{:.0f}%, kernels {:.2f}x", percent, row.at("compute_slowdown").get<double>())});
    }
  }
  Charts charts;
  for (LineChart* chart : {&latency, &bandwidth}) {
    std::erase_if(chart->series, [](const Series& series) { return series.points.empty(); });
    for (Series& series : chart->series) std::ranges::sort(series.points);
    if (!chart->series.empty()) charts.lines.push_back(*chart);
  }
  for (BarChart* chart : {&times, &overlap})
    if (!chart->bars.empty()) charts.bars.push_back(*chart);
  return charts;
}

std::string svg_text(const Charts& charts) { return Pictures().draw(charts); }

}  // namespace seqccl::command
