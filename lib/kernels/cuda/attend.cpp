// attend.cpp - checks and plans an attend launch, and picks the kernel.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "attend_arguments.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr const char* who = "attend";
constexpr std::int64_t enough_blocks = 256;  // for about a hundred multiprocessors; a constant, so that results do not depend on the device
constexpr std::int64_t min_part_keys = 512;  // keys that pay for a part of their own
constexpr std::int64_t part_unit = 64;       // parts begin at multiples: whole tiles
constexpr std::int64_t planned_rows = 128;   // of a block

AttendOperands operands(const AttendArguments& a) { return {who, a.q, a.k, a.v, a.heads}; }

void check(const AttendArguments& a) {
  check_operands(operands(a));
  const std::int64_t batch = a.q.extent(0), queries = a.q.extent(1), q_heads = a.q.extent(2);
  check_shape(who, "out", a.out, batch, queries, q_heads, a.v.extent(3));
  check_shape(who, "lse", a.lse, batch, queries, q_heads, 1);
  check_f32(who, "out", a.out);
  check_f32(who, "lse", a.lse);
  if (a.sinks && !a.fresh) refuse(who, "sinks are given with fresh = false, want fresh = true: they join a fresh state");
  if (!a.sinks) return;
  check_shape(who, "sinks", a.sinks, 1, 1, q_heads, 1);
  check_f32(who, "sinks", a.sinks);
}

}  // namespace

AttendPlan plan_attend(const AttendArguments& a) {
  check(a);
  AttendPlan plan;
  const std::vector<DeviceSlice> slices = device_slices(operands(a), a.slices);
  plan.num_slices = static_cast<std::int32_t>(slices.size());
  plan.slices.resize(slices.size() * sizeof(DeviceSlice));
  if (!slices.empty()) std::memcpy(plan.slices.data(), slices.data(), plan.slices.size());
  if (!operands(a).has_rows()) return plan;
  const HeadRuns runs = head_runs(operands(a));
  const std::int64_t rows = a.q.extent(1) * runs.max_heads, keys = a.k.extent(1);
  const std::int64_t num_blocks = a.q.extent(0) * runs.count * ((rows + planned_rows - 1) / planned_rows);
  const std::int64_t wanted = std::min((enough_blocks + num_blocks - 1) / num_blocks, keys / min_part_keys);
  plan.part_keys = static_cast<std::int32_t>(keys);
  if (wanted > 1) {
    const std::int64_t part_keys = ((keys + wanted - 1) / wanted + part_unit - 1) / part_unit * part_unit;
    plan.part_keys = static_cast<std::int32_t>(part_keys);
    plan.num_parts = static_cast<std::int32_t>((keys + part_keys - 1) / part_keys);
    const std::int64_t num_rows = a.q.extent(0) * a.q.extent(1) * a.q.extent(2);
    plan.workspace_bytes = static_cast<std::size_t>(plan.num_parts * num_rows * (a.v.extent(3) + 1)) * sizeof(float);
  }
  return plan;
}

bool attend_uses_tensor_cores(const AttendArguments& a) {
  return tensor_sizes(operands(a), a.scale, a.softcap) >= 0 && is_aligned(a.out, 8);
}

void attend(const AttendArguments& a, const AttendPlan& plan, const void* slices_on_device, void* workspace, Stream stream) {
  check(a);
  if (plan.num_slices > 0 && slices_on_device == nullptr) refuse(who, "slices_on_device is null, want plan.slices copied to the device");
  if (plan.workspace_bytes > 0 && workspace == nullptr)
    refuse(who, fmt::format("workspace is null, want {} bytes of device memory", plan.workspace_bytes));
  if (!operands(a).has_rows() || (plan.num_slices == 0 && !a.fresh)) return;
  const HeadRuns runs = head_runs(operands(a));
  const bool tensor = attend_uses_tensor_cores(a);
  const int sizes = tensor_sizes(operands(a), a.scale, a.softcap);
  AttendProblem p{attend_shape(operands(a), runs, a.scale, a.softcap)};
  p.slices = static_cast<const DeviceSlice*>(slices_on_device), p.num_slices = plan.num_slices;
  p.num_parts = plan.num_parts, p.part_keys = plan.part_keys;
  cut_rows(who, p, p.num_queries * runs.max_heads, tensor ? tensor_tile_rows(sizes) : plain_tile_rows);
  p.q = operand(a.q), p.k = operand(a.k), p.v = operand(a.v), p.out = operand(a.out), p.lse = operand(a.lse);
  if (a.sinks) p.sinks = a.sinks.as<float>(), p.sinks_stride = a.sinks.stride(2);
  p.fresh = a.fresh;
  if (plan.num_parts > 1) {
    p.part_out = static_cast<float*>(workspace);
    p.part_lse = p.part_out + std::int64_t{plan.num_parts} * p.batch * p.num_queries * p.q_heads * p.dv;
  }
  require_launch(who, tensor ? launch_attend_tensor(p, a.q.dtype, sizes, stream) : launch_attend_plain(p, a.q.dtype, stream));
  if (plan.num_parts > 1) require_launch(who, launch_attend_combine(p, stream));
}

}  // namespace cuda
SEQCCL_END
