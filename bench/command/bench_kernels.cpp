// bench_kernels.cpp - `seqccl bench kernels`: the local kernels of one core as a fraction of what it can do.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "command/command.hpp"
#include "command/number_option.hpp"
#include "command/report.hpp"
#include "command/subcommand.hpp"
#include "kernels/rows.hpp"
#include "seqccl/explain.hpp"
#include "seqccl/kernels.hpp"

namespace seqccl::command {
namespace {

class BenchKernels final : public Subcommand {
 public:
  explicit BenchKernels(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "kernels", "The local CPU kernels, each as a fraction of the FMA peak of a core, measured in turns with it",
               "  seqccl bench kernels\n"
               "  seqccl bench kernels --filter forward/causal --repeat 20\n"
               "  seqccl bench kernels --filter linear_local,D128 --json\n"
               "  seqccl bench kernels --list\n\n"
               "The peak is that of fused multiply-adds in f32 that live in registers, looked at before and after each run.\n"
               "Of attention only visible pairs count. Times of one thread are CPU time; threads2 is against two cores.");
    app.add_option("--filter", filter_, "Only rows whose name has all of these, with commas; --list shows names")->capture_default_str();
    add_count(app, "--repeat", repeat_, "Timed runs of a row; the table shows the median", 1, 100000);
    app.add_flag("--list", lists_, "The names of the rows, nothing is measured");
  }

  int run(const Console& console) override {
    const std::vector<bench::KernelRow> rows = chosen();
    if (lists_) {
      Json names = Json::array();
      for (const bench::KernelRow& row : rows) names.push_back(row.name);
      if (json()) console.out << names.dump(1) << '\n';
      for (const bench::KernelRow& row : rows)
        if (!json()) console.out << row.name << '\n';
      return exit_right;
    }
    Table table({"kernel", "threads", "median", "min", "GFLOP/s", "peak GFLOP/s", "of peak"});
    Json results = Json::array();
    for (const bench::KernelRow& row : rows) {
      console.progress(row.name + " ...");
      add(row, table, results);
    }
    console.progress("");
    if (json()) {
      console.out << Json{{"instruction_set", cpu::instruction_set()}, {"results", results}}.dump(1) << '\n';
    } else {
      console.out << fmt::format("instruction set {}; {} runs a row\n\n", cpu::instruction_set(), repeat_) << table.text();
    }
    return exit_right;
  }

 private:
  [[nodiscard]] std::vector<bench::KernelRow> chosen() const {
    std::vector<bench::KernelRow> rows = bench::kernel_rows();
    std::string_view rest = filter_;
    while (!rest.empty()) {
      const std::string_view part = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(rest.size(), part.size() + 1));
      std::erase_if(rows, [&](const bench::KernelRow& row) { return row.name.find(part) == std::string::npos; });
    }
    if (rows.empty())
      throw Error(ErrorKind::argument, fmt::format("--filter: no kernel's name has all of '{}'; --list shows the names, such as {}",
                                                   filter_, bench::kernel_rows().front().name));
    return rows;
  }

  void add(const bench::KernelRow& row, Table& table, Json& results) const {
    const bench::Prepared kernel = row.prepare();
    kernel.run();  // pages and scratch
    std::vector<double> seconds, rates, peaks, fractions;
    for (int n = 0; n < repeat_; ++n) {
      const bench::KernelRun one = bench::measure(kernel, row.num_threads);
      seconds.push_back(one.seconds), rates.push_back(one.flops_per_s), peaks.push_back(one.peak_flops_per_s);
      fractions.push_back(one.peak_fraction());
    }
    const double median_s = bench::median(seconds), rate = bench::median(rates), peak = bench::median(peaks);
    const double fraction = bench::median(fractions), min_s = *std::min_element(seconds.begin(), seconds.end());
    table.add({row.name, std::to_string(row.num_threads), human_seconds(median_s), human_seconds(min_s), short_number(rate / 1e9),
               short_number(peak / 1e9), fmt::format("{:.2f}", fraction)});
    results.push_back({{"kernel", row.name},
                       {"threads", row.num_threads},
                       {"flops", kernel.flops},
                       {"seconds", seconds},
                       {"median_s", median_s},
                       {"gflop_per_s", rate / 1e9},
                       {"peak_gflop_per_s", peak / 1e9},
                       {"peak_fraction", fraction}});
  }

  std::string filter_;
  int repeat_ = 5;
  bool lists_ = false;
};

}  // namespace

std::unique_ptr<Subcommand> make_bench_kernels(CLI::App& parent) { return std::make_unique<BenchKernels>(parent); }

}  // namespace seqccl::command
