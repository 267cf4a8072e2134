// transport_test.cpp - `run` and `bench` on ranks as processes: the bits of threads, and what is left when a rank or the command dies.
// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <set>
#include <thread>
#include <utility>

#include "command/memory.hpp"
#include "command/ranks.hpp"
#include "command/support.hpp"
#include "command/tensor.hpp"
#include "support/alarm.hpp"
#include "support/watchdog.hpp"

namespace seqccl::command::test {
namespace {

using nlohmann::json;
using seqccl::test::Alarm;
using seqccl::test::Watchdog;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> joined(std::vector<std::string> first, const std::vector<std::string>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

/// Runs it on threads and on processes: the files must be the same, byte by byte, and so must what was moved.
void expect_same(const Folder& folder, const std::vector<std::string>& arguments) {
  std::vector<std::string> written;
  std::vector<std::uint64_t> moved;
  for (const std::string transport : {"threads", "shm"}) {
    const std::string out = folder.file(transport);
    const Ran ran = run(joined(arguments, {"--transport", transport, "--output", out, "--check", "--json"}));
    ASSERT_EQ(ran.code, exit_right) << transport << ": " << ran.out << ran.err;
    const json report = json::parse(ran.out);
    EXPECT_EQ(report.at("problem").at("transport"), transport);
    EXPECT_TRUE(report.at("passed").get<bool>());
    const json& result = report.at("results").at(0);
    for (const char* pass : {"forward", "backward", "step"})
      if (result.contains(pass)) {
        EXPECT_EQ(result.at(pass).at("moved_bytes"), result.at(pass).at("planned_bytes"));
        EXPECT_EQ(result.at(pass).at("moved_messages"), result.at(pass).at("planned_messages"));
        EXPECT_GT(result.at(pass).at("median_s").get<double>(), 0);
        moved.push_back(result.at(pass).at("moved_bytes").get<std::uint64_t>());
      }
    written.push_back(contents(out));
  }
  ASSERT_GT(written[0].size(), 1000u);
  EXPECT_TRUE(written[0] == written[1]) << "the files differ";
  const auto middle = moved.begin() + static_cast<std::ptrdiff_t>(moved.size() / 2);
  EXPECT_TRUE(std::equal(moved.begin(), middle, middle, moved.end()));
}

std::string softmax_file(const Folder& folder, DType dtype = f32, bool has_sinks = true) {
  const std::string path = folder.file("softmax");
  const HostTensor q = random_tensor(dtype, {2, 61, 4, 8}, 1), k = random_tensor(dtype, {2, 61, 2, 8}, 2),
                   v = random_tensor(dtype, {2, 61, 2, 6}, 3), dout = random_tensor(dtype, {2, 61, 4, 6}, 4),
                   sinks = random_tensor(f32, {4}, 5);
  std::vector<NamedTensor> tensors = {{"q", &q}, {"k", &k}, {"v", &v}, {"dout", &dout}};
  if (has_sinks) tensors.push_back({"sinks", &sinks});
  write_safetensors(path, tensors);
  return path;
}

/// `decay` may be empty; with `bonus` it is a problem of rwkv6.
std::string linear_file(const Folder& folder, const std::vector<std::int64_t>& decay, bool has_bonus) {
  const std::string path = folder.file("linear");
  const HostTensor q = random_tensor(f32, {2, 61, 3, 8}, 1), k = random_tensor(f32, {2, 61, 3, 8}, 2, 0.35),
                   v = random_tensor(f32, {2, 61, 3, 6}, 3), dout = random_tensor(f32, {2, 61, 3, 6}, 4),
                   state = random_tensor(f32, {2, 3, 8, 6}, 5), dstate = random_tensor(f32, {2, 3, 8, 6}, 6),
                   bonus = random_tensor(f32, {3, 8}, 8, 0.5);
  HostTensor log_decay = random_tensor(f32, decay, 7);
  for (std::int64_t i = 0; i < log_decay.size(); ++i) log_decay.set(i, -0.1 * std::abs(log_decay.get(i)));
  std::vector<NamedTensor> tensors = {
      {"q", &q}, {"k", &k}, {"v", &v}, {"dout", &dout}, {"log_decay", &log_decay}, {"state_in", &state}, {"dstate_out", &dstate}};
  if (has_bonus) tensors.push_back({"bonus", &bonus});
  write_safetensors(path, tensors);
  return path;
}

TEST(RunTransport, processes_give_the_bits_of_threads_at_every_number_of_ranks) {
  const Watchdog dog(seconds(240));
  const Folder folder;
  const std::string in = softmax_file(folder);
  for (const char* ranks : {"1", "2", "3", "4", "5", "7", "8"})
    expect_same(folder, {"run", "attention", "-i", in, "--ranks", ranks, "--method", "ring", "--mask", "causal", "--partition", "zigzag"});
}

TEST(RunTransport, processes_give_the_bits_of_threads_with_every_kind_of_problem) {
  const Watchdog dog(seconds(240));
  const Folder folder;
  const std::string softmax = softmax_file(folder);
  for (const char* method : {"kv_all_gather", "head_swap", "token_ring"})
    expect_same(folder, {"run", "attention", "-i", softmax, "--ranks", "4", "--method", method, "--mask", "causal"});
  expect_same(folder, {"run", "attention", "-i", softmax, "--ranks", "4", "--nodes", "2x2", "--method", "double_ring", "--mask", "causal"});
  expect_same(folder, {"run", "attention", "-i", softmax, "--ranks", "4", "--method", "ring", "--partition", "uneven:30,0,31,0"});
  for (const char* result : {"everywhere", "by_heads"})
    expect_same(folder, {"run", "decode", "-i", softmax_file(folder, bf16, false), "--ranks", "4", "--new-tokens", "40", "--result", result,
                         "--page-tokens", "4", "--wait", "block"});
  for (const char* scan : {"all_gather", "zeco"}) {
    expect_same(folder, {"run", "linear", "-i", linear_file(folder, {3}, false), "--ranks", "4", "--scan", scan});
    expect_same(folder,
                {"run", "linear", "-i", linear_file(folder, {2, 61, 3, 8}, true), "--ranks", "4", "--scan", scan, "--wait", "spin"});
  }
}

TEST(RunTransport, traces_come_home_from_processes) {
  const Watchdog dog(seconds(120));
  const Folder folder;
  const std::string in = softmax_file(folder);
  std::vector<std::vector<std::pair<int, std::string>>> seen;  // of each transport: rank and label
  for (const std::string transport : {"threads", "shm"}) {
    const std::string trace = folder.file(transport + ".json");
    ASSERT_EQ(run({"run", "attention", "-i", in, "--method", "ring", "--ranks", "3", "-x", transport, "--trace", trace}).code, exit_right);
    std::vector<std::pair<int, std::string>> steps;
    const json written = json::parse(contents(trace));
    for (const json& event : written.at("traceEvents")) {
      if (event.at("ph") != "X") continue;
      EXPECT_GE(event.at("ts").get<double>(), 0);
      EXPECT_GE(event.at("dur").get<double>(), 0);
      steps.emplace_back(event.at("pid").get<int>(), event.at("name").get<std::string>());
    }
    EXPECT_GT(steps.size(), 9u);
    seen.push_back(std::move(steps));
  }
  EXPECT_EQ(seen[0], seen[1]);
}

TEST(BenchTransport, rows_say_how_they_were_measured) {
  const Watchdog dog(seconds(240));
  const std::vector<std::string> small = {"--ranks", "1,3", "--tokens", "96", "--repeat", "2", "--head-dim", "8", "--transport", "shm"};
  for (const std::vector<std::string>& what : {std::vector<std::string>{"attention", "--method", "ring", "--backward", "--q-heads", "4"},
                                               {"linear", "--scan", "chain", "--backward", "--heads", "2"},
                                               {"decode", "--merge", "tree", "--q-heads", "4"},
                                               {"context_pass", "--q-heads", "4"}}) {
    const std::vector<std::string> arguments = joined(joined({"bench"}, what), small);
    const Ran ran = run(joined(arguments, {"--json"}));
    ASSERT_EQ(ran.code, exit_right) << ran.out << ran.err;
    const json report = json::parse(ran.out);
    EXPECT_EQ(report.at("transport"), "shm");
    EXPECT_GE(report.at("results").size(), 2u);
    for (const json& row : report.at("results")) {
      EXPECT_EQ(row.at("transport"), "shm");
      EXPECT_NE(row.at("wait").get<std::string>().find("then block"), std::string::npos);
      EXPECT_EQ(row.at("seconds").size(), 2u);
      for (const json& each : row.at("seconds")) EXPECT_GT(each.get<double>(), 0);
      EXPECT_EQ(row.at("moved_bytes"), row.at("planned_bytes"));
      EXPECT_EQ(row.at("path"), row.at("ranks") == 1 ? "" : "shared memory");
      if (row.contains("check")) {
        EXPECT_EQ(row.at("check").at("num_wrong"), 0);
      }
    }
  }
  const Ran text = run(joined({"bench", "attention", "--method", "ring", "--q-heads", "4", "--wait", "yield"}, small));
  EXPECT_NE(text.out.find("transport shm; 0 spins, 1048576 yields, then block at ranks 1, 3\n"), std::string::npos) << text.out << text.err;
}

TEST(RunTransport, what_is_not_right_is_named) {
  const Folder folder;
  const std::string in = softmax_file(folder);
  const auto refused = [&](const std::vector<std::string>& options, const std::string& words) {
    const Ran ran = run(joined({"run", "attention", "-i", in}, options));
    EXPECT_EQ(ran.code, exit_bad_input);
    EXPECT_NE(ran.err.find(words), std::string::npos) << ran.err;
  };
  refused({"--transport", "smh"}, "--transport: 'smh' is not known; want one of: threads, shm, ucx");
  refused({"--transport", "nccl"}, "not there yet");
  refused({"--wait", "sleep"}, "--wait: 'sleep' is not known; want one of: auto, spin, yield, block");
  EXPECT_EQ(run({"bench", "attention", "--transport", "smh"}).code, exit_bad_input);
}

/// Variables of the environment, put back as they were: not set.
class Variables {
 public:
  explicit Variables(std::vector<std::pair<const char*, const char*>> given) : all_(std::move(given)) {
    for (const auto& [variable, text] : all_) EXPECT_EQ(::setenv(variable, text, 0), 0);
  }
  ~Variables() {
    for (const auto& each : all_) (void)::unsetenv(each.first);
  }
  Variables(const Variables&) = delete;
  Variables& operator=(const Variables&) = delete;

 private:
  std::vector<std::pair<const char*, const char*>> all_;
};

/// What the rows of a small bench say that their messages went by.
std::set<std::string> paths_of(const std::string& transport, const std::vector<std::string>& what) {
  const Ran ran = run(joined(joined({"bench"}, what), {"--transport", transport, "--repeat", "1", "--json"}));
  EXPECT_EQ(ran.code, exit_right) << ran.err;
  const json report = ran.code == exit_right ? json::parse(ran.out) : json{{"results", json::array()}};
  std::set<std::string> paths;
  for (const json& row : report.at("results")) paths.insert(row.at("path").get<std::string>());
  return paths;
}
const std::vector<std::string> exchanges = {"exchange", "--ranks", "2,3", "--bytes", "8,1m"},
                               decoding = {"decode", "--ranks", "3", "--tokens", "64", "--merge", "tree"};

TEST(BenchTransport, rows_name_what_messages_went_by) {
  const Alarm alarm(120);
  for (const std::vector<std::string>& what : {exchanges, decoding}) {
    EXPECT_EQ(paths_of("threads", what), std::set<std::string>{"own memory"});
    EXPECT_EQ(paths_of("shm", what), std::set<std::string>{"shared memory"});
  }
  const Ran text = run({"bench", "exchange", "--ranks", "2", "--bytes", "8", "--repeat", "1"});
  EXPECT_NE(text.out.find("  path\n"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("  own memory\n"), std::string::npos) << text.out;
}

TEST(UcxBench, rows_name_the_transports_that_ucx_has_chosen) {
  if (!transport_state(ProcessTransport::ucx).is_there) GTEST_SKIP() << transport_state(ProcessTransport::ucx).text;
  const Alarm alarm(120);
  {
    const Variables tcp({{"UCX_TLS", "tcp,self"}, {"UCX_LOG_LEVEL", "fatal"}});
    EXPECT_EQ(paths_of("ucx", exchanges), std::set<std::string>{"tcp"});
  }
  const Variables memory({{"UCX_TLS", "sysv,self"}, {"UCX_LOG_LEVEL", "fatal"}});
  EXPECT_EQ(paths_of("ucx", decoding), std::set<std::string>{"sysv"});
}

TEST(RunTransport, a_launcher_is_refused) {
  const Folder folder;
  const std::vector<std::string> job = {"run", "attention", "-i", softmax_file(folder), "--method", "ring", "--ranks", "2"};
  {
    const Variables torchrun({{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29500"}});
    for (const std::vector<std::string>& each : {job, {"bench", "linear", "--ranks", "2", "--tokens", "64"}}) {
      const Ran ran = run(each);
      EXPECT_EQ(ran.code, exit_bad_input);
      expect_words(ran.err, {"rank 1 of 4 that torchrun has started", "--ranks 4 --transport shm"});
    }
    EXPECT_EQ(run({"explain", "attention", "--ranks", "2", "--tokens", "64", "--method", "ring"}).code, exit_right);  // makes no ranks
  }
  {  // one process is no crowd; nor is the script of a batch job, before srun
    const Variables one({{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29500"}});
    EXPECT_EQ(run(job).code, exit_right);
  }
  const Variables batch({{"SLURM_JOB_ID", "7"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_NODELIST", "localhost"}});
  EXPECT_EQ(run(job).code, exit_right);
  const Variables step({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "8"}});
  EXPECT_EQ(run(job).code, exit_bad_input);
}

TEST(RunTransport, info_says_what_there_is) {
  const json info = json::parse(run({"info", "--json", "--ranks", "3"}).out);
  EXPECT_EQ(info.at("transports").at("shm").get<std::string>().rfind("yes (memfd", 0), 0u);
  for (const int ranks : {1, 2, 3, 4, 8})
    EXPECT_EQ(info.at("wait_policy").at(std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks")), WaitPolicy::for_host(ranks).describe());
  EXPECT_NE(info.at("shared_memory").get<std::string>().find("free of the"), std::string::npos);
  EXPECT_NE(info.at("huge_pages").get<std::string>().find("reserved"), std::string::npos);
}

// --- Ranks that fail, and a command that is ended. ---

/// The command as a process of its own.
class Command {
 public:
  Command(const Folder& folder, const std::vector<std::string>& arguments)
      : out_(folder.file("out")), err_(folder.file("err")), process_(fork()) {
    if (process_ != 0) return;
    const Ran ran = run(arguments);
    write_text(out_, ran.out);
    write_text(err_, ran.err);
    _exit(ran.code);
  }
  ~Command() {
    if (process_ > 0) (void)kill(process_, SIGKILL);
  }
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  void signal(int number) const { EXPECT_EQ(kill(process_, number), 0); }
  Ran wait() {
    int status = 0;
    EXPECT_GT(waitpid(std::exchange(process_, 0), &status, 0), 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status), contents(out_), contents(err_)};
  }
  /// Its processes, once `wanted` says that they are the right ones.
  [[nodiscard]] std::vector<pid_t> ranks(const std::function<bool(const std::vector<pid_t>&)>& wanted) const {
    for (;;) {
      std::vector<pid_t> all = children();
      if (wanted(all)) return all;
      std::this_thread::sleep_for(milliseconds(1));
    }
  }

 private:
  [[nodiscard]] std::vector<pid_t> children() const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string process = entry.path().filename();
      if (process.find_first_not_of("0123456789") != std::string::npos) continue;
      const std::string stat = contents(entry.path() / "stat");  // "12 (name) S 1 ..."
      const std::size_t name_end = stat.rfind(')');
      if (name_end == std::string::npos) continue;
      std::istringstream rest(stat.substr(name_end + 1));
      char state = 0;
      pid_t parent = 0;
      if (rest >> state >> parent && state != 'Z' && parent == process_) found.push_back(std::stoi(process));
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  std::string out_, err_;
  pid_t process_;
};

bool is_gone(pid_t process) {
  const std::string stat = contents("/proc/" + std::to_string(process) + "/stat");
  return stat.empty() || stat.find(") Z ") != std::string::npos;
}

TEST(BenchTransport, rows_are_kept_when_a_rank_dies) {
  const Folder folder;
  Command command(folder, {"bench", "attention", "--transport", "shm", "--ranks", "1,2", "--tokens", "64", "--method", "ring", "--repeat",
                           "5000", "--q-heads", "2", "--head-dim", "8", "--no-check", "--json"});
  const Watchdog dog(seconds(120));  // after the fork
  const std::vector<pid_t> ranks = command.ranks([](const std::vector<pid_t>& all) { return all.size() == 2; });
  ASSERT_EQ(kill(ranks[1], SIGKILL), 0);
  const Ran ran = command.wait();
  EXPECT_EQ(ran.code, exit_communication_failed);
  expect_words(ran.err, {"seqccl: dead:", "rank 1 by signal 9"});
  const json report = json::parse(ran.out);
  ASSERT_EQ(report.at("results").size(), 1u) << ran.out;
  EXPECT_EQ(report.at("results")[0].at("ranks"), 1);
  EXPECT_EQ(report.at("error").at("kind"), "dead");
  EXPECT_EQ(report.at("error").at("culprits"), json{1});
  EXPECT_EQ(report.at("error").at("during"), "ring: 2 ranks, 64 tokens");
  EXPECT_TRUE(is_gone(ranks[0]));
}

TEST(RunTransport, rows_are_kept_when_a_rank_dies) {
  const Folder folder;
  const std::string in = softmax_file(folder);
  Command command(folder, {"run", "attention", "-i", in, "--transport", "shm", "--ranks", "2", "--method", "all", "--repeat", "600"});
  const Watchdog dog(seconds(120));
  const std::vector<pid_t> first = command.ranks([](const std::vector<pid_t>& all) { return all.size() == 2; });
  const std::vector<pid_t> second = command.ranks([&](const std::vector<pid_t>& all) { return all.size() == 2 && all[0] > first[1]; });
  ASSERT_EQ(kill(second[0], SIGKILL), 0);
  const Ran ran = command.wait();
  EXPECT_EQ(ran.code, exit_communication_failed);
  expect_words(ran.err, {"seqccl: dead:", "rank 0 by signal 9"});
  expect_words(ran.out, {"\nring ", "not finished: "});
  EXPECT_TRUE(is_gone(second[1]));
}

TEST(RunTransport, no_process_outlives_the_command) {
  const Folder folder;
  for (const int number : {SIGINT, SIGTERM, SIGKILL}) {
    Command command(folder, {"bench", "linear", "--transport", "shm", "--ranks", "3", "--tokens", "64", "--scan", "chain", "--repeat",
                             "1000000", "--heads", "2", "--head-dim", "8", "--no-check"});
    const Watchdog dog(seconds(120));
    const std::vector<pid_t> ranks = command.ranks([](const std::vector<pid_t>& all) { return all.size() == 3; });
    command.signal(number);
    EXPECT_EQ(command.wait().code, 1000 + number);
    for (const pid_t rank : ranks)
      while (!is_gone(rank)) std::this_thread::sleep_for(milliseconds(2));
  }
}

// --- What it stands on. ---

TEST(SharedMemory, what_a_process_writes_is_seen) {
  HostTensor shared(f32, {2, 3}, Sharing::shared), own(f32, {2, 3});
  const SharedArray<int> numbers(4);
  const pid_t process = fork();
  if (process == 0) {
    shared.set(5, 7);
    own.set(5, 7);
    numbers[3] = 9;
    _exit(0);
  }
  ASSERT_EQ(waitpid(process, nullptr, 0), process);
  EXPECT_EQ(shared.get(5), 7);
  EXPECT_EQ(shared.get(0), 0);
  EXPECT_EQ(own.get(5), 0);
  EXPECT_EQ(numbers[3], 9);

  HostTensor copy = shared;  // memory of its own
  copy.set(5, 8);
  EXPECT_EQ(shared.get(5), 7);
  const HostTensor moved = std::move(shared);
  EXPECT_EQ(moved.get(5), 7);
  EXPECT_NE(HostTensor(f32, {0, 3}, Sharing::shared).view().data, nullptr);
  EXPECT_NE(HostTensor(HostTensor(f32, {0, 3})).view().data, nullptr);
}

TEST(Ranks, every_transport_gives_topology_threads_and_errors) {
  const Watchdog dog(seconds(120));
  for (const RankTransport transport : {RankTransport::threads, RankTransport::shm, RankTransport::ucx}) {
    if (transport == RankTransport::ucx && !transport_state(ProcessTransport::ucx).is_there) continue;
    RunSettings settings;
    settings.num_ranks = 4;
    settings.num_threads = 3;
    settings.timeout_s = 50;
    settings.topology = Topology::nodes(2, 2);
    settings.transport = transport;
    const SharedArray<int> seen(4);
    Lockstep lockstep(4);
    on_ranks(settings, [&](Communicator& comm) {
      const bool right = comm.num_threads() == 3 && comm.timeout() == seconds(50) && comm.topology().ranks_per_node(4) == 2;
      for (int i = 0; i < 100; ++i) lockstep.meet(comm);
      seen[static_cast<std::size_t>(comm.rank())] = right ? 1 : -1;
    });
    for (std::size_t rank = 0; rank < 4; ++rank) EXPECT_EQ(seen[rank], 1) << name(transport);

    Lockstep other(4);
    const auto begin = SteadyClock::now();
    try {
      on_ranks(settings, [&](Communicator& comm) {
        if (comm.rank() == 2) throw Error(ErrorKind::local, "rank 2 has no wish", {2});
        other.meet(comm);
      });
      ADD_FAILURE() << "no error was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::local);
      EXPECT_NE(std::string(error.what()).find("rank 2 has no wish"), std::string::npos) << error.what();
    }
    EXPECT_LT(SteadyClock::now() - begin, seconds(20));
  }
}

}  // namespace
}  // namespace seqccl::command::test
