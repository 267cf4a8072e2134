// device_memory.hpp - the global memory of a device that is not there: allocations with gaps between them, every byte watched.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ptx/shadow.hpp"

namespace ptx {

struct Allocation {
  u64 address = 0;
  std::string name;
  std::vector<u8> bytes;
  std::vector<u8> written;  // per byte: 1 if host or device has written it
  bool read_only = false;
  bool freed = false;
  Shadow shadow;

  [[nodiscard]] u64 end() const { return address + bytes.size(); }
};

/// Addresses are no host pointers (who mixes them up gets a fault), lie above 4 GiB (who truncates them, too) and are not used twice
/// (who uses freed memory, too). Each allocation is followed by an unmapped gap. Fresh memory is filled with 0xff: NaN.
class DeviceMemory {
 public:
  static constexpr u64 base = u64{1} << 44, gap_bytes = u64{1} << 16;

  /// Aligned to 256 bytes; 0 bytes are an allocation too.
  [[nodiscard]] u64 allocate(u64 num_bytes, std::string name = "");
  /// Error if `address` does not begin a live allocation.
  void free(u64 address);
  /// Host access. Error if the range is not within one live allocation.
  void write(u64 address, const void* from, u64 num_bytes);
  void read(void* to, u64 address, u64 num_bytes) const;
  void fill(u64 address, u8 value, u64 num_bytes);
  void copy(u64 to, u64 from, u64 num_bytes);  // what was not written stays unwritten

  /// The allocation, perhaps a freed one, that has `address` in it or in the gap behind it; nullptr if none.
  [[nodiscard]] Allocation* near(u64 address);
  [[nodiscard]] Allocation& range(u64 address, u64 num_bytes, const char* who);
  [[nodiscard]] u64 num_live() const;
  /// Serial number for the next block to run.
  u32 next_block = 1;

 private:
  std::map<u64, Allocation> allocations_;
  Allocation* last_ = nullptr;
  u64 next_ = base;
};

}  // namespace ptx
