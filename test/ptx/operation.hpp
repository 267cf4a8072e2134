// operation.hpp - from the name of an instruction to what it does.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include "ptx/program.hpp"

namespace ptx {

enum class Type : u8 {
  none,
  pred,
  b8,
  unsigned8,
  signed8,
  b16,
  unsigned16,
  signed16,
  b32,
  unsigned32,
  signed32,
  b64,
  unsigned64,
  signed64,
  f16,
  bf16,
  f32,
  f64,
  f16x2,
  bf16x2,
  tf32,
  b128
};
[[nodiscard]] Type type_of(std::string_view name);

/// "ld.global.nc.v4.u32" in parts.
struct Form {
  explicit Form(std::string_view opcode);

  std::string_view text, base;
  std::vector<std::string_view> parts;  // after the base
  Type type = Type::none;               // the last part that is a type
  Type other_type = Type::none;         // the one before it
  Space space = Space::generic;

  [[nodiscard]] bool has(std::string_view part) const;
};

/// What an instruction of some form does. `fields` has everything but operands; `writes` and `reads` count their registers.
struct Operation {
  Instruction fields;
  int writes = 1, reads = 1, optional_reads = 0;
  int member = -1;          // which of the read registers is the member mask
  bool may_negate = false;  // predicate operands may be !p
  explicit operator bool() const { return fields.execute != nullptr; }
};

/// The one of all families; empty if none knows the form.
[[nodiscard]] Operation operation_of(const Form& form);

/// An operation without effect on registers: control flow is the scheduler's.
void do_nothing(Warp&, const Instruction&, LaneMask);

// One per file; an empty Operation if the form is not of that family.
[[nodiscard]] Operation move_operation(const Form& form);
[[nodiscard]] Operation integer_operation(const Form& form);
[[nodiscard]] Operation bit_operation(const Form& form);
[[nodiscard]] Operation float_operation(const Form& form);
[[nodiscard]] Operation half_operation(const Form& form);
[[nodiscard]] Operation special_operation(const Form& form);
[[nodiscard]] Operation compare_operation(const Form& form);
[[nodiscard]] Operation convert_operation(const Form& form);
[[nodiscard]] Operation memory_operation(const Form& form);
[[nodiscard]] Operation atomic_operation(const Form& form);
[[nodiscard]] Operation copy_operation(const Form& form);
[[nodiscard]] Operation exchange_operation(const Form& form);
[[nodiscard]] Operation matrix_operation(const Form& form);
[[nodiscard]] Operation control_operation(const Form& form);

}  // namespace ptx
