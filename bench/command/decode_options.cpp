// decode_options.cpp - the options of a decoding step.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "command/decode_job.hpp"
#include "command/names.hpp"
#include "command/number_option.hpp"
#include "command/refusal.hpp"

namespace seqccl::command {

void DecodeOptions::add_to(CLI::App& app, bool has_pages) {
  app.add_option("--merge", merge, fmt::format("How partial results meet: {}", fmt::join(merge_names().known, "|")))->capture_default_str();
  app.add_option("--result", result, "everywhere: all heads on every rank|by_heads: a rank's share of the heads")->capture_default_str();
  add_count(app, "--new-tokens", new_tokens, "Tq: the last tokens, which are new", 1, 1 << 20);
  add_count(app, "--run-tokens", run_tokens, "New tokens go round the ranks in runs of so many", 1, max_size);
  if (has_pages)
    add_count(app, "--page-tokens", page_tokens, "The caches lie in shuffled pages of so many tokens (default: in one block)", 1, 1 << 30);
}

std::vector<DecodeMerge> DecodeOptions::merges() const {
  const std::string name = resolve(merge_names(), merge);
  std::vector<DecodeMerge> merges;
  for (const DecodeMerge each : {DecodeMerge::automatic, DecodeMerge::butterfly, DecodeMerge::tree, DecodeMerge::all_to_all})
    if (name == seqccl::name(each) || (name == "all" && each != DecodeMerge::automatic)) merges.push_back(each);
  return merges;
}

DecodeSpec DecodeOptions::spec(const AttentionSpec& sizes, std::int64_t num_tokens) const {
  if (new_tokens >= num_tokens)
    throw Error(ErrorKind::argument,
                fmt::format("--new-tokens: {} is not right, want fewer than the {} tokens in all", new_tokens, num_tokens));
  DecodeSpec spec;
  spec.batch = sizes.batch;
  spec.q_tokens = new_tokens;
  spec.q_heads = sizes.q_heads;
  spec.kv_heads = sizes.kv_heads;
  spec.head_dim = sizes.head_dim;
  spec.v_head_dim = sizes.v_head_dim;
  spec.dtype = sizes.dtype;
  spec.scale = sizes.scale;
  spec.softcap = sizes.softcap;
  spec.result = resolve(result_names(), result) == "by_heads" ? DecodeResult::by_heads : DecodeResult::everywhere;
  return spec;
}

std::string refusal(const DecodeSpec& spec, int num_ranks) {
  return refusal_of([&] { validate(spec, num_ranks); });
}

}  // namespace seqccl::command
