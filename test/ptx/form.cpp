// form.cpp - takes the name of an instruction apart.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <utility>

#include "ptx/operation.hpp"

namespace ptx {

Type type_of(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, Type>, 21> types = {{
      {"pred", Type::pred},      {"b8", Type::b8},          {"u8", Type::unsigned8}, {"s8", Type::signed8},     {"b16", Type::b16},
      {"u16", Type::unsigned16}, {"s16", Type::signed16},   {"b32", Type::b32},      {"u32", Type::unsigned32}, {"s32", Type::signed32},
      {"b64", Type::b64},        {"u64", Type::unsigned64}, {"s64", Type::signed64}, {"f16", Type::f16},        {"bf16", Type::bf16},
      {"f32", Type::f32},        {"f64", Type::f64},        {"tf32", Type::tf32},    {"f16x2", Type::f16x2},    {"bf16x2", Type::bf16x2},
      {"b128", Type::b128},
  }};
  const auto* at = std::find_if(types.begin(), types.end(), [&](const auto& entry) { return entry.first == name; });
  return at == types.end() ? Type::none : at->second;
}

Form::Form(std::string_view opcode) : text(opcode) {
  std::size_t begin = 0;
  for (bool first = true;; first = false) {
    const std::size_t end = std::min(opcode.find('.', begin), opcode.size());
    const std::string_view part = opcode.substr(begin, end - begin);
    if (first) {
      base = part;
    } else {
      parts.push_back(part);
      if (const Type t = type_of(part); t != Type::none) other_type = std::exchange(type, t);
    }
    if (end == opcode.size()) break;
    begin = end + 1;
  }
  if (has("global") || has("const")) space = Space::global;
  if (has("shared") || has("shared::cta")) space = Space::shared;
  if (has("local")) space = Space::local;
  if (has("param") || has("param::entry") || has("param::func")) space = Space::parameter;
}

bool Form::has(std::string_view part) const { return std::find(parts.begin(), parts.end(), part) != parts.end(); }

void do_nothing(Warp&, const Instruction&, LaneMask) {}

Operation operation_of(const Form& form) {
  using Family = Operation (*)(const Form&);
  static constexpr Family families[] = {move_operation,    integer_operation,  bit_operation,     float_operation,  half_operation,
                                        special_operation, compare_operation,  convert_operation, memory_operation, atomic_operation,
                                        copy_operation,    exchange_operation, matrix_operation,  control_operation};
  for (const Family family : families) {
    if (Operation found = family(form)) return found;
  }
  return {};
}

}  // namespace ptx
