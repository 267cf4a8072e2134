// communicator.hpp - a rank's handle on its peers: transport, arena, timeout, topology.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "seqccl/bootstrap.hpp"
#include "seqccl/buffer.hpp"
#include "seqccl/mesh.hpp"
#include "seqccl/transport.hpp"
#include "seqccl/work.hpp"

SEQCCL_BEGIN

/// What ranks that are processes talk over.
enum class ProcessTransport {
  automatic,  ///< shm if all are on one host, else ucx between hosts and shared memory on each
  shm,        ///< memory that the ranks share: one host
  ucx,  ///< UCX between all, loaded at run time (SEQCCL_UCX_LIBRARY names another file than libucp.so.0), and TCP between all ranks for
        ///< failures
};
[[nodiscard]] constexpr const char* name(ProcessTransport transport) noexcept {
  constexpr const char* names[] = {"automatic", "shm", "ucx"};
  return names[static_cast<int>(transport)];
}
/// Whether it is there, and which, or why not. Loads what it needs.
struct TransportState {
  bool is_there = false;
  std::string text;
};
[[nodiscard]] TransportState transport_state(ProcessTransport transport);

/// Ranks as processes; how they meet, talk and wait.
struct ProcessRanks {
  std::chrono::nanoseconds timeout = std::chrono::minutes(10);            // Communicator::set_timeout
  std::chrono::nanoseconds bootstrap_timeout = std::chrono::seconds(60);  // until all have arrived
  std::string group = "world";       // of the ranks that meet: a second communicator of one job needs another name
  int num_threads = 0;               // kernel threads per rank; 0: OMP_NUM_THREADS, else cores / ranks
  std::optional<WaitPolicy> wait{};  // none: WaitPolicy::for_host
  ProcessTransport transport = ProcessTransport::automatic;
  std::string host{};                               // ranks with the same name share a node; empty: of the system
  std::optional<std::chrono::nanoseconds> grace{};  // run_processes: a failed group's ranks have this long to end; none: for ever
};

struct ShrinkOptions {
  std::chrono::nanoseconds timeout = std::chrono::seconds(60);  // for ranks that neither come nor end: stopped, or busy with something else
};

/// Communicator
/// ============
///
///     Communicator comm = Communicator::from_env();      // in a process that torchrun, mpirun, srun or `seqccl launch` has started
///     run_ranks(4, [](Communicator& comm) { ... });      // or: ranks as threads of this process
///
/// One per rank; move-only. Operations of one communicator run one after the other and share its arena, which grows to the
/// largest need and is never given back; repeated runs allocate no workspace. Must outlive the Attention ... objects made on it, and
/// must not be moved while there are any.
///
/// Thread safety: one thread at a time, except abort(), received_bytes() and write_flight_record(), which any thread may call at any
/// moment.
///
/// Operations block; start() runs them on a thread of the communicator's own, while the caller does something else. As long as one
/// is going on, start() is the only way to the communicator: a blocking operation or a change of settings then is refused with
/// Error(argument). The destructor returns when all that was started has ended.
///
/// After an Error other than `argument` the communicator is failed: every later call throws the first cause. shrink() makes a new one of
/// the ranks that are left.
class Communicator {
 public:
  /// Ranks are the processes that a launcher has started (bootstrap.hpp: launch_from_env); they meet at rank 0's TCP store. If they are on
  /// several hosts, topology() says which share one. SEQCCL_TRANSPORT (shm, ucx) decides where options.transport is automatic;
  /// SEQCCL_TIMEOUT (seconds) replaces options.timeout, here, in all that follow and in run_ranks: who starts a program knows best how
  /// long a rank may be silent there.
  /// @throws Error(argument) without a launcher, or if the transport cannot be had; Error(stalled) that names the ranks that have not come
  /// within bootstrap_timeout
  [[nodiscard]] static Communicator from_env(const ProcessRanks& options = {});
  /// The same over a store of your own; it is not needed afterwards.
  [[nodiscard]] static Communicator from_store(Store& store, Rank rank, int num_ranks, const ProcessRanks& options = {});
  /// The same over an all-gather of your own, which is called once; by a rank that cannot come to say why, so that its error waits for the
  /// others to call it.
  [[nodiscard]] static Communicator from_callback(Rank rank, int num_ranks, const AllGather& all_gather, const ProcessRanks& options = {});

  Communicator(std::unique_ptr<Transport> transport, int ranks_on_host);
  ~Communicator();
  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;

  [[nodiscard]] Rank rank() const noexcept;
  [[nodiscard]] int size() const noexcept;

  /// How long a peer may neither begin nor end a step before it counts as stalled. Default 10 minutes. @throws Error(argument) if <= 0
  void set_timeout(std::chrono::nanoseconds timeout);
  [[nodiscard]] std::chrono::nanoseconds timeout() const noexcept;

  /// Who shares a node; known for ranks on several hosts, else set by hand, the same on all ranks. @throws Error(argument) if it does not
  /// name every rank
  void set_topology(Topology topology);
  [[nodiscard]] const Topology& topology() const noexcept;

  /// Threads that kernels of this rank may use. Default: OMP_NUM_THREADS if set, else cores / ranks on this host, at least 1.
  void set_num_threads(int num_threads);
  [[nodiscard]] int num_threads() const noexcept;

  /// Memory that transports move fastest: between processes what arrives for SequenceGather, HeadSwap and DimensionSwitch lands in an
  /// output there, without a copy out of the arena. May outlive the communicator. After an error other than `argument` a peer that had
  /// been stopped may still write what it was about to. @throws std::bad_alloc
  [[nodiscard]] Buffer allocate(std::size_t num_bytes);

  /// Runs `operation`, which calls blocking operations of this communicator, on its one worker thread: after everything that was
  /// started before, in the order of start(), which must be the same on all ranks. The tensors that it uses belong to it until the
  /// Work has ended. The thread begins with the first call; a communicator that starts nothing has none. An exception, of the
  /// library or of the operation's own, is kept for the Work; later operations run all the same, and throw the first cause if the
  /// group has failed.
  /// @throws Error(argument) if `operation` is empty or start is called inside an operation; Error(local) if there is no thread to
  /// be had: the group is failed then, as the others would wait
  [[nodiscard]] Work start(std::function<void()> operation);

  /// Ends the group on all ranks: their waits throw Error(local) that names this rank and `reason`. Any thread.
  void abort(const std::string& reason) noexcept;
  /// For who runs a rank's work, when it has returned: throws what ended the group if this rank has called abort() and not gone on with
  /// shrink(). So run_ranks and run_processes tell of an abort() whose rank then returns.
  void throw_if_aborted();

  /// A new communicator of the ranks that are left after a failure; called by all of them.
  ///
  ///     for (bool done = false; !done;) try {
  ///         train(comm);                                          // makes its Attention ... objects itself, and saves its state
  ///         done = true;
  ///       } catch (const Error& error) {
  ///         if (error.kind() == ErrorKind::argument) throw;
  ///         comm = comm.shrink();                                 // ranks 0 1 3 of 4 are now 0 1 2 of 3
  ///       }
  ///
  /// Those belong to it who call this before the first of them has waited for options.timeout, and neither their process has ended nor
  /// their communicator is destroyed. All get the same members, whoever ends or stops meanwhile; a rank that ends after that is named by
  /// the new communicator's next operation, and it can be shrunk in turn. Returns as soon as nobody is left to wait for, and within
  /// options.timeout + 2 s.
  ///
  /// Ranks keep their order, the timeout, the threads, the way to wait and the nodes; former_ranks() says who they were. This
  /// communicator stays failed and may be destroyed; memory from its allocate() is ordinary memory to the new one. If it has not
  /// failed, this ends it on all ranks.
  ///
  /// @throws Error(stalled) if the others have gone on without this rank, which has come too late; over ucx also if as many as half of
  /// those whose process has not ended do not answer (lib/transport/ucx/notes.md). Error(argument) if it was called before, or started
  /// operations go on; Error(local) if this rank lacks memory or descriptors: to the others it has left
  [[nodiscard]] Communicator shrink(const ShrinkOptions& options = {});
  /// By rank: which it was in the communicator that this one was shrunk from, ascending. Empty if it was not.
  [[nodiscard]] const std::vector<Rank>& former_ranks() const noexcept;

  /// Throws what ended the group, if it has ended; does not wait. On a device it sees what has failed since the last operation.
  void check();

  /// Bytes and messages received from each rank so far, counted in the transport.
  [[nodiscard]] std::vector<std::uint64_t> received_bytes() const;
  [[nodiscard]] std::vector<std::uint64_t> received_messages() const;

  /// Writes what this rank did last, and what it sees of the others, to a file (flight_recorder.hpp). Any thread. With
  /// SEQCCL_FLIGHT_RECORD=DIR in the environment in which a communicator is made, a failure of the group is written to DIR by itself.
  /// @throws Error(argument) if `path` cannot be written
  void write_flight_record(const std::string& path) const;

  // --- For methods and executors. ---
  [[nodiscard]] Transport& transport() noexcept;
  /// Puts what `wrap` makes of the transport in its place; before the first operation. If `wrap` throws, the communicator has none and may
  /// only be destroyed.
  void wrap_transport(const std::function<std::unique_ptr<Transport>(std::unique_ptr<Transport>)>& wrap);
  /// At least `num_bytes` of arena; grows it if needed (contents are lost).
  [[nodiscard]] std::byte* arena(std::size_t num_bytes);

 private:
  struct State;
  void end() noexcept;
  std::unique_ptr<State> state_;
};

/// Ranks as threads of this process
/// ================================
///
///     run_ranks(4, [](Communicator& comm) { ... });        // returns when all ranks have returned
///
/// A rank that throws fails the group: the others' waits end with an error that names it. The first cause is rethrown
/// after all threads are joined.
struct RankThreads {
  std::chrono::nanoseconds timeout = std::chrono::minutes(10);
  Topology topology{};
  int num_threads = 0;               // kernel threads per rank; 0: cores / ranks
  std::optional<WaitPolicy> wait{};  // none: WaitPolicy::for_host
};
void run_ranks(int num_ranks, const std::function<void(Communicator&)>& body, const RankThreads& options = {});

/// The same without the threads: one communicator per rank, to be used from a thread each (frameworks with their own threads).
[[nodiscard]] std::vector<Communicator> thread_communicators(int num_ranks);

/// Ranks as processes of this one
/// ==============================
///
///     run_processes(4, [](Communicator& comm) { ... });    // forks 4 processes, returns when all have ended
///
/// For tests, benchmarks and tools: what a rank writes is seen by the caller only in memory that was shared before. A rank that throws
/// fails the group; the first cause is thrown again here. A rank that has not ended `grace` later is killed. No process outlives the
/// call, nor the caller.
///
/// Forks: the caller must have no other threads that hold locks. @throws Error(dead) that names a rank whose process ended by a signal or
/// by exit, and says what the others know of it
void run_processes(int num_ranks, const std::function<void(Communicator&)>& body, const ProcessRanks& options = {});

SEQCCL_END
