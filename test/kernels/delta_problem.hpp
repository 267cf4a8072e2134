// delta_problem.hpp - inputs of the delta kinds, and how close their results have to be.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "linear_layer.hpp"

namespace seqccl::test {

inline constexpr Decay delta_decays[] = {Decay::none, Decay::scalar, Decay::vector};  // delta rule, gated delta, KDA

/// Keys of length 1, beta in (0, 1.5).
inline LinearInputs delta_inputs(const LinearShape& shape, Decay decay, DType dtype, std::uint64_t seed) {
  return linear_inputs(shape, decay, dtype, seed, DType::f32, Kind::delta);
}

/// Every token has the key of the first one of its batch and head.
inline void repeat_first_key(LinearInputs& in) {
  const std::int64_t row = in.shape.heads * in.shape.key_dim;
  for (std::int64_t i = 0; i < in.k.size(); ++i) {
    const std::int64_t batch = i / row / in.shape.tokens;
    in.k.set(i, in.k.get(batch * in.shape.tokens * row + i % row));
  }
}

/// At most three times the error of the plain run, and some roundings of the largest number. A state that beta has all but wiped out
/// is the difference of larger ones, so what entered counts too; keys in few dimensions are nearly parallel, and wipe out most.
/// Beside that the hard cap of the other kinds on the RMS error, twice where roundings are twice 8; not for states.
inline void expect_delta_close(const LinearResults& got, const LinearInputs& in, const std::string& note = {}, double num_roundings = 8) {
  const LinearResults want = reference_results(in), plain = reference_results(in, true);
  const auto tensors = got.all(), wanted = want.all(), plains = plain.all();
  const double roundings = in.shape.key_dim <= 8 ? 2 * num_roundings : num_roundings;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const HostTensor& tensor = *tensors[i].second;
    if (tensor.bytes.empty()) continue;
    const Distance error = distance(tensor, *wanted[i].second), bar = distance(*plains[i].second, *wanted[i].second);
    const std::string tensor_name = tensors[i].first;
    double largest = error.reference_max;
    if (tensor_name == "state_out") largest = std::max(largest, distance(in.state, in.state).reference_max);
    if (tensor_name == "dstate_in") largest = std::max(largest, distance(in.dleaving, in.dleaving).reference_max);
    EXPECT_LE(error.max, 3 * bar.max + roundings * epsilon(tensor.dtype) * largest) << tensor_name << " of " << describe(in) << note;
    if (tensor_name == "state_out" || tensor_name == "dstate_in") continue;
    const double cap = (tensor.dtype == DType::f32 ? 2e-6 : tensor.dtype == DType::f16 ? 2e-3 : 1.2e-2) * (tensor_name[0] == 'd' ? 3 : 1);
    EXPECT_LE(error.relative_rms, cap * roundings / 8) << tensor_name << " of " << describe(in) << note;
  }
}

/// Largest error of a row relative to the largest number of the row; a row that is small counts as a tenth of the mean row.
inline double largest_row_error(const HostTensor& got, const HostTensor& want) {
  const std::int64_t dim = want.geometry.shape[3], num_rows = want.size() / dim;
  double worst = 0, floor = 0;
  for (std::int64_t i = 0; i < want.size(); ++i) floor += 0.01 * want.get(i) * want.get(i) / static_cast<double>(want.size());
  floor = std::max(std::sqrt(floor), 1e-30);  // f32 has no digits left far below
  for (std::int64_t row = 0; row < num_rows; ++row) {
    double error = 0, largest = floor;
    for (std::int64_t i = row * dim; i < (row + 1) * dim; ++i) {
      const double one = std::abs(got.get(i) - want.get(i));
      if (std::isnan(one)) return one;
      error = std::max(error, one);
      largest = std::max(largest, std::abs(want.get(i)));
    }
    worst = std::max(worst, error / largest);
  }
  return worst;
}

}  // namespace seqccl::test
