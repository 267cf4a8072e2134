// linear_decay.cu - tables of decays of a segment's chunks, their sums over a run, and the system of the delta rule.
// SPDX-License-Identifier: Apache-2.0
#include "linear_chunk.cuh"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr int num_threads = 128;

/// A thread per (item, number of the decay).
__global__ void __launch_bounds__(num_threads) make_tables(const __grid_constant__ DecayProblem p) {
  const std::int64_t n = std::int64_t{blockIdx.x} * num_threads + thread_index();
  if (n >= p.num_items() * p.width) return;
  const Item item(p, n / p.width);
  const int d = static_cast<int>(n % p.width), count = p.count(item.chunk);
  const float* const logs = p.at(item, 0) + d;
  const std::int64_t row = item.index * chunk_tokens * p.width + d;
  double sum = p.carry == nullptr ? 0 : p.carry[n];
  const double carry = sum;
  for (int t = 0; t < count; ++t) {
    const double log = logs[t * p.token_stride];
    if (p.queries != nullptr) p.queries[row + std::int64_t{t} * p.width] = expf(static_cast<float>(p.before ? sum : sum + log));
    sum += log;
  }
  if (p.log_total != nullptr) p.log_total[n] = p.carry == nullptr ? sum : sum - carry;
  if (p.total != nullptr) p.total[n] = expf(static_cast<float>(sum));
  if (p.keys == nullptr) return;
  sum = 0;
  for (int t = count - 1; t >= 0; --t) {
    p.keys[row + std::int64_t{t} * p.width] = expf(static_cast<float>(sum));
    sum += static_cast<double>(logs[t * p.token_stride]);
  }
}

/// A block per item, a thread per column i of r(t,i).
__global__ void __launch_bounds__(chunk_tokens) make_ratio(const __grid_constant__ DecayProblem p) {
  __shared__ float logs[chunk_tokens];
  const Item item(p, blockIdx.x);
  const int i = thread_index(), count = p.count(item.chunk);
  if (i < count) logs[i] = *p.at(item, i);
  __syncthreads();
  float* const column = p.ratio + item.index * chunk_tokens * chunk_tokens + i;
  double sum = 0;  // of logs behind i
  for (int t = 0; t < count; ++t) {
    if (!p.before && t > i) sum += static_cast<double>(logs[t]);
    const bool inside = p.before ? i < t : i <= t;
    column[t * chunk_tokens] = inside ? expf(static_cast<float>(sum)) : 0.0F;
    if (p.before && t > i) sum += static_cast<double>(logs[t]);
  }
}

/// A thread per (b, h, number).
__global__ void __launch_bounds__(num_threads) scan_chunks(const __grid_constant__ ScanProblem p) {
  const std::int64_t n = std::int64_t{blockIdx.x} * num_threads + thread_index();
  if (n >= std::int64_t{p.batch} * p.heads * p.width) return;
  const std::int64_t first = n / p.width * p.num_chunks * p.width + n % p.width;
  double sum = p.sums[n];
  for (int c = 0; c < p.num_chunks; ++c) {
    const std::int64_t at = first + std::int64_t{c} * p.width;
    if (p.carry != nullptr) p.carry[at] = sum;
    sum += p.values[at];
  }
  p.sums[n] = sum;
}

__global__ void __launch_bounds__(num_threads) write_log_sums(const __grid_constant__ LogSumProblem p) {
  const std::int64_t n = std::int64_t{blockIdx.x} * num_threads + thread_index();
  if (n >= std::int64_t{p.batch} * p.heads * p.width) return;
  const std::int64_t h = n / p.width % p.heads, b = n / p.width / p.heads;
  p.to[b * p.batch_stride + h * p.head_stride + n % p.width * p.row_stride] = static_cast<float>(p.sums[n]);
}

__global__ void __launch_bounds__(num_threads) write_shares(const __grid_constant__ ShareProblem p) {
  const int n = static_cast<int>(blockIdx.x) * num_threads + thread_index();
  if (n >= p.heads * p.width) return;
  const int h = n / p.width, d = n % p.width;
  double sum = 0;
  for (int b = 0; b < p.batch; ++b) sum += p.sums[(std::int64_t{b} * p.heads + h) * p.width + d];
  float* const to = p.to + h * p.to_head + d;
  *to = static_cast<float>(p.add ? static_cast<double>(*to) + sum : sum);
}

/// A block per item, a thread per column of the inverse: row_t = e_t - beta_t sum_(i<t) G_ti row_i.
__global__ void __launch_bounds__(chunk_tokens) invert(const __grid_constant__ InverseProblem p) {
  __shared__ float gram[chunk_tokens][chunk_tokens], rows[chunk_tokens][chunk_tokens], beta[chunk_tokens];
  const Item item(p, blockIdx.x);
  const int x = thread_index(), count = p.count(item.chunk);
  const std::int64_t first = item.index * chunk_tokens * chunk_tokens;
  for (int t = 0; t < count; ++t)
    if (x < t) gram[t][x] = p.gram[first + t * chunk_tokens + x];
  if (x < count)
    beta[x] = p.beta[item.b * p.batch_stride + item.h * p.head_stride + (std::int64_t{item.chunk} * chunk_tokens + x) * p.token_stride];
  __syncthreads();
  const float own_beta = x < count ? beta[x] : 0.0F;
  for (int t = 0; t < count; ++t) {
    float sum[4] = {};  // side by side: a sum waits for itself
    for (int i = 0; i < t; i += 4)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (i + e < t) sum[e] = fmaf(gram[t][i + e], rows[i + e][x], sum[e]);
    const float value = (x == t ? 1.0F : 0.0F) - beta[t] * ((sum[0] + sum[1]) + (sum[2] + sum[3]));
    rows[t][x] = value;
    p.inverse[first + t * chunk_tokens + x] = value;
    p.solve[first + t * chunk_tokens + x] = value * own_beta;
  }
}

unsigned blocks(std::int64_t threads) { return static_cast<unsigned>((threads + num_threads - 1) / num_threads); }

}  // namespace

int launch_decay_tables(const DecayProblem& p, Stream stream) {
  make_tables<<<blocks(p.num_items() * p.width), num_threads, 0, stream>>>(p);
  return cudaGetLastError();
}
int launch_decay_ratio(const DecayProblem& p, Stream stream) {
  make_ratio<<<item_blocks(p), chunk_tokens, 0, stream>>>(p);
  return cudaGetLastError();
}
int launch_scan(const ScanProblem& p, Stream stream) {
  scan_chunks<<<blocks(std::int64_t{p.batch} * p.heads * p.width), num_threads, 0, stream>>>(p);
  return cudaGetLastError();
}
int launch_log_sum(const LogSumProblem& p, Stream stream) {
  write_log_sums<<<blocks(std::int64_t{p.batch} * p.heads * p.width), num_threads, 0, stream>>>(p);
  return cudaGetLastError();
}
int launch_shares(const ShareProblem& p, Stream stream) {
  write_shares<<<blocks(std::int64_t{p.heads} * p.width), num_threads, 0, stream>>>(p);
  return cudaGetLastError();
}
int enqueue_zeros(void* data, std::size_t num_bytes, Stream stream) { return cudaMemsetAsync(data, 0, num_bytes, stream); }
int launch_inverse(const InverseProblem& p, Stream stream) {
  invert<<<item_blocks(p), chunk_tokens, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace cuda
SEQCCL_END
