// bootstrap_wire_fuzz_test.cpp - thousands of damaged messages: each is refused, unfinished, or consistent; known hashes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>

#include "../../lib/transport/bootstrap/siphash.hpp"
#include "../../lib/transport/bootstrap/wire.hpp"

namespace seqccl::test {
namespace {

using namespace bootstrap;

std::string message(MessageKind kind, std::string_view key, std::string_view value) {
  std::string bytes;
  append_message(bytes, {.kind = kind, .key = key, .value = value});
  return bytes;
}

const std::string_view sixteen = "0123456789abcdef", thirty_two = "0123456789abcdef0123456789abcdef";
std::vector<std::string> valid_messages() {
  return {message(MessageKind::challenge, {}, sixteen),
          message(MessageKind::hello, {}, thirty_two),
          message(MessageKind::welcome, {}, sixteen),
          message(MessageKind::denied, {}, {}),
          message(MessageKind::put, "key", "value"),
          message(MessageKind::put, "key", {}),
          message(MessageKind::put, std::string(256, 'k'), std::string(300, 'v')),
          message(MessageKind::stored, {}, {}),
          message(MessageKind::exists, {}, {}),
          message(MessageKind::get, "world/0/in/3", {}),
          message(MessageKind::withdraw, {}, {}),
          message(MessageKind::value, {}, "some text"),
          message(MessageKind::absent, {}, {}),
          message(MessageKind::will, "world/gone/3", {})};
}

/// Parses from memory of exactly that size, so that the sanitizer sees a look beyond it.
Parsed parse_alone(const std::string& bytes, std::unique_ptr<char[]>& memory, std::size_t max_body_bytes) {
  memory = std::make_unique<char[]>(bytes.size());
  if (!bytes.empty()) std::memcpy(memory.get(), bytes.data(), bytes.size());
  return parse_message({memory.get(), bytes.size()}, max_body_bytes);
}

std::string damaged(std::string bytes, std::mt19937_64& random) {
  const std::uint64_t num_damages = 1 + random() % 4;
  for (std::uint64_t i = 0; i < num_damages && !bytes.empty(); ++i) {
    // Mostly in the header: what follows is free.
    const std::size_t at = random() % (random() % 4 == 0 ? bytes.size() : std::min(bytes.size(), wire_header_bytes));
    const std::size_t length = std::min<std::size_t>(bytes.size() - at, 1 + random() % 6);
    switch (random() % 6) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        break;
      case 1:
        bytes[at] = static_cast<char>(random());
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3:
        bytes.erase(at, length);
        break;
      case 4:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 5:
        bytes.replace(at, length, length, random() % 2 == 0 ? '\0' : '\xff');
        break;
    }
  }
  return bytes;
}

TEST(BootstrapWireFuzz, DamagedMessagesAreRefusedUnfinishedOrConsistent) {
  const std::vector<std::string> valid = valid_messages();
  std::mt19937_64 random(1);
  std::unique_ptr<char[]> memory;
  int num_garbage = 0, num_incomplete = 0, num_whole = 0;
  for (int i = 0; i < 40000; ++i) {
    const std::string bytes = damaged(valid[random() % valid.size()] + valid[random() % valid.size()], random);
    const std::size_t max_body_bytes = random() % 2 == 0 ? 32 : max_store_key_bytes + max_store_value_bytes;
    const Parsed parsed = parse_alone(bytes, memory, max_body_bytes);
    if (parsed.state == ParseState::garbage) ++num_garbage;
    if (parsed.state == ParseState::incomplete) {
      ++num_incomplete;
      EXPECT_LT(bytes.size(), wire_header_bytes + max_body_bytes);  // what is waited for has an end
    }
    if (parsed.state != ParseState::whole) continue;
    ++num_whole;
    ASSERT_LE(parsed.num_bytes, bytes.size());
    EXPECT_EQ(parsed.num_bytes, wire_header_bytes + parsed.message.key.size() + parsed.message.value.size());
    EXPECT_LE(parsed.message.key.size() + parsed.message.value.size(), max_body_bytes);
    // It says what it was read from.
    EXPECT_EQ(message(parsed.message.kind, parsed.message.key, parsed.message.value), bytes.substr(0, parsed.num_bytes));
  }
  EXPECT_GT(num_garbage, 10000);
  EXPECT_GT(num_incomplete, 500);
  EXPECT_GT(num_whole, 2000);
}

TEST(BootstrapWireFuzz, RandomBytesAreRefused) {
  std::mt19937_64 random(2);
  std::unique_ptr<char[]> memory;
  for (int i = 0; i < 5000; ++i) {
    std::string bytes(8 + random() % 64, '\0');
    for (char& each : bytes) each = static_cast<char>(random());
    EXPECT_EQ(parse_alone(bytes, memory, 1 << 20).state, ParseState::garbage);
  }
}

TEST(BootstrapWire, WholeMessagesComeBackAndTruncationsAreUnfinished) {
  std::unique_ptr<char[]> memory;
  for (const std::string& bytes : valid_messages()) {
    const Parsed parsed = parse_alone(bytes, memory, 1 << 20);
    ASSERT_EQ(parsed.state, ParseState::whole);
    EXPECT_EQ(parsed.num_bytes, bytes.size());
    for (std::size_t size = 0; size < bytes.size(); ++size)
      EXPECT_EQ(parse_alone(bytes.substr(0, size), memory, 1 << 20).state, ParseState::incomplete) << size;
  }
}

TEST(BootstrapWire, LengthsThatAKindCannotHaveAreRefusedWithTheHeader) {
  const auto header = [](std::uint64_t kind, std::uint64_t key_bytes, std::uint64_t value_bytes) {
    std::string bytes = message(MessageKind::stored, {}, {}).substr(0, 6);
    append_number(bytes, kind, 2);
    append_number(bytes, key_bytes, 4);
    append_number(bytes, value_bytes, 4);
    return parse_message(bytes, max_store_key_bytes + max_store_value_bytes).state;
  };
  const auto put = static_cast<std::uint64_t>(MessageKind::put), get = static_cast<std::uint64_t>(MessageKind::get),
             hello = static_cast<std::uint64_t>(MessageKind::hello), stored = static_cast<std::uint64_t>(MessageKind::stored);
  EXPECT_EQ(header(put, 256, 1 << 20), ParseState::incomplete);
  EXPECT_EQ(header(put, 257, 0), ParseState::garbage);
  EXPECT_EQ(header(put, 0, 5), ParseState::garbage);
  EXPECT_EQ(header(put, 1, (1 << 20) + 1), ParseState::garbage);
  EXPECT_EQ(header(put, 0xffffffff, 0xffffffff), ParseState::garbage);
  EXPECT_EQ(header(get, 3, 1), ParseState::garbage);
  EXPECT_EQ(header(hello, 0, 31), ParseState::garbage);
  EXPECT_EQ(header(stored, 0, 1), ParseState::garbage);
  EXPECT_EQ(header(0, 0, 0), ParseState::garbage);
  EXPECT_EQ(header(13, 0, 0), ParseState::garbage);
  EXPECT_EQ(header(65535, 0, 0), ParseState::garbage);
  EXPECT_EQ(parse_message("GET / HTTP/1.1").state, ParseState::garbage);
  EXPECT_EQ(parse_message("S").state, ParseState::incomplete);
  EXPECT_EQ(parse_message("X").state, ParseState::garbage);
}

// The authors' published vectors: key 00 01 ... 0f, text 00 01 ... of 0, 1 and 15 bytes.
TEST(SipHash, PublishedVectors) {
  Bytes16 key;
  std::string text;
  for (int i = 0; i < 16; ++i) key[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(i);
  for (int i = 0; i < 15; ++i) text += static_cast<char>(i);
  EXPECT_EQ(hex(siphash128(key, {})), "a3817f04ba25a8e66df67214c7550293");
  EXPECT_EQ(hex(siphash128(key, text.substr(0, 1))), "da87c1d86b99af44347659119b22fc45");
  EXPECT_EQ(hex(siphash128(key, text)), "5493e99933b0a8117e08ec0f97cfc3d9");
}

TEST(SipHash, EveryInputOfAProofMatters) {
  const Bytes16 key = job_key("token", "job"), a = random_bytes16(), b = random_bytes16();
  EXPECT_FALSE(same_bytes(a, b));
  EXPECT_TRUE(same_bytes(proof(key, "client", a, b), proof(job_key("token", "job"), "client", a, b)));
  for (const Bytes16& other : {proof(key, "server", a, b), proof(key, "client", b, a), proof(job_key("token", "job2"), "client", a, b),
                               proof(job_key("token2", "job"), "client", a, b), proof(job_key("tokenj", "ob"), "client", a, b)})
    EXPECT_FALSE(same_bytes(proof(key, "client", a, b), other));
}

}  // namespace
}  // namespace seqccl::test
