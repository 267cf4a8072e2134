// place.hpp - where the tensors of a rank are while its operations run: on the host, or where a test puts them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>

#include "seqccl/communicator.hpp"
#include "seqccl/tensor.hpp"

namespace seqccl::test {

/// One rank's. The same host memory is always the same place.
class Place {
 public:
  virtual ~Place() = default;
  virtual ConstTensorView in(const ConstTensorView& host) { return host; }
  virtual TensorView out(const TensorView& host) { return host; }
  /// All operations have been called: what they write comes to the host.
  virtual void finish() {}
};
/// Made before a rank's first operation.
using MakePlace = std::function<std::unique_ptr<Place>(Communicator&)>;
inline std::unique_ptr<Place> on_host(Communicator&) { return std::make_unique<Place>(); }

}  // namespace seqccl::test
