// dynamic_library.hpp - a library that is looked for when it is needed, not when the program is linked.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dlfcn.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "seqccl/error.hpp"

SEQCCL_BEGIN

/// Stays loaded for the life of the process: what such libraries start and register, they do not take back.
class DynamicLibrary {
 public:
  /// The first of `files` that can be loaded. `who` begins every message, `advice` ends it.
  /// @throws Error(argument) that names each file and why it was not loaded
  DynamicLibrary(std::string who, const std::vector<std::string>& files, std::string advice)
      : who_(std::move(who)), advice_(std::move(advice)) {
    std::string reasons;
    for (const std::string& file : files) {
      handle_ = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle_ != nullptr) return;
      const char* reason = ::dlerror();
      reasons += fmt::format("{}{}", reasons.empty() ? "" : "; ", reason != nullptr ? reason : file);
    }
    throw Error(ErrorKind::argument, fmt::format("{}: cannot be loaded: {}; want {}", who_, reasons, advice_));
  }

  /// Sets `function` to the symbol `name`. @throws Error(argument) if the library has none
  template <class Function>
  void find(const char* name, Function*& function) const {
    find_if_there(name, function);
    if (function == nullptr)
      throw Error(ErrorKind::argument, fmt::format("{}: {} has no function {}; want {}", who_, path_of_any(), name, advice_));
    if (known_ == nullptr) known_ = reinterpret_cast<void*>(function);
  }
  /// The same, or null.
  template <class Function>
  void find_if_there(const char* name, Function*& function) const {
    function = reinterpret_cast<Function*>(::dlsym(handle_, name));
  }
  /// The file of `function`.
  template <class Function>
  [[nodiscard]] static std::string path_of(Function* function) {
    Dl_info info{};
    return ::dladdr(reinterpret_cast<void*>(function), &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "unknown";
  }

 private:
  [[nodiscard]] std::string path_of_any() const {
    Dl_info info{};
    return known_ != nullptr && ::dladdr(known_, &info) != 0 ? info.dli_fname : "it";
  }

  std::string who_, advice_;
  void* handle_ = nullptr;
  mutable void* known_ = nullptr;  // some function of the library, for its path
};

SEQCCL_END
