// draw.cpp - all ranks' lanes over simulated time, as one SVG that needs nothing else.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

#include "seqccl/explain.hpp"
#include "text.hpp"

SEQCCL_BEGIN

namespace {

constexpr double picture_width = 1200, margin_left = 112, margin_right = 28, plot_width = picture_width - margin_left - margin_right;

/// Colours that most kinds of eyes tell apart (after Paul Tol's schemes). Kernels are warm or dark, lanes of messages are pale.
struct Paint {
  const char* fill;
  bool is_dark;  // takes white text
};
constexpr Paint op_paints[] = {
    {"#3d6fb0", true},   // attend
    {"#8e5aa8", true},   // merge
    {"#b5853c", true},   // row dot
    {"#28518a", true},   // attend backward
    {"#7a4d2b", true},   // sink gradient
    {"#c9a23a", false},  // copy
    {"#b0567a", true},   // add
    {"#9a9a9a", false},  // zero
    {"#2f8a7d", true},   // linear summary
    {"#6b9b37", true},   // state step
    {"#e2794a", false},  // take columns
    {"#86d0c4", false},  // put columns
    {"#3d6fb0", true},   // linear local
    {"#4f9fcf", true},   // linear enter
    {"#1f6a60", true},   // linear summary backward
    {"#28518a", true},   // linear backward
    {"#555f6b", true},   // custom
};
static_assert(std::size(op_paints) == std::variant_size_v<Op>);
constexpr Paint lane_paints[num_lanes] = {{"", false}, {"#f2c58f", false}, {"#b9dcae", false}, {"#e3b4c9", false}};

/// Ops first, then the lanes of messages.
constexpr std::size_t num_paints = std::variant_size_v<Op> + num_lanes;
std::size_t paint_of(const Schedule& schedule, const Step& step) {
  return step.lane == Lane::compute ? schedule.ops[step.index].index() : std::variant_size_v<Op> + static_cast<std::size_t>(step.lane);
}
const Paint& paint(std::size_t index) {
  return index < std::variant_size_v<Op> ? op_paints[index] : lane_paints[index - std::variant_size_v<Op>];
}

std::string escape(const std::string& text) {
  std::string safe;
  for (const char letter : text) {
    switch (letter) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += static_cast<unsigned char>(letter) < 0x20 && letter != '\n' ? ' ' : letter;  // XML has no other control characters
    }
  }
  return safe;
}

/// A length in the picture, as short as two places after the point allow.
std::string length(double value) {
  std::string text = fmt::format("{:.2f}", value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

/// 1, 2 or 5 times a power of ten, so that about eight of it fill `seconds`.
double tick_seconds(double seconds) {
  const double raw = seconds / 8, power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= raw) return factor * power;
  return 10 * power;
}

/// One lane of one rank.
struct Row {
  const Schedule* schedule;
  Lane lane;
  double top = 0, height = 0;
  bool is_first = false;  // of its rank
};

class Picture {
 public:
  Picture(std::span<const Schedule> schedules, const Simulation& simulation) : schedules_(schedules), simulation_(simulation) {
    find_paints();
    place_rows();
  }

  std::string draw() && {
    head();
    legend();
    axis();
    for (const Row& row : rows_) {
      row_label(row);
      if (row.lane == Lane::compute) waits(row);
      blocks(row);
    }
    svg_ += "</svg>\n";
    return std::move(svg_);
  }

 private:
  static constexpr double legend_row = 20, axis_height = 26;

  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(svg_), format, std::forward<Args>(args)...);
  }
  double x(double seconds) const { return margin_left + (simulation_.seconds > 0 ? seconds / simulation_.seconds * plot_width : 0.0); }

  void find_paints() {
    used_.resize(num_paints);
    for (const Schedule& schedule : schedules_)
      for (const Step& step : schedule.steps) used_[paint_of(schedule, step)] = true;
  }

  // Rows are 22 high while few, and shrink to 5 so that 64 ranks stay near one screen; lanes of messages are a little lower.
  void place_rows() {
    for (const Schedule& schedule : schedules_) {
      bool is_first = true;
      for (const Lane lane : {Lane::comm3, Lane::comm2, Lane::comm, Lane::compute}) {
        const bool has_steps =
            std::any_of(schedule.steps.begin(), schedule.steps.end(), [lane](const Step& step) { return step.lane == lane; });
        if (!has_steps) continue;
        rows_.push_back({&schedule, lane, 0, 0, is_first});
        is_first = false;
      }
    }
    const double compute_height = std::clamp(1000 / std::max(1.0, static_cast<double>(rows_.size())), 5.0, 22.0);
    double legend_width = 0;
    num_legend_rows_ = 1;
    for (std::size_t i = 0; i <= num_paints; ++i) {
      if (i < num_paints && !used_[i]) continue;
      if (legend_width + legend_item_width(i) > plot_width) legend_width = 0, ++num_legend_rows_;
      legend_width += legend_item_width(i);
    }
    plot_top_ = 44 + num_legend_rows_ * legend_row + axis_height;
    double top = plot_top_;
    for (Row& row : rows_) {
      row.height = row.lane == Lane::compute ? compute_height : compute_height * 0.8;
      if (row.is_first) top += compute_height * 0.35;
      row.top = top;
      top += row.height + (compute_height > 10 ? 2 : 1);
    }
    plot_bottom_ = top + compute_height * 0.35;
  }

  std::string legend_name(std::size_t index) const {
    if (index == num_paints) return "not computing";
    if (index >= std::variant_size_v<Op>) return fmt::format("lane {}", lane_name(static_cast<Lane>(index - std::variant_size_v<Op>)));
    for (const Schedule& schedule : schedules_)
      for (const Op& op : schedule.ops)
        if (op.index() == index) return name(op);
    return "";
  }
  double legend_item_width(std::size_t index) const { return 36 + 6.6 * static_cast<double>(legend_name(index).size()); }

  void head() {
    const double height = plot_bottom_ + 22;
    add("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
        "font-family=\"system-ui, 'Helvetica Neue', Arial, sans-serif\" font-size=\"12\">\n",
        length(picture_width), length(height));
    add("<title>{}</title>\n", escape(title()));  // of the whole picture: what a browser's tab says
    svg_ +=
        "<style>text{fill:#333}.w{fill:#fff}.m{fill:#777}.t{text-anchor:middle;pointer-events:none}.g{stroke:#e4e4e4}"
        "rect:hover{fill-opacity:.75}";
    for (std::size_t i = 0; i < num_paints; ++i)
      if (used_[i]) add(".p{}{{fill:{};stroke:#fff;stroke-width:.6}}", i, paint(i).fill);
    svg_ += ".idle{fill:url(#idle)}</style>\n";
    svg_ +=
        "<defs><pattern id=\"idle\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">"
        "<rect width=\"6\" height=\"6\" fill=\"#fbeeee\"/><rect width=\"1.4\" height=\"6\" fill=\"#eab8b8\"/></pattern></defs>\n";
    add("<rect width=\"{}\" height=\"{}\" fill=\"#fff\"/>\n", length(picture_width), length(height));
    const auto most = std::max_element(simulation_.exposed_s.begin(), simulation_.exposed_s.end());
    add("<text x=\"{}\" y=\"27\" font-size=\"16\" font-weight=\"600\">{}</text>\n", length(margin_left), escape(title()));
    add("<text class=\"m\" x=\"{}\" y=\"27\" text-anchor=\"end\">{} simulated; rank {} does not compute for {} of it</text>\n",
        length(picture_width - margin_right), human_seconds(simulation_.seconds), most - simulation_.exposed_s.begin(),
        human_seconds(*most));
  }

  std::string title() const {
    return fmt::format("{}, {} rank{}", schedules_[0].name, schedules_.size(), schedules_.size() == 1 ? "" : "s");
  }

  void legend() {
    double left = 0, top = 40;
    for (std::size_t i = 0; i <= num_paints; ++i) {
      if (i < num_paints && !used_[i]) continue;
      if (left + legend_item_width(i) > plot_width) left = 0, top += legend_row;
      const std::string style = i == num_paints ? "idle" : fmt::format("p{}", i);
      add("<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"14\" height=\"12\" rx=\"2\"/><text x=\"{}\" y=\"{}\">{}</text>\n", style,
          length(margin_left + left), length(top), length(margin_left + left + 19), length(top + 10.5), escape(legend_name(i)));
      left += legend_item_width(i);
    }
  }

  void axis() {
    const double seconds = simulation_.seconds, step = seconds > 0 ? tick_seconds(seconds) : 1;
    for (int i = 0; i * step <= seconds * (1 + 1e-9); ++i) {
      const std::string at = length(x(i * step));
      add("<path class=\"g\" d=\"M{0} {1}V{2}\"/><text class=\"m\" x=\"{0}\" y=\"{3}\" text-anchor=\"middle\">{5}</text>"
          "<text class=\"m\" x=\"{0}\" y=\"{4}\" text-anchor=\"middle\">{5}</text>\n",
          at, length(plot_top_), length(plot_bottom_), length(plot_top_ - 6), length(plot_bottom_ + 15), human_seconds(i * step));
    }
  }

  // Low rows have no names of lanes: the legend tells them apart, and the rank's name needs the height.
  void row_label(const Row& row) {
    const bool is_low = row.height < 9;
    const double size = is_low ? 9 : 12, base = row.top + row.height * (is_low ? 1.0 : 0.5) + size * 0.36;
    if (!is_low)
      add("<text class=\"m\" x=\"{}\" y=\"{}\" text-anchor=\"end\" font-size=\"11\">{}</text>", length(margin_left - 6), length(base),
          lane_name(row.lane));
    if (row.is_first)
      add("<text x=\"8\" y=\"{}\" font-size=\"{}\" font-weight=\"600\">rank {}</text>", length(base), size, row.schedule->rank);
    svg_ += "\n";
  }

  void block(const Row& row, const char* style, double begin_s, double end_s, const std::string& tip) {
    add("<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"{}><title>{}</title></rect>\n", style, length(x(begin_s)),
        length(row.top), length(std::max(0.4, x(end_s) - x(begin_s))), length(row.height), row.height > 10 ? " rx=\"2\"" : "", escape(tip));
  }

  static std::string span_text(double begin_s, double end_s) {
    return fmt::format("{} to {}, {}", human_seconds(begin_s), human_seconds(end_s), human_seconds(end_s - begin_s));
  }

  /// The gaps of a compute lane, with the one that follows its last step.
  void waits(const Row& row) {
    const Schedule& schedule = *row.schedule;
    const std::vector<StepTime>& times = simulation_.steps[schedule.rank];
    const double visible_s = simulation_.seconds * 1e-4;
    double idle_since_s = 0;
    const auto until = [&](double next_s) {
      if (next_s - idle_since_s > visible_s)
        block(row, "idle", idle_since_s, next_s,
              fmt::format("rank {}: does not compute\n{}", schedule.rank, span_text(idle_since_s, next_s)));
    };
    for (std::size_t i = 0; i < schedule.steps.size(); ++i) {
      if (schedule.steps[i].lane != Lane::compute) continue;
      until(times[i].begin_s);
      idle_since_s = times[i].end_s;
    }
    until(simulation_.seconds);
  }

  void blocks(const Row& row) {
    const Schedule& schedule = *row.schedule;
    const std::vector<StepTime>& times = simulation_.steps[schedule.rank];
    for (std::size_t i = 0; i < schedule.steps.size(); ++i) {
      const Step& step = schedule.steps[i];
      if (step.lane != row.lane) continue;
      const std::size_t index = paint_of(schedule, step);
      const StepTime& time = times[i];
      block(row, fmt::format("p{}", index).c_str(), time.begin_s, time.end_s,
            fmt::format("rank {} {}, step {}: {}\n{}", schedule.rank, lane_name(step.lane), i, shorten(schedule.label(step), 120),
                        span_text(time.begin_s, time.end_s)));
      caption(row, schedule, step, time, paint(index).is_dark);
    }
  }

  /// The longest text that fits into the block, or none.
  void caption(const Row& row, const Schedule& schedule, const Step& step, const StepTime& time, bool is_dark) {
    if (row.height < 9) return;
    const double size = std::min(11.0, row.height * 0.72), width = x(time.end_s) - x(time.begin_s) - 6;
    const auto fits = [&](const std::string& text) { return static_cast<double>(text.size()) * size * 0.56 <= width; };
    std::string text;
    if (step.lane != Lane::compute) {
      text = schedule.label(step).substr(std::string("exchange, ").size());
      if (!fits(text) && step.about >= 0) text = fmt::format("block {}", step.about);
    } else {
      text = step.about < 0 ? name(schedule.ops[step.index]) : fmt::format("{} {}", name(schedule.ops[step.index]), step.about);
    }
    if (!fits(text) && step.about >= 0) text = fmt::format("{}", step.about);
    if (!fits(text)) return;
    add("<text class=\"t{}\" x=\"{}\" y=\"{}\" font-size=\"{}\">{}</text>\n", is_dark ? " w" : "",
        length((x(time.begin_s) + x(time.end_s)) / 2), length(row.top + row.height / 2 + size * 0.36), length(size), escape(text));
  }

  std::span<const Schedule> schedules_;
  const Simulation& simulation_;
  std::string svg_;
  std::vector<bool> used_;  // [paint]
  std::vector<Row> rows_;
  double plot_top_ = 0, plot_bottom_ = 0;
  int num_legend_rows_ = 1;
};

}  // namespace

std::string draw(std::span<const Schedule> schedules, const Simulation& simulation) {
  if (schedules.empty()) throw Error(ErrorKind::argument, "draw: schedules is empty, want one per rank");
  if (simulation.steps.size() != schedules.size())
    throw Error(ErrorKind::argument,
                fmt::format("draw: simulation has {} ranks, want {} as there are schedules", simulation.steps.size(), schedules.size()));
  return Picture(schedules, simulation).draw();
}

SEQCCL_END
