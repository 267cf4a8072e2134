// scan.hpp - exclusive scan of states over the runs of a sequence: each run gets the state that enters it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "states.hpp"

SEQCCL_BEGIN
namespace collectives {

/// What one or more runs in a row do to a state: state -> T state + update. Blocks of one rank.
struct Summary {
  Block transition;  // T: log_sum (B, 1, H, 1 | Dk), of delta kinds dense (B, 1, H, Dk Dk); absent: no decay, a constant one, or unknown
  Block update;      // (B, 1, H, Dk Dv), or some columns of it
  std::int64_t length = 0;  // tokens: the power of a constant decay
};

/// Exclusive scan
/// ==============
///
///     entering(first run of a document) = 0, of the first document `initial`
///     entering(next run)                = T(run) entering(run) + update(run)
///
/// over the runs in the order given: sequence order for states, reversed for their gradients. Each document is a scan of its own; all
/// of them run side by side: round i of every document is one exchange. An initial state is folded into the first update by its
/// owner, so T of a document's first run never travels.
///
/// Each scan_*.cpp has one algorithm: record_<name>.
class ScanRecorder {
 public:
  struct Setup {
    std::int64_t batch, heads, key_dim, value_dim;
    LinearKind kind;   // which transitions there are
    Block constant{};  // log_decay of a constant decay, else absent
    Block initial{};   // (B, 1, H, Dk Dv) on the owner of the first run, or absent
    Block leaving{};   // gets the state that leaves the last run; on its owner, or absent
    int column_blocks = 1;
    int ranks_per_node = 1;
  };
  ScanRecorder(Recorder& plan, std::vector<Run> order, const Setup& setup);

  /// False if nobody asks what run v leaves behind.
  [[nodiscard]] bool wants_summary(std::size_t v) const;
  /// Where the summary of my run v must be written before record().
  [[nodiscard]] Summary summary(std::size_t v);
  /// The same for a summary that is already there, in blocks that can be sent.
  void give(std::size_t v, const Block& transition, const Block& update);

  /// Calls enter(v, state) for each of my runs; `state` is what enters it, (B, 1, H, Dk Dv), absent if it is zero. local_work records what
  /// can be done while the first exchange is in flight; runs that open a document are entered right after it.
  using Enter = std::function<void(std::size_t v, const Block& state)>;
  void record(Scan scan, std::function<void()> local_work, Enter enter);

  [[nodiscard]] const std::vector<Run>& order() const noexcept { return order_; }
  [[nodiscard]] bool mine(std::size_t v) const noexcept { return order_[v].owner == plan_.rank(); }

 private:
  void record_all_gather();
  void record_chain(int num_blocks);
  void record_doubling();
  void record_hierarchical();

  /// Messages of one round.
  struct Round {
    std::vector<Transfer> sends, receives;
  };
  /// An element of a doubling scan: what some runs in a row do to a state. Its columns are divided into blocks, which may lie on different
  /// ranks; a rank that has a block has the whole T.
  struct Element {
    std::vector<Rank> owner{};    // of each block of columns
    Block transition{};           // T, on ranks that have a block
    std::vector<Block> update{};  // per block; absent on other ranks
    std::int64_t length = 0;      // tokens
    Block past_transition{};      // of the elements before it, as far as they are known
    std::vector<Block> past{};    // their update: in the end what enters this element, absent if it opens its document
    Block sum_transition{};       // of those and this one: what goes on to later elements
    std::vector<Block> sum{};
  };
  /// Finds `past` of all elements of independent sequences. scan_doubling.cpp
  void double_up(std::vector<std::vector<Element>>& sequences);
  [[nodiscard]] Element arrive(Round& round, const Element& from, const Element& to, bool with_transition);
  void absorb(Element& element, const Element& arriving, std::int64_t length, bool goes_on);

  /// A run as its node sees it, in blocks of columns.
  struct Part {
    std::vector<Block> update{}, past{}, entering{};  // of the run, of the node's runs before it; the state that enters it
    Block transition{}, past_transition{};
    std::int64_t past_length = 0;
  };
  /// Finds `past` of the runs of a node, and what the whole node does. scan_hierarchical.cpp
  void add_up_inside(const Places& node, bool is_first, std::vector<Part>& parts, Element& whole);

  /// What `source` on rank `from` is called on rank `to`: itself, a block that it is received in, or absent elsewhere.
  [[nodiscard]] Block move(Round& round, Rank from, Rank to, const Block& source, const Recorder::Shape& shape);
  /// One exchange; the local work follows the first.
  void exchange(Round round);
  void work_locally();
  void enter(std::size_t v, const Block& state);

  /// state <- T state + update.
  void step(const Summary& by, const Block& state);
  /// transition <- T transition; nothing if transitions are not written down.
  void compose(const Summary& by, const Block& transition);
  [[nodiscard]] Block copy_of(const Block& block);
  [[nodiscard]] bool wants_transition(std::size_t v) const;
  [[nodiscard]] Recorder::Shape transition_shape() const { return {states_.batch, 1, states_.heads, transition_size_}; }
  [[nodiscard]] Recorder::Shape columns_shape(int b, int num_blocks) const {
    return {states_.batch, 1, states_.heads, states_.key_dim * states_.width(b, num_blocks)};
  }

  Recorder& plan_;
  States states_;
  std::vector<Run> order_;
  std::vector<Places> documents_;
  Setup setup_;
  std::int64_t transition_size_;    // numbers per head: 0 if transitions are not written down
  std::vector<Summary> summaries_;  // per place in the order
  std::function<void()> local_work_;
  Enter enter_;
  bool has_worked_ = false;
};

}  // namespace collectives
SEQCCL_END
