// safetensors_test.cpp - reading, writing and refusing files of tensors.
// SPDX-License-Identifier: Apache-2.0
#include "command/safetensors.hpp"

#include <cstring>

#include "command/support.hpp"

namespace seqccl::command::test {
namespace {

std::string file_of(const std::string& header, const std::string& data) {
  const std::uint64_t num_bytes = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &num_bytes, 8);
  return file + header + data;
}

SafetensorsHeader parse(const std::string& file) { return parse_safetensors_header(file, file.size(), "x.safetensors"); }
SafetensorsHeader parse(const std::string& header, std::size_t data_bytes) { return parse(file_of(header, std::string(data_bytes, 'd'))); }

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

TEST(Safetensors, round_trip_keeps_every_bit_of_every_type) {
  const Folder folder;
  const std::string path = folder.file("a.safetensors");
  std::vector<HostTensor> tensors;
  for (const DType dtype : {f32, f16, bf16, DType::f64}) tensors.push_back(random_tensor(dtype, {2, 3, 5}, tensors.size()));
  tensors.emplace_back(f32, std::vector<std::int64_t>{2, 0, 4});
  write_safetensors(path, {{"a", &tensors[0]}, {"b", &tensors[1]}, {"c", &tensors[2]}, {"d", &tensors[3]}, {"empty", &tensors[4]}});

  SafetensorsFile file(path);
  int i = 0;
  for (const char* name : {"a", "b", "c", "d", "empty"}) {
    const HostTensor got = file.read(name);
    EXPECT_EQ(got.dtype, tensors[static_cast<std::size_t>(i)].dtype);
    EXPECT_EQ(got.shape(), tensors[static_cast<std::size_t>(i)].shape());
    EXPECT_EQ(got.bytes, tensors[static_cast<std::size_t>(i)].bytes);
    ++i;
  }
  EXPECT_EQ(folder.num_files(), 1u);  // no temporary file stays
  EXPECT_REFUSED(file.read("q"), "no tensor 'q'", "a, b, c, d, empty");
}

TEST(Safetensors, a_failed_write_leaves_the_old_file_and_nothing_else) {
  const Folder folder;
  const HostTensor tensor = random_tensor(f32, {4}, 1);
  EXPECT_REFUSED(write_safetensors(folder.file("no/such/folder.safetensors"), {{"a", &tensor}}), "no/such/folder", "cannot be created");
  std::filesystem::create_directory(folder.file("folder"));
  EXPECT_REFUSED(write_safetensors(folder.file("folder"), {{"a", &tensor}}), "not a regular file");
  EXPECT_EQ(folder.num_files(), 1u);
}

TEST(Safetensors, accepts_what_the_format_allows) {
  const SafetensorsHeader header =
      parse("{" + entry("b", "I64", "[1]", "[4,12]") + "," + entry("a", "F32", "[]", "[0,4]") + R"(,"__metadata__":{"by":"us"}}  )", 12);
  ASSERT_EQ(header.entries.size(), 2u);
  EXPECT_EQ(header.entries[0].name, "a");  // by place in the data
  EXPECT_TRUE(header.entries[0].shape.empty());
  EXPECT_EQ(header.entries[1].dtype, "I64");
  EXPECT_TRUE(parse("{}", 0).entries.empty());
}

TEST(Safetensors, refuses_files_that_end_early) {
  EXPECT_REFUSED(parse(""), "x.safetensors", "0 bytes");
  EXPECT_REFUSED(parse("1234567"), "7 bytes");
  EXPECT_REFUSED(parse(file_of("{}", "").substr(0, 9)), "header length is 2", "1 follow", "truncated");
  EXPECT_REFUSED(parse("{" + entry("q", "F32", "[4]", "[0,16]") + "}", 15), "'q'", "[0, 16]", "15 bytes", "truncated");
}

TEST(Safetensors, refuses_headers_that_are_too_long) {
  std::string file(16, '\xff');
  EXPECT_REFUSED(parse(file), "at most 100000000");
  const std::uint64_t num_bytes = max_safetensors_header_bytes + 1;
  std::memcpy(file.data(), &num_bytes, 8);
  EXPECT_REFUSED(parse_safetensors_header(file, std::uint64_t{1} << 40, "x"), "100000001");
}

TEST(Safetensors, refuses_bad_json) {
  EXPECT_REFUSED(parse("", 0), "does not begin with '{'");
  EXPECT_REFUSED(parse("[]", 0), "does not begin with '{'");
  EXPECT_REFUSED(parse("{\"q\":", 0), "not valid JSON");
  EXPECT_REFUSED(parse("{} {}", 0), "not valid JSON");
  EXPECT_REFUSED(parse("{\"q\":1}", 0), "'q'", "not an object");
  EXPECT_REFUSED(parse(R"({"q":{"dtype":"F32","shape":[0]}})", 0), "data_offsets", "missing");
  EXPECT_REFUSED(parse(R"({"q":{"dtype":7,"shape":[0],"data_offsets":[0,0]}})", 0), "dtype is not a string");
  EXPECT_REFUSED(parse(R"({"__metadata__":{"n":1}})", 0), "__metadata__");
  EXPECT_REFUSED(parse("{\"q\":" + std::string(100000, '[') + "}", 0), "deeper than 3");
}

TEST(Safetensors, refuses_bad_entries) {
  const auto one = [](const char* dtype, const char* shape, const char* offsets, std::size_t data_bytes = 16) {
    return parse("{" + entry("q", dtype, shape, offsets) + "}", data_bytes);
  };
  EXPECT_REFUSED(one("F33", "[4]", "[0,16]"), "'q'", "'F33' is not known");
  EXPECT_REFUSED(one("F32", "[-4]", "[0,16]"), "shape", "-4", ">= 0");
  EXPECT_REFUSED(one("F32", "[2.0,2]", "[0,16]"), "shape", "2.0");
  EXPECT_REFUSED(one("F32", "[4611686018427387904]", "[0,16]"), "overflows");
  EXPECT_REFUSED(one("F32", "[4294967296,4294967296]", "[0,0]", 0), "overflows");
  EXPECT_REFUSED(one("F32", "[4294967296,4294967296,0]", "[0,0]", 0), "overflows");
  EXPECT_REFUSED(one("F32", "[18446744073709551615]", "[0,16]"), "overflows");
  EXPECT_REFUSED(one("F32", "[18446744073709551616]", "[0,16]"), "want a whole number");
  EXPECT_REFUSED(one("F32", "[4]", "[16,0]"), "backwards");
  EXPECT_REFUSED(one("F32", "[4]", "[-1,16]"), "data_offsets[0]", "-1");
  EXPECT_REFUSED(one("F32", "[4]", "[0,12]"), "12 bytes", "needs 16");
  EXPECT_REFUSED(one("F32", "[4]", "[0,16,17]"), "two numbers");
  EXPECT_REFUSED(one("F32", "[4]", "[0,16]", 17), "16 bytes", "17 bytes");
}

TEST(Safetensors, refuses_overlap_holes_and_names_twice) {
  EXPECT_REFUSED(parse("{" + entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "F32", "[2]", "[4,12]") + "}", 12), "'b'", "overlap");
  EXPECT_REFUSED(parse("{" + entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "F32", "[2]", "[0,8]") + "}", 8), "overlap");
  EXPECT_REFUSED(parse("{" + entry("a", "F32", "[1]", "[0,4]") + "," + entry("b", "F32", "[1]", "[8,12]") + "}", 12), "'b'", "hole");
  EXPECT_REFUSED(parse("{" + entry("a", "F32", "[1]", "[0,4]") + "," + entry("a", "F32", "[1]", "[4,8]") + "}", 8), "'a' twice");
  EXPECT_REFUSED(parse(R"({"q":{"dtype":"F32","shape":[0],"shape":[0],"data_offsets":[0,0]}})", 0), "'shape' twice");
}

TEST(Safetensors, other_types_may_be_in_the_file_but_not_be_read) {
  const Folder folder;
  const std::string path = folder.file("a.safetensors");
  write_text(path, file_of("{" + entry("ids", "I64", "[1]", "[0,8]") + "," + entry("q", "F32", "[1,1,1,1,1,1]", "[8,12]") + "}",
                           std::string(12, '\0')));
  SafetensorsFile file(path);
  EXPECT_REFUSED(file.read("ids"), "I64", "want F32, F16, BF16 or F64");
  EXPECT_REFUSED(file.read("q"), "6 axes");
}

TEST(Safetensors, says_why_a_file_cannot_be_opened) {
  const Folder folder;
  EXPECT_REFUSED(SafetensorsFile(folder.file("none")), "none", "cannot be opened");
  EXPECT_REFUSED(SafetensorsFile(folder.file("")), "regular file");
}

TEST(Safetensors, a_file_that_shrinks_while_it_is_open_is_an_error) {
  const Folder folder;
  const std::string path = folder.file("a.safetensors");
  const HostTensor big = random_tensor(f32, {1 << 16}, 1);
  write_safetensors(path, {{"a", &big}});
  SafetensorsFile file(path);
  std::filesystem::resize_file(path, 1000);
  EXPECT_REFUSED(file.read("a"), "shrunk");
}

}  // namespace
}  // namespace seqccl::command::test
