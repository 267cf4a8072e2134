// nccl_world.hpp - the stand-in for libnccl, loaded as the real one would be.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>

#include "cuda/nccl/world.hpp"

namespace seqccl::test {

/// Before anything of NCCL is used in this process.
inline standin_nccl::World& nccl_world() {
  static standin_nccl::World* const world = [] {
    ::setenv("SEQCCL_NCCL_LIBRARY", NCCL_STANDIN, 1);
    void* const library = ::dlopen(NCCL_STANDIN, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(::dlerror());
    return reinterpret_cast<standin_nccl::World* (*)()>(::dlsym(library, "standin_nccl_world"))();
  }();
  return *world;
}

}  // namespace seqccl::test
