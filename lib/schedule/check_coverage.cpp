// check_coverage.cpp - runs all ranks by name, in an order that can happen, and asks whether the outputs are what they must be.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "coverage.hpp"
#include "message_graph.hpp"
#include "well_formed.hpp"

SEQCCL_BEGIN
namespace checker {

Coverage::Coverage(std::span<const Schedule> all, const Claim& what_is_claimed) : schedules(all), claim(what_is_claimed) {
  if (claim.mask != nullptr) mask = BoundMask(*claim.mask, num_tokens(), claim.batch);
  std::int64_t at = 0;
  for (std::size_t i = 0; claim.documents != nullptr && i < claim.documents->size(); ++i) {
    if (at > document_starts.back() && at < num_tokens()) document_starts.push_back(at);
    at += (*claim.documents)[i];
  }
  contents.resize(all.size());
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    contents[rank].resize(all[rank].slots.size());
    for (const Slot& slot : all[rank].slots) {
      has_dstate_in |= slot.kind == SlotKind::output && slot.tensor == Tensor::dstate_in;
      if (slot.kind != SlotKind::input) continue;
      if (slot.tensor == Tensor::q) key_dim = slot.dim;
      has_beta |= slot.tensor == Tensor::beta;
      has_bonus |= slot.tensor == Tensor::bonus;
      has_sinks |= slot.tensor == Tensor::sinks;
      has_log_decay |= slot.tensor == Tensor::log_decay;
      has_state_in |= slot.tensor == Tensor::state_in;
      has_dstate_out |= slot.tensor == Tensor::dstate_out;
      decay_is_constant |= slot.tensor == Tensor::log_decay &&
                           (slot.tokens != claim.partition->tokens_on(static_cast<Rank>(rank)) || slot.batch != claim.batch);
    }
    // One token per rank looks like one number per head; stepping a state by log_decay itself tells.
    for (const Op& op : all[rank].ops)
      if (const auto* state_step = std::get_if<StateStep>(&op); state_step != nullptr && state_step->log_sum.present())
        decay_is_constant |= all[rank].slots[state_step->log_sum.slot].tensor == Tensor::log_decay;
  }
}

Segment Coverage::document_of(std::int64_t token) const {
  const auto next = std::upper_bound(document_starts.begin(), document_starts.end(), token);
  const std::int64_t first = *(next - 1), end = next == document_starts.end() ? num_tokens() : *next;
  return {first, end - first, 1};
}

SlotNames Coverage::names_of(const Schedule& of, std::size_t slot) const {
  if (!claim.names) return {claim.partition->pieces(of.rank), 0};
  const Tensor tensor = of.slots[slot].tensor;
  int nth = 0;
  for (std::size_t i = 0; i < slot; ++i) nth += of.slots[i].tensor == tensor ? 1 : 0;
  return claim.names(of.rank, tensor, nth);
}

void Coverage::problem(const std::string& what) {
  if (problems.size() < max_problems) problems.push_back(fmt::format("{}: {}", where(*schedule, step), what));
}

std::vector<Fragment> Coverage::read(const Block& block, const char* operand) {
  if (block.empty()) return {};
  std::vector<Fragment> found = contents[schedule->rank][block.slot].read(block);
  if (fills(found, block.num_tokens, block.num_heads)) return found;
  problem(fmt::format("reads its {} where nobody wrote{}", operand, found.empty() ? "" : ", beside " + describe(found.front())));
  return {};
}

std::vector<Fragment> Coverage::read(const Block& block, const char* operand, What what) {
  std::vector<Fragment> found = read(block, operand);
  for (const Fragment& fragment : found) {
    if (fragment.what == what) continue;
    problem(fmt::format("its {} is {}, want {}", operand, describe(fragment), name(what)));
    return {};
  }
  return found;
}

void Coverage::write(const Block& block, std::span<const Fragment> fragments) {
  if (!block.empty()) contents[schedule->rank][block.slot].write(block, fragments);
}

void Coverage::fill(const Block& block, Fragment fragment) {
  fragment.rows = {0, block.num_tokens};
  fragment.head_first = 0;
  fragment.num_heads = block.num_heads;
  write(block, std::span(&fragment, 1));
}

namespace {

/// A message in flight: names as they were when it was sent.
struct Flight {
  const Message* message;
  std::vector<Fragment> fragments;
};

class Walk {
 public:
  Walk(std::span<const Schedule> schedules, const Claim& claim, std::span<const Message> messages) : run_(schedules, claim) {
    leaving_.resize(schedules.size());
    arriving_.resize(schedules.size());
    for (std::size_t rank = 0; rank < schedules.size(); ++rank) {
      leaving_[rank].resize(schedules[rank].steps.size());
      arriving_[rank].resize(schedules[rank].steps.size());
    }
    for (const Message& message : messages) {
      leaving_[message.from][message.send_step].push_back(static_cast<std::uint32_t>(flights_.size()));
      arriving_[message.to][message.receive_step].push_back(static_cast<std::uint32_t>(flights_.size()));
      flights_.push_back({&message, {}});
    }
  }

  std::vector<std::string> follow(std::span<const Event> events) {
    name_inputs(run_);
    for (const Event& event : events) {
      run_.schedule = &run_.schedules[event.rank];
      run_.step = event.step;
      const Step& step = run_.schedule->steps[event.step];
      if (step.lane != Lane::compute) {
        event.is_done ? receive(event) : send(event);
      } else if (event.is_done) {
        std::visit([this](const auto& op) { apply(run_, op); }, run_.schedule->ops[step.index]);
      }
      if (run_.problems.size() >= max_problems) return std::move(run_.problems);
    }
    check_outputs(run_);
    return std::move(run_.problems);
  }

 private:
  void send(const Event& event) {
    for (const std::uint32_t flight : leaving_[event.rank][event.step]) {
      const Block& block = run_.schedule->transfers[flights_[flight].message->send].block;
      flights_[flight].fragments = run_.read(block, "message");
    }
  }

  void receive(const Event& event) {
    for (const std::uint32_t index : arriving_[event.rank][event.step]) {
      Flight& flight = flights_[index];
      const Schedule& sender = run_.schedules[flight.message->from];
      const Block &from = sender.transfers[flight.message->send].block, &to = run_.schedule->transfers[flight.message->receive].block;
      const Slot &out = sender.slots[from.slot], &in = run_.schedule->slots[to.slot];
      if (from.num_tokens != to.num_tokens || from.num_heads != to.num_heads || out.dim != in.dim || out.batch != in.batch ||
          out.dtype != in.dtype)
        run_.problem(fmt::format("rank {} sends it {} tokens x {} heads x {} {}, it takes {} x {} x {} {}", flight.message->from,
                                 from.num_tokens, from.num_heads, out.dim, seqccl::name(out.dtype), to.num_tokens, to.num_heads, in.dim,
                                 seqccl::name(in.dtype)));
      else
        run_.write(to, flight.fragments);
      flight.fragments = {};
    }
  }

  Coverage run_;
  std::vector<Flight> flights_;
  std::vector<std::vector<std::vector<std::uint32_t>>> leaving_, arriving_;  // per rank and step: flights
};

}  // namespace
}  // namespace checker

CheckReport check_coverage(std::span<const Schedule> schedules, const Claim& claim) {
  if (claim.partition == nullptr) throw Error(ErrorKind::argument, "check_coverage: claim.partition is null, want the partition");
  if (claim.kv_heads < 1 || claim.q_heads % claim.kv_heads != 0)
    throw Error(ErrorKind::argument, fmt::format("check_coverage: claim.q_heads is {}, want a multiple of claim.kv_heads, which is {}",
                                                 claim.q_heads, claim.kv_heads));
  if (claim.documents != nullptr && !claim.documents->empty() &&
      std::accumulate(claim.documents->begin(), claim.documents->end(), std::int64_t{0}) != claim.partition->num_tokens())
    throw Error(ErrorKind::argument,
                fmt::format("check_coverage: claim.documents do not sum to the partition's {} tokens", claim.partition->num_tokens()));
  if (claim.partition->num_ranks() != static_cast<int>(schedules.size()))
    throw Error(ErrorKind::argument,
                fmt::format("check_coverage: claim.partition is over {} ranks, want {}, as many as there are schedules",
                            claim.partition->num_ranks(), schedules.size()));
  CheckReport report = checker::check_well_formed(schedules);
  if (!report.ok()) return report;
  const checker::Matching matching = checker::match_messages(schedules);
  const checker::Order order = checker::order_events(schedules, matching.messages);
  if (!matching.problems.empty() || !order.problems.empty()) {
    report.problems.push_back("cannot be followed: messages do not match, or steps wait for each other");
    return report;
  }
  report.problems = checker::Walk(schedules, claim, matching.messages).follow(order.events);
  return report;
}

SEQCCL_END
