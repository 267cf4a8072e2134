// schedule.hpp - what a collective is before it runs: lanes of steps, as plain data in flat arrays.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "seqccl/mask.hpp"
#include "seqccl/ops.hpp"

SEQCCL_BEGIN

/// Schedule
/// ========
///
///     comm     ██ kv from 1 ██ kv from 2 ██ kv from 3 ░░░░░░░░░░
///     compute  ████ attend 0 ████ attend 1 ████ attend 2 ████ attend 3 ████
///
/// Steps of one lane run in order; lanes run side by side. A step's clock says how many steps of every other lane must be
/// done before it starts. There is nothing else: no waits, events, tags or streams. Executors, the checker, the simulator,
/// `explain` and `draw` all read this one value.

/// Lane 0 computes; the others communicate.
enum class Lane : std::uint8_t { compute, comm, comm2, comm3 };
inline constexpr int num_lanes = 4;
using Clock = std::array<std::uint32_t, num_lanes>;

/// What a slot holds, so that callers can bind it and the checker can follow it.
enum class Tensor : std::uint8_t {
  scratch,
  q,
  k,
  v,
  out,
  lse,
  sinks,
  dout,
  dq,
  dk,
  dv,
  dsinks,
  log_decay,
  state_in,
  state_out,
  entering_state,
  dstate_out,
  dstate_in,
  dlog_decay,
  beta,
  bonus,
  dbeta,
  dbonus,
  user,
};
[[nodiscard]] const char* name(Tensor tensor) noexcept;

/// Where a slot's memory comes from. Peers write scratch, which lies in the communicator's arena, and outputs that are receivable.
enum class SlotKind : std::uint8_t { input, output, scratch };

/// (B, T, H, D) of one dtype. Scratch is stored token-major, (T, B, H, D), so that a run of tokens is contiguous; the
/// caller's tensors have the strides that he gives.
struct Slot {
  SlotKind kind = SlotKind::scratch;
  Tensor tensor = Tensor::scratch;
  DType dtype = DType::f32;
  std::int64_t batch = 0, tokens = 0, heads = 0, dim = 0;
  std::size_t offset_bytes = 0;  // in the arena; scratch only
  bool sendable = true;          // runs of tokens are contiguous in memory
  bool receivable = false;       // an output in memory from Communicator::allocate, runs of tokens contiguous: peers may write it

  [[nodiscard]] std::size_t num_bytes() const noexcept {
    return static_cast<std::size_t>(batch * tokens * heads * dim) * size_bytes(dtype);
  }
};

struct Transfer {
  Rank peer = 0;
  Block block;
};

/// An exchange over the whole communicator with even counts that a transport may do with its own collective.
enum class Native : std::uint8_t { none, all_gather, reduce_scatter, all_to_all };

/// Messages in flight together: transfers [first, first + num_sends) are sends, the next num_receives receives. The i-th send
/// from A to B on a lane meets B's i-th receive from A on that lane.
struct Exchange {
  std::uint32_t first = 0, num_sends = 0, num_receives = 0;
  Native native = Native::none;
};

struct Step {
  Lane lane = Lane::compute;
  std::int16_t about = -1;  // rank whose block the step is about, for labels; -1 none
  std::uint32_t index = 0;  // in Schedule::ops (compute) or Schedule::exchanges
  Clock after{};            // steps of each lane that must be done first
};
static_assert(sizeof(Step) <= 48);

/// The caller's function of a Custom op.
using CustomFunction = std::function<void(std::span<const TensorView>)>;

struct Schedule {
  std::string name;  // "ring forward"
  Rank rank = 0;
  int num_ranks = 1;
  std::uint64_t fingerprint = 0;  // equal on all ranks of one operation, different for different operations
  std::vector<Slot> slots;
  std::vector<Step> steps;  // in program order; per lane also in execution order
  std::vector<Op> ops;
  std::vector<Exchange> exchanges;
  std::vector<Transfer> transfers;
  std::vector<BandSlice> slices;
  std::vector<CustomFunction> functions;
  std::size_t workspace_bytes = 0;
  bool is_sequential = true;  // no step can overlap another: runs on the caller's thread
  double kernel_flops = 0;    // of attend, linear and custom steps (infinite: nobody knows): what is worth a second thread

  [[nodiscard]] std::span<const Transfer> sends(const Exchange& exchange) const noexcept {
    return std::span(transfers).subspan(exchange.first, exchange.num_sends);
  }
  [[nodiscard]] std::span<const Transfer> receives(const Exchange& exchange) const noexcept {
    return std::span(transfers).subspan(exchange.first + exchange.num_sends, exchange.num_receives);
  }
  [[nodiscard]] std::span<const BandSlice> slices_of(SliceRange range) const noexcept {
    return std::span(slices).subspan(range.first, range.count);
  }
  /// First slot that holds `tensor`, or no_slot.
  [[nodiscard]] SlotIndex find(Tensor tensor) const noexcept;
  [[nodiscard]] std::size_t num_bytes(const Block& block) const noexcept;
  /// "attend block of rank 3", "exchange: 2 sends to 1, 2 receives from 3".
  [[nodiscard]] std::string label(const Step& step) const;
};

/// A byte region of a slot with exact overlap: `count` blocks of `block` bytes, `stride` apart.
struct Region {
  SlotIndex slot = no_slot;
  std::uint64_t offset = 0, block = 0, stride = 0, count = 0;
};
[[nodiscard]] Region region_of(const Schedule& schedule, const Block& block) noexcept;
/// True if the two share at least one byte.
[[nodiscard]] bool overlap(const Region& a, const Region& b) noexcept;

SEQCCL_END
