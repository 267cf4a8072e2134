// bootstrap.hpp - how processes that were started together find each other: an all-gather of small strings.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "seqccl/error.hpp"

SEQCCL_BEGIN

/// Bootstrap
/// =========
///
///     const LaunchInfo launch = launch_from_env();                                            // who am I, where is rank 0
///     const auto store = tcp_store(launch, 30s);                                              // keys and values, kept by rank 0
///     const AllGather all_gather = store_all_gather(*store, launch.rank, launch.num_ranks, 30s);
///     const std::vector<std::string> everyone = all_gather("what the others shall know of me");
///
/// A transport needs nothing else: its ranks tell each other addresses, names of shared memory and the like, then talk by themselves.
using AllGather = std::function<std::vector<std::string>(std::string_view mine)>;  ///< every rank calls it equally often, in one order

/// What the launcher told this process.
struct LaunchInfo {
  Rank rank = 0;
  int num_ranks = 1;
  std::string address;  ///< where rank 0 listens: a name, IPv4 or IPv6
  int port = 0;         ///< 1 to 65535
  std::string job;      ///< the same on all ranks, another one for every start
  std::string token;    ///< who has it belongs to the job; the job's name if the launcher gave none, which keeps out accidents only
  std::string source;   ///< "seqccl launch", "torchrun", "mpirun" or "srun"
};

/// Looks for a launcher, the innermost first:
///
///     seqccl launch   SEQCCL_RANK, SEQCCL_WORLD_SIZE, SEQCCL_ADDR, SEQCCL_PORT; job: SEQCCL_JOB, else of the port
///     torchrun        RANK, WORLD_SIZE, MASTER_ADDR, port MASTER_PORT + 1 (torchrun has the other); job: TORCHELASTIC_RUN_ID, restarts
///     mpirun          OMPI_COMM_WORLD_RANK, _SIZE, or PMI_RANK, _SIZE; on one host 127.0.0.1 and a port of the job;
///                     job: PMIX_NAMESPACE or OMPI_MCA_ess_base_jobid
///     srun            SLURM_PROCID, SLURM_STEP_NUM_TASKS or SLURM_NTASKS, first host of the step,
///                     port 16384 + (job id + 61 step id) mod 16384; job: SLURM_JOB_ID, SLURM_STEP_ID
///
/// SEQCCL_ADDR and SEQCCL_PORT, where set, replace what is in the table; across hosts mpirun needs both. SEQCCL_TOKEN is the token of any
/// launcher. PMIX_RANK, where set next to mpirun's variables, must agree with them.
/// @throws Error(argument) if no launcher is seen, or its variables are half set, not numbers, out of range or contradict each other
[[nodiscard]] LaunchInfo launch_from_env();

/// The same over any environment: a function from a variable's name to its text, null where it is not set.
using Environment = std::function<const char*(const char* variable)>;
[[nodiscard]] LaunchInfo launch_from(const Environment& environment);

inline constexpr std::size_t max_store_key_bytes = 256;
inline constexpr std::size_t max_store_value_bytes = std::size_t{1} << 20;

/// Keys and values that all ranks of a job see. A key is put once and stays. One thread at a time.
class Store {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  virtual ~Store() = default;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// @throws Error(argument) if key or value is too long or the key is empty; Error(mismatched) if the key has been put before: two
  /// processes think that they are the same rank, or an earlier run of the same job left it; Error(dead) if the store is gone
  virtual void put(std::string_view key, std::string_view value) = 0;

  /// Waits for the key until `deadline`; nothing if it is not there then. A deadline in the past asks without waiting.
  /// @throws Error(argument) if the key is empty or too long; Error(dead) if the store is gone
  [[nodiscard]] virtual std::optional<std::string> get(std::string_view key, Deadline deadline) = 0;

  /// What the others shall find when this process has ended, however it ends, or has destroyed this object; a key that has been put by
  /// then stays. Stores that cannot notice it do nothing.
  /// @throws as put, but for Error(mismatched)
  virtual void leave_behind(std::string_view /*key*/, std::string_view /*value*/) {}

  /// Where ranks meet, for messages: "127.0.0.1:29500", a folder.
  [[nodiscard]] const std::string& place() const noexcept { return place_; }

 protected:
  explicit Store(std::string place) : place_(std::move(place)) {}

 private:
  std::string place_;
};

/// Kept by rank 0 in a thread of its own, which ends with rank 0's object; the others connect, and try again until `timeout`.
/// Rank 0 listens on loopback only if `address` is a loopback address or localhost, else on all interfaces. Names are looked up by the
/// system's resolver, which has its own time limit.
///
/// Only who has job and token gets in, and both ends prove it by a keyed hash; the token does not travel. What is sent afterwards is
/// neither hidden nor sealed: lib/transport/bootstrap/notes.md says what this keeps out and what it does not.
/// @throws Error(argument) if rank, port or timeout is out of range, the port is in use, the address is unknown, or token or job are not
/// those of rank 0; Error(stalled), culprit rank 0, if nobody answers at the address until `timeout`
[[nodiscard]] std::unique_ptr<Store> tcp_store(const LaunchInfo& launch, std::chrono::nanoseconds timeout);

/// Files in a folder that all hosts see, one per key, in a folder of the job below it. Needs no port. Every look costs a walk to the file
/// server, so that waiting backs off to 50 ms.
///
/// Rank 0 removes all of them when its object ends, as the last in an all-gather; another rank removes what it has put, if rank 0 is not
/// there. A run that is killed leaves its files: the next one wants another job name. Who can write in the folder can join.
/// @throws Error(argument) if the folder is not there, cannot be written or knows no hard links
[[nodiscard]] std::unique_ptr<Store> file_store(const std::string& directory, const LaunchInfo& launch);

/// The all-gather of ranks that share a store: each puts its own, rank 0 puts all of them together, the others fetch that. Per rank two
/// puts and one get, whatever the number of ranks (and one more get per MiB of result). Rank 0 returns when all have what they need, so
/// that it may end the store at once.
///
/// The store must outlive it. It counts its rounds: move it, but call one copy only.
///
/// `group` names the communicator; two of one job must not have the same name, nor one that was used before. `mine` is at most
/// max_store_value_bytes - 64.
///
/// The all-gather throws, on all ranks that have arrived and with the same culprits, Error(stalled) that names the ranks that have not
/// come until `timeout`, Error(dead) at once that names those whose process has ended before they came (over a store that notices it), and
/// Error(mismatched) that names those that think of another number of ranks than rank 0. A rank that has come and ends then is nobody's
/// error here: its string is there, and whoever talks to it next will see. After an error it
/// throws the same at every call.
/// @throws Error(argument) if rank, number of ranks, timeout or the length of `group` (1 to 64 bytes) is out of range
[[nodiscard]] AllGather store_all_gather(Store& store, Rank rank, int num_ranks, std::chrono::nanoseconds timeout,
                                         std::string group = "world");

SEQCCL_END
