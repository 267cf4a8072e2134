// decode_job.cpp - shards a cache over ranks, as one block or in pages, runs a step and joins the results.
// SPDX-License-Identifier: Apache-2.0
#include "command/decode_job.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "command/options.hpp"
#include "seqccl/kernels.hpp"

namespace seqccl::command {
namespace {

/// A rank's cache: k, v (B, capacity, H, D), or (pages, page tokens, H, D) in shuffled order.
struct Cache {
  HostTensor k, v;
  std::vector<std::int32_t> page_table;  // (B, pages of a row)
};

/// (B, tokens, H, D) laid out in pages; page p of the table is where page p of the rows went.
HostTensor in_pages(const HostTensor& rows, std::int64_t page_tokens, const std::vector<std::int32_t>& page_table) {
  const std::int64_t batch = rows.extent(0), num_tokens = rows.extent(1), row_pages = static_cast<std::int64_t>(page_table.size()) / batch;
  HostTensor pages(rows.dtype, {batch * row_pages, page_tokens, rows.extent(2), rows.extent(3)});
  const std::size_t token_bytes = static_cast<std::size_t>(rows.extent(2) * rows.extent(3)) * size_bytes(rows.dtype);
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 0; t < num_tokens; ++t) {
      const std::int64_t page = page_table[static_cast<std::size_t>(b * row_pages + t / page_tokens)];
      std::memcpy(pages.bytes.data() + static_cast<std::size_t>(page * page_tokens + t % page_tokens) * token_bytes,
                  rows.bytes.data() + static_cast<std::size_t>(b * num_tokens + t) * token_bytes, token_bytes);
    }
  return pages;
}

Cache cache_of(const AttentionTensors& tensors, const DecodeStep& step, Rank rank) {
  const std::int64_t batch = step.spec.batch, tokens = step.cache.tokens_on(rank), capacity = step.tokens_after(rank);
  const auto shard = [&](const HostTensor& whole) {
    HostTensor rows(whole.dtype, {batch, capacity, whole.extent(2), whole.extent(3)});
    step.cache.shard(tokens_of(whole.view(), 0, step.cache.num_tokens()), rank, tokens_of(rows.view(), 0, tokens));
    return rows;
  };
  Cache cache{shard(tensors.k), shard(tensors.v), {}};
  if (step.page_tokens == 0) return cache;
  const std::int64_t row_pages = std::max<std::int64_t>(1, (capacity + step.page_tokens - 1) / step.page_tokens);
  cache.page_table.resize(static_cast<std::size_t>(batch * row_pages));
  std::iota(cache.page_table.begin(), cache.page_table.end(), 0);
  std::shuffle(cache.page_table.begin(), cache.page_table.end(), std::mt19937_64(static_cast<std::uint64_t>(rank) + 1));
  cache.k = in_pages(cache.k, step.page_tokens, cache.page_table);
  cache.v = in_pages(cache.v, step.page_tokens, cache.page_table);
  return cache;
}

/// Copies (..., count, inner) into the middle of (..., heads, inner), `outer` times.
void put_heads(const HostTensor& part, HostTensor& whole, std::int64_t outer, std::int64_t first, int heads_axis) {
  const std::size_t all = whole.bytes.size() / static_cast<std::size_t>(outer), some = part.bytes.size() / static_cast<std::size_t>(outer);
  const std::size_t at = all / static_cast<std::size_t>(whole.extent(heads_axis)) * static_cast<std::size_t>(first);
  for (std::size_t i = 0; i < static_cast<std::size_t>(outer); ++i)
    if (some != 0) std::memcpy(whole.bytes.data() + i * all + at, part.bytes.data() + i * some, some);
}

}  // namespace

DecodeStep::DecodeStep(const DecodeSpec& decode, const DecodeOptions& options, const std::string& partition, std::int64_t num_tokens,
                       int num_ranks)
    : spec(decode),
      cache(parse_partition(partition, num_tokens - decode.q_tokens, num_ranks)),
      owners(decode_owners(std::vector<std::int64_t>(static_cast<std::size_t>(decode.batch), num_tokens - decode.q_tokens), decode.q_tokens,
                           num_ranks, options.run_tokens)),
      page_tokens(options.page_tokens) {}

std::int64_t DecodeStep::tokens_after(Rank rank) const {
  return cache.tokens_on(rank) + std::count(owners.begin(), owners.begin() + spec.q_tokens, rank);  // the same for every batch row
}

double DecodeStep::flops() const {
  const auto new_tokens = static_cast<double>(spec.q_tokens), old_tokens = static_cast<double>(cache.num_tokens());
  const double pairs = static_cast<double>(spec.batch) * new_tokens * (old_tokens + (new_tokens + 1) / 2);
  return 2 * pairs * static_cast<double>(spec.q_heads) * static_cast<double>(spec.head_dim + spec.dim_v());
}

DecodeRun run_decode(const AttentionTensors& tensors, const DecodeStep& step, const RunSettings& settings) {
  const DecodeSpec& spec = step.spec;
  const auto P = static_cast<std::size_t>(settings.num_ranks);
  const bool by_heads = spec.result == DecodeResult::by_heads;
  const std::int64_t old_tokens = step.cache.num_tokens();
  const ConstTensorView k_new = tokens_of(tensors.k.view(), old_tokens, spec.q_tokens),
                        v_new = tokens_of(tensors.v.view(), old_tokens, spec.q_tokens);
  DecodeRun result;
  for (std::size_t i = 0; i < (by_heads ? 1 : P); ++i) {
    result.out.emplace_back(spec.dtype, std::vector{spec.batch, spec.q_tokens, spec.q_heads, spec.dim_v()}, Sharing::shared);
    result.lse.emplace_back(f32, std::vector{spec.batch, spec.q_heads, spec.q_tokens}, Sharing::shared);
  }
  const Measurements times(settings);
  const SharedArray<DecodeMerge> merge(1);
  TraceBoard traces(settings);
  Lockstep lockstep(settings.num_ranks);
  on_ranks(settings, [&](Communicator& comm) {
    const Rank rank = comm.rank();
    Cache cache = cache_of(tensors, step, rank);
    std::vector<std::int64_t> lengths(static_cast<std::size_t>(spec.batch));
    const DecodeCache shard{cache.k.view(), cache.v.view(), lengths, cache.page_table};
    Decode decode(comm, spec);
    const Rows heads = decode.heads();
    HostTensor out(spec.dtype, {spec.batch, spec.q_tokens, heads.count, spec.dim_v()}), lse(f32, {spec.batch, heads.count, spec.q_tokens});
    std::vector<TraceEvent> events;
    if (settings.trace) decode.set_trace(&events);
    measure(lockstep, comm, settings, times, [&] {
      std::fill(lengths.begin(), lengths.end(), step.cache.tokens_on(rank));  // the same step again
      decode.append(tensors.q.view(), k_new, v_new, step.owners, shard, out.view(), lse.view());
    });
    times.plan(rank, decode.schedule());
    if (settings.trace) traces.add(decode.schedule(), events, times.runs(rank).back().begin);
    if (rank == 0) merge[0] = decode.spec().merge;
    const std::size_t at = by_heads ? 0 : static_cast<std::size_t>(rank);
    put_heads(out, result.out[at], spec.batch * spec.q_tokens, heads.first, 2);
    put_heads(lse, result.lse[at], spec.batch, heads.first, 1);
    lockstep.meet(comm);
  });

  result.merge = merge[0];
  result.step = times.combined();
  result.trace = traces.steps();
  return result;
}

DecodeReference::DecodeReference(const AttentionTensors& tensors, const DecodeStep& step) : dtype_(step.spec.dtype) {
  const DecodeSpec& spec = step.spec;
  const BandSlice seen{.q_count = spec.q_tokens, .k_count = step.num_tokens(), .high = step.cache.num_tokens()};
  const reference::Attention problem{tensors.q.view(),
                                     tensors.k.view(),
                                     tensors.v.view(),
                                     {},
                                     std::span(&seen, 1),
                                     static_cast<double>(spec.scale_or_default()),
                                     static_cast<double>(spec.softcap)};
  out_ = HostTensor(DType::f64, {spec.batch, spec.q_tokens, spec.q_heads, spec.dim_v()});
  lse_ = HostTensor(DType::f64, {spec.batch, spec.q_heads, spec.q_tokens});
  plain_out_ = HostTensor(spec.dtype, out_.shape());
  plain_lse_ = HostTensor(f32, lse_.shape());
  reference::attend(problem, out_.view(), lse_.view());
  reference::attend_plain(problem, plain_out_.view(), plain_lse_.view());
}

CheckOutcome DecodeReference::judge(const DecodeRun& run) const {
  CheckOutcome worst;
  for (std::size_t i = 0; i < run.out.size(); ++i) {
    CheckOutcome outcome;
    outcome.coverage = fmt::format("all {} new tokens, {}", out_.extent(1), run.out.size() == 1 ? "all heads" : "on every rank");
    outcome.tensors.push_back(compare("out", run.out[i], out_, plain_out_, {dtype_, false}));
    outcome.tensors.push_back(compare("lse", run.lse[i], lse_, plain_lse_, {f32, false}));
    if (i == 0 || !(outcome.worst() <= worst.worst())) worst = std::move(outcome);  // NaN is worse than anything
    if (!worst.passed()) break;
  }
  return worst;
}

}  // namespace seqccl::command
