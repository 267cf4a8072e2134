// attend_problem.hpp - what an attend kernel is launched with: plain data, the same for host and device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "seqccl/cuda_kernels.hpp"
#include "seqccl/merge.hpp"

SEQCCL_BEGIN
namespace cuda {

/// A band slice as the device reads it: query i of [q_first, q_end) sees key j of [k_first, k_end) if low <= j - i <= high.
/// Sorted by (batch, q_first, k_first). `reach`: largest q_end of the slices of this batch row up to this one.
struct alignas(16) DeviceSlice {
  std::int32_t q_first, q_end, k_first, k_end;
  std::int32_t low, high, batch, reach;
};
inline constexpr std::int64_t max_rows = std::int64_t{1} << 30;  // so that i + low and i + high do not overflow

/// A (B, T, H, D) operand: address and strides in elements; D is contiguous.
struct Operand {
  const void* data = nullptr;
  std::int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
};
struct FloatOperand {
  float* data = nullptr;
  std::int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
  SEQCCL_HOST_DEVICE float* at(std::int64_t batch, std::int64_t token, std::int64_t head) const {
    return data + batch * batch_stride + token * token_stride + head * head_stride;
  }
};

/// What forward and backward share. Query heads are taken in runs that have one key/value head; row r of a run is token r / heads, head
/// r % heads of it. A block has a tile of such rows and a part of the keys. A backward launch for keys and values has rows of keys instead,
/// one key/value head a run, and walks over queries: then slices are transposed.
struct AttendShape {
  const DeviceSlice* slices = nullptr;
  std::int32_t num_slices = 0;
  std::int32_t batch = 0, num_queries = 0, num_keys = 0, q_heads = 0, dk = 0, dv = 0;
  std::int32_t first_q = 0, first_kv = 0, group = 1;  // HeadMap
  std::int32_t first_run = 0, num_runs = 0;           // run n: heads h with (first_q + h) / group == first_run + n
  std::int32_t num_tiles = 0;                         // tiles of rows of the longest run
  std::int32_t num_parts = 1, part_keys = 0;
  float scale = 1, softcap = 0;
};

struct AttendProblem : AttendShape {
  Operand q, k, v;        // (B, Tq, Hq, Dk) (B, Tk, Hkv, Dk) (B, Tk, Hkv, Dv)
  FloatOperand out, lse;  // (B, Tq, Hq, Dv) (B, Tq, Hq, 1)
  const float* sinks = nullptr;
  std::int64_t sinks_stride = 0;
  float* part_out = nullptr;  // (parts, B, Tq, Hq, Dv), where there are several
  float* part_lse = nullptr;  // (parts, B, Tq, Hq)
  bool fresh = false;
};

struct AttendBackwardProblem : AttendShape {
  Operand q, k, v, dout;                        // dout (B, Tq, Hq, Dv)
  FloatOperand lse, delta, dq, dkeys, dvalues;  // lse, delta (B, Tq, Hq, 1), gradients as q, k, v
  bool fresh_dq = false, fresh_dkv = false;
};

/// Elements of Dk and Dv that a tensor-core kernel computes with; smaller heads are filled up with zeros.
struct HeadSizes {
  int dk, dv;
};
inline constexpr HeadSizes tensor_head_sizes[] = {{64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}};

// Enqueued on the stream; the launch's error is returned (0: none). `sizes` is an index into tensor_head_sizes.
int launch_attend_tensor(const AttendProblem& problem, DType dtype, int sizes, Stream stream);
int launch_attend_plain(const AttendProblem& problem, DType dtype, Stream stream);
int launch_attend_combine(const AttendProblem& problem, Stream stream);

/// Gradients of one launch.
enum class Gradients { q, kv };
int launch_attend_backward_tensor(const AttendBackwardProblem& problem, Gradients which, DType dtype, int sizes, Stream stream);
int launch_attend_backward_plain(const AttendBackwardProblem& problem, Gradients which, DType dtype, Stream stream);
inline constexpr int backward_tensor_rows = 64, backward_plain_rows = 16;
/// Rows of a block's tile.
[[nodiscard]] int tensor_tile_rows(int sizes);
inline constexpr int plain_tile_rows = 16;
[[nodiscard]] const char* error_name(int error);
[[nodiscard]] const char* error_text(int error);

}  // namespace cuda
SEQCCL_END
