// linear_segment.cpp - segments of a run of tokens: how many chunks fit, their matrices, their launches.
// SPDX-License-Identifier: Apache-2.0
#include "linear_segment.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "attend_arguments.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr std::int64_t max_blocks = 0x7fffffff;

std::int64_t chunks_of(const LinearSizes& sizes, std::int64_t num_segments) {
  return std::max<std::int64_t>(1, (sizes.num_chunks() + num_segments - 1) / num_segments);
}
/// Every launch has at most so many chunks: the largest kernel has 16 tiles of each, and addresses in a chunk are 32-bit.
std::int64_t least_segments(const LinearSizes& sizes) {
  const std::int64_t most = std::max<std::int64_t>(1, max_blocks / 16 / std::max<std::int64_t>(1, sizes.num_runs()));
  return std::max<std::int64_t>(1, (sizes.num_chunks() + most - 1) / most);
}

}  // namespace

WorkspaceNeed workspace_need(const LinearSizes& sizes, const SegmentBytes& bytes) {
  WorkspaceNeed need{.least_bytes = std::numeric_limits<std::size_t>::max(), .most_bytes = bytes(chunks_of(sizes, least_segments(sizes)))};
  const std::int64_t num_chunks = std::max<std::int64_t>(1, sizes.num_chunks());
  for (std::int64_t segments = least_segments(sizes); segments <= num_chunks; ++segments)
    need.least_bytes = std::min(need.least_bytes, bytes(chunks_of(sizes, segments)));
  return need;
}

std::int64_t segment_chunks(const char* who, const LinearSizes& sizes, const SegmentBytes& bytes, DeviceMemory workspace) {
  if (reinterpret_cast<std::uintptr_t>(workspace.data) % 256 != 0)
    refuse(who, fmt::format("workspace begins at {}, want a multiple of 256 bytes", workspace.data));
  if (workspace.data == nullptr) workspace.num_bytes = 0;
  const std::int64_t num_chunks = std::max<std::int64_t>(1, sizes.num_chunks());
  for (std::int64_t segments = least_segments(sizes); segments <= num_chunks; ++segments)
    if (bytes(chunks_of(sizes, segments)) <= workspace.num_bytes) return chunks_of(sizes, segments);
  refuse(who, fmt::format("workspace has {} bytes, want at least {}, {} for a run in one piece", workspace.num_bytes,
                          workspace_need(sizes, bytes).least_bytes, workspace_need(sizes, bytes).most_bytes));
}

DecayTables::DecayTables(Scratch& scratch, const LinearSizes& sizes, std::int64_t num_chunks, unsigned which) {
  if (sizes.width == 0) return;
  const std::int64_t items = sizes.num_runs() * num_chunks, per_token = items * chunk_tokens * sizes.width, per_chunk = items * sizes.width;
  if (which & queries_bit) queries = scratch.take(per_token);
  if (which & keys_bit) keys = scratch.take(per_token);
  if (which & total_bit) total = scratch.take(per_chunk);
  if ((which & ratio_bit) && sizes.width == 1) ratio = scratch.take(items * chunk_tokens * chunk_tokens);
  if (which & log_total_bit) log_total = scratch.take<double>(per_chunk);
  if (which & carry_bit) carry = scratch.take<double>(per_chunk);
}

LinearSegment::LinearSegment(const char* who, const LinearSizes& sizes, std::int64_t num_chunks, std::int64_t index, Stream stream)
    : who_(who), sizes_(sizes), first_(index * num_chunks * chunk_tokens), stream_(stream) {
  const std::int64_t tokens = std::min(num_chunks * chunk_tokens, sizes.tokens - first_);
  segment_.batch = static_cast<std::int32_t>(sizes.batch), segment_.heads = static_cast<std::int32_t>(sizes.heads);
  segment_.tokens = static_cast<std::int32_t>(tokens);
  segment_.num_chunks = static_cast<std::int32_t>((tokens + chunk_tokens - 1) / chunk_tokens);
}

ChunkMatrix LinearSegment::tokens(const ConstTensorView& x, float scale) const {
  ChunkMatrix m{.type = x.dtype, .rows = chunk_tokens, .columns = static_cast<std::int32_t>(x.extent(3)), .scale = scale};
  m.data = const_cast<char*>(static_cast<const char*>(x.data) + first_ * x.stride(1) * static_cast<std::int64_t>(size_bytes(x.dtype)));
  m.batch = x.stride(0), m.head = x.stride(2), m.chunk = chunk_tokens * x.stride(1), m.row = x.stride(1);
  return m;
}

ChunkMatrix LinearSegment::states(const float* x, std::int64_t num_rows, std::int64_t num_columns) const {
  ChunkMatrix m{.data = const_cast<float*>(x),
                .rows = static_cast<std::int32_t>(num_rows),
                .columns = static_cast<std::int32_t>(num_columns),
                .rows_are_tokens = false};
  m.row = num_columns, m.chunk = num_rows * num_columns;
  m.head = segment_.num_chunks * m.chunk, m.batch = sizes_.heads * m.head;
  return m;
}
ChunkMatrix LinearSegment::rows(const float* x, std::int64_t size) const {
  ChunkMatrix m = states(x, chunk_tokens, size);
  m.rows_are_tokens = true;
  return m;
}
ChunkMatrix LinearSegment::pairs(const float* x) const {
  ChunkMatrix m = rows(x, chunk_tokens);
  m.columns_are_tokens = true;
  return m;
}
ChunkMatrix LinearSegment::state(const ConstTensorView& x) {
  if (!x) return {};
  ChunkMatrix m{.data = const_cast<void*>(x.data),
                .rows = static_cast<std::int32_t>(x.extent(2)),
                .columns = static_cast<std::int32_t>(x.extent(3)),
                .rows_are_tokens = false};
  m.batch = x.stride(0), m.head = x.stride(1), m.row = x.stride(2);
  return m;
}
ChunkMatrix LinearSegment::state(const float* x, std::int64_t num_rows, std::int64_t num_columns) const {
  ChunkMatrix m = states(x, num_rows, num_columns);
  m.head = m.chunk, m.batch = sizes_.heads * m.head, m.chunk = 0;
  return m;
}
ChunkMatrix LinearSegment::decayed(ChunkMatrix x, const float* factor) const {
  if (factor == nullptr) return x;
  x.factor = factor, x.factor_width = static_cast<std::int32_t>(sizes_.width);
  return x;
}

DecayProblem LinearSegment::decay_problem(const ConstTensorView& log_decay, bool before) const {
  DecayProblem p;
  static_cast<Segment&>(p) = segment_;
  p.before = before;
  if (sizes_.width == 0) return p;
  p.width = static_cast<std::int32_t>(sizes_.width);
  p.logs = log_decay.as<float>() + first_ * log_decay.stride(1);
  p.batch_stride = log_decay.stride(0), p.token_stride = log_decay.stride(1), p.head_stride = log_decay.stride(2);
  return p;
}

void LinearSegment::make(const DecayTables& tables, const ConstTensorView& log_decay, bool before) const {
  if (sizes_.width == 0) return;
  DecayProblem p = decay_problem(log_decay, before);
  p.queries = tables.queries, p.keys = tables.keys, p.total = tables.total, p.log_total = tables.log_total;
  p.carry = tables.carry, p.ratio = tables.ratio;
  require(launch_decay_tables(p, stream_));
  if (p.ratio != nullptr) require(launch_decay_ratio(p, stream_));
}

void LinearSegment::scan(const double* values, std::int64_t width, double* carry, double* sums) const {
  ScanProblem p{segment_};
  p.width = static_cast<std::int32_t>(width), p.values = values, p.carry = carry, p.sums = sums;
  require(launch_scan(p, stream_));
}

void LinearSegment::product(std::initializer_list<ProductTerm> terms, const ChunkMatrix& out, const Options& options) const {
  ProductProblem p{segment_};
  for (const ProductTerm& term : terms) p.terms[p.num_terms++] = term;
  p.factor = options.factor, p.factor_width = static_cast<std::int32_t>(options.factor_width);
  p.triangle = options.triangle, p.accumulate = options.accumulate, p.plus = options.plus, p.out = out;
  require(launch_products(p, stream_));
}

void LinearSegment::scores(const Decays& decays, const ChunkMatrix& k, std::initializer_list<Scores> all) const {
  if (sizes_.width > 1) {
    PairScores p{decay_problem(decays.log_decay, decays.before)};
    p.k = k;
    for (const Scores& one : all) p.x[p.count_x] = one.x, p.strict[p.count_x] = one.strict, p.pairs[p.count_x++] = one.pairs;
    return require(launch_pair_scores(p, stream_));
  }
  for (const Scores& one : all)
    product({{.a = one.x, .b = k, .turn_b = true}}, pairs(one.pairs),
            {.factor = decays.tables.ratio,
             .factor_width = chunk_tokens,
             .triangle = one.strict || decays.before ? Triangle::strictly_lower : Triangle::lower});
}

void LinearSegment::weigh_pairs(const Decays& decays, const ProductTerm& a_b, float* weights, float* raw) const {
  if (raw != nullptr) product({a_b}, pairs(raw), {.triangle = Triangle::strictly_lower});
  product({a_b}, pairs(weights), {.factor = decays.tables.ratio, .factor_width = chunk_tokens, .triangle = Triangle::strictly_lower});
}

void LinearSegment::add_pairs(const Decays& decays, const float* weights, const ChunkMatrix& k, const ChunkMatrix& x, float* to_rows,
                              float* to_columns) const {
  if (sizes_.width > 1) {
    PairGradients p{decay_problem(decays.log_decay, decays.before)};
    p.k = k, p.x = x, p.pairs = weights, p.rows = to_rows, p.columns = to_columns;
    return require(launch_pair_gradients(p, stream_));
  }
  product({{.a = pairs(weights), .b = k}}, rows(to_rows, sizes_.key_dim), {.accumulate = true});
  product({{.a = pairs(weights), .b = x, .turn_a = true}}, rows(to_columns, sizes_.key_dim), {.accumulate = true});
}

void LinearSegment::dots(const ChunkMatrix& a, const ChunkMatrix& b, const ChunkMatrix& to) const {
  DotsProblem p{segment_};
  p.a = a, p.b = b, p.to = to;
  require(launch_dots(p, stream_));
}

void LinearSegment::zero(void* data, std::size_t num_bytes) const { require(enqueue_zeros(data, num_bytes, stream_)); }

void LinearSegment::require(int error) const { require_launch(who_, error); }

}  // namespace cuda
SEQCCL_END
