// kernels.cu - source of kernels.ptx: what nvcc makes of mma, ldmatrix, cp.async, calls, local arrays and switches.
// SPDX-License-Identifier: Apache-2.0
//
//     nvcc -std=c++17 -O3 -lineinfo -arch=sm_80 -ptx kernels.cu -o kernels.ptx

#include <cuda_bf16.h>

#include <cstdint>

namespace {

__device__ __forceinline__ unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }
__device__ __forceinline__ void load_tiles(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)) : "memory");
}
__device__ __forceinline__ void load_tiles_transposed(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)) : "memory");
}
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// 16-byte half c of row r of a tile with rows of 16 elements, so that any 8 rows lie in banks of their own.
__device__ __forceinline__ int element(int r, int c) { return r * 16 + ((c ^ (r >> 2 & 1)) << 3); }

__device__ __forceinline__ void copy_tile(__nv_bfloat16* to, const __nv_bfloat16* from, int first, int rows) {
  const int r = threadIdx.x / 2, c = threadIdx.x % 2;
  if (threadIdx.x < 32) {
    const bool inside = first + r < rows;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to + element(r, c))), "l"(__cvta_generic_to_global(from + int64_t(inside ? first + r : 0) * 16 + c * 8)), "r"(inside ? 16 : 0) : "memory");
  }
}

__device__ __noinline__ float polynomial(float x, int degree) {
  float sum = 0;
  for (int n = 0; n < degree; ++n) sum = sum * x + 1;
  return sum;
}

}  // namespace

// out = softmax(scale q k^T) v for 32 queries and any number of keys, head size 16: one warp per 16 queries.
extern "C" __global__ void __launch_bounds__(64) attend_tile(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, float* out, int num_keys, float scale_log2) {
  __shared__ alignas(16) __nv_bfloat16 tiles[2][2][16 * 16];  // double buffer; keys, values
  __shared__ alignas(16) float staged[2][16 * 18];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint32_t a[4];
  const __nv_bfloat16* own = q + (warp * 16 + lane / 4) * 16 + lane % 4 * 2;
  for (int n = 0; n < 4; ++n) a[n] = *reinterpret_cast<const uint32_t*>(own + (n & 1) * 8 * 16 + (n >> 1) * 8);
  float sums[2][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
  copy_tile(tiles[0][0], k, 0, num_keys);
  copy_tile(tiles[0][1], v, 0, num_keys);
  asm volatile("cp.async.commit_group;" ::: "memory");
#pragma unroll 1
  for (int tile = 0; tile * 16 < num_keys; ++tile) {
    copy_tile(tiles[(tile + 1) & 1][0], k, (tile + 1) * 16, num_keys);
    copy_tile(tiles[(tile + 1) & 1][1], v, (tile + 1) * 16, num_keys);
    asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    uint32_t b[4];
    float s[2][4] = {};
    load_tiles(b, tiles[tile & 1][0] + element((lane & 7) + (lane >> 4) * 8, lane >> 3 & 1));
    multiply(s[0], a, b[0], b[1]);
    multiply(s[1], a, b[2], b[3]);
    for (int i = 0; i < 2; ++i) {
      float high = most[i];
      for (int n = 0; n < 2; ++n)
        for (int e = 0; e < 2; ++e) {
          float& x = s[n][2 * i + e];
          x = tile * 16 + n * 8 + lane % 4 * 2 + e < num_keys ? x * scale_log2 : -INFINITY;
          high = fmaxf(high, x);
        }
      high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, 1));
      high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, 2));
      const float shrink = exp2f(most[i] - high);
      most[i] = high;
      total[i] *= shrink;
      for (int n = 0; n < 2; ++n)
        for (int e = 0; e < 2; ++e) {
          s[n][2 * i + e] = exp2f(s[n][2 * i + e] - high);
          total[i] += s[n][2 * i + e];
          sums[n][2 * i + e] *= shrink;
        }
    }
    const uint32_t p[4] = {pack(s[0][0], s[0][1]), pack(s[0][2], s[0][3]), pack(s[1][0], s[1][1]), pack(s[1][2], s[1][3])};
    load_tiles_transposed(b, tiles[tile & 1][1] + element(lane & 15, lane >> 4));
    multiply(sums[0], p, b[0], b[1]);
    multiply(sums[1], p, b[2], b[3]);
    __syncthreads();
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  for (int i = 0; i < 2; ++i) {
    total[i] += __shfl_xor_sync(0xffffffff, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffff, total[i], 2);
    for (int n = 0; n < 2; ++n)
      for (int e = 0; e < 2; ++e) staged[warp][(lane / 4 + 8 * i) * 18 + n * 8 + lane % 4 * 2 + e] = sums[n][2 * i + e] / total[i];
  }
  __syncwarp();
  for (int n = lane; n < 256; n += 32) out[warp * 256 + n] = staged[warp][n / 16 * 18 + n % 16];
}

// A call, an array in local memory, a switch and an atomic, per thread.
extern "C" __global__ void corners(const int* in, float* out, int* histogram, int count) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= count) return;
  int digits[8];
  for (int d = 0, rest = in[n]; d < 8; ++d, rest /= 7) digits[d] = rest % 7;
  float value = 0;
  switch (digits[0]) {
    case 0: value = polynomial(0.5f, in[n] & 7); break;
    case 1: value = expf(-0.01f * static_cast<float>(in[n])); break;
    case 2: value = logf(1.0f + static_cast<float>(in[n])); break;
    case 3: value = static_cast<float>(in[n]) / 3.0f; break;
    case 4: value = sqrtf(static_cast<float>(in[n])); break;
    case 5: value = static_cast<float>(digits[in[n] & 7]); break;
    default: value = polynomial(-1.0f, digits[1]); break;
  }
  out[n] = value;
  atomicAdd(&histogram[digits[0]], 1);
}
