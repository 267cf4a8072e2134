// calibrate.cpp - `seqccl calibrate`: measures what the simulator wants to know of this machine, and writes it as a cluster description.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <ostream>
#include <span>
#include <vector>

#include "command/attention_job.hpp"
#include "command/cluster_file.hpp"
#include "command/command.hpp"
#include "command/exchange_job.hpp"
#include "command/number_option.hpp"
#include "command/output_file.hpp"
#include "command/report.hpp"
#include "command/subcommand.hpp"
#include "command/transport_choice.hpp"
#include "seqccl/execute.hpp"
#include "seqccl/explain.hpp"
#include "seqccl/recorder.hpp"

namespace seqccl::command {
namespace {

struct LinkPoint {
  double num_bytes, seconds;
};

/// latency + bytes / rate with the least sum of squared relative errors: a line through points whose times span six decades.
LinkClass fit_link(std::span<const LinkPoint> points) {
  double s = 0, sx = 0, sxx = 0, sy = 0, sxy = 0;
  for (const LinkPoint& point : points) {
    const double weight = 1 / (point.seconds * point.seconds);
    s += weight, sx += weight * point.num_bytes, sxx += weight * point.num_bytes * point.num_bytes;
    sy += weight * point.seconds, sxy += weight * point.num_bytes * point.seconds;
  }
  const double slope = (s * sxy - sx * sy) / (s * sxx - sx * sx);
  if (!(slope > 0))
    throw Error(ErrorKind::internal, "calibrate: messages of more bytes took no longer: the machine is too busy to be measured, try again");
  return {std::max(0.0, (sy - slope * sx) / s), 1 / slope};
}

double worst_error(std::span<const LinkPoint> points, const LinkClass& link) {
  double worst = 0;
  for (const LinkPoint& point : points)
    worst = std::max(worst, std::abs((link.latency_s + point.num_bytes / link.bytes_per_s) / point.seconds - 1));
  return worst;
}

/// Median seconds of a schedule that every rank runs by itself, all at once.
double time_alone(const RunSettings& settings, const std::function<void(Recorder&)>& record) {
  const Measurements times(settings);
  Lockstep lockstep(settings.num_ranks);
  on_ranks(settings, [&](Communicator& comm) {
    Recorder plan{"calibrate", comm.rank(), comm.size()};
    record(plan);
    const Schedule schedule = std::move(plan).finish("calibrate");
    const Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
    const RunOptions options{.timeout = comm.timeout(), .num_threads = comm.num_threads()};
    measure(lockstep, comm, settings, times, [&] { run_host(schedule, memory, comm.transport(), options); });
    lockstep.meet(comm);
  });
  return times.combined().median_s();
}

class Calibrate final : public Subcommand {
 public:
  explicit Calibrate(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "calibrate", "Measure this machine and describe it for explain, draw and bench: --cluster FILE.json",
               "  seqccl calibrate --ranks 2 --transport shm --output node.json\n"
               "  seqccl calibrate --ranks 4 --transport shm --between ucx:tcp --output cluster.json\n"
               "  seqccl explain attention --ranks 16 --nodes 4x4 --cluster cluster.json\n"
               "  seqccl bench attention --ranks 2 --cluster node.json     # predicted beside measured\n\n"
               "All ranks work at once. Links: every rank sends to the next, 8 bytes to 4 MiB; the line latency + bytes / rate\n"
               "with the least relative error. Kernels: attention of every rank to its own tokens, forward and backward.\n"
               "The file: seqccl_cluster (1), inside and between {latency_us, gb_per_s}, gflop_per_s, memory_gb_per_s,\n"
               "step_overhead_us; measured says how, and is not read. GB are 1e9 bytes.");
    add_count(app, "-p,--ranks", settings_.num_ranks, "Ranks that work at once", 2, max_ranks);
    app.add_option("-x,--transport", inside_, "The path between ranks of one node: threads|shm|ucx|ucx:NAME|auto")->capture_default_str();
    app.add_option("--between", between_, "The path that stands for links between nodes; without it they are left out");
    app.add_option("-o,--output", output_, "The file to write; without it the description is printed");
    add_count(app, "--threads", settings_.num_threads, "Kernel threads per rank (default: cores / ranks)", 1, 4096);
    add_count(app, "--repeat", settings_.repeat, "Timed runs of everything; medians count", 1, 1000000);
  }

  int run(const Console& console) override {
    refuse_launcher();
    if (!output_.empty() && !is_cluster_file(output_))
      throw Error(ErrorKind::argument, fmt::format("--output: '{}' is not right, want a name that ends with .json", output_));
    const TransportChoice inside = one_path("--transport", inside_);
    std::optional<TransportChoice> between;
    if (!between_.empty()) between = one_path("--between", between_);
    std::optional<OutputFile> output;  // before minutes of work
    if (!output_.empty()) output.emplace("--output", output_);

    ClusterFile file;
    Json links = Json::array();
    console.progress("links inside a node ...");
    file.cluster.inside = measure_link("inside", inside, links);
    if (between) {
      console.progress("links between nodes ...");
      file.cluster.between = measure_link("between", *between, links);
      file.has_between = true;
    }
    use(inside);
    console.progress("steps and copies ...");
    file.cluster.step_overhead_s = step_overhead();
    file.cluster.memory_bytes_per_s = memory_rate();
    console.progress("kernels ...");
    Json kernels;
    file.cluster.flops_per_s = kernel_rate(kernels);
    console.progress("");

    Json all = to_json(file);
    all["measured"] = {{"ranks", settings_.num_ranks}, {"links", links}, {"kernels", kernels}};
    if (output) {
      output->finish(all.dump(1) + '\n');
      if (!json()) console.out << summary(file, links);
    }
    if (!output || json()) console.out << all.dump(1) << '\n';
    return exit_right;
  }

 private:
  static TransportChoice one_path(const std::string& option, const std::string& text) {
    const std::vector<TransportChoice> choices = parse_transports(text);
    if (choices.size() != 1) throw Error(ErrorKind::argument, fmt::format("{}: '{}' has {} paths, want one", option, text, choices.size()));
    require_there(choices);
    return choices.front();
  }
  void use(const TransportChoice& choice) {
    settings_.transport = choice.transport;
    settings_.ucx_lanes = choice.ucx_lanes;
  }

  LinkClass measure_link(const char* kind, const TransportChoice& choice, Json& links) {
    use(choice);
    std::vector<LinkPoint> points;
    Json all = Json::array();
    std::string path;
    for (std::int64_t size = 8; size <= std::int64_t{4} << 20; size *= 8) {
      const ExchangeRun run = run_exchange(ExchangePlan::of(Pattern::ring, settings_.num_ranks, size), settings_);
      if (run.num_wrong > 0)
        throw Error(ErrorKind::internal, fmt::format("calibrate: {} numbers came wrong over {}", run.num_wrong, choice.text()));
      points.push_back({static_cast<double>(size), Measurement{.seconds = run.seconds}.median_s()});
      all.push_back({{"bytes", size}, {"median_s", points.back().seconds}});
      path = run.whole.path;
    }
    const LinkClass link = fit_link(points);
    links.push_back(
        {{"class", kind}, {"transport", choice.text()}, {"path", path}, {"worst_error", worst_error(points, link)}, {"points", all}});
    return link;
  }

  [[nodiscard]] double step_overhead() const {
    constexpr int num_steps = 1000;
    const double seconds = time_alone(settings_, [](Recorder& plan) {
      const Block block = plan.scratch(f32, {1, 1, 1, 1});
      for (int i = 0; i < num_steps; ++i) plan.compute(Zero{Out(block)});
    });
    return seconds / num_steps;
  }
  [[nodiscard]] double memory_rate() const {
    constexpr std::int64_t count = std::int64_t{4} << 20;  // numbers: beyond a core's cache
    const double seconds = time_alone(settings_, [](Recorder& plan) {
      const Block from = plan.scratch(f32, {1, 1, 1, count}), to = plan.scratch(f32, {1, 1, 1, count});
      plan.compute(Zero{Out(from)});
      plan.compute(Copy{In(from), Out(to)});
    });
    return 4.0 * 3 * static_cast<double>(count) / seconds;  // zeros written; read and written
  }

  /// Every rank has a document of its own, so that no key is sent: nothing but kernels, with the library's threads.
  [[nodiscard]] double kernel_rate(Json& kernels) const {
    constexpr std::int64_t tokens = 1024;
    AttentionSpec spec;
    spec.q_heads = spec.kv_heads = 4;
    spec.head_dim = spec.v_head_dim = 128;
    spec.dtype = f32;
    spec.method = Method::kv_all_gather;
    spec.partition = Partition::contiguous(tokens * settings_.num_ranks, settings_.num_ranks);
    spec.mask = Mask::documents(std::vector<std::int64_t>(static_cast<std::size_t>(settings_.num_ranks), tokens));
    const AttentionResult result = run_attention(random_attention(spec, true, 1), spec, settings_, true);
    if (result.forward.moved_bytes + result.backward.moved_bytes != 0)
      throw Error(ErrorKind::internal, "calibrate: documents of one rank each were sent to others");
    const auto rate = [&](const Measurement& m) { return m.flops / settings_.num_ranks / m.median_s(); };
    kernels = {{"forward_gflop_per_s", rate(result.forward) / 1e9}, {"backward_gflop_per_s", rate(result.backward) / 1e9}};
    return (result.forward.flops + result.backward.flops) / settings_.num_ranks / (result.forward.median_s() + result.backward.median_s());
  }

  [[nodiscard]] std::string summary(const ClusterFile& file, const Json& links) const {
    std::string text;
    for (const Json& link : links) {
      const LinkClass& fitted = link["class"] == "inside" ? file.cluster.inside : file.cluster.between;
      text += fmt::format("{:<8} {} + bytes / {} GB/s  ({}, by {}; at most {:.0f}% off)\n", link["class"].get<std::string>(),
                          human_seconds(fitted.latency_s), short_number(fitted.bytes_per_s / 1e9), link["transport"].get<std::string>(),
                          link["path"].get<std::string>(), 100 * link["worst_error"].get<double>());
    }
    text +=
        fmt::format("kernels  {} GFLOP/s a rank\nmemory   {} GB/s a rank\nsteps    {} each\n", short_number(file.cluster.flops_per_s / 1e9),
                    short_number(file.cluster.memory_bytes_per_s / 1e9), human_seconds(file.cluster.step_overhead_s));
    return text + fmt::format("written to {}, for --cluster\n", output_);
  }

  RunSettings settings_ = [] {
    RunSettings settings;
    settings.num_ranks = 2;
    settings.warmup = 2;
    settings.repeat = 15;
    return settings;
  }();
  std::string inside_ = "auto", between_, output_;
};

}  // namespace

std::unique_ptr<Subcommand> make_calibrate(CLI::App& parent) { return std::make_unique<Calibrate>(parent); }

}  // namespace seqccl::command
