// instructions.cuh - the PTX that CUDA C++ has no words for, one small function each; kernels contain no assembly.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "seqccl/version.hpp"

SEQCCL_BEGIN
namespace cuda {

/// Index of the thread in its block (of one dimension), read anew wherever it is asked for: a register that keeps it costs more.
__device__ __forceinline__ int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

/// Address in shared memory, in bytes: half the registers of a generic one.
__device__ __forceinline__ unsigned shared_address(const void* pointer) { return static_cast<unsigned>(__cvta_generic_to_shared(pointer)); }

/// 16 bytes from global to shared memory; `inside` false: 16 zeros, nothing is read.
__device__ __forceinline__ void copy_async_16(unsigned to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
               "r"(inside ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until at most `pending` of the committed groups are still under way. Others see the copies after a barrier.
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/// Four 8 x 8 tiles of 16-bit elements; lane l names row l % 8 of tile l / 8 and gets elements (l / 4, 2 (l % 4) + {0, 1}) of each.
__device__ __forceinline__ void load_tiles(std::uint32_t (&tiles)[4], unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row)
               : "memory");
}
/// The same, each tile transposed.
__device__ __forceinline__ void load_tiles_transposed(std::uint32_t (&tiles)[4], unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row)
               : "memory");
}

/// d += a b of 16 x 16 and 16 x 8 elements, sums in f32.
///
///     a[0..3]  tiles (rows 0-7, k 0-7) (rows 8-15, k 0-7) (rows 0-7, k 8-15) (rows 8-15, k 8-15)
///     b0, b1   tiles (k 0-7) (k 8-15), by column: lane l holds column l / 4, k 2 (l % 4) + {0, 1}
///     d[0..3]  rows l / 4 (0, 1) and l / 4 + 8 (2, 3), columns 2 (l % 4) + {0, 1}
template <class T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
template <>
__device__ __forceinline__ void multiply_add<__nv_bfloat16>(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply_add<__half>(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// An f32 as the sum of two numbers that tensor cores multiply exactly: 11 bits each, what is left is below 2^-22 of x. An infinity becomes a
/// NaN.
struct Split {
  std::uint32_t high, low;
};
__device__ __forceinline__ std::uint32_t round_to_tf32(float x) {
  std::uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ Split split(float x) {
  const std::uint32_t high = __float_as_uint(x) & 0xffffe000U;
  return {high, round_to_tf32(x - __uint_as_float(high))};
}

/// d += a b of 16 x 8 and 8 x 8 elements of 11 bits, sums in f32.
///
///     a[0..3]  (row l / 4, k l % 4), (row l / 4 + 8, k l % 4), the same with k l % 4 + 4
///     b0, b1   (k l % 4, column l / 4), (k l % 4 + 4, column l / 4)        d as above
__device__ __forceinline__ void multiply_add_tf32(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two elements in one register, `low` in the lower half.
template <class T>
__device__ __forceinline__ std::uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ std::uint32_t pack<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&both);
}
template <>
__device__ __forceinline__ std::uint32_t pack<__half>(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&both);
}

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

/// 2^x, relative error 2^-22; results below 2^-126 are 0.
__device__ __forceinline__ float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// tanh(x) for x = y / (2 log2(e)), error 2^-22 of 1: right for a bounded score, and without the branches of tanhf.
__device__ __forceinline__ float tanh_of_2_log2_e(float y) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1 + power_of_2(y)));
  return fmaf(-2.0F, reciprocal, 1.0F);
}

}  // namespace cuda
SEQCCL_END
