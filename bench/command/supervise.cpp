// supervise.cpp - one poll loop over ends, output and signals.
// SPDX-License-Identifier: Apache-2.0
#include "command/supervise.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <string>
#include <string_view>

#include "command/command.hpp"
#include "command/outlet.hpp"

namespace seqccl::command {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t max_line_bytes = 65536;

// A handler can reach nothing else: the pipe of the one supervision that is going on.
volatile std::sig_atomic_t signal_pipe = -1;

extern "C" void note_signal(int number) {
  const int before = errno;
  const auto byte = static_cast<unsigned char>(number);
  (void)!::write(static_cast<int>(signal_pipe), &byte, 1);
  errno = before;
}

/// Makes SIGINT, SIGTERM and SIGCHLD readable for as long as it lives.
class SignalPipe {
 public:
  SignalPipe() {
    (void)fcntl(pipe_.write.number(), F_SETFL, O_NONBLOCK);
    signal_pipe = pipe_.write.number();
    struct sigaction action {};
    action.sa_handler = note_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (std::size_t i = 0; i < 3; ++i) (void)sigaction(numbers_[i], &action, &before_[i]);
  }
  ~SignalPipe() {
    for (std::size_t i = 0; i < 3; ++i) (void)sigaction(numbers_[i], &before_[i], nullptr);
    signal_pipe = -1;
  }
  SignalPipe(const SignalPipe&) = delete;
  SignalPipe& operator=(const SignalPipe&) = delete;

  [[nodiscard]] int number() const noexcept { return pipe_.read.number(); }
  /// SIGINT and SIGTERM that have come since the last call.
  [[nodiscard]] std::vector<int> take() const {
    std::vector<int> taken;
    unsigned char bytes[64];
    for (ssize_t count; (count = ::read(pipe_.read.number(), bytes, sizeof bytes)) > 0;)
      for (ssize_t i = 0; i < count; ++i)
        if (bytes[i] != SIGCHLD) taken.push_back(bytes[i]);
    return taken;
  }

 private:
  static constexpr int numbers_[3] = {SIGINT, SIGTERM, SIGCHLD};
  Pipe pipe_ = make_pipe();
  struct sigaction before_[3]{};
};

/// One of a rank's outputs, cut into lines.
struct Stream {
  Descriptor* from;
  Outlet* to;
  std::string prefix;
  std::string line{};

  /// Nothing is read while too much waits to be written: then it is the rank that has to wait.
  [[nodiscard]] bool is_readable() const noexcept { return from->is_open() && !to->is_full(); }
  /// All that is there now, as far as there is room for it; closed at its end. True if it was all.
  bool pass_on() {
    char bytes[8192];
    ssize_t count = 0;
    while (is_readable() && (count = ::read(from->number(), bytes, sizeof bytes)) > 0)
      for (const char c : std::string_view(bytes, static_cast<std::size_t>(count))) {
        if (c != '\n') line += c;
        if (c == '\n' || line.size() >= max_line_bytes) end_line();
      }
    if (from->is_open() && !is_readable()) return false;
    if (from->is_open() && (count == 0 || (errno != EAGAIN && errno != EINTR))) from->close();
    if (!from->is_open() && !line.empty()) end_line();
    return true;
  }
  void end_line() {
    to->add(prefix);
    to->add(line);
    to->add("\n");
    line.clear();
  }
};

class Supervisor {
 public:
  Supervisor(const std::function<std::vector<Child>()>& start, const Supervision& supervision, std::ostream& out, std::ostream& err)
      : supervision_(supervision), out_(out), err_(err), ranks_(start()) {
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      const std::string prefix = fmt::format("[{}] ", i);
      if (ranks_[i].out().is_open()) streams_.push_back({&ranks_[i].out(), &out_, prefix});
      if (ranks_[i].err().is_open()) streams_.push_back({&ranks_[i].err(), &err_, prefix});
    }
    if (supervision.timeout) timeout_at_ = Clock::now() + *supervision.timeout;
  }

  int run() {
    while (look_at_ranks()) {
      act_on_time();
      wait();
      pass_on_output();
      for (const int number : signals_.take()) pass_on_signal(number);
    }
    finish();
    return code_;
  }

 private:
  /// True as long as one runs.
  bool look_at_ranks() {
    bool any = false;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      const bool was_running = !ranks_[i].ending();
      const auto& ending = ranks_[i].look();
      any = any || !ending;
      if (was_running && ending && ending->is_failure() && reason_.empty()) {
        note(ending->code(), fmt::format("rank {} {}", i, ending->text()));
        term_at_ = Clock::now() + supervision_.grace;
      }
    }
    return any;
  }

  void act_on_time() {
    const auto now = Clock::now();
    if (timeout_at_ && now >= *timeout_at_) {
      timeout_at_.reset();
      if (reason_.empty()) {
        std::vector<std::size_t> running;
        for (std::size_t i = 0; i < ranks_.size(); ++i)
          if (!ranks_[i].ending()) running.push_back(i);
        note(exit_communication_failed,
             fmt::format("{} {} had not ended after {:g} s", running.size() == 1 ? "rank" : "ranks", fmt::join(running, ", "),
                         std::chrono::duration<double>(*supervision_.timeout).count()));
      }
      term_at_ = now;
    }
    if (term_at_ && now >= *term_at_) {
      term_at_.reset();
      send(SIGTERM);
      kill_at_ = now + supervision_.kill_after;
    }
    if (kill_at_ && now >= *kill_at_) {
      kill_at_.reset();
      send(SIGKILL);
    }
  }

  void wait() {
    auto next = Clock::now() + std::chrono::hours(1);
    for (const auto& at : {timeout_at_, term_at_, kill_at_})
      if (at) next = std::min(next, *at);
    wait_until(next);
  }

  /// For signals, ranks that write, and readers of what they wrote.
  void wait_until(Clock::time_point next) {
    std::vector<pollfd> polled = {{signals_.number(), POLLIN, 0}};
    for (const Stream& stream : streams_)
      if (stream.is_readable()) polled.push_back({stream.from->number(), POLLIN, 0});
    for (const Outlet* outlet : {&out_, &err_})
      if (!outlet->is_empty()) polled.push_back({outlet->number(), POLLOUT, 0});
    const auto left = std::chrono::ceil<milliseconds>(next - Clock::now()).count();
    (void)poll(polled.data(), polled.size(), static_cast<int>(std::max<std::int64_t>(left, 0)));
  }

  /// True if nothing is left in the pipes.
  bool pass_on_output() {
    bool is_all = true;
    for (Stream& stream : streams_) is_all = stream.pass_on() && is_all;
    out_.write();
    err_.write();
    return is_all;
  }

  /// All are dead, and what they left in their groups too; what has left its group may keep a pipe open, so nobody waits for its end. A
  /// slow reader gets all of a run that ended by itself; else he has the time that a rank has, and at a signal no more.
  void finish() {
    const auto last = reason_.empty() ? Clock::time_point::max() : Clock::now() + supervision_.kill_after;
    for (bool is_first = true;; is_first = false) {
      const bool is_all = pass_on_output();
      for (Stream& stream : streams_)
        if (is_all && !stream.line.empty()) stream.end_line();
      if (is_first && !reason_.empty()) err_.add("seqccl: " + reason_ + '\n');
      out_.write();
      err_.write();
      if (is_all && out_.is_empty() && err_.is_empty()) return;
      const auto now = Clock::now();
      if (now >= last || !signals_.take().empty()) return;
      wait_until(std::min(last, now + std::chrono::hours(1)));
    }
  }

  void pass_on_signal(int number) {
    if (is_interrupted_) return send(SIGKILL);
    is_interrupted_ = true;
    if (reason_.empty()) {
      const char* description = sigdescr_np(number);
      note(128 + number, fmt::format("ended by signal {} ({})", number, description == nullptr ? "unknown" : description));
    }
    send(number);
    term_at_ = Clock::now() + supervision_.grace;
  }

  void note(int code, std::string reason) {
    code_ = code;
    reason_ = std::move(reason);
  }
  void send(int number) const {
    for (const Child& rank : ranks_) rank.signal(number);
  }

  Supervision supervision_;
  Outlet out_, err_;
  SignalPipe signals_;  // before the ranks: who sees a rank may send a signal
  std::vector<Child> ranks_;
  std::vector<Stream> streams_;
  int code_ = exit_right;
  std::string reason_;  // of the first failure
  bool is_interrupted_ = false;
  std::optional<Clock::time_point> timeout_at_, term_at_, kill_at_;
};

}  // namespace

int supervise(const std::function<std::vector<Child>()>& start, const Supervision& supervision, std::ostream& out, std::ostream& err) {
  return Supervisor(start, supervision, out, err).run();
}

}  // namespace seqccl::command
