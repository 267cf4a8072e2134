// attend_arguments.cpp - what attend launches ask of their arguments and make of them.
// SPDX-License-Identifier: Apache-2.0
#include "attend_arguments.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <tuple>

#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr std::int64_t max_blocks = 0x7fffffff, max_head_size = 256;

}  // namespace

void refuse(const char* who, const std::string& text) { throw Error(ErrorKind::argument, fmt::format("{}: {}", who, text)); }

void check_shape(const char* who, const char* what, const ConstTensorView& x, std::int64_t e0, std::int64_t e1, std::int64_t e2,
                 std::int64_t e3) {
  if (x.geometry.num_axes != 4 || x.extent(0) != e0 || x.extent(1) != e1 || x.extent(2) != e2 || x.extent(3) != e3)
    refuse(who, fmt::format("{} is {}, want ({}, {}, {}, {})", what, to_string(x.geometry), e0, e1, e2, e3));
  if (e3 > 1 && x.stride(3) != 1) refuse(who, fmt::format("the last axis of {} has stride {}, want 1", what, x.stride(3)));
}

void check_f32(const char* who, const char* what, const ConstTensorView& x) {
  if (x.dtype != f32) refuse(who, fmt::format("{} is {}, want f32", what, name(x.dtype)));
}

void check_operands(const AttendOperands& a) {
  if (a.q.geometry.num_axes != 4 || a.k.geometry.num_axes != 4 || a.v.geometry.num_axes != 4)
    refuse(a.who, fmt::format("q, k, v are {}, {}, {}, want four axes (B, T, H, D) each", to_string(a.q.geometry), to_string(a.k.geometry),
                              to_string(a.v.geometry)));
  const std::int64_t batch = a.q.extent(0), queries = a.q.extent(1), q_heads = a.q.extent(2), dk = a.q.extent(3);
  const std::int64_t keys = a.k.extent(1), kv_heads = a.k.extent(2), dv = a.v.extent(3);
  check_shape(a.who, "q", a.q, batch, queries, q_heads, dk);
  check_shape(a.who, "k", a.k, batch, keys, kv_heads, dk);
  check_shape(a.who, "v", a.v, batch, keys, kv_heads, dv);
  if (a.q.dtype == DType::f64 || a.k.dtype != a.q.dtype || a.v.dtype != a.q.dtype)
    refuse(a.who,
           fmt::format("q, k, v are {}, {}, {}, want one of f32, f16, bf16 for all", name(a.q.dtype), name(a.k.dtype), name(a.v.dtype)));
  if (dk > max_head_size || dv > max_head_size)
    refuse(a.who, fmt::format("heads have Dk = {}, Dv = {} elements, want at most {} on a CUDA device", dk, dv, max_head_size));
  if (queries >= max_rows || keys >= max_rows)
    refuse(a.who, fmt::format("{} queries and {} keys, want fewer than {}", queries, keys, max_rows));
  if (a.heads.group < 1) refuse(a.who, fmt::format("heads.group is {}, want at least 1", a.heads.group));
  for (std::int64_t head = 0; head < q_heads; head += std::max<std::int64_t>(1, q_heads - 1)) {  // the map grows: first and last tell all
    const std::int64_t kv_head = a.heads.kv_head(static_cast<std::int32_t>(head));
    if (kv_head < 0 || kv_head >= kv_heads)
      refuse(a.who, fmt::format("heads maps query head {} to key/value head {}, want 0 <= head < {}", head, kv_head, kv_heads));
  }
}

bool is_aligned(const ConstTensorView& x, std::size_t num_bytes) {
  const auto fits = [&](std::int64_t elements) { return static_cast<std::size_t>(elements) * size_bytes(x.dtype) % num_bytes == 0; };
  return reinterpret_cast<std::uintptr_t>(x.data) % num_bytes == 0 && (x.extent(0) == 1 || fits(x.stride(0))) &&
         (x.extent(1) == 1 || fits(x.stride(1))) && (x.extent(2) == 1 || fits(x.stride(2)));
}

int tensor_sizes(const AttendOperands& a, float scale, float softcap) {
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3);
  const bool sixteen_bits = a.q.dtype == f16 || a.q.dtype == bf16, chunks = dk % 8 == 0 && dv % 8 == 0 && dk > 0 && dv > 0;
  if (!sixteen_bits || !chunks || !is_aligned(a.q, 16) || !is_aligned(a.k, 16) || !is_aligned(a.v, 16)) return -1;
  if (softcap == 0 && !(scale > 0)) return -1;  // maxima are taken before scaling
  const auto fits = [&](const HeadSizes& sizes) { return dk <= sizes.dk && dv <= sizes.dv; };
  const auto found = std::find_if(std::begin(tensor_head_sizes), std::end(tensor_head_sizes), fits);
  return found == std::end(tensor_head_sizes) ? -1 : static_cast<int>(found - std::begin(tensor_head_sizes));
}

std::vector<DeviceSlice> device_slices(const AttendOperands& a, std::span<const BandSlice> slices, bool transposed) {
  std::vector<DeviceSlice> result;
  const std::int64_t num_queries = a.q.extent(1), num_keys = a.k.extent(1);
  for (const BandSlice& s : slices) {
    const std::int64_t q_first = std::max<std::int64_t>(0, s.q_first), q_end = std::min(num_queries, s.q_first + s.q_count);
    const std::int64_t k_first = std::max<std::int64_t>(0, s.k_first), k_end = std::min(num_keys, s.k_first + s.k_count);
    const std::int64_t low = std::max(s.low, -max_rows), high = std::min(s.high, max_rows);
    if (q_first >= q_end || k_first >= k_end || low > high || low >= max_rows || high <= -max_rows) continue;
    const auto narrow = [](std::int64_t x) { return static_cast<std::int32_t>(x); };
    DeviceSlice slice{narrow(q_first), narrow(q_end), narrow(k_first), narrow(k_end), narrow(low), narrow(high), narrow(s.batch), 0};
    if (transposed) slice = {slice.k_first, slice.k_end, slice.q_first, slice.q_end, -slice.high, -slice.low, slice.batch, 0};
    result.push_back(slice);
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

HeadRuns head_runs(const AttendOperands& a) {
  const std::int64_t group = a.heads.group, first = a.heads.first_q, end = first + a.q.extent(2);
  const std::int64_t first_run = first / group, end_run = (end + group - 1) / group;
  std::int64_t most = 1;
  for (const std::int64_t run : {first_run, std::min(first_run + 1, end_run - 1), end_run - 1})  // whole ones but for the first and last
    most = std::max(most, std::min(end, (run + 1) * group) - std::max(first, run * group));
  return {static_cast<std::int32_t>(first_run), static_cast<std::int32_t>(end_run - first_run), most};
}

AttendShape attend_shape(const AttendOperands& a, const HeadRuns& runs, float scale, float softcap) {
  const auto extent = [](const ConstTensorView& x, int axis) { return static_cast<std::int32_t>(x.extent(axis)); };
  AttendShape shape;
  shape.batch = extent(a.q, 0), shape.num_queries = extent(a.q, 1), shape.num_keys = extent(a.k, 1);
  shape.q_heads = extent(a.q, 2), shape.dk = extent(a.q, 3), shape.dv = extent(a.v, 3);
  shape.first_q = a.heads.first_q, shape.first_kv = a.heads.first_kv, shape.group = a.heads.group;
  shape.first_run = runs.first, shape.num_runs = runs.count;
  shape.part_keys = shape.num_keys;
  shape.scale = scale, shape.softcap = softcap;
  return shape;
}

void cut_rows(const char* who, AttendShape& shape, std::int64_t num_rows, int tile_rows) {
  const std::int64_t num_tiles = (num_rows + tile_rows - 1) / tile_rows;
  const std::int64_t num_blocks = std::int64_t{shape.batch} * num_tiles * shape.num_runs * shape.num_parts;
  if (num_blocks > max_blocks || num_tiles > max_blocks)
    refuse(who,
           fmt::format("{} blocks of {} rows, want at most {}: take fewer tokens or heads at once", num_blocks, tile_rows, max_blocks));
  shape.num_tiles = static_cast<std::int32_t>(num_tiles);
}

void require_launch(const char* who, int error) {
  if (error != 0) throw Error(ErrorKind::local, fmt::format("{}: the launch failed: {} ({})", who, error_text(error), error_name(error)));
}

}  // namespace cuda
SEQCCL_END
