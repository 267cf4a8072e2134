// host_facts.cpp - asks the kernel, by doing what the transports do.
// SPDX-License-Identifier: Apache-2.0
#include "command/host_facts.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>

#include "command/child.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// A number in a file of its own; nothing if there is none, or a word such as "max".
std::optional<double> number_in(const char* path) {
  std::istringstream text(first_line(path));
  double number = 0;
  return text >> number ? std::optional(number) : std::nullopt;
}

/// A line of /proc/meminfo, without its unit.
std::optional<double> memory_number(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind(key + ":", 0) == 0) return std::stod(line.substr(key.size() + 1));
  return std::nullopt;
}

}  // namespace

std::string shm_text() {
  const Descriptor memory(::memfd_create("seqccl-info", MFD_CLOEXEC));
  if (!memory.is_open()) return fmt::format("no: memfd_create: {}", std::strerror(errno));
  const Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return fmt::format("no: unix sockets: {}", std::strerror(errno));
  const Descriptor process(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  return process.is_open() ? "yes (memfd, pidfd)" : fmt::format("yes (memfd; pidfd: {}: sockets tell who has died)", std::strerror(errno));
}

std::string shared_memory_text() {
  const std::optional<double> free_kib = memory_number("MemAvailable");
  if (!free_kib) return "unknown";
  double free_bytes = *free_kib * 1024;
  const char* bound = "of the machine; the size of /dev/shm does not matter";
  const auto limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (limit && used && *limit - *used < free_bytes) {
    free_bytes = std::max(0.0, *limit - *used);
    bound = "of the control group; the size of /dev/shm does not matter";
  }
  return fmt::format("{} free {}", human_bytes(free_bytes), bound);
}

std::string huge_pages_text() {
  // "always within_size [advise] never ...": the kernel marks what holds.
  const auto chosen = [](const std::string& line) {
    const std::size_t begin = line.find('['), end = line.find(']');
    return begin == std::string::npos || end == std::string::npos ? std::string("unknown") : line.substr(begin + 1, end - begin - 1);
  };
  return fmt::format("shared memory: {}, private memory: {}, {:g} reserved",
                     chosen(first_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled")),
                     chosen(first_line("/sys/kernel/mm/transparent_hugepage/enabled")), memory_number("HugePages_Total").value_or(0));
}

}  // namespace seqccl::command
