// launch.hpp - runs a kernel and says what it did wrong and what it cost.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "ptx/program.hpp"

namespace ptx {

struct Dim {
  u32 x = 1, y = 1, z = 1;
  [[nodiscard]] u64 count() const { return u64{x} * y * z; }
};

/// The parameters of a kernel, in order.
class Arguments {
 public:
  explicit Arguments(const Kernel& kernel) : kernel_(kernel), bytes_(kernel.parameter_bytes) {}
  template <class T>
  Arguments& add(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return add(&value, sizeof value);
  }
  /// Error if there is no such parameter or its size differs.
  Arguments& add(const void* value, u64 num_bytes);
  [[nodiscard]] const std::vector<u8>& bytes() const { return bytes_; }

 private:
  const Kernel& kernel_;
  std::size_t next_ = 0;
  std::vector<u8> bytes_;
};

struct Launch {
  Dim grid, block;
  u64 dynamic_shared_bytes = 0;
  std::vector<u8> arguments;
  u64 seed = 0;  // 0: blocks and warps in order; else in random order, warps interrupted at random places
  u64 max_warp_instructions = 2'000'000'000;
};

/// What one instruction cost, over all warps.
struct Cost {
  u64 executed = 0;     // warp instructions
  u64 requests = 0;     // shared or global accesses by a warp
  u64 bank_waves = 0;   // shared: 128-byte passes; more than min_waves are bank conflicts
  u64 min_waves = 0;    // shared: passes that the bytes need
  u64 sectors = 0;      // global: 32-byte sectors touched
  u64 min_sectors = 0;  // global: that the bytes need

  Cost& operator+=(const Cost& other);
};

struct Counters {
  Cost total;
  std::array<Cost, num_works> by_work{};
  [[nodiscard]] const Cost& of(Work work) const { return by_work[static_cast<std::size_t>(work)]; }
};

struct Result {
  std::vector<Report> reports;  // fatal one last
  bool completed = false;
  Counters counters;
  std::vector<Cost> costs;  // by instruction of Kernel::code

  [[nodiscard]] bool clean() const { return completed && reports.empty(); }
  [[nodiscard]] bool has(Finding finding) const;
  /// One line per report.
  [[nodiscard]] std::string text() const;
};

/// Blocks one after the other, a warp at a time, a warp's lanes in lock step. Error for a launch that no device would start.
[[nodiscard]] Result run(const Kernel& kernel, DeviceMemory& memory, const Launch& launch);

}  // namespace ptx
