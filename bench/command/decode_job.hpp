// decode_job.hpp - one step of decoding over a sharded cache, from whole tensors, computed by ranks, and its reference.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "command/attention_job.hpp"
#include "command/check.hpp"
#include "seqccl/decode.hpp"

namespace seqccl::command {

/// --merge, --result, --new-tokens, --run-tokens, --page-tokens.
struct DecodeOptions {
  std::string merge{};  // its default
  std::string result = "everywhere";
  std::int64_t new_tokens = 1, run_tokens = 1, page_tokens = 0;

  /// `has_pages`: plans are the same for blocks and pages.
  void add_to(CLI::App& app, bool has_pages = true);
  /// The forms that --merge means: one, or every one for "all". @throws Error(argument)
  [[nodiscard]] std::vector<DecodeMerge> merges() const;
  /// A spec of these sizes. @throws Error(argument) if there are not more tokens than new ones
  [[nodiscard]] DecodeSpec spec(const AttentionSpec& sizes, std::int64_t num_tokens) const;
};

/// One step: the last Tq tokens of a sequence are new, those before them lie in the ranks' caches.
struct DecodeStep {
  DecodeSpec spec;
  Partition cache;               // of the tokens before the new ones
  std::vector<Rank> owners;      // (B, Tq) of the new ones
  std::int64_t page_tokens = 0;  // 0: a cache is one block

  DecodeStep(const DecodeSpec& decode, const DecodeOptions& options, const std::string& partition, std::int64_t num_tokens, int num_ranks);
  [[nodiscard]] std::int64_t num_tokens() const noexcept { return cache.num_tokens() + spec.q_tokens; }
  /// Tokens of one batch row that `rank` has when the step is done.
  [[nodiscard]] std::int64_t tokens_after(Rank rank) const;
  /// Of the problem itself: 2 pairs Hq (Dk + Dv).
  [[nodiscard]] double flops() const;
};

struct DecodeRun {
  DecodeMerge merge = DecodeMerge::automatic;  // the one that ran
  std::vector<HostTensor> out, lse;            // (B, Tq, Hq, Dv), (B, Hq, Tq): one per rank, or by_heads one of all ranks
  Measurement step;
  std::vector<TraceStep> trace;
};
/// `tensors`: q (B, Tq, Hq, Dk), k and v whole. Every timed run is the same step: the caches' lengths are put back. @throws Error of any
/// kind
[[nodiscard]] DecodeRun run_decode(const AttentionTensors& tensors, const DecodeStep& step, const RunSettings& settings);

/// The new tokens' rows of causal attention, in double.
class DecodeReference {
 public:
  DecodeReference(const AttentionTensors& tensors, const DecodeStep& step);
  /// Of the rank that is farthest off.
  [[nodiscard]] CheckOutcome judge(const DecodeRun& run) const;

 private:
  DType dtype_;
  HostTensor out_, lse_, plain_out_, plain_lse_;
};

/// Why the library refuses this problem, beginning with the option to change; empty if it does not.
[[nodiscard]] std::string refusal(const DecodeSpec& spec, int num_ranks);

}  // namespace seqccl::command
