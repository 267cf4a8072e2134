// usage.cpp - finds the option that CLI11 complains about, and what was meant by it.
// SPDX-License-Identifier: Apache-2.0
#include "command/usage.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "command/names.hpp"

namespace seqccl::command {
namespace {

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* known : app.get_subcommands([](const CLI::App*) { return true; })) names.push_back(known->get_name());
  return names;
}

/// "run attention", or "seqccl" of the root.
std::string full_name(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  return parent == nullptr || parent->get_parent() == nullptr ? app.get_name() : full_name(*parent) + " " + app.get_name();
}

std::string unknown_option_text(const CLI::App& asked, const std::string& argument) {
  const std::string written = argument.substr(0, argument.find('='));
  std::vector<std::string> known;
  for (const CLI::Option* option : asked.get_options())
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  const std::string nearest = nearest_word(written, known);
  return fmt::format("{}: '{}' has no such option{}; --help lists them", written, full_name(asked),
                     nearest.empty() ? "" : fmt::format(" (did you mean '{}'?)", nearest));
}

/// The part before `end`; all if it is not there.
std::string before(const std::string& text, const std::string& end) { return text.substr(0, text.find(end)); }

}  // namespace

CLI::App& asked_subcommand(CLI::App& root, int argc, const char* const* argv) {
  CLI::App* app = &root;
  for (int i = 1; i < argc && argv[i][0] != '-'; ++i) {
    const std::string name = app == &root ? "subcommand" : full_name(*app);
    const Vocabulary words{name.c_str(), subcommand_names(*app), {}, {}};
    if (words.known.empty()) break;
    app = app->get_subcommand(resolve(words, argv[i]));
  }
  return *app;
}

void refuse_empty_values(CLI::App& root) {
  const CLI::Validator not_empty([](const std::string& text) { return std::string(text.empty() ? "is empty, want a value" : ""); }, "");
  for (CLI::App* app : root.get_subcommands([](CLI::App*) { return true; })) {
    for (CLI::Option* option : app->get_options())
      if (!option->get_positional()) option->check(not_empty);  // a program's own arguments may be empty
    refuse_empty_values(*app);
  }
}

std::string usage_text(const CLI::App& root, const CLI::App& asked, const CLI::ParseError& error) {
  const std::string what = error.what();
  const std::vector<std::string> rest = root.remaining(true);
  const auto option =
      std::find_if(rest.begin(), rest.end(), [](const std::string& each) { return each.size() > 1 && each[0] == '-' && each != "--"; });
  if (option != rest.end()) return unknown_option_text(asked, *option);  // also the cause if its right form is missed as required
  if (const auto names = subcommand_names(asked); !names.empty())
    return fmt::format("{}a subcommand is missing, want one of: {}", &asked == &root ? "" : full_name(asked) + ": ",
                       fmt::join(names, ", "));
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr)
    return fmt::format("{}: '{}' is not expected here, want options", full_name(asked), rest.front());
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr)
    return fmt::format("{}: is missing, '{}' needs it", before(what, " is required"), full_name(asked));
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr)
    return fmt::format("{}: {}", before(what, ":"),
                       what.find("received") != std::string::npos ? "is given more than once" : "a value is missing after it");
  return what;
}

}  // namespace seqccl::command
