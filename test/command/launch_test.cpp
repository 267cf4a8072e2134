// launch_test.cpp - `seqccl launch`: ranks that end well, badly, or not by themselves, and signals from outside.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <thread>
#include <utility>

#include "command/child.hpp"
#include "command/support.hpp"
#include "support/watchdog.hpp"

namespace seqccl::command::test {
namespace {

using seqccl::test::Watchdog;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::vector<std::string> launch(const std::vector<std::string>& options, const std::vector<std::string>& program) {
  std::vector<std::string> all = {"launch", "--prefix"};
  all.insert(all.end(), options.begin(), options.end());
  all.emplace_back("--");
  all.insert(all.end(), program.begin(), program.end());
  return all;
}
Ran launch_shell(const std::vector<std::string>& options, const std::string& script) { return run(launch(options, {"sh", "-c", script})); }

bool has_line(const std::string& text, const std::string& line) { return ("\n" + text).find("\n" + line + "\n") != std::string::npos; }

bool is_alive(pid_t process) { return kill(process, 0) == 0; }

/// A number that a script has written, once it is there.
pid_t process_in(const std::string& path) {
  for (;;) {
    std::ifstream file(path);
    pid_t process = 0;
    if (file >> process && file.get() == '\n') return process;
    std::this_thread::sleep_for(milliseconds(5));
  }
}
/// Waits until a process is gone, or has only to be waited for by a parent that is not this one.
void wait_until_gone(pid_t process) {
  for (;;) {
    std::ifstream status("/proc/" + std::to_string(process) + "/stat");
    std::string text;
    if (!is_alive(process) || !std::getline(status, text) || text.find(") Z ") != std::string::npos) return;
    std::this_thread::sleep_for(milliseconds(5));
  }
}

TEST(Launch, EveryRankRunsOnceWithItsVariables) {
  const Watchdog dog(seconds(120));
  for (const int num_ranks : {1, 2, 4}) {
    const std::string count = std::to_string(num_ranks);
    const Ran ran = launch_shell({"--ranks", count},
                                 "echo $SEQCCL_RANK/$SEQCCL_WORLD_SIZE $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $SEQCCL_ADDR "
                                 "$MASTER_ADDR; test $SEQCCL_PORT -gt 0 && test $MASTER_PORT -gt 0 && test $SEQCCL_PORT != $MASTER_PORT && "
                                 "test ${#SEQCCL_TOKEN} = 32; echo $? >&2");
    EXPECT_EQ(ran.code, 0) << ran.err;
    for (int rank = 0; rank < num_ranks; ++rank) {
      const std::string own = std::to_string(rank), of = own + "/" + count;
      EXPECT_TRUE(has_line(ran.out, "[" + own + "] " + of + " " + of + " " + of + " 127.0.0.1 127.0.0.1")) << ran.out;
      EXPECT_TRUE(has_line(ran.err, "[" + own + "] 0")) << ran.err;
    }
    EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), num_ranks);
  }
}

TEST(Launch, TheRanksFindEachOther) {
  const Watchdog dog(seconds(240));
  const Folder folder;
  for (const std::string num_ranks : {"1", "2", "4"})
    for (const bool through_files : {false, true}) {
      std::vector<std::string> program = {SEQCCL_LAUNCHED, "3"};
      if (through_files) program.push_back(folder.file(""));
      const Ran ran = run(launch({"--ranks", num_ranks}, program));
      EXPECT_EQ(ran.code, 0) << ran.err;
      std::string everyone = "rank 0";
      for (int rank = 1; rank < std::stoi(num_ranks); ++rank) everyone += ", rank " + std::to_string(rank);
      for (int rank = 0; rank < std::stoi(num_ranks); ++rank) {
        const std::string own = std::to_string(rank);
        EXPECT_TRUE(has_line(ran.out, "[" + own + "] " + own + " of " + num_ranks + ": " + everyone)) << ran.out;
      }
    }
  EXPECT_EQ(folder.num_files(), 0u);
}

TEST(Launch, ARankThatFailsIsNamedAndTheOthersMaySayWhatTheySaw) {
  const Watchdog dog(seconds(120));
  const Ran ran = launch_shell({"--ranks", "4"}, "if [ $RANK = 2 ]; then exit 3; fi; sleep 0.3; echo last words of $RANK");
  EXPECT_EQ(ran.code, 3);
  EXPECT_TRUE(has_line(ran.err, "seqccl: rank 2 exited with code 3")) << ran.err;
  for (const char* rank : {"0", "1", "3"}) EXPECT_TRUE(has_line(ran.out, std::string("[") + rank + "] last words of " + rank)) << ran.out;
}

TEST(Launch, ARankThatIsKilledIsNamed) {
  const Watchdog dog(seconds(120));
  const Ran ran = launch_shell({"--ranks", "2", "--grace", "0.1"}, "if [ $RANK = 1 ]; then kill -9 $$; fi; exec sleep 1000");
  EXPECT_EQ(ran.code, 128 + 9);
  EXPECT_TRUE(has_line(ran.err, "seqccl: rank 1 was killed by signal 9 (Killed)")) << ran.err;
}

TEST(Launch, ARankThatIgnoresSigtermIsKilled) {
  const Watchdog dog(seconds(120));
  const Folder folder;
  const std::string path = folder.file("stubborn");
  const Ran ran = launch_shell({"--ranks", "2", "--grace", "0.1", "--kill-after", "0.2"},
                               "if [ $RANK = 1 ]; then trap 'echo no' TERM; echo $$ > '" + path +
                                   "'; while :; do sleep 0.05; done; fi; "
                                   "while [ ! -s '" +
                                   path + "' ]; do sleep 0.01; done; exit 7");
  EXPECT_EQ(ran.code, 7);
  EXPECT_TRUE(has_line(ran.out, "[1] no")) << ran.out;
  EXPECT_TRUE(has_line(ran.err, "seqccl: rank 0 exited with code 7")) << ran.err;
  EXPECT_FALSE(is_alive(process_in(path)));
}

TEST(Launch, WhatARankLeavesBehindEndsWithIt) {
  const Watchdog dog(seconds(120));
  const Folder folder;
  const std::string path = folder.file("left");
  const Ran ran = launch_shell({"--ranks", "1"}, "sleep 1000 & echo $! > '" + path + "'");
  EXPECT_EQ(ran.code, 0) << ran.err;
  wait_until_gone(process_in(path));
}

TEST(Launch, TheTimeoutNamesWhoIsStillRunning) {
  const Watchdog dog(seconds(120));
  const Ran ran = launch_shell({"--ranks", "3", "--timeout", "1.5"}, "if [ $RANK = 1 ]; then exit 0; fi; exec sleep 1000");
  EXPECT_EQ(ran.code, exit_communication_failed);
  EXPECT_TRUE(has_line(ran.err, "seqccl: ranks 0, 2 had not ended after 1.5 s")) << ran.err;
}

TEST(Launch, LongAndUnfinishedLinesComeThrough) {
  const Watchdog dog(seconds(120));
  const Ran ran = launch_shell({"--ranks", "2"}, "head -c 100000 /dev/zero | tr '\\0' x; printf '\\nlast'");
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), 'x'), 200000);
  for (const char* rank : {"0", "1"}) EXPECT_TRUE(has_line(ran.out, std::string("[") + rank + "] last"));
}

/// The command as a process whose output goes into a pipe. Its errors go into a file.
class PipedLauncher {
 public:
  PipedLauncher(const std::vector<std::string>& arguments, const std::string& errors) : process_(fork()) {
    if (process_ != 0) {
      pipe_.write.close();
      return;
    }
    const Descriptor file(open(errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
    (void)dup2(pipe_.write.number(), STDOUT_FILENO);
    (void)dup2(file.number(), STDERR_FILENO);
    std::vector<const char*> argv = {"seqccl"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    _exit(run_command(static_cast<int>(argv.size()), argv.data(), std::cout, std::cerr));
  }
  ~PipedLauncher() {
    if (process_ > 0) (void)kill(process_, SIGKILL);
  }
  PipedLauncher(const PipedLauncher&) = delete;
  PipedLauncher& operator=(const PipedLauncher&) = delete;

  /// All that it writes, to the end.
  [[nodiscard]] std::string read_all() const {
    std::string text;
    char bytes[65536];
    for (;;) {
      const ssize_t count = read(pipe_.read.number(), bytes, sizeof bytes);
      if (count == 0) return text;
      if (count > 0)
        text.append(bytes, static_cast<std::size_t>(count));
      else
        std::this_thread::sleep_for(milliseconds(1));
    }
  }
  int wait() {
    int status = 0;
    EXPECT_GT(waitpid(std::exchange(process_, 0), &status, 0), 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  Pipe pipe_ = make_pipe();
  pid_t process_;
};

TEST(Launch, AReaderWhoDoesNotReadDelaysNothing) {
  const Folder folder;
  const std::string path = folder.file("rank"), errors = folder.file("errors");
  const auto begin = std::chrono::steady_clock::now();
  PipedLauncher launcher(launch({"--ranks", "2", "--timeout", "1", "--kill-after", "0.3"},
                                {"sh", "-c", "if [ $RANK = 0 ]; then echo $$ > '" + path + "'; fi; exec yes"}),
                         errors);
  const Watchdog dog(seconds(120));  // after the fork
  const pid_t rank = process_in(path);
  EXPECT_EQ(launcher.wait(), exit_communication_failed);  // nobody has read a byte
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(20));
  wait_until_gone(rank);
  std::ostringstream told;
  told << std::ifstream(errors).rdbuf();
  EXPECT_TRUE(has_line(told.str(), "seqccl: ranks 0, 1 had not ended after 1 s")) << told.str();
  const std::string text = launcher.read_all();  // what was in the pipe: whole lines up to where it was full
  EXPECT_EQ(text.rfind("[", 0), 0u);
  EXPECT_TRUE(has_line(text, "[0] y") || has_line(text, "[1] y")) << text.substr(0, 100);
}

TEST(Launch, ASlowReaderGetsEverything) {
  const Folder folder;
  PipedLauncher launcher(launch({"--ranks", "2"}, {"sh", "-c", "seq 300000"}), folder.file("errors"));
  const Watchdog dog(seconds(120));
  std::this_thread::sleep_for(milliseconds(500));  // more than what waits in the launcher is written by now
  const std::string text = launcher.read_all();
  EXPECT_EQ(launcher.wait(), exit_right);
  std::istringstream lines(text);
  std::array<int, 2> next = {1, 1};
  for (std::string line; std::getline(lines, line);) {
    ASSERT_TRUE(line.size() > 4 && line[0] == '[' && (line[1] == '0' || line[1] == '1')) << line;
    ASSERT_EQ(line.substr(4), std::to_string(next[static_cast<std::size_t>(line[1] - '0')]++));
  }
  EXPECT_EQ(next[0], 300001);
  EXPECT_EQ(next[1], 300001);
}

TEST(Launch, RanksHaveNothingToRead) {
  const Watchdog dog(seconds(120));
  EXPECT_EQ(launch_shell({"--ranks", "1"}, "test -z \"$(cat)\"").code, 0);
}

TEST(Launch, HelpSaysWhatRanksGetAndHowItEnds) {
  const Ran ran = run({"launch", "--help"});
  EXPECT_EQ(ran.code, 0);
  expect_words(ran.out, {"Examples:", "SEQCCL_RANK", "MASTER_PORT", "Exit code", "--kill-after"});
  EXPECT_EQ(ran.out.find("--json"), std::string::npos);
}

TEST(Launch, WrongUsageIsTold) {
  const Watchdog dog(seconds(120));
  const Ran ran = run(launch({"--ranks", "2"}, {"./no-such-program"}));
  EXPECT_EQ(ran.code, exit_bad_input);
  expect_words(ran.err, {"PROGRAM is \"./no-such-program\"", "No such file"});
  EXPECT_EQ(run({"launch", "--ranks", "2"}).code, exit_bad_input);
  EXPECT_EQ(run({"launch", "--", "true"}).code, exit_bad_input);
  EXPECT_EQ(run(launch({"--ranks", "0"}, {"true"})).code, exit_bad_input);
  // A program may have the name of a subcommand, and options of the command's.
  const Ran named = run(launch({"--ranks", "1"}, {"echo", "info", "--ranks", "--", "launch"}));
  EXPECT_EQ(named.out, "[0] info --ranks -- launch\n");
}

TEST(Launch, HandlersAreAsBefore) {
  const Watchdog dog(seconds(120));
  struct sigaction own {
  }, seen{};
  own.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGINT, &own, &seen), 0);
  const struct sigaction before = seen;
  EXPECT_EQ(launch_shell({"--ranks", "1"}, "true").code, 0);
  ASSERT_EQ(sigaction(SIGINT, &before, &seen), 0);
  EXPECT_EQ(seen.sa_handler, own.sa_handler);
}

/// The command as a process of its own, to be sent signals.
class Launcher {
 public:
  explicit Launcher(const std::vector<std::string>& arguments) : process_(fork()) {
    if (process_ == 0) _exit(run(arguments).code);
  }
  ~Launcher() {
    if (process_ > 0) (void)kill(process_, SIGKILL);
  }
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;
  void signal(int number) const { EXPECT_EQ(kill(process_, number), 0); }
  int wait() {
    int status = 0;
    EXPECT_EQ(waitpid(std::exchange(process_, 0), &status, 0) > 0, true);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  pid_t process_;
};

TEST(Launch, CtrlCAndSigtermReachTheRanks) {
  const Folder folder;
  for (const int number : {SIGINT, SIGTERM}) {
    const std::string path = folder.file("rank-" + std::to_string(number) + "-"), trapped = number == SIGINT ? "INT" : "TERM";
    Launcher launcher(launch({"--ranks", "2"}, {"sh", "-c",
                                                "trap 'echo bye > \"" + path + "bye-$RANK\"; exit 0' " + trapped + "; echo $$ > '" + path +
                                                    "'$RANK; while :; do sleep 0.05; done"}));
    const Watchdog dog(seconds(120));  // after the fork
    const pid_t first = process_in(path + "0"), second = process_in(path + "1");
    launcher.signal(number);
    EXPECT_EQ(launcher.wait(), 128 + number);
    EXPECT_FALSE(is_alive(first));
    EXPECT_FALSE(is_alive(second));
    for (const char* rank : {"0", "1"}) EXPECT_TRUE(std::filesystem::exists(path + "bye-" + rank));
  }
}

TEST(Launch, ASecondCtrlCKills) {
  const Folder folder;
  const std::string path = folder.file("rank");
  Launcher launcher(
      launch({"--ranks", "1"},
             {"sh", "-c", "trap 'echo $$ > \"" + path + "-told\"' INT; echo $$ > '" + path + "'; while :; do sleep 0.05; done"}));
  const Watchdog dog(seconds(120));
  const pid_t rank = process_in(path);
  launcher.signal(SIGINT);
  (void)process_in(path + "-told");
  launcher.signal(SIGINT);
  EXPECT_EQ(launcher.wait(), 128 + SIGINT);
  EXPECT_FALSE(is_alive(rank));
}

TEST(Launch, TheRanksDieWithTheLauncher) {
  const Folder folder;
  const std::string path = folder.file("rank");
  Launcher launcher(launch({"--ranks", "1"}, {"sh", "-c", "echo $$ > '" + path + "'; trap '' TERM; while :; do sleep 0.05; done"}));
  const Watchdog dog(seconds(120));
  const pid_t rank = process_in(path);
  launcher.signal(SIGKILL);
  EXPECT_EQ(launcher.wait(), 1000 + SIGKILL);
  wait_until_gone(rank);
}

}  // namespace
}  // namespace seqccl::command::test
