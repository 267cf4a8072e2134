// attention_check.cpp - reference and plain run of softmax attention, whole or for sampled query rows.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>

#include "command/check.hpp"
#include "seqccl/kernels.hpp"

namespace seqccl::command {
namespace {

int all_cores() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

/// The given rows along `axis` 1 of (B, N, H, D) or 2 of (B, H, N).
HostTensor gather(const HostTensor& tensor, const std::vector<std::int64_t>& rows, int axis) {
  std::vector<std::int64_t> shape = tensor.shape();
  shape[static_cast<std::size_t>(axis)] = static_cast<std::int64_t>(rows.size());
  HostTensor result(tensor.dtype, shape);
  std::int64_t outer = 1;
  for (int a = 0; a < axis; ++a) outer *= tensor.extent(a);
  const std::size_t row_bytes =
      static_cast<std::size_t>(tensor.geometry.strides[static_cast<std::size_t>(axis)]) * size_bytes(tensor.dtype);
  std::byte* to = result.bytes.data();
  for (std::int64_t o = 0; o < outer; ++o)
    for (const std::int64_t row : rows) {
      std::memcpy(to, tensor.bytes.data() + static_cast<std::size_t>(o * tensor.extent(axis) + row) * row_bytes, row_bytes);
      to += row_bytes;
    }
  return result;
}

/// The slices that sampled rows see, with query positions counted in samples: j - row = (j - i) - (row - i).
std::vector<BandSlice> slices_of_rows(const std::vector<BandSlice>& slices, const std::vector<std::int64_t>& rows) {
  std::vector<BandSlice> result;
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (BandSlice slice : slices) {
      const std::int64_t row = rows[i], shift = row - static_cast<std::int64_t>(i);
      if (row < slice.q_first || row >= slice.q_first + slice.q_count) continue;
      slice.q_first = static_cast<std::int64_t>(i);
      slice.q_count = 1;
      if (slice.low > -unbounded) slice.low += shift;
      if (slice.high < unbounded) slice.high += shift;
      result.push_back(slice);
    }
  return result;
}

/// The largest |x| of a tensor, times the root of its last extent: what a dot product of its rows may be.
double largest_row(const HostTensor& tensor) {
  double largest = 0;
  for (std::int64_t i = 0; i < tensor.size(); ++i)
    if (const double x = std::abs(tensor.get(i)); std::isfinite(x)) largest = std::max(largest, x);
  return largest * std::sqrt(static_cast<double>(tensor.extent(static_cast<int>(tensor.shape().size()) - 1)));
}

}  // namespace

AttentionReference::AttentionReference(const AttentionTensors& tensors, const AttentionSpec& spec, bool backward, CheckLevel level)
    : spec_(spec) {
  const std::int64_t N = spec.partition.num_tokens();
  if (level == CheckLevel::full || (level == CheckLevel::automatic && N <= full_check_tokens)) {
    compute_all(tensors, backward);
  } else {
    rows_ = sampled_rows(N);
    compute_rows(tensors);
  }
}

void AttentionReference::compute_all(const AttentionTensors& tensors, bool backward) {
  const std::int64_t B = spec_.batch, N = spec_.partition.num_tokens(), Hq = spec_.q_heads, Hkv = spec_.num_kv_heads();
  const std::vector<BandSlice> slices = spec_.mask.bind(N, B);
  const reference::Attention problem{tensors.q.view(),
                                     tensors.k.view(),
                                     tensors.v.view(),
                                     tensors.sinks.view(),
                                     slices,
                                     static_cast<double>(spec_.scale_or_default()),
                                     static_cast<double>(spec_.softcap)};
  out_ = HostTensor(DType::f64, {B, N, Hq, spec_.dim_v()});
  lse_ = HostTensor(DType::f64, {B, Hq, N});
  plain_out_ = HostTensor(spec_.dtype, {B, N, Hq, spec_.dim_v()});
  plain_lse_ = HostTensor(f32, {B, Hq, N});
  reference::attend(problem, out_.view(), lse_.view(), {}, all_cores());
  reference::attend_plain(problem, plain_out_.view(), plain_lse_.view(), all_cores());
  if (!backward) return;
  dq_ = HostTensor(DType::f64, {B, N, Hq, spec_.head_dim});
  dk_ = HostTensor(DType::f64, {B, N, Hkv, spec_.head_dim});
  dv_ = HostTensor(DType::f64, {B, N, Hkv, spec_.dim_v()});
  plain_dq_ = HostTensor(spec_.dtype, dq_.shape());
  plain_dk_ = HostTensor(spec_.dtype, dk_.shape());
  plain_dv_ = HostTensor(spec_.dtype, dv_.shape());
  if (spec_.sinks) dsinks_ = HostTensor(DType::f64, {Hq});
  // ds = p (dout . v - delta), and dq = scale ds k, dk = scale ds q.
  const double ds = static_cast<double>(std::abs(spec_.scale_or_default())) * largest_row(tensors.dout) * largest_row(tensors.v);
  const double root = std::sqrt(static_cast<double>(spec_.head_dim));
  dq_terms_ = ds * largest_row(tensors.k) / root;
  dk_terms_ = ds * largest_row(tensors.q) / root;
  reference::attend_backward(problem, tensors.dout.view(), dq_.view(), dk_.view(), dv_.view(), dsinks_.view(), all_cores());
  reference::attend_backward_plain(problem, tensors.dout.view(), plain_dq_.view(), plain_dk_.view(), plain_dv_.view(), all_cores());
}

void AttentionReference::compute_rows(const AttentionTensors& tensors) {
  const auto num_rows = static_cast<std::int64_t>(rows_.size());
  const std::int64_t B = spec_.batch, Hq = spec_.q_heads;
  const HostTensor q = gather(tensors.q, rows_, 1);
  const std::vector<BandSlice> slices = slices_of_rows(spec_.mask.bind(spec_.partition.num_tokens(), B), rows_);
  const reference::Attention problem{q.view(),
                                     tensors.k.view(),
                                     tensors.v.view(),
                                     tensors.sinks.view(),
                                     slices,
                                     static_cast<double>(spec_.scale_or_default()),
                                     static_cast<double>(spec_.softcap)};
  out_ = HostTensor(DType::f64, {B, num_rows, Hq, spec_.dim_v()});
  lse_ = HostTensor(DType::f64, {B, Hq, num_rows});
  plain_out_ = HostTensor(spec_.dtype, out_.shape());
  plain_lse_ = HostTensor(f32, lse_.shape());
  reference::attend(problem, out_.view(), lse_.view(), {}, all_cores());
  reference::attend_plain(problem, plain_out_.view(), plain_lse_.view(), all_cores());
}

CheckOutcome AttentionReference::judge(const AttentionResult& result) const {
  const Judge forward{spec_.dtype, false}, gradient{spec_.dtype, true};
  const std::int64_t N = spec_.partition.num_tokens();
  CheckOutcome outcome;
  outcome.coverage = rows_.empty() ? fmt::format("all {} query rows", N) : fmt::format("{} of {} query rows", rows_.size(), N);
  outcome.tensors.push_back(compare("out", rows_.empty() ? result.out : gather(result.out, rows_, 1), out_, plain_out_, forward));
  outcome.tensors.push_back(compare("lse", rows_.empty() ? result.lse : gather(result.lse, rows_, 2), lse_, plain_lse_, {f32, false}));
  if (!result.dq.present()) return outcome;
  if (!dq_.present()) {
    outcome.coverage += "; gradients not checked (--check=full does)";
    return outcome;
  }
  outcome.tensors.push_back(compare("dq", result.dq, dq_, plain_dq_, {gradient.dtype, true, dq_terms_}));
  outcome.tensors.push_back(compare("dk", result.dk, dk_, plain_dk_, {gradient.dtype, true, dk_terms_}));
  outcome.tensors.push_back(compare("dv", result.dv, dv_, plain_dv_, gradient));
  if (result.dsinks.present()) outcome.tensors.push_back(compare("dsinks", result.dsinks, dsinks_, {}, gradient));
  return outcome;
}

}  // namespace seqccl::command
