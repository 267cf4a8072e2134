// layer.cpp - the layers of the fault suite, on the problems of the api tests.
// SPDX-License-Identifier: Apache-2.0
#include "layer.hpp"

#include <map>

#include "../api/linear_problem.hpp"
#include "../api/softmax_problem.hpp"

namespace seqccl::test {
namespace {

// Two shapes: messages of a few hundred bytes, and of more than may go without a credit.
constexpr std::int64_t dim = 8, small_tokens = 67, large_dim = 16, large_tokens = 301;

/// At least one for each rank, as head_swap wants.
std::int64_t num_heads(int num_ranks) { return num_ranks > 8 ? num_ranks : 8; }

AttentionSpec softmax_spec(bool is_large, int num_ranks, const Variant& variant) {
  AttentionSpec spec;
  spec.q_heads = num_heads(num_ranks);
  spec.head_dim = is_large ? large_dim : dim;
  spec.partition = Partition::contiguous(is_large ? large_tokens : small_tokens, num_ranks);
  spec.mask = Mask::causal();
  spec.scale = variant.scale;
  spec.dtype = variant.is_bf16 ? bf16 : f32;
  return spec;
}
LinearSpec linear_spec(bool is_large, int num_ranks, const Variant& variant) {
  LinearSpec spec;
  spec.heads = num_heads(num_ranks);
  spec.head_dim = is_large ? 32 : dim;  // states travel, not tokens
  spec.partition = Partition::contiguous(small_tokens, num_ranks);
  spec.kind = LinearKind::scalar_gate;
  spec.scale = variant.scale;
  spec.dtype = variant.is_bf16 ? bf16 : f32;
  return spec;
}

/// The exact result does not depend on the number of ranks, but on what it decides.
template <class Problem, class Spec>
const Problem& whole(const Spec& spec, bool is_large, std::int64_t heads) {
  static std::map<std::pair<bool, std::int64_t>, Problem> kept;
  return kept.try_emplace(std::pair(is_large, heads), spec).first->second;
}
const SoftmaxProblem& softmax(bool is_large, int num_ranks) {
  return whole<SoftmaxProblem>(softmax_spec(is_large, num_ranks, {}), is_large, num_heads(num_ranks));
}
const LinearProblem& linear(bool is_large, int num_ranks) {
  return whole<LinearProblem>(linear_spec(is_large, num_ranks, {}), is_large, num_heads(num_ranks));
}

std::uint64_t sum_of(std::initializer_list<const HostTensor*> tensors) {
  std::uint64_t sum = 0xcbf29ce484222325u;
  for (const HostTensor* tensor : tensors)
    for (const std::byte byte : tensor->bytes) sum = (sum ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3u;
  return sum;
}

/// This rank's rows, rounded to `dtype`.
HostTensor rows(const HostTensor& from, const Partition& partition, Rank rank, DType dtype) {
  const auto& shape = from.geometry.shape;
  const std::int64_t T = partition.tokens_on(rank);
  HostTensor exact = from.geometry.num_axes > 3 ? HostTensor(from.dtype, {shape[0], T, shape[2], shape[3]})
                                                : HostTensor(from.dtype, {shape[0], T, shape[2]});
  partition.shard(from.view(), rank, exact.view());
  if (dtype == from.dtype) return exact;
  HostTensor rounded =
      exact.geometry.num_axes > 3 ? HostTensor(dtype, {shape[0], T, shape[2], shape[3]}) : HostTensor(dtype, {shape[0], T, shape[2]});
  for (std::int64_t i = 0; i < rounded.size(); ++i) rounded.set(i, exact.get(i));
  return rounded;
}

class SoftmaxLayer final : public Layer {
 public:
  SoftmaxLayer(Communicator& comm, const AttentionSpec& spec, const SoftmaxProblem& problem)
      : problem_(problem), spec_(spec), rank_(comm.rank()), attention_(comm, spec) {
    const auto mine = [&](const HostTensor& from) { return rows(from, spec.partition, rank_, spec.dtype); };
    q_ = mine(problem.q), k_ = mine(problem.k), v_ = mine(problem.v), dout_ = mine(problem.dout);
    out_ = q_, dq_ = q_, dk_ = k_, dv_ = v_;
    lse_ = HostTensor(f32, {1, spec.q_heads, spec.partition.tokens_on(rank_)});
  }
  void forward() override {
    attention_.forward(std::as_const(q_).view(), std::as_const(k_).view(), std::as_const(v_).view(), out_.view(), lse_.view());
  }
  void backward() override {
    attention_.backward(std::as_const(dout_).view(), std::as_const(q_).view(), std::as_const(k_).view(), std::as_const(v_).view(),
                        std::as_const(out_).view(), std::as_const(lse_).view(), dq_.view(), dk_.view(), dv_.view());
  }
  std::size_t num_steps(bool backward) override {
    return (backward ? attention_.backward_schedule() : attention_.forward_schedule()).steps.size();
  }
  double error(bool backward) const override {
    const auto far = [&](const HostTensor& got, const HostTensor& want) {
      return distance(got, rows(want, spec_.partition, rank_, want.dtype)).relative_rms;
    };
    double worst = far(out_, problem_.exact.out);
    if (backward)
      for (const double one : {far(dq_, problem_.exact.dq), far(dk_, problem_.exact.dk), far(dv_, problem_.exact.dv)})
        worst = one <= worst ? worst : one;  // NaN stays
    return worst;
  }
  std::uint64_t input_sum() const override { return sum_of({&q_, &k_, &v_, &dout_}); }
  std::uint64_t output_sum() const override { return sum_of({&out_, &lse_, &dq_, &dk_, &dv_}); }

 private:
  const SoftmaxProblem& problem_;
  AttentionSpec spec_;
  Rank rank_;
  Attention attention_;
  HostTensor q_, k_, v_, dout_, out_, lse_, dq_, dk_, dv_;
};

class LinearLayer final : public Layer {
 public:
  LinearLayer(Communicator& comm, const LinearSpec& spec, const LinearProblem& problem)
      : problem_(problem), spec_(spec), rank_(comm.rank()), attention_(comm, spec) {
    q_ = mine(problem.q), k_ = mine(problem.k), v_ = mine(problem.v), dout_ = mine(problem.dout);
    decay_ = rows(problem.log_decay, spec.partition, rank_, problem.log_decay.dtype);
    out_ = v_, dq_ = q_, dk_ = k_, dv_ = v_, ddecay_ = decay_;
    entering_ = HostTensor(f32, {1, 1, spec.heads, spec.head_dim, spec.dim_v()});
  }
  void forward() override { attention_.forward(inputs(), {out_.view(), entering_.view(), {}}); }
  void backward() override {
    attention_.backward(inputs(), {std::as_const(dout_).view(), std::as_const(entering_).view(), {}},
                        {dq_.view(), dk_.view(), dv_.view(), ddecay_.view(), {}});
  }
  std::size_t num_steps(bool backward) override {
    return (backward ? attention_.backward_schedule() : attention_.forward_schedule()).steps.size();
  }
  double error(bool backward) const override {
    const auto far = [&](const HostTensor& got, const HostTensor& want) {
      return distance(got, rows(want, spec_.partition, rank_, want.dtype)).relative_rms;
    };
    double worst = far(out_, problem_.exact.out);
    if (backward)
      for (const double one : {far(dq_, problem_.exact.dq), far(dk_, problem_.exact.dk), far(dv_, problem_.exact.dv)})
        worst = one <= worst ? worst : one;
    return worst;
  }
  std::uint64_t input_sum() const override { return sum_of({&q_, &k_, &v_, &dout_, &decay_}); }
  std::uint64_t output_sum() const override { return sum_of({&out_, &entering_, &dq_, &dk_, &dv_, &ddecay_}); }

 private:
  [[nodiscard]] HostTensor mine(const HostTensor& from) const { return rows(from, spec_.partition, rank_, spec_.dtype); }
  [[nodiscard]] LinearInputs inputs() const { return {q_.view(), k_.view(), v_.view(), decay_.view(), {}}; }

  const LinearProblem& problem_;
  LinearSpec spec_;
  Rank rank_;
  LinearAttention attention_;
  HostTensor q_, k_, v_, dout_, decay_, out_, entering_, dq_, dk_, dv_, ddecay_;
};

const std::string scan_prefix = "scan:";
bool is_scan(const std::string& name) { return name.starts_with(scan_prefix); }

}  // namespace

void prepare(const std::string& name, bool is_large, int num_ranks) {
  if (is_scan(name))
    (void)linear(is_large, num_ranks);
  else
    (void)softmax(is_large, num_ranks);
}

std::unique_ptr<Layer> make_layer(Communicator& comm, const std::string& name, bool is_large, const Variant& variant) {
  if (is_scan(name)) {
    LinearSpec spec = linear_spec(is_large, comm.size(), variant);
    spec.scan = scan_from_name(name.substr(scan_prefix.size()));
    return std::make_unique<LinearLayer>(comm, spec, linear(is_large, comm.size()));
  }
  AttentionSpec spec = softmax_spec(is_large, comm.size(), variant);
  choose_method(spec, name, comm.topology());
  return std::make_unique<SoftmaxLayer>(comm, spec, softmax(is_large, comm.size()));
}

}  // namespace seqccl::test
