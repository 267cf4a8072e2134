// safetensors_fuzz_test.cpp - thousands of damaged files: each is either refused with an Error(argument) or consistent.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <random>

#include "command/safetensors.hpp"
#include "command/support.hpp"

namespace seqccl::command::test {
namespace {

std::string valid_file(const Folder& folder) {
  const std::string path = folder.file("valid");
  const HostTensor q = random_tensor(f32, {1, 3, 2, 2}, 1), k = random_tensor(bf16, {1, 3, 1, 2}, 2),
                   v = random_tensor(f16, {1, 3, 1, 4}, 3);
  write_safetensors(path, {{"q", &q}, {"k", &k}, {"v", &v}});
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

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

/// One to four small damages: bits, bytes, numbers, pieces that vanish or come twice.
std::string damaged(std::string file, std::mt19937_64& random) {
  static const char* const words[] = {"-1",
                                      "0",
                                      "1e9",
                                      "18446744073709551615",
                                      "9223372036854775807",
                                      "null",
                                      "[",
                                      "]",
                                      "{",
                                      "}",
                                      "\"",
                                      ",",
                                      ":",
                                      "\"q\"",
                                      "F64",
                                      "data_offsets",
                                      "\\u0000",
                                      "\xff",
                                      "__metadata__"};
  const std::uint64_t num_damages = 1 + random() % 4;
  for (std::uint64_t i = 0; i < num_damages && !file.empty(); ++i) {
    // Mostly in the header: the data cannot be wrong.
    const std::size_t at = random() % (random() % 8 == 0 ? file.size() : std::min<std::size_t>(file.size(), 240));
    const std::size_t length = std::min<std::size_t>(file.size() - at, 1 + random() % 12);
    switch (random() % 7) {
      case 0:
        file[at] = static_cast<char>(file[at] ^ (1 << random() % 8));
        break;
      case 1:
        file[at] = static_cast<char>(random());
        break;
      case 2:
        file.resize(at);
        break;
      case 3:
        file.erase(at, length);
        break;
      case 4:
        file.insert(at, file.substr(at, length));
        break;
      case 5:
        file.replace(at, length, words[random() % std::size(words)]);
        break;
      case 6:
        file[at] = static_cast<char>('0' + random() % 10);
        break;
    }
    // Half of the time the length is made right again, so that the damage gets past the first test.
    if (file.size() >= 8 && random() % 2 == 0) {
      const std::size_t end = file.rfind("}}");
      const std::uint64_t num_bytes = end == std::string::npos ? file.size() - 8 : end + 2 - 8;
      std::memcpy(file.data(), &num_bytes, 8);
    }
  }
  return file;
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

TEST(SafetensorsFuzz, damaged_files_never_crash_the_command) {
  const Folder folder;
  const std::string valid = valid_file(folder), path = folder.file("damaged");
  std::mt19937_64 random(2);
  for (int i = 0; i < 300; ++i) {
    write_text(path, damaged(valid, random));
    const Ran ran = run({"run", "attention", "-i", path, "--ranks", "1", "--method", "ring"});
    EXPECT_TRUE(ran.code == exit_right || ran.code == exit_bad_input) << ran.code << ran.err;
  }
}

}  // namespace
}  // namespace seqccl::command::test
