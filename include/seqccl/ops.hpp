// ops.hpp - the closed set of things a compute step can do, each a plain struct with typed operands.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "seqccl/dtype.hpp"
#include "seqccl/error.hpp"
#include "seqccl/tensor.hpp"

SEQCCL_BEGIN

/// A buffer that a schedule names; bound to memory when it runs. Every slot is a tensor (B, T, H, D).
using SlotIndex = std::uint16_t;
inline constexpr SlotIndex no_slot = 0xffff;

/// A box of a slot: all of the batch, some tokens, some heads, the whole last axis. Default: absent.
struct Block {
  SlotIndex slot = no_slot;
  std::int32_t head_first = 0, num_heads = 0;
  std::int64_t token_first = 0, num_tokens = 0;

  /// Tokens [first, first + count) of this block.
  [[nodiscard]] Block tokens(std::int64_t first, std::int64_t count) const noexcept {
    Block part = *this;
    part.token_first += first;
    part.num_tokens = count;
    return part;
  }
  /// Heads [first, first + count) of this block.
  [[nodiscard]] Block heads(std::int32_t first, std::int32_t count) const noexcept {
    Block part = *this;
    part.head_first += first;
    part.num_heads = count;
    return part;
  }
  [[nodiscard]] bool present() const noexcept { return slot != no_slot; }
  [[nodiscard]] bool empty() const noexcept { return !present() || num_tokens == 0 || num_heads == 0; }
  bool operator==(const Block&) const = default;
};

// An operand says in its type whether the op reads it, writes all of it, or updates it. The recorder takes regions from here.
struct In : Block {
  In() = default;
  In(const Block& block) : Block(block) {}
};
struct Out : Block {
  Out() = default;
  Out(const Block& block) : Block(block) {}
};
struct InOut : Block {
  InOut() = default;
  InOut(const Block& block) : Block(block) {}
};

/// A run of Schedule::slices.
struct SliceRange {
  std::uint32_t first = 0, count = 0;
};

/// Which key/value head a query head uses: kv = (first_q + h) / group - first_kv, for row h of the operand.
struct HeadMap {
  std::int32_t first_q = 0, first_kv = 0, group = 1;
  [[nodiscard]] std::int32_t kv_head(std::int32_t q_head) const noexcept { return (first_q + q_head) / group - first_kv; }
};

/// (out, lse) <- merge((out, lse), softmax attention of q over k, v).    S = softcap(scale q k^T), masked by the slices.
/// `fresh`: out, lse are overwritten for every row of q (0, -inf where a query sees no key). `sinks` (1, 1, Hq, 1) f32 joins a
/// fresh state: one extra logit per head in the denominator.
struct Attend {
  In q, k, v;      // (B, Tq, Hq, Dk) (B, Tk, Hkv, Dk) (B, Tk, Hkv, Dv)
  In sinks;        // (1, 1, Hq, 1), optional
  InOut out, lse;  // (B, Tq, Hq, Dv) f32, (B, Tq, Hq, 1) f32
  SliceRange slices;
  HeadMap heads;
  float scale = 1, softcap = 0;  // softcap 0: none; else S = softcap tanh(S / softcap)
  bool fresh = false;
  auto operands() const { return std::tie(q, k, v, sinks, out, lse); }
};

/// (out, lse) <- merge((out, lse), (part_out, part_lse)): the one rule of merge.hpp.
struct Merge {
  In part_out, part_lse;  // (B, T, H, D) f32 or element type, (B, T, H, 1)
  InOut out, lse;         // f32
  auto operands() const { return std::tie(part_out, part_lse, out, lse); }
};

/// delta = sum over d of dout * out: what every backward step needs once per query.
struct RowDot {
  In dout, out;  // (B, T, H, D)
  Out delta;     // (B, T, H, 1) f32
  auto operands() const { return std::tie(dout, out, delta); }
};

/// dq += ds k, dk += ds^T q, dv += p^T dout with p = exp(S - lse), ds = p (dout v^T - delta) scale. Sums in f32.
/// `fresh_dq` / `fresh_dkv`: overwrite instead of adding.
struct AttendBackward {
  In q, k, v, dout, lse, delta;
  InOut dq, dk, dv;  // f32
  SliceRange slices;
  HeadMap heads;
  float scale = 1, softcap = 0;
  bool fresh_dq = false, fresh_dkv = false;
  auto operands() const { return std::tie(q, k, v, dout, lse, delta, dq, dk, dv); }
};

/// dsinks[h] = - sum over b, t of exp(sinks[h] - lse) delta: this rank's share.
struct SinkGradient {
  In sinks, lse, delta;  // (1, 1, H, 1) (B, T, H, 1) (B, T, H, 1)
  Out dsinks;            // (1, 1, H, 1) f32
  auto operands() const { return std::tie(sinks, lse, delta, dsinks); }
};

/// to = from, converted; boxes of equal extents. Packing, unpacking and head permutation are this op.
struct Copy {
  In from;
  Out to;
  auto operands() const { return std::tie(from, to); }
};

/// to += from. `to` is f32.
struct Add {
  In from;
  InOut to;
  auto operands() const { return std::tie(from, to); }
};

/// to = 0.
struct Zero {
  Out to;
  auto operands() const { return std::tie(to); }
};

// --- Linear attention.  S_t = A_t S_(t-1) + B_t,  o_t = scale S_t^T q_t. ------------------------------------------------------
// A state block has one "token" per state and Dk * Dv numbers, row-major (Dk, Dv). Which operands are there tells the kind:
//
//     log_decay  absent (no decay), (1, 1, H, 1) constant per head, (B, T, H, 1) scalar gate, (B, T, H, Dk) vector gate
//     beta       (B, T, H, 1) f32: delta kinds, A_t = (I - beta_t k_t k_t^T) diag(exp(log_decay_t)), B_t = beta_t k_t v_t^T
//     bonus      (1, 1, H, Dk) f32: RWKV6, the token reads S_(t-1) and a bonus on itself, see LinearLocal
//
// Without beta B_t = k_t v_t^T and A_t = diag(exp(log_decay_t)). What a run of tokens does to a state S is T S + E: T is known by
// `log_sum`, (B, 1, H, 1 | Dk): T = diag(exp(log_sum)), the sum of log_decay over the run, or for delta kinds by `transition`,
// (B, 1, H, Dk Dk), the dense matrix, row-major.

/// state = E: leaving state of a run of tokens that is entered with zero; log_sum or transition = T. log_sum is absent if there is no
/// decay or a constant one; transition (delta kinds) is absent where nobody needs it (chain).
struct LinearSummary {
  In k, v, log_decay;
  Out state, log_sum;  // (B, 1, H, Dk Dv) (B, 1, H, 1 | Dk), f32
  In beta;
  Out transition;  // (B, 1, H, Dk Dk), f32
  auto operands() const { return std::tie(k, v, log_decay, state, log_sum, beta, transition); }
};

/// state <- T state + update, T = transition or diag(exp(repeat log_sum)). Both absent: the identity. Update absent: zero. A constant
/// decay passes its log_decay (1, 1, H, 1) as log_sum and the length of the run as `repeat`. `state` has any number of columns: (Dk, Dv),
/// some columns of that, or another transition (Dk, Dk), which it composes.
struct StateStep {
  In log_sum, update;
  InOut state;
  std::int64_t repeat = 1;
  In transition;
  auto operands() const { return std::tie(log_sum, update, state, transition); }
};

/// columns = columns [first, first + width) of each state: (Dk, Dv) -> (Dk, width), Dk = key_dim.
struct TakeColumns {
  In state;     // (B, 1, H, Dk Dv)
  Out columns;  // (B, 1, H, Dk width)
  std::int64_t key_dim = 1, first = 0;
  auto operands() const { return std::tie(state, columns); }
};

/// Columns [first, first + width) of each state = columns; the others stay.
struct PutColumns {
  In columns;   // (B, 1, H, Dk width)
  InOut state;  // (B, 1, H, Dk Dv)
  std::int64_t key_dim = 1, first = 0;
  auto operands() const { return std::tie(columns, state); }
};

/// out = outputs of a run of tokens that is entered with `state` (absent: zero).
/// With a bonus: o_t = scale (S_(t-1)^T q_t + (sum_d q_td bonus_d k_td) v_t).
struct LinearLocal {
  In q, k, v, log_decay;
  Out out;  // (B, T, H, Dv) f32
  float scale = 1;
  In beta, bonus, state;
  auto operands() const { return std::tie(q, k, v, log_decay, out, beta, bonus, state); }
};

/// out_t += scale (diag(exp(sum of log_decay up to t)) state)^T q_t: what the entering state adds. Not for delta kinds: there LinearLocal
/// is given the state. `before`: the sum stops before t (a bonus: the token reads S_(t-1)). `transposed`: state is (Dv, Dk) as
/// seen from q and out, out_t += scale state q_t, only without log_decay.
struct LinearEnter {
  In q, log_decay, state;
  InOut out;  // f32
  float scale = 1;
  bool before = false, transposed = false;
  auto operands() const { return std::tie(q, log_decay, state, out); }
};

/// dstate = gradient of the entering state from the run's own outputs: scale sum_t (T_t)^T q_t dout_t^T, T_t = what the tokens up to t
/// (with `before`: before t) do to a state; log_sum as in LinearSummary; transition is the transpose of LinearSummary's: gradients of
/// states run from the last run to the first, dstate <- transition dleaving + dstate. k only with beta.
struct LinearSummaryBackward {
  In q, dout, log_decay;
  Out dstate, log_sum;
  float scale = 1;
  bool before = false;
  In k, beta;
  Out transition;
  auto operands() const { return std::tie(q, dout, log_decay, dstate, log_sum, k, beta, transition); }
};

/// Gradients of a run of tokens, given its entering state and the gradient of its leaving state.
/// dlog_decay has the shape of log_decay (a constant's is summed over batch and tokens: this rank's share), dbonus (1, 1, H, Dk) is
/// such a share too. With `add_constant` shares are added to what is there (a rank with several runs).
struct LinearBackward {
  In q, k, v, log_decay, dout, state, dleaving;  // state, dleaving optional: zero
  Out dq, dk, dv;                                // f32 or element type
  InOut dlog_decay;                              // f32, optional
  float scale = 1;
  bool add_constant = false;
  In beta, bonus;
  Out dbeta;     // (B, T, H, 1) f32
  InOut dbonus;  // (1, 1, H, Dk) f32
  auto operands() const { return std::tie(q, k, v, log_decay, dout, state, dleaving, dq, dk, dv, dlog_decay, beta, bonus, dbeta, dbonus); }
};

/// The caller's own step: reads `in`, updates `inout`. The function gets views of the blocks, in that order.
struct Custom {
  static constexpr int max_operands = 6;
  std::array<In, max_operands> in;
  std::array<InOut, max_operands> inout;
  std::uint32_t function = 0;  // index in Schedule::functions
  auto operands() const { return std::tuple_cat(std::tuple_cat(in), std::tuple_cat(inout)); }
};

using Op = std::variant<Attend, Merge, RowDot, AttendBackward, SinkGradient, Copy, Add, Zero, LinearSummary, StateStep, TakeColumns,
                        PutColumns, LinearLocal, LinearEnter, LinearSummaryBackward, LinearBackward, Custom>;

/// "attend", "merge", ...: the op's name in explain, traces and errors.
[[nodiscard]] const char* name(const Op& op) noexcept;
[[nodiscard]] const char* op_name(std::size_t index) noexcept;  // of Op::index()

enum class Access : std::uint8_t { read, write, update };

/// Calls visit(block, access) for every operand that is present.
template <class Visit>
void for_each_operand(const Op& op, Visit&& visit) {
  const auto one = [&]<class Operand>(const Operand& operand) {
    if (!operand.present()) return;
    if constexpr (std::is_same_v<Operand, In>)
      visit(static_cast<const Block&>(operand), Access::read);
    else if constexpr (std::is_same_v<Operand, Out>)
      visit(static_cast<const Block&>(operand), Access::write);
    else
      visit(static_cast<const Block&>(operand), Access::update);
  };
  std::visit([&](const auto& typed) { std::apply([&](const auto&... operand) { (one(operand), ...); }, typed.operands()); }, op);
}

SEQCCL_END
