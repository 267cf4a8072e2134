// balance_search.cpp - greedy by many targets, then remove and insert again; seeded, and bounded by work instead of time.
// SPDX-License-Identifier: Apache-2.0
#include "balance_search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "balance_spot.hpp"

SEQCCL_BEGIN
namespace balancing {
namespace {

constexpr std::int64_t greedy_work = 1'000'000, improve_work = 2'000'000;  // of Spots::work at 512 items
constexpr double close_enough = 1 + 1e-9;
constexpr double worse_accepted = 0.01;

class Search {
 public:
  Search(const BalanceProblem& problem, std::span<const Item> items, double lower_bound_s)
      : state_(problem, items), spots_(state_), lower_bound_s_(lower_bound_s) {}

  Assignment run() {
    construct_all();
    for (int pass = 0; pass < state_.problem().effort && !is_optimal(); ++pass) improve();
    return best_;
  }

 private:
  [[nodiscard]] int num_items() const { return static_cast<int>(state_.items().size()); }
  [[nodiscard]] bool is_optimal() const { return best_s_ <= lower_bound_s_ * close_enough; }
  [[nodiscard]] int random_below(std::size_t count) { return static_cast<int>(random_() % count); }

  void keep_if_better() {
    const double total_s = state_.total_s();
    if (total_s >= best_s_ * (2 - close_enough)) return;
    best_s_ = total_s;
    best_ = state_.assignment();
    spots_.add_work(num_items());
  }

  /// All items anew, most work first.
  void construct(const Taste& taste) {
    for (int item = 0; item < num_items(); ++item)
      if (state_.batch_of(item) >= 0) state_.remove(item);
    for (int item = 0; item < num_items(); ++item) place(item, taste);
    state_.commit();
    keep_if_better();
  }

  void place(int item, const Taste& taste) {
    const Spot& spot = spots_.best(item, taste);
    state_.place(item, spot.batch, spot.group);
  }

  /// A target is what every micro-batch may take without a price: high ones make few micro-batches with small groups, low ones many
  /// with wide groups. First a ladder of targets, then smaller and smaller steps around the best.
  void construct_all() {
    const BalanceProblem& problem = state_.problem();
    double tokens = 0;
    for (const Item& item : state_.items()) tokens += static_cast<double>(item.tokens);
    const double room = static_cast<double>(problem.max_tokens_per_rank) * problem.num_ranks;
    const double least_batches = room > 0 ? std::ceil(tokens / room) : 1;
    const std::int64_t most_work = greedy_work * std::max(1, num_items() / 512);
    double best_target_s = 0;
    const auto attempt = [&](double target_s, double waste_weight) {
      if (is_optimal() || (spots_.work() > most_work && best_s_ < std::numeric_limits<double>::infinity())) return;
      const double before_s = best_s_;
      construct({target_s, waste_weight, true, 0, false});
      if (best_s_ < before_s) best_target_s = target_s;
    };
    for (double target_s = lower_bound_s_ * 1.3; target_s > lower_bound_s_ / (6 * least_batches); target_s /= 1.6) attempt(target_s, 1);
    for (const double step : {1.25, 1.12, 1.06, 1.03}) {
      const double middle_s = best_target_s;
      for (const double waste_weight : {1.0, 0.3}) {
        attempt(middle_s * step, waste_weight);
        attempt(middle_s / step, waste_weight);
      }
    }
  }

  /// What is removed comes back where it is cheapest. Somewhat worse is accepted, ever less so.
  void improve() {
    state_.load(best_);
    double current_s = best_s_;
    const std::int64_t begin = spots_.work();
    const double most_rounds = 500 + 500.0 * num_items();
    for (std::int64_t round = 0; !is_optimal(); ++round) {
      const double worked = static_cast<double>(spots_.work() - begin) / static_cast<double>(improve_work);
      const double progress = std::max(worked, static_cast<double>(round) / most_rounds);
      if (progress >= 1) break;
      remove_some();
      insert_again();
      const double total_s = state_.total_s();
      if (total_s <= current_s * (1 + worse_accepted * (1 - progress))) {
        current_s = total_s;
        state_.commit();
        keep_if_better();
      } else {
        state_.roll_back();
      }
    }
  }

  void remove(int item) {
    state_.remove(item);
    removed_.push_back(item);
  }

  void remove_some() {
    removed_.clear();
    const int batch = state_.batch_of(random_below(state_.items().size()));
    const Batch& from = state_.batches()[batch];
    before_s_ = from.slowest_s;
    const int kind = random_below(8);
    if (kind == 0 && from.num_items <= 16) return remove_if([&](int item) { return state_.batch_of(item) == batch; });
    if (kind == 1 && from.shared.size() <= 6)
      return remove_if([&](int item) { return state_.batch_of(item) == batch && state_.group_of(item).size() > 1; });
    if (kind == 2 && num_items() <= 12) return remove_if([](int) { return true; });
    if (kind < 6) {  // one or two of the slowest rank's
      const auto slowest = std::max_element(from.loads.begin(), from.loads.end(),
                                            [&](const Load& a, const Load& b) { return state_.seconds(a) < state_.seconds(b); });
      const Rank rank = static_cast<Rank>(slowest - from.loads.begin());
      std::vector<int>& on_rank = listed_;
      on_rank.clear();
      spots_.add_work(num_items() / 8);
      for (int item = 0; item < num_items(); ++item)
        if (state_.batch_of(item) == batch && std::binary_search(state_.group_of(item).begin(), state_.group_of(item).end(), rank))
          on_rank.push_back(item);
      for (int i = random_below(2); i >= 0 && !on_rank.empty(); --i) {
        const int at = random_below(on_rank.size());
        remove(on_rank[at]);
        on_rank.erase(on_rank.begin() + at);
      }
    }
    for (int i = random_below(3) + (removed_.empty() ? 1 : 0); i > 0; --i) {
      const int item = random_below(state_.items().size());
      if (state_.batch_of(item) >= 0) remove(item);
    }
  }

  template <class Chosen>
  void remove_if(Chosen&& chosen) {
    listed_.clear();
    for (int item = 0; item < num_items(); ++item)
      if (chosen(item)) listed_.push_back(item);
    for (const int item : listed_) remove(item);
  }

  void insert_again() {
    constexpr double waste_weights[] = {0.0, 0.05, 0.3, 1.0};
    Taste taste;
    if (random_below(4) == 0) {  // else groups are as wide as can be
      taste.target_s = before_s_ * (8 + random_below(17)) / 16;
      taste.first_fit = true;  // a further micro-batch is not for free
    }
    taste.waste_weight = waste_weights[random_below(4)];
    taste.any_size = random_below(2) == 0;
    taste.blink_of_16 = random_below(4) == 0 ? 2 : 0;
    std::sort(removed_.begin(), removed_.end());  // most work first
    if (random_below(3) == 0)
      for (std::size_t i = removed_.size(); i > 1; --i) std::swap(removed_[i - 1], removed_[random_below(i)]);
    for (const int item : removed_) place(item, taste);
  }

  State state_;
  Spots spots_;
  const double lower_bound_s_;
  std::mt19937_64 random_{1};
  Assignment best_;
  double best_s_ = std::numeric_limits<double>::infinity();
  double before_s_ = 0;  // of the micro-batch from which items are removed
  std::vector<int> removed_, listed_;
};

}  // namespace

Assignment search(const BalanceProblem& problem, std::span<const Item> items, double lower_bound_s) {
  return Search(problem, items, lower_bound_s).run();
}

}  // namespace balancing
SEQCCL_END
