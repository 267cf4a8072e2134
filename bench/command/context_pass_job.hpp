// context_pass_job.hpp - context_pass of a random sequence with random selections, computed by ranks, and its reference.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <vector>

#include "command/attention_job.hpp"
#include "command/check.hpp"
#include "seqccl/context_pass.hpp"

namespace seqccl::command {

/// --anchor, --passed.
struct ContextPassOptions {
  std::int64_t anchor = -1, passed = -1;  // -1: an eighth of a rank's tokens

  void add_to(CLI::App& app);
  /// A spec of these sizes over contiguous runs of tokens. @throws Error(argument) if anchor or selection are longer than their rank's run
  [[nodiscard]] ContextPassSpec spec(const AttentionSpec& sizes, const Partition& partition) const;
};

/// The rows, ascending, of its own keys that each rank passes on.
using Selections = std::vector<std::vector<std::int64_t>>;
[[nodiscard]] Selections random_selections(const ContextPassSpec& spec, std::uint64_t seed);

struct ContextPassRun {
  HostTensor out, lse;  // (B, N, Hq, Dv), (B, Hq, N)
  Measurement forward;
};
/// `tensors`: q, k, v of the whole sequence; the anchor is its beginning. @throws Error of any kind
[[nodiscard]] ContextPassRun run_context_pass(const AttentionTensors& tensors, const ContextPassSpec& spec, const Partition& partition,
                                              const Selections& selections, const RunSettings& settings);

/// Softmax attention, in double, of every rank's queries over anchor, earlier selections and own keys.
[[nodiscard]] CheckOutcome judge_context_pass(const AttentionTensors& tensors, const ContextPassSpec& spec, const Partition& partition,
                                              const Selections& selections, const ContextPassRun& run);

/// Floating point operations of the problem itself: 2 pairs Hq (Dk + Dv).
[[nodiscard]] double context_pass_flops(const ContextPassSpec& spec);

/// Contiguous runs only: earlier ranks hold earlier tokens. @throws Error(argument)
[[nodiscard]] Partition parse_runs(const std::string& text, std::int64_t num_tokens, int num_ranks);

/// Why the library refuses this problem, beginning with the option to change; empty if it does not.
[[nodiscard]] std::string refusal(const ContextPassSpec& spec);

}  // namespace seqccl::command
