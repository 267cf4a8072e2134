// balance_spot.hpp - where an item fits best: the micro-batch, the size of its group, and the ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <random>
#include <vector>

#include "balance_forest.hpp"

SEQCCL_BEGIN
namespace balancing {

/// How spots are compared. The price of a spot is
///
///     growth of the micro-batch beyond max(its time, target_s)  +  waste_weight * time of the group's ranks / P
struct Taste {
  double target_s = 0;
  double waste_weight = 1;
  bool first_fit = false;         // equal prices: the first micro-batch, else the one where the group ends earliest
  std::uint32_t blink_of_16 = 0;  // this many sixteenths of micro-batches, sizes and ranks are overlooked
  bool any_size = false;          // sizes between those of the list too, at random
};

struct Spot {
  int batch = -1;
  std::vector<Rank> group;  // ascending
  double price = 0, end_s = 0;
};

class Spots {
 public:
  explicit Spots(const State& state);

  /// The cheapest spot; there always is one, because an empty micro-batch takes any item.
  [[nodiscard]] const Spot& best(int item, const Taste& taste);
  /// Ranks and groups looked at so far: what bounds the search, whatever the machine.
  [[nodiscard]] std::int64_t work() const noexcept { return work_; }
  void add_work(std::int64_t work) noexcept { work_ += work; }

 private:
  struct Request {  // an item in a micro-batch with a size of group
    int item = 0, batch = 0, size = 1;
    bool may_blink = true;
    double base_s = 0, opening_s = 0, least_price = 0;
  };
  [[nodiscard]] const Forest& forest_of(int batch);
  /// Tries groups for `request`; the least growth of the micro-batch that it met.
  double try_groups(const Request& request);
  [[nodiscard]] bool choose(const Request& request, std::span<const Unit> units, int node);
  [[nodiscard]] std::span<const Unit> node_after_node(const Domain& domain);

  [[nodiscard]] bool blinks() { return taste_.blink_of_16 > 0 && random_() % 16 < taste_.blink_of_16; }

  const State& state_;
  Taste taste_;
  std::mt19937_64 random_{2};
  std::vector<int> sizes_;  // of groups, that are tried
  std::vector<int> node_;   // per rank, 0 .. num_nodes - 1
  int num_nodes_ = 1, largest_node_ = 1;
  std::int64_t work_ = 0;
  std::vector<Forest> forests_;  // per micro-batch
  Spot best_;
  std::vector<const Unit*> chosen_;
  std::vector<Unit> sorted_;
};

}  // namespace balancing
SEQCCL_END
