// movement.cu - copy with conversion, add and zero on strided views, 16 bytes a thread where they lie so.
// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "instructions.cuh"
#include "movement_problem.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

template <class T, int width>
struct alignas(width * sizeof(T)) Piece {
  T values[width];
};

template <class To>
__device__ To narrow(float x) {
  if constexpr (std::is_same_v<To, __half>)
    return __float2half_rn(x);
  else if constexpr (std::is_same_v<To, __nv_bfloat16>)
    return __float2bfloat16_rn(x);
  else
    return x;
}

/// Offsets of piece n: 32-bit divisions where the number of pieces allows it, for 64-bit ones cost more than the piece.
template <class Index>
__device__ void find_piece(const MoveProblem& p, Index n, std::int64_t& from, std::int64_t& to) {
  for (int axis = p.num_axes - 1; axis > 0; --axis) {
    const auto extent = static_cast<Index>(p.extent[axis]);
    const Index at = n % extent;
    from += at * p.from_stride[axis], to += at * p.to_stride[axis];
    n /= extent;
  }
  from += n * p.from_stride[0], to += n * p.to_stride[0];
}

template <class From, class To, int width, Move move>
__global__ void __launch_bounds__(256) move_pieces(const __grid_constant__ MoveProblem p) {
  const std::int64_t n = std::int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (n >= p.num_pieces) return;
  std::int64_t from_offset = 0, to_offset = 0;
  if (p.num_pieces <= 0x7fffffff)
    find_piece(p, static_cast<std::uint32_t>(n), from_offset, to_offset);
  else
    find_piece(p, static_cast<std::uint64_t>(n), from_offset, to_offset);
  auto* const to = reinterpret_cast<Piece<To, width>*>(static_cast<To*>(p.to) + to_offset);
  Piece<To, width> made;
  if constexpr (move == Move::zero) {
#pragma unroll
    for (To& value : made.values) value = narrow<To>(0);
  } else {
    const auto source = *reinterpret_cast<const Piece<From, width>*>(static_cast<const From*>(p.from) + from_offset);
    if constexpr (move == Move::add) made = *to;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      if constexpr (move == Move::add)
        made.values[i] += widen(source.values[i]);
      else if constexpr (std::is_same_v<From, To>)
        made.values[i] = source.values[i];  // bit for bit
      else
        made.values[i] = narrow<To>(widen(source.values[i]));
    }
  }
  *to = made;
}

template <class From, class To, Move move>
int launch(const MoveProblem& p, int width, Stream stream) {
  constexpr int wide = 16 / static_cast<int>(sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
  const auto kernel = width == 1 ? move_pieces<From, To, 1, move> : move_pieces<From, To, wide, move>;
  kernel<<<static_cast<unsigned>((p.num_pieces + 255) / 256), 256, 0, stream>>>(p);
  return cudaGetLastError();
}
template <class Visit>
int with_type(DType type, Visit visit) {
  return type == f32 ? visit(float{}) : type == f16 ? visit(__half{}) : visit(__nv_bfloat16{});
}

}  // namespace

int launch_move(const MoveProblem& p, Move move, DType from, DType to, int width, Stream stream) {
  if (move == Move::zero) return with_type(to, [&]<class To>(To) { return launch<To, To, Move::zero>(p, width, stream); });
  return with_type(from, [&]<class From>(From) {
    if (move == Move::add) return launch<From, float, Move::add>(p, width, stream);
    return with_type(to, [&]<class To>(To) { return launch<From, To, Move::copy>(p, width, stream); });
  });
}

}  // namespace cuda
SEQCCL_END
