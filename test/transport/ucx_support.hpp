// ucx_support.hpp - ranks as processes over UCX, and what their survivors are told.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "../../lib/transport/ucx/library.hpp"
#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"

#define NEEDS_UCX() \
  if (!ucx::find_library().is_there) GTEST_SKIP() << ucx::find_library().text

// ThreadSanitizer can neither begin a thread in a forked process nor live with UCX's hooks of mmap.
#if defined(__SANITIZE_THREAD__)
#define NEEDS_UCX_IN_PROCESSES() GTEST_SKIP() << "no threads in forked processes under ThreadSanitizer"
inline const bool without_hooks = ::setenv("UCX_MEM_EVENTS", "no", 1) == 0;
#else
#define NEEDS_UCX_IN_PROCESSES() NEEDS_UCX()
#endif

namespace seqccl::test::ucx_ranks {

using namespace std::chrono_literals;

/// A variable of the environment, as long as this lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(value == nullptr ? nullptr : name) {
    if (name_ == nullptr) return;
    const char* before = std::getenv(name);
    if (before != nullptr) before_ = before;
    had_ = before != nullptr;
    ::setenv(name, value, 1);
  }
  ~Variable() {
    if (name_ == nullptr) return;
    if (had_)
      ::setenv(name_, before_.c_str(), 1);
    else
      ::unsetenv(name_);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::string before_;
  bool had_ = false;
};

/// An array that parent and ranks see.
template <class T>
class Shared {
 public:
  explicit Shared(std::size_t count) : count_(count) {
    data_ = static_cast<T*>(::mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  ~Shared() { ::munmap(data_, count_ * sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T& operator[](std::size_t i) { return data_[i]; }
  T* data() { return data_; }

 private:
  std::size_t count_;
  T* data_;
};

inline Error error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  return {ErrorKind::internal, "nothing was thrown"};
}

inline ProcessRanks over_ucx_within(std::chrono::nanoseconds timeout) {
  ProcessRanks options;
  options.timeout = timeout;
  options.transport = ProcessTransport::ucx;
  return options;
}

/// One forward pass; every rank writes its rows of the result.
inline std::vector<float> attention_on(int num_ranks, Method method, const ProcessRanks* processes) {
  const std::int64_t tokens = 192, heads = 8, dim = 64;
  AttentionSpec spec;
  spec.q_heads = heads;
  spec.kv_heads = heads;
  spec.head_dim = dim;
  spec.method = method;
  spec.partition = Partition::zigzag(tokens, num_ranks);
  spec.mask = Mask::causal();
  const HostTensor q = random_tensor(f32, {1, tokens, heads, dim}, 1), k = random_tensor(f32, {1, tokens, heads, dim}, 2),
                   v = random_tensor(f32, {1, tokens, heads, dim}, 3);
  Shared<float> out(static_cast<std::size_t>(tokens * heads * dim));
  const auto body = [&](Communicator& comm) {
    const std::int64_t T = spec.partition.tokens_on(comm.rank());
    HostTensor my_q(f32, {1, T, heads, dim}), my_k(f32, {1, T, heads, dim}), my_v(f32, {1, T, heads, dim}), my_out(f32, {1, T, heads, dim}),
        lse(f32, {1, heads, T});
    spec.partition.shard(q.view(), comm.rank(), my_q.view());
    spec.partition.shard(k.view(), comm.rank(), my_k.view());
    spec.partition.shard(v.view(), comm.rank(), my_v.view());
    Attention attention(comm, spec);
    for (int repeat = 0; repeat < 3; ++repeat)
      attention.forward(std::as_const(my_q).view(), std::as_const(my_k).view(), std::as_const(my_v).view(), my_out.view(), lse.view());
    spec.partition.unshard(std::as_const(my_out).view(), comm.rank(), view(static_cast<void*>(out.data()), f32, {1, tokens, heads, dim}));
  };
  if (processes != nullptr)
    run_processes(num_ranks, body, *processes);
  else
    run_ranks(num_ranks, body);
  return {out.data(), out.data() + tokens * heads * dim};
}

/// An operation that all ranks go through.
class Ring {
 public:
  explicit Ring(Communicator& comm) {
    spec_.head_dim = 8;
    spec_.method = Method::ring;
    spec_.partition = Partition::contiguous(64, comm.size());
    x_ = random_tensor(f32, {1, spec_.partition.tokens_on(comm.rank()), 1, 8}, 1);
    out_ = x_;
    lse_ = HostTensor(f32, {1, 1, x_.geometry.shape[1]});
    attention_.emplace(comm, spec_);
  }
  void operator()() {
    attention_->forward(std::as_const(x_).view(), std::as_const(x_).view(), std::as_const(x_).view(), out_.view(), lse_.view());
  }

 private:
  AttentionSpec spec_;
  HostTensor x_, out_, lse_;
  std::optional<Attention> attention_;
};

// Each survivor writes down what it was told, and when.
struct Told {
  int kind = -1, num_culprits = 0;
  Rank culprit = -1;
  double seconds = 0;
  char text[300] = {};
};
inline std::vector<Told> told_when_a_rank(int num_ranks, Rank victim, const std::function<void()>& ends, const ProcessRanks& options) {
  Shared<Told> told(static_cast<std::size_t>(num_ranks));
  Shared<std::atomic<std::int64_t>> when(1);
  EXPECT_THROW(run_processes(
                   num_ranks,
                   [&](Communicator& comm) {
                     Ring run(comm);
                     Told& mine = told[static_cast<std::size_t>(comm.rank())];
                     try {
                       for (int round = 0; round < 20; ++round) run();
                       if (comm.rank() == victim) {
                         when[0] = SteadyClock::now().time_since_epoch().count();
                         ends();
                       }
                       for (int round = 0; round < 1'000'000; ++round) run();
                     } catch (const Error& error) {
                       mine = {static_cast<int>(error.kind()),
                               static_cast<int>(error.culprits().size()),
                               error.culprits().empty() ? -1 : error.culprits().front(),
                               static_cast<double>(SteadyClock::now().time_since_epoch().count() - when[0].load()) * 1e-9,
                               {}};
                       std::strncpy(mine.text, error.what(), sizeof(mine.text) - 1);
                       throw;
                     }
                   },
                   options),
               Error);
  return {told.data(), told.data() + num_ranks};
}

}  // namespace seqccl::test::ucx_ranks
