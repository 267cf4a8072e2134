// decoder.cpp - names become slots, labels become targets, instructions become functions.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/decoder.hpp"

#include <algorithm>
#include <set>

#include "ptx/call.hpp"
#include "ptx/specials.hpp"

namespace ptx {
namespace {

using syntax::Operand;

u64 aligned_up(u64 value, u64 align) { return (value + align - 1) / align * align; }

struct Symbol {
  Space space = Space::generic;
  u64 address = 0, size_bytes = 0;
};
struct Range {
  u32 first = 0, count = 0;  // count 0: a single register
};
struct Scope {
  std::map<std::string_view, Range> registers;
  std::map<std::string_view, Symbol> symbols;
  std::map<std::string_view, u32> labels;
  std::map<std::string_view, u32> tables;
  int parent = -1;
};
struct Callee {
  const syntax::Function* text = nullptr;
  u32 number = 0, entry = 0;
  int scope = -1;  // of its parameters
  std::set<std::string_view> calls;
};
struct Jump {
  std::size_t instruction = 0;
  std::string_view label;
  int scope = 0;
  u32 line = 0;
};

class Decoder {
 public:
  Decoder(const syntax::Module& module, const syntax::Function& kernel, const std::map<std::string_view, u64>& globals)
      : module_(module), text_(kernel) {
    made_->name = kernel.name;
    made_->module = &module;
    made_->exact_threads = kernel.exact_threads;
    std::copy_n(kernel.max_threads, 3, made_->max_threads);
    Scope outer;
    for (const auto& [name, address] : globals) outer.symbols[name] = {Space::global, address, 0};
    scopes_.push_back(std::move(outer));
    for (const syntax::Variable& v : module.variables) {
      if (v.space == "shared") place_shared(v, scopes_[0]);
    }
  }

  std::unique_ptr<const Kernel> run() {
    Scope& inner = scopes_.emplace_back();
    inner.parent = 0;
    for (const syntax::Variable& v : text_.parameters) {
      const u64 at = aligned_up(made_->parameter_bytes, v.align);
      inner.symbols[v.name] = {Space::parameter, at, v.size_bytes};
      made_->parameters.push_back({at, v.size_bytes});
      made_->parameter_bytes = at + v.size_bytes;
    }
    body(text_, 1, nullptr);
    for (std::size_t n = 0; n < queue_.size(); ++n) {  // calls add to it
      Callee& callee = callees_.at(queue_[n]);
      callee.entry = static_cast<u32>(made_->code.size());
      body(*callee.text, callee.scope, &callee);
    }
    refuse_recursion();
    resolve();
    made_->static_shared_bytes = aligned_up(made_->static_shared_bytes, made_->dynamic_shared_align);
    for (const auto& [slot, name] : dynamic_) made_->constants[slot].second += made_->static_shared_bytes;
    made_->num_functions = static_cast<u32>(queue_.size());
    return std::move(made_);
  }

 private:
  [[noreturn]] void fail(u32 line, const std::string& what) const { throw Error(module_.file + ":" + std::to_string(line) + ": " + what); }

  // --- variables ---
  void place_shared(const syntax::Variable& v, Scope& scope) {
    if (v.size_bytes == 0) {  // behind all static ones; where that is we know at the end
      made_->dynamic_shared_align = std::max(made_->dynamic_shared_align, v.align);
      dynamic_names_.insert(v.name);
      scope.symbols[v.name] = {Space::shared, 0, 0};
      return;
    }
    const u64 at = aligned_up(made_->static_shared_bytes, v.align);
    scope.symbols[v.name] = {Space::shared, at, v.size_bytes};
    made_->static_shared_bytes = at + v.size_bytes;
  }

  void place_frame(const syntax::Variable& v, Scope& scope) {
    const u64 at = aligned_up(made_->frame_bytes, v.align);
    scope.symbols[v.name] = {v.space == "local" ? Space::local : Space::frame, at, v.size_bytes};
    made_->frame_bytes = at + v.size_bytes;
    if (made_->frame_bytes > (u64{1} << 24)) fail(v.line, "the local variables are larger than any device has");
  }

  // --- statements ---
  void body(const syntax::Function& f, int scope, Callee* callee) {
    callee_ = callee;
    scope_ = scope;
    for (const syntax::Statement& statement : f.body) {
      if (std::holds_alternative<syntax::ScopeBegin>(statement)) {
        scopes_.emplace_back().parent = scope_;
        scope_ = static_cast<int>(scopes_.size()) - 1;
      } else if (std::holds_alternative<syntax::ScopeEnd>(statement)) {
        scope_ = here().parent;
      } else if (const auto* registers = std::get_if<syntax::Registers>(&statement)) {
        here().registers[registers->name] = {new_slots(std::max(registers->count, 1U)), registers->count};
      } else if (const auto* variable = std::get_if<syntax::Variable>(&statement)) {
        if (variable->space == "shared") {
          place_shared(*variable, here());
        } else if (variable->space == "local" || variable->space == "param") {
          place_frame(*variable, here());
        } else {
          fail(variable->line, "a ." + std::string(variable->space) + " variable within a function");
        }
      } else if (const auto* label = std::get_if<syntax::Label>(&statement)) {
        define(*label);
      } else {
        instruction(std::get<syntax::Instruction>(statement));
      }
    }
    syntax::Instruction end{.opcode = "ret", .guard = {}, .operands = {}, .line = f.line};
    if (!f.body.empty()) instruction(end);
  }

  [[nodiscard]] Scope& here() { return scopes_[static_cast<std::size_t>(scope_)]; }

  u32 new_slots(u32 count) {
    const u32 first = made_->num_slots;
    made_->num_slots += count;
    if (made_->num_slots > 4'000'000) throw Error(module_.file + ": more registers than this interpreter holds");
    return first;
  }

  void define(const syntax::Label& label) {
    if (label.targets.empty()) {
      here().labels[label.name] = static_cast<u32>(made_->code.size());
      return;
    }
    here().tables[label.name] = static_cast<u32>(made_->branch_tables.size());
    made_->branch_tables.emplace_back(label.targets.size());
    for (std::size_t n = 0; n < label.targets.size(); ++n)
      table_jumps_.push_back({made_->branch_tables.size() - 1, n, label.targets[n], scope_});
  }

  template <class Found, class Map>
  const Found* find(Map Scope::*map, std::string_view name, int scope) const {
    for (; scope >= 0; scope = scopes_[static_cast<std::size_t>(scope)].parent) {
      const auto& entries = scopes_[static_cast<std::size_t>(scope)].*map;
      if (const auto at = entries.find(name); at != entries.end()) return &at->second;
    }
    return nullptr;
  }

  // --- operands ---
  u32 constant(u64 value) {
    const auto [at, fresh] = constant_slot_.try_emplace(value, 0);
    if (fresh) at->second = add_constant(value);
    return at->second;
  }
  u32 add_constant(u64 value) {
    made_->constants.emplace_back(new_slots(1), value);
    return made_->constants.back().first;
  }

  u32 register_or_constant(const Operand& o, u32 line) {
    if (o.kind == Operand::Kind::integer || o.kind == Operand::Kind::real) return constant(o.value);
    if (o.kind != Operand::Kind::name) fail(line, "an operand of this form is not known here");
    if (const Range* single = find<Range>(&Scope::registers, o.name, scope_); single != nullptr && single->count == 0) return single->first;
    std::size_t digits = o.name.size();
    while (digits > 0 && o.name[digits - 1] >= '0' && o.name[digits - 1] <= '9') --digits;
    if (digits < o.name.size() && o.name.size() - digits < 8) {
      const auto number = static_cast<u32>(std::stoul(std::string(o.name.substr(digits))));
      const Range* range = find<Range>(&Scope::registers, o.name.substr(0, digits), scope_);
      if (range != nullptr && number < range->count) return range->first + number;
    }
    if (o.name == "_") return sink_ != 0 ? sink_ : sink_ = new_slots(1);
    if (o.name == "WARP_SZ") return constant(num_lanes);
    if (const Symbol* symbol = find<Symbol>(&Scope::symbols, o.name, scope_)) {
      const u64 value = symbol->address + o.value;
      if (symbol->space != Space::shared || !dynamic_names_.contains(o.name)) return constant(value);
      const u32 slot = add_constant(value);
      dynamic_.emplace_back(made_->constants.size() - 1, o.name);
      return slot;
    }
    if (const auto special = special_of(o.name)) {
      const auto [at, fresh] = special_slot_.try_emplace(*special, 0);
      if (fresh) {
        at->second = new_slots(1);
        made_->specials.emplace_back(at->second, *special);
      }
      return at->second;
    }
    fail(line, "unknown name '" + std::string(o.name) + "'");
  }

  // --- instructions ---
  void instruction(const syntax::Instruction& text) {
    const Form form(text.opcode);
    if (form.base == "call") return call(text);
    std::vector<u32> slots;
    std::vector<s64> offsets;
    bool negated = false, in_frame = form.space == Space::parameter && callee_ != nullptr;
    int pairs = 0;
    const auto add = [&](const Operand& o) {
      negated |= o.negated;
      slots.push_back(register_or_constant(o, text.line));
    };
    const bool is_jump = form.base == "bra" || form.base == "brx";
    for (const Operand& o : text.operands) {
      if (is_jump && &o == &text.operands.back()) break;
      if (o.kind == Operand::Kind::vector || o.kind == Operand::Kind::pair) {
        for (const Operand& part : o.parts) add(part);
        pairs += o.kind == Operand::Kind::pair;
      } else if (o.kind == Operand::Kind::address) {
        add(o.parts[0]);
        offsets.push_back(static_cast<s64>(o.value));
        const Symbol* symbol = find<Symbol>(&Scope::symbols, o.parts[0].name, scope_);
        in_frame |= symbol != nullptr && symbol->space == Space::frame;
      } else {
        add(o);
      }
    }
    Form placed = form;
    if (in_frame) placed.space = Space::frame;
    const std::size_t to_parts = parts_of(text, 0), from_parts = parts_of(text, 1);
    if (form.base == "mov" && to_parts + from_parts > 0) placed.base = to_parts > 0 ? "mov.unpack" : "mov.pack";
    Operation operation = operation_of(placed);
    if (placed.base == "mov.unpack" || placed.base == "mov.pack") {
      (to_parts > 0 ? operation.writes : operation.reads) = static_cast<int>(std::max(to_parts, from_parts));
      operation.fields.number /= std::max(to_parts, from_parts);
    }
    if (!operation) fail(text.line, "unknown instruction '" + std::string(text.opcode) + "'");
    Instruction made = operation.fields;
    const auto count = static_cast<int>(slots.size()), writes = operation.writes + pairs;
    if (count > static_cast<int>(max_slots) || count < writes + operation.reads ||
        count > writes + operation.reads + operation.optional_reads) {
      fail(text.line, "'" + std::string(text.opcode) + "' has " + std::to_string(count) + " registers, want " +
                          std::to_string(writes + operation.reads));
    }
    if (negated && !operation.may_negate) fail(text.line, "'!' before an operand of '" + std::string(text.opcode) + "'");
    std::copy(slots.begin(), slots.end(), made.slot.begin());
    made.num_written = static_cast<u8>(writes);
    made.num_read = static_cast<u8>(count - writes);
    made.negated = negated;
    if (operation.member >= 0) made.member = writes + operation.member;
    if (!offsets.empty()) made.offset = offsets[0];
    if (offsets.size() > 1) made.second_offset = offsets[1];
    if (is_jump) {
      if (text.operands.empty() || text.operands.back().kind != Operand::Kind::name) fail(text.line, "a branch without a label");
      jumps_.push_back({made_->code.size(), text.operands.back().name, scope_, text.line});
    }
    if (made.flow == Flow::leave && callee_ == nullptr) made.flow = Flow::exit;
    if (made.flow == Flow::leave) made.number = callee_->number;
    emit(made, text);
  }

  static std::size_t parts_of(const syntax::Instruction& text, std::size_t n) {
    return n < text.operands.size() && text.operands[n].kind == Operand::Kind::vector ? text.operands[n].parts.size() : 0;
  }

  void emit(Instruction made, const syntax::Instruction& text) {
    made.line = text.line;
    made.source = text.source;
    made.guard_negated = text.guard_negated;
    if (!text.guard.empty()) made.guard = static_cast<int>(register_or_constant({.name = text.guard, .parts = {}}, text.line));
    made_->code.push_back(made);
  }

  // Arguments and results are copied between frames; what runs between is an ordinary jump.
  void call(const syntax::Instruction& text) {
    std::size_t n = 0;
    const std::vector<Operand> none;
    const auto list = [&]() -> const std::vector<Operand>& {
      return n < text.operands.size() && text.operands[n].kind == Operand::Kind::list ? text.operands[n++].parts : none;
    };
    const std::vector<Operand>& results = list();
    if (n == text.operands.size() || text.operands[n].kind != Operand::Kind::name) fail(text.line, "a call of nothing");
    const std::string_view name = text.operands[n++].name;
    const std::vector<Operand>& arguments = list();
    Callee* callee = callee_of(name);
    if (callee == nullptr) fail(text.line, "call of '" + std::string(name) + "', which is not a function of this module");
    if (!callee->text->has_body) return emit(call_of_missing(name), text);
    const auto copy = [&](const std::vector<Operand>& own, const std::vector<syntax::Variable>& theirs, bool to_callee) {
      if (own.size() != theirs.size())
        fail(text.line, "call of '" + std::string(name) + "' with " + std::to_string(own.size()) + " parameters, want " +
                            std::to_string(theirs.size()));
      for (std::size_t k = 0; k < own.size(); ++k) {
        const Symbol* mine = find<Symbol>(&Scope::symbols, own[k].name, scope_);
        const Symbol* other = find<Symbol>(&Scope::symbols, theirs[k].name, callee->scope);
        if (mine == nullptr || mine->space != Space::frame || mine->size_bytes != other->size_bytes)
          fail(text.line, "parameter '" + std::string(own[k].name) + "' does not fit");
        emit(to_callee ? copy_in_frame(mine->address, other->address, mine->size_bytes)
                       : copy_in_frame(other->address, mine->address, mine->size_bytes),
             text);
      }
    };
    copy(arguments, callee->text->parameters, true);
    Instruction jump{.execute = do_nothing, .flow = Flow::call, .work = Work::control, .number = callee->number};
    call_sites_.emplace_back(made_->code.size(), callee->text->name);
    if (callee_ != nullptr) callee_->calls.insert(callee->text->name);
    emit(jump, text);
    copy(results, callee->text->returns, false);
  }

  Callee* callee_of(std::string_view name) {
    if (const auto at = callees_.find(name); at != callees_.end()) return &at->second;
    const syntax::Function* found = nullptr;
    for (const syntax::Function& f : module_.functions) {
      if (f.name == name && !f.is_kernel && (found == nullptr || f.has_body)) found = &f;  // a prototype may come first
    }
    if (found == nullptr) return nullptr;
    Callee& made = callees_[found->name];
    made.text = found;
    if (!found->has_body) return &made;
    made.number = static_cast<u32>(queue_.size());
    queue_.push_back(found->name);
    made.scope = static_cast<int>(scopes_.size());
    Scope scope;
    scope.parent = 0;
    for (const syntax::Variable& v : found->parameters) place_frame(v, scope);
    for (const syntax::Variable& v : found->returns) place_frame(v, scope);
    scopes_.push_back(std::move(scope));
    return &made;
  }

  void refuse_recursion() const {  // frames are laid out once per function
    for (const auto& [name, callee] : callees_) {
      std::set<std::string_view> seen;
      std::vector<std::string_view> next(callee.calls.begin(), callee.calls.end());
      while (!next.empty()) {
        const std::string_view called = next.back();
        next.pop_back();
        if (called == name) fail(callee.text->line, "function '" + std::string(name) + "' calls itself: not supported");
        if (seen.insert(called).second) next.insert(next.end(), callees_.at(called).calls.begin(), callees_.at(called).calls.end());
      }
    }
  }

  void resolve() {
    const auto target = [&](std::string_view label, int scope, u32 line) {
      const u32* at = find<u32>(&Scope::labels, label, scope);
      if (at == nullptr) fail(line, "no label '" + std::string(label) + "'");
      return *at;
    };
    for (const Jump& jump : jumps_) {
      Instruction& i = made_->code[jump.instruction];
      if (i.flow == Flow::branch) {
        i.target = target(jump.label, jump.scope, jump.line);
      } else if (const u32* table = find<u32>(&Scope::tables, jump.label, jump.scope)) {
        i.target = *table;
      } else {
        fail(jump.line, "no .branchtargets '" + std::string(jump.label) + "'");
      }
    }
    for (const TableJump& jump : table_jumps_) made_->branch_tables[jump.table][jump.entry] = target(jump.label, jump.scope, text_.line);
    for (const auto& [instruction, name] : call_sites_) made_->code[instruction].target = callees_.at(name).entry;
  }

  struct TableJump {
    std::size_t table, entry;
    std::string_view label;
    int scope;
  };

  const syntax::Module& module_;
  const syntax::Function& text_;
  std::unique_ptr<Kernel> made_ = std::make_unique<Kernel>();
  std::vector<Scope> scopes_;
  int scope_ = 0;
  Callee* callee_ = nullptr;  // whose body this is; nullptr: the kernel's
  std::map<std::string_view, Callee> callees_;
  std::vector<std::string_view> queue_;
  std::vector<Jump> jumps_;
  std::vector<TableJump> table_jumps_;
  std::vector<std::pair<std::size_t, std::string_view>> call_sites_;
  std::map<u64, u32> constant_slot_;
  std::map<Special, u32> special_slot_;
  std::set<std::string_view> dynamic_names_;
  std::vector<std::pair<std::size_t, std::string_view>> dynamic_;  // constants that are addresses in dynamic shared memory
  u32 sink_ = 0;
};

}  // namespace

std::unique_ptr<const Kernel> decode(const syntax::Module& module, const syntax::Function& kernel,
                                     const std::map<std::string_view, u64>& globals) {
  return Decoder(module, kernel, globals).run();
}

}  // namespace ptx
