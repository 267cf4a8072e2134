// coverage_outputs.cpp - what every output must be at the end: its own tokens, and each visible pair exactly once.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "coverage.hpp"
#include "well_formed.hpp"

SEQCCL_BEGIN
namespace checker {

namespace {

/// Global query heads [first, first + count).
struct Heads {
  std::int64_t first = 0, count = 0;
};
Heads meet(const Heads& a, const Heads& b) {
  const std::int64_t first = std::max(a.first, b.first), end = std::min(a.first + a.count, b.first + b.count);
  return {first, std::max<std::int64_t>(0, end - first)};
}

std::string to_text(Count count) { return fmt::format("{:.17g}", static_cast<double>(count)); }

class Outputs {
 public:
  explicit Outputs(Coverage& run) : run_(run) {}

  void check() {
    for (const Schedule& schedule : run_.schedules) {
      schedule_ = &schedule;
      for (std::size_t i = 0; i < schedule.slots.size(); ++i)
        if (schedule.slots[i].kind == SlotKind::output) check_slot(static_cast<SlotIndex>(i));
    }
    check_sink_gradients();
    check_all_ranks_give_the_same();
  }

 private:
  void problem(const std::string& what) {
    if (run_.problems.size() < max_problems)
      run_.problems.push_back(fmt::format("rank {}, output {}: {}", schedule_->rank, seqccl::name(tensor_), what));
  }

  void check_slot(SlotIndex index) {
    const Slot& slot = schedule_->slots[index];
    const Rank rank = schedule_->rank;
    tensor_ = slot.tensor;
    if (slot.tokens == 0 || slot.heads == 0) return;
    // Only one rank holds the first and the last token.
    const std::int64_t num_tokens = run_.num_tokens();
    if (tensor_ == Tensor::state_out && (num_tokens == 0 || run_.claim.partition->place_of(num_tokens - 1).rank != rank)) return;
    if (tensor_ == Tensor::dstate_in && (num_tokens == 0 || run_.claim.partition->place_of(0).rank != rank)) return;
    names_ = run_.names_of(*schedule_, index);
    const std::vector<Fragment> found = run_.contents[rank][index].read({index, 0, static_cast<std::int32_t>(slot.heads), 0, slot.tokens});
    if (!fills(found, slot.tokens, slot.heads)) return problem("not all of it is written");
    for (const Fragment& fragment : found) {
      if (fragment.what == What::user) continue;  // the caller's own function made it
      check_fragment(fragment);
    }
  }

  void check_fragment(const Fragment& fragment) {
    switch (tensor_) {
      case Tensor::out:
        return check_rows(fragment, What::out);
      case Tensor::lse:
        return check_rows(fragment, What::lse);
      case Tensor::dq:
        return check_rows(fragment, What::dq);
      case Tensor::dk:
        return check_rows(fragment, What::dk);
      case Tensor::dv:
        return check_rows(fragment, What::dv);
      case Tensor::dlog_decay:
        return run_.decay_is_constant ? check_share(fragment, What::dconstant_decay) : check_rows(fragment, What::dlog_decay);
      case Tensor::dbeta:
        return check_rows(fragment, What::dbeta);
      case Tensor::dbonus:
        return check_share(fragment, What::dbonus);
      case Tensor::state_out:
        return check_leaving(fragment, What::state, run_.document_of(run_.num_tokens()), run_.has_state_in);
      case Tensor::dstate_in:
        return check_leaving(fragment, What::gradient, run_.document_of(0), run_.has_dstate_out);
      case Tensor::entering_state: {
        const auto segments = run_.claim.partition->segments(schedule_->rank);
        for (std::int64_t row = fragment.rows.first; row < fragment.rows.end(); ++row) {
          if (row >= static_cast<std::int64_t>(segments.size())) return problem("it has more states than the rank has segments");
          const Segment past = past_of(run_, segments[static_cast<std::size_t>(row)].first);
          check_state(fragment, What::state, past, run_.has_state_in && past.first == 0);
        }
        return;
      }
      case Tensor::dsinks:
        return collect_sink_gradient(fragment);
      default:
        return;
    }
  }

  /// What leaves the last document, or as a gradient the first: with the given state if there is only that document.
  void check_leaving(const Fragment& fragment, What what, const Segment& document, bool is_given) {
    check_state(fragment, what, document, is_given && document.count == run_.num_tokens());
  }

  void check_state(const Fragment& fragment, What what, const Segment& want, bool complete) {
    const bool is_right = fragment.what == What::zero
                              ? want.count == 0 && !complete
                              : fragment.what == what && equal(fragment.tokens, want) && fragment.complete == complete &&
                                    fragment.head == fragment.head_first && fragment.num_columns == 0;
    if (!is_right)
      problem(fmt::format("it is {}, want the {} of {}{}", describe(fragment), name(what), describe(want),
                          complete ? " and the one given" : ""));
  }

  /// Rows that stand for tokens: by default this rank's own.
  void check_rows(const Fragment& fragment, What what) {
    const bool by_key = what == What::dk || what == What::dv, is_zero = fragment.what == What::zero;
    const std::int64_t num_rows = names_.rows.empty() ? 0 : names_.rows.back().row + names_.rows.back().tokens.count;
    if (fragment.rows.end() > num_rows) return problem(fmt::format("it has rows beyond the rank's {} tokens", num_rows));
    const bool made_by_one_op = what == What::dlog_decay || what == What::dbeta;                  // linear attention
    const bool may_be_zero = what != What::lse && !made_by_one_op && run_.claim.mask != nullptr;  // no visible pair
    if (is_zero ? !may_be_zero : fragment.what != what) return problem(fmt::format("it is {}", describe(fragment)));
    const std::int64_t limit = by_key ? run_.claim.kv_heads : run_.claim.q_heads;
    const auto reaches = [&](const Piece& piece) { return piece.row + piece.tokens.count <= fragment.rows.first; };
    for (auto piece = std::partition_point(names_.rows.begin(), names_.rows.end(), reaches);
         piece != names_.rows.end() && piece->row < fragment.rows.end(); ++piece) {
      if (piece->tokens.count == 0) continue;
      Fragment part = clip(fragment, {piece->row, piece->tokens.count}, fragment.head_first, fragment.num_heads);
      const Segment want{piece->tokens[part.rows.first - piece->row], part.rows.count, piece->tokens.step};
      const std::int64_t head = names_.first_head + part.head_first;
      if (is_zero) {
        part.tokens = want;
        part.head = head;
        part.sum = 0;
      }
      if (!equal(part.tokens, want) || part.head != head || part.head + part.num_heads > limit)
        return problem(fmt::format("where {} from head {} on belong it is {}", describe(want), head, describe(part)));
      if (part.complete || made_by_one_op) continue;
      const auto key = std::tuple(part.sum, part.tokens.first, part.tokens.count, part.tokens.step, part.head, part.num_heads, by_key);
      if (right_.contains(key)) continue;  // lse goes with out, dv with dk
      if (!check_sum(part, by_key)) return;
      right_.insert(key);
    }
  }

  /// The part of a contribution that belongs to tokens (as queries or as keys) and heads; no heads if there is none.
  [[nodiscard]] Contribution restrict(const Contribution& whole, const Segment& tokens, const Heads& heads, bool by_key) const {
    Contribution part = whole;
    const Heads common = meet(heads, {whole.head_first, whole.num_heads});
    part.head_first = common.first;
    part.num_heads = common.count;
    Segment& own = by_key ? part.keys : part.queries;
    own = intersect(own, tokens);
    if (own.count == 0 || part.num_heads == 0)
      part.num_heads = 0;
    else if (part.kind == Contribution::Kind::pairs && own.count != (by_key ? whole.keys : whole.queries).count)
      part.pairs = visible_pairs(part.queries, part.keys);
    return part;
  }

  [[nodiscard]] Count visible_pairs(const Segment& queries, const Segment& keys) const {
    const Piece q{0, queries}, k{0, keys};
    Count pairs = 0;
    for (const BandSlice& slice : run_.mask.between(std::span(&q, 1), std::span(&k, 1)))
      pairs += count_pairs(slice) * (slice.batch < 0 ? run_.claim.batch : 1);
    return pairs;
  }

  /// Do two contributions hold the same pair (or sink, or token)?
  [[nodiscard]] bool share_something(const Contribution& a, const Contribution& b) const {
    if (a.kind != b.kind || meet({a.head_first, a.num_heads}, {b.head_first, b.num_heads}).count == 0) return false;
    const bool has_keys = a.kind == Contribution::Kind::pairs;
    if (has_keys && (a.keys.last() < b.keys.first || b.keys.last() < a.keys.first)) return false;
    const Segment queries = intersect(a.queries, b.queries);
    if (queries.count == 0 || !has_keys) return queries.count != 0;
    const Segment keys = intersect(a.keys, b.keys);
    return keys.count != 0 && visible_pairs(queries, keys) != 0;
  }

  /// Lists the parts of a sum that belong to tokens and heads; false, and reported, if something is in it twice.
  bool list_once(SumId sum, const Segment& tokens, const Heads& heads, bool by_key) {
    if (!run_.sums.list(sum, listed_)) {
      problem(fmt::format("{}: sums are added to themselves over and over", describe(tokens)));
      return false;
    }
    parts_.clear();
    for (const Contribution& whole : listed_)
      if (const Contribution part = restrict(whole, tokens, heads, by_key); part.num_heads != 0) parts_.push_back(part);
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        if (!share_something(parts_[i], parts_[j])) continue;
        problem(fmt::format("{}, heads {} ..: twice: queries {} with keys {}, and queries {} with keys {}", describe(tokens), heads.first,
                            describe(parts_[j].queries), describe(parts_[j].keys), describe(parts_[i].queries), describe(parts_[i].keys)));
        return false;
      }
    }
    return true;
  }

  /// Every visible pair of the tokens, and every sink, once: as many as there are, and none twice.
  bool check_sum(const Fragment& fragment, bool by_key) {
    const std::int64_t group = by_key ? run_.group() : 1;
    const Heads heads{fragment.head * group, fragment.num_heads * group};
    if (!list_once(fragment.sum, fragment.tokens, heads, by_key)) return false;
    Count pairs = 0, sinks = 0, want = 0;
    for (const Contribution& part : parts_) {
      if (part.kind == Contribution::Kind::pairs) pairs += part.pairs * part.num_heads;
      if (part.kind == Contribution::Kind::sink) sinks += Count{part.queries.count} * part.num_heads;
    }
    for (const BandSlice& slice : run_.mask.slices())
      want += count_pairs(by_key ? transposed(slice) : slice, fragment.tokens) * (slice.batch < 0 ? run_.claim.batch : 1) * heads.count;
    if (pairs != want) {
      problem(
          fmt::format("{}, heads {} ..: {} of {} visible pairs are in it", describe(fragment), heads.first, to_text(pairs), to_text(want)));
      return false;
    }
    const bool wants_sinks = run_.has_sinks && (fragment.what == What::out || fragment.what == What::lse);
    const Count want_sinks = wants_sinks ? Count{fragment.tokens.count} * fragment.num_heads : Count{0};
    if (sinks != want_sinks) {
      problem(fmt::format("{}: {} of {} sinks are in it", describe(fragment), to_text(sinks), to_text(want_sinks)));
      return false;
    }
    return true;
  }

  /// A gradient that all tokens have a part in: this rank's tokens, each once.
  void check_share(const Fragment& fragment, What what) {
    const std::int64_t own = run_.claim.partition->tokens_on(schedule_->rank);
    if (fragment.what == What::zero ? own != 0 : fragment.what != what || fragment.head != fragment.head_first)
      return problem(fmt::format("it is {}", describe(fragment)));
    if (fragment.what == What::zero) return;
    if (!list_once(fragment.sum, {0, run_.num_tokens(), 1}, {fragment.head, fragment.num_heads}, false)) return;
    Count tokens = 0;
    for (const Contribution& part : parts_) tokens += Count{part.queries.count} * part.num_heads;
    if (tokens != Count{own} * fragment.num_heads)
      problem(fmt::format("{} of {} tokens x heads are in it", to_text(tokens), to_text(Count{own} * fragment.num_heads)));
  }

  void collect_sink_gradient(const Fragment& fragment) {
    if (fragment.what == What::zero) return;
    if (fragment.what != What::dsinks || fragment.head != fragment.head_first) return problem(fmt::format("it is {}", describe(fragment)));
    // Of another rank's share these heads may be zero; together the shares hold each query once.
    const Heads heads{fragment.head, fragment.num_heads};
    if (!run_.sums.list(fragment.sum, listed_)) return problem("sums are added to themselves over and over");
    for (const Contribution& whole : listed_)
      if (const Contribution part = restrict(whole, {0, run_.num_tokens(), 1}, heads, false); part.num_heads != 0)
        sink_shares_.push_back(part);
  }

  /// Shares of dsinks are added over ranks by the caller: every query must be in exactly one.
  void check_sink_gradients() {
    bool wanted = false;
    for (const Schedule& schedule : run_.schedules)
      for (const Slot& slot : schedule.slots) wanted |= slot.kind == SlotKind::output && slot.tensor == Tensor::dsinks;
    if (!wanted) return;
    schedule_ = &run_.schedules.front();
    tensor_ = Tensor::dsinks;
    Count tokens = 0;
    for (std::size_t i = 0; i < sink_shares_.size(); ++i) {
      tokens += Count{sink_shares_[i].queries.count} * sink_shares_[i].num_heads;
      for (std::size_t j = 0; j < i; ++j)
        if (share_something(sink_shares_[i], sink_shares_[j]))
          return problem(fmt::format("queries {} are in it twice", describe(sink_shares_[i].queries)));
    }
    const Count want = Count{run_.num_tokens()} * run_.claim.q_heads;
    if (tokens != want) problem(fmt::format("over all ranks {} of {} queries x heads are in it", to_text(tokens), to_text(want)));
  }

  /// A rank with tokens gives what any other rank gives.
  void check_all_ranks_give_the_same() {
    for (const Tensor tensor : {Tensor::out, Tensor::lse, Tensor::dq, Tensor::dk, Tensor::dv}) {
      const auto gives = [tensor](const Schedule& schedule) {
        return std::any_of(schedule.slots.begin(), schedule.slots.end(),
                           [tensor](const Slot& slot) { return slot.kind == SlotKind::output && slot.tensor == tensor; });
      };
      if (std::none_of(run_.schedules.begin(), run_.schedules.end(), gives)) continue;
      tensor_ = tensor;
      for (const Schedule& schedule : run_.schedules) {
        schedule_ = &schedule;
        const bool has_rows = run_.claim.names || run_.claim.partition->tokens_on(schedule.rank) != 0;
        if (has_rows && !gives(schedule)) problem("other ranks have it, this one has not");
      }
    }
  }

  Coverage& run_;
  const Schedule* schedule_ = nullptr;
  Tensor tensor_ = Tensor::out;
  SlotNames names_;  // of the slot that is being checked
  std::vector<Contribution> listed_, parts_, sink_shares_;
  std::set<std::tuple<SumId, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool>> right_;
};

}  // namespace

void check_outputs(Coverage& run) { Outputs(run).check(); }

}  // namespace checker
SEQCCL_END
