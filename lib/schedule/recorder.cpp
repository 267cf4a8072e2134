// recorder.cpp - turns straight-line code into lanes of steps; infers each step's clock from what it touches.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/recorder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "seqccl/cost.hpp"

SEQCCL_BEGIN

namespace {

constexpr std::size_t alignment_bytes = 64;

std::uint64_t hash_of(const std::string& text, std::uint64_t hash = 0xcbf29ce484222325u) {  // FNV-1a
  for (const char letter : text) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;
  return hash;
}

// Movement costs no flops here: copies gain nothing from a thread beside the one that sends, unless cores are idle.
double kernel_flops(const Schedule& schedule, const Op& op) {
  return std::visit(
      [&]<class T>(const T&) {
        if constexpr (std::is_same_v<T, Custom>) return std::numeric_limits<double>::infinity();
        if constexpr (std::is_same_v<T, Attend> || std::is_same_v<T, AttendBackward> || std::is_same_v<T, LinearSummary> ||
                      std::is_same_v<T, LinearLocal> || std::is_same_v<T, LinearEnter> || std::is_same_v<T, LinearSummaryBackward> ||
                      std::is_same_v<T, LinearBackward>)
          return cost_of(schedule, op).flops;
        return 0.0;
      },
      op);
}

}  // namespace

Recorder::Recorder(std::string name, Rank rank, int num_ranks) {
  schedule_.name = std::move(name);
  schedule_.rank = rank;
  schedule_.num_ranks = num_ranks;
}

Recorder::Group::Group(Recorder& plan, std::span<const Rank> members)
    : plan_(plan), outer_members_(plan.members_), outer_rank_(plan.group_rank_) {
  const auto me = std::find(members.begin(), members.end(), plan.rank());
  if (me == members.end())
    throw Error(ErrorKind::internal, fmt::format("{}: rank {} records in a group that it is not in", plan.schedule_.name, plan.rank()));
  std::vector<Rank> world;
  for (const Rank member : members) world.push_back(plan.world(member));
  plan.group_rank_ = static_cast<Rank>(me - members.begin());
  plan.members_ = std::move(world);
}

Recorder::Group::~Group() {
  plan_.members_ = std::move(outer_members_);
  plan_.group_rank_ = outer_rank_;
}

Block Recorder::add_slot(Slot slot) {
  if (schedule_.slots.size() >= no_slot) throw Error(ErrorKind::internal, schedule_.name + ": more than 65534 slots");
  const auto index = static_cast<SlotIndex>(schedule_.slots.size());
  schedule_.slots.push_back(slot);
  touches_.emplace_back();
  return {index, 0, static_cast<std::int32_t>(slot.heads), 0, slot.tokens};
}

Block Recorder::input(Tensor tensor, DType dtype, Shape shape, bool sendable) {
  return add_slot({SlotKind::input, tensor, dtype, shape.batch, shape.tokens, shape.heads, shape.dim, 0, sendable && shape.batch == 1});
}

Block Recorder::output(Tensor tensor, DType dtype, Shape shape, bool receivable) {
  return add_slot(
      {SlotKind::output, tensor, dtype, shape.batch, shape.tokens, shape.heads, shape.dim, 0, false, receivable && shape.batch == 1});
}

Block Recorder::scratch(DType dtype, Shape shape) {
  Slot slot{SlotKind::scratch, Tensor::scratch, dtype, shape.batch, shape.tokens, shape.heads, shape.dim, schedule_.workspace_bytes, true};
  schedule_.workspace_bytes += (slot.num_bytes() + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
  return add_slot(slot);
}

Block Recorder::sendable(const Block& block) {
  const Slot from = slot(block);
  if (block.empty() || (from.sendable && region_of(schedule_, block).count <= 1)) return block;
  const Block packed = scratch(from.dtype, {from.batch, block.num_tokens, block.num_heads, from.dim});
  compute(Copy{block, packed});
  return packed;
}

// Walk back through every other lane to the newest step that wrote what I touch, or touched what I write: I come after it.
void Recorder::touch(Step& step, const Block& block, Access access) {
  const Region region = region_of(schedule_, block);
  const bool writes = access != Access::read;
  auto& lanes = touches_[block.slot];
  const auto own_lane = static_cast<int>(step.lane);
  for (int lane = 0; lane < num_lanes; ++lane) {
    if (lane == own_lane) continue;
    std::uint32_t& after = step.after[lane];
    for (auto past = lanes[lane].rbegin(); past != lanes[lane].rend() && past->number > after; ++past)
      if ((writes || past->writes) && overlap(past->region, region)) after = past->number;
  }
  lanes[own_lane].push_back({num_steps_[own_lane] + 1, writes, region});
}

void Recorder::push(Step step) {
  ++num_steps_[static_cast<int>(step.lane)];
  schedule_.steps.push_back(step);
}

void Recorder::exchange(std::vector<Transfer> sends, std::vector<Transfer> receives, Lane lane, Native native, Rank about) {
  const auto is_empty = [](const Transfer& transfer) { return transfer.block.empty(); };
  std::erase_if(sends, is_empty);
  std::erase_if(receives, is_empty);
  if (sends.empty() && receives.empty()) return;

  const auto refuse = [&](const Transfer& transfer, const char* why) {
    return Error(ErrorKind::internal,
                 fmt::format("{} on rank {}: transfer with rank {}: {}", schedule_.name, schedule_.rank, transfer.peer, why));
  };
  Step step{lane, static_cast<std::int16_t>(world(about)), static_cast<std::uint32_t>(schedule_.exchanges.size()), {}};
  if (lane == Lane::compute) throw Error(ErrorKind::internal, schedule_.name + ": an exchange needs a communication lane");
  for (Transfer& send : sends) {
    if (send.peer < 0 || send.peer >= num_ranks() || send.peer == rank()) throw refuse(send, "no such peer");
    if (!slot(send.block).sendable || region_of(schedule_, send.block).count > 1) throw refuse(send, "what is sent must be contiguous");
    touch(step, send.block, Access::read);
    send.peer = world(send.peer);
  }
  for (Transfer& receive : receives) {
    if (receive.peer < 0 || receive.peer >= num_ranks() || receive.peer == rank()) throw refuse(receive, "no such peer");
    if (slot(receive.block).kind != SlotKind::scratch && !slot(receive.block).receivable)
      throw refuse(receive, "peers may write scratch and what is receivable only");
    if (region_of(schedule_, receive.block).count > 1) throw refuse(receive, "what is received must be contiguous");
    touch(step, receive.block, Access::write);
    receive.peer = world(receive.peer);
  }
  schedule_.exchanges.push_back({static_cast<std::uint32_t>(schedule_.transfers.size()), static_cast<std::uint32_t>(sends.size()),
                                 static_cast<std::uint32_t>(receives.size()), native});
  schedule_.transfers.insert(schedule_.transfers.end(), sends.begin(), sends.end());
  schedule_.transfers.insert(schedule_.transfers.end(), receives.begin(), receives.end());
  push(step);
}

void Recorder::compute(Op op, Rank about) {
  Step step{Lane::compute, static_cast<std::int16_t>(world(about)), static_cast<std::uint32_t>(schedule_.ops.size()), {}};
  for_each_operand(op, [&](const Block& block, Access access) { touch(step, block, access); });
  schedule_.ops.push_back(std::move(op));
  push(step);
}

SliceRange Recorder::slices(std::span<const BandSlice> slices) {
  const SliceRange range{static_cast<std::uint32_t>(schedule_.slices.size()), static_cast<std::uint32_t>(slices.size())};
  schedule_.slices.insert(schedule_.slices.end(), slices.begin(), slices.end());
  return range;
}

std::uint32_t Recorder::function(CustomFunction function) {
  schedule_.functions.push_back(std::move(function));
  return static_cast<std::uint32_t>(schedule_.functions.size() - 1);
}

Schedule Recorder::finish(const std::string& identity) && {
  schedule_.fingerprint = hash_of(identity, hash_of(schedule_.name));
  // Sequential: every step comes after the step before it, so program order is the only order.
  Clock done{};
  Lane previous = Lane::compute;
  for (const Step& step : schedule_.steps) {
    const auto before = static_cast<int>(previous);
    if (step.lane != previous && step.after[before] != done[before]) schedule_.is_sequential = false;
    ++done[static_cast<int>(step.lane)];
    previous = step.lane;
  }
  for (const Op& op : schedule_.ops) schedule_.kernel_flops += kernel_flops(schedule_, op);
  return std::move(schedule_);
}

SEQCCL_END
