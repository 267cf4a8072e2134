// number_option.cpp - options that take one number.
// SPDX-License-Identifier: Apache-2.0
#include "command/number_option.hpp"

namespace seqccl::command {

CLI::Option& add_parsed(CLI::App& app, const std::string& names,
                        std::function<void(const std::string& option, const std::string& text)> read, const std::string& help,
                        const std::string& kind, const std::string& standard) {
  const std::string option = names.substr(names.find(',') + 1);  // "-p,--ranks"
  const auto take = [read = std::move(read), option](const std::string& text) { read(option, text); };
  CLI::Option& added = *app.add_option_function<std::string>(names, take, help)->type_name(kind);
  if (!standard.empty()) added.default_str(standard);
  return added;
}

}  // namespace seqccl::command
