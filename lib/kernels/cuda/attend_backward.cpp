// attend_backward.cpp - checks and plans the gradient launches, and picks the kernels.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "attend_arguments.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr const char* who = "attend_backward";

AttendOperands operands(const AttendBackwardArguments& a) { return {who, a.q, a.k, a.v, a.heads}; }

void check(const AttendBackwardArguments& a) {
  check_operands(operands(a));
  const std::int64_t batch = a.q.extent(0), queries = a.q.extent(1), q_heads = a.q.extent(2), dk = a.q.extent(3);
  const std::int64_t keys = a.k.extent(1), kv_heads = a.k.extent(2), dv = a.v.extent(3);
  check_shape(who, "dout", a.dout, batch, queries, q_heads, dv);
  check_shape(who, "lse", a.lse, batch, queries, q_heads, 1);
  check_shape(who, "delta", a.delta, batch, queries, q_heads, 1);
  check_shape(who, "dq", a.dq, batch, queries, q_heads, dk);
  check_shape(who, "dk", a.dk, batch, keys, kv_heads, dk);
  check_shape(who, "dv", a.dv, batch, keys, kv_heads, dv);
  if (a.dout.dtype != a.q.dtype) refuse(who, std::string("dout is ") + name(a.dout.dtype) + ", want " + name(a.q.dtype) + " as q, k, v");
  check_f32(who, "lse", a.lse);
  check_f32(who, "delta", a.delta);
  check_f32(who, "dq", a.dq);
  check_f32(who, "dk", a.dk);
  check_f32(who, "dv", a.dv);
}

bool uses_tensor_cores(const AttendBackwardArguments& a) {
  return tensor_sizes(operands(a), a.scale, a.softcap) >= 0 && is_aligned(a.dout, 16) && is_aligned(a.dq, 8) && is_aligned(a.dk, 8) &&
         is_aligned(a.dv, 8);
}

}  // namespace

AttendBackwardPlan plan_attend_backward(const AttendBackwardArguments& a) {
  check(a);
  AttendBackwardPlan plan;
  const std::vector<DeviceSlice> by_queries = device_slices(operands(a), a.slices), by_keys = device_slices(operands(a), a.slices, true);
  plan.num_slices = static_cast<std::int32_t>(by_queries.size());
  const std::size_t num_bytes = by_queries.size() * sizeof(DeviceSlice);
  plan.slices.resize(2 * num_bytes);
  if (num_bytes == 0) return plan;
  std::memcpy(plan.slices.data(), by_queries.data(), num_bytes);
  std::memcpy(plan.slices.data() + num_bytes, by_keys.data(), num_bytes);
  return plan;
}

bool attend_backward_uses_tensor_cores(const AttendBackwardArguments& a) { return uses_tensor_cores(a); }

void attend_backward(const AttendBackwardArguments& a, const AttendBackwardPlan& plan, const void* slices_on_device, Stream stream) {
  check(a);
  if (plan.num_slices > 0 && slices_on_device == nullptr) refuse(who, "slices_on_device is null, want plan.slices copied to the device");
  const bool tensor = uses_tensor_cores(a);
  const int sizes = tensor_sizes(operands(a), a.scale, a.softcap);
  const auto* slices = static_cast<const DeviceSlice*>(slices_on_device);
  const HeadRuns runs = operands(a).has_rows() ? head_runs(operands(a)) : HeadRuns{};
  AttendBackwardProblem p{attend_shape(operands(a), runs, a.scale, a.softcap)};
  p.num_slices = plan.num_slices;
  p.q = operand(a.q), p.k = operand(a.k), p.v = operand(a.v), p.dout = operand(a.dout);
  p.lse = read_only(a.lse), p.delta = read_only(a.delta);
  p.dq = operand(a.dq), p.dkeys = operand(a.dk), p.dvalues = operand(a.dv);
  p.fresh_dq = a.fresh_dq, p.fresh_dkv = a.fresh_dkv;
  const int tile_rows = tensor ? backward_tensor_rows : backward_plain_rows;
  const auto launch = [&](Gradients which) {
    require_launch(who, tensor ? launch_attend_backward_tensor(p, which, a.q.dtype, sizes, stream)
                               : launch_attend_backward_plain(p, which, a.q.dtype, stream));
  };
  if (operands(a).has_rows() && (plan.num_slices > 0 || a.fresh_dq)) {
    p.slices = slices;
    cut_rows(who, p, p.num_queries * runs.max_heads, tile_rows);
    launch(Gradients::q);
  }
  const std::int64_t kv_heads = a.k.extent(2);
  if (p.batch > 0 && p.num_keys > 0 && kv_heads > 0 && (plan.num_slices > 0 || a.fresh_dkv)) {
    p.slices = slices + plan.num_slices;
    p.first_run = p.first_kv, p.num_runs = static_cast<std::int32_t>(kv_heads);
    p.part_keys = p.num_queries;  // columns are queries
    cut_rows(who, p, p.num_keys, tile_rows);
    launch(Gradients::kv);
  }
}

}  // namespace cuda
SEQCCL_END
