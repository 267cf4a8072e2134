// harness.hpp - small kernels in PTX text, for tests of the interpreter.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <string>
#include <vector>

#include "ptx/launch.hpp"

namespace ptx::test {

inline const std::string header = ".version 9.0\n.target sm_80\n.address_size 64\n";

/// A module of one kernel `k` with `num_pointers` parameters. Before the body: %pointer0, ... hold them, %thread is the thread of the
/// block, %out the address of out[thread] (64-bit elements) in the first. Registers: %p0-%p9, %h0-%h19, %r0-%r39, %d0-%d19, %f0-%f39,
/// %g0-%g9 (f64).
inline std::string kernel_text(const std::string& body, int num_pointers = 1, const std::string& before = "") {
  std::string text = header + before + ".visible .entry k(";
  for (int n = 0; n < num_pointers; ++n) text += (n > 0 ? ", .param .u64 parameter" : ".param .u64 parameter") + std::to_string(n);
  text += ")\n{\n.reg .pred %p<10>; .reg .b16 %h<20>; .reg .b32 %r<40>; .reg .b64 %d<20>; .reg .f32 %f<40>; .reg .f64 %g<10>;\n";
  text += ".reg .b64 %pointer<9>; .reg .b32 %thread; .reg .b64 %out;\nmov.u32 %thread, %tid.x;\n";
  for (int n = 0; n < num_pointers; ++n) text += "ld.param.u64 %pointer" + std::to_string(n) + ", [parameter" + std::to_string(n) + "];\n";
  if (num_pointers > 0) text += "mad.wide.u32 %out, %thread, 8, %pointer0;\n";
  return text + body + "\nret;\n}\n";
}

/// A device with a module and buffers; buffer 0 is the output, of 64-bit elements.
class Harness {
 public:
  explicit Harness(const std::string& text, u64 num_outputs = 64) : module_(memory_, text, "test.ptx") { add_buffer(num_outputs * 8); }

  u64 add_buffer(u64 num_bytes) {
    buffers_.push_back(memory_.allocate(num_bytes, "buffer " + std::to_string(buffers_.size())));
    return buffers_.back();
  }
  template <class T>
  u64 add_input(const std::vector<T>& values) {
    const u64 address = add_buffer(values.size() * sizeof(T));
    memory_.write(address, values.data(), values.size() * sizeof(T));
    return address;
  }
  [[nodiscard]] DeviceMemory& memory() { return memory_; }
  [[nodiscard]] const Module& module() const { return module_; }

  Result run(u32 num_threads = 32, u64 seed = 0, Dim grid = {}, u64 dynamic_shared_bytes = 0) {
    const Kernel& kernel = module_.kernel("k");
    Arguments arguments(kernel);
    for (std::size_t n = 0; n < kernel.parameters.size(); ++n) arguments.add(buffers_[n]);
    return ptx::run(kernel, memory_,
                    {.grid = grid,
                     .block = {num_threads},
                     .dynamic_shared_bytes = dynamic_shared_bytes,
                     .arguments = arguments.bytes(),
                     .seed = seed,
                     .max_warp_instructions = 1'000'000});
  }
  template <class T = u64>
  [[nodiscard]] std::vector<T> output(u64 count, std::size_t buffer = 0) const {
    std::vector<T> values(count);
    memory_.read(values.data(), buffers_[buffer], count * sizeof(T));
    return values;
  }

 private:
  DeviceMemory memory_;
  Module module_;
  std::vector<u64> buffers_;
};

/// What the launch is found to do, for EXPECT: "clean" or all findings.
inline std::string found(const Result& result) {
  if (result.clean()) return "clean";
  std::string all;
  for (int n = 0; n < num_findings; ++n) {
    if (result.has(static_cast<Finding>(n))) all += (all.empty() ? "" : ", ") + std::string(name(static_cast<Finding>(n)));
  }
  return all;
}

struct Operands {
  u64 a = 0, b = 0, c = 0;
};

/// Runs `instruction` once per element of `operands` in one launch. Its sources may be %d1 %d2 %d3, %r1.., %h1.., %f1.., %g1.., %p1..
/// (the low bits of a, b, c; a predicate is true if they are not 0) and its target is named by `target`, such as "%r0".
inline std::vector<u64> evaluate(const std::string& instruction, const std::string& target, const std::vector<Operands>& operands) {
  std::string body = "mad.wide.u32 %d9, %thread, 24, %pointer1;\n";
  for (int n = 1; n <= 3; ++n) {
    const std::string s = std::to_string(n);
    body += "ld.global.u64 %d" + s + ", [%d9+" + std::to_string(8 * (n - 1)) + "];\ncvt.u32.u64 %r" + s + ", %d" + s + ";\ncvt.u16.u64 %h" +
            s + ", %d" + s + ";\n";
    body += "mov.b32 %f" + s + ", %r" + s + ";\nmov.b64 %g" + s + ", %d" + s + ";\nsetp.ne.u64 %p" + s + ", %d" + s + ", 0;\n";
  }
  body += "mov.u64 %d0, 0;\n" + instruction + "\n";
  const char kind = target[1];
  if (kind == 'r' || kind == 'f') body += "mov.b32 %r9, " + target + ";\ncvt.u64.u32 %d0, %r9;\n";
  if (kind == 'h') body += "cvt.u64.u16 %d0, " + target + ";\n";
  if (kind == 'g') body += "mov.b64 %d0, " + target + ";\n";
  if (kind == 'p') body += "selp.u64 %d0, 1, 0, " + target + ";\n";
  body += "st.global.u64 [%out], %d0;";
  Harness harness(kernel_text(body, 2), operands.size());
  harness.add_input(operands);
  std::vector<u64> all;
  const Result result = harness.run(static_cast<u32>(operands.size()));
  EXPECT_EQ(found(result), "clean") << instruction << "\n" << result.text();
  return harness.output(operands.size());
}

/// One set of operands.
inline u64 evaluate_one(const std::string& instruction, const std::string& target, u64 a, u64 b = 0, u64 c = 0) {
  return evaluate(instruction, target, {{a, b, c}})[0];
}
inline u64 bits(float value) { return std::bit_cast<u32>(value); }
inline u64 bits(double value) { return std::bit_cast<u64>(value); }
inline float as_float(u64 value) { return std::bit_cast<float>(static_cast<u32>(value)); }

}  // namespace ptx::test
