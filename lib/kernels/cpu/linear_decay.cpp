// linear_decay.cpp - ChunkDecay: tables of decays of one chunk, and the three products that carry ratios of decays.
// SPDX-License-Identifier: Apache-2.0
#include "linear_decay.hpp"

#include <algorithm>
#include <cmath>

#include "pack.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu::linear {
namespace {

/// The same row for all.
Rows one(Rows x, std::int64_t row) { return {x.data + row * x.row, 0}; }

}  // namespace

ChunkDecay::ChunkDecay(const ConstTensorView& log_decay, std::int64_t head_dim, Workspace& workspace)
    : log_decay_(log_decay), head_dim_(head_dim), width_(log_decay ? log_decay.extent(3) : 0) {
  turned_ = workspace.turned(head_dim, chunk_tokens);
  total_ = workspace.take(head_dim);
  log_total_ = workspace.take<double>(width_);
  if (width_ == 1) {
    for (RowsOut* numbers : {&logs_, &alpha_, &prefix_, &suffix_, &block_logs_, &block_total_})
      *numbers = {workspace.take(chunk_tokens), 1};
    for (float** factors : {&query_factor_, &key_factor_}) *factors = workspace.take(chunk_tokens);
    for (RowsOut* pairs : {&ratio_, &weighted_}) *pairs = workspace.pairs();
  } else if (width_ > 1) {
    for (RowsOut* rows : {&logs_, &alpha_, &prefix_, &suffix_, &decayed_, &product_}) *rows = workspace.rows(chunk_tokens, head_dim);
    for (RowsOut* blocks : {&block_logs_, &block_total_, &before_, &after_}) *blocks = workspace.rows(chunk_blocks, head_dim);
  }
}

void ChunkDecay::load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, Need need) {
  count_ = count;
  if (width_ == 1) load_scalar(batch, head, first, need);
  if (width_ > 1) load_vector(batch, head, first, need);
}

void ChunkDecay::load_scalar(std::int64_t batch, std::int64_t head, std::int64_t first, Need need) {
  double sum = 0;
  for (std::int64_t t = 0; t < count_; ++t) {
    const bool starts = t % block_tokens == 0;
    const float log = scalar_at(log_decay_, batch, first + t, head);
    float& block = block_logs_.data[t / block_tokens];
    logs_.data[t] = log;
    prefix_.data[t] = block = log + (starts ? 0 : block);
    sum += log;
  }
  log_total_[0] = sum;
  std::fill_n(total_, head_dim_, static_cast<float>(std::exp(sum)));
  for (std::int64_t i = count_ - 1; i >= 0; --i) {
    const bool ends = i + 1 == count_ || (i + 1) % block_tokens == 0;
    suffix_.data[i] = ends ? 0 : logs_.data[i + 1] + suffix_.data[i + 1];
  }
  tile().exp(block_logs_.data, block_total_.data, num_blocks());
  tile().exp(prefix_.data, prefix_.data, count_);
  tile().exp(suffix_.data, suffix_.data, count_);

  double inside[block_tokens];  // r(t,i) of a block: up to 15 factors, exact so that their roundings do not add up
  float before = 1;
  float* factor = key_factor_;  // of key i: from i through the last token of the blocks so far
  for (std::int64_t a = 0; a < num_blocks(); ++a) {
    const std::int64_t begin = a * block_tokens, end = block_end(a);
    for (std::int64_t t = begin; t < end; ++t) {
      query_factor_[t] = before * prefix_.data[t];
      if (!need.pairs) continue;
      float* row = ratio_.data + t * ratio_.row;
      for (std::int64_t i = 0; i < begin; ++i) row[i] = prefix_.data[t] * factor[i];
      const double alpha = t == begin ? 0 : std::exp(static_cast<double>(logs_.data[t]));
      for (std::int64_t i = 0; i < t - begin; ++i) row[begin + i] = static_cast<float>(inside[i] *= alpha);
      row[t] = static_cast<float>(inside[t - begin] = 1);
      std::fill(row + t + 1, row + begin + block_tokens, 0.0F);
    }
    for (std::int64_t i = 0; i < begin; ++i) factor[i] *= block_total_.data[a];
    std::copy(suffix_.data + begin, suffix_.data + end, factor + begin);
    before *= block_total_.data[a];
  }
}

void ChunkDecay::load_vector(std::int64_t batch, std::int64_t head, std::int64_t first, Need need) {
  const RowOps& ops = row_ops();
  load_tokens(log_decay_, batch, head, first, count_, 1, logs_);
  for (std::int64_t t = 0; t < count_; ++t) tile().exp(logs_.data + t * logs_.row, alpha_.data + t * alpha_.row, round_up(width_, 16));
  std::fill_n(log_total_, width_, 0.0);
  std::fill_n(before_.data, width_, 1.0F);
  for (std::int64_t a = 0; a < num_blocks(); ++a) {
    const std::int64_t begin = a * block_tokens;
    float* logs = block_logs_.data + a * block_logs_.row;
    ops.gate_block(block_end(a) - begin, width_, logs_ + begin, alpha_ + begin, prefix_ + begin, suffix_ + begin, logs);
    tile().exp(logs, block_total_.data + a * block_total_.row, width_);
    for (std::int64_t d = 0; d < width_; ++d) log_total_[d] += logs[d];
    if (a + 1 < num_blocks()) ops.multiply(1, width_, before_ + a, block_total_ + a, before_ + (a + 1));
  }
  for (std::int64_t d = 0; d < width_; ++d) total_[d] = static_cast<float>(log_total_[d]);
  tile().exp(total_, total_, width_);
  if (!need.keys) return;
  std::fill_n(after_.data + (num_blocks() - 1) * after_.row, width_, 1.0F);
  for (std::int64_t a = num_blocks() - 1; a > 0; --a) ops.multiply(1, width_, after_ + a, block_total_ + a, after_ + (a - 1));
}

Rows ChunkDecay::decay_queries(Rows x, RowsOut y) const {
  if (width_ == 0) return x;
  if (width_ == 1) row_ops().scale(count_, head_dim_, query_factor_, x, y);
  for (std::int64_t a = 0; a < num_blocks() && width_ > 1; ++a) {
    const std::int64_t begin = a * block_tokens;
    row_ops().multiply_twice(block_end(a) - begin, head_dim_, prefix_ + begin, one(before_, a), x + begin, y + begin);
  }
  return y;
}

Rows ChunkDecay::decay_keys(Rows x, RowsOut y) const {
  if (width_ == 0) return x;
  if (width_ == 1) row_ops().scale(count_, head_dim_, key_factor_, x, y);
  for (std::int64_t a = 0; a < num_blocks() && width_ > 1; ++a) {
    const std::int64_t begin = a * block_tokens;
    row_ops().multiply_twice(block_end(a) - begin, head_dim_, suffix_ + begin, one(after_, a), x + begin, y + begin);
  }
  return y;
}

void ChunkDecay::decay_state(Rows from, RowsOut to, std::int64_t value_dim) const {
  if (width_ > 0) return row_ops().scale(head_dim_, value_dim, total_, from, to);
  if (from.data != to.data) std::copy_n(from.data, head_dim_ * from.row, to.data);
}

void ChunkDecay::advance_state(Rows keys, Rows values, std::int64_t count, std::int64_t value_dim, Rows from, RowsOut to) const {
  decay_state(from, to, value_dim);
  turned_product(head_dim_, value_dim, count, keys, values, to, true);
}

void ChunkDecay::scores(Rows k, std::span<const Scores> scores) const {
  if (width_ > 1) return vector_scores(k, scores);
  turn(count_, head_dim_, k, turned_);
  const Rows ratio = ratio_;
  for (const Scores& s : scores) lower_outer(s.queries, turned_, count_, head_dim_, width_ == 1 ? &ratio : nullptr, s.pairs);
}

void ChunkDecay::add_pairs(Rows weights, Rows k, RowsOut dq, Rows q, RowsOut dk) const {
  if (width_ > 1) {
    vector_add_rows(weights, k, dq);
    return vector_add_columns(weights, q, dk);
  }
  const Rows weighted = weigh(weights);
  lower_product(weighted, k, count_, head_dim_, dq, true);
  lower_turned_product(weighted, q, count_, head_dim_, dk, true);
}

/// weights_ti r(t,i) of a scalar gate.
Rows ChunkDecay::weigh(Rows weights) const {
  if (width_ == 0) return weights;
  for (std::int64_t a = 0; a < num_blocks(); ++a) {
    const std::int64_t begin = a * block_tokens, end = block_end(a);
    row_ops().multiply(end - begin, end, ratio_ + begin, weights + begin, weighted_ + begin);
  }
  clear_above(count_, weighted_);
  return weighted_;
}

// Vector gate. For t in block a and i in block b < a, with reference points at the ends of blocks b and a - 1:
//   r(t,i) = prefix_t (product of block_total_c, b < c < a) suffix_i
// so that blocks below the diagonal are matrix products; the factor in the middle grows as a (or b) moves on. Inside a diagonal
// block r is built up token by token as a product of at most 15 factors exp(l_t).

void ChunkDecay::vector_scores(Rows k, std::span<const Scores> scores) const {
  const RowOps& ops = row_ops();
  ops.multiply(count_, head_dim_, suffix_, k, decayed_);
  turn(count_, head_dim_, decayed_, turned_);  // (Dk, C)
  for (std::int64_t a = 0; a < num_blocks(); ++a) {
    const std::int64_t first = a * block_tokens, count = block_end(a) - first;
    if (a > 1) ops.scale(head_dim_, first - block_tokens, block_total_.data + (a - 1) * block_total_.row, turned_, turned_);
    for (const Scores& s : scores) {
      if (a > 0) {
        ops.multiply(count, head_dim_, prefix_ + first, s.queries + first, product_);
        product(count, first, head_dim_, product_, turned_, s.pairs + first, false);
      }
      ops.pair_scores(count, head_dim_, s.queries + first, k + first, alpha_ + first,
                      {s.pairs.data + first * s.pairs.row + first, s.pairs.row});
    }
  }
  for (const Scores& s : scores) clear_above(count_, s.pairs);
}

void ChunkDecay::vector_add_rows(Rows weights, Rows x, RowsOut y) const {
  const RowOps& ops = row_ops();
  ops.multiply(count_, head_dim_, suffix_, x, decayed_);
  for (std::int64_t a = 0; a < num_blocks(); ++a) {
    const std::int64_t first = a * block_tokens, count = block_end(a) - first;
    if (a > 1) ops.multiply(first - block_tokens, head_dim_, one(block_total_, a - 1), decayed_, decayed_);
    if (a > 0) {
      product(count, head_dim_, first, weights + first, decayed_, product_, false);
      ops.multiply_add(count, head_dim_, prefix_ + first, product_, y + first);
    }
    ops.pair_rows(count, head_dim_, {weights.data + first * weights.row + first, weights.row}, x + first, alpha_ + first, y + first);
  }
}

void ChunkDecay::vector_add_columns(Rows weights, Rows x, RowsOut y) const {
  const RowOps& ops = row_ops();
  ops.multiply(count_, head_dim_, prefix_, x, decayed_);
  for (std::int64_t b = num_blocks() - 1; b >= 0; --b) {
    const std::int64_t first = b * block_tokens, end = block_end(b), count = end - first;
    if (end + block_tokens < count_) {
      const std::int64_t behind = end + block_tokens;
      ops.multiply(count_ - behind, head_dim_, one(block_total_, b + 1), decayed_ + behind, decayed_ + behind);
    }
    if (end < count_) {
      turned_product(count, head_dim_, count_ - end, {weights.data + end * weights.row + first, weights.row}, decayed_ + end, product_,
                     false);
      ops.multiply_add(count, head_dim_, suffix_ + first, product_, y + first);
    }
    ops.pair_columns(count, head_dim_, {weights.data + first * weights.row + first, weights.row}, x + first, alpha_ + first, y + first);
  }
}

void decay_rows_by_sum(const double* sum, std::int64_t width, RowsOut x, std::int64_t count, std::int64_t key_dim, float* scratch) {
  if (width == 0) return;
  for (std::int64_t d = 0; d < key_dim; ++d) scratch[d] = static_cast<float>(sum[width == 1 ? 0 : d]);
  tile().exp(scratch, scratch, key_dim);
  row_ops().multiply(count, key_dim, {scratch, 0}, x, x);
}

}  // namespace cpu::linear
SEQCCL_END
