// names.cpp - the tables of words, and how a word that is not in them is answered.
// SPDX-License-Identifier: Apache-2.0
#include "command/names.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "seqccl/attention.hpp"
#include "seqccl/error.hpp"
#include "seqccl/linear_attention.hpp"

namespace seqccl::command {
namespace {

constexpr Alias method_aliases[] = {{"auto", "automatic"},
                                    {"ring_attention", "ring"},
                                    {"rsa", "ring"},
                                    {"kv_ring", "ring"},
                                    {"llama3_cp", "kv_all_gather"},
                                    {"all_gather_cp", "kv_all_gather"},
                                    {"kv_allgather", "kv_all_gather"},
                                    {"group_cast", "kv_all_gather"},
                                    {"ulysses", "head_swap"},
                                    {"deepspeed_ulysses", "head_swap"},
                                    {"tokenring", "token_ring"},
                                    {"lightseq", "balanced_helper"},
                                    {"distflashattn", "balanced_helper"},
                                    {"usp", "mesh"},
                                    {"loongtrain", "mesh"},
                                    {"longvila", "mesh"},
                                    {"mm_sp", "mesh"},
                                    {"burst_attention", "burst_backward"},
                                    {"burstattention", "burst_backward"},
                                    {"burst_engine", "double_ring"},
                                    {"burstengine", "double_ring"}};
constexpr Elsewhere not_methods[] = {{"decode", "bench decode"},
                                     {"tree_attention", "bench decode --merge tree"},
                                     {"helix", "bench decode --result by_heads"},
                                     {"context_pass", "bench context_pass"},
                                     {"star_attention", "bench context_pass --passed 0"},
                                     {"apb", "bench context_pass"},
                                     {"flexsp", "explain balance"},
                                     {"bytescale", "explain balance"}};
constexpr Alias merge_aliases[] = {{"auto", "automatic"}, {"tree_attention", "tree"}, {"helix", "all_to_all"}};
constexpr Alias kind_aliases[] = {
    {"lasp", "basic"},         {"linear", "basic"},    {"retnet", "constant_decay"}, {"lightning", "constant_decay"},
    {"mamba2", "scalar_gate"}, {"ssd", "scalar_gate"}, {"gla", "vector_gate"},       {"hgrn2", "vector_gate"},
    {"rwkv", "rwkv6"},         {"deltanet", "delta"},  {"delta_net", "delta"},       {"gated_deltanet", "gated_delta"},
    {"gdn", "gated_delta"},    {"kimi", "kda"}};
constexpr Alias scan_aliases[] = {{"lasp1", "chain"},          {"lasp", "chain"},           {"lasp2", "all_gather"},
                                  {"allgather", "all_gather"}, {"zeco", "pipelined_chain"}, {"kogge_stone", "doubling"}};
constexpr Alias partition_aliases[] = {{"head_tail", "zigzag"}, {"stripe", "striped"}};
constexpr Alias dtype_aliases[] = {{"float32", "f32"}, {"fp32", "f32"}, {"float16", "f16"},
                                   {"fp16", "f16"},    {"half", "f16"}, {"bfloat16", "bf16"}};
constexpr Alias wait_aliases[] = {{"automatic", "auto"}};
constexpr Alias transport_aliases[] = {{"processes", "shm"}, {"shared_memory", "shm"}};
constexpr Alias pattern_aliases[] = {{"sendrecv", "ring"}, {"allgather", "all_gather"}, {"alltoall", "all_to_all"}};
constexpr const char* later_transports[] = {"nccl"};

std::string folded(std::string_view word) {
  std::string result(word);
  for (char& letter : result) {
    if (letter == '-') letter = '_';
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return result;
}

std::vector<std::string> methods_here() {
  std::vector<std::string> names = seqccl::method_names();
  names.insert(names.begin(), {"automatic", "all"});
  return names;
}

std::vector<std::string> scans_here() {
  std::vector<std::string> names = scan_list();
  names.insert(names.begin(), "all");
  return names;
}

}  // namespace

std::vector<std::string> kind_list() {
  std::vector<std::string> names;
  for (int kind = 0; kind <= static_cast<int>(LinearKind::kda); ++kind) names.emplace_back(name(static_cast<LinearKind>(kind)));
  return names;
}

std::vector<std::string> scan_list() {
  std::vector<std::string> names;
  for (int scan = 0; scan <= static_cast<int>(Scan::hierarchical); ++scan) names.emplace_back(name(static_cast<Scan>(scan)));
  return names;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

std::string nearest_word(std::string_view word, const std::vector<std::string>& known) {
  std::string nearest;
  std::size_t nearest_distance = word.size() / 2 + 1;  // farther than half of the word is no likeness
  for (const std::string& name : known) {
    const std::size_t distance = edit_distance(word, name);
    if (distance >= nearest_distance) continue;
    nearest_distance = distance;
    nearest = name;
  }
  return nearest;
}

std::string resolve(const Vocabulary& vocabulary, std::string_view word) {
  const std::string asked = folded(word);
  if (std::find(vocabulary.known.begin(), vocabulary.known.end(), asked) != vocabulary.known.end()) return asked;
  for (const Alias& alias : vocabulary.aliases)
    if (asked == alias.word) return alias.means;
  for (const char* name : vocabulary.later)
    if (asked == name)
      throw Error(ErrorKind::argument, fmt::format("{}: '{}' is not there yet; this version has: {}", vocabulary.option, name,
                                                   fmt::join(vocabulary.known, ", ")));

  for (const Elsewhere& other : vocabulary.elsewhere)
    if (asked == other.word)
      throw Error(ErrorKind::argument,
                  fmt::format("{}: '{}' has a subcommand of its own: seqccl {}", vocabulary.option, asked, other.subcommand));

  std::vector<std::string> words = vocabulary.known;
  for (const Alias& alias : vocabulary.aliases) words.emplace_back(alias.word);
  const std::string nearest = nearest_word(asked, words);
  throw Error(ErrorKind::argument,
              fmt::format("{}: '{}' is not known; want one of: {}{}", vocabulary.option, word.substr(0, 60),
                          fmt::join(vocabulary.known, ", "), nearest.empty() ? "" : fmt::format(" (did you mean '{}'?)", nearest)));
}

const Vocabulary& choice_names() {
  static const Vocabulary words{"--method", methods_here(), method_aliases, {}, not_methods};
  return words;
}
const Vocabulary& kind_names() {
  static const Vocabulary words{"--kind", kind_list(), kind_aliases, {}};
  return words;
}
const Vocabulary& scan_names() {
  static const Vocabulary words{"--scan", scans_here(), scan_aliases, {}};
  return words;
}
const Vocabulary& partition_names() {
  static const Vocabulary words{"--partition", {"contiguous", "zigzag", "striped", "uneven"}, partition_aliases, {}};
  return words;
}
const Vocabulary& mask_names() {
  static const Vocabulary words{"--mask", {"full", "causal", "prefix", "window", "documents", "slices"}, {}, {}};
  return words;
}
const Vocabulary& dtype_names() {
  static const Vocabulary words{"--dtype", {"f32", "f16", "bf16"}, dtype_aliases, {}};
  return words;
}
const Vocabulary& cluster_names() {
  static const Vocabulary words{"--cluster", {"threads", "gpus"}, {}, {}};
  return words;
}
const Vocabulary& merge_names() {
  static const Vocabulary words{"--merge", {"automatic", "all", "butterfly", "tree", "all_to_all"}, merge_aliases, {}};
  return words;
}
const Vocabulary& result_names() {
  static const Vocabulary words{"--result", {"everywhere", "by_heads"}, {}, {}};
  return words;
}
const Vocabulary& wait_names() {
  static const Vocabulary words{"--wait", {"auto", "spin", "yield", "block"}, wait_aliases, {}};
  return words;
}
const Vocabulary& pattern_names() {
  static const Vocabulary words{"--pattern", {"all", "ping_pong", "all_gather", "all_to_all", "ring"}, pattern_aliases, {}};
  return words;
}
const Vocabulary& transport_names() {
  static const Vocabulary words{"--transport", {"threads", "shm", "ucx"}, transport_aliases, later_transports};
  return words;
}

}  // namespace seqccl::command
