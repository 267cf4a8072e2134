// bootstrap_support.hpp - ranks as threads that meet at a store, free ports, and clients that do not keep to the protocol.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "seqccl/bootstrap.hpp"

namespace seqccl::test {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// A socket of the test's own, plain and blocking.
class PlainSocket {
 public:
  PlainSocket() : number_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  explicit PlainSocket(int port) : PlainSocket() {
    sockaddr_in to = address(port);
    connected_ = ::connect(number_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0;
  }
  ~PlainSocket() { ::close(number_); }
  PlainSocket(const PlainSocket&) = delete;
  PlainSocket& operator=(const PlainSocket&) = delete;

  /// Binds to any free port of loopback, which it returns; listens if asked to.
  int take_port(bool listening) {
    sockaddr_in own = address(0);
    socklen_t length = sizeof own;
    EXPECT_EQ(::bind(number_, reinterpret_cast<sockaddr*>(&own), sizeof own), 0);
    EXPECT_EQ(::getsockname(number_, reinterpret_cast<sockaddr*>(&own), &length), 0);
    EXPECT_TRUE(!listening || ::listen(number_, 8) == 0);
    return ntohs(own.sin_port);
  }
  void allow_second_use() const {
    const int yes = 1;
    EXPECT_EQ(::setsockopt(number_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes), 0);
  }
  /// Takes connections and says the same to all of them.
  void greet_all(const std::string& words, int num_connections) const {
    for (int i = 0; i < num_connections; ++i) {
      const int taken = ::accept4(number_, nullptr, nullptr, SOCK_CLOEXEC);
      (void)!::send(taken, words.data(), words.size(), MSG_NOSIGNAL);
      ::close(taken);
    }
  }
  [[nodiscard]] bool connected() const { return connected_; }
  [[nodiscard]] bool say(const std::string& bytes) const {
    return ::send(number_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  /// What comes until `num_bytes` are there, the other end closes, or the time is over.
  [[nodiscard]] std::string hear(std::size_t num_bytes, milliseconds limit) const {
    std::string heard;
    const auto end = std::chrono::steady_clock::now() + limit;
    while (heard.size() < num_bytes && readable(end)) {
      char piece[4096];
      const ssize_t count = ::recv(number_, piece, std::min(sizeof piece, num_bytes - heard.size()), 0);
      if (count <= 0) break;
      heard.append(piece, static_cast<std::size_t>(count));
    }
    return heard;
  }
  /// True if the other end closes within the time; what it says before is dropped.
  [[nodiscard]] bool closes(milliseconds limit) const {
    const auto end = std::chrono::steady_clock::now() + limit;
    char piece[4096];
    while (readable(end))
      if (::recv(number_, piece, sizeof piece, 0) <= 0) return true;
    return false;
  }

 private:
  static sockaddr_in address(int port) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<std::uint16_t>(port));
    return to;
  }
  [[nodiscard]] bool readable(std::chrono::steady_clock::time_point end) const {
    pollfd waiting{number_, POLLIN, 0};
    const auto left = std::chrono::duration_cast<milliseconds>(end - std::chrono::steady_clock::now()).count();
    return ::poll(&waiting, 1, static_cast<int>(std::max<std::int64_t>(left, 0))) == 1;
  }

  int number_;
  bool connected_ = false;
};

/// A free port of loopback that nobody else is given as long as this process lives: bound, but not listened at, and open to a second
/// use, so that a store can listen there.
inline int free_port() {
  static std::vector<std::unique_ptr<PlainSocket>> reserved;
  reserved.push_back(std::make_unique<PlainSocket>());
  reserved.back()->allow_second_use();
  return reserved.back()->take_port(/*listening=*/false);
}

inline LaunchInfo launch_of(Rank rank, int num_ranks, int port) {
  return {.rank = rank, .num_ranks = num_ranks, .address = "127.0.0.1", .port = port, .job = "test", .token = "secret", .source = "test"};
}

/// `body` on a thread per rank; what each of them threw.
inline std::vector<std::optional<Error>> errors_of_ranks(const std::vector<Rank>& ranks, const std::function<void(Rank)>& body) {
  std::vector<std::optional<Error>> errors(ranks.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < ranks.size(); ++i)
    threads.emplace_back([&, i] {
      try {
        body(ranks[i]);
      } catch (const Error& error) {
        errors[i] = error;
      }
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}
inline std::vector<Rank> ranks_below(int num_ranks) {
  std::vector<Rank> ranks;
  for (Rank rank = 0; rank < num_ranks; ++rank) ranks.push_back(rank);
  return ranks;
}
inline void expect_no_errors(const std::vector<std::optional<Error>>& errors) {
  for (const auto& error : errors) EXPECT_FALSE(error.has_value()) << error->what();
}

/// The Error that `call` throws; fails if it throws none.
inline std::optional<Error> error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error was thrown";
  return std::nullopt;
}
inline void expect_error(const std::optional<Error>& error, ErrorKind kind, const std::vector<std::string>& words) {
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->kind(), kind) << error->what();
  for (const std::string& each : words)
    EXPECT_NE(std::string(error->what()).find(each), std::string::npos) << each << " in: " << error->what();
}

/// A folder that vanishes with its test.
class Directory {
 public:
  Directory() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string test = std::string(info->test_suite_name()) + "-" + info->name();
    for (char& c : test)
      if (c == '/') c = '-';
    path_ = std::filesystem::temp_directory_path() / ("seqccl-test-" + test + "-" + std::to_string(::getpid()));
    std::filesystem::create_directories(path_);
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  [[nodiscard]] std::string path() const { return path_.string(); }
  [[nodiscard]] bool is_empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::filesystem::path path_;
};

}  // namespace seqccl::test
