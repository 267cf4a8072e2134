// decode.hpp - attention of a few new tokens over a key/value cache that is sharded over ranks along its tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "seqccl/communicator.hpp"
#include "seqccl/kernels.hpp"
#include "seqccl/partition.hpp"
#include "seqccl/schedule.hpp"
#include "seqccl/tensor.hpp"

SEQCCL_BEGIN

/// How the ranks' partial results (out_r, lse_r) become one.
///
///     butterfly   0-1 2-3 4-5 6-7 | 0-2 1-3 4-6 5-7 | 0-4 1-5 2-6 3-7      log2 P rounds, every rank ends with the same bits
///     tree        1>0 3>2 5>4 7>6 | 2>0 6>4 | 4>0, and the result back      2 ceil(log2 P) rounds, fewest messages in all
///     all_to_all  every rank gets all partials of its own heads             1 round, and 1 more for the result everywhere
///
/// automatic: the cheapest by decode_merge_seconds over the links of ranks as threads; never tree.
enum class DecodeMerge : std::uint8_t { automatic, butterfly, tree, all_to_all };
[[nodiscard]] const char* name(DecodeMerge merge) noexcept;

/// everywhere: every rank has all heads. by_heads: rank r has query heads [r Hq / P, (r + 1) Hq / P), rounded down.
enum class DecodeResult : std::uint8_t { everywhere, by_heads };

struct DecodeSpec {
  std::int64_t batch = 1;
  std::int64_t q_tokens = 1;                  // queries per batch row and step
  std::int64_t q_heads = 1, kv_heads = 0;     // kv_heads 0: q_heads
  std::int64_t head_dim = 0, v_head_dim = 0;  // v_head_dim 0: head_dim
  DType dtype = f32;                          // of q, k, v, the cache and out; lse is f32
  DecodeMerge merge = DecodeMerge::automatic;
  DecodeResult result = DecodeResult::everywhere;
  std::optional<float> scale{};  // default 1 / sqrt(head_dim)
  float softcap = 0;             // 0: none
  AttendKernel kernel{};         // your own attend kernel; default: the library's

  [[nodiscard]] std::int64_t num_kv_heads() const noexcept { return kv_heads != 0 ? kv_heads : q_heads; }
  [[nodiscard]] std::int64_t dim_v() const noexcept { return v_head_dim != 0 ? v_head_dim : head_dim; }
  [[nodiscard]] float scale_or_default() const noexcept;
  /// Query heads of the result on `rank`.
  [[nodiscard]] Rows heads_of(Rank rank, int num_ranks) const noexcept;
  /// One "name = value" line per field: equal operations have equal texts on all ranks.
  [[nodiscard]] std::string describe() const;
};
/// @throws Error(argument) naming the field, its value and what would be right
void validate(const DecodeSpec& spec, int num_ranks);

/// Time of a merge in which a message of n bytes takes latency_s + n / bytes_per_s and a rank's messages go one after the other.
/// With m = 4 B Tq Hq (Dv + 1) bytes, g = B Tq Hq (Dv b + 4) bytes and t(n) = 2 latency_s + n / bytes_per_s (out and lse are two messages):
///
///     butterfly   floor(log2 P) t(m), and t(m) + t(g) if P is no power of two
///     all_to_all  (P - 1) t(m / P), and (P - 1) t(g / P) for the result everywhere
///     tree        ceil(log2 P) (t(m) + t(g))
[[nodiscard]] double decode_merge_seconds(const DecodeSpec& spec, int num_ranks, DecodeMerge merge, const struct LinkClass& link);

/// One rank's shard of the cache
/// =============================
///
///     block   k (B, capacity, Hkv, Dk)  v (B, capacity, Hkv, Dv)                  token n of batch row b is [b][n]
///     pages   k (num_pages, page_tokens, Hkv, Dk)  v (num_pages, page_tokens, Hkv, Dv)
///             token n of batch row b is [page_table[b][n / page_tokens]][n % page_tokens]
///
/// The shard holds the tokens that this rank owns, in any order; lengths differ per batch row and rank, 0 included. Pages are read in
/// place, never copied. Their stride must be a multiple of the token stride, the same multiple in k and v: so in [page][token], in
/// [k or v][page][token] and in [page][k or v][token]. Rows may share pages that nothing is appended to.
struct DecodeCache {
  TensorView k, v;
  std::span<std::int64_t> lengths;             // (B); `append` adds what it wrote when all is done
  std::span<const std::int32_t> page_table{};  // (B, max_pages), row-major; empty: k, v are one block
};

/// Owner of a token under interleaving: runs of `run_tokens` positions go round the ranks.
[[nodiscard]] Rank decode_owner(std::int64_t position, int num_ranks, std::int64_t run_tokens = 1);
/// (B, Tq) owners of the tokens at positions[b], positions[b] + 1, ..., positions[b] + q_tokens - 1, with positions (B).
[[nodiscard]] std::vector<Rank> decode_owners(std::span<const std::int64_t> positions, std::int64_t q_tokens, int num_ranks,
                                              std::int64_t run_tokens = 1);

/// Decode
/// ======
///
///     q, the same on every rank ──> attend my shard ──> (out_r, lse_r) ──> merge over ranks ──> out, lse
///
/// Exact: out = softmax(softcap(scale q k^T)) v over the tokens of all shards. An empty shard gives (0, -inf); a batch row that is
/// empty on every rank too. Partial results travel in f32. There is no backward. One plan is kept; a step patches its slices.
///
/// Rules as Attention: all ranks make the same calls in the same order; tensors have any strides with a contiguous last axis;
/// outputs are unspecified after an error. k_new, v_new and the cache up to its lengths are never lost: an Error(argument) comes before
/// anything is written, and after any other error the lengths are what they were.
/// @throws Error(argument) before anything is sent; Error(dead | stalled | mismatched | local) naming the culprit ranks. Ranks that
/// were given different owners: mismatched
///
/// Sources: tree attention (arXiv:2408.04093), KVP of Mnemosyne (arXiv:2409.17264), Helix (arXiv:2507.07120).
class Decode {
 public:
  /// Does not communicate. `comm` must outlive this object and stay where it is.
  Decode(Communicator& comm, DecodeSpec spec);
  ~Decode();
  Decode(Decode&&) noexcept;
  Decode& operator=(Decode&&) noexcept;

  /// Every query sees every token of every shard.
  /// q (B, Tq, Hq, Dk)  out (B, Tq, Hq, Dv)  lse (B, Hq, Tq) f32; by_heads: out, lse have this rank's heads only.
  void attend(ConstTensorView q, const DecodeCache& cache, TensorView out, TensorView lse);

  /// Writes new token t of batch row b into the cache of rank owners[b Tq + t], after the tokens that are there, then attends. Query t sees
  /// every token that was there and the new tokens up to its own: several tokens a step are speculative ones.
  /// k_new (B, Tq, Hkv, Dk)  v_new (B, Tq, Hkv, Dv), and owners (B Tq), the same on every rank.
  void append(ConstTensorView q, ConstTensorView k_new, ConstTensorView v_new, std::span<const Rank> owners, const DecodeCache& cache,
              TensorView out, TensorView lse);

  /// With the merge in use: never `automatic`.
  [[nodiscard]] const DecodeSpec& spec() const noexcept;
  /// This rank's heads of the result.
  [[nodiscard]] Rows heads() const noexcept;
  /// The plan of the last step. @throws Error(argument) before the first
  [[nodiscard]] const Schedule& schedule() const;
  /// When set, every run appends what it did to `trace` (cleared first). nullptr: off.
  void set_trace(std::vector<struct TraceEvent>* trace) noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

SEQCCL_END
