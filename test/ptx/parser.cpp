// parser.cpp - recursive descent over the tokens of a PTX module.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/parser.hpp"

#include <algorithm>
#include <utility>

#include "ptx/lexer.hpp"

namespace ptx {
namespace {

using namespace syntax;
using Kind = Token::Kind;

u64 element_bytes(std::string_view type) {
  if (type == ".pred" || type.ends_with("8")) return 1;
  if (type.ends_with("16x2") || type.ends_with("32")) return 4;
  if (type.ends_with("16")) return 2;
  if (type.ends_with("64")) return 8;
  if (type.ends_with("128")) return 16;
  return 0;
}

class Parser {
 public:
  explicit Parser(Module& module) : module_(module), tokens_(tokens_of(module.text, module.file)) {}

  void run() {
    module_.sources.emplace_back();
    while (!now().is("end") && now().kind != Kind::end) top_level();
    for (std::string& source : module_.sources) name_file(source);
  }

 private:
  // --- tokens ---
  [[nodiscard]] const Token& now() const { return tokens_[position_]; }
  const Token& take() { return tokens_[position_ + 1 < tokens_.size() ? position_++ : position_]; }
  bool take_if(char mark) { return now().is(mark) && (take(), true); }
  bool take_if(std::string_view word) { return now().is(word) && (take(), true); }
  void expect(char mark) {
    if (!take_if(mark)) fail(std::string("expected '") + mark + "'");
  }
  std::string_view word(const char* what) {
    if (now().kind != Kind::word) fail(std::string("expected ") + what);
    return take().text;
  }
  u64 integer(const char* what) {
    if (now().kind != Kind::integer) fail(std::string("expected ") + what);
    return take().value;
  }
  [[noreturn]] void fail(const std::string& what) const {
    const std::string found = now().kind == Kind::end ? "the end of the file" : "'" + std::string(now().text) + "'";
    throw Error(module_.file + ":" + std::to_string(now().line) + ": " + what + ", found " + found);
  }

  // --- module ---
  void top_level() {
    if (take_if(".version")) {
      if (now().kind != Kind::real) fail("expected a version");
      take();
    } else if (take_if(".target")) {
      module_.target = word("a target");
      while (take_if(',')) word("a target");
    } else if (take_if(".address_size")) {
      if (integer("an address size") != 64) fail("only .address_size 64 is known; after it");
    } else if (now().is(".file") || now().is(".loc")) {
      place();
    } else if (take_if(".section")) {
      skip_section();
    } else if (take_if(".pragma")) {
      take(), expect(';');
    } else if (!take_if(';')) {
      definition();
    }
  }

  void skip_section() {
    while (!now().is('{') && now().kind != Kind::end) take();
    expect('{');
    for (int depth = 1; depth > 0; take()) {
      if (now().kind == Kind::end) fail("a section does not end");
      depth += now().is('{') - now().is('}');
    }
  }

  void definition() {
    bool external = false;
    while (now().is(".visible") || now().is(".extern") || now().is(".weak") || now().is(".common")) external |= take().text == ".extern";
    if (take_if(".entry")) return function(true);
    if (take_if(".func")) return function(false);
    variables(module_.variables, external);
  }

  // [.align n] .type name[size] = values, after the space
  Variable declarator(std::string_view space, u64 align, u64 bytes) {
    Variable v{.space = space, .align = align, .element_bytes = bytes, .line = now().line};
    v.name = word("a name");
    v.size_bytes = bytes;
    while (take_if('[')) {
      const u64 count = now().is(']') ? 0 : integer("a size");
      if (count > (u64{1} << 40) || v.size_bytes > (u64{1} << 40)) fail("a variable is too large; after it");
      v.size_bytes *= count;
      expect(']');
    }
    v.align = std::max(v.align, bytes);
    return v;
  }

  std::pair<u64, u64> alignment_and_type() {  // .align and .type in any order, .ptr .space .align n of a parameter
    u64 align = 1, bytes = 0;
    bool of_pointer = false;
    while (now().kind == Kind::word && now().text[0] == '.') {
      const std::string_view directive = take().text;
      if (directive == ".align") {
        const u64 n = integer("an alignment");
        if (n == 0 || (n & (n - 1)) != 0 || n > 4096) fail("an alignment must be a power of two; after it");
        if (!of_pointer) align = n;
      } else if (directive == ".ptr") {
        of_pointer = true;
      } else if (const u64 size = element_bytes(directive); size > 0) {
        bytes = size;
      } else if (!of_pointer) {
        fail("unknown type or directive '" + std::string(directive) + "' before");
      }
    }
    if (bytes == 0) fail("expected a type");
    return {align, bytes};
  }

  void variables(std::vector<Variable>& into, bool external) {
    const std::string_view space = word("a directive").substr(1);
    if (space != "global" && space != "const" && space != "shared" && space != "local" && space != "param")
      --position_, fail("unknown directive");
    const auto [align, bytes] = alignment_and_type();
    do {
      Variable v = declarator(space, align, bytes);
      v.external = external;
      if (take_if('=')) values(v.values);
      into.push_back(std::move(v));
    } while (take_if(','));
    expect(';');
  }

  void values(std::vector<Value>& into) {
    if (take_if('{')) {
      if (take_if('}')) return;
      do values(into);
      while (take_if(','));
      return expect('}');
    }
    Value v;
    if (now().kind == Kind::word) {
      v.generic = now().text == "generic";
      v.symbol = take().text;
      if (v.generic) expect('('), v.symbol = word("a name"), expect(')');
      if (take_if('+')) v.number = integer("a number");
    } else {
      v.number = number();
    }
    into.push_back(v);
  }

  u64 number() {
    const bool minus = take_if('-');
    if (now().kind != Kind::integer && now().kind != Kind::real) fail("expected a number");
    const u64 value = take().value;
    return minus ? u64{0} - value : value;
  }

  std::vector<Variable> parameters() {
    std::vector<Variable> list;
    expect('(');
    if (take_if(')')) return list;
    do {
      if (!take_if(".param")) fail("expected .param");
      const auto [align, bytes] = alignment_and_type();
      list.push_back(declarator("param", align, bytes));
    } while (take_if(','));
    expect(')');
    return list;
  }

  void function(bool is_kernel) {
    Function f{.is_kernel = is_kernel, .line = now().line};
    if (now().is('(')) f.returns = parameters();
    f.name = word("the name of a function");
    if (now().is('(')) f.parameters = parameters();
    while (now().kind == Kind::word) tuning(f);
    if (now().is('{')) {
      f.has_body = true;
      body(f.body);
    } else {
      expect(';');
    }
    module_.functions.push_back(std::move(f));
  }

  void tuning(Function& f) {  // .maxntid 128, 1, 1 and the like
    const std::string_view directive = take().text;
    static constexpr std::string_view known[] = {".maxntid",  ".reqntid",         ".minnctapersm", ".maxnctapersm",      ".maxnreg",
                                                 ".noreturn", ".explicitcluster", ".pragma",       ".reqnctapercluster", ".abi_preserve"};
    if (std::find(std::begin(known), std::end(known), directive) == std::end(known)) --position_, fail("unknown directive of a function");
    u32 values[3] = {1, 1, 1};
    for (int n = 0; now().kind == Kind::integer || now().kind == Kind::string; ++n) {
      if (n < 3) values[n] = static_cast<u32>(now().value);
      take();
      if (!take_if(',')) break;
    }
    if (directive == ".pragma") take_if(';');
    if (directive == ".maxntid" || directive == ".reqntid") {
      std::copy_n(values, 3, f.max_threads);
      f.exact_threads = directive == ".reqntid";
    }
  }

  // --- statements ---
  void body(std::vector<Statement>& into) {
    int depth = 0;
    do {
      if (take_if('{')) {
        if (++depth > 256) fail("scopes are nested too deeply");
        into.emplace_back(ScopeBegin{});
      } else if (take_if('}')) {
        --depth, into.emplace_back(ScopeEnd{});
      } else {
        statement(into);
      }
    } while (depth > 0);
  }

  void statement(std::vector<Statement>& into) {
    if (take_if(';')) return;
    if (now().is(".loc") || now().is(".file")) return place();
    if (take_if(".pragma")) return take(), expect(';');
    if (take_if(".reg")) return registers(into);
    if (now().kind == Kind::word && now().text[0] == '.') {
      std::vector<Variable> found;
      variables(found, false);
      for (Variable& v : found) into.emplace_back(std::move(v));
      return;
    }
    if (now().kind == Kind::word && tokens_[position_ + 1].is(':')) {
      Label label{.name = take().text, .targets = {}};
      take();
      if (take_if(".branchtargets")) {
        do label.targets.push_back(word("a label"));
        while (take_if(','));
        expect(';');
      }
      into.emplace_back(std::move(label));
      return;
    }
    into.emplace_back(instruction());
  }

  void registers(std::vector<Statement>& into) {
    const std::string_view type = word("a type");
    if (element_bytes(type) == 0) --position_, fail("unknown type of a register");
    do {
      Registers r{.type = type.substr(1), .name = word("a register")};
      if (take_if('<')) {
        const u64 count = integer("a number of registers");
        if (count == 0 || count > 1'000'000) fail("a strange number of registers; after it");
        r.count = static_cast<u32>(count);
        expect('>');
      }
      into.emplace_back(r);
    } while (take_if(','));
    expect(';');
  }

  Instruction instruction() {
    Instruction i{.line = now().line, .source = source_};
    if (take_if('@')) {
      i.guard_negated = take_if('!');
      i.guard = word("a predicate");
    }
    i.line = now().line;
    i.opcode = word("an instruction");
    if (!now().is(';')) {
      do i.operands.push_back(operand(0));
      while (take_if(','));
    }
    expect(';');
    return i;
  }

  Operand operand(int depth) {
    if (depth > 8) fail("operands are nested too deeply");
    Operand o;
    const auto parts_until = [&](char end) {
      if (take_if(end)) return;
      do o.parts.push_back(operand(depth + 1));
      while (take_if(','));
      expect(end);
    };
    if (take_if('{')) {
      o.kind = Operand::Kind::vector;
      parts_until('}');
    } else if (take_if('(')) {
      o.kind = Operand::Kind::list;
      parts_until(')');
    } else if (take_if('[')) {
      o = operand(depth + 1);
      if (o.kind != Operand::Kind::name && o.kind != Operand::Kind::integer) fail("expected an address before");
      Operand address{.kind = Operand::Kind::address, .value = std::exchange(o.value, 0)};
      if (o.kind == Operand::Kind::integer) std::swap(o.value, address.value);
      address.parts.push_back(std::move(o));
      expect(']');
      return address;
    } else if (now().kind == Kind::word || now().is('!')) {
      o.negated = take_if('!');
      o.name = word("an operand");
      if (take_if('+')) {
        const bool minus = take_if('-');
        const u64 offset = integer("an offset");
        o.value = minus ? u64{0} - offset : offset;
      } else if (take_if('-')) {
        o.value = u64{0} - integer("an offset");
      } else if (take_if('|')) {
        Operand both{.kind = Operand::Kind::pair};
        both.parts.push_back(std::move(o));
        both.parts.push_back(operand(depth + 1));
        return both;
      }
    } else {
      const bool real = now().kind == Kind::real;
      o.kind = real ? Operand::Kind::real : Operand::Kind::integer;
      o.value = number();
    }
    return o;
  }

  // --- .file and .loc ---
  void place() {
    if (take_if(".file")) {
      const u64 number = integer("the number of a file");
      if (now().kind != Kind::string) fail("expected the name of a file");
      const std::string_view path = take().text;
      files_[number] = path.substr(path.rfind('/') + 1);
      while (take_if(',')) integer("a number");
      return;
    }
    take();
    const u64 file = integer("the number of a file"), line = integer("a line");
    integer("a column");
    while (take_if(',')) {  // function_name label+offset, inlined_at file line column
      const std::string_view what = word("function_name or inlined_at");
      if (what == "function_name") {
        word("a label");
        if (take_if('+')) integer("an offset");
      } else {
        for (int n = 0; n < 3; ++n) integer("a number");
      }
    }
    const auto [at, fresh] = source_of_.try_emplace({file, line}, static_cast<u32>(module_.sources.size()));
    if (fresh) module_.sources.push_back(std::to_string(file) + ":" + std::to_string(line));
    source_ = at->second;
  }

  void name_file(std::string& source) const {  // .file comes after the .loc that use it
    if (source.empty()) return;
    const std::size_t colon = source.find(':');
    const auto at = files_.find(std::stoull(source.substr(0, colon)));
    if (at != files_.end()) source = std::string(at->second) + source.substr(colon);
  }

  Module& module_;
  std::vector<Token> tokens_;
  std::size_t position_ = 0;
  u32 source_ = 0;
  std::map<u64, std::string_view> files_;
  std::map<std::pair<u64, u64>, u32> source_of_;
};

}  // namespace

std::unique_ptr<const Module> parse(std::string text, std::string file) {
  auto module = std::make_unique<Module>();
  module->file = std::move(file);
  module->text = std::move(text);
  const std::string_view all = module->text;
  for (std::size_t begin = 0; begin <= all.size();) {
    const std::size_t end = std::min(all.find('\n', begin), all.size());
    module->lines.push_back(all.substr(begin, end - begin));
    begin = end + 1;
  }
  Parser(*module).run();
  return module;
}

}  // namespace ptx
