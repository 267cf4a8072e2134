// case.cpp - runs a case: sets SEQCCL_FAULT or lets the victim do it, and collects what every rank says.
// SPDX-License-Identifier: Apache-2.0
#include "case.hpp"

#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "layer.hpp"
#include "seqccl/seqccl.hpp"
#include "support/alarm.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t round_of_fault = 3;  // the ranks have run, and the arenas are there
constexpr int rounds_survived = 5, rounds_at_most = 100'000;
constexpr auto short_time = 150ms, long_stall = 2300ms;
constexpr double largest_error = 6e-6;  // relative RMS in f32: three times the cap, as gradients are among it

/// What a rank says in the end, in memory that all see.
struct Told {
  enum State : int { nothing, failed, finished };
  std::atomic<int> state{nothing};
  std::atomic<pid_t> process{0};
  ErrorKind kind = ErrorKind::internal;
  int num_culprits = 0;
  Rank culprits[8] = {};
  double seconds = 0;  // from the call that failed to its error
  double worst = 0;    // error of the numbers, if finished
  bool inputs_changed = false, outputs_changed = false;
  char text[1024] = {};
};

class SharedTold {
 public:
  explicit SharedTold(int count) : num_bytes_(static_cast<std::size_t>(count) * sizeof(Told)) {
    memory_ = ::mmap(nullptr, num_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    for (int i = 0; i < count; ++i) new (&(*this)[i]) Told();
  }
  ~SharedTold() { ::munmap(memory_, num_bytes_); }
  SharedTold(const SharedTold&) = delete;
  SharedTold& operator=(const SharedTold&) = delete;
  [[nodiscard]] Told& operator[](Rank rank) { return static_cast<Told*>(memory_)[rank]; }

 private:
  std::size_t num_bytes_;
  void* memory_;
};

struct Asked {
  explicit Asked(const std::string& text) {
    if (!text.empty()) ::setenv("SEQCCL_FAULT", text.c_str(), 1);
  }
  ~Asked() { ::unsetenv("SEQCCL_FAULT"); }
};

bool is_stopped(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  std::getline(file, text);
  const std::size_t end = text.rfind(')');
  return end != std::string::npos && end + 2 < text.size() && text[end + 2] == 'T';
}

/// A process that lets the victim go on a while after it has stopped.
class Waker {
 public:
  explicit Waker(const std::atomic<pid_t>& victim) : process_(::fork()) {
    if (process_ != 0) return;
    for (int i = 0; i < 3000; ++i, std::this_thread::sleep_for(10ms)) {
      const pid_t sleeper = victim.load();
      if (sleeper == 0 || !is_stopped(sleeper)) continue;
      std::this_thread::sleep_for(short_time);
      ::kill(sleeper, SIGCONT);
      ::_exit(0);
    }
    ::_exit(1);
  }
  /// True if it had somebody to wake.
  bool finish() {
    int status = 0;
    while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

 private:
  pid_t process_;
};

void close_all_sockets() {
  DIR* folder = ::opendir("/proc/self/fd");
  std::vector<int> sockets;
  while (const dirent* entry = ::readdir(folder)) {
    const int number = std::atoi(entry->d_name);
    struct stat about {};
    if (number > 2 && ::fstat(number, &about) == 0 && S_ISSOCK(about.st_mode)) sockets.push_back(number);
  }
  ::closedir(folder);
  for (const int number : sockets) ::close(number);
}

/// No file grows from here on: neither does shared memory.
void fill_memory() {
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit nothing{0, 0};
  ::setrlimit(RLIMIT_FSIZE, &nothing);
}

std::string spec_text(const Case& it) {
  if (it.how == How::stop_and_go) return "stop";
  if (it.how == How::short_stall) return "stall:" + std::to_string(short_time.count()) + "ms";
  if (it.how == How::stall) return "stall:" + std::to_string(long_stall.count()) + "ms";
  if (it.how == How::delay) return "delay:" + std::to_string(short_time.count()) + "ms";
  return name(it.how);
}

/// What SEQCCL_FAULT says; empty if the victim does it by itself.
std::string fault_of(const Case& it) {
  switch (it.how) {
    case How::wrong_plan:
    case How::wrong_order:
    case How::wrong_dtype:
    case How::memory_full:
    case How::aborts:
    case How::sockets_closed:
      return {};
    default:
      break;
  }
  // A plan does not need a transport: the victim's steps are counted on one that is thrown away.
  std::vector<Communicator> comms = thread_communicators(it.num_ranks);
  const auto num_steps = make_layer(comms[static_cast<std::size_t>(it.victim)], it.layer, it.is_large)->num_steps(it.is_backward);
  const std::size_t step = it.how == How::mismatch ? 0 : num_steps * static_cast<std::size_t>(it.step) / 1000;
  const std::uint64_t operation = it.is_backward ? 2 * round_of_fault : 2 * round_of_fault - 1;
  return "rank=" + std::to_string(it.victim) + ",operation=" + std::to_string(operation) + ",step=" + std::to_string(step) +
         ",kind=" + spec_text(it);
}

ErrorKind expected_kind(How how) {
  switch (how) {
    case How::kill:
    case How::exit:
      return ErrorKind::dead;
    case How::stop:
    case How::stall:
      return ErrorKind::stalled;
    case How::memory_full:
    case How::aborts:
      return ErrorKind::local;
    default:
      return ErrorKind::mismatched;
  }
}

std::chrono::nanoseconds timeout_of(const Case& it) {
  if (it.how == How::stop || it.how == How::stall) return 400ms;
  // Where both sides wait for what the other does not send, nobody sees a message that does not fit before the time is up.
  return is_survived(it.how) || expected_kind(it.how) != ErrorKind::mismatched ? 20s : 3s;
}

/// A rank's life: rounds of forward and backward until the fault, or so many as show that there was none.
void live(Communicator& comm, const Case& it, SharedTold& all) {
  Told& told = all[comm.rank()];
  told.process = ::getpid();
  const bool is_victim = comm.rank() == it.victim;
  const auto layer = make_layer(comm, it.layer, it.is_large);
  std::unique_ptr<Layer> other;
  if (is_victim && (it.how == How::wrong_plan || it.how == How::wrong_dtype))
    other =
        make_layer(comm, it.layer, it.is_large, {.scale = it.how == How::wrong_plan ? 0.5f : 0.25f, .is_bf16 = it.how == How::wrong_dtype});

  const std::uint64_t inputs = layer->input_sum();
  auto begin = SteadyClock::now();
  const auto call = [&](bool backward, Layer& on) {
    begin = SteadyClock::now();
    backward ? on.backward() : on.forward();
  };
  try {
    const int num_rounds = is_survived(it.how) ? rounds_survived : rounds_at_most;
    for (int round = 1; round <= num_rounds; ++round) {
      const bool now = round == static_cast<int>(round_of_fault);
      if (now && is_victim && it.how == How::sockets_closed) close_all_sockets();
      if (now && is_victim && it.how == How::aborts) comm.abort("it was asked to");
      if (now && is_victim && it.how == How::memory_full) {
        fill_memory();
        (void)comm.arena(std::size_t{64} << 20);  // as an operation that needs more than those before
      }
      if (now && is_victim && it.how == How::wrong_order) {
        call(true, *layer);
        call(false, *layer);
        continue;
      }
      Layer& mine = now && other ? *other : *layer;
      call(false, mine);
      call(true, mine);
    }
    told.worst = layer->error(true);
    told.inputs_changed = layer->input_sum() != inputs;
    told.state = Told::finished;
  } catch (const Error& error) {
    told.seconds = std::chrono::duration<double>(SteadyClock::now() - begin).count();
    const std::uint64_t outputs = layer->output_sum();
    std::this_thread::sleep_for(50ms);
    told.outputs_changed = layer->output_sum() != outputs;
    told.inputs_changed = layer->input_sum() != inputs;
    told.kind = error.kind();
    told.num_culprits = static_cast<int>(std::min(error.culprits().size(), std::size(told.culprits)));
    std::copy_n(error.culprits().begin(), told.num_culprits, told.culprits);
    std::strncpy(told.text, error.what(), sizeof(told.text) - 1);
    told.state = Told::failed;
    throw;
  }
}

void run_on(const Case& it, SharedTold& told, std::chrono::nanoseconds timeout) {
  if (it.where == Where::threads) {
    Watchdog dog(std::chrono::seconds(60));
    const auto body = [&](Communicator& comm) {
      const auto leash = dog.watch(comm.transport());
      live(comm, it, told);
    };
    return run_ranks(it.num_ranks, body, {.timeout = timeout});
  }
  const auto body = [&](Communicator& comm) {
    Watchdog dog(std::chrono::seconds(60));  // of this process: says what the rank does, then ends it
    const auto leash = dog.watch(comm.transport());
    live(comm, it, told);
  };
  run_processes(
      it.num_ranks, body,
      {.timeout = timeout, .bootstrap_timeout = 30s, .transport = it.where == Where::ucx ? ProcessTransport::ucx : ProcessTransport::shm});
}

void expect_survivor(const Case& it, Rank rank, const Told& told) {
  SCOPED_TRACE("rank " + std::to_string(rank) + ": " + told.text);
  ASSERT_EQ(told.state, Told::failed);
  EXPECT_LT(told.seconds, std::chrono::duration<double>(timeout_of(it)).count() + 2);
  EXPECT_FALSE(told.outputs_changed) << "an output was written after the error";
  EXPECT_FALSE(told.inputs_changed) << "an input was written";
  const std::vector<Rank> culprits(told.culprits, told.culprits + told.num_culprits);
  EXPECT_EQ(told.kind, expected_kind(it.how)) << name(told.kind);
  if (it.how == How::corrupt) {  // both ends do the same
    EXPECT_EQ(culprits.size(), 2u);
    EXPECT_NE(std::find(culprits.begin(), culprits.end(), it.victim), culprits.end());
  } else if (told.kind == ErrorKind::mismatched && it.num_ranks == 2) {
    EXPECT_EQ(culprits, std::vector<Rank>{1});  // of two the higher
  } else {
    EXPECT_EQ(culprits, std::vector<Rank>{it.victim});
  }
  if (it.how == How::aborts || it.how == How::memory_full) return;  // not at a step
  const std::string text = told.text;
  EXPECT_NE(text.find("step "), std::string::npos);
  EXPECT_TRUE(text.find("operation") != std::string::npos || text.find(" on rank ") != std::string::npos);
  if (it.how == How::stop) {  // in the midst of the operation
    EXPECT_EQ(text.find("has not called"), std::string::npos);
  }
}

}  // namespace

const char* name(How how) {
  constexpr std::array<const char*, num_hows> names{"kill",    "exit",        "stop",        "stall",       "mismatch",
                                                    "corrupt", "wrong_plan",  "wrong_order", "wrong_dtype", "memory_full",
                                                    "aborts",  "short_stall", "stop_and_go", "delay",       "sockets_closed"};
  return names[static_cast<std::size_t>(how)];
}
bool is_survived(How how) { return how >= How::short_stall; }
const char* name(Where where) {
  constexpr const char* names[] = {"threads", "shm", "ucx"};
  return names[static_cast<int>(where)];
}
bool is_possible(How how, Where where) {
  switch (how) {
    case How::kill:
    case How::exit:
    case How::stop:
    case How::stop_and_go:
      return where != Where::threads;
    case How::memory_full:
    case How::sockets_closed:  // ucx could not do without
      return where == Where::shm;
    default:
      return true;
  }
}

std::string Case::text() const {
  std::string text = std::string(name(where)) + "_" + layer + "_" + std::to_string(num_ranks) + "ranks_" + name(how) + "_of" +
                     std::to_string(victim) + (is_backward ? "_backward_at" : "_forward_at") + std::to_string(step) +
                     (is_large ? "_large" : "_small");
  for (char& letter : text)
    if (letter == ':' || letter == '-') letter = '_';
  return text;
}

std::vector<std::string> layers() {
  std::vector<std::string> names = method_names();
  std::erase(names, "automatic");
  names.insert(names.end(), {"scan:doubling", "scan:pipelined_chain"});
  return names;
}

std::vector<Case> sample(Where where, int count, std::uint64_t seed) {
  if (where == Where::ucx && !transport_state(ProcessTransport::ucx).is_there) return {};
  std::mt19937_64 random(seed);
  const std::vector<std::string> names = layers();
  std::vector<How> hows;
  for (int how = 0; how < num_hows; ++how)
    if (is_possible(static_cast<How>(how), where)) hows.push_back(static_cast<How>(how));
  std::vector<Case> cases;
  for (int i = 0; i < count; ++i) {
    Case it{
        .where = where, .layer = names[static_cast<std::size_t>(i) % names.size()], .how = hows[static_cast<std::size_t>(i) % hows.size()]};
    constexpr int sizes[] = {2, 3, 4, 5, 7, 8};
    it.num_ranks = sizes[random() % std::size(sizes)];
    it.victim = static_cast<Rank>(random() % static_cast<std::uint64_t>(it.num_ranks));
    it.step = static_cast<int>(random() % 1000);
    it.is_backward = random() % 2 == 0;
    it.is_large = random() % 2 == 0;
    cases.push_back(it);
  }
  return cases;
}

Belongings Belongings::now() {
  Belongings all;
  DIR* folder = ::opendir("/proc/self/fd");
  while (folder != nullptr && ::readdir(folder) != nullptr) ++all.num_descriptors;
  if (folder != nullptr) ::closedir(folder);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find("memfd:") != std::string::npos) ++all.num_memory_files;
  int status = 0;
  const pid_t child = ::waitpid(-1, &status, WNOHANG);
  all.num_children = child >= 0 ? 1 : 0;  // else there is none at all
  std::ifstream pages("/proc/self/statm");
  std::size_t mapped = 0, resident = 0;
  if (pages >> mapped >> resident) all.resident_bytes = resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return all;
}

void expect_handled(const Case& it) {
  SCOPED_TRACE(it.text());
  const Alarm alarm(120);
  prepare(it.layer, it.is_large, it.num_ranks);
  const Belongings before = Belongings::now();
  {
    SharedTold told(it.num_ranks);
    std::optional<Waker> waker;
    if (it.how == How::stop_and_go) waker.emplace(told[it.victim].process);
    std::string thrown;
    {
      const Asked asked(fault_of(it));
      try {
        run_on(it, told, timeout_of(it));
      } catch (const Error& error) {
        thrown = error.what();
      }
    }
    if (waker) {
      EXPECT_TRUE(waker->finish()) << "the victim was never stopped";
    }
    EXPECT_EQ(thrown.empty(), is_survived(it.how)) << thrown;
    for (Rank rank = 0; rank < it.num_ranks; ++rank) {
      if (is_survived(it.how)) {
        EXPECT_EQ(told[rank].state, Told::finished) << "rank " << rank << ": " << told[rank].text;
        EXPECT_LT(told[rank].worst, largest_error) << "rank " << rank;
        EXPECT_FALSE(told[rank].inputs_changed);
      } else if (rank != it.victim) {
        expect_survivor(it, rank, told[rank]);
      }
    }
  }
  {  // and again, without a fault
    Case healthy = it;
    healthy.how = How::short_stall;
    SharedTold told(it.num_ranks);
    EXPECT_NO_THROW(run_on(healthy, told, 30s));
    for (Rank rank = 0; rank < it.num_ranks; ++rank) {
      EXPECT_EQ(told[rank].state, Told::finished);
      EXPECT_LT(told[rank].worst, largest_error) << "rank " << rank << " of a fresh communicator";
    }
  }
  const Belongings after = Belongings::now();
  EXPECT_EQ(after.num_descriptors, before.num_descriptors);
  EXPECT_EQ(after.num_memory_files, before.num_memory_files);
  EXPECT_EQ(after.num_children, 0u);
}

}  // namespace seqccl::test
