// log.cpp - the one sink of a process.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/log.hpp"

#include <mutex>
#include <utility>

SEQCCL_BEGIN
namespace {

struct Log {
  std::mutex mutex;
  LogSink sink;
};
Log& the_log() {
  static Log* const log = new Log;  // never destroyed: a communicator that is static may outlive everything
  return *log;
}

}  // namespace

void set_log_sink(LogSink sink) {
  Log& log = the_log();
  const std::lock_guard lock(log.mutex);
  log.sink = std::move(sink);
}

void log_line(std::string_view line) noexcept {
  try {
    Log& log = the_log();
    const std::lock_guard lock(log.mutex);
    if (log.sink) log.sink(line);
  } catch (...) {
  }
}

SEQCCL_END
