// usage.hpp - what is wrong with a command line, in the words and the one form that all errors of the command have.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace seqccl::command {

/// The innermost subcommand that the command line asks for. @throws Error(argument) if a word is not one, with the nearest that is
[[nodiscard]] CLI::App& asked_subcommand(CLI::App& root, int argc, const char* const* argv);

/// The shell puts "" for a variable that is not set: no option takes it in silence.
void refuse_empty_values(CLI::App& root);

/// What CLI11 found wrong, as "--option: what was written, what is wanted", with the nearest option to one that is not known.
[[nodiscard]] std::string usage_text(const CLI::App& root, const CLI::App& asked, const CLI::ParseError& error);

}  // namespace seqccl::command
