// heap.cpp - ranges of a memory file, given to the caller and punched out again.
// SPDX-License-Identifier: Apache-2.0
#include "heap.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

SEQCCL_BEGIN
namespace shm {

Heap::Heap(const Segment& own) : file_(::fcntl(own.file().number(), F_DUPFD_CLOEXEC, 0)), control_(own.control()) {
  if (!file_.is_open()) throw Error(ErrorKind::local, fmt::format("shm: no descriptor for the heap: {}", std::strerror(errno)));
}

Buffer Heap::allocate(std::size_t num_bytes) {
  if (num_bytes == 0) return {};
  if (::getpid() != process_) return Buffer(num_bytes);  // a copy in a forked child: the file is its parent's
  const auto unit = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t step = num_bytes < page_bytes ? unit : std::max(unit, page_bytes);
  std::byte* data = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const std::size_t reserved = round_up(num_bytes, step), offset = round_up(end_, step);
    if (reserved < num_bytes || offset + reserved < offset) throw std::bad_alloc();
    reserve(file_, offset, reserved);
    end_ = offset + reserved;
    control_.heap_end.store(end_, std::memory_order_release);
    try {
      Range range{Mapping(file_, offset, reserved), offset};
      data = range.memory.data();
      ranges_.emplace(data, std::move(range));
    } catch (...) {
      punch(offset, reserved);
      throw;
    }
  }
  return Buffer(data, num_bytes, [heap = shared_from_this()](std::byte* memory) { heap->free(memory); });
}

std::int64_t Heap::offset_of(const std::byte* data, std::size_t num_bytes) const noexcept {
  const std::lock_guard lock(mutex_);
  const auto after = ranges_.upper_bound(data);
  if (after == ranges_.begin()) return -1;
  const auto& [begin, range] = *std::prev(after);
  const auto at = static_cast<std::size_t>(data - begin);
  if (at > range.memory.num_bytes() || num_bytes > range.memory.num_bytes() - at) return -1;
  return static_cast<std::int64_t>(range.offset + at);
}

void Heap::free(const std::byte* data) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = ranges_.find(data);
  if (found == ranges_.end()) return;
  const std::size_t offset = found->second.offset, num_bytes = found->second.memory.num_bytes();
  ranges_.erase(found);
  if (::getpid() == process_) punch(offset, num_bytes);  // a forked child only unmaps: its parent uses the memory
}

void Heap::punch(std::size_t offset, std::size_t num_bytes) noexcept {
  // If it fails, the memory goes with the segment.
  (void)::fallocate(file_.number(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(num_bytes));
}

}  // namespace shm
SEQCCL_END
