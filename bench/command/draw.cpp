// draw.cpp - `seqccl draw`: the lanes of all ranks over simulated time, as SVG.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>

#include "command/choices.hpp"
#include "command/command.hpp"
#include "command/linear_options.hpp"
#include "command/options.hpp"
#include "command/planned.hpp"
#include "command/subcommand.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

/// Of all ranks: some 30 MB of SVG, about as much as a browser shows.
constexpr double max_steps = 100000, bytes_per_step = 200;

void require_drawable(double num_steps, int num_ranks) {
  if (num_steps <= max_steps) return;
  throw Error(ErrorKind::argument,
              fmt::format("--ranks: {} ranks take {:.0f} steps, a picture of some {}; want at most {:.0f} steps: fewer ranks show the same "
                          "pattern, and `seqccl explain` has the numbers of many ranks, with --rank R the steps of one",
                          num_ranks, num_steps, human_bytes(num_steps * bytes_per_step), max_steps));
}

/// Before all is planned, which takes long where there is much: the first, middle and last rank tell how much at least.
template <class Spec>
void require_drawable(Schedule (*record)(const Spec&, Rank, const RecordOptions&), const Spec& spec) {
  const int num_ranks = spec.partition.num_ranks();
  std::size_t fewest = SIZE_MAX;
  for (const Rank rank : {0, num_ranks / 2, num_ranks - 1}) fewest = std::min(fewest, record(spec, rank, {}).steps.size());
  require_drawable(static_cast<double>(fewest) * num_ranks, num_ranks);
}

class Draw : public Subcommand {
 protected:
  void add_common(CLI::App& app) {
    plan_.add_to(app);
    app.add_option("-o,--output", output_, "SVG file to write (default: stdout)");
  }

  int show(const Console& console, const Planned& planned) const {
    if (!planned.report.ok()) {
      console.err << planned.method << " is NOT proven:\n" << planned.report.text() << '\n';
      return exit_check_failed;
    }
    if (json() && output_.empty())
      throw Error(ErrorKind::argument, "--json: want --output FILE.svg too, the picture and the numbers cannot both go to stdout");
    std::size_t num_steps = 0;
    for (const Schedule& schedule : planned.schedules) num_steps += schedule.steps.size();
    require_drawable(static_cast<double>(num_steps), static_cast<int>(planned.schedules.size()));
    const std::string picture = seqccl::draw(planned.schedules, planned.simulation);
    if (output_.empty()) {
      console.out << picture;
      return exit_right;
    }
    std::ofstream stream(output_);
    stream << picture;
    stream.close();
    if (!stream) throw Error(ErrorKind::argument, fmt::format("--output: {}: cannot be written: {}", output_, std::strerror(errno)));
    if (json())
      console.out << nlohmann::ordered_json{{"method", planned.method},
                                            {"simulated_s", planned.simulation.seconds},
                                            {"steps", num_steps},
                                            {"file", output_},
                                            {"file_bytes", picture.size()}}
                         .dump(1)
                  << '\n';
    else
      console.out << fmt::format("wrote {}, {}: {}, {} ranks, {} steps, {} simulated\n", output_,
                                 human_bytes(static_cast<double>(picture.size())), planned.schedules.front().name, planned.schedules.size(),
                                 num_steps, human_seconds(planned.simulation.seconds));
    return exit_right;
  }

  PlanOptions plan_;
  std::string output_;
};

class DrawAttention final : public Draw {
 public:
  explicit DrawAttention(CLI::App& parent) {
    CLI::App& app = add_to(parent, "attention", "A softmax attention method",
                           "  seqccl draw attention --ranks 4 --method ring -o ring.svg\n"
                           "  seqccl draw attention --ranks 8 --nodes 2x4 --between 8,2 --method double_ring -o double_ring.svg");
    add_common(app);
    shape_.add_to(app);
    choices_.add_to(app, "");
  }

  int run(const Console& console) override {
    const std::vector<std::string> names = choices_.names();
    if (names.size() != 1 || names.front() == "automatic")
      throw Error(ErrorKind::argument, fmt::format("--method: '{}' is not right, want one method to draw", choices_.method));
    const Cluster cluster = plan_.cluster.cluster(plan_.num_ranks);
    choices_.require_used(parse_dtype(shape_.dtype), plan_.backward, "--backward");
    const AttentionSpec spec = choices_.chosen(shape_.spec(plan_.num_tokens, plan_.num_ranks), names.front(), cluster.topology);
    if (const std::string why = refusal(spec); !why.empty()) throw Error(ErrorKind::argument, why);
    const MethodEntry& entry = entry_of(spec.method);
    require_drawable(plan_.backward ? entry.backward : entry.forward, spec);
    return show(console, plan_attention(spec, names.front(), plan_.backward, cluster));
  }

 private:
  AttentionShape shape_;
  ChoiceOptions choices_{"ring"};
};

class DrawLinear final : public Draw {
 public:
  explicit DrawLinear(CLI::App& parent) {
    CLI::App& app = add_to(parent, "linear", "A scan of states",
                           "  seqccl draw linear --ranks 4 --scan chain -o chain.svg\n"
                           "  seqccl draw linear --ranks 8 --scan zeco --kind delta --column-blocks 8 -o zeco.svg");
    add_common(app);
    shape_.add_to(app);
    linear_.add_to(app, "");
  }

  int run(const Console& console) override {
    const std::vector<Scan> scans = linear_.scans();
    if (scans.size() != 1) throw Error(ErrorKind::argument, fmt::format("--scan: '{}' is not right, want one scan to draw", linear_.scan));
    const Cluster cluster = plan_.cluster.cluster(plan_.num_ranks);
    const LinearSpec spec = linear_.chosen(shape_.spec(plan_.num_tokens, plan_.num_ranks), scans.front(), cluster.topology);
    if (const std::string why = refusal(spec); !why.empty()) throw Error(ErrorKind::argument, why);
    require_drawable(plan_.backward ? collectives::linear_backward : collectives::linear_forward, spec);
    return show(console, plan_linear(spec, plan_.backward, cluster));
  }

 private:
  LinearShape shape_;
  LinearOptions linear_{"all_gather"};
};

}  // namespace

std::unique_ptr<Subcommand> make_draw_attention(CLI::App& parent) { return std::make_unique<DrawAttention>(parent); }
std::unique_ptr<Subcommand> make_draw_linear(CLI::App& parent) { return std::make_unique<DrawLinear>(parent); }

}  // namespace seqccl::command
