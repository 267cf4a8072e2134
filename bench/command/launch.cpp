// launch.cpp - `seqccl launch`: one process per rank on this host, told who they are by their environment.
// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <system_error>

#include "command/child.hpp"
#include "command/command.hpp"
#include "command/number_option.hpp"
#include "command/subcommand.hpp"
#include "command/supervise.hpp"

namespace seqccl::command {
namespace {

constexpr const char* launch_examples =
    "  seqccl launch --ranks 4 -- ./my_program --its-options\n"
    "  seqccl launch --ranks 2 --prefix --timeout 60 -- python3 train.py\n\n"
    "The ranks get SEQCCL_RANK, SEQCCL_WORLD_SIZE, SEQCCL_ADDR, SEQCCL_PORT, SEQCCL_JOB and SEQCCL_TOKEN, and what torchrun would set:\n"
    "RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT. They have nothing on their standard input.\n"
    "Exit code: 0, or that of the first rank that failed (128 + signal if it was killed); 3 after --timeout";

[[noreturn]] void fail(const std::string& what) {
  throw Error(ErrorKind::local, fmt::format("launch: {}: {}", what, std::generic_category().message(errno)));
}

/// A port of loopback that nobody else is given as long as this object lives. It does not listen, and says that the port may be used
/// again: rank 0 can listen there all the same.
class ReservedPort {
 public:
  ReservedPort() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (!socket_.is_open()) fail("cannot open a socket");
    const int yes = 1;
    (void)setsockopt(socket_.number(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in own{};
    own.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof own;
    if (bind(socket_.number(), reinterpret_cast<sockaddr*>(&own), sizeof own) != 0) fail("cannot find a free port");
    if (getsockname(socket_.number(), reinterpret_cast<sockaddr*>(&own), &length) != 0) fail("cannot find a free port");
    number_ = ntohs(own.sin_port);
  }
  [[nodiscard]] int number() const noexcept { return number_; }

 private:
  Descriptor socket_;
  int number_ = 0;
};

std::string random_token() {
  std::array<unsigned char, 16> bytes;
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) fail("the system gives no random bytes");
  std::string token;
  for (const unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

/// This process's environment with `variables` in it.
std::vector<std::string> environment_with(const std::map<std::string, std::string, std::less<>>& variables) {
  std::vector<std::string> all;
  for (char* const* each = environ; *each != nullptr; ++each) {
    const std::string_view text = *each;
    if (variables.find(text.substr(0, text.find('='))) == variables.end()) all.emplace_back(text);
  }
  for (const auto& [name, value] : variables) all.push_back(name + "=" + value);
  return all;
}

class Launch final : public Subcommand {
 public:
  explicit Launch(CLI::App& parent) {
    CLI::App& app = add_without_json(parent, "launch", "Start a program once per rank on this host", launch_examples);
    const char* const seconds = "seconds from 0 to 1e7";
    add_count(app, "--ranks", num_ranks_, "Number of processes", 1, max_ranks).required();
    add_number(app, "--timeout", timeout_s_, "Seconds after which all are ended; 0: none", 0, 1e7, seconds);
    add_number(app, "--grace", grace_s_, "Seconds that the others have after the first failure, before SIGTERM", 0, 1e7, seconds);
    add_number(app, "--kill-after", kill_after_s_, "Seconds from SIGTERM to SIGKILL", 0, 1e7, seconds);
    app.add_flag("--prefix", prefix_, "Write [rank] before each line of output, as on a terminal");
    app.add_option("PROGRAM", program_, "Program and its arguments, after --")->required();
  }

  int run(const Console& console) override {
    const bool captured = prefix_ || (&console.out == &std::cout && isatty(STDOUT_FILENO) == 1);
    const ReservedPort port, other_port;  // frameworks listen at MASTER_PORT themselves
    std::map<std::string, std::string, std::less<>> variables = {
        {"SEQCCL_WORLD_SIZE", std::to_string(num_ranks_)},
        {"SEQCCL_ADDR", "127.0.0.1"},
        {"SEQCCL_PORT", std::to_string(port.number())},
        {"SEQCCL_JOB", fmt::format("launch-{}-{}", getpid(), port.number())},
        {"SEQCCL_TOKEN", random_token()},
        {"WORLD_SIZE", std::to_string(num_ranks_)},
        {"LOCAL_WORLD_SIZE", std::to_string(num_ranks_)},
        {"MASTER_ADDR", "127.0.0.1"},
        {"MASTER_PORT", std::to_string(other_port.number())},
    };
    const auto start = [&] {
      std::vector<Child> ranks;
      for (int rank = 0; rank < num_ranks_; ++rank) {
        for (const char* name : {"SEQCCL_RANK", "RANK", "LOCAL_RANK"}) variables[name] = std::to_string(rank);
        ranks.emplace_back(program_, environment_with(variables), captured);
      }
      return ranks;
    };
    const auto milliseconds = [](double seconds) { return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3)); };
    Supervision supervision{.grace = milliseconds(grace_s_), .kill_after = milliseconds(kill_after_s_)};
    if (timeout_s_ > 0) supervision.timeout = milliseconds(timeout_s_);
    const auto begin = std::chrono::steady_clock::now();
    const int code = supervise(start, supervision, console.out, console.err);
    const bool is_late = supervision.timeout && std::chrono::steady_clock::now() - begin >= *supervision.timeout;
    if (code != exit_right) console.err << hint(code == exit_communication_failed && is_late);
    return code;
  }

 private:
  /// Where to look now. A communicator says who hangs, and writes its record, only after its own timeout.
  [[nodiscard]] std::string hint(bool is_timeout) const {
    const char* const records = std::getenv("SEQCCL_FLIGHT_RECORD");
    std::string text = records == nullptr || *records == 0
                           ? "seqccl: set SEQCCL_FLIGHT_RECORD=FOLDER, and ranks whose communicator fails leave records there, which "
                             "`seqccl doctor FOLDER` reads\n"
                           : fmt::format("seqccl: records of what the ranks did last, if they left any: seqccl doctor {}\n", records);
    if (is_timeout)
      text += fmt::format(
          "seqccl: --timeout ended the ranks; a communicator says who hangs after its own timeout, 600 s or what the program sets: "
          "SEQCCL_TIMEOUT={:g} would be sooner\n",
          std::max(timeout_s_ / 2, 0.001));
    return text;
  }

  int num_ranks_ = 0;
  double timeout_s_ = 0, grace_s_ = 10, kill_after_s_ = 5;
  bool prefix_ = false;
  std::vector<std::string> program_;
};

}  // namespace

std::unique_ptr<Subcommand> make_launch(CLI::App& parent) { return std::make_unique<Launch>(parent); }

}  // namespace seqccl::command
