// number_option.hpp - options that take one number: read, shown in --help and refused in one way.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>

#include "command/options.hpp"

namespace seqccl::command {

/// An option whose text `read` takes; it gets the option's long name too, for its errors. `standard`: the default, empty if there is none.
CLI::Option& add_parsed(CLI::App& app, const std::string& names,
                        std::function<void(const std::string& option, const std::string& text)> read, const std::string& help,
                        const std::string& kind, const std::string& standard);

/// A whole number from `low` to `high`, k, m, g mean 2^10, 2^20, 2^30. A `value` below `low` stands for "not given" and is no default.
template <class Integer>
CLI::Option& add_count(CLI::App& app, const std::string& names, Integer& value, const std::string& help, std::int64_t low,
                       std::int64_t high) {
  const auto read = [&value, low, high](const std::string& option, const std::string& text) {
    value = static_cast<Integer>(parse_count(option, text, low, high));
  };
  return add_parsed(app, names, read, help, "COUNT", value >= low ? count_text(value) : std::string());
}

/// A number from `low` to `high`; `want` says so in words. As with counts, a `value` below `low` is no default.
template <class Real>
CLI::Option& add_number(CLI::App& app, const std::string& names, Real& value, const std::string& help, double low, double high,
                        const std::string& want) {
  const auto read = [&value, low, high, want](const std::string& option, const std::string& text) {
    value = static_cast<Real>(parse_number(option, text, low, high, want));
  };
  return add_parsed(app, names, read, help, "NUMBER", number_text(value, low));
}

}  // namespace seqccl::command
