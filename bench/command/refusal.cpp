// refusal.cpp - fields of the library's specs and the options that set them.
// SPDX-License-Identifier: Apache-2.0
#include "command/refusal.hpp"

#include <fmt/format.h>

#include "command/names.hpp"

namespace seqccl::command {
namespace {

constexpr Alias field_options[] = {{"backward", "--burst"},
                                   {"mesh", "--mesh"},
                                   {"head_groups", "--head-groups"},
                                   {"partials_in_dtype", "--partials-in-dtype"},
                                   {"partition", "--partition"},
                                   {"scale", "--scale"},
                                   {"softcap", "--softcap"},
                                   {"dtype", "--dtype"},
                                   {"column_blocks", "--column-blocks"},
                                   {"ranks_per_node", "--ranks-per-node"},
                                   {"documents", "--documents"},
                                   {"causal", "--not-causal"}};

}  // namespace

std::string with_option(std::string_view what) {
  constexpr std::string_view mask = "Mask::bind: ", spec = "Spec: ";
  if (what.substr(0, mask.size()) == mask) return fmt::format("--mask: {}", what.substr(mask.size()));
  const std::size_t begin = what.find(spec);
  if (begin == std::string_view::npos) return std::string(what);
  const std::string_view rest = what.substr(begin + spec.size()), field = rest.substr(0, rest.find(' '));
  for (const Alias& known : field_options)
    if (field == known.word) return fmt::format("{}: {}", known.means, rest);
  return std::string(rest);
}

}  // namespace seqccl::command
