// safetensors_fuzz_test.cpp - thousands of damaged files: each is either refused with an Error(argument) or consistent.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <random>

#include "command/safetensors.hpp"
#include "command/support.hpp"
#include "input/damaged.hpp"

namespace seqccl::command::test {
namespace {

/// What a header promises must hold, whatever the file was.
void expect_consistent(const SafetensorsHeader& header, std::size_t file_bytes) {
  std::uint64_t filled = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    EXPECT_EQ(entry.begin_byte, filled);
    EXPECT_LE(entry.begin_byte, entry.end_byte);
    for (const std::int64_t extent : entry.shape) EXPECT_GE(extent, 0);
    filled = entry.end_byte;
  }
  EXPECT_EQ(header.data_begin_byte + filled, file_bytes);
}

TEST(SafetensorsFuzz, damaged_headers_are_refused_or_consistent) {
  const Folder folder;
  const std::string valid = valid_file(folder);
  ASSERT_NO_THROW(expect_consistent(parse_safetensors_header(valid, valid.size(), "valid"), valid.size()));
  std::mt19937_64 random(1);
  int num_refused = 0, num_accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string file = damaged(valid, random);
    try {
      expect_consistent(parse_safetensors_header(file, file.size(), "damaged"), file.size());
      ++num_accepted;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument) << error.what();
      EXPECT_EQ(std::string(error.what()).rfind("damaged: ", 0), 0u) << error.what();
      ++num_refused;
    }
  }
  EXPECT_GT(num_refused, 15000);
  EXPECT_GT(num_accepted, 50);  // damage in the data only
}

TEST(SafetensorsFuzz, every_truncation_is_refused) {
  const Folder folder;
  const std::string valid = valid_file(folder);
  for (std::size_t size = 0; size < valid.size(); ++size)
    EXPECT_THROW((void)parse_safetensors_header(valid.substr(0, size), size, "cut"), Error) << size;
}

}  // namespace
}  // namespace seqccl::command::test
