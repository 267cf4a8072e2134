// attend_arguments.hpp - what attend launches ask of their arguments and make of them, forward and backward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attend_problem.hpp"
#include "seqccl/kernels.hpp"

SEQCCL_BEGIN
namespace cuda {

/// q, k, v, slices and heads of an attend op of either direction; `who` begins every error.
struct AttendOperands {
  const char* who;
  const ConstTensorView &q, &k, &v;
  const HeadMap& heads;
  [[nodiscard]] bool has_rows() const { return q.extent(0) > 0 && q.extent(1) > 0 && q.extent(2) > 0; }
};

[[noreturn]] void refuse(const char* who, const std::string& text);
/// @throws Error(argument) if x is not (e0, e1, e2, e3) or its last axis is not contiguous
void check_shape(const char* who, const char* what, const ConstTensorView& x, std::int64_t e0, std::int64_t e1, std::int64_t e2,
                 std::int64_t e3);
void check_f32(const char* who, const char* what, const ConstTensorView& x);
/// Shapes, types and head map of q, k, v.
void check_operands(const AttendOperands& a);
/// Address and strides are multiples of so many bytes.
[[nodiscard]] bool is_aligned(const ConstTensorView& x, std::size_t num_bytes);
/// Index into tensor_head_sizes of the smallest that holds the heads of q and v; -1: tensor cores do not take these operands.
[[nodiscard]] int tensor_sizes(const AttendOperands& a, float scale, float softcap);
/// Slices inside the operands, in the order that the device searches. `transposed`: queries and keys change places.
[[nodiscard]] std::vector<DeviceSlice> device_slices(const AttendOperands& a, std::span<const BandSlice> slices, bool transposed = false);

/// Query heads by key/value head.
struct HeadRuns {
  std::int32_t first = 0, count = 0;
  std::int64_t max_heads = 1;
};
[[nodiscard]] HeadRuns head_runs(const AttendOperands& a);

/// All but slices, tiles and parts, for rows of queries.
[[nodiscard]] AttendShape attend_shape(const AttendOperands& a, const HeadRuns& runs, float scale, float softcap);
/// Sets num_tiles. @throws Error(argument) if there are more blocks than a launch can have
void cut_rows(const char* who, AttendShape& shape, std::int64_t num_rows, int tile_rows);

[[nodiscard]] inline Operand operand(const ConstTensorView& x) { return {x.data, x.stride(0), x.stride(1), x.stride(2)}; }
[[nodiscard]] inline FloatOperand operand(const TensorView& x) { return {x.as<float>(), x.stride(0), x.stride(1), x.stride(2)}; }
/// lse and delta of backward, which are only read.
[[nodiscard]] inline FloatOperand read_only(const ConstTensorView& x) {
  return {const_cast<float*>(x.as<float>()), x.stride(0), x.stride(1), x.stride(2)};
}

/// @throws Error(local) in CUDA's words if `error` is one
void require_launch(const char* who, int error);

}  // namespace cuda
SEQCCL_END
