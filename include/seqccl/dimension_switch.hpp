// dimension_switch.hpp - moves the sharding of a tensor from one of its axes to another.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "seqccl/communicator.hpp"
#include "seqccl/partition.hpp"

SEQCCL_BEGIN

struct DimensionSwitchSpec {
  std::vector<std::int64_t> shape;  // of the whole tensor: 3 to 8 axes, the last is never sharded
  int from = 0, to = 1;             // axis that is sharded before, and after
  DType dtype = f32;

  /// The way back.
  [[nodiscard]] DimensionSwitchSpec transposed() const {
    DimensionSwitchSpec back = *this;
    back.from = to;
    back.to = from;
    return back;
  }
  [[nodiscard]] std::string describe() const;
};
/// @throws Error(argument) naming the field, its value and what would be right
void validate(const DimensionSwitchSpec& spec, int num_ranks);

/// Dimension switch
/// ================
///
///     video (B, time, space, C)       rank 0  | frames 0 1 | all of space |        | all frames | places 0 1 2 |
///     from = 1, to = 2                rank 1  | frames 2 3 | all of space |   ->   | all frames | places 3 4   |
///
/// For layers that attend along one axis and then along another: shard the axis that the layer at hand does not mix. Exact movement:
/// no arithmetic, every bit arrives as it was; so the transpose, and the backward, is the switch back: `transposed()`.
///
/// An axis of n is cut as evenly as it goes: rank r has [r n / P, (r + 1) n / P), rounded down. No extent need divide by P, and none
/// is padded; a rank may have nothing.
///
/// Cost: one exchange, one message per ordered pair of ranks that both have something. Rank r receives (n_from - own share of it) x
/// (own share of n_to) x (product of the other axes) elements: of E in all, E (P - 1) / P^2 where P divides both. What is sent along
/// the inner axis is packed first; results are copied out of the arena once.
///
/// Rules, errors and letters as movement.hpp, with one more: views have the axes of `shape`, with the rank's share in place of the
/// sharded extent, or, as a view holds 5 axes, a single axis with all elements of a contiguous tensor. Axes on the same side of the
/// two switched ones, or between them, move together and must be contiguous with one another.
/// Source: Dynamic Sequence Parallelism (arXiv:2403.10266).
class DimensionSwitch {
 public:
  DimensionSwitch(Communicator& comm, DimensionSwitchSpec spec);
  ~DimensionSwitch();
  DimensionSwitch(DimensionSwitch&&) noexcept;
  DimensionSwitch& operator=(DimensionSwitch&&) noexcept;

  /// Indices of axis `axis` that `rank` has while it is sharded. @throws Error(argument) if there is no such axis or rank
  [[nodiscard]] Rows share(int axis, Rank rank) const;
  /// This rank's part of the tensor, sharded along `axis`: shape with one extent replaced.
  [[nodiscard]] std::vector<std::int64_t> local_shape(int axis) const;

  void run(ConstTensorView before, TensorView after);  // sharded along `from` -> sharded along `to`
  [[nodiscard]] const DimensionSwitchSpec& spec() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

SEQCCL_END
