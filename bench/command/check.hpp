// check.hpp - is a result right? Judges it against the double reference, by the error of a plain low-precision run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "command/attention_job.hpp"
#include "command/linear_job.hpp"
#include "command/tensor.hpp"

namespace seqccl::command {

/// The rule, for every tensor:
///
///     max error, RMS error  <=  2 x that of a plain run + 4 eps(dtype) max|reference|
///     relative RMS error    <=  2e-6 (f32), 2e-3 (f16), 1.2e-2 (bf16); three times that for gradients; twice that of the plain run
///                               where even that is more (scores so sharp that single precision loses digits)
///
/// A plain run is obvious loops over the same inputs with sums in f32. A NaN or infinity counts as wrong unless the reference has it too,
/// and missing one that the reference has counts as wrong.
struct TensorCheck {
  std::string name;  // "out", "dq", ...
  double max_error = 0, rms_error = 0, relative_rms = 0;
  double plain_max = 0, plain_rms = 0;
  double reference_max = 0;
  double max_bar = 0, rms_bar = 0, relative_cap = 0;
  std::int64_t num_wrong = 0, num_checked = 0;
  std::int64_t num_nan = 0;  // NaN in the result and in the reference: not wrong, but worth a word

  [[nodiscard]] bool passed() const noexcept { return num_wrong == 0 && rms_error <= rms_bar && relative_rms <= relative_cap; }
};

struct Judge {
  DType dtype = f32;  // whose rounding the result may have
  bool is_gradient = false;
  /// How large the terms are that the numbers are sums of. Where the sums vanish beside them (below 1e-5 of this: a query with one key has
  /// dq = 0) rounding is measured by the terms.
  double terms_max = 0;
};
/// All three have the same shape; `plain` may be absent, then only rounding is allowed for, and the cap.
[[nodiscard]] TensorCheck compare(const std::string& name, const HostTensor& got, const HostTensor& want, const HostTensor& plain,
                                  const Judge& judge);

struct CheckOutcome {
  std::vector<TensorCheck> tensors;
  std::string coverage;  // "all 512 query rows", "64 of 16384 query rows; no gradients"
  [[nodiscard]] bool passed() const noexcept;
  [[nodiscard]] std::int64_t num_wrong() const noexcept;
  [[nodiscard]] std::int64_t num_nan() const noexcept;
  /// The coverage, and how many NaN there are, if any.
  [[nodiscard]] std::string coverage_text() const;
  /// The largest error in units of its bar: at most 1 if all is right.
  [[nodiscard]] double worst() const noexcept;
};

/// automatic: whole problems up to full_check_tokens tokens; above it sampled query rows and no gradients.
enum class CheckLevel { sampled, automatic, full };
inline constexpr std::int64_t full_check_tokens = 4096;
inline constexpr std::int64_t num_sampled_rows = 64;

/// The reference of one softmax problem, computed once for any number of methods.
class AttentionReference {
 public:
  AttentionReference(const AttentionTensors& tensors, const AttentionSpec& spec, bool backward, CheckLevel level);
  [[nodiscard]] CheckOutcome judge(const AttentionResult& result) const;

 private:
  void compute_all(const AttentionTensors& tensors, bool backward);
  void compute_rows(const AttentionTensors& tensors);

  AttentionSpec spec_;
  double dq_terms_ = 0, dk_terms_ = 0;            // see Judge
  std::vector<std::int64_t> rows_;                // sampled query positions; empty: all
  HostTensor out_, lse_, dq_, dk_, dv_, dsinks_;  // f64
  HostTensor plain_out_, plain_lse_, plain_dq_, plain_dk_, plain_dv_;
};

class LinearReference {
 public:
  LinearReference(const LinearTensors& tensors, const LinearSpec& spec, bool backward, CheckLevel level);
  [[nodiscard]] CheckOutcome judge(const LinearResult& result) const;

 private:
  LinearSpec spec_;
  bool gradients_ = false, gradients_wanted_ = false;
  LinearResult want_, plain_;  // tensors only; want_ in f64
};

/// Query positions that are checked of N: the first, the last, and others by a fixed seed; sorted.
[[nodiscard]] std::vector<std::int64_t> sampled_rows(std::int64_t num_tokens);

}  // namespace seqccl::command
