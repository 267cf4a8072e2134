// child.cpp - fork, exec and wait, so that nothing is left behind.
// SPDX-License-Identifier: Apache-2.0
#include "command/child.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>

#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

std::string system_text(int error_number) { return std::generic_category().message(error_number); }

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

/// Between fork and exec: system calls only, as other threads of the parent may have held locks.
[[noreturn]] void become(char* const* command, char* const* environment, pid_t parent, int nothing, int out, int err, int report) {
  const auto fail = [report] {
    const int error_number = errno;
    (void)!::write(report, &error_number, sizeof error_number);
    _exit(127);
  };
  (void)setpgid(0, 0);
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent died before that
  for (const int number : {SIGINT, SIGTERM, SIGCHLD, SIGPIPE}) (void)std::signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, nullptr);
  if (dup2(nothing, STDIN_FILENO) < 0) fail();
  if (out >= 0 && dup2(out, STDOUT_FILENO) < 0) fail();
  if (err >= 0 && dup2(err, STDERR_FILENO) < 0) fail();
  execvpe(command[0], command, environment);
  fail();
  _exit(127);
}

}  // namespace

void Descriptor::close() noexcept {
  if (number_ >= 0) (void)::close(number_);
  number_ = -1;
}

Pipe make_pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw Error(ErrorKind::local, "launch: cannot open a pipe: " + system_text(errno));
  (void)fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

std::string Ending::text() const {
  if (signal == 0) return fmt::format("exited with code {}", exit_code);
  const char* description = sigdescr_np(signal);
  return fmt::format("was killed by signal {} ({})", signal, description == nullptr ? "unknown" : description);
}

Child::Child(const std::vector<std::string>& command, const std::vector<std::string>& environment, bool captured) {
  Pipe out = captured ? make_pipe() : Pipe{}, err = captured ? make_pipe() : Pipe{}, report = make_pipe();
  const Descriptor nothing(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!nothing.is_open()) throw Error(ErrorKind::local, "launch: cannot open /dev/null: " + system_text(errno));
  const std::vector<char*> arguments = pointers_to(command), variables = pointers_to(environment);
  const pid_t parent = getpid();
  process_ = fork();
  if (process_ < 0) {
    process_ = 0;
    throw Error(ErrorKind::local, "launch: cannot start a process: " + system_text(errno));
  }
  if (process_ == 0)
    become(arguments.data(), variables.data(), parent, nothing.number(), out.write.number(), err.write.number(), report.write.number());
  (void)setpgid(process_, process_);  // both do, so that it is done whoever runs first

  // Closed by exec if all is well.
  report.write.close();
  (void)fcntl(report.read.number(), F_SETFL, 0);
  int error_number = 0;
  ssize_t count;
  do count = ::read(report.read.number(), &error_number, sizeof error_number);
  while (count < 0 && errno == EINTR);
  if (count > 0) {
    reap(/*waiting=*/true);
    throw Error(ErrorKind::argument,
                fmt::format("launch: PROGRAM is \"{}\", which cannot be started ({}); want a program on the PATH or its file",
                            command.front(), system_text(error_number)));
  }
  out_ = std::move(out.read);
  err_ = std::move(err.read);
}

Child::~Child() {
  if (process_ == 0 || ending_) return;
  signal(SIGKILL);
  reap(/*waiting=*/true);
}

void Child::signal(int number) const noexcept {
  if (process_ > 0 && !ending_) (void)kill(-process_, number);
}

const std::optional<Ending>& Child::look() noexcept {
  if (!ending_) reap(/*waiting=*/false);
  return ending_;
}

void Child::reap(bool waiting) noexcept {
  siginfo_t ended{};
  int failed;
  do failed = waitid(P_PID, static_cast<id_t>(process_), &ended, WEXITED | WNOWAIT | (waiting ? 0 : WNOHANG));
  while (failed != 0 && errno == EINTR);
  if (failed == 0 && ended.si_pid == 0) return;
  // It is still in the table, so the group's number is nobody else's.
  (void)kill(-process_, SIGKILL);
  int status = 0;
  pid_t reaped;
  do reaped = waitpid(process_, &status, 0);
  while (reaped < 0 && errno == EINTR);
  // Somebody else has taken the answer (a handler of the program that this runs in): all that is known is that it ended.
  if (reaped != process_)
    ending_ = Ending{.exit_code = 127, .signal = 0};
  else if (WIFSIGNALED(status))
    ending_ = Ending{.exit_code = 0, .signal = WTERMSIG(status)};
  else
    ending_ = Ending{.exit_code = WEXITSTATUS(status), .signal = 0};
}

}  // namespace seqccl::command
