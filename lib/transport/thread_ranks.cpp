// thread_ranks.cpp - communicators of threads of this process, and the threads if they are asked for.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "fault/transport.hpp"
#include "seqccl/communicator.hpp"
#include "threads/transport.hpp"
#include "timeout.hpp"

SEQCCL_BEGIN
namespace {

std::vector<std::unique_ptr<Transport>> transports_of(int num_ranks, const char* who, std::optional<WaitPolicy> wait = {}) {
  if (num_ranks < 1) throw Error(ErrorKind::argument, fmt::format("{}: num_ranks is {}, want at least 1", who, num_ranks));
  const auto faults = fault::asked_for(fault::Ranks::threads);
  auto ends = thread_transports(num_ranks, wait.value_or(WaitPolicy::for_host(num_ranks)));
  for (auto& end : ends) {
    end = fault::with_faults(std::move(end), faults);
    end->flight_recorder().set_job(fmt::format("pid{}", ::getpid()), "world");
  }
  return ends;
}

}  // namespace

std::vector<Communicator> thread_communicators(int num_ranks) {
  std::vector<Communicator> communicators;
  for (auto& transport : transports_of(num_ranks, "thread_communicators")) communicators.emplace_back(std::move(transport), num_ranks);
  return communicators;
}

void run_ranks(int num_ranks, const std::function<void(Communicator&)>& body, const RankThreads& options) {
  const std::chrono::nanoseconds timeout = timeout_from_env(options.timeout);
  auto transports = transports_of(num_ranks, "run_ranks", options.wait);
  std::mutex mutex;
  std::exception_ptr first;

  // Each thread owns its communicator, so that a rank leaves when its body returns and others that still wait for it notice.
  const auto run_rank = [&](std::unique_ptr<Transport> transport) {
    const auto keep = [&] {
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
    };
    std::optional<Communicator> owned;
    try {
      owned.emplace(std::move(transport), num_ranks);
    } catch (...) {
      return keep();  // the peers see this rank leave
    }
    Communicator& comm = *owned;
    const auto fail = [&](const std::string& what) {
      keep();
      comm.abort(what);
    };
    try {
      comm.set_timeout(timeout);
      comm.set_topology(options.topology);
      if (options.num_threads > 0) comm.set_num_threads(options.num_threads);
      body(comm);
      comm.throw_if_aborted();
    } catch (const std::exception& error) {
      fail(error.what());
    } catch (...) {
      fail("unknown exception");
    }
  };

  std::vector<std::thread> threads;
  threads.reserve(num_ranks);
  try {
    for (auto& transport : transports) threads.emplace_back(run_rank, std::move(transport));
  } catch (const std::exception&) {  // no more threads: the ranks that run see their peers leave
    const std::lock_guard lock(mutex);
    if (!first) first = std::current_exception();
  }
  transports.clear();
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

SEQCCL_END
