// mpi.cpp - an MPI library's MPI_Allgather and MPI_Alltoall. Started by its own mpirun.
// SPDX-License-Identifier: Apache-2.0
#include <mpi.h>

#include <cstdio>
#include <exception>

#include "server.hpp"

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0, num_ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &num_ranks);
  if (argc != 2) {
    std::fprintf(stderr, "usage: mpirun -n RANKS %s PAGE   (started by seqccl_compare)\n", argv[0]);
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  try {
    peers::MappedPage page(argv[1], false);
    std::byte* const send = peers::private_buffer(peers::max_bytes);
    std::byte* const receive = peers::private_buffer(peers::max_bytes);
    const auto all_gather = [=](std::size_t bytes) {
      MPI_Allgather(send, static_cast<int>(bytes), MPI_BYTE, receive, static_cast<int>(bytes), MPI_BYTE, MPI_COMM_WORLD);
    };
    const auto all_to_all = [=](std::size_t bytes) {
      MPI_Alltoall(send, static_cast<int>(bytes), MPI_BYTE, receive, static_cast<int>(bytes), MPI_BYTE, MPI_COMM_WORLD);
    };
    peers::serve(page, rank, num_ranks,
                 {.prepare = {},
                  .all_gather = all_gather,
                  .all_to_all = all_to_all,
                  .settle = [] { MPI_Barrier(MPI_COMM_WORLD); },
                  .send = send,
                  .receive = receive});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
}
