// refusal.hpp - what the library refuses, in the words of the command line.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "seqccl/error.hpp"

namespace seqccl::command {

/// "AttentionSpec: head_groups is 3, ..." as "--head-groups: head_groups is 3, ...", "Mask::bind: ..." as "--mask: ...".
[[nodiscard]] std::string with_option(std::string_view what);

/// Why `validate()` refuses a problem, beginning with the option to change; empty if it does not.
template <class Validate>
[[nodiscard]] std::string refusal_of(Validate&& validate) {
  try {
    validate();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::argument) throw;
    return with_option(error.what());
  }
  return {};
}

}  // namespace seqccl::command
