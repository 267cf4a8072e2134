// attend_tensor.cu - the tensor-core attention kernel for each head size and element type.
// SPDX-License-Identifier: Apache-2.0
#include "attend_tensor.cuh"

#include <iterator>
#include <utility>

#include "attend_launch.cuh"

SEQCCL_BEGIN
namespace cuda {
namespace {

template <class T, std::size_t n>
int launch(const AttendProblem& problem, Stream stream) {
  using Tile = TensorTile<tensor_head_sizes[n].dk, tensor_head_sizes[n].dv>;
  return launch_attend(attend_tensor<T, tensor_head_sizes[n].dk, tensor_head_sizes[n].dv>, problem, Tile::num_threads, Tile::shared_bytes,
                       stream);
}
template <class T, std::size_t... n>
int launch_one_of(std::index_sequence<n...>, const AttendProblem& problem, int sizes, Stream stream) {
  using Launch = int (*)(const AttendProblem&, Stream);
  constexpr Launch launches[] = {launch<T, n>...};
  return launches[sizes](problem, stream);
}
template <std::size_t... n>
int rows_of(std::index_sequence<n...>, int sizes) {
  constexpr int rows[] = {TensorTile<tensor_head_sizes[n].dk, tensor_head_sizes[n].dv>::rows...};
  return rows[sizes];
}
constexpr auto all_sizes = std::make_index_sequence<std::size(tensor_head_sizes)>{};

}  // namespace

int launch_attend_tensor(const AttendProblem& problem, DType dtype, int sizes, Stream stream) {
  return dtype == bf16 ? launch_one_of<__nv_bfloat16>(all_sizes, problem, sizes, stream)
                       : launch_one_of<__half>(all_sizes, problem, sizes, stream);
}
int tensor_tile_rows(int sizes) { return rows_of(all_sizes, sizes); }

}  // namespace cuda
SEQCCL_END
