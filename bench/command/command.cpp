// command.cpp - parses the command line, runs the subcommand, turns errors into exit codes.
// SPDX-License-Identifier: Apache-2.0
#include "command/command.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <exception>
#include <iostream>
#include <new>
#include <vector>

#include "command/subcommand.hpp"
#include "command/usage.hpp"
#include "seqccl/version.hpp"

namespace seqccl::command {
namespace {

constexpr const char* footer =
    "Examples:\n"
    "  seqccl run attention --input text.safetensors --ranks 4 --method all --mask causal --partition zigzag --check\n"
    "  seqccl explain attention --ranks 8 --tokens 64k --method ring\n"
    "  seqccl explain crossovers\n"
    "  seqccl bench attention --ranks 2,4 --tokens 4k,16k\n"
    "  seqccl bench decode --ranks 4 --tokens 64k --merge all\n"
    "  seqccl launch --ranks 4 -- ./my_program\n"
    "  seqccl doctor records\n"
    "  seqccl COMMAND --help shows the options and examples of one command\n\n"
    "Exit codes: 0 right, 1 --check failed or doctor found something, 2 bad usage or input, 3 communication failed";

CLI::App& group(CLI::App& root, const char* name, const char* description) {
  CLI::App& app = *root.add_subcommand(name, description);
  app.require_subcommand(1);
  return app;
}

int run_subcommand(int argc, const char* const* argv, const Console& console) {
  CLI::App root("Collectives of sequence parallelism: run, measure and explain them.", "seqccl");
  root.footer(footer);
  root.require_subcommand(1);
  root.set_version_flag("--version", fmt::format("seqccl {}.{}.{}", SEQCCL_VERSION_MAJOR, SEQCCL_VERSION_MINOR, SEQCCL_VERSION_PATCH));
  std::vector<std::unique_ptr<Subcommand>> subcommands;
  subcommands.push_back(make_info(root));
  CLI::App& run = group(root, "run", "Compute a file of tensors on many ranks: softmax or linear attention, a step of decoding");
  subcommands.push_back(make_run_attention(run));
  subcommands.push_back(make_run_linear(run));
  subcommands.push_back(make_run_decode(run));
  CLI::App& bench = group(root, "bench", "Measure methods over sizes, ranks and paths, and compare results");
  subcommands.push_back(make_bench_attention(bench));
  subcommands.push_back(make_bench_linear(bench));
  subcommands.push_back(make_bench_decode(bench));
  subcommands.push_back(make_bench_context_pass(bench));
  subcommands.push_back(make_bench_exchange(bench));
  subcommands.push_back(make_bench_kernels(bench));
  subcommands.push_back(make_bench_compare(bench));
  subcommands.push_back(make_calibrate(root));
  CLI::App& explain = group(root, "explain", "Show what a method does and costs, without running it");
  subcommands.push_back(make_explain_attention(explain));
  subcommands.push_back(make_explain_linear(explain));
  subcommands.push_back(make_explain_decode(explain));
  subcommands.push_back(make_explain_context_pass(explain));
  subcommands.push_back(make_explain_balance(explain));
  subcommands.push_back(make_explain_crossovers(explain));
  CLI::App& draw = group(root, "draw", "Draw the lanes of all ranks over simulated time, as SVG");
  subcommands.push_back(make_draw_attention(draw));
  subcommands.push_back(make_draw_linear(draw));
  subcommands.push_back(make_plot(root));
  subcommands.push_back(make_launch(root));
  subcommands.push_back(make_doctor(root));

  refuse_empty_values(root);
  const CLI::App& asked = asked_subcommand(root, argc, argv);
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != static_cast<int>(CLI::ExitCodes::Success))
      throw Error(ErrorKind::argument, usage_text(root, asked, error));
    root.exit(error, console.out, console.err);  // --help, --version
    return exit_right;
  }
  for (const auto& subcommand : subcommands)
    if (subcommand->asked_for()) return subcommand->run(console);
  return exit_bad_input;
}

}  // namespace

int exit_code_of(ErrorKind kind) noexcept { return kind == ErrorKind::argument ? exit_bad_input : exit_communication_failed; }

int run_command(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  const Console console{out, err, &err == &std::cerr && isatty(STDERR_FILENO) == 1};
  try {
    const int code = run_subcommand(argc, argv, console);
    console.progress("");
    if (out.flush().fail()) {  // a full disk, say: what was asked for is not there
      err << "seqccl: the output could not be written\n";
      return exit_bad_input;
    }
    return code;
  } catch (const Error& error) {
    console.progress("");
    err << "seqccl: " << (error.kind() == ErrorKind::argument ? "" : fmt::format("{}: ", name(error.kind()))) << error.what() << '\n';
    return exit_code_of(error.kind());
  } catch (const std::bad_alloc&) {
    console.progress("");
    err << "seqccl: out of memory: the tensors of this problem do not fit\n";
    return exit_bad_input;
  } catch (const std::exception& error) {
    console.progress("");
    err << "seqccl: internal: " << error.what() << '\n';
    return exit_communication_failed;
  }
}

}  // namespace seqccl::command
