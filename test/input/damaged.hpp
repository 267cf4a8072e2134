// damaged.hpp - a small valid safetensors file, and damage to it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "command/safetensors.hpp"
#include "command/support.hpp"
#include "command/tensor.hpp"

namespace seqccl::command::test {

inline std::string valid_file(const Folder& folder) {
  const std::string path = folder.file("valid");
  const HostTensor q = random_tensor(f32, {1, 3, 2, 2}, 1), k = random_tensor(bf16, {1, 3, 1, 2}, 2),
                   v = random_tensor(f16, {1, 3, 1, 4}, 3);
  write_safetensors(path, {{"q", &q}, {"k", &k}, {"v", &v}});
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// One to four small damages: bits, bytes, numbers, pieces that vanish or come twice.
inline std::string damaged(std::string file, std::mt19937_64& random) {
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

}  // namespace seqccl::command::test
