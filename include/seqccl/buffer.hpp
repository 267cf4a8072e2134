// buffer.hpp - memory that is given back with its owner.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include "seqccl/version.hpp"

SEQCCL_BEGIN

/// Memory from Communicator::allocate: 64-byte aligned, freed with this object. Move-only.
class Buffer {
 public:
  Buffer() = default;
  /// Of this process alone. @throws std::bad_alloc
  explicit Buffer(std::size_t num_bytes);
  /// `free` gives `data` back.
  Buffer(std::byte* data, std::size_t num_bytes, std::function<void(std::byte*)> free)
      : data_(data, std::move(free)), num_bytes_(num_bytes) {}
  Buffer(Buffer&& other) noexcept : data_(std::move(other.data_)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    data_ = std::move(other.data_);
    num_bytes_ = std::exchange(other.num_bytes_, 0);
    return *this;
  }
  [[nodiscard]] std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::size_t num_bytes() const noexcept { return num_bytes_; }

 private:
  std::unique_ptr<std::byte, std::function<void(std::byte*)>> data_;
  std::size_t num_bytes_ = 0;
};

SEQCCL_END
