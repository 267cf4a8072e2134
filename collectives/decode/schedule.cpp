// schedule.cpp - decode: every rank attends its shard for all queries; partial results are merged over the ranks.
// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "seqccl/collectives.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// A partial result (f32, f32), or a finished one on the wire (element type, f32).
struct Partial {
  Block out, lse;
  [[nodiscard]] Partial heads(Rows rows) const {
    const auto first = static_cast<std::int32_t>(rows.first), count = static_cast<std::int32_t>(rows.count);
    return {out.heads(first, count), lse.heads(first, count)};
  }
};

class DecodeLayer {
 public:
  DecodeLayer(const DecodeSpec& decode_spec, int ranks, Rank my_rank)
      : spec_(decode_spec),
        num_ranks_(ranks),
        rank_(my_rank),
        plan_(std::string("decode ") + name(decode_spec.merge), my_rank, ranks),
        mine_(spec_.heads_of(my_rank, ranks)) {}

  Schedule record(std::int64_t cache_rows, std::span<const BandSlice> slices) && {
    const Partial partial = attend(cache_rows, slices);
    const Recorder::Shape shape{spec_.batch, spec_.q_tokens, mine_.count, spec_.dim_v()};
    result_ = {plan_.output(Tensor::out, spec_.dtype, shape), plan_.output(Tensor::lse, f32, {shape.batch, shape.tokens, shape.heads, 1})};
    if (spec_.merge == DecodeMerge::all_to_all)
      all_to_all(partial);
    else if (spec_.merge == DecodeMerge::tree)
      tree(partial);
    else
      butterfly(partial);
    return std::move(plan_).finish(spec_.describe());
  }

 private:
  [[nodiscard]] Partial scratch(DType dtype, std::int64_t heads) {
    return {plan_.scratch(dtype, {spec_.batch, spec_.q_tokens, heads, spec_.dim_v()}),
            plan_.scratch(f32, {spec_.batch, spec_.q_tokens, heads, 1})};
  }
  [[nodiscard]] Partial scratch() { return scratch(f32, spec_.q_heads); }

  Partial attend(std::int64_t cache_rows, std::span<const BandSlice> slices) {
    const std::int64_t batch = spec_.batch, kv_heads = spec_.num_kv_heads();
    const Block q = plan_.input(Tensor::q, spec_.dtype, {batch, spec_.q_tokens, spec_.q_heads, spec_.head_dim});
    const Block k = plan_.input(Tensor::k, spec_.dtype, {batch, cache_rows, kv_heads, spec_.head_dim});
    const Block v = plan_.input(Tensor::v, spec_.dtype, {batch, cache_rows, kv_heads, spec_.dim_v()});
    const Partial partial = scratch();
    Attend op{.q = q, .k = k, .v = v, .out = partial.out, .lse = partial.lse};
    op.slices = plan_.slices(slices);
    op.heads.group = static_cast<std::int32_t>(spec_.q_heads / kv_heads);
    op.scale = spec_.scale_or_default();
    op.softcap = spec_.softcap;
    op.fresh = true;
    plan_.compute(op, rank_);
    return partial;
  }

  void exchange(std::span<const std::pair<Rank, Partial>> sends, std::span<const std::pair<Rank, Partial>> receives) {
    const auto transfers = [](std::span<const std::pair<Rank, Partial>> partials) {
      std::vector<Transfer> result;
      for (const auto& [peer, partial] : partials) {
        result.push_back({peer, partial.out});
        result.push_back({peer, partial.lse});
      }
      return result;
    };
    plan_.exchange(transfers(sends), transfers(receives));
  }
  void send(Rank peer, const Partial& partial) {
    const std::pair<Rank, Partial> message{peer, partial};
    exchange({&message, 1}, {});
  }
  void receive(Rank peer, const Partial& partial) {
    const std::pair<Rank, Partial> message{peer, partial};
    exchange({}, {&message, 1});
  }

  void merge(const Partial& into, const Partial& part, Rank about) { plan_.compute(Merge{part.out, part.lse, into.out, into.lse}, about); }
  void copy(const Partial& from, const Partial& to) {
    if (from.out.empty()) return;
    plan_.compute(Copy{from.out, to.out});
    plan_.compute(Copy{from.lse, to.lse});
  }

  /// A finished result as it travels: `heads` of it, in the element type, contiguous.
  [[nodiscard]] Partial on_the_wire(const Partial& finished, Rows heads) {
    if (spec_.dtype == f32 && heads.count == spec_.q_heads) return finished;
    const Partial wire = scratch(spec_.dtype, heads.count);
    copy(finished.heads(heads), wire);
    return wire;
  }

  // Ranks at or above `power` give what they have to rank - power first and are given the result back.
  void butterfly(Partial partial) {
    const int power = static_cast<int>(std::bit_floor(static_cast<unsigned>(num_ranks_)));
    if (rank_ >= power) {
      send(rank_ - power, partial);
      const Partial wire = scratch(spec_.dtype, mine_.count);
      receive(rank_ - power, wire);
      return copy(wire, result_);
    }
    const Rank surplus = rank_ + power;
    Partial spare = num_ranks_ > 1 ? scratch() : Partial{};
    if (surplus < num_ranks_) {
      receive(surplus, spare);
      merge(partial, spare, surplus);
    }
    for (int distance = 1; distance < power; distance *= 2) {
      const Rank peer = rank_ ^ distance;
      const std::pair<Rank, Partial> out{peer, partial}, in{peer, spare};
      exchange({&out, 1}, {&in, 1});
      // The lower ranks' part is the first operand on both sides: both get the same bits.
      if (peer < rank_) std::swap(partial, spare);
      merge(partial, spare, peer);
    }
    if (surplus < num_ranks_) send(surplus, on_the_wire(partial, spec_.heads_of(surplus, num_ranks_)));
    copy(partial.heads(mine_), result_);
  }

  // Up: an odd multiple of `distance` gives to the rank `distance` below and waits for the result; down: the same edges backwards.
  void tree(const Partial& partial) {
    const Partial spare = num_ranks_ > 1 ? scratch() : Partial{};
    const Rows all{0, spec_.q_heads};
    Partial wire;
    int distance = 1;
    for (; distance < num_ranks_; distance *= 2) {
      if ((rank_ & distance) != 0) {
        send(rank_ - distance, partial);
        wire = scratch(spec_.dtype, spec_.q_heads);
        receive(rank_ - distance, wire);
        break;
      }
      if (rank_ + distance >= num_ranks_) continue;
      receive(rank_ + distance, spare);
      merge(partial, spare, rank_ + distance);
    }
    if (rank_ == 0) wire = num_ranks_ > 1 ? on_the_wire(partial, all) : partial;
    for (distance /= 2; distance > 0; distance /= 2)
      if (rank_ + distance < num_ranks_) send(rank_ + distance, wire);
    copy(wire.heads(mine_), result_);
  }

  // Heads are cut as DecodeResult::by_heads cuts them; partials of a head are merged in rank order.
  void all_to_all(const Partial& partial) {
    const auto heads_of = [this](Rank rank) {
      const std::int64_t first = rank * spec_.q_heads / num_ranks_;
      return Rows{first, (rank + 1) * spec_.q_heads / num_ranks_ - first};
    };
    const Rows own = heads_of(rank_);
    std::vector<Partial> parts(static_cast<std::size_t>(num_ranks_));
    std::vector<std::pair<Rank, Partial>> sends, receives;
    for (int step = 1; step < num_ranks_; ++step) {  // everyone begins with another peer
      const Rank to = (rank_ + step) % num_ranks_, from = (rank_ + num_ranks_ - step) % num_ranks_;
      const Partial part = partial.heads(heads_of(to));
      sends.emplace_back(to, Partial{plan_.sendable(part.out), plan_.sendable(part.lse)});
      parts[static_cast<std::size_t>(from)] = scratch(f32, own.count);
      receives.emplace_back(from, parts[static_cast<std::size_t>(from)]);
    }
    parts[static_cast<std::size_t>(rank_)] = partial.heads(own);
    exchange(sends, receives);
    for (Rank rank = 1; rank < num_ranks_; ++rank)
      if (own.count != 0) merge(parts[0], parts[static_cast<std::size_t>(rank)], rank);
    if (spec_.result == DecodeResult::by_heads || num_ranks_ == 1) return copy(parts[0], result_);

    const Partial wire = scratch(spec_.dtype, own.count);
    copy(parts[0], wire);
    sends.clear();
    receives.clear();
    for (int step = 1; step < num_ranks_; ++step) {
      const Rank to = (rank_ + step) % num_ranks_, from = (rank_ + num_ranks_ - step) % num_ranks_;
      sends.emplace_back(to, wire);
      receives.emplace_back(from, scratch(spec_.dtype, heads_of(from).count));
    }
    exchange(sends, receives);
    copy(wire, result_.heads(own));
    for (const auto& [from, part] : receives) copy(part, result_.heads(heads_of(from)));
  }

  const DecodeSpec& spec_;
  const int num_ranks_;
  const Rank rank_;
  Recorder plan_;
  Rows mine_;  // heads of the result on this rank
  Partial result_;
};

/// Nearly nothing can overlap, and starting a second thread would cost more than it saves: every step after the one before it.
void keep_program_order(Schedule& schedule) {
  Clock done{};
  for (Step& step : schedule.steps) {
    step.after = done;
    step.after[static_cast<int>(step.lane)] = 0;
    ++done[static_cast<int>(step.lane)];
  }
  schedule.is_sequential = true;
}

}  // namespace

Schedule decode(const DecodeSpec& spec, int num_ranks, Rank rank, std::int64_t cache_rows, std::span<const BandSlice> slices) {
  Schedule schedule = DecodeLayer(spec, num_ranks, rank).record(cache_rows, slices);
  keep_program_order(schedule);
  return schedule;
}

void replace_slices(Schedule& decode_plan, std::span<const BandSlice> slices) {
  decode_plan.slices.assign(slices.begin(), slices.end());
  std::get<Attend>(decode_plan.ops.front()).slices = {0, static_cast<std::uint32_t>(slices.size())};
}

}  // namespace collectives
SEQCCL_END
