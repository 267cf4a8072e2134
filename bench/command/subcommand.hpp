// subcommand.hpp - what each subcommand is: options it adds to the command line, and what it does with them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "command/table.hpp"

namespace seqccl::command {

class Subcommand {
 public:
  virtual ~Subcommand() = default;
  /// Returns the exit code. @throws Error
  [[nodiscard]] virtual int run(const Console& console) = 0;
  /// True if the command line asked for this one.
  [[nodiscard]] bool asked_for() const { return app_ != nullptr && app_->parsed(); }

 protected:
  /// Adds the subcommand `name` with --json.
  CLI::App& add_to(CLI::App& parent, const std::string& name, const std::string& description, const std::string& examples) {
    add_without_json(parent, name, description, examples);
    app_->add_flag("--json", json_, "The same numbers, machine readable, on stdout; nothing else is printed there");
    return *app_;
  }
  /// For one that has no numbers to tell.
  CLI::App& add_without_json(CLI::App& parent, const std::string& name, const std::string& description, const std::string& examples) {
    app_ = parent.add_subcommand(name, description);
    app_->footer("In whole numbers, also those of lists, k, m and g (or K, M, G) mean 2^10, 2^20 and 2^30: 4k is 4096.\n\nExamples:\n" +
                 examples);
    return *app_;
  }
  [[nodiscard]] bool json() const noexcept { return json_; }

 private:
  CLI::App* app_ = nullptr;
  bool json_ = false;
};

// info.cpp, run_*.cpp, bench*.cpp, explain*.cpp, draw.cpp, plot.cpp, launch.cpp, doctor.cpp.
[[nodiscard]] std::unique_ptr<Subcommand> make_info(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_run_attention(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_run_linear(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_run_decode(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_bench_attention(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_bench_linear(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_bench_decode(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_bench_context_pass(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_bench_exchange(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_bench_kernels(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_bench_compare(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_explain_attention(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_explain_linear(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_explain_decode(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_explain_context_pass(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_explain_balance(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_explain_crossovers(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_calibrate(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_draw_attention(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_draw_linear(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_plot(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_launch(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Subcommand> make_doctor(CLI::App& parent);

}  // namespace seqccl::command
