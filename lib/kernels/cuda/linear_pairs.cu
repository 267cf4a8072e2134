// linear_pairs.cu - pairs of tokens of a chunk under a vector gate: scores, and gradients through them.
// SPDX-License-Identifier: Apache-2.0
//
// For t in block a of 16 tokens and i in block b < a, with reference points at the last token of blocks b and a - 1,
//
//     r(t,i) = prefix_t (product of total_c, b < c < a) suffix_i
//
// so that blocks below the diagonal are matrix products, a row or column of blocks a warp; the factor in the middle is applied as the warp
// moves on from block to block. Inside a diagonal block r is built up token by token as a product of at most 15 factors.
#include "linear_chunk.cuh"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr int num_threads = 32 * chunk_blocks, slab = 32, pitch = slab + 4;

/// A slab of 32 numbers of the gate: alpha, and per token prefix (through t, or before t) and suffix (behind i), per block total.
struct Gate {
  float alpha[chunk_tokens][slab], prefix[chunk_tokens][slab], suffix[chunk_tokens][slab], total[chunk_blocks][slab];

  /// Warp a makes block a, a lane per number; tokens that are not there do not decay.
  __device__ void load(const DecayProblem& p, const Item& item, int first) {
    const int lane = thread_index() % 32, a = thread_index() / 32, d = first + lane, count = p.count(item.chunk);
    float sum = 0, product = 1;
    for (int t = a * block_tokens; t < (a + 1) * block_tokens; ++t) {
      const float log = t < count && d < p.width ? p.at(item, t)[d] : 0.0F;
      sum += log;
      const float decay = expf(log);
      alpha[t][lane] = decay;
      if (p.before) prefix[t][lane] = product;
      product *= decay;
      if (!p.before) prefix[t][lane] = product;
    }
    total[a][lane] = expf(sum);
    product = 1;
    for (int t = (a + 1) * block_tokens - 1; t >= a * block_tokens; --t) {
      suffix[t][lane] = product;
      product *= alpha[t][lane];
    }
  }
};

struct ScoresShared {
  Gate gate;
  float k[chunk_tokens][pitch], decayed_k[chunk_tokens][pitch], x[chunk_tokens][pitch], decayed_x[chunk_tokens][pitch];
};

/// A block per item, and a warp per 16 rows of its pairs.
template <int count_x>
__global__ void __launch_bounds__(num_threads, 3) score_pairs(const __grid_constant__ PairScores p) {
  extern __shared__ __align__(16) char memory[];
  ScoresShared& shared = *reinterpret_cast<ScoresShared*>(memory);
  const Item item(p, blockIdx.x);
  const int lane = thread_index() % 32, a = thread_index() / 32, own = a * block_tokens;
  const int column = lane % 16, half = lane / 16;  // of the diagonal block: key i = column, numbers of this half of the slab
  float below[count_x][chunk_blocks - 1][1][2][4] = {}, diagonal[count_x][block_tokens] = {};
  const ItemMatrix k(p.k, p, item);
#pragma unroll 1
  for (int first = 0; first < p.width; first += slab) {
    shared.gate.load(p, item, first);
    load_tile<chunk_tokens, slab, pitch, num_threads>(k, 0, first, &shared.k[0][0]);
    __syncthreads();
    for (int n = thread_index(); n < chunk_tokens * slab; n += num_threads)
      shared.decayed_k[n / slab][n % slab] = shared.k[n / slab][n % slab] * shared.gate.suffix[n / slab][n % slab];
#pragma unroll
    for (int which = 0; which < count_x; ++which) {
      const ItemMatrix x(p.x[which], p, item);
      for (int n = thread_index(); n < chunk_tokens * slab; n += num_threads) {
        const int r = n / slab, d = n % slab;
        const float value = x.at(r, first + d);
        shared.x[r][d] = value;
        shared.decayed_x[r][d] = value * shared.gate.prefix[r][d];
      }
      __syncthreads();
      // From block a - 1 to block 0: what lies between goes to the rows.
#pragma unroll
      for (int back = 1; back < chunk_blocks; ++back) {
        const int b = a - back;
        if (b < 0) continue;
        if (back > 1) {
          __syncwarp();
          for (int n = lane; n < block_tokens * slab; n += 32) shared.decayed_x[own + n / slab][n % slab] *= shared.gate.total[b + 1][n % slab];
          __syncwarp();
        }
        multiply_tiles<1, 2, slab, pitch, 1, 1, pitch>(&shared.decayed_x[own][0], &shared.decayed_k[b * block_tokens][0], false, false, below[which][back - 1]);
      }
#pragma unroll 1
      for (int d = half * (slab / 2); d < (half + 1) * (slab / 2); ++d) {
        float w = shared.k[own + column][d];
#pragma unroll
        for (int t = 0; t < block_tokens; ++t) {
          const float decay = shared.gate.alpha[own + t][d];
          if (!p.before && t > column) w *= decay;
          if (p.before ? t > column : t >= column) diagonal[which][t] = fmaf(shared.x[own + t][d], w, diagonal[which][t]);
          if (p.before && t > column) w *= decay;
        }
      }
      __syncthreads();
    }
  }
  const int count = p.count(item.chunk);
#pragma unroll
  for (int which = 0; which < count_x; ++which) {
    const bool strict = p.before || p.strict[which];
    float* const pairs = p.pairs[which] + item.index * chunk_tokens * chunk_tokens;
    for (int n = lane; n < block_tokens * chunk_tokens; n += 32)  // above the diagonal
      if (n % chunk_tokens >= own + block_tokens && own + n / chunk_tokens < count) pairs[own * chunk_tokens + n] = 0;
#pragma unroll
    for (int back = 1; back < chunk_blocks; ++back) {
      if (a - back < 0) continue;
      for_each_number(below[which][back - 1], [&](int r, int x, float value) {
        if (own + r < count) pairs[(own + r) * chunk_tokens + own - back * block_tokens + x] = value;
      });
    }
#pragma unroll
    for (int t = 0; t < block_tokens; ++t) {
      const float value = diagonal[which][t] + __shfl_xor_sync(all_lanes_of_warp, diagonal[which][t], 16);
      if (half == 0 && own + t < count) pairs[(own + t) * chunk_tokens + own + column] = (strict ? t > column : t >= column) ? value : 0.0F;
    }
  }
}

struct GradientsShared {
  Gate gate;
  float x[chunk_tokens][slab], decayed[chunk_tokens][slab + 8], pairs[chunk_tokens][chunk_tokens + 4];
};

/// A block per item and slab of 32 numbers; warp n makes rows of block n, then columns of block n.
__global__ void __launch_bounds__(num_threads, 6) differentiate_pairs(const __grid_constant__ PairGradients p) {
  extern __shared__ __align__(16) char memory[];
  GradientsShared& shared = *reinterpret_cast<GradientsShared*>(memory);
  const int num_slabs = (p.width + slab - 1) / slab, first = static_cast<int>(blockIdx.x) % num_slabs * slab;
  const Item item(p, blockIdx.x / num_slabs);
  const int lane = thread_index() % 32, own_block = thread_index() / 32, own = own_block * block_tokens, count = p.count(item.chunk);
  shared.gate.load(p, item, first);
  for (int n = thread_index(); n < chunk_tokens * chunk_tokens; n += num_threads) {
    const int t = n / chunk_tokens, i = n % chunk_tokens;
    shared.pairs[t][i] = i < t && t < count ? p.pairs[item.index * chunk_tokens * chunk_tokens + n] : 0.0F;
  }
  const bool inside = first + lane < p.width;
  const std::int64_t out = item.index * chunk_tokens * p.width + first;
#pragma unroll 1
  for (int turned = 0; turned < 2; ++turned) {
    const ItemMatrix x(turned == 0 ? p.k : p.x, p, item);
    __syncthreads();
    for (int n = thread_index(); n < chunk_tokens * slab; n += num_threads) {
      const int r = n / slab, d = n % slab;
      const float value = x.at(r, first + d);
      shared.x[r][d] = value;
      shared.decayed[r][d] = value * (turned == 0 ? shared.gate.suffix : shared.gate.prefix)[r][d];
    }
    __syncthreads();
    float acc[1][slab / 8][4] = {};
    // Other blocks from the furthest to the next: what lies between grows less.
#pragma unroll 1
    for (int step = 0; step < chunk_blocks - 1; ++step) {
      const int other = turned == 0 ? step : chunk_blocks - 1 - step;
      if (turned == 0 ? other >= own_block : other <= own_block) break;
      if (step > 0) for_each_number(acc, [&](int, int d, float& value) { value *= shared.gate.total[other][d]; });
      if (turned == 0)
        multiply_tiles<1, slab / 8, block_tokens, chunk_tokens + 4, 1, slab + 8, 1>(&shared.pairs[own][other * block_tokens], &shared.decayed[other * block_tokens][0], false, false, acc);
      else
        multiply_tiles<1, slab / 8, block_tokens, 1, chunk_tokens + 4, slab + 8, 1>(&shared.pairs[other * block_tokens][own], &shared.decayed[other * block_tokens][0], false, false, acc);
    }
    __syncthreads();  // `decayed` has been read by all
    for_each_number(acc, [&](int r, int d, float value) { shared.decayed[own + r][d] = value; });
    __syncwarp();
    // The diagonal block, a lane per number.
    float y[block_tokens] = {};
#pragma unroll
    for (int near = 0; near < block_tokens; ++near) {
      const int i = turned == 0 ? near : block_tokens - 1 - near;  // the token that is weighed: key i, or query i
      float w = shared.x[own + i][lane];
      if (turned == 0) {
#pragma unroll
        for (int t = i + 1; t < block_tokens; ++t) {
          const float decay = shared.gate.alpha[own + t][lane];
          if (!p.before) w *= decay;
          y[t] = fmaf(shared.pairs[own + t][own + i], w, y[t]);
          if (p.before) w *= decay;
        }
      } else {
        if (!p.before) w *= shared.gate.alpha[own + i][lane];
#pragma unroll
        for (int k = i - 1; k >= 0; --k) {
          y[k] = fmaf(shared.pairs[own + i][own + k], w, y[k]);
          w *= shared.gate.alpha[own + k][lane];
        }
      }
    }
    float* const to = (turned == 0 ? p.rows : p.columns) + out;
#pragma unroll
    for (int t = 0; t < block_tokens; ++t) {
      if (own + t >= count || !inside) continue;
      const float factor = (turned == 0 ? shared.gate.prefix : shared.gate.suffix)[own + t][lane];
      to[(own + t) * p.width + lane] += fmaf(factor, shared.decayed[own + t][lane], y[t]);
    }
  }
}

template <int count_x>
int launch_scores(const PairScores& p, Stream stream) {
  constexpr int bytes = sizeof(ScoresShared);
  if (const cudaError_t error = cudaFuncSetAttribute(score_pairs<count_x>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return error;
  score_pairs<count_x><<<item_blocks(p), num_threads, bytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

int launch_pair_scores(const PairScores& p, Stream stream) { return p.count_x == 1 ? launch_scores<1>(p, stream) : launch_scores<2>(p, stream); }

int launch_pair_gradients(const PairGradients& p, Stream stream) {
  constexpr int bytes = sizeof(GradientsShared);
  if (const cudaError_t error = cudaFuncSetAttribute(differentiate_pairs, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return error;
  differentiate_pairs<<<item_blocks(p, (p.width + slab - 1) / slab), num_threads, bytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace cuda
SEQCCL_END
