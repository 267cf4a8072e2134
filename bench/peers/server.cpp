// server.cpp - the measuring loop, the same for every library.
// SPDX-License-Identifier: Apache-2.0
#include "server.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace peers {
namespace {

using Clock = std::chrono::steady_clock;

unsigned char mark(int from, int to, std::uint32_t turn) { return static_cast<unsigned char>(1 + from * 31 + to * 7 + turn * 13); }

/// Reads every cache line: what a kernel does with a block first.
std::uint64_t read_through(const std::byte* data, std::size_t num_bytes) {
  std::uint64_t sum = 0;
  std::size_t at = 0;
  for (; at + 64 <= num_bytes; at += 64) {
    std::uint64_t words[8];
    std::memcpy(words, data + at, 64);
    sum += std::accumulate(words, words + 8, std::uint64_t{0});
  }
  for (; at < num_bytes; ++at) sum += std::to_integer<std::uint64_t>(data[at]);
  return sum;
}

class Rank {
 public:
  Rank(Page& page, int rank, int num_ranks, const Library& library) : page_(page), rank_(rank), num_ranks_(num_ranks), library_(library) {}

  void answer(const Question& asked) {
    const bool gather = asked.operation == Operation::all_gather;
    const std::size_t block = asked.block_bytes;
    const std::size_t sent = gather ? block : block * static_cast<std::size_t>(num_ranks_);
    const auto& call = gather ? library_.all_gather : library_.all_to_all;
    if (library_.prepare) library_.prepare(block);
    std::memset(library_.receive, 0, block * static_cast<std::size_t>(num_ranks_));
    fill(gather, block, ++turn_);
    meet();
    call(block);
    page_.answer[rank_].num_wrong = count_wrong(gather, block, turn_);
    const std::uint32_t warm = 1 + asked.iterations / 10;
    for (std::uint32_t i = 0; i < warm; ++i) call(block);
    meet();
    double seconds = 0;
    if (asked.source == Source::same) {
      const auto begin = Clock::now();
      for (std::uint32_t i = 0; i < asked.iterations; ++i) call(block);
      seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    } else {
      for (std::uint32_t i = 0; i < asked.iterations; ++i) {
        std::memset(library_.send, static_cast<int>(i), sent);
        const auto begin = Clock::now();
        call(block);
        sink_ = sink_ + read_through(library_.receive, block * static_cast<std::size_t>(num_ranks_));
        seconds += std::chrono::duration<double>(Clock::now() - begin).count();
      }
    }
    page_.answer[rank_].seconds = seconds / asked.iterations;
    meet();
    page_.answers.fetch_add(1);
  }

 private:
  void meet() {
    if (library_.settle) library_.settle();
    barrier(page_, num_ranks_);
  }
  void fill(bool gather, std::size_t block, std::uint32_t turn) {
    for (int to = 0; to < (gather ? 1 : num_ranks_); ++to)
      std::memset(library_.send + static_cast<std::size_t>(to) * block, mark(rank_, gather ? 0 : to, turn), block);
  }
  [[nodiscard]] std::uint64_t count_wrong(bool gather, std::size_t block, std::uint32_t turn) const {
    std::uint64_t wrong = 0;
    for (int from = 0; from < num_ranks_; ++from) {
      const auto want = std::byte{mark(from, gather ? 0 : rank_, turn)};
      const std::byte* at = library_.receive + static_cast<std::size_t>(from) * block;
      for (std::size_t i = 0; i < block; ++i)
        if (at[i] != want) {
          ++wrong;
          break;
        }
    }
    return wrong;
  }

  Page& page_;
  int rank_, num_ranks_;
  const Library& library_;
  std::uint32_t turn_ = 0;
  volatile std::uint64_t sink_ = 0;
};

}  // namespace

MappedPage::MappedPage(const std::string& path, bool create) {
  const int file = ::open(path.c_str(), create ? O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC : O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) throw std::runtime_error(path + ": " + std::strerror(errno));
  void* memory = MAP_FAILED;
  if (!create || ::ftruncate(file, sizeof(Page)) == 0) memory = ::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  const int why = errno;
  ::close(file);
  if (memory == MAP_FAILED) throw std::runtime_error(path + ": " + std::strerror(why));
  page_ = create ? new (memory) Page() : static_cast<Page*>(memory);
}

MappedPage::~MappedPage() { ::munmap(page_, sizeof(Page)); }

void barrier(Page& page, int num_ranks, const std::function<void()>& meanwhile) {
  const std::uint32_t turn = page.barrier_turn.load();
  if (page.barrier_count.fetch_add(1) + 1 == static_cast<std::uint32_t>(num_ranks)) {
    page.barrier_count.store(0);
    page.barrier_turn.fetch_add(1);
    return;
  }
  while (page.barrier_turn.load() == turn) {
    if (meanwhile) meanwhile();
    ::sched_yield();
  }
}

void serve(MappedPage& page, int rank, int num_ranks, const Library& library) {
  Rank self(*page, rank, num_ranks, library);
  const pid_t parent = ::getppid();
  page->ready.fetch_add(1);
  for (std::uint32_t answered = 0; page->quit.load() == 0 && ::getppid() == parent;) {
    if (page->question.load() == answered) {
      std::this_thread::sleep_for(std::chrono::microseconds(300));
      continue;
    }
    ++answered;
    self.answer(page->asked);
  }
}

std::byte* private_buffer(std::size_t num_bytes) {
  void* memory = ::mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  std::memset(memory, 1, num_bytes);
  return static_cast<std::byte*>(memory);
}

int fork_ranks(int num_ranks, const std::function<void(int rank)>& body) {
  std::vector<pid_t> children;
  for (int rank = 0; rank < num_ranks; ++rank) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      try {
        body(rank);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
        ::_exit(1);
      }
      ::_exit(0);
    }
    children.push_back(child);
  }
  int code = 0;
  for (const pid_t child : children) {
    int status = 0;
    if (::waitpid(child, &status, 0) < 0 || status != 0) code = 1;
  }
  return code;
}

}  // namespace peers
