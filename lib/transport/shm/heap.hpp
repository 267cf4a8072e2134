// heap.hpp - the caller's memory that peers may write: ranges of the rank's own segment, beyond any arena.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <map>
#include <memory>
#include <mutex>

#include "segment.hpp"
#include "seqccl/buffer.hpp"

SEQCCL_BEGIN
namespace shm {

/// A place in the file is used once: what a late peer writes where a buffer has been is nobody's. Shared by the transport and its
/// buffers, which may outlive it. Any thread.
class Heap : public std::enable_shared_from_this<Heap> {
 public:
  /// Of this rank's own segment. @throws Error(local) if there is no descriptor to be had
  explicit Heap(const Segment& own);
  /// The memory is there when this returns: no page is missing later. @throws std::bad_alloc
  [[nodiscard]] Buffer allocate(std::size_t num_bytes);
  /// Offset of `num_bytes` at `data` in the segment, or -1 if they do not lie in one buffer.
  [[nodiscard]] std::int64_t offset_of(const std::byte* data, std::size_t num_bytes) const noexcept;

 private:
  struct Range {
    Mapping memory;
    std::size_t offset = 0;
  };
  void free(const std::byte* data) noexcept;
  void punch(std::size_t offset, std::size_t num_bytes) noexcept;

  Descriptor file_;
  Control& control_;
  mutable std::mutex mutex_;
  std::map<const std::byte*, Range> ranges_;  // by address
  std::size_t end_ = heap_begin;
  pid_t process_ = ::getpid();
};

}  // namespace shm
SEQCCL_END
