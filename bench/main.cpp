// main.cpp - the `seqccl` command.
// SPDX-License-Identifier: Apache-2.0
#include <iostream>

#include "command/command.hpp"
#include "seqccl/log.hpp"

int main(int argc, char** argv) {
  seqccl::set_log_sink([](std::string_view line) { std::cerr << "seqccl: " << line << std::endl; });
  return seqccl::command::run_command(argc, argv, std::cout, std::cerr);
}
