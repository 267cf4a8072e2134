// conformance.hpp - what every host transport must do: the suite is in conformance_test.cpp, transports instantiate it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>

#include "seqccl/transport.hpp"

namespace seqccl::test {

/// A transport under test: runs `body` on `num_ranks` ranks, each with its end, and returns when all have returned.
struct Harness {
  std::string name;
  std::function<void(int num_ranks, const std::function<void(Transport&)>& body)> on_ranks;
};
inline std::ostream& operator<<(std::ostream& out, const Harness& harness) { return out << harness.name; }

class TransportTest : public ::testing::TestWithParam<Harness> {
 protected:
  void on_ranks(int num_ranks, const std::function<void(Transport&)>& body) { GetParam().on_ranks(num_ranks, body); }
};

}  // namespace seqccl::test
