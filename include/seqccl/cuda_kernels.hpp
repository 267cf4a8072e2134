// cuda_kernels.hpp - the local kernels on a CUDA device: contracts of kernels.hpp, enqueued on a stream, nothing waits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "seqccl/kernels.hpp"

struct CUstream_st;  // what cudaStream_t points to

SEQCCL_BEGIN
namespace cuda {

/// A cudaStream_t; nullptr is the default stream.
using Stream = CUstream_st*;

/// What an attend launch needs beside its operands
/// ================================================
///
///     AttendPlan plan = cuda::plan_attend(arguments);          // host only, no device is touched
///     // once: copy plan.slices to device memory (slices_on_device), get plan.workspace_bytes of device memory
///     cuda::attend(arguments, plan, slices_on_device, workspace, stream);
///
/// A plan serves all launches with equal shapes, strides and slices, whatever the addresses are; those that may run at the same time
/// need workspaces of their own. Launches only enqueue, so they can be captured into a CUDA graph.
struct AttendPlan {
  std::vector<std::byte> slices;    ///< to be copied to device memory, 16-byte aligned
  std::size_t workspace_bytes = 0;  ///< 16-byte aligned device memory; 0 if the keys are not cut
  std::int32_t num_slices = 0;
  std::int32_t num_parts = 1, part_keys = 0;  ///< few queries, many keys (decode): the keys are cut into parts of so many, merged in order
};

/// Shapes, head map, scale and slices of `arguments` count; `data` is not looked at.
/// @throws Error(argument) as attend; if there are 2^30 tokens or more; if Dk or Dv is above 256
[[nodiscard]] AttendPlan plan_attend(const AttendArguments& arguments);

/// The attend op (ops.hpp) with operands in device memory; `num_threads` and the slices of `arguments` are not used. f16 and bf16 heads
/// whose rows begin at multiples of 16 bytes, Dk and Dv multiples of 8 and `out` aligned to 8 bytes, use tensor cores with weights
/// rounded to the element type; all else runs in f32, many times slower. Results are bitwise repeatable.
/// A NaN or infinity in a value row also shows in rows of the same tile that do not see it (tensor cores only).
/// @throws Error(argument) for what does not fit; Error(local) in CUDA's words if the launch fails
void attend(const AttendArguments& arguments, const AttendPlan& plan, const void* slices_on_device, void* workspace, Stream stream);

/// Whether attend would use tensor cores for these operands.
[[nodiscard]] bool attend_uses_tensor_cores(const AttendArguments& arguments);

/// As AttendPlan: slices for the two launches of attend_backward, by queries and by keys.
struct AttendBackwardPlan {
  std::vector<std::byte> slices;  ///< to be copied to device memory, 16-byte aligned
  std::int32_t num_slices = 0;    ///< of each
};
[[nodiscard]] AttendBackwardPlan plan_attend_backward(const AttendBackwardArguments& arguments);

/// The attend_backward op (ops.hpp) with operands in device memory: one launch for dq, one or two for dk and dv, nothing added atomically,
/// so results are bitwise repeatable. dout has the type of q, k, v. Tensor cores as in attend, with dS rounded to the element type as well.
/// @throws as attend
void attend_backward(const AttendBackwardArguments& arguments, const AttendBackwardPlan& plan, const void* slices_on_device, Stream stream);
[[nodiscard]] bool attend_backward_uses_tensor_cores(const AttendBackwardArguments& arguments);

// As their namesakes of kernels.hpp, on a stream. Views of device memory, axes of head size contiguous but in copy, add and zero.
void merge(ConstTensorView part_out, ConstTensorView part_lse, TensorView out, TensorView lse, Stream stream);
void row_dot(ConstTensorView dout, ConstTensorView out, TensorView delta, Stream stream);
void sink_gradient(ConstTensorView sinks, ConstTensorView lse, ConstTensorView delta, TensorView dsinks, Stream stream);
void copy(ConstTensorView from, TensorView to, Stream stream);
void add(ConstTensorView from, TensorView to, Stream stream);  ///< to is f32
void zero(TensorView to, Stream stream);
/// Dense transitions of at most 1024 rows.
void state_step(const StateStepArguments& arguments, Stream stream);
void take_columns(ConstTensorView state, TensorView columns, std::int64_t first, Stream stream);
void put_columns(ConstTensorView columns, TensorView state, std::int64_t first, Stream stream);

/// Linear attention
/// ================
///
/// The linear ops (ops.hpp), all kinds, with operands in device memory; `num_threads` is not used. Heads of 1 to 256 numbers, any strides.
/// All products run on tensor cores in f32 split in two, so they are about as exact as f32, whatever the type of q, k, v. A run is worked
/// on in segments of chunks of 64 tokens; chunks of a segment at the same time, but for a sweep of the states. Results are bitwise
/// repeatable for a given size of the workspace. Launches only enqueue.
///
///     WorkspaceNeed need = cuda::workspace_need(arguments);     // host only
///     cuda::linear_local(arguments, {memory, num_bytes}, stream);   // num_bytes from least_bytes, many launches, to most_bytes, few
struct DeviceMemory {
  void* data = nullptr;  // 256-byte aligned
  std::size_t num_bytes = 0;
};
struct WorkspaceNeed {
  std::size_t least_bytes = 0, most_bytes = 0;
};
/// @throws Error(argument) as the op
[[nodiscard]] WorkspaceNeed workspace_need(const LinearSummaryArguments& arguments);
[[nodiscard]] WorkspaceNeed workspace_need(const LinearLocalArguments& arguments);
[[nodiscard]] WorkspaceNeed workspace_need(const LinearEnterArguments& arguments);
[[nodiscard]] WorkspaceNeed workspace_need(const LinearSummaryBackwardArguments& arguments);
[[nodiscard]] WorkspaceNeed workspace_need(const LinearBackwardArguments& arguments);
/// @throws Error(argument) for what does not fit, also if the workspace is too small; Error(local) in CUDA's words if a launch fails
void linear_summary(const LinearSummaryArguments& arguments, DeviceMemory workspace, Stream stream);
void linear_local(const LinearLocalArguments& arguments, DeviceMemory workspace, Stream stream);
void linear_enter(const LinearEnterArguments& arguments, DeviceMemory workspace, Stream stream);
void linear_summary_backward(const LinearSummaryBackwardArguments& arguments, DeviceMemory workspace, Stream stream);
void linear_backward(const LinearBackwardArguments& arguments, DeviceMemory workspace, Stream stream);

}  // namespace cuda
SEQCCL_END
