// attend.cpp - checks and plans an attend launch, and picks the kernel.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <tuple>

#include "attend_problem.hpp"
#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr std::int64_t enough_blocks = 256;  // for about a hundred multiprocessors; a constant, so that results do not depend on the device
constexpr std::int64_t min_part_keys = 512;  // keys that pay for a part of their own
constexpr std::int64_t part_unit = 64;       // parts begin at multiples: whole tiles
constexpr std::int64_t max_blocks = 0x7fffffff;
constexpr std::int64_t max_head_size = 256;

[[noreturn]] void refuse(const std::string& text) { throw Error(ErrorKind::argument, "attend: " + text); }

void check_shape(const char* what, const ConstTensorView& x, std::int64_t e0, std::int64_t e1, std::int64_t e2, std::int64_t e3) {
  if (x.geometry.num_axes != 4 || x.extent(0) != e0 || x.extent(1) != e1 || x.extent(2) != e2 || x.extent(3) != e3)
    refuse(fmt::format("{} is {}, want ({}, {}, {}, {})", what, to_string(x.geometry), e0, e1, e2, e3));
  if (e3 > 1 && x.stride(3) != 1) refuse(fmt::format("the last axis of {} has stride {}, want 1", what, x.stride(3)));
}

void check(const AttendArguments& a) {
  if (a.q.geometry.num_axes != 4 || a.k.geometry.num_axes != 4 || a.v.geometry.num_axes != 4)
    refuse(fmt::format("q, k, v are {}, {}, {}, want four axes (B, T, H, D) each", to_string(a.q.geometry), to_string(a.k.geometry),
                       to_string(a.v.geometry)));
  const std::int64_t batch = a.q.extent(0), queries = a.q.extent(1), q_heads = a.q.extent(2), dk = a.q.extent(3);
  const std::int64_t keys = a.k.extent(1), kv_heads = a.k.extent(2), dv = a.v.extent(3);
  check_shape("q", a.q, batch, queries, q_heads, dk);
  check_shape("k", a.k, batch, keys, kv_heads, dk);
  check_shape("v", a.v, batch, keys, kv_heads, dv);
  check_shape("out", a.out, batch, queries, q_heads, dv);
  check_shape("lse", a.lse, batch, queries, q_heads, 1);
  if (a.q.dtype == DType::f64 || a.k.dtype != a.q.dtype || a.v.dtype != a.q.dtype)
    refuse(fmt::format("q, k, v are {}, {}, {}, want one of f32, f16, bf16 for all", name(a.q.dtype), name(a.k.dtype), name(a.v.dtype)));
  if (a.out.dtype != f32 || a.lse.dtype != f32) refuse(fmt::format("out, lse are {}, {}, want f32", name(a.out.dtype), name(a.lse.dtype)));
  if (a.sinks && !a.fresh) refuse("sinks are given with fresh = false, want fresh = true: they join a fresh state");
  if (a.sinks) check_shape("sinks", a.sinks, 1, 1, q_heads, 1);
  if (a.sinks && a.sinks.dtype != f32) refuse(fmt::format("sinks are {}, want f32", name(a.sinks.dtype)));
  if (dk > max_head_size || dv > max_head_size)
    refuse(fmt::format("heads have Dk = {}, Dv = {} elements, want at most {} on a CUDA device", dk, dv, max_head_size));
  if (queries >= max_rows || keys >= max_rows) refuse(fmt::format("{} queries and {} keys, want fewer than {}", queries, keys, max_rows));
  if (a.heads.group < 1) refuse(fmt::format("heads.group is {}, want at least 1", a.heads.group));
  for (std::int64_t head = 0; head < q_heads; head += std::max<std::int64_t>(1, q_heads - 1)) {  // the map grows: first and last tell all
    const std::int64_t kv_head = a.heads.kv_head(static_cast<std::int32_t>(head));
    if (kv_head < 0 || kv_head >= kv_heads)
      refuse(fmt::format("heads maps query head {} to key/value head {}, want 0 <= head < {}", head, kv_head, kv_heads));
  }
}

bool is_aligned(const ConstTensorView& x, std::size_t num_bytes) {
  const auto fits = [&](std::int64_t elements) { return static_cast<std::size_t>(elements) * size_bytes(x.dtype) % num_bytes == 0; };
  return reinterpret_cast<std::uintptr_t>(x.data) % num_bytes == 0 && (x.extent(0) == 1 || fits(x.stride(0))) &&
         (x.extent(1) == 1 || fits(x.stride(1))) && (x.extent(2) == 1 || fits(x.stride(2)));
}

/// Index of the smallest head sizes that a tensor-core kernel has for these; -1: none.
int tensor_sizes(const AttendArguments& a) {
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3);
  const auto fits = [&](const HeadSizes& sizes) { return dk <= sizes.dk && dv <= sizes.dv; };
  const auto found = std::find_if(std::begin(tensor_head_sizes), std::end(tensor_head_sizes), fits);
  return found == std::end(tensor_head_sizes) ? -1 : static_cast<int>(found - std::begin(tensor_head_sizes));
}

/// Slices inside the operands, in the order that the device searches.
std::vector<DeviceSlice> device_slices(const AttendArguments& a) {
  std::vector<DeviceSlice> result;
  const std::int64_t num_queries = a.q.extent(1), num_keys = a.k.extent(1);
  for (const BandSlice& s : a.slices) {
    const std::int64_t q_first = std::max<std::int64_t>(0, s.q_first), q_end = std::min(num_queries, s.q_first + s.q_count);
    const std::int64_t k_first = std::max<std::int64_t>(0, s.k_first), k_end = std::min(num_keys, s.k_first + s.k_count);
    const std::int64_t low = std::max(s.low, -max_rows), high = std::min(s.high, max_rows);
    if (q_first >= q_end || k_first >= k_end || low > high || low >= max_rows || high <= -max_rows) continue;
    const auto narrow = [](std::int64_t x) { return static_cast<std::int32_t>(x); };
    result.push_back({narrow(q_first), narrow(q_end), narrow(k_first), narrow(k_end), narrow(low), narrow(high), narrow(s.batch), 0});
  }
  std::sort(result.begin(), result.end(), [](const DeviceSlice& x, const DeviceSlice& y) {
    return std::tie(x.batch, x.q_first, x.k_first) < std::tie(y.batch, y.q_first, y.k_first);
  });
  for (std::size_t n = 0; n < result.size(); ++n) {
    const bool follows = n > 0 && result[n - 1].batch == result[n].batch;
    result[n].reach = follows ? std::max(result[n].q_end, result[n - 1].reach) : result[n].q_end;
  }
  return result;
}

struct Runs {
  std::int32_t first = 0, count = 0;
  std::int64_t max_heads = 1;
};
Runs runs_of(const AttendArguments& a) {
  const std::int64_t group = a.heads.group, first = a.heads.first_q, end = first + a.q.extent(2);
  const std::int64_t first_run = first / group, end_run = (end + group - 1) / group;
  std::int64_t most = 1;
  for (const std::int64_t run : {first_run, std::min(first_run + 1, end_run - 1), end_run - 1})  // whole ones but for the first and last
    most = std::max(most, std::min(end, (run + 1) * group) - std::max(first, run * group));
  return {static_cast<std::int32_t>(first_run), static_cast<std::int32_t>(end_run - first_run), most};
}

bool is_empty(const AttendArguments& a) { return a.q.extent(0) == 0 || a.q.extent(1) == 0 || a.q.extent(2) == 0; }

Operand operand(const ConstTensorView& x) { return {x.data, x.stride(0), x.stride(1), x.stride(2)}; }
FloatOperand operand(const TensorView& x) { return {x.as<float>(), x.stride(0), x.stride(1), x.stride(2)}; }

void require(int error) {
  if (error != 0) throw Error(ErrorKind::local, fmt::format("attend: the launch failed: {} ({})", error_text(error), error_name(error)));
}

}  // namespace

AttendPlan plan_attend(const AttendArguments& a) {
  check(a);
  AttendPlan plan;
  const std::vector<DeviceSlice> slices = device_slices(a);
  plan.num_slices = static_cast<std::int32_t>(slices.size());
  plan.slices.resize(slices.size() * sizeof(DeviceSlice));
  if (!slices.empty()) std::memcpy(plan.slices.data(), slices.data(), plan.slices.size());
  if (is_empty(a)) return plan;
  const Runs runs = runs_of(a);
  const std::int64_t rows = a.q.extent(1) * runs.max_heads, keys = a.k.extent(1);
  const std::int64_t num_blocks = a.q.extent(0) * runs.count * ((rows + 127) / 128);
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
  const bool sixteen_bits = a.q.dtype == f16 || a.q.dtype == bf16;
  const bool chunks = a.q.extent(3) % 8 == 0 && a.v.extent(3) % 8 == 0 && a.q.extent(3) > 0 && a.v.extent(3) > 0;
  return sixteen_bits && chunks && tensor_sizes(a) >= 0 && is_aligned(a.q, 16) && is_aligned(a.k, 16) && is_aligned(a.v, 16) &&
         is_aligned(a.out, 8) && (a.softcap != 0 || a.scale > 0);
}

void attend(const AttendArguments& a, const AttendPlan& plan, const void* slices_on_device, void* workspace, Stream stream) {
  check(a);
  if (plan.num_slices > 0 && slices_on_device == nullptr) refuse("slices_on_device is null, want plan.slices copied to the device");
  if (plan.workspace_bytes > 0 && workspace == nullptr)
    refuse(fmt::format("workspace is null, want {} bytes of device memory", plan.workspace_bytes));
  if (is_empty(a) || (plan.num_slices == 0 && !a.fresh)) return;
  const Runs runs = runs_of(a);
  const bool tensor = attend_uses_tensor_cores(a);
  const int sizes = tensor_sizes(a), tile_rows = tensor ? tensor_tile_rows(sizes) : plain_tile_rows;
  AttendProblem p;
  p.q = operand(a.q), p.k = operand(a.k), p.v = operand(a.v), p.out = operand(a.out), p.lse = operand(a.lse);
  if (a.sinks) p.sinks = a.sinks.as<float>(), p.sinks_stride = a.sinks.stride(2);
  p.slices = static_cast<const DeviceSlice*>(slices_on_device), p.num_slices = plan.num_slices;
  const auto narrow = [](std::int64_t x) { return static_cast<std::int32_t>(x); };
  p.batch = narrow(a.q.extent(0)), p.num_queries = narrow(a.q.extent(1)), p.num_keys = narrow(a.k.extent(1));
  p.q_heads = narrow(a.q.extent(2)), p.dk = narrow(a.q.extent(3)), p.dv = narrow(a.v.extent(3));
  p.first_q = a.heads.first_q, p.first_kv = a.heads.first_kv, p.group = a.heads.group;
  p.first_run = runs.first, p.num_runs = runs.count;
  p.num_parts = plan.num_parts, p.part_keys = plan.part_keys;
  p.scale = a.scale, p.softcap = a.softcap, p.fresh = a.fresh;
  const std::int64_t num_tiles = (p.num_queries * runs.max_heads + tile_rows - 1) / tile_rows;
  const std::int64_t num_rows = std::int64_t{p.batch} * p.num_queries * p.q_heads;
  const std::int64_t num_blocks = p.batch * num_tiles * p.num_runs * p.num_parts;
  if (num_blocks > max_blocks || num_rows > 4 * max_blocks)
    refuse(fmt::format("{} blocks of {} rows, want at most {}: take fewer queries or heads at once", num_blocks, tile_rows, max_blocks));
  p.num_tiles = narrow(num_tiles);
  if (plan.num_parts > 1) {
    p.part_out = static_cast<float*>(workspace);
    p.part_lse = p.part_out + plan.num_parts * num_rows * p.dv;
  }
  require(tensor ? launch_attend_tensor(p, a.q.dtype, sizes, stream) : launch_attend_plain(p, a.q.dtype, stream));
  if (plan.num_parts > 1) require(launch_attend_combine(p, stream));
}

}  // namespace cuda
SEQCCL_END
