// attend_plain.cu - the f32 attention kernel for each element type, and the merge of parts.
// SPDX-License-Identifier: Apache-2.0
#include "attend_plain.cuh"

#include "attend_combine.cuh"
#include "attend_launch.cuh"

SEQCCL_BEGIN
namespace cuda {

int launch_attend_plain(const AttendProblem& problem, DType dtype, Stream stream) {
  const auto kernel = dtype == f32 ? attend_plain<float> : dtype == f16 ? attend_plain<__half> : attend_plain<__nv_bfloat16>;
  return launch_attend(kernel, problem, PlainTile::num_threads, PlainTile::shared_bytes(problem.dk, problem.dv), stream);
}

int launch_attend_combine(const AttendProblem& problem, Stream stream) {
  const std::int64_t num_rows = std::int64_t{problem.batch} * problem.num_queries * problem.q_heads;
  attend_combine<<<static_cast<unsigned>((num_rows + 3) / 4), 128, 0, stream>>>(problem);
  return cudaGetLastError();
}

const char* error_name(int error) { return cudaGetErrorName(static_cast<cudaError_t>(error)); }
const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace cuda
SEQCCL_END
