// linear_problem.hpp - what the kernels of linear attention are launched with: plain data, the same for host and device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "seqccl/cuda_kernels.hpp"
#include "seqccl/merge.hpp"

SEQCCL_BEGIN
namespace cuda {

// Letters: C tokens of a chunk, W width of the decay (1 scalar gate, Dk vector gate), l_t its log_decay. A launch works on a segment: the
// same chunks of a run in all (b, h), a block per chunk or for each of its tiles.
//
//     g_t = l_1 + ... + l_t from the first token of the chunk    r(t,i) = exp(l_(i+1) + ... + l_t)
//
// With `before` token t reads the state before it: g stops before t, r(t,i) = exp(l_(i+1) + ... + l_(t-1)), and r(t,t) does not exist.
// Every exponent is a sum of logs outwards from one token, never a difference of two sums: log_decay may be -inf.
inline constexpr int chunk_tokens = 64, block_tokens = 16, chunk_blocks = chunk_tokens / block_tokens;

/// The chunks of a segment.
struct Segment {
  std::int32_t batch = 0, heads = 0, num_chunks = 0, tokens = 0;  // tokens of the segment: its last chunk may be short
  SEQCCL_HOST_DEVICE int count(int chunk) const {
    const int left = tokens - chunk * chunk_tokens;
    return left < chunk_tokens ? left : chunk_tokens;
  }
  SEQCCL_HOST_DEVICE std::int64_t num_items() const { return std::int64_t{batch} * heads * num_chunks; }
};
/// One of them: item = (b heads + h) chunks + c.
struct Item {
  std::int64_t index;
  int b, h, chunk;
  SEQCCL_HOST_DEVICE Item(const Segment& s, std::int64_t item) : Item(s, item / s.num_chunks, static_cast<int>(item % s.num_chunks)) {}
  SEQCCL_HOST_DEVICE Item(const Segment& s, std::int64_t run, int chunk_)
      : index(run * s.num_chunks + chunk_), b(static_cast<int>(run / s.heads)), h(static_cast<int>(run % s.heads)), chunk(chunk_) {}
};

/// A matrix for each chunk: element (row, x) at data + b batch + h head + c chunk + row `row` + x. What is read is multiplied by `scale`,
/// and by `factor` if it is there: (items, C, factor_width) f32, one number for the whole row if the width is 1.
struct ChunkMatrix {
  void* data = nullptr;
  DType type = f32;
  std::int32_t rows = 0, columns = 0;  // at most; those that are tokens end with the chunk
  bool rows_are_tokens = true, columns_are_tokens = false;
  std::int64_t batch = 0, head = 0, chunk = 0, row = 0;
  const float* factor = nullptr;
  std::int32_t factor_width = 0;
  float scale = 1;
};

/// out = factor (sign a b) + sign1 a1 b1 + ... + plus, or added to what is there. A turned operand is used transposed.
struct ProductTerm {
  ChunkMatrix a, b;
  bool turn_a = false, turn_b = false;
  float sign = 1;
};
enum class Triangle : std::int32_t { all, lower, strictly_lower };  // what is not in it becomes 0
struct ProductProblem : Segment {
  static constexpr int max_terms = 3;
  std::int32_t num_terms = 0;
  ProductTerm terms[max_terms];
  const float* factor = nullptr;  // on the first term: (items, C, factor_width)
  std::int32_t factor_width = 0;
  ChunkMatrix plus;  // may be absent
  ChunkMatrix out;   // f32, f16 or bf16; f32 if added to
  bool accumulate = false;
  Triangle triangle = Triangle::all;
};
int launch_products(const ProductProblem& problem, Stream stream);

/// Zero bytes, in order with the stream.
int enqueue_zeros(void* data, std::size_t num_bytes, Stream stream);

/// log_decay (B, T, H, W) of a segment, and tables made of it, (items, C, W) but `total` (items, W); each is made if it is there.
struct DecayProblem : Segment {
  const float* logs = nullptr;
  std::int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
  std::int32_t width = 0;
  bool before = false;
  float* queries = nullptr;       // exp(g_t), or exp(carry + g_t)
  float* keys = nullptr;          // exp(l_(i+1) + ... + l_C)
  float* total = nullptr;         // exp(l_1 + ... + l_C)
  double* log_total = nullptr;    // the sum
  const double* carry = nullptr;  // (items, W)
  float* ratio = nullptr;         // (items, C, C) r(t,i) of a scalar gate; what is not below the diagonal is r(t,t) or 0
  SEQCCL_HOST_DEVICE const float* at(const Item& item, int token) const {
    return logs + item.b * batch_stride + item.h * head_stride + (std::int64_t{item.chunk} * chunk_tokens + token) * token_stride;
  }
};
int launch_decay_tables(const DecayProblem& problem, Stream stream);
int launch_decay_ratio(const DecayProblem& problem, Stream stream);

/// carry (items, W) = sum of `values` (items, W) over the chunks before, after `sums` (B H, W), which is then that over all.
struct ScanProblem : Segment {
  std::int32_t width = 0;
  const double* values = nullptr;
  double *carry = nullptr, *sums = nullptr;
};
int launch_scan(const ScanProblem& problem, Stream stream);

/// Scores of a vector gate: pairs_ti = sum_d x_td k_id r(t,i)_d, up to two x with the same keys; with `before` only i < t.
struct PairScores : DecayProblem {
  ChunkMatrix k, x[2];
  bool strict[2] = {};   // zero on the diagonal too
  float* pairs[2] = {};  // (items, C, C), zero above the diagonal
  std::int32_t count_x = 0;
};
int launch_pair_scores(const PairScores& problem, Stream stream);

/// The other way, of pairs that are zero on and above the diagonal:
///     rows_t += sum_(i<t) pairs_ti r(t,i) k_i        columns_i += sum_(t>i) pairs_ti r(t,i) x_t
struct PairGradients : DecayProblem {
  ChunkMatrix k, x;
  const float* pairs = nullptr;               // (items, C, C)
  float *rows = nullptr, *columns = nullptr;  // (items, C, Dk)
};
int launch_pair_gradients(const PairGradients& problem, Stream stream);

/// The system of the delta rule: inverse = (I + diag(beta) G)^-1 and solve = inverse diag(beta), G below the diagonal.
struct InverseProblem : Segment {
  const float* gram = nullptr;  // (items, C, C)
  const float* beta = nullptr;
  std::int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
  float *inverse = nullptr, *solve = nullptr;  // (items, C, C), zero above the diagonal and behind the last token
};
int launch_inverse(const InverseProblem& problem, Stream stream);

/// States S (Dk, V) from chunk to chunk, the first to the last or back:
///
///     mid = middle + sign p S        S <- diag(total) S + a1^T b1 + sign2 a2^T mid
///
/// Each part may be absent.
struct SweepProblem : Segment {
  std::int32_t key_dim = 0, width = 0;       // width: V
  bool backwards = false, identity = false;  // identity: S is that at first, `initial` being absent
  ChunkMatrix initial, final;                // (Dk, V) f32, chunk 0; initial absent: zero
  const float* total = nullptr;              // (items, total_width)
  std::int32_t total_width = 0;
  ChunkMatrix p, middle;  // (C, Dk) (C, V)
  float sign = 1, sign2 = 1;
  ChunkMatrix a1, b1, a2;   // (C, Dk) (C, V) (C, Dk)
  ChunkMatrix mid;          // f32 (C, V), written if it is there
  float* states = nullptr;  // (items, Dk, V): S before each chunk's turn, if it is there
};
int launch_sweep(const SweepProblem& problem, Stream stream);

/// to_r = sum_x a_rx b_rx for the rows of every chunk.
struct DotsProblem : Segment {
  ChunkMatrix a, b, to;  // `to` of one column
};
int launch_dots(const DotsProblem& problem, Stream stream);

/// Gradient of log_decay, see notes.md. Rows (items, C, Dk) f32.
struct DecayGradient : DecayProblem {
  std::int32_t key_dim = 0;
  ChunkMatrix q, k;
  const float* passing = nullptr;              // (items, Dk) rows of S X
  const float *leave = nullptr, *x = nullptr;  // k_i leave_i for i < s, q_t x_t for t >= s
  const float *plus = nullptr,
              *minus = nullptr;  // k_t (plus_t - minus_t) for t >= s, `minus` of a vector gate also for t = s with `before`
  const float* weights[2] = {};  // (items, C, C) of a scalar gate: sum of weights_ti gradients_ti over i < s <= t
  const float* gradients[2] = {};
  float* to = nullptr;  // (B, T, H, W) with strides, or null
  std::int64_t to_batch = 0, to_token = 0, to_head = 0;
  double* sums = nullptr;  // (items): of a scalar gate's chunk
};
int launch_decay_gradient(const DecayGradient& problem, Stream stream);

/// What tokens do for themselves, and the end of it all: gradients in their types.
///
///     dq = sum of dq_parts + s (u) k      dk = sum of dk_parts + s (u) q      s_t = v_t . dout_t      dbonus = sum_t s_t q_t k_t of the
///     chunk
struct FinishProblem : Segment {
  std::int32_t key_dim = 0, value_dim = 0;
  ChunkMatrix q, k, v, dout;
  bool has_diagonal = false;     // s is there; else only the parts are added up
  const float* bonus = nullptr;  // u (H, Dk), may be absent
  std::int64_t bonus_head = 0;
  const float* dq_part = nullptr;  // (items, C, Dk)
  const float* dk_parts[3] = {};
  const float* dv_part = nullptr;  // (items, C, Dv), may be absent: dv is there already
  ChunkMatrix dq, dk, dv;
  double* dbonus = nullptr;  // (items, Dk)
};
int launch_finish(const FinishProblem& problem, Stream stream);

/// pairs_tt = sum_d q_td u_d k_td: what the bonus u adds to the scores.
struct BonusProblem : Segment {
  ChunkMatrix q, k;
  const float* bonus = nullptr;
  std::int64_t bonus_head = 0;
  float* pairs = nullptr;  // (items, C, C)
};
int launch_bonus(const BonusProblem& problem, Stream stream);

/// to (H, W) = sum over batch of sums (B H, W), or added to it.
struct ShareProblem {
  std::int32_t batch = 0, heads = 0, width = 0;
  const double* sums = nullptr;
  float* to = nullptr;
  std::int64_t to_head = 0;
  bool add = false;
};
int launch_shares(const ShareProblem& problem, Stream stream);
/// to (B H, W) with strides = sums.
struct LogSumProblem {
  std::int32_t batch = 0, heads = 0, width = 0;
  const double* sums = nullptr;
  float* to = nullptr;
  std::int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
};
int launch_log_sum(const LogSumProblem& problem, Stream stream);

}  // namespace cuda
SEQCCL_END
