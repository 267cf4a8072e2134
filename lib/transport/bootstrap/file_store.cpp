// file_store.cpp - a store of files in a folder that all ranks see.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "limits.hpp"
#include "siphash.hpp"
#include "socket.hpp"

SEQCCL_BEGIN

using namespace bootstrap;

namespace {

namespace fs = std::filesystem;

constexpr auto first_pause = std::chrono::milliseconds(1);
constexpr auto longest_pause = std::chrono::milliseconds(50);
constexpr std::size_t max_readable_name_bytes = 200;

/// A name that a file system takes and a person can read; a hash where the key is too long for that.
std::string file_name(std::string_view key) {
  std::string name = "key-";
  for (const char c : key) {
    const bool is_plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
    name += is_plain ? std::string(1, c) : fmt::format("%{:02x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  return name.size() <= max_readable_name_bytes ? name : "hash-" + hex(siphash128({}, key));
}

class FileStore final : public Store {
 public:
  FileStore(const fs::path& directory, const LaunchInfo& launch)
      : Store(folder_of(directory, launch).string()), folder_(place()), is_first_(launch.rank == 0) {
    std::error_code failed;
    if (!fs::is_directory(directory, failed))
      throw Error(ErrorKind::argument,
                  fmt::format("file_store: directory is \"{}\", which is no folder here; want one that all ranks see", directory.string()));
    fs::create_directory(folder_, failed);
    if (failed) refuse(failed.message());
    if (is_first_) (void)write(marker(), "");  // that of a killed run is as good
  }

  ~FileStore() override {
    std::error_code ignored;
    if (is_first_) {
      // Once more after the marker is gone: who puts later than that sees no marker and removes what is his.
      remove_all_but(marker());
      fs::remove(marker(), ignored);
      remove_all_but({});
    } else if (!fs::exists(marker(), ignored)) {
      for (const fs::path& own : own_) fs::remove(own, ignored);
    }
    fs::remove(folder_, ignored);  // only if it is empty
  }

  void put(std::string_view key, std::string_view value) override {
    require_key(key);
    require_value(value);
    const fs::path path = folder_ / file_name(key);
    if (!write(path, value)) refuse_second_put(key, place());
    own_.push_back(path);
  }

  std::optional<std::string> get(std::string_view key, Deadline deadline) override {
    require_key(key);
    const fs::path path = folder_ / file_name(key);
    for (auto pause = first_pause;; pause = std::min(2 * pause, longest_pause)) {
      std::ifstream file(path, std::ios::binary);
      if (file) {
        std::string value{std::istreambuf_iterator<char>(file), {}};
        if (file.bad() || value.size() > max_store_value_bytes)
          throw Error(ErrorKind::local, fmt::format("file_store: {} cannot be read, or is no value of at most {} bytes", path.string(),
                                                    max_store_value_bytes));
        return value;
      }
      const auto now = Clock::now();
      if (now >= deadline) return std::nullopt;
      std::this_thread::sleep_for(std::min<Clock::duration>(pause, deadline - now));
      look_again();
    }
  }

 private:
  static fs::path folder_of(const fs::path& directory, const LaunchInfo& launch) {
    return directory / ("seqccl-" + hex(siphash128({}, launch.job)).substr(0, 16));
  }
  /// There as long as rank 0 is: it removes everything then.
  [[nodiscard]] fs::path marker() const { return folder_ / "rank-0-is-here"; }

  /// Written aside and given its name when it is whole: nobody sees half a value. False if there is one of that name.
  [[nodiscard]] bool write(const fs::path& path, std::string_view value) const {
    const fs::path aside = folder_ / ("aside-" + hex(random_bytes16()));
    std::ofstream file(aside, std::ios::binary);
    file.write(value.data(), static_cast<std::streamsize>(value.size()));
    file.close();
    // A second name, not another: it is refused if it exists, on network file systems too.
    std::error_code failed = file ? std::error_code() : std::make_error_code(std::errc::io_error), ignored;
    if (!failed) fs::create_hard_link(aside, path, failed);
    fs::remove(aside, ignored);
    if (failed && failed != std::errc::file_exists) refuse(failed.message());
    return !failed;
  }

  /// Network file systems keep for a while that a file was not there; opening its folder makes them ask.
  void look_again() const {
    std::error_code ignored;
    (void)fs::directory_iterator(folder_, ignored);
  }

  void remove_all_but(const fs::path& spared) const {
    std::error_code ignored;
    std::vector<fs::path> paths;
    for (fs::directory_iterator each(folder_, ignored), end; !ignored && each != end; each.increment(ignored))
      paths.push_back(each->path());
    for (const fs::path& path : paths)
      if (path != spared) fs::remove(path, ignored);
  }

  [[noreturn]] void refuse(const std::string& reason) const {
    throw Error(ErrorKind::argument,
                fmt::format("file_store: directory cannot hold {}: {}; want a folder that this rank can write", place(), reason));
  }

  fs::path folder_;
  bool is_first_;
  std::vector<fs::path> own_;
};

}  // namespace

std::unique_ptr<Store> file_store(const std::string& directory, const LaunchInfo& launch) {
  require_ranks(launch.rank, launch.num_ranks);
  return std::make_unique<FileStore>(directory, launch);
}

SEQCCL_END
