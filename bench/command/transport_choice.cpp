// transport_choice.cpp - reads the paths of --transport, and tries those that only UCX knows.
// SPDX-License-Identifier: Apache-2.0
#include "command/transport_choice.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "command/exchange_job.hpp"
#include "command/options.hpp"
#include "seqccl/communicator.hpp"

namespace seqccl::command {
namespace {

constexpr std::string_view ucx_prefix = "ucx:";
constexpr std::int64_t trial_bytes = std::int64_t{1} << 18;  // beyond what UCX sends at once
constexpr double trial_timeout_s = 20;

[[noreturn]] void refuse_lanes(std::string_view word) {
  throw Error(ErrorKind::argument,
              fmt::format("--transport: '{}' is not right, want ucx:NAME with a transport of UCX, such as ucx:tcp, or several as "
                          "ucx:tcp+sysv; seqccl bench exchange --list tries those that are common",
                          word.substr(0, 80)));
}

TransportChoice parse_one(std::string_view word) {
  if (!word.starts_with(ucx_prefix)) {
    if (word == "auto" || word == "automatic")
      return {transport_state(ProcessTransport::shm).is_there ? RankTransport::shm : RankTransport::threads, {}};
    return {parse_transport(word), {}};
  }
  TransportChoice choice{RankTransport::ucx, std::string(word.substr(ucx_prefix.size()))};
  const auto is_letter = [](unsigned char letter) { return std::isalnum(letter) != 0 || letter == '_' || letter == '+'; };
  const std::string& lanes = choice.ucx_lanes;
  if (lanes.empty() || !std::ranges::all_of(lanes, is_letter) || lanes.front() == '+' || lanes.back() == '+' ||
      lanes.find("++") != std::string::npos)
    refuse_lanes(word);
  std::ranges::replace(choice.ucx_lanes, '+', ',');
  return choice;
}

/// Without the ranks' names: one line says why.
std::string why_not(const Error& error) {
  std::string text = error.what();
  if (const std::size_t line = text.find('\n'); line != std::string::npos) text.resize(line);
  return text;
}

/// Transports that were named but that no message went by: UCX leaves aside what it has not, and takes the rest. Of its names for several
/// (sm, ib, ...) any may be meant.
std::vector<std::string> unused_lanes(const std::string& lanes, const std::string& path) {
  constexpr std::string_view groups[] = {"all", "sm", "shm", "mm", "ib", "cuda", "rocm"};
  std::vector<std::string> unused;
  for (std::string_view rest = lanes; !rest.empty();) {
    const std::string_view lane = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), lane.size() + 1));
    const bool is_used = path.starts_with(lane) || path.find('+' + std::string(lane)) != std::string::npos;  // rc is rc_verbs, rc_mlx5
    if (!is_used && std::ranges::find(groups, lane) == std::end(groups)) unused.emplace_back(lane);
  }
  return unused;
}

/// Two processes send each other a message.
void try_out(const TransportChoice& choice, PathState& state) {
  RunSettings settings;
  settings.num_ranks = 2;
  settings.timeout_s = trial_timeout_s;
  settings.transport = choice.transport;
  settings.ucx_lanes = choice.ucx_lanes;
  const ExchangeRun run = run_exchange(ExchangePlan::of(Pattern::ping_pong, 2, trial_bytes), settings);
  const std::vector<std::string> unused = unused_lanes(choice.ucx_lanes, run.whole.path);
  state.is_there = run.num_wrong == 0 && unused.empty();
  state.text = fmt::format("two processes tried it; messages went by {}", run.whole.path);
  if (!unused.empty()) state.text += fmt::format(", not by {}", fmt::join(unused, ", "));
  if (run.num_wrong > 0) state.text += fmt::format(", and {} numbers came wrong", run.num_wrong);
}

}  // namespace

std::string TransportChoice::text() const {
  std::string lanes = ucx_lanes;
  std::ranges::replace(lanes, ',', '+');
  return lanes.empty() ? name(transport) : std::string(ucx_prefix) + lanes;
}

std::vector<TransportChoice> parse_transports(std::string_view text) {
  std::vector<TransportChoice> choices;
  for (std::size_t begin = 0;;) {
    const std::size_t comma = text.find(',', begin);
    TransportChoice choice = parse_one(text.substr(begin, comma - begin));
    if (std::ranges::any_of(choices, [&](const TransportChoice& each) { return each.text() == choice.text(); }))
      throw Error(ErrorKind::argument, fmt::format("--transport: '{}' has {} twice, want each path once", text, choice.text()));
    choices.push_back(std::move(choice));
    if (comma == std::string_view::npos) return choices;
    begin = comma + 1;
  }
}

PathState path_state(const TransportChoice& choice) {
  PathState state{choice.text(), true, "ranks are threads of one process"};
  if (choice.transport == RankTransport::threads) return state;
  const TransportState there = transport_state(choice.transport == RankTransport::ucx ? ProcessTransport::ucx : ProcessTransport::shm);
  state.is_there = there.is_there;
  state.text = there.text;
  if (!there.is_there || choice.ucx_lanes.empty()) return state;
  try {
    try_out(choice, state);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
    state.is_there = false;
    state.text = "two processes tried it: " + why_not(error);
  }
  return state;
}

std::vector<TransportChoice> known_paths() {
  return parse_transports("threads,shm,ucx,ucx:tcp,ucx:posix,ucx:sysv,ucx:cma+posix,ucx:xpmem+posix,ucx:knem+posix,ucx:rc,ucx:ud,ucx:dc");
}

void require_there(const std::vector<TransportChoice>& choices) {
  for (const TransportChoice& choice : choices)
    if (const PathState state = path_state(choice); !state.is_there)
      throw Error(ErrorKind::argument, fmt::format("--transport: {} cannot be used here: {}; seqccl bench exchange --list says which can",
                                                   state.path, state.text));
}

}  // namespace seqccl::command
