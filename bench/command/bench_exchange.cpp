// bench_exchange.cpp - `seqccl bench exchange`: raw messages of many sizes: time, bandwidth of the operation and of a link, wrong numbers.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "command/bench_base.hpp"
#include "command/exchange_job.hpp"
#include "command/names.hpp"
#include "command/options.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

constexpr std::int64_t max_bytes = std::int64_t{1} << 34;

class BenchExchange final : public Bench {
 public:
  explicit BenchExchange(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "exchange", "Raw messages between ranks, without kernels: what the transport itself takes",
               "  seqccl bench exchange --ranks 2,4 --transport shm\n"
               "  seqccl bench exchange --ranks 4 --pattern all_gather --bytes 8,1k,64k,1m,16m --wait spin --json\n\n"
               "ping_pong: between ranks 0 and 1, one way. all_gather: bytes are those of all ranks together.\n"
               "Sizes are those of whole f32 numbers, at least one a rank: what is between is rounded down.\n"
               "algbw: bytes over time. busbw: times (P - 1) / P for the all-gather, what a link carries; as nccl-tests.\n"
               "Small operations follow each other without a barrier, so those of an all-gather may overlap: its times are of a\n"
               "stream, latency is ping_pong's. Buffers are the same every time and may stay in cache; #wrong looks at the last\n"
               "operation, and every one sends the same numbers.");
    add_ranks(app);
    app.add_option("--bytes", bytes_, "Sizes, with commas")->capture_default_str();
    app.add_option("--pattern", pattern_, "all|ping_pong|all_gather")->capture_default_str();
    settings_.warmup = 3;
    settings_.repeat = 20;
    table_ = Table({"pattern", "ranks", "bytes", "median", "min", "max", "algbw GB/s", "busbw GB/s", "#wrong", "path"});
  }

  void measure_all(const Console& console) override {
    const std::string pattern = resolve(pattern_names(), pattern_);
    const std::vector<std::int64_t> sizes = parse_counts("--bytes", bytes_);
    for (const std::int64_t size : sizes)
      if (size < 1 || size > max_bytes)
        throw Error(ErrorKind::argument, fmt::format("--bytes: {} is not right, want 1 to {}", size, human_bytes(max_bytes)));
    const std::vector<int> counts = rank_counts();
    if (std::ranges::find(counts, 1) != counts.end())
      throw Error(ErrorKind::argument, "--ranks: 1 is not right, want at least 2: one rank has nobody to send to");
    for (const Pattern each : {Pattern::ping_pong, Pattern::all_gather}) {
      if (pattern != "all" && pattern != name(each)) continue;
      for (const int num_ranks : counts) {
        for (const std::int64_t size : sizes) add(console, ExchangePlan::of(each, num_ranks, size));
        if (pattern == "all" && each == Pattern::ping_pong) break;  // with more ranks it is the same two again
      }
    }
  }

 private:
  void add(const Console& console, const ExchangePlan& plan) {
    settings_.num_ranks = plan.num_ranks;
    const std::string size = human_bytes(static_cast<double>(plan.num_bytes()));
    begin_row(console, fmt::format("{}: {} ranks, {}", name(plan.pattern), plan.num_ranks, size));
    const ExchangeRun run = run_exchange(plan, settings_);
    const Measurement operation{.seconds = run.seconds};
    const double algbw = static_cast<double>(plan.num_bytes()) / operation.median_s() / 1e9, busbw = algbw * plan.bus_factor();
    table_.add({name(plan.pattern), std::to_string(plan.num_ranks), std::to_string(plan.num_bytes()), human_seconds(operation.median_s()),
                human_seconds(operation.min_s()), human_seconds(operation.max_s()), short_number(algbw), short_number(busbw),
                std::to_string(run.num_wrong), run.whole.path});
    all_right_ = all_right_ && run.num_wrong == 0;
    end_row({{"pattern", name(plan.pattern)},
             {"ranks", plan.num_ranks},
             {"bytes", plan.num_bytes()},
             {"seconds", run.seconds},
             {"median_s", operation.median_s()},
             {"min_s", operation.min_s()},
             {"max_s", operation.max_s()},
             {"algbw_gb_per_s", algbw},
             {"busbw_gb_per_s", busbw},
             {"operations_per_run", plan.num_inner()},
             {"moved_bytes", run.whole.moved_bytes},
             {"planned_bytes", run.whole.planned_bytes},
             {"num_wrong", run.num_wrong},
             {"path", run.whole.path}});
  }

  std::string bytes_ = "8,64,512,4k,32k,256k,2m,16m", pattern_ = "all";
};

}  // namespace

std::unique_ptr<Subcommand> make_bench_exchange(CLI::App& parent) { return std::make_unique<BenchExchange>(parent); }

}  // namespace seqccl::command
