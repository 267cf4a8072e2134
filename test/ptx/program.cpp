// program.cpp - a module loaded into a device.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/program.hpp"

#include "ptx/decoder.hpp"
#include "ptx/parser.hpp"

namespace ptx {

const char* name(Work work) {
  static constexpr const char* names[num_works] = {"move",     "integer",  "floating", "convert", "special", "matrix",
                                                   "fragment", "shared",   "global",   "local",   "generic", "copy",
                                                   "atomic",   "exchange", "barrier",  "control"};
  return names[static_cast<int>(work)];
}

const char* name(Finding finding) {
  static constexpr const char* names[num_findings] = {"out of bounds",
                                                      "misaligned",
                                                      "write to constant memory",
                                                      "uninitialised register",
                                                      "uninitialised shared memory",
                                                      "uninitialised global memory",
                                                      "uninitialised local memory",
                                                      "race in shared memory",
                                                      "race in global memory",
                                                      "race between blocks",
                                                      "cp.async in flight",
                                                      "exit with cp.async in flight",
                                                      "divergence",
                                                      "misused barrier",
                                                      "deadlock",
                                                      "too long",
                                                      "trap",
                                                      "missing function"};
  return names[static_cast<int>(finding)];
}

std::string Kernel::where(const Instruction& instruction) const {
  std::string text;
  if (instruction.source != 0) text = module->sources[instruction.source] + ", ";
  text += module->file + ":" + std::to_string(instruction.line) + ": ";
  std::string_view line = instruction.line > 0 && instruction.line <= module->lines.size() ? module->lines[instruction.line - 1] : "";
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  return text + std::string(line.substr(0, 200));
}

Module::Module(DeviceMemory& memory, std::string text, std::string file) : memory_(memory), text_(parse(std::move(text), std::move(file))) {
  const auto fail = [&](const syntax::Variable& v, const std::string& what) {
    throw Error(text_->file + ":" + std::to_string(v.line) + ": variable '" + std::string(v.name) + "' " + what);
  };
  const auto in_memory = [](const syntax::Variable& v) { return (v.space == "global" || v.space == "const") && !v.external; };
  for (const syntax::Variable& v : text_->variables) {
    if (!in_memory(v)) continue;
    if (v.size_bytes > (u64{1} << 32)) fail(v, "is too large");
    if (variables_.contains(v.name)) fail(v, "is there twice");
    variables_[v.name] = memory_.allocate(v.size_bytes, std::string(v.name));
    memory_.fill(variables_[v.name], 0, v.size_bytes);
  }
  for (const syntax::Variable& v : text_->variables) {
    if (!in_memory(v)) continue;
    if (v.values.size() * v.element_bytes > v.size_bytes || v.element_bytes > 8) fail(v, "has more values than room");
    for (std::size_t n = 0; n < v.values.size(); ++n) {
      u64 value = v.values[n].number;
      if (!v.values[n].symbol.empty()) {
        const auto at = variables_.find(v.values[n].symbol);
        if (at == variables_.end()) fail(v, "has the address of '" + std::string(v.values[n].symbol) + "', which is not a variable");
        value += at->second;
      }
      memory_.write(variables_[v.name] + n * v.element_bytes, &value, v.element_bytes);
    }
    if (v.space == "const") memory_.range(variables_[v.name], v.size_bytes, "Module").read_only = true;
  }
}

Module::~Module() {
  for (const auto& [name, address] : variables_) memory_.free(address);
}

std::vector<std::string> Module::kernel_names() const {
  std::vector<std::string> names;
  for (const syntax::Function& f : text_->functions) {
    if (f.is_kernel && f.has_body) names.emplace_back(f.name);
  }
  return names;
}

const Kernel& Module::kernel(const std::string& name) const {
  const syntax::Function* found = nullptr;
  bool exact = false, several = false;
  for (const syntax::Function& f : text_->functions) {
    if (!f.is_kernel || !f.has_body || exact) continue;
    exact = f.name == name;
    if (!exact && f.name.find(name) == std::string_view::npos) continue;
    several = !exact && (several || found != nullptr);
    found = &f;
  }
  if (found == nullptr) throw Error("kernel: '" + name + "' is not in " + text_->file);
  if (several) throw Error("kernel: '" + name + "' is part of more than one name in " + text_->file);
  std::unique_ptr<const Kernel>& decoded = kernels_[std::string(found->name)];
  if (decoded == nullptr) decoded = decode(*text_, *found, variables_);
  return *decoded;
}

u64 Module::variable(const std::string& name) const {
  const auto at = variables_.find(name);
  if (at == variables_.end()) throw Error("variable: '" + name + "' is not in " + text_->file);
  return at->second;
}

}  // namespace ptx
