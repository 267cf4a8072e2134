// standin_device.cpp - tests run on the stand-in for the CUDA runtime.
// SPDX-License-Identifier: Apache-2.0
#include "cuda/device.hpp"
#include "cuda/runtime/runtime.hpp"

namespace seqccl::test {

void begin(std::uint64_t seed) { standin::runtime().reset(seed); }
std::string reports() { return standin::runtime().reports(); }

}  // namespace seqccl::test
