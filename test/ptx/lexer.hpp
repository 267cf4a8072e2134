// lexer.hpp - splits PTX text into words, numbers, strings and marks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include "ptx/types.hpp"

namespace ptx {

struct Token {
  enum class Kind : u8 {
    word,     // opcode with its modifiers, directive, register, label: letters, digits and . _ $ % ::
    integer,  // 12, 0x1f, 017, 0b101, each with an optional U
    real,     // 0f3F800000, 0d...: the bits; or 1.5: the bits of the double
    string,   // without its quotes
    mark,     // one of { } ( ) [ ] < > , ; : = + - ! | @
    end,
  };
  Kind kind = Kind::end;
  std::string_view text;
  u64 value = 0;
  u32 line = 0;

  [[nodiscard]] bool is(char mark) const { return kind == Kind::mark && text[0] == mark; }
  [[nodiscard]] bool is(std::string_view word) const { return kind == Kind::word && text == word; }
};

/// The tokens of `text`, the last one of kind end. They point into `text`. Error names `file` and the line.
[[nodiscard]] std::vector<Token> tokens_of(std::string_view text, const std::string& file);

}  // namespace ptx
