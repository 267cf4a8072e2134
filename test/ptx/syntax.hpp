// syntax.hpp - a PTX module as it is written: functions, variables, statements.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ptx/types.hpp"

namespace ptx::syntax {

// All names point into the text of the Module.

struct Operand {
  enum class Kind : u8 {
    name,     // register, variable, label or function; `value` is added to its address
    integer,  // value
    real,     // value: the bits
    vector,   // {a, b}: parts
    address,  // [base + value]: parts has the base (a name or an integer)
    list,     // (a, b) of a call: parts
    pair,     // p|q: parts
  };
  Kind kind = Kind::name;
  bool negated = false;  // !p
  std::string_view name;
  u64 value = 0;
  std::vector<Operand> parts;
};

struct Instruction {
  std::string_view opcode;  // with all modifiers
  std::string_view guard;   // predicate, or empty
  bool guard_negated = false;
  std::vector<Operand> operands;
  u32 line = 0;
  u32 source = 0;  // index into Module::sources, 0: unknown
};

struct Value {
  u64 number = 0;
  std::string_view symbol;  // its address is added
  bool generic = false;     // generic(symbol)
};

struct Variable {
  std::string_view space;  // "shared", "local", "global", "const", "param"
  std::string_view name;
  u64 align = 1;
  u64 element_bytes = 1;
  u64 size_bytes = 0;  // 0: name[], dynamic shared memory
  std::vector<Value> values;
  bool external = false;
  u32 line = 0;
};

struct Registers {  // .reg .type name<count>, or one register
  std::string_view type;
  std::string_view name;
  u32 count = 0;  // 0: one register called `name`; else name0 ... name(count - 1)
};

struct Label {
  std::string_view name;
  std::vector<std::string_view> targets;  // .branchtargets
};
struct ScopeBegin {};
struct ScopeEnd {};

using Statement = std::variant<Instruction, Registers, Variable, Label, ScopeBegin, ScopeEnd>;

struct Function {
  std::string_view name;
  bool is_kernel = false;
  bool has_body = false;
  std::vector<Variable> returns, parameters;
  std::vector<Statement> body;
  u32 max_threads[3] = {0, 0, 0};  // .maxntid or .reqntid, 0: not said
  bool exact_threads = false;      // .reqntid
  u32 line = 0;
};

struct Module {
  std::string file;
  std::string text;
  std::string_view target;           // "sm_80"
  std::vector<Variable> variables;   // of the whole module
  std::vector<Function> functions;   // kernels and device functions
  std::vector<std::string> sources;  // "attend.cu:12" for .loc; [0] is empty
  std::vector<std::string_view> lines;
};

}  // namespace ptx::syntax
