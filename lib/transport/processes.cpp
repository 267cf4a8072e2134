// processes.cpp - forks ranks, lets them meet, and brings home how they ended.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
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
#include "meet.hpp"
#include "seqccl/communicator.hpp"

SEQCCL_BEGIN
namespace {

/// What parent and ranks share: cards for the all-gather, and the first error.
struct Board {
  struct Place {
    std::atomic<std::uint32_t> num_chars{0};
    std::atomic<bool> has_returned{false};  // the rank's last word before it exits
    std::atomic<bool> has_ended{false};     // by a signal or an exit that no error explains: the parent says so
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

Error told(const Board& board) {
  return {static_cast<ErrorKind>(board.kind), std::string(board.text, static_cast<std::size_t>(board.num_chars)),
          std::vector<Rank>(board.culprits, board.culprits + board.num_culprits)};
}

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
      if (shared.board().state.load() == Board::written) throw told(shared.board());
      if (place.has_ended.load())
        throw Error(ErrorKind::dead, fmt::format("run_processes: the process of rank {} has ended before it came", peer), {peer});
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
    // A rank that cannot come throws, and the others find its error on the board.
    const AllGather all_gather = [&](std::string_view mine) { return gather(shared, rank, num_ranks, mine, options.bootstrap_timeout); };
    comm.emplace(communicator_at({all_gather, [](const Error&) {}}, rank, num_ranks, options));
    comm->transport().flight_recorder().set_job(fmt::format("pid{}", ::getppid()), options.group);
    body(*comm);
    comm->throw_if_aborted();
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
  enum class State { running, stopped, ended };
  struct Child {
    pid_t process = 0;
    State state = State::running;
    int status = 0;           // as waitpid says
    bool is_unknown = false;  // it has ended, and the system does not say how: SIGCHLD is ignored in this process
    bool is_ended_here = false;
  };

  Children() = default;
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;
  ~Children() {
    end_rest();
    for (Child& child : children_)
      if (child.state != State::ended) (void)wait_for(child.process, child.status, 0);
  }
  void add(pid_t process) { children_.push_back({process}); }
  [[nodiscard]] const std::vector<Child>& all() const noexcept { return children_; }
  [[nodiscard]] int count(State state) const {
    return static_cast<int>(std::count_if(children_.begin(), children_.end(), [&](const Child& child) { return child.state == state; }));
  }

  /// Looks at each; true if one has ended, stopped or gone on since the last look.
  bool look() {
    bool any = false;
    for (Child& child : children_) {
      while (child.state != State::ended) {
        int status = 0;
        const pid_t seen = wait_for(child.process, status, WNOHANG | WUNTRACED | WCONTINUED);
        if (seen == 0) break;
        any = true;
        if (seen < 0) {
          child.is_unknown = true;
          child.state = State::ended;
          break;
        }
        child.status = status;
        child.state = WIFSTOPPED(status) ? State::stopped : WIFCONTINUED(status) ? State::running : State::ended;
      }
    }
    return any;
  }
  void end_rest() {
    for (Child& child : children_)
      if (child.state != State::ended) {
        child.is_ended_here = true;
        (void)::kill(child.process, SIGKILL);
      }
  }

 private:
  static pid_t wait_for(pid_t process, int& status, int options) {
    pid_t seen = -1;
    while ((seen = ::waitpid(process, &status, options)) < 0 && errno == EINTR) {
    }
    return seen;
  }
  std::vector<Child> children_;
};

/// By a signal, or by an exit that no error explains.
bool is_bad_end(const Children::Child& child, Board& board, const Board::Place& place) {
  if (child.state != Children::State::ended) return false;
  if (child.is_unknown) return !place.has_returned.load();
  if (!WIFEXITED(child.status)) return true;
  const int code = WEXITSTATUS(child.status);
  return code > 1 || (code == 1 && board.state.load() == Board::none);
}

/// Those who still wait for such a rank to come are told.
bool any_ended_badly(const Children& children, SharedBoard& shared) {
  bool any = false;
  for (Rank rank = 0; rank < static_cast<Rank>(children.all().size()); ++rank) {
    if (!is_bad_end(children.all()[static_cast<std::size_t>(rank)], shared.board(), shared.place(rank))) continue;
    shared.place(rank).has_ended.store(true);
    any = true;
  }
  return any;
}

/// "rank 2 by signal 9 (Killed)"
std::string end_text(Rank rank, const Children::Child& child) {
  if (child.is_unknown) return fmt::format("rank {} (how is not known: SIGCHLD is ignored in this process)", rank);
  if (!WIFSIGNALED(child.status)) return fmt::format("rank {} by exit({})", rank, WEXITSTATUS(child.status));
  return fmt::format("rank {} by signal {} ({})", rank, WTERMSIG(child.status), ::strsignal(WTERMSIG(child.status)));
}

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
      shared.place(rank).has_returned.store(true);
      ::_exit(code);
    }
    children.add(process);
  }

  Board& board = shared.board();
  constexpr auto first_pause = std::chrono::microseconds(50), longest_pause = std::chrono::microseconds(5000);
  auto pause = first_pause;
  std::optional<SteadyClock::time_point> end_at;
  while (children.count(Children::State::ended) < num_ranks) {
    pause = children.look() ? first_pause : std::min(2 * pause, longest_pause);
    std::this_thread::sleep_for(pause);
    const bool has_failed = any_ended_badly(children, shared) || board.state.load() != Board::none;
    if (!has_failed) continue;
    // A rank that is stopped would be waited for in vain once all others have ended; one that is busy has its grace.
    if (children.count(Children::State::running) == 0) children.end_rest();
    if (options.grace && !end_at) end_at = SteadyClock::now() + *options.grace;
    if (end_at && SteadyClock::now() >= *end_at) children.end_rest();
  }

  std::vector<Rank> gone, late;
  std::string how;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    const Children::Child& child = children.all()[static_cast<std::size_t>(rank)];
    if (child.is_ended_here && (child.is_unknown || (WIFSIGNALED(child.status) && WTERMSIG(child.status) == SIGKILL))) {
      late.push_back(rank);
      continue;
    }
    if (!is_bad_end(child, board, shared.place(rank))) continue;
    gone.push_back(rank);
    how += (how.empty() ? "" : ", ") + end_text(rank, child);
  }
  const bool is_told = board.state.load() == Board::written;
  std::string text = is_told ? std::string(board.text, static_cast<std::size_t>(board.num_chars)) : "";
  if (end_at && !late.empty())
    text += fmt::format("{}rank {} had not ended {:.3g} s after the group failed, and was killed", text.empty() ? "" : "; ",
                        fmt::join(late, ", "), std::chrono::duration<double>(*options.grace).count());
  if (!gone.empty()) {
    text = fmt::format("run_processes: ended: {}{}{}", how, text.empty() ? "" : "; ", text);
    throw Error(ErrorKind::dead, text, std::move(gone));
  }
  if (is_told) throw Error(static_cast<ErrorKind>(board.kind), text, told(board).culprits());
}

SEQCCL_END
