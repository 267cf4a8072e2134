// run_base.hpp - what every `seqccl run` does around its own tensors: options, the report's notes, the files it writes, the exit code.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "command/report.hpp"
#include "command/run_options.hpp"
#include "command/subcommand.hpp"

namespace seqccl::command {

class Run : public Subcommand {
 protected:
  /// For those that take sinks and soft caps, and can say what every rank did when.
  void add_softmax(CLI::App& app);

  /// q, k and v as collectives take them.
  template <class Tensors>
  void read_qkv(SafetensorsFile& file, Tensors& tensors) const {
    tensors.q = in_dtype(file.read("q"), options_.dtype);
    tensors.k = in_dtype(file.read("k"), options_.dtype);
    tensors.v = in_dtype(file.read("v"), options_.dtype);
  }

  /// A rank that fails ends `compute`, but not the report: what was added to it stays.
  void keep_failure(RunReport& report, const std::function<void()>& compute) const;

  /// What is said of the input file: tensors in it that were not read, and that there are no gradients for want of dout.
  void note_input(RunReport& report, const SafetensorsFile& file, bool wants_dout) const;

  /// True if the problem is refused: that is reported, or thrown where there is `only_one` way to compute it.
  bool is_refused(RunReport& report, const std::string& label, const std::string& why, bool only_one) const;

  /// The files that were asked for, once: results of the first way that ran. Absent tensors are left out.
  void write_once(RunReport& report, const std::string& label, std::vector<NamedTensor> results, const std::vector<TraceStep>& trace);

  /// Shows the report. Returns the exit code. @throws Error(argument) if nothing ran; the error of a rank that failed, once all is shown
  [[nodiscard]] int show(const Console& console, const RunReport& report) const;

  RunOptions options_;
  float softcap_ = 0;

 private:
  bool is_written_ = false;
};

}  // namespace seqccl::command
