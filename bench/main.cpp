// main.cpp - the `seqccl` command.
// SPDX-License-Identifier: Apache-2.0
#include <iostream>

#include "command/command.hpp"

int main(int argc, char** argv) { return seqccl::command::run_command(argc, argv, std::cout, std::cerr); }
