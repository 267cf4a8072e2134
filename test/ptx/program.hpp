// program.hpp - a kernel ready to run: instructions with register slots, decoded once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "ptx/device_memory.hpp"
#include "ptx/syntax.hpp"

namespace ptx {

struct Warp;
struct Instruction;
/// Does an instruction for the lanes of a mask.
using Execute = void (*)(Warp&, const Instruction&, LaneMask);

enum class Space : u8 { generic, global, shared, local, parameter, frame };

/// How control goes on. `together` needs its member lanes at one place: shfl, vote, mma, ldmatrix, bar.warp.sync.
enum class Flow : u8 { next, branch, branch_table, call, leave, exit, barrier, together };

/// What counters tell apart.
enum class Work : u8 {
  move,      // mov, cvta, selp, ld.param
  integer,   // arithmetic, bits, compares of integers
  floating,  // arithmetic and compares of f16, bf16, f32, f64
  convert,
  special,   // ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh
  matrix,    // mma
  fragment,  // ldmatrix, movmatrix
  shared,    // ld.shared, st.shared
  global,    // ld.global, st.global
  local,     // ld.local, st.local: spills and arrays in memory
  generic,   // ld, st through a generic address
  copy,      // cp.async and its groups
  atomic,
  exchange,  // shfl, vote, match, redux
  barrier,   // bar, fences
  control,   // bra, call, ret, exit
};
inline constexpr int num_works = static_cast<int>(Work::control) + 1;
[[nodiscard]] const char* name(Work work);

inline constexpr u32 max_slots = 16;

struct Instruction {
  Execute execute = nullptr;
  Flow flow = Flow::next;
  Work work = Work::move;
  Space space = Space::generic;
  bool aligned = false;  // all lanes of the warp must be here
  bool guard_negated = false;
  bool negated = false;         // a predicate operand was written !p
  bool copies = false;          // mov: an unset source makes an unset target
  bool elements_apart = false;  // vector load: an element that nobody has written makes an unset target, as compilers load neighbours
  bool flush = false, saturate = false, relu = false;
  u8 rounding = 0;          // 'n' 'z' 'm' 'p' of .rn .rz .rm .rp
  bool to_integer = false;  // .rni and the like
  u8 mode = 0, count = 1;   // see the instruction
  u8 num_written = 0, num_read = 0;
  int member = -1;  // index into slot of the member mask
  int guard = -1;
  u32 target = 0;                     // branch, call
  std::array<u32, max_slots> slot{};  // written registers, then read ones
  s64 offset = 0, second_offset = 0;  // of the first and second address
  u64 number = 0;                     // see the instruction
  u32 line = 0, source = 0;
};

/// Special registers, in the order of their values in Warp::fill_specials.
enum class Special : u8 {
  tid_x,
  tid_y,
  tid_z,
  ntid_x,
  ntid_y,
  ntid_z,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  laneid,
  warpid,
  nwarpid,
  lanemask_eq,
  lanemask_le,
  lanemask_lt,
  lanemask_ge,
  lanemask_gt,
  smid,
  nsmid,
  gridid,
  dynamic_smem_size,
  total_smem_size
};

struct Parameter {
  u64 offset = 0, size_bytes = 0;
};

struct Kernel {
  std::string name;
  std::vector<Instruction> code;  // the kernel, then the functions that it calls
  std::vector<std::vector<u32>> branch_tables;
  std::vector<Parameter> parameters;
  u64 parameter_bytes = 0, static_shared_bytes = 0, dynamic_shared_align = 1;
  u64 frame_bytes = 0;  // per thread: local variables, parameters of calls
  u32 num_slots = 0, num_functions = 0;
  std::vector<std::pair<u32, u64>> constants;
  std::vector<std::pair<u32, Special>> specials;
  u32 max_threads[3] = {0, 0, 0};
  bool exact_threads = false;
  const syntax::Module* module = nullptr;

  /// "attend.cu:12, attend.ptx:345: ld.shared.u32 %r1, [%r2];"
  [[nodiscard]] std::string where(const Instruction& instruction) const;
};

/// A module loaded into a device: its variables have addresses, its kernels are decoded when first asked for.
class Module {
 public:
  /// Error with file and line for text that cannot be read.
  Module(DeviceMemory& memory, std::string text, std::string file);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// The kernel of this name, or the only one whose name contains it. Error if there is none, or for an instruction that is not known.
  [[nodiscard]] const Kernel& kernel(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> kernel_names() const;
  /// Address of a .global or .const variable.
  [[nodiscard]] u64 variable(const std::string& name) const;
  [[nodiscard]] DeviceMemory& memory() const { return memory_; }
  [[nodiscard]] const syntax::Module& text() const { return *text_; }

 private:
  DeviceMemory& memory_;
  std::unique_ptr<const syntax::Module> text_;
  std::map<std::string_view, u64> variables_;
  mutable std::map<std::string, std::unique_ptr<const Kernel>> kernels_;
};

}  // namespace ptx
