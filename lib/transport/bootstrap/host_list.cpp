// host_list.cpp - reads Slurm's brackets.
// SPDX-License-Identifier: Apache-2.0
#include "host_list.hpp"

SEQCCL_BEGIN
namespace bootstrap {

namespace {

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

/// The first number of "03-07,9"; empty if the text between the brackets is anything but numbers, '-' and ','.
std::string_view first_number(std::string_view inside) noexcept {
  std::size_t length = 0;
  while (length < inside.size() && is_digit(inside[length])) ++length;
  for (const char c : inside)
    if (!is_digit(c) && c != '-' && c != ',') return {};
  return inside.substr(0, length);
}

}  // namespace

std::string first_host(std::string_view list) {
  std::string host;
  for (std::size_t i = 0; i < list.size() && list[i] != ','; ++i) {
    const char c = list[i];
    if (c != '[') {
      const bool is_part_of_name = is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.' || c == '_';
      if (!is_part_of_name) return {};
      host += c;
      continue;
    }
    const std::size_t end = list.find(']', i);
    if (end == std::string_view::npos) return {};
    const std::string_view number = first_number(list.substr(i + 1, end - i - 1));
    if (number.empty()) return {};
    host += number;
    i = end;
  }
  return host;
}

}  // namespace bootstrap
SEQCCL_END
