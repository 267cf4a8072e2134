// movement_problem.hpp - what the kernels that move, add up and merge rows are launched with.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attend_problem.hpp"

SEQCCL_BEGIN
namespace cuda {

/// to (op)= from over a walk of nested axes, outermost first, of which the last has num_chunks pieces of `width` elements.
struct MoveProblem {
  const void* from = nullptr;  // not looked at if zeros are written
  void* to = nullptr;
  std::int32_t num_axes = 0;
  std::int64_t extent[max_axes] = {}, from_stride[max_axes] = {}, to_stride[max_axes] = {};  // of pieces; strides in elements
  std::int64_t num_pieces = 0;
};
enum class Move { copy, add, zero };
/// `width` 1, or 16 bytes of the wider type. Types: f32, f16, bf16; what is added to or zeroed may only be f32 or the same.
int launch_move(const MoveProblem& problem, Move move, DType from, DType to, int width, Stream stream);

/// Rows (b, t, h) of up to four operands.
struct RowsProblem {
  std::int64_t batch = 0, tokens = 0, heads = 0;
  std::int32_t size = 0;
  Operand a, b;           // part_out; dout, out
  FloatOperand part_lse;  // read only
  FloatOperand out, lse;  // merged into; out: delta of a row_dot
};
int launch_merge(const RowsProblem& problem, DType part, Stream stream);
int launch_row_dot(const RowsProblem& problem, DType a, DType b, Stream stream);

struct SinkProblem {
  std::int64_t batch = 0, tokens = 0, heads = 0;
  const float* sinks = nullptr;
  float* dsinks = nullptr;
  std::int64_t sinks_stride = 0, dsinks_stride = 0;
  FloatOperand lse, delta;  // read only
};
int launch_sink_gradient(const SinkProblem& problem, Stream stream);

/// state <- T state + update for states (b, h) of (key_dim, width).
struct StateProblem {
  std::int64_t batch = 0, heads = 0;
  std::int32_t key_dim = 0, width = 0;
  struct Matrix {
    float* data = nullptr;
    std::int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
    SEQCCL_HOST_DEVICE float* at(std::int64_t b, std::int64_t h, std::int64_t row) const {
      return data + b * batch_stride + h * head_stride + row * row_stride;
    }
  };
  Matrix state, update, log_sum, transition;  // the last three may be absent, and are only read
  bool log_sum_per_row = false;
  float repeat = 1;
};
int launch_state_step(const StateProblem& problem, Stream stream);
inline constexpr int max_dense_key_dim = 1024;  // a slab of 32 columns of a state lies in shared memory

}  // namespace cuda
SEQCCL_END
