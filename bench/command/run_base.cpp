// run_base.cpp - what every `seqccl run` does around its own tensors.
// SPDX-License-Identifier: Apache-2.0
#include "command/run_base.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "command/command.hpp"
#include "command/number_option.hpp"

namespace seqccl::command {

void Run::add_softmax(CLI::App& app) {
  add_number(app, "--softcap", softcap_, "Scores become C tanh(score / C); 0: none", 0, 1e30, "a number >= 0");
  app.add_option("--trace", options_.trace, "Write what every rank did when, as Chrome trace JSON");
}

void Run::keep_failure(RunReport& report, const std::function<void()>& compute) const {
  try {
    compute();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::argument) throw;
    report.failed(error);
  }
}

void Run::note_input(RunReport& report, const SafetensorsFile& file, bool wants_dout) const {
  report.note_unused(file.unused());
  if (wants_dout && !file.has("dout")) report.note("no dout in the input: forward only");
}

bool Run::is_refused(RunReport& report, const std::string& label, const std::string& why, bool only_one) const {
  if (why.empty()) return false;
  if (only_one) throw Error(ErrorKind::argument, why);
  report.refused(label, why);
  return true;
}

void Run::write_once(RunReport& report, const std::string& label, std::vector<NamedTensor> results, const std::vector<TraceStep>& trace) {
  if (is_written_) return;
  is_written_ = true;
  if (!options_.trace.empty()) {
    write_chrome_trace(options_.trace, trace);
    report.note(fmt::format("wrote {} ({})", options_.trace, label));
  }
  if (options_.output.empty()) return;
  results.erase(std::remove_if(results.begin(), results.end(), [](const NamedTensor& each) { return !each.tensor->present(); }),
                results.end());
  write_safetensors(options_.output, results);
  report.note(fmt::format("wrote {} ({})", options_.output, label));
}

int Run::show(const Console& console, const RunReport& report) const {
  console.progress("");
  if (json())
    console.out << report.json().dump(1) << '\n';
  else
    console.out << report.text();
  if (report.failure()) throw Error(*report.failure());
  if (report.num_results() == 0) throw Error(ErrorKind::argument, "nothing ran: all refuse this problem");
  return options_.wants_check() && !report.passed() ? exit_check_failed : exit_right;
}

}  // namespace seqccl::command
