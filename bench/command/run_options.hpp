// run_options.hpp - options that `run attention` and `run linear` share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "command/check.hpp"
#include "command/measure.hpp"
#include "command/options.hpp"
#include "command/safetensors.hpp"

namespace seqccl::command {

struct RunOptions {
  std::string input, output, transport = default_transport(), partition = "contiguous", dtype, nodes, check, trace, wait = "auto";
  std::optional<double> scale;
  int num_ranks = 4, repeat = 1, warmup = 0, num_threads = 0;
  double timeout_s = 600;
  bool forward_only = false;

  /// `partitions`: those that the operation takes.
  void add_to(CLI::App& app, bool has_backward = true, const char* partitions = "contiguous|zigzag|striped|uneven:T0,T1,...");
  /// --nodes, of operations that look at them: `users` says which of their ways do.
  void add_nodes_to(CLI::App& app, const char* users);
  /// Checks what needs no tensors: launcher, ranks, transport, --check. @throws Error(argument)
  [[nodiscard]] RunSettings settings() const;
  [[nodiscard]] bool wants_check() const noexcept { return !check.empty(); }
  [[nodiscard]] CheckLevel check_level() const noexcept { return check == "full" ? CheckLevel::full : CheckLevel::automatic; }
};

/// The tensor in the type that collectives take: converted to `dtype` if one is named, f64 to f32 otherwise.
[[nodiscard]] HostTensor in_dtype(HostTensor tensor, const std::string& dtype);

}  // namespace seqccl::command
