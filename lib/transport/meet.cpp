// meet.cpp - one all-gather of cards decides which transport it is; a card may say that its rank cannot come.
// SPDX-License-Identifier: Apache-2.0
#include "meet.hpp"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "bootstrap/last_word.hpp"
#include "shm/transport.hpp"
#include "ucx/library.hpp"
#include "ucx/transport.hpp"

SEQCCL_BEGIN
namespace {

struct Elsewhere {};  // a rank is on another host

Met meet_over_ucx(Rank rank, const ucx::Door& door, const std::vector<std::string>& texts, const ProcessRanks& options,
                  bool shares_memory) {
  int ranks_on_host = 0;
  for (std::size_t peer = 0; peer < texts.size(); ++peer)
    ranks_on_host += ucx::Card::parse(static_cast<Rank>(peer), texts[peer]).place == door.card().place ? 1 : 0;
  const WaitPolicy wait = options.wait.value_or(WaitPolicy::for_host(ranks_on_host));
  if (const ucx::Found found = ucx::find_library(); !found.is_there) {
    const Error error(ErrorKind::argument,
                      fmt::format("the ranks are on several hosts, and that of rank {} has no UCX: {}", rank, found.text));
    door.give_up(texts, cannot_join(rank, static_cast<int>(texts.size()), error));
    throw Error(error.kind(), error.what(), {rank});
  }
  UcxRank end = ucx_transport(rank, door, texts, wait, options.bootstrap_timeout, shares_memory);
  return {std::move(end.transport), std::move(end.node), ranks_on_host};
}

Met meet_over_shm(Rank rank, int num_ranks, const AllGather& all_gather, const ProcessRanks& options) {
  const WaitPolicy wait = options.wait.value_or(WaitPolicy::for_host(num_ranks));
  return {shm_transport(rank, num_ranks, all_gather, wait, options.bootstrap_timeout), {}, num_ranks};
}

/// Both cards go through the one all-gather; the hosts decide.
Met meet_anyhow(Rank rank, int num_ranks, const AllGather& all_gather, const ProcessRanks& options) {
  const ucx::Door door(rank, num_ranks, options.host);
  std::vector<std::string> cards;
  const AllGather both = [&](std::string_view mine) {
    std::vector<std::string> texts = all_gather(fmt::format("{}\n{}", mine, door.card().text()));
    bool together = true;
    for (std::string& text : texts) {
      const std::size_t end = text.find('\n');
      if (end == std::string::npos) return texts;  // the first card of another build says what is wrong
      cards.push_back(text.substr(end + 1));
      text.resize(end);
      const ucx::Card card = ucx::Card::parse(static_cast<Rank>(cards.size() - 1), cards.back());
      together = together && card.host == door.card().host && card.place == door.card().place;
    }
    if (!together) throw Elsewhere{};
    return texts;
  };
  try {
    return meet_over_shm(rank, num_ranks, both, options);
  } catch (const Elsewhere&) {
    return meet_over_ucx(rank, door, cards, options, true);
  }
}

Met meet(Rank rank, int num_ranks, const AllGather& all_gather, const ProcessRanks& options) {
  if (options.transport == ProcessTransport::shm) return meet_over_shm(rank, num_ranks, all_gather, options);
  if (options.transport == ProcessTransport::automatic) return meet_anyhow(rank, num_ranks, all_gather, options);
  const ucx::Found found = ucx::find_library();
  if (!found.is_there) throw Error(ErrorKind::argument, fmt::format("ProcessRanks: transport is ucx, which is not there: {}", found.text));
  const ucx::Door door(rank, num_ranks, options.host);
  return meet_over_ucx(rank, door, all_gather(door.card().text()), options, false);
}

// A text in the all-gather is "+" and a card, or "-", the number of an ErrorKind and why the rank cannot come.
constexpr std::size_t max_reason_chars = 1000;

std::vector<std::string> cards_of(std::vector<std::string> texts, Rank own) {
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    std::string& text = texts[rank];
    if (text.size() > 2 && text[0] == '-' && static_cast<Rank>(rank) != own)
      throw Error(text[1] >= '0' && text[1] <= '5' ? static_cast<ErrorKind>(text[1] - '0') : ErrorKind::local, text.substr(2),
                  {static_cast<Rank>(rank)});
    if (!text.empty()) text.erase(0, 1);
  }
  return texts;
}

}  // namespace

TransportState transport_state(ProcessTransport transport) {
  if (transport != ProcessTransport::ucx) return {true, "ranks of one host"};
  ucx::Found found = ucx::find_library();
  return {found.is_there, std::move(found.text)};
}

Error cannot_join(Rank rank, int num_ranks, const std::exception& why) {
  const auto* known = dynamic_cast<const Error*>(&why);
  return {known != nullptr ? known->kind() : ErrorKind::local,
          fmt::format("rank {} of {} cannot join the communicator: {}", rank, num_ranks,
                      std::string_view(why.what()).substr(0, max_reason_chars)),
          {rank}};
}

MeetingPlace meeting_place(const AllGather& all_gather) {
  return {all_gather, [&all_gather](const Error& error) {
            try {
              (void)all_gather(fmt::format("-{}{}", static_cast<int>(error.kind()), error.what()));
            } catch (...) {  // then the others find out by themselves
            }
          }};
}

MeetingPlace meeting_place(Store& store, Rank rank, int num_ranks, const ProcessRanks& options) {
  return {store_all_gather(store, rank, num_ranks, options.bootstrap_timeout, options.group),
          [&store, rank, num_ranks, &options](const Error& error) { bootstrap::leave_word(store, rank, num_ranks, options.group, error); }};
}

Met meet_ranks(Rank rank, int num_ranks, const MeetingPlace& place, const ProcessRanks& options) {
  bool has_spoken = false;
  const AllGather gather_cards = [&](std::string_view card) {
    has_spoken = true;
    return cards_of(place.all_gather(fmt::format("+{}", card)), rank);
  };
  try {
    return meet(rank, num_ranks, gather_cards, options);
  } catch (const std::exception& error) {
    if (!has_spoken) place.leave_word(cannot_join(rank, num_ranks, error));
    throw;
  }
}

SEQCCL_END
