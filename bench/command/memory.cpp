// memory.cpp - maps shared pages, copies bytes.
// SPDX-License-Identifier: Apache-2.0
#include "command/memory.hpp"

#include <sys/mman.h>

#include <algorithm>

namespace seqccl::command {

SharedMemory::SharedMemory(std::size_t num_bytes) : num_bytes_(num_bytes) {
  void* memory = ::mmap(nullptr, std::max<std::size_t>(num_bytes, 1), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(memory);
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) ::munmap(data_, std::max<std::size_t>(num_bytes_, 1));
}

Bytes::Bytes(std::size_t num_bytes, Sharing sharing) : size_(num_bytes) {
  if (sharing == Sharing::shared) {
    shared_ = SharedMemory(num_bytes);
  } else {
    own_.reserve(64);  // an address, also without bytes
    own_.resize(num_bytes);
  }
}

Bytes::Bytes(const Bytes& other) : size_(other.size_) {
  if (other.data() == nullptr) return;
  own_.reserve(std::max<std::size_t>(size_, 64));
  own_.assign(other.data(), other.data() + size_);
}

bool Bytes::equals(const Bytes& other) const noexcept { return size_ == other.size_ && std::equal(data(), data() + size_, other.data()); }

}  // namespace seqccl::command
