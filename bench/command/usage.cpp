// usage.cpp - finds the option that CLI11 complains about, and what was meant by it.
// SPDX-License-Identifier: Apache-2.0
#include "command/usage.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>
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

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

/// The subcommands that have the option.
void find_users(const CLI::App& app, const std::string& option, std::vector<std::string>& users) {
  for (const CLI::App* each : app.get_subcommands([](const CLI::App*) { return true; })) {
    const std::vector<std::string> names = option_names(*each);
    if (std::find(names.begin(), names.end(), option) != names.end()) users.push_back(full_name(*each));
    find_users(*each, option, users);
  }
}

/// Options that may have been meant, at most three: those that begin or end with what was written, else the least letters away.
std::vector<std::string> alike(const std::string& written, const std::vector<std::string>& known) {
  std::vector<std::pair<std::size_t, std::string>> near;
  for (const std::string& name : known) {
    const bool is_part = written.size() > 3 && (name.rfind(written, 0) == 0 || name.ends_with(written.substr(1)));
    const std::size_t distance = is_part ? 0 : edit_distance(written, name);
    if (distance <= written.size() / 2) near.emplace_back(distance, name);
  }
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> names;
  for (const auto& [distance, name] : near)
    if (names.size() < 3 && distance == near.front().first) names.push_back(fmt::format("'{}'", name));
  return names;
}

/// "; for example: seqccl info --json": the first example of --help, as one that is right.
std::string example_of(const CLI::App& app) {
  const std::string footer = app.get_footer(), name = app.get_parent() == nullptr ? "seqccl " : "seqccl " + full_name(app);
  const std::size_t begin = footer.find(name, footer.find("Examples:"));
  if (begin == std::string::npos) {
    const auto inner = app.get_subcommands([](const CLI::App*) { return true; });
    return inner.empty() ? std::string() : example_of(*inner.front());
  }
  std::string example = footer.substr(begin, footer.find('\n', begin) - begin);
  example.resize(std::min(example.size(), example.find("  #")));
  return "; for example: " + example;
}

std::string unknown_option_text(const CLI::App& root, const CLI::App& asked, const std::string& argument) {
  const std::string written = argument.substr(0, argument.find('='));
  const std::vector<std::string> near = alike(written, option_names(asked));
  std::string text = fmt::format("{}: '{}' has no such option", written, full_name(asked));
  if (!near.empty()) text += fmt::format(" (did you mean {}?)", fmt::join(near, " or "));
  std::vector<std::string> users;
  find_users(root, written, users);
  constexpr std::size_t most_users = 3;
  const std::size_t num_more = users.size() > most_users ? users.size() - most_users : 0;
  users.resize(users.size() - num_more);
  if (!users.empty())
    text += fmt::format(" ({}{} {} it)", fmt::join(users, ", "), num_more > 0 ? fmt::format(" and {} more", num_more) : "",
                        users.size() == 1 ? "has" : "have");
  return text + "; --help lists them" + example_of(asked);
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
  if (option != rest.end()) return unknown_option_text(root, asked, *option);  // also the cause if its right form is missed as required
  if (const auto names = subcommand_names(asked); !names.empty())
    return fmt::format("{}a subcommand is missing, want one of: {}{}", &asked == &root ? "" : full_name(asked) + ": ",
                       fmt::join(names, ", "), example_of(asked));
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr)
    return fmt::format("{}: '{}' is not expected here, want options{}", full_name(asked), rest.front(), example_of(asked));
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr)
    return fmt::format("{}: is missing, '{}' needs it{}", before(what, " is required"), full_name(asked), example_of(asked));
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr)
    return fmt::format("{}: {}{}", before(what, ":"),
                       what.find("received") != std::string::npos ? "is given more than once, want it once" : "a value is missing after it",
                       example_of(asked));
  return what;
}

}  // namespace seqccl::command
