// run_options.cpp - options that `run attention` and `run linear` share.
// SPDX-License-Identifier: Apache-2.0
#include "command/run_options.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "command/number_option.hpp"
#include "command/options.hpp"
#include "seqccl/error.hpp"

namespace seqccl::command {
void RunOptions::add_to(CLI::App& app, bool has_backward, const char* partitions) {
  app.add_option("-i,--input", input, "File of whole tensors (safetensors)")->required();
  app.add_option("-o,--output", output,
                 "File to write the results to (safetensors); replaced as a whole or not at all; written also if --check fails");
  add_count(app, "-p,--ranks", num_ranks, "Number of ranks", 1, max_ranks);
  app.add_option("-x,--transport", transport, transport_help)->capture_default_str();
  app.add_option("--wait", wait, wait_help)->capture_default_str();
  app.add_option("--partition", partition, partitions)->capture_default_str();
  app.add_option("--dtype", dtype, "Convert the inputs: f32|f16|bf16 (default: as in the file)");
  add_parsed(
      app, "--scale",
      [this](const std::string& option, const std::string& text) { scale = parse_number(option, text, -1e30, 1e30, "a number"); },
      "Factor on the scores (default: 1/sqrt(D) for softmax, 1 for linear)", "NUMBER", "");
  add_count(app, "--repeat", repeat, "Timed runs; the median is shown", 1, 1000000);
  add_count(app, "--warmup", warmup, "Runs before the timed ones", 0, 1000000);
  add_count(app, "--threads", num_threads, "Kernel threads per rank (default: cores / ranks)", 1, 4096);
  add_number(app, "--timeout", timeout_s, "Seconds after which a rank that does nothing counts as stalled", 1e-3, 1e9,
             "seconds from 0.001 to 1e9");
  if (has_backward) app.add_flag("--forward-only", forward_only, "No gradients, even if the file has dout");
  app.add_flag("--check{auto}", check, "Compare with the double reference; --check=full: all rows and gradients, however long");
}

void RunOptions::add_nodes_to(CLI::App& app, const char* users) {
  app.add_option("--nodes", nodes, std::string("KxM: K nodes of M ranks (") + users + ")");
}

RunSettings RunOptions::settings() const {
  refuse_launcher();
  const RankTransport ranks_are = parse_transport(transport);
  if (!check.empty() && check != "auto" && check != "full")
    throw Error(ErrorKind::argument, fmt::format("--check: '{}' is not known, want --check or --check=full", check));
  const std::pair<const char*, const std::string*> files[] = {{"--input", &input}, {"--output", &output}, {"--trace", &trace}};
  for (const auto& [option, path] : files)
    for (const auto& [other, other_path] : files)
      if (option != other && !path->empty() && !other_path->empty() &&
          std::filesystem::weakly_canonical(*path) == std::filesystem::weakly_canonical(*other_path))
        throw Error(ErrorKind::argument, fmt::format("{}: '{}' is the file of {} too, want another one", other, *other_path, option));
  RunSettings settings;
  settings.num_ranks = num_ranks;
  settings.repeat = repeat;
  settings.warmup = warmup;
  settings.num_threads = num_threads;
  settings.timeout_s = timeout_s;
  settings.topology = parse_nodes(nodes, settings.num_ranks);
  settings.transport = ranks_are;
  settings.wait = parse_wait(wait);
  settings.trace = !trace.empty();
  return settings;
}

HostTensor in_dtype(HostTensor tensor, const std::string& dtype) {
  if (!tensor.present()) return tensor;
  if (!dtype.empty()) return convert(tensor, parse_dtype(dtype));
  return tensor.dtype == DType::f64 ? convert(tensor, f32) : tensor;
}

}  // namespace seqccl::command
