// shard.cpp - copies a rank's tokens out of a whole tensor and back into it.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstddef>
#include <cstring>

#include "seqccl/partition.hpp"

SEQCCL_BEGIN

namespace {

// A box of elements with its place on both sides.
struct Box {
  int num_axes = 0;
  std::array<std::int64_t, max_axes> shape{}, from_strides{}, to_strides{};
};

// Axes [first, num_axes) are dense on both sides, `run_bytes` in all.
struct Dense {
  int first = 0;
  std::size_t run_bytes = 0;
};

[[nodiscard]] Dense dense_axes(const Box& box, std::size_t element_bytes) noexcept {
  std::int64_t elements = 1;
  int axis = box.num_axes;
  while (axis > 0) {
    const int next = axis - 1;
    if (box.shape[next] != 1 && (box.from_strides[next] != elements || box.to_strides[next] != elements)) break;
    elements *= box.shape[next];
    axis = next;
  }
  return {axis, static_cast<std::size_t>(elements) * element_bytes};
}

void copy(const Box& box, const Dense& dense, std::ptrdiff_t element_bytes, int axis, const std::byte* from, std::byte* to) noexcept {
  if (axis == dense.first) {
    std::memcpy(to, from, dense.run_bytes);
    return;
  }
  for (std::int64_t i = 0; i < box.shape[axis]; ++i)
    copy(box, dense, element_bytes, axis + 1, from + i * box.from_strides[axis] * element_bytes,
         to + i * box.to_strides[axis] * element_bytes);
}

void check(const char* who, const Partition& partition, Rank rank, const ConstTensorView& whole, const ConstTensorView& shard) {
  const auto refuse = [who](const std::string& why) { return Error(ErrorKind::argument, fmt::format("Partition::{}: {}", who, why)); };
  if (rank < 0 || rank >= partition.num_ranks()) throw refuse(fmt::format("rank is {}, want 0 to {}", rank, partition.num_ranks() - 1));
  if (shard.dtype != whole.dtype) throw refuse(fmt::format("shard is {}, want {} as whole", name(shard.dtype), name(whole.dtype)));
  const int num_axes = whole.geometry.num_axes;
  if (num_axes < 2) throw refuse(fmt::format("whole has shape {}, want at least 2 axes (B, N, ...)", to_string(whole.geometry)));
  if (whole.extent(1) != partition.num_tokens())
    throw refuse(fmt::format("whole has shape {}, want {} tokens on axis 1", to_string(whole.geometry), partition.num_tokens()));
  Geometry want = whole.geometry;
  want.shape[1] = partition.tokens_on(rank);
  bool equal = shard.geometry.num_axes == num_axes;
  for (int axis = 0; equal && axis < num_axes; ++axis) equal = shard.extent(axis) == want.shape[axis];
  if (!equal) throw refuse(fmt::format("shard has shape {}, want {}", to_string(shard.geometry), to_string(want)));
  if (want.num_elements() == 0) return;
  if (!whole) throw refuse("whole has no memory (null), want data");
  if (!shard) throw refuse("shard has no memory (null), want data");
}

// `of_whole` and `of_shard` are the places of one token on the two sides.
template <class Visit>
void for_each_segment(const Partition& partition, Rank rank, const Geometry& whole, const Geometry& shard, std::size_t element_bytes,
                      Visit&& visit) {
  for (const Piece& piece : partition.pieces(rank))
    visit(piece, piece.tokens.first * whole.strides[1] * static_cast<std::int64_t>(element_bytes),
          piece.row * shard.strides[1] * static_cast<std::int64_t>(element_bytes));
}

}  // namespace

void Partition::shard(ConstTensorView whole, Rank rank, TensorView shard) const {
  check("shard", *this, rank, whole, shard);
  if (shard.geometry.num_elements() == 0) return;
  const std::size_t element_bytes = size_bytes(whole.dtype);
  for_each_segment(*this, rank, whole.geometry, shard.geometry, element_bytes,
                   [&](const Piece& piece, std::int64_t of_whole, std::int64_t of_shard) {
                     Box box{whole.geometry.num_axes, shard.geometry.shape, whole.geometry.strides, shard.geometry.strides};
                     box.shape[1] = piece.tokens.count;
                     box.from_strides[1] *= piece.tokens.step;
                     copy(box, dense_axes(box, element_bytes), static_cast<std::ptrdiff_t>(element_bytes), 0,
                          whole.as<std::byte>() + of_whole, shard.as<std::byte>() + of_shard);
                   });
}

void Partition::unshard(ConstTensorView shard, Rank rank, TensorView whole) const {
  check("unshard", *this, rank, whole, shard);
  if (shard.geometry.num_elements() == 0) return;
  const std::size_t element_bytes = size_bytes(whole.dtype);
  for_each_segment(*this, rank, whole.geometry, shard.geometry, element_bytes,
                   [&](const Piece& piece, std::int64_t of_whole, std::int64_t of_shard) {
                     Box box{whole.geometry.num_axes, shard.geometry.shape, shard.geometry.strides, whole.geometry.strides};
                     box.shape[1] = piece.tokens.count;
                     box.to_strides[1] *= piece.tokens.step;
                     copy(box, dense_axes(box, element_bytes), static_cast<std::ptrdiff_t>(element_bytes), 0,
                          shard.as<std::byte>() + of_shard, whole.as<std::byte>() + of_whole);
                   });
}

SEQCCL_END
