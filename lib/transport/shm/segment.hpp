// segment.hpp - one rank's shared memory, mapped: its own, or a peer's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <utility>

#include "../descriptor.hpp"
#include "layout.hpp"

SEQCCL_BEGIN
namespace shm {

/// Part of a file in memory. Move-only.
class Mapping {
 public:
  Mapping() = default;
  /// @throws std::bad_alloc
  Mapping(const Descriptor& file, std::size_t offset, std::size_t num_bytes);
  Mapping(Mapping&& other) noexcept : data_(std::exchange(other.data_, nullptr)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    return *this;
  }
  ~Mapping();
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t num_bytes() const noexcept { return num_bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t num_bytes_ = 0;
};

/// Makes [offset, offset + num_bytes) of the file exist, so that no page is missing later: that would be a SIGBUS.
/// @throws std::bad_alloc if the file system or the machine has not as much; the kernel would kill processes to find it
void reserve(const Descriptor& file, std::size_t offset, std::size_t num_bytes);

/// A segment has no name in any file system: it is gone when the last process that maps it is.
class Segment {
 public:
  Segment() = default;
  /// A new one. @throws Error(local) if the system has no memory or no descriptor for it
  explicit Segment(int num_ranks);
  /// A peer's.
  Segment(Descriptor file, int num_ranks);

  [[nodiscard]] const Descriptor& file() const noexcept { return file_; }
  [[nodiscard]] Control& control() const noexcept { return *reinterpret_cast<Control*>(head_.data()); }
  [[nodiscard]] Channel& channel(Rank from, int lane) const noexcept {
    return reinterpret_cast<Channel*>(head_.data() + channels_offset())[from * num_lanes + lane];
  }
  /// Where an eager message lies, slot by slot.
  [[nodiscard]] std::byte* room(Rank from, int lane, std::uint64_t slot) const noexcept {
    return head_.data() + rooms_offset(num_ranks_) + ((static_cast<std::size_t>(from) * num_lanes + lane) * num_slots + slot) * eager_bytes;
  }

  /// The owner's arena, at least `num_bytes`; contents are lost when it grows. The memory is there when this returns: no page is missing
  /// later. @throws std::bad_alloc, then the arena is what it was
  std::byte* arena(std::size_t num_bytes);
  /// Offset of `num_bytes` at `data` in the owner's arena, or -1 if they lie outside.
  [[nodiscard]] std::int64_t offset_of(const std::byte* data, std::size_t num_bytes) const noexcept;
  /// `num_bytes` at a credit's offset, in a peer's arena or heap, mapped if need be.
  std::byte* at(std::size_t offset, std::size_t num_bytes);

 private:
  int num_ranks_ = 0;
  Descriptor file_;
  std::byte* map_up_to(Mapping& mapping, std::size_t begin, std::size_t end, std::size_t size);

  Mapping head_, arena_, heap_;
};

}  // namespace shm
SEQCCL_END
