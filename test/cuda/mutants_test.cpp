// mutants_test.cpp - each barrier and wait of the attention kernels is needed: without it the interpreter finds something.
// SPDX-License-Identifier: Apache-2.0
#include "cuda/linear_device.hpp"
#include "cuda/runtime/runtime.hpp"
#include "kernels/attention_case.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

/// The PTX of one kernel, alone or among those of its object, put in the place of its object's while this lives.
class OneKernel {
 public:
  explicit OneKernel(const std::string& name, bool alone = true) {
    for (const auto& binary : standin::runtime().binaries) {
      const std::size_t entry = entry_of(binary->text, name);
      if (entry == std::string::npos) continue;
      binary_ = binary.get();
      whole_ = binary->text;
      const std::size_t first = whole_.rfind('\n', entry) + 1, last = whole_.find("\n}\n", entry);
      text = whole_, begin = first;
      end = last;
      if (!alone) return;
      // What stands before the first kernel of the object: version, target, external shared memory.
      text = whole_.substr(0, whole_.rfind('\n', whole_.find(".entry ")) + 1) + whole_.substr(first, last + 3 - first);
      if (const std::size_t files = whole_.find("\n\t.file"); files != std::string::npos) text += whole_.substr(files);
      return;
    }
    throw std::runtime_error("no object has a kernel " + name);
  }
  ~OneKernel() { use(whole_); }
  void use(const std::string& changed) {
    binary_->module.reset();
    binary_->text = changed;
  }
  std::string text;
  std::size_t begin = 0, end = 0;  // where the kernel stands among the others

 private:
  /// Where the first kernel begins whose mangled name contains `name`.
  static std::size_t entry_of(const std::string& text, const std::string& name) {
    for (std::size_t at = text.find(".entry "); at != std::string::npos; at = text.find(".entry ", at + 1))
      if (text.substr(at, text.find('(', at) - at).find(name) != std::string::npos) return at;
    return std::string::npos;
  }
  standin::Binary* binary_ = nullptr;
  std::string whole_;
};

/// What the interpreter says of some launches of the kernel; "" if all were clean.
std::string found(const AttentionCase& c) {
  for (const std::uint64_t seed : {0, 1, 2}) {
    standin::runtime().reset(seed);
    const AttentionProblem p(c);
    HostTensor new_out = p.new_out(), new_lse = p.new_lse();
    try {
      const DeviceTensor q(p.q), k(p.k), v(p.v), out(new_out, false), lse(new_lse, false);
      AttendArguments a = p.arguments();
      a.q = q.device, a.k = k.device, a.v = v.device, a.out = out.device, a.lse = lse.device;
      attend_on_device(a);
    } catch (const std::runtime_error&) {
      return "launch failed: " + standin::runtime().reports();
    }
    if (const std::string reports = standin::runtime().reports(); !reports.empty()) return reports;
  }
  return "";
}

TEST(CudaMutants, EveryBarrierWaitAndCommitIsNeeded) {
  OneKernel kernel("_ZN6seqccl2v04cuda13attend_tensorI13__nv_bfloat16Li64ELi64EEE");
  const AttentionCase plain{
      .num_queries = 130, .num_keys = 200, .q_heads = 1, .kv_heads = 1, .dk = 64, .dv = 64, .dtype = bf16, .shape = Shape::random};
  AttentionCase capped = plain;  // a loop of its own, where the compiler makes one of it
  capped.softcap = 5;
  const auto found_in_any = [&] {
    const std::string first = found(plain);
    return first.empty() ? found(capped) : first;
  };
  kernel.use(kernel.text);
  ASSERT_EQ(found_in_any(), "");
  for (const std::string line : {"bar.sync 0;", "cp.async.wait_group 0;", "cp.async.commit_group;"}) {
    int count = 0;
    for (std::size_t at = kernel.text.find(line); at != std::string::npos; at = kernel.text.find(line, at + 1), ++count) {
      kernel.use(std::string(kernel.text).replace(at, line.size(), ""));
      EXPECT_NE(found_in_any(), "") << line << " number " << count;
    }
    EXPECT_GE(count, 3) << line;
  }
  standin::runtime().reset(0);
}

/// What the interpreter says of a layer; "" if all was clean. A scalar gate's kernels do more for a constant decay.
std::string found_in_layer(Kind kind, Decay decay) {
  for (const std::uint64_t seed : {0, 1, 2}) {
    standin::runtime().reset(seed);
    try {
      (void)device_results(linear_inputs({1, 70, 1, 40, 36}, decay, bf16, 5, DType::f32, kind));
      if (decay == Decay::scalar) (void)device_results(linear_inputs({1, 70, 1, 40, 36}, Decay::constant, bf16, 5, DType::f32, kind));
    } catch (const std::runtime_error&) {
      return "launch failed: " + standin::runtime().reports();
    }
    if (const std::string reports = standin::runtime().reports(); !reports.empty()) return reports;
  }
  return "";
}

/// A kernel, and the layer that launches it.
struct LinearMutant {
  const char* kernel;
  Kind kind;
  Decay decay;
  int num_barriers;  // of a block or a warp, at least
};
std::ostream& operator<<(std::ostream& to, const LinearMutant& m) { return to << m.kernel; }
class CudaLinearMutants : public ::testing::TestWithParam<LinearMutant> {};
TEST_P(CudaLinearMutants, EveryBarrierIsNeeded) {
  const LinearMutant& m = GetParam();
  OneKernel kernel(m.kernel, false);
  kernel.use(kernel.text);
  ASSERT_EQ(found_in_layer(m.kind, m.decay), "");
  int count = 0;
  for (const std::string line : {"bar.sync 0;", "bar.warp.sync -1;"})
    for (std::size_t at = kernel.text.find(line, kernel.begin); at < kernel.end; at = kernel.text.find(line, at + 1), ++count) {
      kernel.use(std::string(kernel.text).replace(at, line.size(), ""));
      EXPECT_NE(found_in_layer(m.kind, m.decay), "") << line << " number " << count;
    }
  EXPECT_GE(count, m.num_barriers);
  standin::runtime().reset(0);
}
/// What is found is the interpreter's, whose own code needs no more than two under a sanitizer.
std::vector<LinearMutant> linear_mutants() {
  std::vector<LinearMutant> all{{"make_ratio", Kind::plain, Decay::scalar, 1},
                                {"finish", Kind::bonus, Decay::none, 1},
                                {"multiply_chunks", Kind::plain, Decay::none, 2},
                                {"sweep", Kind::delta, Decay::none, 4},
                                {"invert", Kind::delta, Decay::none, 1},
                                {"score_pairs", Kind::delta, Decay::vector, 3},
                                {"differentiate_pairs", Kind::plain, Decay::vector, 3},
                                {"differentiate_scalar_gate", Kind::plain, Decay::scalar, 1}};
  if (is_sanitized) all.resize(2);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Kernels, CudaLinearMutants, ::testing::ValuesIn(linear_mutants()),
                         [](const auto& mutant) { return mutant.param.kernel; });

}  // namespace
}  // namespace seqccl::test
