// launched_ranks.cpp - communicators of processes that a launcher has started, or that have a store or an all-gather.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "fault/transport.hpp"
#include "meet.hpp"
#include "seqccl/bootstrap.hpp"
#include "seqccl/communicator.hpp"
#include "timeout.hpp"

SEQCCL_BEGIN
namespace {

ProcessTransport transport_from_env() {
  const char* text = std::getenv("SEQCCL_TRANSPORT");
  if (text == nullptr || *text == 0) return ProcessTransport::automatic;
  for (const auto transport : {ProcessTransport::automatic, ProcessTransport::shm, ProcessTransport::ucx})
    if (std::string_view(text) == name(transport)) return transport;
  throw Error(ErrorKind::argument, fmt::format("Communicator::from_env: SEQCCL_TRANSPORT is \"{}\", want automatic, shm or ucx", text));
}

}  // namespace

Communicator communicator_at(const MeetingPlace& place, Rank rank, int num_ranks, const ProcessRanks& options) {
  // Wrong texts in this rank's environment are its own mistake, which the others are told.
  std::chrono::nanoseconds timeout{};
  decltype(fault::asked_for(fault::Ranks::processes)) faults;
  try {
    timeout = timeout_from_env(options.timeout);
    faults = fault::asked_for(fault::Ranks::processes);
  } catch (const Error& error) {
    place.leave_word(cannot_join(rank, num_ranks, error));
    throw;
  }
  Met met = meet_ranks(rank, num_ranks, place, options);
  Communicator comm(fault::with_faults(std::move(met.transport), faults), met.ranks_on_host);
  if (std::any_of(met.node.begin(), met.node.end(), [](int node) { return node != 0; })) comm.set_topology({std::move(met.node)});
  comm.set_timeout(timeout);
  if (options.num_threads > 0) comm.set_num_threads(options.num_threads);
  comm.transport().flight_recorder().set_job("", options.group);
  return comm;
}

Communicator Communicator::from_callback(Rank rank, int num_ranks, const AllGather& all_gather, const ProcessRanks& options) {
  if (!all_gather) throw Error(ErrorKind::argument, "Communicator::from_callback: all_gather is empty, want a function");
  if (options.bootstrap_timeout.count() <= 0)
    throw Error(ErrorKind::argument, fmt::format("Communicator::from_callback: bootstrap_timeout is {} ns, want more than 0",
                                                 options.bootstrap_timeout.count()));
  return communicator_at(meeting_place(all_gather), rank, num_ranks, options);
}

Communicator Communicator::from_store(Store& store, Rank rank, int num_ranks, const ProcessRanks& options) {
  return communicator_at(meeting_place(store, rank, num_ranks, options), rank, num_ranks, options);
}

Communicator Communicator::from_env(const ProcessRanks& options) {
  const LaunchInfo launch = launch_from_env();
  ProcessRanks chosen = options;
  const auto store = tcp_store(launch, options.bootstrap_timeout);
  const MeetingPlace place = meeting_place(*store, launch.rank, launch.num_ranks, options);
  try {
    if (chosen.transport == ProcessTransport::automatic) chosen.transport = transport_from_env();
  } catch (const Error& error) {
    place.leave_word(cannot_join(launch.rank, launch.num_ranks, error));
    throw;
  }
  Communicator comm = communicator_at(place, launch.rank, launch.num_ranks, chosen);
  comm.transport().flight_recorder().set_job(launch.job, options.group);
  return comm;
}

SEQCCL_END
