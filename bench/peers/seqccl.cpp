// seqccl.cpp - this library's SequenceGather and DimensionSwitch between processes, through the public API.
// SPDX-License-Identifier: Apache-2.0
#include <seqccl/seqccl.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>

#include "server.hpp"

namespace {

/// The plans for one size of block.
struct Plans {
  Plans(seqccl::Communicator& comm, std::int64_t num_elements)
      : gather(comm, {.batch = 1,
                      .heads = 1,
                      .head_dim = num_elements,
                      .dtype = seqccl::bf16,
                      .partition = seqccl::Partition::contiguous(comm.size(), comm.size())}),
        swap(comm, {.shape = {comm.size(), comm.size(), num_elements}, .from = 0, .to = 1, .dtype = seqccl::bf16}),
        elements(num_elements) {}
  seqccl::SequenceGather gather;
  seqccl::DimensionSwitch swap;
  std::int64_t elements;
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s PAGE RANKS private|allocated   (started by seqccl_compare)\n", argv[0]);
    return 2;
  }
  const bool allocated = std::strcmp(argv[3], "allocated") == 0;
  seqccl::run_processes(std::atoi(argv[2]), [&](seqccl::Communicator& comm) {
    peers::MappedPage page(argv[1], false);
    seqccl::Buffer send, receive;
    if (allocated) {
      send = comm.allocate(peers::max_bytes);
      receive = comm.allocate(peers::max_bytes);
      std::memset(send.data(), 1, peers::max_bytes);
      std::memset(receive.data(), 1, peers::max_bytes);
    }
    std::byte* const from = allocated ? send.data() : peers::private_buffer(peers::max_bytes);
    std::byte* const to = allocated ? receive.data() : peers::private_buffer(peers::max_bytes);
    std::optional<Plans> plans;
    const std::int64_t num_ranks = comm.size();
    peers::serve(page, comm.rank(), comm.size(),
                 {.prepare =
                      [&](std::size_t bytes) {
                        const auto elements = static_cast<std::int64_t>(bytes / 2);
                        if (!plans || plans->elements != elements) plans.emplace(comm, elements);
                      },
                  .all_gather =
                      [&](std::size_t) {
                        plans->gather.gather(seqccl::view(static_cast<const std::byte*>(from), seqccl::bf16, {1, 1, 1, plans->elements}),
                                             seqccl::view(to, seqccl::bf16, {1, num_ranks, 1, plans->elements}));
                      },
                  .all_to_all =
                      [&](std::size_t) {
                        plans->swap.run(seqccl::view(static_cast<const std::byte*>(from), seqccl::bf16, {1, num_ranks, plans->elements}),
                                        seqccl::view(to, seqccl::bf16, {num_ranks, 1, plans->elements}));
                      },
                  .settle = {},
                  .send = from,
                  .receive = to});
  });
} catch (const std::exception& error) {
  std::fprintf(stderr, "seqccl: %s\n", error.what());
  return 1;
}
