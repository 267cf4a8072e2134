// layer.hpp - one layer on one rank, softmax or linear, with inputs, outputs and the exact result of its rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "seqccl/communicator.hpp"

namespace seqccl::test {

/// How a rank's layer differs from the others'.
struct Variant {
  float scale = 0.25f;
  bool is_bf16 = false;
};

class Layer {
 public:
  virtual ~Layer() = default;
  virtual void forward() = 0;
  virtual void backward() = 0;
  [[nodiscard]] virtual std::size_t num_steps(bool backward) = 0;
  /// Relative RMS error of what forward, and backward if it ran, have written.
  [[nodiscard]] virtual double error(bool backward) const = 0;
  /// Of all bytes that belong to the user.
  [[nodiscard]] virtual std::uint64_t input_sum() const = 0;
  [[nodiscard]] virtual std::uint64_t output_sum() const = 0;
};

/// Works out the exact result of the whole; kept in the process, so that ranks that are forked later have it.
void prepare(const std::string& name, bool is_large, int num_ranks);
/// "scan:doubling", or a name of method_names().
[[nodiscard]] std::unique_ptr<Layer> make_layer(Communicator& comm, const std::string& name, bool is_large, const Variant& variant = {});

}  // namespace seqccl::test
