// support.hpp - runs the command in this process; folders that vanish; the message of an expected error.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "command/command.hpp"
#include "command/safetensors.hpp"
#include "seqccl/error.hpp"

namespace seqccl::command::test {

struct Ran {
  int code = 0;
  std::string out, err;
};
inline Ran run(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv = {"seqccl"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  std::ostringstream out, err;
  const int code = run_command(static_cast<int>(argv.size()), argv.data(), out, err);
  return {code, out.str(), err.str()};
}

/// A folder of its own for every test.
class Folder {
 public:
  Folder() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            ("seqccl-" + std::string(info->test_suite_name()) + "-" + info->name() + "-" + std::to_string(::getpid()));
    std::filesystem::create_directories(path_);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return (path_ / name).string(); }
  [[nodiscard]] std::size_t num_files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator{}));
  }

 private:
  std::filesystem::path path_;
};

inline void write_text(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

/// The message of the Error(argument) that `call` throws; fails if it throws none.
template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::argument) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}
inline void expect_words(const std::string& message, const std::vector<std::string>& words) {
  for (const std::string& each : words) EXPECT_NE(message.find(each), std::string::npos) << message;
}
/// Expects an Error(argument) whose message has all the given words.
#define EXPECT_REFUSED(call, ...) \
  ::seqccl::command::test::expect_words(::seqccl::command::test::message_of([&] { (void)(call); }), {__VA_ARGS__})

}  // namespace seqccl::command::test
