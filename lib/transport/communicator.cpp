// communicator.cpp - a rank's handle: transport, arena and settings.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <new>
#include <utility>

#include "usable_cores.hpp"
#include "work_queue.hpp"

SEQCCL_BEGIN
namespace {

constexpr std::align_val_t alignment{64};

int default_num_threads(int ranks_on_host) {
  if (const char* text = std::getenv("OMP_NUM_THREADS")) {
    const int value = std::atoi(text);
    if (value > 0) return value;
  }
  return std::max(1, usable_cores() / std::max(1, ranks_on_host));
}

/// Writes the flight record if the group has failed, whether this rank has noticed or not.
void record_failure(Transport& transport) noexcept {
  try {
    transport.check();
  } catch (const Error& error) {
    (void)transport.flight_recorder().failed(error, transport);
  } catch (...) {  // no memory for the error's words
  }
}

}  // namespace

// --- Buffer ---------------------------------------------------------------------------------------------------------

Buffer::Buffer(std::size_t num_bytes)
    : data_(num_bytes == 0 ? nullptr : static_cast<std::byte*>(::operator new(num_bytes, alignment)),
            [](std::byte* memory) { ::operator delete(memory, alignment); }),
      num_bytes_(num_bytes) {}

// --- Transport ------------------------------------------------------------------------------------------------------

ShrunkTransport Transport::shrink(std::chrono::nanoseconds /*timeout*/) {
  throw Error(ErrorKind::argument,
              fmt::format("Communicator::shrink: the transport is {}, want threads, shm or ucx; start the ranks that are left "
                          "anew, over a store of theirs",
                          name()));
}

// --- Communicator ---------------------------------------------------------------------------------------------------

struct Communicator::State {
  std::unique_ptr<Transport> transport;
  std::chrono::nanoseconds timeout = std::chrono::minutes(10);
  Topology topology;
  int num_threads = 1;
  std::vector<Rank> former_ranks;
  std::atomic<bool> has_aborted{false};  // this rank has called abort()
  WorkQueue works;

  /// While started operations go on, only they may use the communicator.
  void require_idle(const char* who) const {
    const int unfinished = works.num_unfinished();
    if (unfinished == 0 || works.is_this_thread()) return;
    throw Error(ErrorKind::argument,
                fmt::format("{}: {} started operations have not ended; wait for them, or start this one too", who, unfinished));
  }
};

Communicator::Communicator(std::unique_ptr<Transport> transport, int ranks_on_host) : state_(std::make_unique<State>()) {
  state_->transport = std::move(transport);
  state_->num_threads = default_num_threads(ranks_on_host);
  if (const char* directory = std::getenv("SEQCCL_FLIGHT_RECORD")) state_->transport->flight_recorder().set_directory(directory);
}
Communicator::~Communicator() { end(); }
Communicator::Communicator(Communicator&&) noexcept = default;
Communicator& Communicator::operator=(Communicator&& other) noexcept {
  end();
  state_ = std::move(other.state_);
  return *this;
}
void Communicator::end() noexcept {
  if (!state_) return;
  state_->works.finish();  // while state_ is still there for what they call
  if (state_->transport) record_failure(*state_->transport);
}

Rank Communicator::rank() const noexcept { return state_->transport->rank(); }
int Communicator::size() const noexcept { return state_->transport->num_ranks(); }

void Communicator::set_timeout(std::chrono::nanoseconds timeout) {
  state_->require_idle("Communicator::set_timeout");
  if (timeout.count() <= 0) {
    throw Error(ErrorKind::argument, fmt::format("Communicator::set_timeout: timeout is {} ns, want more than 0", timeout.count()));
  }
  // A deadline is now + timeout: a century is for ever, and safe to add.
  state_->timeout = std::min<std::chrono::nanoseconds>(timeout, std::chrono::hours(24 * 365 * 100));
}
std::chrono::nanoseconds Communicator::timeout() const noexcept { return state_->timeout; }

void Communicator::set_topology(Topology topology) {
  state_->require_idle("Communicator::set_topology");
  if (!topology.node.empty() && static_cast<int>(topology.node.size()) != size()) {
    throw Error(ErrorKind::argument,
                fmt::format("Communicator::set_topology: topology names {} ranks, want {}, or none", topology.node.size(), size()));
  }
  state_->topology = std::move(topology);
}
const Topology& Communicator::topology() const noexcept { return state_->topology; }

void Communicator::set_num_threads(int num_threads) {
  state_->require_idle("Communicator::set_num_threads");
  if (num_threads < 1) {
    throw Error(ErrorKind::argument, fmt::format("Communicator::set_num_threads: num_threads is {}, want at least 1", num_threads));
  }
  state_->num_threads = num_threads;
}
int Communicator::num_threads() const noexcept { return state_->num_threads; }

Buffer Communicator::allocate(std::size_t num_bytes) { return state_->transport->allocate(num_bytes); }

Work Communicator::start(std::function<void()> operation) {
  if (!operation) throw Error(ErrorKind::argument, "Communicator::start: operation is empty, want a function");
  if (state_->works.is_this_thread())
    throw Error(ErrorKind::argument, "Communicator::start: called inside a started operation, which it would have to wait for");
  try {
    return state_->works.start(std::move(operation));
  } catch (const std::exception& why) {  // the peers start theirs: without this rank they would wait for their whole timeout
    const Error error(ErrorKind::local, fmt::format("rank {} of {}: cannot start an operation: {}", rank(), size(), why.what()), {rank()});
    state_->transport->abort(error);
    record_failure(*state_->transport);
    throw error;
  }
}

void Communicator::abort(const std::string& reason) noexcept {
  state_->has_aborted = true;
  try {
    state_->transport->abort(Error(ErrorKind::local, fmt::format("rank {} of {} aborted: {}", rank(), size(), reason), {rank()}));
  } catch (...) {  // no memory for the words
    state_->transport->abort(Error(ErrorKind::local, "a rank aborted"));
  }
  record_failure(*state_->transport);
}

void Communicator::throw_if_aborted() {
  if (state_->has_aborted) state_->transport->check();
}

void Communicator::check() {
  state_->require_idle("Communicator::check");
  record_failure(*state_->transport);
  state_->transport->check();
}

Communicator Communicator::shrink(const ShrinkOptions& options) {
  state_->require_idle("Communicator::shrink");
  if (options.timeout.count() <= 0)
    throw Error(ErrorKind::argument, fmt::format("Communicator::shrink: timeout is {} ns, want more than 0", options.timeout.count()));
  record_failure(*state_->transport);
  state_->has_aborted = false;
  ShrunkTransport shrunk = state_->transport->shrink(options.timeout);
  Communicator comm(std::move(shrunk.transport), 1);
  comm.state_->timeout = state_->timeout;
  comm.state_->num_threads = state_->num_threads;
  for (const Rank former : shrunk.former_ranks)
    if (!state_->topology.node.empty()) comm.state_->topology.node.push_back(state_->topology.node[static_cast<std::size_t>(former)]);
  comm.state_->former_ranks = std::move(shrunk.former_ranks);
  comm.transport().flight_recorder().set_job_after(state_->transport->flight_recorder());
  return comm;
}
const std::vector<Rank>& Communicator::former_ranks() const noexcept { return state_->former_ranks; }

void Communicator::write_flight_record(const std::string& path) const {
  state_->transport->flight_recorder().write(path, *state_->transport);
}

std::vector<std::uint64_t> Communicator::received_bytes() const { return state_->transport->received_bytes(); }
std::vector<std::uint64_t> Communicator::received_messages() const { return state_->transport->received_messages(); }

Transport& Communicator::transport() noexcept { return *state_->transport; }

void Communicator::wrap_transport(const std::function<std::unique_ptr<Transport>(std::unique_ptr<Transport>)>& wrap) {
  state_->require_idle("Communicator::wrap_transport");
  state_->transport = wrap(std::move(state_->transport));
}

std::byte* Communicator::arena(std::size_t num_bytes) {
  state_->require_idle("Communicator");
  record_failure(*state_->transport);
  state_->transport->check();  // the arena of a failed communicator is not handed out again
  try {
    return state_->transport->arena(num_bytes);
  } catch (const std::bad_alloc&) {
    // The peers have begun this operation or will: without this rank they would wait for their whole timeout.
    const Error error(ErrorKind::local, fmt::format("rank {} of {}: no memory for an arena of {} bytes", rank(), size(), num_bytes),
                      {rank()});
    state_->transport->abort(error);
    record_failure(*state_->transport);
    throw error;
  }
}

SEQCCL_END
