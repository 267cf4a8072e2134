// parallel.hpp - splits independent work over a few threads of one kernel call.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "seqccl/kernels.hpp"

SEQCCL_BEGIN

/// Calls body(item, worker) for every item in [0, num_items), on up to `threads.count` threads; the caller is worker 0, the others count
/// on, so that a kernel can keep scratch for each. Items are taken in rising order; which worker takes which is free, so an item must
/// write memory that no other item touches. The first exception is rethrown. Every finished item counts as progress.
template <class Body>
void parallel_for_workers(std::int64_t num_items, const ThreadBudget& threads, Body&& body) {
  const int num_threads = threads.count;
  if (num_threads <= 1 || num_items <= 1) {
    for (std::int64_t item = 0; item < num_items; ++item) {
      body(item, 0);
      threads.note_progress();
    }
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  const auto work = [&](int worker) {
    try {
      for (std::int64_t item = next++; item < num_items && !failed; item = next++) {
        body(item, worker);
        threads.note_progress();
      }
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  };
  {
    std::vector<std::thread> helpers;
    const auto num_helpers = static_cast<int>(std::min<std::int64_t>(num_threads, num_items)) - 1;
    helpers.reserve(num_helpers);
    try {
      for (int i = 0; i < num_helpers; ++i) helpers.emplace_back(work, i + 1);
    } catch (const std::exception&) {  // no more threads or memory to be had: those that run do all the work
    }
    work(0);
    for (std::thread& thread : helpers) thread.join();
  }
  if (error) std::rethrow_exception(error);
}

/// The same for a body that keeps no scratch.
template <class Body>
void parallel_for(std::int64_t num_items, const ThreadBudget& threads, Body&& body) {
  parallel_for_workers(num_items, threads, [&](std::int64_t item, int) { body(item); });
}

SEQCCL_END
