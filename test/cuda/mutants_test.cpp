// mutants_test.cpp - each barrier and wait of the attention kernel is needed: without it the interpreter finds something.
// SPDX-License-Identifier: Apache-2.0
#include "cuda/device.hpp"
#include "cuda/runtime/runtime.hpp"
#include "kernels/attention_case.hpp"

namespace seqccl::test {
namespace {

/// The PTX of one kernel alone, put in the place of its object's while this lives.
class OneKernel {
 public:
  explicit OneKernel(const std::string& name) {
    for (const auto& binary : standin::runtime().binaries) {
      const std::size_t entry = binary->text.find(".entry " + name);
      if (entry == std::string::npos) continue;
      binary_ = binary.get();
      whole_ = binary->text;
      const std::size_t first = whole_.rfind(".visible", entry), end = whole_.find("\n}\n", entry);
      // What stands before the first kernel of the object: version, target, external shared memory.
      text = whole_.substr(0, whole_.find(".visible .entry")) + whole_.substr(first, end + 3 - first);
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

 private:
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

}  // namespace
}  // namespace seqccl::test
