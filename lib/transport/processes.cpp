// processes.cpp - forks ranks, lets them meet, and brings home how they ended.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>
#include <thread>

#include "fault/transport.hpp"
#include "seqccl/communicator.hpp"

SEQCCL_BEGIN
namespace {

/// What parent and ranks share: cards for the all-gather, and the first error.
struct Board {
  struct Place {
    std::atomic<std::uint32_t> num_chars{0};
    char text[2000] = {};
  };
  static constexpr int none = 0, being_written = 1, written = 2;
  std::atomic<int> state{none};
  int kind = 0, num_culprits = 0, num_chars = 0;
  Rank culprits[128] = {};
  char text[4096] = {};
};

class SharedBoard {
 public:
  explicit SharedBoard(int num_ranks) : num_bytes_(sizeof(Board) + static_cast<std::size_t>(num_ranks) * sizeof(Board::Place)) {
    memory_ = ::mmap(nullptr, num_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    new (memory_) Board();
    for (Rank rank = 0; rank < num_ranks; ++rank) new (&place(rank)) Board::Place();
  }
  ~SharedBoard() { ::munmap(memory_, num_bytes_); }
  SharedBoard(const SharedBoard&) = delete;
  SharedBoard& operator=(const SharedBoard&) = delete;

  [[nodiscard]] Board& board() noexcept { return *static_cast<Board*>(memory_); }
  [[nodiscard]] Board::Place& place(Rank rank) noexcept {
    return reinterpret_cast<Board::Place*>(static_cast<std::byte*>(memory_) + sizeof(Board))[rank];
  }

 private:
  std::size_t num_bytes_;
  void* memory_;
};

/// One all-gather over the board, as Communicator::from_callback needs it.
std::vector<std::string> gather(SharedBoard& shared, Rank rank, int num_ranks, std::string_view mine, std::chrono::nanoseconds timeout) {
  Board::Place& own = shared.place(rank);
  if (mine.size() > sizeof(own.text)) throw Error(ErrorKind::internal, "run_processes: a rank has too much to say of itself");
  std::memcpy(own.text, mine.data(), mine.size());
  own.num_chars.store(static_cast<std::uint32_t>(mine.size()), std::memory_order_release);
  const auto deadline = SteadyClock::now() + timeout;
  std::vector<std::string> all;
  for (Rank peer = 0; peer < num_ranks; ++peer) {
    Board::Place& place = shared.place(peer);
    std::uint32_t num_chars = 0;
    while ((num_chars = place.num_chars.load(std::memory_order_acquire)) == 0) {
      if (shared.board().state.load() != Board::none)
        throw Error(ErrorKind::dead, fmt::format("run_processes: rank {} has not come, as a rank has failed", peer), {peer});
      if (SteadyClock::now() > deadline) throw Error(ErrorKind::stalled, fmt::format("run_processes: rank {} has not come", peer), {peer});
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    all.emplace_back(place.text, num_chars);
  }
  return all;
}

void keep_error(Board& board, const Error& error) noexcept {
  int none = Board::none;
  if (!board.state.compare_exchange_strong(none, Board::being_written)) return;
  board.kind = static_cast<int>(error.kind());
  board.num_culprits = static_cast<int>(std::min(error.culprits().size(), std::size(board.culprits)));
  std::copy_n(error.culprits().begin(), board.num_culprits, board.culprits);
  board.num_chars = static_cast<int>(std::min(std::strlen(error.what()), sizeof(board.text)));
  std::memcpy(board.text, error.what(), static_cast<std::size_t>(board.num_chars));
  board.state.store(Board::written);
}

/// A rank's whole life. Its exit code says whether it kept an error.
int live(SharedBoard& shared, Rank rank, int num_ranks, const std::function<void(Communicator&)>& body, const ProcessRanks& options) {
  std::optional<Communicator> comm;
  const auto fail = [&](const Error& error) {
    keep_error(shared.board(), error);
    if (comm) comm->abort(error.what());
    return 1;
  };
  try {
    const AllGather all_gather = [&](std::string_view mine) { return gather(shared, rank, num_ranks, mine, options.bootstrap_timeout); };
    comm.emplace(Communicator::from_callback(rank, num_ranks, all_gather, options));
    comm->transport().flight_recorder().set_job(fmt::format("pid{}", ::getppid()), options.group);
    body(*comm);
    comm.reset();
    return 0;
  } catch (const Error& error) {
    return fail(error);
  } catch (const std::exception& error) {
    return fail(Error(ErrorKind::local, fmt::format("rank {} of {}: {}", rank, num_ranks, error.what()), {rank}));
  } catch (...) {
    return fail(Error(ErrorKind::local, fmt::format("rank {} of {}: unknown exception", rank, num_ranks), {rank}));
  }
}

/// Children that are ended with it.
class Children {
 public:
  Children() = default;
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;
  ~Children() {
    for (const pid_t process : processes_)
      if (process > 0) ::kill(process, SIGKILL);
    for (Rank rank = 0; rank < static_cast<Rank>(processes_.size()); ++rank) (void)wait(rank);
  }
  void add(pid_t process) { processes_.push_back(process); }
  /// How the rank ended, as waitpid says.
  int wait(Rank rank) {
    const int status = look(rank, 0);
    processes_[static_cast<std::size_t>(rank)] = 0;
    return status;
  }
  /// The same, but also returns, and true, when the rank is stopped by a signal.
  bool wait_or_stopped(Rank rank, int& status) {
    status = look(rank, WUNTRACED);
    if (WIFSTOPPED(status)) return true;
    processes_[static_cast<std::size_t>(rank)] = 0;
    return false;
  }
  /// Ends a rank that is stopped; one that was let go on meanwhile is left alone. True if it was ended.
  bool end_stopped(Rank rank) {
    if (WIFCONTINUED(look(rank, WCONTINUED | WNOHANG))) return false;
    return ::kill(processes_[static_cast<std::size_t>(rank)], SIGKILL) == 0;
  }

 private:
  int look(Rank rank, int options) {
    const pid_t process = processes_[static_cast<std::size_t>(rank)];
    int status = 0;
    pid_t seen = -1;
    while (process > 0 && (seen = ::waitpid(process, &status, options)) < 0 && errno == EINTR) {
    }
    return seen > 0 ? status : 0;
  }

  std::vector<pid_t> processes_;
};

}  // namespace

void run_processes(int num_ranks, const std::function<void(Communicator&)>& body, const ProcessRanks& options) {
  if (num_ranks < 1) throw Error(ErrorKind::argument, fmt::format("run_processes: num_ranks is {}, want at least 1", num_ranks));
  (void)fault::asked_for(fault::Ranks::processes);  // a wrong text is the caller's mistake: no process begins
  SharedBoard shared(num_ranks);
  std::fflush(nullptr);  // or every rank would write what waits in the buffers
  const pid_t parent = ::getpid();
  Children children;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    const pid_t process = ::fork();
    if (process < 0) throw Error(ErrorKind::local, fmt::format("run_processes: fork of rank {}: {}", rank, std::strerror(errno)), {rank});
    if (process == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(1);  // it was faster
      const int code = live(shared, rank, num_ranks, body, options);
      std::fflush(nullptr);
      ::_exit(code);
    }
    children.add(process);
  }

  std::vector<Rank> signalled, stopped;
  std::string how;
  const auto note = [&](Rank rank, int status) {
    if (WIFEXITED(status) && WEXITSTATUS(status) <= 1 && (WEXITSTATUS(status) == 0 || shared.board().state.load() != Board::none)) return;
    signalled.push_back(rank);
    how += how.empty() ? "" : ", ";
    how += WIFSIGNALED(status) ? fmt::format("rank {} by signal {} ({})", rank, WTERMSIG(status), ::strsignal(WTERMSIG(status)))
                               : fmt::format("rank {} by exit({})", rank, WEXITSTATUS(status));
  };
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    int status = 0;
    if (children.wait_or_stopped(rank, status))
      stopped.push_back(rank);
    else
      note(rank, status);
  }
  // All others have ended. Where one of them says that the group has failed, a rank that is still stopped would be waited for in vain.
  for (const Rank rank : stopped) {
    const bool is_ended = shared.board().state.load() != Board::none && children.end_stopped(rank);
    const int status = children.wait(rank);
    if (!is_ended) note(rank, status);
  }
  if (!signalled.empty()) throw Error(ErrorKind::dead, fmt::format("run_processes: ended: {}", how), std::move(signalled));
  Board& board = shared.board();
  if (board.state.load() == Board::written)
    throw Error(static_cast<ErrorKind>(board.kind), std::string(board.text, static_cast<std::size_t>(board.num_chars)),
                std::vector<Rank>(board.culprits, board.culprits + board.num_culprits));
}

SEQCCL_END
