// device_memory.cpp - allocations of the device that is not there.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/device_memory.hpp"

#include <algorithm>
#include <cstdio>

namespace ptx {
namespace {

std::string hex(u64 value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace

u64 DeviceMemory::allocate(u64 num_bytes, std::string name) {
  const u64 address = next_;
  next_ += (num_bytes + gap_bytes + 255) / 256 * 256;
  Allocation& made = allocations_[address];
  made.address = address;
  made.name = std::move(name);
  made.bytes.assign(num_bytes, 0xff);
  made.written.assign(num_bytes, 0);
  return address;
}

void DeviceMemory::free(u64 address) {
  const auto at = allocations_.find(address);
  if (at == allocations_.end() || at->second.freed) throw Error("free: " + hex(address) + " is not the beginning of an allocation");
  Allocation& gone = at->second;
  gone.freed = true;
  gone.written = {};
  gone.shadow = Shadow();
  gone.bytes.assign(gone.bytes.size(), 0);  // its extent is still told in reports
}

Allocation* DeviceMemory::near(u64 address) {
  if (last_ != nullptr && address >= last_->address && address < last_->end()) return last_;
  auto at = allocations_.upper_bound(address);
  if (at == allocations_.begin()) return nullptr;
  --at;
  if (address >= at->second.end() + gap_bytes) return nullptr;
  return last_ = &at->second;
}

Allocation& DeviceMemory::range(u64 address, u64 num_bytes, const char* who) {
  Allocation* found = near(address);
  if (found == nullptr || found->freed || address > found->end() || num_bytes > found->end() - address) {
    throw Error(std::string(who) + ": " + std::to_string(num_bytes) + " bytes from " + hex(address) + " are not within one allocation");
  }
  return *found;
}

void DeviceMemory::write(u64 address, const void* from, u64 num_bytes) {
  if (num_bytes == 0) return;
  Allocation& to = range(address, num_bytes, "write");
  const auto offset = static_cast<std::ptrdiff_t>(address - to.address);
  std::copy_n(static_cast<const u8*>(from), num_bytes, to.bytes.begin() + offset);
  std::fill_n(to.written.begin() + offset, num_bytes, u8{1});
}

void DeviceMemory::read(void* to, u64 address, u64 num_bytes) const {
  if (num_bytes == 0) return;
  const Allocation& from = const_cast<DeviceMemory*>(this)->range(address, num_bytes, "read");
  std::copy_n(from.bytes.begin() + static_cast<std::ptrdiff_t>(address - from.address), num_bytes, static_cast<u8*>(to));
}

void DeviceMemory::fill(u64 address, u8 value, u64 num_bytes) {
  if (num_bytes == 0) return;
  Allocation& to = range(address, num_bytes, "fill");
  const auto offset = static_cast<std::ptrdiff_t>(address - to.address);
  std::fill_n(to.bytes.begin() + offset, num_bytes, value);
  std::fill_n(to.written.begin() + offset, num_bytes, u8{1});
}

void DeviceMemory::copy(u64 to, u64 from, u64 num_bytes) {
  if (num_bytes == 0) return;
  const Allocation& source = range(from, num_bytes, "copy");
  Allocation& target = range(to, num_bytes, "copy");
  const auto at = static_cast<std::ptrdiff_t>(from - source.address), end = at + static_cast<std::ptrdiff_t>(num_bytes);
  const std::vector<u8> bytes(source.bytes.begin() + at, source.bytes.begin() + end);
  const std::vector<u8> written(source.written.begin() + at, source.written.begin() + end);
  const auto offset = static_cast<std::ptrdiff_t>(to - target.address);
  std::copy(bytes.begin(), bytes.end(), target.bytes.begin() + offset);
  std::copy(written.begin(), written.end(), target.written.begin() + offset);
}

u64 DeviceMemory::num_live() const {
  u64 count = 0;
  for (const auto& [address, allocation] : allocations_) count += allocation.freed ? 0 : 1;
  return count;
}

}  // namespace ptx
