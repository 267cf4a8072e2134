// attend_backward.cu - the gradient kernels for each head size and element type.
// SPDX-License-Identifier: Apache-2.0
#include <iterator>
#include <utility>

#include "attend_backward_plain.cuh"
#include "attend_backward_tensor.cuh"
#include "attend_launch.cuh"

SEQCCL_BEGIN
namespace cuda {
namespace {

template <class T, std::size_t n, bool by_keys, Sums sums>
int launch(const AttendBackwardProblem& problem, Stream stream) {
  constexpr int dk = tensor_head_sizes[n].dk, dv = tensor_head_sizes[n].dv;
  using Tile = BackwardTile<dk, dv>;
  return launch_attend(attend_backward_tensor<T, dk, dv, by_keys, sums>, problem, Tile::num_threads, Tile::shared_bytes, stream);
}
/// Keys and values at once where registers hold both sums.
template <class T, std::size_t n>
int launch_gradients(const AttendBackwardProblem& problem, Gradients which, Stream stream) {
  if (which == Gradients::q) return launch<T, n, false, Sums::of_ds>(problem, stream);
  if constexpr (tensor_head_sizes[n].dv <= 128) {
    return launch<T, n, true, Sums::both>(problem, stream);
  } else {
    const int error = launch<T, n, true, Sums::of_ds>(problem, stream);
    return error != 0 ? error : launch<T, n, true, Sums::of_p>(problem, stream);
  }
}
template <class T, std::size_t... n>
int launch_one_of(std::index_sequence<n...>, const AttendBackwardProblem& problem, Gradients which, int sizes, Stream stream) {
  using Launch = int (*)(const AttendBackwardProblem&, Gradients, Stream);
  constexpr Launch launches[] = {launch_gradients<T, n>...};
  return launches[sizes](problem, which, stream);
}

}  // namespace

int launch_attend_backward_tensor(const AttendBackwardProblem& problem, Gradients which, DType dtype, int sizes, Stream stream) {
  constexpr auto all = std::make_index_sequence<std::size(tensor_head_sizes)>{};
  return dtype == bf16 ? launch_one_of<__nv_bfloat16>(all, problem, which, sizes, stream)
                       : launch_one_of<__half>(all, problem, which, sizes, stream);
}

int launch_attend_backward_plain(const AttendBackwardProblem& problem, Gradients which, DType dtype, Stream stream) {
  const int shared_bytes = BackwardPlainTile::shared_bytes(problem.dk, problem.dv);
  const auto start = [&](auto for_queries, auto for_keys) {
    return launch_attend(which == Gradients::q ? for_queries : for_keys, problem, BackwardPlainTile::num_threads, shared_bytes, stream);
  };
  if (dtype == f32) return start(attend_backward_plain<float, false>, attend_backward_plain<float, true>);
  if (dtype == f16) return start(attend_backward_plain<__half, false>, attend_backward_plain<__half, true>);
  return start(attend_backward_plain<__nv_bfloat16, false>, attend_backward_plain<__nv_bfloat16, true>);
}

}  // namespace cuda
SEQCCL_END
