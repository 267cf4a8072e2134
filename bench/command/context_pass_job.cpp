// context_pass_job.cpp - shards a sequence, selects, passes, and judges every rank against attention over the keys that it saw.
// SPDX-License-Identifier: Apache-2.0
#include "command/context_pass_job.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "command/number_option.hpp"
#include "command/options.hpp"
#include "command/refusal.hpp"
#include "seqccl/kernels.hpp"

namespace seqccl::command {
namespace {

/// First token of a rank's run.
std::int64_t first_of(const ContextPassSpec& spec, Rank rank) {
  return std::accumulate(spec.tokens.begin(), spec.tokens.begin() + rank, std::int64_t{0});
}

/// (B, count, H, D): a copy of tokens [first, first + count).
HostTensor copy_of(const HostTensor& whole, std::int64_t first, std::int64_t count) {
  HostTensor part(whole.dtype, {whole.extent(0), count, whole.extent(2), whole.extent(3)});
  if (count > 0) Partition::contiguous(count, 1).shard(tokens_of(whole.view(), first, count), 0, part.view());
  return part;
}

/// (B, S, H, D): what a rank passes on.
HostTensor selected(const HostTensor& own, const std::vector<std::int64_t>& rows) {
  HostTensor passed(own.dtype, {own.extent(0), static_cast<std::int64_t>(rows.size()), own.extent(2), own.extent(3)});
  if (!rows.empty()) select_rows(own.view(), rows, passed.view());
  return passed;
}

/// Tokens of the sequence that `rank` sees before its own: anchor and earlier selections.
std::vector<std::int64_t> tokens_before(const ContextPassSpec& spec, const Selections& selections, Rank rank) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(spec.anchor_on(rank)));
  std::iota(tokens.begin(), tokens.end(), std::int64_t{0});
  for (Rank earlier = 0; earlier < rank; ++earlier)
    for (const std::int64_t row : selections[static_cast<std::size_t>(earlier)]) tokens.push_back(first_of(spec, earlier) + row);
  return tokens;
}

}  // namespace

void ContextPassOptions::add_to(CLI::App& app) {
  add_count(app, "--anchor", anchor, "A: first tokens of the sequence that every later rank has too (default: an eighth of a run)", 0,
            max_size);
  add_count(app, "--passed", passed, "S: keys that a rank selects for later ranks (default: an eighth of its run)", 0, max_size);
}

ContextPassSpec ContextPassOptions::spec(const AttentionSpec& sizes, const Partition& partition) const {
  ContextPassSpec spec;
  spec.batch = sizes.batch;
  spec.q_heads = sizes.q_heads;
  spec.kv_heads = sizes.kv_heads;
  spec.head_dim = sizes.head_dim;
  spec.v_head_dim = sizes.v_head_dim;
  spec.dtype = sizes.dtype;
  for (Rank rank = 0; rank < partition.num_ranks(); ++rank) {
    const std::int64_t tokens = partition.tokens_on(rank), selection = passed < 0 ? tokens / 8 : passed;
    if (selection > tokens)
      throw Error(ErrorKind::argument,
                  fmt::format("--passed: {} is not right, want at most the {} tokens of rank {}", passed, tokens, rank));
    spec.tokens.push_back(tokens);
    spec.passed_tokens.push_back(selection);
  }
  spec.anchor_tokens = anchor < 0 ? spec.tokens[0] / 8 : anchor;
  if (spec.anchor_tokens > spec.tokens[0])
    throw Error(ErrorKind::argument,
                fmt::format("--anchor: {} is not right, want at most the {} tokens of rank 0", anchor, spec.tokens[0]));
  return spec;
}

Selections random_selections(const ContextPassSpec& spec, std::uint64_t seed) {
  Selections selections;
  std::mt19937_64 generator(seed);
  for (Rank rank = 0; rank < spec.num_ranks(); ++rank) {
    std::vector<std::int64_t> rows(static_cast<std::size_t>(spec.tokens_on(rank)));
    std::iota(rows.begin(), rows.end(), std::int64_t{0});
    std::shuffle(rows.begin(), rows.end(), generator);
    rows.resize(static_cast<std::size_t>(spec.passed_by(rank)));
    std::sort(rows.begin(), rows.end());
    selections.push_back(std::move(rows));
  }
  return selections;
}

ContextPassRun run_context_pass(const AttentionTensors& tensors, const ContextPassSpec& spec, const Partition& partition,
                                const Selections& selections, const RunSettings& settings) {
  const std::int64_t N = partition.num_tokens();
  ContextPassRun result;
  result.out = HostTensor(spec.dtype, {spec.batch, N, spec.q_heads, spec.dim_v()}, Sharing::shared);
  result.lse = HostTensor(f32, {spec.batch, spec.q_heads, N}, Sharing::shared);
  const Measurements times(settings);
  Lockstep lockstep(settings.num_ranks);
  on_ranks(settings, [&](Communicator& comm) {
    const Rank rank = comm.rank();
    const std::int64_t first = first_of(spec, rank), tokens = spec.tokens_on(rank), anchor = spec.anchor_on(rank);
    const HostTensor q = copy_of(tensors.q, first, tokens), k = copy_of(tensors.k, first, tokens), v = copy_of(tensors.v, first, tokens);
    const HostTensor k_anchor = copy_of(tensors.k, 0, anchor), v_anchor = copy_of(tensors.v, 0, anchor);
    const auto& rows = selections[static_cast<std::size_t>(rank)];
    const HostTensor k_passed = selected(k, rows), v_passed = selected(v, rows);
    HostTensor out(spec.dtype, {spec.batch, tokens, spec.q_heads, spec.dim_v()}), lse(f32, {spec.batch, spec.q_heads, tokens});
    ContextPass pass(comm, spec);
    times.plan(rank, pass.schedule());
    measure(lockstep, comm, settings, times, [&] {
      pass.forward(q.view(), k.view(), v.view(), k_anchor.view(), v_anchor.view(), k_passed.view(), v_passed.view(), out.view(),
                   lse.view());
    });
    partition.unshard(out.view(), rank, result.out.view());
    partition.unshard(swap_axes(lse.view(), 1, 2), rank, swap_axes(result.lse.view(), 1, 2));
    lockstep.meet(comm);
  });
  result.forward = times.combined();
  return result;
}

CheckOutcome judge_context_pass(const AttentionTensors& tensors, const ContextPassSpec& spec, const Partition& partition,
                                const Selections& selections, const ContextPassRun& run) {
  const std::int64_t N = partition.num_tokens();
  HostTensor out(DType::f64, run.out.shape()), lse(DType::f64, run.lse.shape()), plain_out(spec.dtype, run.out.shape()),
      plain_lse(f32, run.lse.shape());
  for (Rank rank = 0; rank < spec.num_ranks(); ++rank) {
    const std::int64_t first = first_of(spec, rank), own = spec.tokens_on(rank);
    if (own == 0) continue;
    std::vector<std::int64_t> rows = tokens_before(spec, selections, rank);
    const auto before = static_cast<std::int64_t>(rows.size());
    for (std::int64_t t = 0; t < own; ++t) rows.push_back(first + t);
    const HostTensor q = copy_of(tensors.q, first, own), k = selected(tensors.k, rows), v = selected(tensors.v, rows);
    const BandSlice seen[] = {{.q_count = own, .k_count = before}, {.q_count = own, .k_first = before, .k_count = own, .high = before}};
    const reference::Attention problem{q.view(),
                                       k.view(),
                                       v.view(),
                                       {},
                                       std::span(seen).subspan(before == 0 ? 1 : 0),
                                       static_cast<double>(spec.scale_or_default()),
                                       static_cast<double>(spec.softcap)};
    const auto judge = [&](HostTensor& whole_out, HostTensor& whole_lse, auto attend) {
      HostTensor part_out(whole_out.dtype, {spec.batch, own, spec.q_heads, spec.dim_v()}),
          part_lse(whole_lse.dtype, {spec.batch, spec.q_heads, own});
      attend(part_out.view(), part_lse.view());
      partition.unshard(part_out.view(), rank, whole_out.view());
      partition.unshard(swap_axes(part_lse.view(), 1, 2), rank, swap_axes(whole_lse.view(), 1, 2));
    };
    judge(out, lse, [&](TensorView to_out, TensorView to_lse) { reference::attend(problem, to_out, to_lse); });
    judge(plain_out, plain_lse, [&](TensorView to_out, TensorView to_lse) { reference::attend_plain(problem, to_out, to_lse); });
  }
  CheckOutcome outcome;
  outcome.coverage = fmt::format("all {} query rows", N);
  outcome.tensors.push_back(compare("out", run.out, out, plain_out, {spec.dtype, false}));
  outcome.tensors.push_back(compare("lse", run.lse, lse, plain_lse, {f32, false}));
  return outcome;
}

double context_pass_flops(const ContextPassSpec& spec) {
  double pairs = 0, passed = 0;
  for (Rank rank = 0; rank < spec.num_ranks(); ++rank) {
    const auto own = static_cast<double>(spec.tokens_on(rank));
    pairs += own * (static_cast<double>(spec.anchor_on(rank)) + passed + (own + 1) / 2);
    passed += static_cast<double>(spec.passed_by(rank));
  }
  return 2 * pairs * static_cast<double>(spec.batch * spec.q_heads) * static_cast<double>(spec.head_dim + spec.dim_v());
}

Partition parse_runs(const std::string& text, std::int64_t num_tokens, int num_ranks) {
  const Partition partition = parse_partition(text, num_tokens, num_ranks);
  if (text.rfind("uneven:", 0) != 0 && partition != Partition::contiguous(num_tokens, num_ranks))
    throw Error(ErrorKind::argument,
                fmt::format("--partition: '{}' is not right, want contiguous or uneven:T0,T1,...: earlier ranks pass to later ones", text));
  return partition;
}

std::string refusal(const ContextPassSpec& spec) {
  return refusal_of([&] { validate(spec, spec.num_ranks()); });
}

}  // namespace seqccl::command
