// bench_exchange.cpp - `seqccl bench exchange`: raw messages of many sizes, in the conventions of nccl-tests.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "command/bench_base.hpp"
#include "command/bench_rows.hpp"
#include "command/exchange_job.hpp"
#include "command/names.hpp"
#include "command/number_option.hpp"
#include "command/options.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

constexpr std::int64_t max_bytes = std::int64_t{1} << 34;

class BenchExchange final : public Bench {
 public:
  explicit BenchExchange(CLI::App& parent) {
    CLI::App& app = add_to(
        parent, "exchange", "Raw messages between ranks, without kernels: what the transport itself takes",
        "  seqccl bench exchange --ranks 2,4 --transport shm\n"
        "  seqccl bench exchange -p 4 --pattern all_gather -b 8 -e 64m -f 2 -n 20 -w 5 -d bf16\n"
        "  seqccl bench exchange -p 2 --transport threads,shm,ucx,ucx:tcp   # paths beside each other\n"
        "  seqccl bench exchange --list                                     # which paths there are here\n"
        "  seqccl bench exchange --ranks 4 --pattern all_gather --bytes 8,1k,64k,1m,16m --wait spin --json\n\n"
        "ping_pong: between ranks 0 and 1, one way. ring: every rank sends to the next. all_gather, all_to_all: the size is that of\n"
        "a rank's part times ranks, its own included; count is that of one message. As nccl-tests.\n"
        "Sizes are those of whole numbers, at least one a rank: what is between is rounded down.\n"
        "Small operations follow each other without a barrier, so those of an all-gather may overlap: its times are of a\n"
        "stream, latency is ping_pong's. Buffers are the same every time and may stay in cache; #wrong looks at the last\n"
        "operation, and every one sends the same numbers.");
    add_ranks(app, "-n,--repeat");
    app.add_option("--bytes", bytes_, fmt::format("Sizes, with commas (default: {})", standard_bytes));
    add_count(app, "-b,--begin", first_, "Sizes from here (default with -e, -f, -i: 8)", 1, max_bytes);
    add_count(app, "-e,--end", last_, "to here (default: 16m)", 1, max_bytes);
    add_number(app, "-f,--factor", factor_, "each so many times the one before (default: 2)", 1.01, 1e6, "a number from 1.01 to 1e6");
    add_count(app, "-i,--increment", increment_, "or each so many bytes above it", 1, max_bytes);
    app.add_option("-d,--dtype", dtype_, "f32|bf16|f16")->capture_default_str();
    add_count(app, "-c,--check", check_, "1: look whether the numbers are right, 0: do not", 0, 1);
    app.add_option("--pattern", pattern_, "all|ping_pong|all_gather|all_to_all|ring")->capture_default_str();
    app.add_flag("--matrix", is_matrix_, "Latency (8 bytes) and bandwidth (4m) between all pairs of ranks, one pair at a time");
    settings_.warmup = 3;
    settings_.repeat = 20;
    table_ = Table({"pattern", "ranks", "size", "count", "type", "time", "min", "p99", "max", "algbw", "busbw", "#wrong", "path"});
  }

  void measure_all(const Console& console) override {
    const std::string pattern = resolve(pattern_names(), pattern_);
    const std::vector<std::int64_t> all_sizes = sizes();
    const DType dtype = parse_dtype(dtype_);
    const std::vector<int> counts = rank_counts();
    if (std::ranges::find(counts, 1) != counts.end())
      throw Error(ErrorKind::argument, "--ranks: 1 is not right, want at least 2: one rank has nobody to send to");
    if (is_matrix_) {
      refuse_with_matrix();
      for (const int num_ranks : counts) add_matrix(console, num_ranks, dtype);
      return;
    }
    for (const Pattern each : all_patterns) {
      if (pattern != "all" && pattern != name(each)) continue;
      for (const int num_ranks : counts) {
        for (const std::int64_t size : all_sizes) add(console, ExchangePlan::of(each, num_ranks, size, dtype));
        if (pattern == "all" && each == Pattern::ping_pong) break;  // with more ranks it is the same two again
      }
    }
  }

 protected:
  [[nodiscard]] std::string heading() const override {
    if (is_matrix_) return "";
    return "size: bytes; time: median of the timed runs, in which small operations are repeated; p99: 99 of 100 runs took no longer\n"
           "algbw: size / time in GB/s; busbw: algbw x (P - 1) / P for all_gather and all_to_all, else x 1: what a link carries\n\n";
  }

  [[nodiscard]] std::string footer(const Json& rows) const override {
    if (rows.empty()) return {};
    if (is_matrix_) return matrix_text(rows);
    double sum = 0;
    std::int64_t num_wrong = 0;
    for (const Json& row : rows) {
      sum += row["busbw_gb_per_s"].get<double>();
      if (row.contains("num_wrong")) num_wrong += row["num_wrong"].get<std::int64_t>();
    }
    return fmt::format("# Out of bounds values : {}\n# Avg bus bandwidth    : {}\n",
                       check_ == 0 ? "not looked at" : fmt::format("{} {}", num_wrong, num_wrong == 0 ? "OK" : "FAILED"),
                       short_number(sum / static_cast<double>(rows.size())));
  }

 private:
  static constexpr const char* standard_bytes = "8,64,512,4k,32k,256k,2m,16m";

  [[nodiscard]] std::vector<std::int64_t> sizes() const {
    const bool is_range = first_ > 0 || last_ > 0 || factor_ > 1 || increment_ > 0;
    if (!is_range) {
      const std::vector<std::int64_t> all = parse_counts("--bytes", bytes_.empty() ? standard_bytes : bytes_);
      for (const std::int64_t size : all)
        if (size < 1 || size > max_bytes)
          throw Error(ErrorKind::argument, fmt::format("--bytes: {} is not right, want 1 to {}", size, human_bytes(max_bytes)));
      return all;
    }
    if (!bytes_.empty()) throw Error(ErrorKind::argument, "--bytes: is given with -b, -e, -f or -i, want one or the other");
    if (factor_ > 1 && increment_ > 0) throw Error(ErrorKind::argument, "--increment: is given with --factor, want one of them");
    const std::int64_t first = first_ > 0 ? first_ : 8, last = last_ > 0 ? last_ : std::max<std::int64_t>(first, 16 << 20);
    if (first > last)
      throw Error(ErrorKind::argument, fmt::format("--end: {} is not right, want at least --begin, which is {}", last, first));
    std::vector<std::int64_t> all;
    for (std::int64_t size = first; size <= last && all.size() <= most_sizes;) {
      all.push_back(size);
      const double next = static_cast<double>(size) * (factor_ > 1 ? factor_ : 2.0);
      size = increment_ > 0 ? size + increment_ : std::max(size + 1, static_cast<std::int64_t>(next));
    }
    if (all.size() > most_sizes)
      throw Error(ErrorKind::argument, fmt::format("--{}: {} to {} are more than {} sizes, want larger steps",
                                                   increment_ > 0 ? "increment" : "factor", first, last, most_sizes));
    return all;
  }

  void add(const Console& console, const ExchangePlan& plan) {
    settings_.num_ranks = plan.num_ranks;
    const std::string size = human_bytes(static_cast<double>(plan.num_bytes()));
    begin_row(console, fmt::format("{}: {} ranks, {}", name(plan.pattern), plan.num_ranks, size));
    const ExchangeRun run = run_exchange(plan, settings_, check_ != 0);
    const Measurement operation{.seconds = run.seconds};
    const double algbw = static_cast<double>(plan.num_bytes()) / operation.median_s() / 1e9, busbw = algbw * plan.bus_factor();
    table_.add({name(plan.pattern), std::to_string(plan.num_ranks), std::to_string(plan.num_bytes()), std::to_string(plan.part),
                seqccl::name(plan.dtype), human_seconds(operation.median_s()), human_seconds(operation.min_s()),
                human_seconds(operation.percentile_s(99)), human_seconds(operation.max_s()), short_number(algbw), short_number(busbw),
                check_ != 0 ? std::to_string(run.num_wrong) : "-", run.whole.path});
    Json row = {{"pattern", name(plan.pattern)},
                {"ranks", plan.num_ranks},
                {"bytes", plan.num_bytes()},
                {"count", plan.part},
                {"type", seqccl::name(plan.dtype)},
                {"seconds", run.seconds},
                {"median_s", operation.median_s()},
                {"min_s", operation.min_s()},
                {"max_s", operation.max_s()},
                {"p90_s", operation.percentile_s(90)},
                {"p99_s", operation.percentile_s(99)},
                {"algbw_gb_per_s", algbw},
                {"busbw_gb_per_s", busbw},
                {"operations_per_run", plan.num_inner()},
                {"moved_bytes", run.whole.moved_bytes},
                {"planned_bytes", run.whole.planned_bytes},
                {"path", run.whole.path}};
    if (check_ != 0) row["num_wrong"] = run.num_wrong;
    all_right_ = all_right_ && run.num_wrong == 0;
    end_row(std::move(row));
  }

  void refuse_with_matrix() const {
    if (!bytes_.empty() || first_ > 0 || last_ > 0 || factor_ > 1 || increment_ > 0)
      throw Error(ErrorKind::argument, "--matrix: has sizes of its own, 8 bytes and 4m; want it without --bytes, -b, -e, -f and -i");
    if (pattern_ != "all") throw Error(ErrorKind::argument, fmt::format("--matrix: is ping_pong, want it without --pattern {}", pattern_));
    for (const int num_ranks : rank_counts())
      if (num_ranks > most_matrix_ranks)
        throw Error(ErrorKind::argument, fmt::format("--ranks: {} are {} pairs, want at most {} with --matrix", num_ranks,
                                                     num_ranks * (num_ranks - 1) / 2, most_matrix_ranks));
  }

  void add_matrix(const Console& console, int num_ranks, DType dtype) {
    settings_.num_ranks = num_ranks;
    begin_row(console, fmt::format("matrix: {} ranks", num_ranks));
    for (const PairTime& pair : run_pairs(matrix_sizes, dtype, settings_, check_ != 0)) {
      const Measurement times{.seconds = pair.seconds};
      Json row = {{"pattern", fmt::format("pair {}-{}", pair.first, pair.second)},
                  {"ranks", num_ranks},
                  {"first", pair.first},
                  {"second", pair.second},
                  {"bytes", pair.num_bytes},
                  {"type", seqccl::name(dtype)},
                  {"seconds", pair.seconds},
                  {"median_s", times.median_s()},
                  {"min_s", times.min_s()},
                  {"max_s", times.max_s()},
                  {"p90_s", times.percentile_s(90)},
                  {"p99_s", times.percentile_s(99)},
                  {"busbw_gb_per_s", static_cast<double>(pair.num_bytes) / times.median_s() / 1e9},
                  {"path", pair.path}};
      if (check_ != 0) row["num_wrong"] = pair.num_wrong;
      all_right_ = all_right_ && pair.num_wrong == 0;
      end_row(std::move(row));
    }
  }

  static constexpr std::size_t most_sizes = 1000;
  static constexpr std::array<std::int64_t, 2> matrix_sizes = {8, std::int64_t{4} << 20};
  static constexpr int most_matrix_ranks = 64;

  std::string bytes_, pattern_ = "all", dtype_ = "f32";
  std::int64_t first_ = 0, last_ = 0, increment_ = 0;
  double factor_ = 0;
  int check_ = 1;
  bool is_matrix_ = false;
};

}  // namespace

std::unique_ptr<Subcommand> make_bench_exchange(CLI::App& parent) { return std::make_unique<BenchExchange>(parent); }

}  // namespace seqccl::command
