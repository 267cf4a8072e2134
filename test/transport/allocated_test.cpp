// allocated_test.cpp - memory from Communicator::allocate: the same bits land in place, buffers come, go, and outlive their communicator.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <optional>
#include <string>

#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using namespace std::chrono_literals;

/// Where ranks keep their outputs, by rank.
enum class Place { allocated, mixed };

/// A tensor in allocated memory, or in the process's own.
struct Output {
  Output(Communicator& comm, bool allocated, DType dtype, std::initializer_list<std::int64_t> shape) : own(dtype, shape) {
    if (allocated) buffer = comm.allocate(own.bytes.size());
  }
  [[nodiscard]] TensorView view() {
    TensorView view = own.view();
    if (buffer.data() != nullptr) view.data = buffer.data();
    return view;
  }
  [[nodiscard]] bool equals(const HostTensor& other) {
    return other.bytes.empty() || std::memcmp(view().data, other.bytes.data(), other.bytes.size()) == 0;
  }
  HostTensor own;
  Buffer buffer;
};

void require(bool right, const char* what) {
  if (!right) throw std::runtime_error(what);
}

HostTensor numbered(DType dtype, std::initializer_list<std::int64_t> shape, Rank rank, int round) {
  HostTensor tensor(dtype, shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, static_cast<double>(1 + i % 977 + 1000 * rank + 100000 * round));
  return tensor;
}

/// All three movements into private memory and into the place under test, three rounds on the same tensors.
void move_everything(Communicator& comm, Place place, std::int64_t tokens_per_rank) {
  Watchdog dog(60s);  // of each rank: a thread of the parent's could hold a lock of the allocator while ranks are forked
  const auto leash = dog.watch(comm.transport());
  const int P = comm.size();
  const bool allocated = place == Place::allocated || comm.rank() % 2 == 1;
  const Partition partition = Partition::contiguous(tokens_per_rank * P + P / 2, P);
  const std::int64_t N = partition.num_tokens(), T = partition.tokens_on(comm.rank());

  SequenceGather gather(comm, {.heads = 2, .head_dim = 8, .partition = partition});
  HostTensor whole(f32, {1, N, 2, 8});
  Output landed(comm, allocated, f32, {1, N, 2, 8});
  HeadSwap swap(comm, {.heads = 2 * P + 1, .head_dim = 8, .partition = partition});
  const std::int64_t heads = swap.heads_of(comm.rank()).count;
  HostTensor by_heads(f32, {1, N, heads, 8});
  Output landed_heads(comm, allocated, f32, {1, N, heads, 8});
  const std::int64_t side = 2 * P, rows = tokens_per_rank * P;
  DimensionSwitch dimensions(comm, {.shape = {rows, side, 5}, .from = 0, .to = 1});
  HostTensor switched(f32, {rows, 2, 5});
  Output landed_rows(comm, allocated, f32, {rows, 2, 5});
  for (int round = 0; round < 3; ++round) {
    const HostTensor mine = numbered(f32, {1, T, 2, 8}, comm.rank(), round);
    gather.gather(mine.view(), whole.view());
    gather.gather(mine.view(), landed.view());
    require(landed.equals(whole), "gathered tokens differ");

    const HostTensor tokens = numbered(f32, {1, T, 2 * P + 1, 8}, comm.rank(), round);
    swap.to_heads(tokens.view(), by_heads.view());
    swap.to_heads(tokens.view(), landed_heads.view());
    require(landed_heads.equals(by_heads), "swapped heads differ");

    const HostTensor part = numbered(f32, {tokens_per_rank, side, 5}, comm.rank(), round);
    dimensions.run(part.view(), switched.view());
    dimensions.run(part.view(), landed_rows.view());
    require(landed_rows.equals(switched), "switched rows differ");
  }
}

// Small messages go through the ring, large ones straight into the output; 300 tokens of 64 bytes are more than the ring takes.
TEST(Allocated, OutputsAreThoseOfPrivateMemoryBitByBit) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (const Place place : {Place::allocated, Place::mixed})
      for (const std::int64_t tokens : {3, 1500})
        EXPECT_NO_THROW(run_processes(num_ranks, [&](Communicator& comm) { move_everything(comm, place, tokens); }, {.timeout = 60s}))
            << num_ranks << " ranks, " << tokens << " tokens each";
}

TEST(Allocated, ThreadRanksTakeItToo) {
  const Watchdog dog(60s);
  for (const int num_ranks : {1, 2, 4, 7}) run_ranks(num_ranks, [](Communicator& comm) { move_everything(comm, Place::allocated, 100); });
}

TEST(Allocated, WhatReplacesAFreedBufferIsNotTakenForIt) {
  run_processes(2, [](Communicator& comm) {
    const std::int64_t T = 1500, N = 2 * T;
    SequenceGather gather(comm, {.heads = 2, .head_dim = 8, .partition = Partition::contiguous(N, 2)});
    for (int round = 0; round < 8; ++round) {
      const HostTensor mine = numbered(f32, {1, T, 2, 8}, comm.rank(), round);
      HostTensor want(f32, {1, N, 2, 8});
      gather.gather(mine.view(), want.view());
      // The allocator is free to give each the same address as the one before.
      Output landed(comm, (round + comm.rank()) % 2 == 0, f32, {1, N, 2, 8});
      gather.gather(mine.view(), landed.view());
      gather.gather(mine.view(), landed.view());
      require(landed.equals(want), "gathered tokens differ");
    }
  });
}

TEST(Allocated, OutlivesItsCommunicator) {
  run_processes(1, [](Communicator& comm) {
    Buffer kept;
    {
      Communicator other =
          Communicator::from_callback(0, 1, [](std::string_view mine) { return std::vector<std::string>{std::string(mine)}; });
      kept = other.allocate(1 << 20);
    }
    std::memset(kept.data(), 7, kept.num_bytes());
    require(kept.data()[kept.num_bytes() - 1] == std::byte{7}, "the last byte is lost");
    require(reinterpret_cast<std::uintptr_t>(comm.allocate(100).data()) % 64 == 0, "not aligned to 64 bytes");
    require(comm.allocate(0).num_bytes() == 0, "nothing has bytes");
  });
}

/// Of shared memory, mapped and touched by this process.
std::size_t shared_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("RssShmem:", 0) == 0) return std::stoul(line.substr(9));
  return 0;
}

TEST(Allocated, FreedMemoryGoesBackToTheSystem) {
  run_processes(1, [](Communicator& comm) {
    const std::size_t before = shared_kib();
    {
      Buffer one = comm.allocate(16 << 20);
      std::memset(one.data(), 1, one.num_bytes());
      require(shared_kib() >= before + 16 * 1024, "the buffer is not where it is looked for");
    }
    for (int i = 0; i < 40; ++i) {
      Buffer buffer = comm.allocate(16 << 20);
      std::memset(buffer.data(), i, buffer.num_bytes());
    }
    require(shared_kib() < before + 8 * 1024, "freed buffers are still there");
  });
}

TEST(Allocated, AForkedChildLeavesItsParentsMemoryAlone) {
  run_processes(1, [](Communicator& comm) {
    Buffer mine = comm.allocate(1 << 20);
    std::memset(mine.data(), 5, mine.num_bytes());
    const pid_t child = ::fork();
    if (child == 0) {
      Buffer of_child = comm.allocate(1 << 20);
      std::memset(of_child.data(), 9, of_child.num_bytes());
      mine = {};  // the child's copy
      ::_exit(of_child.data()[7] == std::byte{9} ? 0 : 1);
    }
    int status = -1;
    require(::waitpid(child, &status, 0) == child && status == 0, "the child has no memory of its own");
    Buffer next = comm.allocate(1 << 20);
    require(mine.data()[0] == std::byte{5} && mine.data()[mine.num_bytes() - 1] == std::byte{5}, "the child has taken its parent's memory");
    require(next.data()[7] == std::byte{0}, "the next buffer is the child's");
  });
}

TEST(Allocated, MoreThanThereIsIsBadAlloc) {
  run_processes(1, [](Communicator& comm) {
    try {
      (void)comm.allocate(std::size_t{1} << 62);
    } catch (const std::bad_alloc&) {
      Buffer after = comm.allocate(4096);
      after.data()[4095] = std::byte{1};
      return;
    }
    throw std::runtime_error("no error");
  });
}

}  // namespace
}  // namespace seqccl::test
