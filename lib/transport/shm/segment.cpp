// segment.cpp - memory files: made, grown, mapped.
// SPDX-License-Identifier: Apache-2.0
#include "segment.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <new>
#include <optional>
#include <string>

SEQCCL_BEGIN
namespace shm {

Mapping::Mapping(const Descriptor& file, std::size_t offset, std::size_t num_bytes) : num_bytes_(num_bytes) {
  if (num_bytes == 0) return;
  void* memory = ::mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.number(), static_cast<off_t>(offset));
  if (memory == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(memory);
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, num_bytes_);
}

namespace {

/// MemAvailable, and nothing if the system does not say.
std::optional<std::size_t> available_bytes() {
  std::ifstream stream("/proc/meminfo");
  std::string word;
  while (stream >> word)
    if (std::size_t kib = 0; word == "MemAvailable:" && stream >> kib) return kib * 1024;
  return std::nullopt;
}

}  // namespace

void reserve(const Descriptor& file, std::size_t offset, std::size_t num_bytes) {
  constexpr std::size_t too_little_to_ask = std::size_t{64} << 20;
  if (num_bytes > too_little_to_ask && num_bytes > available_bytes().value_or(num_bytes)) throw std::bad_alloc();
  int failed = 0;
  do {
    failed = ::fallocate(file.number(), 0, static_cast<off_t>(offset), static_cast<off_t>(num_bytes));
  } while (failed != 0 && errno == EINTR);
  if (failed != 0) throw std::bad_alloc();
}

namespace {

Error no_segment(const char* what, int error) {
  return {ErrorKind::local, fmt::format("shm: no shared memory: {}: {}", what, std::strerror(error))};
}

}  // namespace

Segment::Segment(int num_ranks) : num_ranks_(num_ranks), file_(::memfd_create("seqccl", MFD_CLOEXEC)) {
  if (!file_.is_open()) throw no_segment("memfd_create", errno);
  const std::size_t num_bytes = arena_offset(num_ranks);
  if (::ftruncate(file_.number(), static_cast<off_t>(num_bytes)) != 0) throw no_segment("ftruncate", errno);
  try {
    head_ = Mapping(file_, 0, num_bytes);
  } catch (const std::bad_alloc&) {
    throw no_segment("mmap", ENOMEM);
  }
  new (head_.data()) Control();
  for (Rank from = 0; from < num_ranks; ++from)
    for (int lane = 0; lane < num_lanes; ++lane) new (&channel(from, lane)) Channel();
}

Segment::Segment(Descriptor file, int num_ranks) : num_ranks_(num_ranks), file_(std::move(file)) {
  try {
    head_ = Mapping(file_, 0, arena_offset(num_ranks));
  } catch (const std::bad_alloc&) {
    throw no_segment("mmap of a peer's", ENOMEM);
  }
}

std::byte* Segment::arena(std::size_t num_bytes) {
  if (num_bytes <= arena_.num_bytes()) return arena_.data();
  num_bytes = round_up(num_bytes, page_bytes);
  const std::size_t begin = arena_offset(num_ranks_);
  reserve(file_, begin, num_bytes);
  arena_ = Mapping(file_, begin, num_bytes);
  control().arena_bytes.store(num_bytes, std::memory_order_release);
  return arena_.data();
}

std::int64_t Segment::offset_of(const std::byte* data, std::size_t num_bytes) const noexcept {
  const auto begin = reinterpret_cast<std::uintptr_t>(arena_.data()), at = reinterpret_cast<std::uintptr_t>(data);
  if (at < begin || at - begin > arena_.num_bytes() || num_bytes > arena_.num_bytes() - (at - begin)) return -1;
  return static_cast<std::int64_t>(at - begin);
}

std::byte* Segment::at(std::size_t offset, std::size_t num_bytes) {
  if (offset < heap_begin)
    return map_up_to(arena_, arena_offset(num_ranks_), offset + num_bytes, control().arena_bytes.load(std::memory_order_acquire)) + offset;
  const std::size_t inside = offset - heap_begin;
  return map_up_to(heap_, heap_begin, inside + num_bytes, control().heap_end.load(std::memory_order_acquire) - heap_begin) + inside;
}

// All that there is, so that it is done again only when the peer's has grown.
std::byte* Segment::map_up_to(Mapping& mapping, std::size_t begin, std::size_t end, std::size_t size) {
  if (end > mapping.num_bytes()) {
    if (end > size) throw Error(ErrorKind::internal, fmt::format("shm: a credit ends at {}, beyond a peer's {} bytes", end, size));
    try {
      mapping = Mapping(file_, begin, size);
    } catch (const std::bad_alloc&) {
      throw no_segment("mmap of a peer's memory", ENOMEM);
    }
  }
  return mapping.data();
}

}  // namespace shm
SEQCCL_END
