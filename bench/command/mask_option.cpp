// mask_option.cpp - parses --mask: terms joined by '+', and files of band slices.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "command/names.hpp"
#include "command/options.hpp"
#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(std::string_view written, std::string_view want) {
  throw Error(ErrorKind::argument, fmt::format("--mask: '{}' is not right, want {}", written.substr(0, 80), want));
}

constexpr const char* slices_form = R"([{"q": [FIRST, END], "k": [FIRST, END], "low": L, "high": H, "batch": B}, ...])";

/// Reads a file of band slices; errors name the file and the index of the slice.
class SliceFile {
 public:
  explicit SliceFile(std::string path) : path_(std::move(path)) {}

  [[nodiscard]] std::vector<BandSlice> read() {
    std::ifstream stream(path_);
    if (!stream) fail(std::string("cannot be opened: ") + std::strerror(errno));
    const json root = json::parse(stream, nullptr, false);
    if (!root.is_array()) fail(std::string("is not a JSON list of slices, want ") + slices_form);
    std::vector<BandSlice> slices;
    for (const json& value : root) {
      slices.push_back(slice(value));
      ++index_;
    }
    return slices;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const { throw Error(ErrorKind::argument, fmt::format("--mask: {}: {}", path_, why)); }

  [[nodiscard]] std::int64_t number(const json& value, const char* what) const {
    if (!value.is_number_integer()) fail(fmt::format("slice {}: {} is not a whole number", index_, what));
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(unbounded))
      fail(fmt::format("slice {}: {} is larger than {}", index_, what, unbounded));
    const auto result = value.get<std::int64_t>();
    if (result < -unbounded || result > unbounded)
      fail(fmt::format("slice {}: {} is {}, want at most {} in size", index_, what, result, unbounded));
    return result;
  }

  void range(const json& value, const char* name, std::int64_t& first, std::int64_t& count) const {
    if (!value.contains(name) || !value.at(name).is_array() || value.at(name).size() != 2)
      fail(fmt::format("slice {}: '{}' is not [first, end]", index_, name));
    first = number(value.at(name)[0], name);
    const std::int64_t end = number(value.at(name)[1], name);
    if (first < 0 || end < first) fail(fmt::format("slice {}: '{}' is [{}, {}], want 0 <= first <= end", index_, name, first, end));
    count = end - first;
  }

  [[nodiscard]] BandSlice slice(const json& value) const {
    if (!value.is_object()) fail(fmt::format("slice {}: is not an object", index_));
    BandSlice slice;
    for (const auto& [key, ignored] : value.items()) {
      (void)ignored;
      if (key != "q" && key != "k" && key != "low" && key != "high" && key != "batch")
        fail(fmt::format("slice {}: '{}' is not known, want q, k, low, high, batch", index_, key));
    }
    range(value, "q", slice.q_first, slice.q_count);
    range(value, "k", slice.k_first, slice.k_count);
    if (value.contains("low")) slice.low = number(value.at("low"), "low");
    if (value.contains("high")) slice.high = number(value.at("high"), "high");
    if (value.contains("batch")) slice.batch = number(value.at("batch"), "batch");
    if (slice.batch < -1) fail(fmt::format("slice {}: batch is {}, want -1 (all) or a row", index_, slice.batch));
    return slice;
  }

  std::string path_;
  int index_ = 0;
};

/// Of a sequence whose length is not known yet.
constexpr std::int64_t any_length = unbounded;

Mask parse_slices(std::string_view term, std::string_view path, std::int64_t num_tokens) {
  std::vector<BandSlice> slices = SliceFile(std::string(path)).read();
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const std::int64_t q_end = slices[i].q_first + slices[i].q_count, k_end = slices[i].k_first + slices[i].k_count;
    if (std::max(q_end, k_end) > num_tokens)
      refuse(term, fmt::format("slices inside the {} tokens of the sequence: slice {} has q up to {} and k up to {}", num_tokens, i, q_end,
                               k_end));
  }
  return Mask::slices(std::move(slices));
}

Mask parse_term(std::string_view term, std::int64_t num_tokens) {
  const std::size_t colon = term.find(':');
  const std::string kind = resolve(mask_names(), term.substr(0, colon));
  const bool has_argument = colon != std::string_view::npos;
  const std::string_view argument = has_argument ? term.substr(colon + 1) : std::string_view{};
  if (kind == "full" || kind == "causal") {
    if (has_argument) refuse(term, fmt::format("'{}' without anything after it", kind));
    return kind == "full" ? Mask::full() : Mask::causal();
  }
  if (argument.empty())
    refuse(term, kind == "prefix"   ? "prefix:LEN"
                 : kind == "window" ? "window:LEFT,RIGHT"
                 : kind == "slices" ? "slices:FILE"
                                    : "documents:LEN,LEN,...");
  if (kind == "slices") return parse_slices(term, argument, num_tokens);

  std::vector<std::int64_t> numbers = parse_counts("--mask", argument);
  if (kind == "window") {
    if (numbers.size() != 2 || numbers[0] < -1 || numbers[1] < -1) refuse(term, "window:LEFT,RIGHT with numbers >= -1 (-1: no bound)");
    if (std::max(numbers[0], numbers[1]) >= num_tokens)
      refuse(term, fmt::format("bounds of at most {}, or -1 for none: beyond the {} tokens of the sequence a bound does nothing",
                               num_tokens - 1, num_tokens));
    return Mask::window(numbers[0], numbers[1]);
  }
  for (const std::int64_t number : numbers)
    if (number < 0) refuse(term, "lengths >= 0");
  if (kind == "documents") return Mask::documents(std::move(numbers));
  if (numbers.size() != 1) refuse(term, "prefix:LEN");
  if (numbers[0] > num_tokens)
    refuse(term, fmt::format("prefix:LEN of at most the {} tokens of the sequence; all of them is full", num_tokens));
  return Mask::prefix(numbers[0]);
}

}  // namespace

Mask parse_mask(std::string_view text) { return parse_mask(text, any_length); }

Mask parse_mask(std::string_view text, std::int64_t num_tokens) {
  Mask mask;
  std::vector<Mask> terms;
  bool has_prefix = false;
  for (std::size_t begin = 0;;) {
    const std::size_t plus = text.find('+', begin);
    const std::string_view term = text.substr(begin, plus - begin);
    terms.push_back(parse_term(term, num_tokens));
    has_prefix = has_prefix || resolve(mask_names(), term.substr(0, term.find(':'))) == "prefix";
    mask = mask & terms.back();
    if (plus == std::string_view::npos) break;
    begin = plus + 1;
  }
  if (terms.size() > 1 && std::ranges::find(terms, Mask::full()) != terms.end())
    refuse(text, "the other masks without the full one: joined by + a key is seen where all of them let it be seen");
  if (terms.size() > 1 && has_prefix && std::ranges::find(terms, Mask::causal()) != terms.end())
    refuse(text, "prefix:LEN without causal: it is causal behind the prefix, and with causal the prefix would do nothing");
  return mask;
}

}  // namespace seqccl::command
