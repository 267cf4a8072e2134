// resources_test.cpp - registers and shared memory of every kernel on every architecture, against the table that is committed.
// SPDX-License-Identifier: Apache-2.0
#include <cxxabi.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <set>
#include <sstream>

namespace seqccl::test {
namespace {

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// "attend_tensor<bf16, 64, 64>" of a mangled name.
std::string readable(const std::string& mangled) {
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, nullptr), std::free);
  std::string text = name ? name.get() : mangled;
  text = std::regex_replace(text, std::regex("^void |seqccl::v0::cuda::|\\(anonymous namespace\\)::"), "");
  text = std::regex_replace(text, std::regex("\\([^()]*\\)$"), "");
  return std::regex_replace(std::regex_replace(text, std::regex("__nv_bfloat16"), "bf16"), std::regex("__half"), "f16");
}

/// How many blocks of 128 threads a multiprocessor has registers for: 65536 of them, given to warps in units of 256.
int blocks_by_registers(int registers) { return 65536 / ((registers * 32 + 255) / 256 * 256 * 4); }

/// What ptxas said of each kernel, a sorted line each.
std::set<std::string> lines(int& spill_bytes) {
  const std::regex function("Compiling entry function '(\\w+)' for '(\\w+)'"),
      spills("(\\d+) bytes spill stores, (\\d+) bytes spill loads"), used("Used (\\d+) registers"), shared(", (\\d+) bytes smem");
  std::set<std::string> all;
  for (const auto& entry : std::filesystem::directory_iterator(CUDA_LOGS)) {
    if (entry.path().extension() != ".log") continue;
    std::stringstream log(text_of(entry.path()));
    std::string line, kernel, architecture;
    for (std::smatch match; std::getline(log, line);) {
      if (std::regex_search(line, match, function)) {
        kernel = readable(match[1]), architecture = match[2];
      } else if (std::regex_search(line, match, spills)) {
        spill_bytes += std::stoi(match[1]) + std::stoi(match[2]);
      } else if (std::regex_search(line, match, used)) {
        const int registers = std::stoi(match[1]);
        std::smatch bytes;
        const std::string shared_bytes = std::regex_search(line, bytes, shared) ? std::string(bytes[1]) : "0";
        char row[200];
        std::snprintf(row, sizeof row, "%-40s %-8s %9d %12s %6d\n", kernel.c_str(), architecture.c_str(), registers, shared_bytes.c_str(),
                      blocks_by_registers(registers));
        all.insert(row);
      }
    }
  }
  return all;
}

/// "V13.0.88" of this machine's nvcc.
std::string nvcc_version() {
  std::string text;
  FILE* const pipe = popen(NVCC " --version", "r");
  if (pipe == nullptr) return text;
  for (char part[256]; std::fgets(part, sizeof part, pipe) != nullptr;) text += part;
  pclose(pipe);
  std::smatch match;
  return std::regex_search(text, match, std::regex("V\\d+\\.\\d+\\.\\d+")) ? match.str() : text;
}

TEST(CudaResources, NothingSpillsAndTheTableIsRight) {
  int spill_bytes = 0;
  std::string table =
      "# What each kernel takes, by ptxas " + nvcc_version() +
      ". Written by SEQCCL_WRITE=1 test_cuda --gtest_filter=CudaResources.*\n# blocks: of 128 threads on a multiprocessor, by "
      "registers alone\n";
  table += "# kernel                         for      registers shared_bytes blocks\n";
  const std::set<std::string> kernels = lines(spill_bytes);
  for (const std::string& line : kernels) table += line;
  EXPECT_EQ(spill_bytes, 0);
  EXPECT_GE(kernels.size(), 14U);
  const std::filesystem::path committed = std::filesystem::path(CUDA_SOURCES) / "resources.txt";
  if (std::getenv("SEQCCL_WRITE") != nullptr) std::ofstream(committed) << table;
  const std::string before = text_of(committed);
  if (before.find(nvcc_version()) == std::string::npos) return;  // made by another compiler, which gives other numbers
  EXPECT_EQ(before, table);
}

}  // namespace
}  // namespace seqccl::test
