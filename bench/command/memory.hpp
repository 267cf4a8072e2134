// memory.hpp - bytes of this process alone, or shared with the processes that it forks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

namespace seqccl::command {

/// Zero-filled memory that this process and all that it forks afterwards have in common. It has no name, and is gone with the last of
/// them. A page is there when it is first written. Move-only.
class SharedMemory {
 public:
  SharedMemory() = default;
  /// @throws std::bad_alloc
  explicit SharedMemory(std::size_t num_bytes);
  SharedMemory(SharedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}
  SharedMemory& operator=(SharedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    return *this;
  }
  ~SharedMemory();
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t num_bytes() const noexcept { return num_bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t num_bytes_ = 0;
};

/// So many of a type in shared memory, each made by its default constructor. It must hold no memory of its own.
template <class T>
class SharedArray {
 public:
  static_assert(std::is_trivially_destructible_v<T>);

  explicit SharedArray(std::size_t size) : memory_(size * sizeof(T)), size_(size) { std::uninitialized_default_construct_n(data(), size); }
  [[nodiscard]] T* data() const noexcept { return reinterpret_cast<T*>(memory_.data()); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] T& operator[](std::size_t index) const noexcept { return data()[index]; }

 private:
  SharedMemory memory_;
  std::size_t size_;
};

/// Who sees what is written: this process, or also those that it forks, and it what they write.
enum class Sharing { own, shared };

/// Zero-filled bytes. An empty one has an address too, if it was made with a size. A copy is own memory.
class Bytes {
 public:
  Bytes() = default;
  explicit Bytes(std::size_t num_bytes, Sharing sharing = Sharing::own);
  Bytes(const Bytes& other);
  Bytes(Bytes&& other) noexcept : own_(std::move(other.own_)), shared_(std::move(other.shared_)), size_(std::exchange(other.size_, 0)) {}
  Bytes& operator=(Bytes other) noexcept {
    own_ = std::move(other.own_);
    shared_ = std::move(other.shared_);
    size_ = other.size_;
    return *this;
  }

  [[nodiscard]] std::byte* data() noexcept { return shared_.data() != nullptr ? shared_.data() : own_.data(); }
  [[nodiscard]] const std::byte* data() const noexcept { return shared_.data() != nullptr ? shared_.data() : own_.data(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] friend bool operator==(const Bytes& a, const Bytes& b) noexcept { return a.equals(b); }

 private:
  [[nodiscard]] bool equals(const Bytes& other) const noexcept;

  std::vector<std::byte> own_;
  SharedMemory shared_;
  std::size_t size_ = 0;
};

}  // namespace seqccl::command
