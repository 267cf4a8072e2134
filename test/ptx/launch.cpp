// launch.cpp - one block after the other.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/launch.hpp"

#include <algorithm>
#include <numeric>
#include <random>

#include "ptx/scheduler.hpp"
#include "ptx/specials.hpp"

namespace ptx {
namespace {

constexpr u32 max_block_threads = 1024;
constexpr u64 max_shared_bytes = 232448;  // the largest device that this instruction set runs on

void check(const Kernel& kernel, const Launch& launch) {
  const auto fail = [&](const std::string& what) { throw Error("launch of " + kernel.name + ": " + what); };
  const u64 threads = launch.block.count();
  const std::string size = "a block of " + std::to_string(threads) + " threads";
  if (launch.grid.count() == 0 || threads == 0) fail("an empty grid or block");
  if (launch.grid.y > 65535 || launch.grid.z > 65535 || launch.grid.x > 0x7fffffffU) fail("a grid larger than 2^31 - 1, 65535, 65535");
  if (launch.block.z > 64 || launch.block.x > 1024 || launch.block.y > 1024 || threads > max_block_threads)
    fail(size + ", at most 1024, 1024, 64 and 1024 in all");
  const u64 bound = u64{kernel.max_threads[0]} * kernel.max_threads[1] * kernel.max_threads[2];
  if (bound != 0 && (kernel.exact_threads ? threads != bound : threads > bound))
    fail(size + ", but the kernel is compiled for " + std::to_string(bound));
  if (launch.arguments.size() != kernel.parameter_bytes)
    fail(std::to_string(launch.arguments.size()) + " bytes of arguments, want " + std::to_string(kernel.parameter_bytes));
  if (kernel.static_shared_bytes + launch.dynamic_shared_bytes > max_shared_bytes) fail("more shared memory than any device has");
}

class Executor {
 public:
  Executor(const Kernel& kernel, DeviceMemory& memory, const Launch& launch) : random_(launch.seed) {
    run_.launch = &launch;
    run_.kernel = &kernel;
    run_.memory = &memory;
    run_.costs.resize(kernel.code.size());
    const u32 num_threads = static_cast<u32>(launch.block.count()), num_warps = (num_threads + num_lanes - 1) / num_lanes;
    registers_.resize(std::size_t{kernel.num_slots} * num_lanes * num_warps);
    block_.run = &run_;
    block_.kernel = &kernel;
    block_.shared.resize(kernel.static_shared_bytes + launch.dynamic_shared_bytes);
    block_.shared_shadow.resize(block_.shared.size());
    block_.warps.resize(num_warps);
    for (u32 n = 0; n < num_warps; ++n) {
      Warp& w = block_.warps[n];
      w.block = &block_;
      w.index = n;
      w.registers = registers_.data() + std::size_t{kernel.num_slots} * num_lanes * n;
      const u32 lanes = std::min<u32>(num_threads - n * num_lanes, num_lanes);
      w.present = lanes == num_lanes ? all_lanes : (LaneMask{1} << lanes) - 1;
    }
  }

  Result result() {
    Result made;
    try {
      all_blocks();
      made.completed = true;
    } catch (const Stop&) {
    }
    for (int pass = 0; pass < 2; ++pass) {
      for (auto& [key, report] : run_.findings) {
        if (report.fatal == (pass == 1)) made.reports.push_back(report);
      }
    }
    for (std::size_t n = 0; n < run_.costs.size(); ++n) {
      made.counters.total += run_.costs[n];
      made.counters.by_work[static_cast<std::size_t>(run_.kernel->code[n].work)] += run_.costs[n];
    }
    made.costs = std::move(run_.costs);
    return made;
  }

 private:
  void all_blocks() {
    const Dim grid = run_.launch->grid;
    run_.first_block = run_.memory->next_block;
    std::vector<u32> order(grid.count());
    std::iota(order.begin(), order.end(), 0U);
    if (run_.launch->seed != 0) std::shuffle(order.begin(), order.end(), random_);
    for (const u32 n : order) {
      block_.index = {n % grid.x, n / grid.x % grid.y, n / grid.x / grid.y};
      block_.serial = run_.memory->next_block++;
      begin_block();
      run_block();
    }
  }

  void begin_block() {
    const Kernel& kernel = *run_.kernel;
    block_.clocks.reset(static_cast<u32>(block_.warps.size()) * num_lanes);
    std::fill(block_.shared.begin(), block_.shared.end(), u8{0xff});
    block_.barriers = {};
    for (Warp& w : block_.warps) {
      w.live = w.present;
      w.waiting = 0;
      w.pc.fill(0);
      std::fill_n(w.registers, std::size_t{kernel.num_slots} * num_lanes, u64{0xdeadbeefdeadbeef});
      w.set.assign(kernel.num_slots, 0);
      w.frame.assign(kernel.frame_bytes * num_lanes, 0xff);
      w.frame_written.assign(kernel.frame_bytes * num_lanes, 0);
      w.return_to.assign(std::size_t{kernel.num_functions} * num_lanes, 0);
      for (auto& copies : w.open_copies) copies.clear();
      for (auto& groups : w.copy_groups) groups.clear();
      for (const auto& [slot, value] : kernel.constants) {
        std::fill_n(w.registers + std::size_t{slot} * num_lanes, num_lanes, value);
        w.set[slot] = all_lanes;
      }
      fill_specials(w);
    }
  }

  void run_block() {
    std::vector<u32> order(block_.warps.size());
    std::iota(order.begin(), order.end(), 0U);
    const bool mixed = run_.launch->seed != 0;
    for (;;) {
      if (mixed) std::shuffle(order.begin(), order.end(), random_);
      bool progress = false;
      for (const u32 n : order) {
        Warp& w = block_.warps[n];
        const u64 before = run_.executed;
        if ((w.live & ~w.waiting) != 0) run_warp(w, mixed ? 1 + random_() % 200 : ~u64{0});
        progress = progress || run_.executed != before;
      }
      const u32 waiting = num_waiting();
      open_barriers(block_);
      LaneMask live = 0;
      for (const Warp& w : block_.warps) live |= w.live;
      if (live == 0) return;
      if (!progress && num_waiting() == waiting) deadlock();
    }
  }

  [[nodiscard]] u32 num_waiting() const {
    u32 count = 0;
    for (const Warp& w : block_.warps) count += static_cast<u32>(std::popcount(w.waiting));
    return count;
  }

  [[noreturn]] void deadlock() {
    std::string others;
    const Warp* first = nullptr;
    for (const Warp& w : block_.warps) {
      if (w.live == 0) continue;
      if (first == nullptr) {
        first = &w;
      } else if (at(w) != at(*first) && others.empty()) {
        others = "; warp " + std::to_string(w.index) + " is at " + run_.kernel->where(run_.kernel->code[at(w)]);
      }
    }
    run_.fault(Finding::deadlock, *first, run_.kernel->code[at(*first)], std::countr_zero(first->live),
               "every warp waits at a barrier that never opens" + others);
  }
  [[nodiscard]] static u32 at(const Warp& w) {  // a waiting lane stands behind its barrier
    const u32 pc = w.pc[static_cast<std::size_t>(std::countr_zero(w.live))];
    return pc == 0 ? 0 : pc - 1;
  }

  Run run_;
  Block block_;
  std::vector<u64> registers_;
  std::mt19937_64 random_;
};

}  // namespace

Arguments& Arguments::add(const void* value, u64 num_bytes) {
  const std::string who = "argument " + std::to_string(next_) + " of " + kernel_.name + ": ";
  if (next_ == kernel_.parameters.size()) throw Error(who + "there are only " + std::to_string(next_));
  const Parameter& p = kernel_.parameters[next_++];
  if (p.size_bytes != num_bytes) throw Error(who + std::to_string(num_bytes) + " bytes, want " + std::to_string(p.size_bytes));
  std::memcpy(bytes_.data() + p.offset, value, num_bytes);
  return *this;
}

Cost& Cost::operator+=(const Cost& other) {
  executed += other.executed, requests += other.requests;
  bank_waves += other.bank_waves, min_waves += other.min_waves;
  sectors += other.sectors, min_sectors += other.min_sectors;
  return *this;
}

bool Result::has(Finding finding) const {
  return std::any_of(reports.begin(), reports.end(), [&](const Report& r) { return r.finding == finding; });
}

std::string Result::text() const {
  std::string all;
  for (const Report& r : reports) all += r.text + (r.count > 1 ? " (" + std::to_string(r.count) + " times)" : "") + "\n";
  return all;
}

void Run::report(Finding finding, const Warp& warp, const Instruction& i, int lane, const std::string& what, bool fatal) {
  Report& entry = findings[{finding, static_cast<u32>(&i - kernel->code.data())}];
  entry.fatal = entry.fatal || fatal;
  if (entry.count++ != 0) return;
  entry.finding = finding;
  const Dim at = warp.block->index;
  entry.text = std::string(name(finding)) + ": " + what + ", block (" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " +
               std::to_string(at.z) + ") thread " + std::to_string(warp.thread(lane)) + ", " + kernel->where(i);
}

void Run::fault(Finding finding, const Warp& warp, const Instruction& i, int lane, const std::string& what) {
  report(finding, warp, i, lane, what, true);
  throw Stop{};
}

Result run(const Kernel& kernel, DeviceMemory& memory, const Launch& launch) {
  check(kernel, launch);
  return Executor(kernel, memory, launch).result();
}

}  // namespace ptx
