// lexer.cpp - splits PTX text into tokens.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/lexer.hpp"

#include <bit>
#include <charconv>

namespace ptx {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '$' || c == '%' || c == '.'; }

class Lexer {
 public:
  Lexer(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  std::vector<Token> run() {
    std::vector<Token> tokens;
    for (;;) {
      skip_space();
      tokens.push_back(next());
      if (tokens.back().kind == Token::Kind::end) return tokens;
    }
  }

 private:
  [[nodiscard]] char at(std::size_t ahead = 0) const { return position_ + ahead < text_.size() ? text_[position_ + ahead] : '\0'; }
  [[noreturn]] void fail(const std::string& what) const { throw Error(file_ + ":" + std::to_string(line_) + ": " + what); }

  void skip_space() {
    while (position_ < text_.size()) {
      if (at() == '\n') {
        ++line_, ++position_;
      } else if (at() == ' ' || at() == '\t' || at() == '\r') {
        ++position_;
      } else if (at() == '/' && at(1) == '/') {
        while (position_ < text_.size() && at() != '\n') ++position_;
      } else if (at() == '/' && at(1) == '*') {
        const std::size_t end = text_.find("*/", position_ + 2);
        if (end == std::string_view::npos) fail("a comment does not end");
        for (; position_ < end + 2; ++position_) line_ += at() == '\n';
      } else {
        return;
      }
    }
  }

  Token next() {
    if (position_ == text_.size()) return {Token::Kind::end, {}, 0, line_};
    const std::size_t begin = position_;
    const auto token = [&](Token::Kind kind, u64 value = 0) { return Token{kind, text_.substr(begin, position_ - begin), value, line_}; };
    if (is_digit(at())) return number();
    if (is_letter(at())) {
      while (is_letter(at()) || is_digit(at()) || (at() == ':' && at(1) == ':')) position_ += at() == ':' ? 2 : 1;
      return token(Token::Kind::word);
    }
    if (at() == '"') {
      const std::size_t end = text_.find('"', begin + 1);
      if (end == std::string_view::npos) fail("a string does not end");
      position_ = end + 1;
      return {Token::Kind::string, text_.substr(begin + 1, end - begin - 1), 0, line_};
    }
    if (std::string_view("{}()[]<>,;:=+-!|@").find(at()) == std::string_view::npos)
      fail("unexpected character '" + std::string(1, at()) + "'");
    ++position_;
    return token(Token::Kind::mark);
  }

  Token number() {
    const std::size_t begin = position_;
    while (is_digit(at()) || (is_letter(at()) && at() != '%' && at() != '$')) ++position_;
    std::string_view text = text_.substr(begin, position_ - begin);
    Token token{Token::Kind::integer, text, 0, line_};
    if (text.find('.') != std::string_view::npos) {
      double value = 0;
      const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (problem != std::errc() || end != text.data() + text.size()) fail("malformed number '" + std::string(text) + "'");
      token.kind = Token::Kind::real;
      token.value = std::bit_cast<u64>(value);
      return token;
    }
    int base = 10;
    if (text.size() > 1 && text[0] == '0') {
      const char form = static_cast<char>(text[1] | 0x20);
      if (form == 'f' || form == 'd') {
        if (text.size() != (form == 'f' ? 10U : 18U)) fail("malformed number '" + std::string(text) + "'");
        token.kind = Token::Kind::real;
      }
      base = form == 'x' || form == 'f' || form == 'd' ? 16 : form == 'b' ? 2 : 8;
      text.remove_prefix(base == 8 ? 1 : 2);
    }
    if (!text.empty() && (text.back() == 'U' || text.back() == 'u')) text.remove_suffix(1);
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), token.value, base);
    if (problem != std::errc() || end != text.data() + text.size()) fail("malformed number '" + std::string(token.text) + "'");
    return token;
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t position_ = 0;
  u32 line_ = 1;
};

}  // namespace

std::vector<Token> tokens_of(std::string_view text, const std::string& file) { return Lexer(text, file).run(); }

}  // namespace ptx
