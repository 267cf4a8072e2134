// check.cpp - the rule of right and wrong, element by element.
// SPDX-License-Identifier: Apache-2.0
#include "command/check.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

double relative_cap(const Judge& judge) noexcept {
  const double cap = judge.dtype == f16 ? 2e-3 : judge.dtype == bf16 ? 1.2e-2 : 2e-6;
  return judge.is_gradient ? 3 * cap : cap;
}

/// Ratio to a bar, for people: 0 / 0 is 0.
double in_bars(double error, double bar) noexcept {
  return error == 0 ? 0 : bar > 0 ? error / bar : std::numeric_limits<double>::infinity();
}

}  // namespace

TensorCheck compare(const std::string& name, const HostTensor& got, const HostTensor& want, const HostTensor& plain, const Judge& judge) {
  if (got.shape() != want.shape() || (plain.present() && plain.shape() != want.shape()))
    throw Error(ErrorKind::internal, "check: " + name + ": shapes of result and reference differ");
  TensorCheck check;
  check.name = name;
  check.relative_cap = relative_cap(judge);
  check.num_checked = want.size();

  // The bar comes first: what a plain run loses, and the size of the numbers.
  double norm = 0, plain_square = 0;
  std::int64_t num_finite = 0;
  for (std::int64_t i = 0; i < want.size(); ++i) {
    const double right = want.get(i);
    if (!std::isfinite(right)) continue;
    ++num_finite;
    norm += right * right;
    check.reference_max = std::max(check.reference_max, std::abs(right));
    const double loss = plain.present() ? std::abs(plain.get(i) - right) : 0;
    if (!std::isfinite(loss)) continue;  // a plain run that overflows sets no bar
    check.plain_max = std::max(check.plain_max, loss);
    plain_square += loss * loss;
  }
  const double count = num_finite > 0 ? static_cast<double>(num_finite) : 1;
  if (check.reference_max < 1e-5 * judge.terms_max) {
    check.reference_max = judge.terms_max;
    norm = count * judge.terms_max * judge.terms_max;
  }
  const double rounding = 4 * epsilon(judge.dtype) * check.reference_max;
  check.plain_rms = std::sqrt(plain_square / count);
  if (norm > 0) check.relative_cap = std::max(check.relative_cap, 2 * std::sqrt(plain_square / norm));
  check.max_bar = plain.present() ? 2 * check.plain_max + rounding : rounding + relative_cap(judge) * check.reference_max;
  check.rms_bar = plain.present() ? 2 * check.plain_rms + rounding : check.max_bar;

  double square = 0;
  for (std::int64_t i = 0; i < want.size(); ++i) {
    const double right = want.get(i), value = got.get(i);
    if (std::isnan(right) && std::isnan(value)) {
      ++check.num_nan;
      continue;
    }
    if (std::isinf(right) && right == value) continue;
    const double error = std::abs(value - right);
    check.num_wrong += !(error <= check.max_bar);
    // NaN sticks, infinities too: no later element can hide them.
    check.max_error =
        std::isnan(error) || error > check.max_error ? (std::isnan(check.max_error) ? check.max_error : error) : check.max_error;
    square += error * error;
  }
  check.rms_error = std::sqrt(square / count);
  check.relative_rms = norm > 0 ? std::sqrt(square / norm) : check.rms_error;
  return check;
}

bool CheckOutcome::passed() const noexcept {
  return std::all_of(tensors.begin(), tensors.end(), [](const TensorCheck& tensor) { return tensor.passed(); });
}

std::int64_t CheckOutcome::num_wrong() const noexcept {
  std::int64_t sum = 0;
  for (const TensorCheck& tensor : tensors) sum += tensor.num_wrong;
  return sum;
}

std::int64_t CheckOutcome::num_nan() const noexcept {
  std::int64_t sum = 0;
  for (const TensorCheck& tensor : tensors) sum += tensor.num_nan;
  return sum;
}

std::string CheckOutcome::coverage_text() const {
  if (num_nan() == 0) return coverage;
  return coverage + "; " + std::to_string(num_nan()) +
         " NaN in the results, as in the reference: the input has NaN, infinities or numbers that overflow";
}

double CheckOutcome::worst() const noexcept {
  double worst = 0;
  for (const TensorCheck& tensor : tensors) {
    for (const double ratio : {in_bars(tensor.max_error, tensor.max_bar), in_bars(tensor.rms_error, tensor.rms_bar),
                               in_bars(tensor.relative_rms, tensor.relative_cap)}) {
      if (std::isnan(ratio)) return ratio;
      worst = std::max(worst, ratio);
    }
  }
  return worst;
}

std::vector<std::int64_t> sampled_rows(std::int64_t num_tokens) {
  std::set<std::int64_t> rows = {0, num_tokens - 1};
  std::mt19937_64 generator(20240607);
  while (static_cast<std::int64_t>(rows.size()) < std::min(num_sampled_rows, num_tokens))
    rows.insert(static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(num_tokens)));
  return {rows.begin(), rows.end()};
}

}  // namespace seqccl::command
