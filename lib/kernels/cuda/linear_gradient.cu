// linear_gradient.cu - what gradients of linear attention need beside products: decays, what a token does for itself, and their ends.
// SPDX-License-Identifier: Apache-2.0
#include "linear_chunk.cuh"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr int num_threads = 128, num_warps = num_threads / 32;

/// Over the warp, the same in all lanes.
__device__ __forceinline__ float add_lanes(float sum) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(all_lanes_of_warp, sum, distance);
  return sum;
}

/// A block per item, a warp per row.
__global__ void __launch_bounds__(num_threads) dot_chunk_rows(const __grid_constant__ DotsProblem p) {
  const Item item(p, blockIdx.x);
  const ItemMatrix a(p.a, p, item), b(p.b, p, item), to(p.to, p, item);
  const int lane = thread_index() % 32;
  for (int r = thread_index() / 32; r < a.rows; r += num_warps) {
    float sum = 0;
    for (int x = lane; x < a.columns; x += 32) sum = fmaf(a.at(r, x), b.at(r, x), sum);
    sum = add_lanes(sum);
    if (lane == 0) to.set(r, 0, sum);
  }
}

/// A vector gate: a thread per number of an item.
__global__ void __launch_bounds__(num_threads) differentiate_vector_gate(const __grid_constant__ DecayGradient p) {
  const std::int64_t n = std::int64_t{blockIdx.x} * num_threads + thread_index();
  if (n >= p.num_items() * p.width) return;
  const Item item(p, n / p.width);
  const int d = static_cast<int>(n % p.width), count = p.count(item.chunk);
  const ItemMatrix q(p.q, p, item), k(p.k, p, item);
  const std::int64_t first = item.index * chunk_tokens * p.width + d;
  double sum = static_cast<double>(p.total[n]) * p.passing[n];
  for (int i = 0; i < count; ++i) sum += static_cast<double>(k.at(i, d)) * p.leave[first + std::int64_t{i} * p.width];
  // From the last token on: what has come in behind leaves `sum` as it enters.
  for (int s = count - 1; s >= 0; --s) {
    const std::int64_t at = first + std::int64_t{s} * p.width;
    const double query = static_cast<double>(q.at(s, d)) * p.x[at], key = k.at(s, d);
    sum -= key * p.leave[at];
    if (!p.before) sum += query;
    if (p.plus != nullptr) sum += key * p.plus[at];
    sum -= key * p.minus[at];
    const float log = p.at(item, s)[d];
    const double value = log == -INFINITY ? 0.0 : sum;
    p.to[item.b * p.to_batch + item.h * p.to_head + (std::int64_t{item.chunk} * chunk_tokens + s) * p.to_token + d] = static_cast<float>(value);
    if (p.before) sum += query;
  }
}

/// A scalar gate: a block per item, a thread per token.
__global__ void __launch_bounds__(chunk_tokens) differentiate_scalar_gate(const __grid_constant__ DecayGradient p) {
  __shared__ double leaving[chunk_tokens], entering[chunk_tokens], all[chunk_tokens];
  const Item item(p, blockIdx.x);
  const int s = thread_index(), count = p.count(item.chunk);
  const ItemMatrix q(p.q, p, item), k(p.k, p, item);
  const std::int64_t rows = item.index * chunk_tokens * p.key_dim;
  for (int t = s / 32; t < count; t += 2) {  // a warp per token
    float leave = 0, enter = 0;
    for (int d = s % 32; d < p.key_dim; d += 32) {
      const std::int64_t at = rows + std::int64_t{t} * p.key_dim + d;
      const float key = k.at(t, d);
      leave = fmaf(key, p.leave[at], leave);
      enter = fmaf(q.at(t, d), p.x[at], enter);
      if (p.plus != nullptr) enter = fmaf(key, p.plus[at], enter);
    }
    leave = add_lanes(leave), enter = add_lanes(enter);
    if (s % 32 == 0) leaving[t] = leave, entering[t] = enter;
  }
  __syncthreads();
  double sum = 0;
  if (s < count) {
    for (int d = 0; d < p.key_dim; ++d) sum += p.passing[item.index * p.key_dim + d];
    sum *= p.total[item.index];
    for (int i = 0; i < s; ++i) sum += leaving[i];
    for (int t = p.before ? s + 1 : s; t < count; ++t) sum += entering[t];
    for (int which = 0; which < 2; ++which) {
      if (p.weights[which] == nullptr) continue;
      const std::int64_t pairs = item.index * chunk_tokens * chunk_tokens;
      for (int t = p.before ? s + 1 : s; t < count; ++t)
        for (int i = 0; i < s; ++i) {
          const std::int64_t at = pairs + t * chunk_tokens + i;
          sum += static_cast<double>(p.weights[which][at]) * p.gradients[which][at];
        }
    }
    if (*p.at(item, s) == -INFINITY) sum = 0;
    if (p.to != nullptr)
      p.to[item.b * p.to_batch + item.h * p.to_head + (std::int64_t{item.chunk} * chunk_tokens + s) * p.to_token] = static_cast<float>(sum);
  }
  if (p.sums == nullptr) return;
  all[s] = s < count ? sum : 0;
  __syncthreads();
  if (s != 0) return;
  for (int t = 1; t < count; ++t) sum += all[t];
  p.sums[item.index] = sum;
}

/// A block per item. Warps take tokens in turn; where a bonus has a gradient, a thread per number then sums over the tokens.
__global__ void __launch_bounds__(num_threads) finish(const __grid_constant__ FinishProblem p) {
  __shared__ float weights[chunk_tokens];
  const Item item(p, blockIdx.x);
  const ItemMatrix q(p.q, p, item), k(p.k, p, item), v(p.v, p, item), dout(p.dout, p, item), dq(p.dq, p, item), dk(p.dk, p, item), dv(p.dv, p, item);
  const int lane = thread_index() % 32, count = p.count(item.chunk);
  const float* const bonus = p.bonus == nullptr ? nullptr : p.bonus + item.h * p.bonus_head;
  for (int t = thread_index() / 32; t < count; t += num_warps) {
    const std::int64_t row = item.index * chunk_tokens + t;
    float s = 0;
    if (p.has_diagonal) {
      for (int x = lane; x < p.value_dim; x += 32) s = fmaf(v.at(t, x), dout.at(t, x), s);
      s = add_lanes(s);
    }
    for (int d = lane; d < p.key_dim; d += 32) {
      const float query = q.at(t, d), key = k.at(t, d), own = bonus == nullptr ? s : s * bonus[d];
      const float dquery = p.dq_part[row * p.key_dim + d];
      dq.set(t, d, p.has_diagonal ? fmaf(own, key, dquery) : dquery);
      float sum = 0;
      for (const float* part : p.dk_parts)
        if (part != nullptr) sum += part[row * p.key_dim + d];
      dk.set(t, d, p.has_diagonal ? fmaf(own, query, sum) : sum);
    }
    if (p.dv_part != nullptr)
      for (int x = lane; x < p.value_dim; x += 32) dv.set(t, x, p.dv_part[row * p.value_dim + x]);
    if (lane == 0) weights[t] = s;
  }
  if (p.dbonus == nullptr) return;
  __syncthreads();
  for (int d = thread_index(); d < p.key_dim; d += num_threads) {
    double sum = 0;
    for (int t = 0; t < count; ++t) sum += static_cast<double>(weights[t]) * (q.at(t, d) * k.at(t, d));
    p.dbonus[item.index * p.key_dim + d] = sum;
  }
}

/// A block per item, a warp per token.
__global__ void __launch_bounds__(num_threads) add_bonus(const __grid_constant__ BonusProblem p) {
  const Item item(p, blockIdx.x);
  const ItemMatrix q(p.q, p, item), k(p.k, p, item);
  const int lane = thread_index() % 32;
  const float* const bonus = p.bonus + item.h * p.bonus_head;
  for (int t = thread_index() / 32; t < q.rows; t += num_warps) {
    float w = 0;
#pragma unroll 1
    for (int d = lane; d < q.columns; d += 32) w = fmaf(q.at(t, d) * bonus[d], k.at(t, d), w);
    w = add_lanes(w);
    if (lane == 0) p.pairs[(item.index * chunk_tokens + t) * chunk_tokens + t] = w;
  }
}

}  // namespace

int launch_dots(const DotsProblem& p, Stream stream) {
  dot_chunk_rows<<<item_blocks(p), num_threads, 0, stream>>>(p);
  return cudaGetLastError();
}
int launch_decay_gradient(const DecayGradient& p, Stream stream) {
  if (p.width == 1)
    differentiate_scalar_gate<<<item_blocks(p), chunk_tokens, 0, stream>>>(p);
  else
    differentiate_vector_gate<<<static_cast<unsigned>((p.num_items() * p.width + num_threads - 1) / num_threads), num_threads, 0, stream>>>(p);
  return cudaGetLastError();
}
int launch_finish(const FinishProblem& p, Stream stream) {
  finish<<<item_blocks(p), num_threads, 0, stream>>>(p);
  return cudaGetLastError();
}
int launch_bonus(const BonusProblem& p, Stream stream) {
  add_bonus<<<item_blocks(p), num_threads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace cuda
SEQCCL_END
