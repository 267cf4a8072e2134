// options.cpp - parses lists, partitions, meshes and names.
// SPDX-License-Identifier: Apache-2.0
#include "command/options.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <utility>

#include "command/names.hpp"
#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

[[noreturn]] void refuse(std::string_view option, std::string_view written, std::string_view want) {
  throw Error(ErrorKind::argument, fmt::format("{}: '{}' is not right, want {}", option, written.substr(0, 80), want));
}

}  // namespace

std::int64_t parse_count(std::string_view option, std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc::result_out_of_range) refuse(option, text, "a number below 2^63");
  if (error != std::errc{}) refuse(option, text, "a whole number, such as 4096 or 4k");
  const std::string_view rest(end, static_cast<std::size_t>(text.data() + text.size() - end));
  int shift = 0;
  if (rest == "k" || rest == "K")
    shift = 10;
  else if (rest == "m" || rest == "M")
    shift = 20;
  else if (rest == "g" || rest == "G")
    shift = 30;
  else if (!rest.empty())
    refuse(option, text, "a whole number, such as 4096 or 4k");
  const std::int64_t limit = INT64_MAX >> shift;
  if (number > limit || number < -limit) refuse(option, text, "a number below 2^63");
  return number * (std::int64_t{1} << shift);
}

std::int64_t parse_count(std::string_view option, std::string_view text, std::int64_t low, std::int64_t high) {
  const std::int64_t count = parse_count(option, text);
  if (count < low || count > high) refuse(option, text, fmt::format("{} to {}", low, high == max_size ? "2^40" : std::to_string(high)));
  return count;
}

double parse_number(std::string_view option, std::string_view text, double low, double high, std::string_view want) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || rest != end || !(number >= low && number <= high)) refuse(option, text, want);  // NaN is in no range
  return number;
}

std::string number_text(double number, double low) { return number >= low ? fmt::format("{:g}", number) : std::string(); }

std::string count_text(std::int64_t count) {
  constexpr std::pair<int, const char*> units[] = {{30, "g"}, {20, "m"}, {10, "k"}};
  for (const auto& [shift, unit] : units)
    if (count > 0 && count % (std::int64_t{1} << shift) == 0) return fmt::format("{}{}", count >> shift, unit);
  return std::to_string(count);
}

std::vector<std::int64_t> parse_counts(std::string_view option, std::string_view text) {
  std::vector<std::int64_t> numbers;
  for (std::size_t begin = 0;;) {
    const std::size_t comma = text.find(',', begin);
    numbers.push_back(parse_count(option, text.substr(begin, comma - begin)));
    if (comma == std::string_view::npos) return numbers;
    begin = comma + 1;
  }
}

Partition parse_partition(std::string_view text, std::int64_t num_tokens, int num_ranks) {
  const std::size_t colon = text.find(':');
  const std::string kind = resolve(partition_names(), text.substr(0, colon));
  if (kind != "uneven") {
    if (colon != std::string_view::npos) refuse("--partition", text, fmt::format("'{}' without anything after it", kind));
    if (kind == "zigzag") return Partition::zigzag(num_tokens, num_ranks);
    if (kind == "striped") return Partition::striped(num_tokens, num_ranks);
    return Partition::contiguous(num_tokens, num_ranks);
  }
  if (colon == std::string_view::npos) refuse("--partition", text, "uneven:T0,T1,... with one number of tokens per rank");
  const std::vector<std::int64_t> counts = parse_counts("--partition", text.substr(colon + 1));
  if (counts.size() != static_cast<std::size_t>(num_ranks))
    refuse("--partition", text, fmt::format("{} numbers, one per rank (there are {})", num_ranks, counts.size()));
  std::int64_t sum = 0;
  for (const std::int64_t count : counts) {
    if (count < 0 || count > num_tokens - sum)
      refuse("--partition", text, fmt::format("numbers >= 0 that sum to the {} tokens of the sequence", num_tokens));
    sum += count;
  }
  if (sum != num_tokens)
    refuse("--partition", text, fmt::format("numbers that sum to the {} tokens of the sequence (they sum to {})", num_tokens, sum));
  return Partition::uneven(counts);
}

Mesh parse_mesh(std::string_view text) {
  Mesh mesh;
  for (std::size_t begin = 0;;) {
    const std::size_t comma = text.find(',', begin);
    const std::string_view part = text.substr(begin, comma - begin);
    const std::size_t colon = part.find(':');
    const std::string_view axis = part.substr(0, colon);
    int* extent = axis == "heads" ? &mesh.heads : axis == "outer" ? &mesh.outer : axis == "inner" ? &mesh.inner : nullptr;
    if (part == "heads_outermost") {
      mesh.heads_outermost = true;
    } else {
      if (extent == nullptr || colon == std::string_view::npos) refuse("--mesh", text, "heads:U,outer:O,inner:I[,heads_outermost]");
      const std::int64_t count = parse_count("--mesh", part.substr(colon + 1));
      if (count < 1 || count > 1 << 20) refuse("--mesh", text, "extents of at least 1");
      *extent = static_cast<int>(count);
    }
    if (comma == std::string_view::npos) break;
    begin = comma + 1;
  }
  if (mesh.heads_outermost && (mesh.heads == 1 || mesh.ring_size() == 1))
    refuse("--mesh", text, "heads_outermost only with heads and outer or inner above 1: else the ranks are where they are without it");
  return mesh;
}

Topology parse_nodes(std::string_view text, int num_ranks) {
  if (text.empty()) return {};
  const std::size_t cross = text.find('x');
  if (cross == std::string_view::npos) refuse("--nodes", text, "KxM, for K nodes of M ranks");
  const std::int64_t num_nodes = parse_count("--nodes", text.substr(0, cross)),
                     ranks_per_node = parse_count("--nodes", text.substr(cross + 1));
  if (num_nodes < 1 || ranks_per_node < 1 || num_nodes > num_ranks || ranks_per_node > num_ranks || num_nodes * ranks_per_node != num_ranks)
    refuse("--nodes", text, fmt::format("KxM with K times M = {} ranks", num_ranks));
  return Topology::nodes(static_cast<int>(num_nodes), static_cast<int>(ranks_per_node));
}

DType parse_dtype(std::string_view text) {
  const std::string name = resolve(dtype_names(), text);
  return name == "f16" ? f16 : name == "bf16" ? bf16 : f32;
}

LinearKind parse_kind(std::string_view text) { return linear_kind_from_name(resolve(kind_names(), text)); }

RankTransport parse_transport(std::string_view text) {
  const std::string word = resolve(transport_names(), text);
  for (const RankTransport transport : {RankTransport::shm, RankTransport::ucx})
    if (word == name(transport)) return transport;
  return RankTransport::threads;
}

std::string default_transport() {
  const char* text = std::getenv("SEQCCL_TRANSPORT");
  const bool is_set = text != nullptr && *text != 0 && std::string_view(text) != name(ProcessTransport::automatic);
  return is_set ? text : name(RankTransport::threads);
}

void require_ranks(std::int64_t num_ranks) {
  if (num_ranks < 1 || num_ranks > max_ranks) refuse("--ranks", std::to_string(num_ranks), fmt::format("1 to {}", max_ranks));
}

}  // namespace seqccl::command
