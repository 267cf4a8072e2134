// names.hpp - words that the command knows: names, published aliases, and names that a later version brings.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace seqccl::command {

/// A word that may be said, and what it means.
struct Alias {
  const char* word;
  const char* means;
};

/// A word that belongs to another subcommand.
struct Elsewhere {
  const char* word;
  const char* subcommand;
};

/// The words of one option. `later`: names that are planned; asking for them is answered with "not yet".
struct Vocabulary {
  const char* option;  // "--method"
  std::vector<std::string> known;
  std::span<const Alias> aliases;  // published names
  std::span<const char* const> later;
  std::span<const Elsewhere> elsewhere{};
};

/// The known name that `word` means; '-' counts as '_', capitals as small letters.
/// @throws Error(argument): "not yet" for later names, else the list of names and the nearest one
[[nodiscard]] std::string resolve(const Vocabulary& vocabulary, std::string_view word);

/// The known word that is the least letters away from `word`; empty if none is alike.
[[nodiscard]] std::string nearest_word(std::string_view word, const std::vector<std::string>& known);

/// Number of letters to insert, remove or replace to get from `a` to `b`.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

[[nodiscard]] const Vocabulary& choice_names();  // --method, with "automatic" and "all"
[[nodiscard]] const Vocabulary& kind_names();
[[nodiscard]] std::vector<std::string> kind_list();
[[nodiscard]] const Vocabulary& scan_names();  // with "all"
[[nodiscard]] std::vector<std::string> scan_list();
[[nodiscard]] const Vocabulary& partition_names();
[[nodiscard]] const Vocabulary& mask_names();
[[nodiscard]] const Vocabulary& dtype_names();
[[nodiscard]] const Vocabulary& transport_names();
[[nodiscard]] const Vocabulary& wait_names();
[[nodiscard]] const Vocabulary& pattern_names();  // of bench exchange, with "all"
[[nodiscard]] const Vocabulary& cluster_names();
[[nodiscard]] const Vocabulary& merge_names();  // with "automatic" and "all"
[[nodiscard]] const Vocabulary& result_names();

}  // namespace seqccl::command
