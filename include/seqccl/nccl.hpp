// nccl.hpp - data between devices by NCCL, which is found at run time; building needs neither nccl.h nor libnccl.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "seqccl/cuda.hpp"

struct ncclComm;  // nccl.h: ncclComm_t points to it

SEQCCL_BEGIN
namespace cuda {

/// Whether there is an NCCL, and which, or why not: SEQCCL_NCCL_LIBRARY, else the copy that this process has loaded already, else the
/// system's libnccl.so.2; 2.18 or later.
[[nodiscard]] TransportState nccl_state();

/// NCCL between devices
/// ====================
///
///     auto comm = Communicator::from_env();                                   // ranks meet and watch each other on the host
///     cudaSetDevice(...);                                                     // each rank another device
///     cuda::use_device(comm, cuda::nccl_transport(comm), {.stream = stream});
///
/// An exchange step is one group of ncclSend and ncclRecv. Each communication lane has an NCCL communicator of its own, as the order of
/// messages is that of a lane: exchanges of two lanes may pass each other. They are non-blocking: no call waits for longer than the
/// communicator's timeout as it is now, or after a failure of another rank.
///
/// `parent`: a communicator of yours over the same ranks in the same order; the lanes are split from it (ncclCommSplit, so nothing of it
/// may be outstanding now). It carries none of the messages and is neither aborted nor destroyed.
struct NcclOptions {
  ncclComm* parent = nullptr;
  int num_lanes = 3;      // communication lanes: 3 are enough for every plan, and a plan that has too few says so
  int fewest_blocks = 0;  // thread blocks that a group may occupy (minCTAs, maxCTAs); 0: NCCL's choice
  int most_blocks = 0;
  bool no_blocks = false;  // asks for copy engines in place of thread blocks where NCCL can (NCCL_CTA_POLICY_ZERO, from 2.28)
};
/// Collective: all ranks of `comm` call it, each with its device current. The result belongs to use_device of the same `comm`.
/// A rank that cannot ends the group for all.
/// @throws Error(argument) for options out of range or a parent of other ranks; Error(local) that names a rank that cannot, in NCCL's
/// words; Error(stalled, dead) that names ranks that have not come
[[nodiscard]] std::unique_ptr<DeviceTransport> nccl_transport(Communicator& comm, const NcclOptions& options = {});

}  // namespace cuda
SEQCCL_END
