// page.hpp - the page of shared memory over which `seqccl_compare` asks each library's ranks for one measurement at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace peers {

enum class Operation : std::uint32_t { all_gather, all_to_all };
/// same: every call sends the bytes of the one before, and nobody looks at what came, as most benchmarks do.
/// fresh: the block is written before each call, what came is read after it; the reading is timed, the writing is not.
enum class Source : std::uint32_t { same, fresh };

struct Question {
  Operation operation = Operation::all_gather;
  Source source = Source::same;
  std::uint64_t block_bytes = 0;  // from each rank to each rank
  std::uint32_t iterations = 0;
};

inline constexpr int max_ranks = 64;
inline constexpr std::uint64_t max_bytes = std::uint64_t{256} << 20;  // of a rank's send or receive buffer

/// Lies in a file that all ranks of a library map. A library's ranks sleep while another is measured.
struct Page {
  std::atomic<std::uint32_t> ready{0};     // ranks that have connected
  std::atomic<std::uint32_t> question{0};  // raised by the asker, with `asked`
  std::atomic<std::uint32_t> answers{0};   // ranks that have answered it
  std::atomic<std::uint32_t> quit{0};
  Question asked;
  alignas(64) std::atomic<std::uint32_t> barrier_count{0};
  alignas(64) std::atomic<std::uint32_t> barrier_turn{0};
  struct Answer {
    double seconds = 0;           // per iteration, of this rank
    std::uint64_t num_wrong = 0;  // blocks that did not hold what their rank sent
  };
  alignas(64) Answer answer[max_ranks];
};

class MappedPage {
 public:
  /// Maps the file, made and cleared first if `create`. @throws std::runtime_error
  MappedPage(const std::string& path, bool create);
  ~MappedPage();
  MappedPage(const MappedPage&) = delete;
  MappedPage& operator=(const MappedPage&) = delete;
  [[nodiscard]] Page& operator*() const noexcept { return *page_; }
  [[nodiscard]] Page* operator->() const noexcept { return page_; }

 private:
  Page* page_ = nullptr;
};

}  // namespace peers
