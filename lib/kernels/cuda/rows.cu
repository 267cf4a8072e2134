// rows.cu - merge, row sums, gradients of sinks and steps of states: a warp or a block per row, every sum in a fixed order.
// SPDX-License-Identifier: Apache-2.0
#include "instructions.cuh"
#include "movement_problem.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr unsigned all_lanes = 0xffffffffU;
constexpr int rows_per_block = 4, num_threads = 32 * rows_per_block;

/// The warp's row; false if there is none.
__device__ bool find_row(const RowsProblem& p, std::int64_t& b, std::int64_t& t, std::int64_t& h) {
  const std::int64_t row = std::int64_t{blockIdx.x} * rows_per_block + threadIdx.x / 32;
  h = row % p.heads, t = row / p.heads % p.tokens, b = row / p.heads / p.tokens;
  return b < p.batch;
}
template <class T>
__device__ const T* row_of(const Operand& x, std::int64_t b, std::int64_t t, std::int64_t h) {
  return static_cast<const T*>(x.data) + b * x.batch_stride + t * x.token_stride + h * x.head_stride;
}

template <class T>
__global__ void __launch_bounds__(num_threads) merge_rows(const __grid_constant__ RowsProblem p) {
  std::int64_t b = 0, t = 0, h = 0;
  if (!find_row(p, b, t, h)) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float part_lse = *p.part_lse.at(b, t, h), lse = *p.lse.at(b, t, h);
  __syncwarp();  // all lanes have read lse
  if (part_lse == -INFINITY) return;
  const MergeWeights weights = merge_weights(lse, part_lse);
  const bool first = lse == -INFINITY;  // then `out` holds nothing yet
  const T* const part = row_of<T>(p.a, b, t, h);
  float* const out = p.out.at(b, t, h);
  for (int d = lane; d < p.size; d += 32) out[d] = (first ? 0.0F : weights.a * out[d]) + weights.b * widen(part[d]);
  if (lane == 0) *p.lse.at(b, t, h) = weights.lse;
}

template <class A, class B>
__global__ void __launch_bounds__(num_threads) dot_rows(const __grid_constant__ RowsProblem p) {
  std::int64_t b = 0, t = 0, h = 0;
  if (!find_row(p, b, t, h)) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const A* const x = row_of<A>(p.a, b, t, h);
  const B* const y = row_of<B>(p.b, b, t, h);
  float sum = 0;
  for (int d = lane; d < p.size; d += 32) sum = fmaf(widen(x[d]), widen(y[d]), sum);
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(all_lanes, sum, distance);
  if (lane == 0) *p.out.at(b, t, h) = sum;
}

/// A block per head; sums in double, for they are long.
__global__ void __launch_bounds__(256) sink_rows(const __grid_constant__ SinkProblem p) {
  __shared__ double sums[256];
  const std::int64_t h = blockIdx.x, rows = p.batch * p.tokens;
  const float sink = p.sinks[h * p.sinks_stride];
  double sum = 0;
  for (std::int64_t row = threadIdx.x; row < rows; row += 256) {
    const std::int64_t b = row / p.tokens, t = row % p.tokens;
    const float lse = *p.lse.at(b, t, h);
    if (lse == -INFINITY) continue;  // no key and no sink: out is 0 whatever the sink
    sum -= static_cast<double>(expf(sink - lse)) * static_cast<double>(*p.delta.at(b, t, h));
  }
  sums[threadIdx.x] = sum;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) p.dsinks[h * p.dsinks_stride] = static_cast<float>(sums[0]);
}

/// T = diag(e^(repeat log_sum)): a warp per row of a state.
__global__ void __launch_bounds__(num_threads) scale_states(const __grid_constant__ StateProblem p) {
  const std::int64_t row = std::int64_t{blockIdx.x} * rows_per_block + threadIdx.x / 32;
  const std::int64_t d = row % p.key_dim, h = row / p.key_dim % p.heads, b = row / p.key_dim / p.heads;
  if (b >= p.batch) return;
  float factor = 1;
  if (p.log_sum.data != nullptr && p.repeat != 0) {  // 0 times -inf would be NaN
    const double log_sum = *p.log_sum.at(b, h, p.log_sum_per_row ? d : 0);
    factor = static_cast<float>(exp(p.repeat * log_sum));
  }
  float* const state = p.state.at(b, h, d);
  const float* const update = p.update.data == nullptr ? nullptr : p.update.at(b, h, d);
  for (int c = static_cast<int>(threadIdx.x) % 32; c < p.width; c += 32)
    state[c] = factor * state[c] + (update == nullptr ? 0.0F : update[c]);
}

/// T dense: a block per 32 columns of a state, which it holds while it writes their products over them.
__global__ void __launch_bounds__(256) multiply_states(const __grid_constant__ StateProblem p) {
  extern __shared__ float slab[];  // (key_dim, 32)
  const int num_slabs = (p.width + 31) / 32, first = static_cast<int>(blockIdx.x) % num_slabs * 32;
  const std::int64_t matrix = blockIdx.x / num_slabs, h = matrix % p.heads, b = matrix / p.heads;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, column = first + lane;
  for (int d = warp; d < p.key_dim; d += 8) slab[d * 32 + lane] = column < p.width ? p.state.at(b, h, d)[column] : 0.0F;
  __syncthreads();
  for (int d = warp; d < p.key_dim; d += 8) {
    const float* const transition = p.transition.at(b, h, d);
    float sum = 0;
    for (int x = 0; x < p.key_dim; ++x) sum = fmaf(transition[x], slab[x * 32 + lane], sum);
    if (column < p.width) p.state.at(b, h, d)[column] = sum + (p.update.data == nullptr ? 0.0F : p.update.at(b, h, d)[column]);
  }
}

unsigned blocks(std::int64_t rows) { return static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block); }
template <class Visit>
int with_type(DType type, Visit visit) {
  return type == f32 ? visit(float{}) : type == f16 ? visit(__half{}) : visit(__nv_bfloat16{});
}

}  // namespace

int launch_merge(const RowsProblem& p, DType part, Stream stream) {
  return with_type(part, [&]<class T>(T) {
    merge_rows<T><<<blocks(p.batch * p.tokens * p.heads), num_threads, 0, stream>>>(p);
    return static_cast<int>(cudaGetLastError());
  });
}

int launch_row_dot(const RowsProblem& p, DType a, DType b, Stream stream) {
  return with_type(a, [&]<class A>(A) {
    return with_type(b, [&]<class B>(B) {
      dot_rows<A, B><<<blocks(p.batch * p.tokens * p.heads), num_threads, 0, stream>>>(p);
      return static_cast<int>(cudaGetLastError());
    });
  });
}

int launch_sink_gradient(const SinkProblem& p, Stream stream) {
  sink_rows<<<static_cast<unsigned>(p.heads), 256, 0, stream>>>(p);
  return cudaGetLastError();
}

int launch_state_step(const StateProblem& p, Stream stream) {
  if (p.transition.data == nullptr) {
    scale_states<<<blocks(p.batch * p.heads * p.key_dim), num_threads, 0, stream>>>(p);
    return cudaGetLastError();
  }
  const int shared_bytes = p.key_dim * 32 * 4;
  if (const cudaError_t error = cudaFuncSetAttribute(multiply_states, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes)) return error;
  multiply_states<<<static_cast<unsigned>(p.batch * p.heads * ((p.width + 31) / 32)), 256, shared_bytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace cuda
SEQCCL_END
