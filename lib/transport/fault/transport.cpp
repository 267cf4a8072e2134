// transport.cpp - passes every call on to the real transport, and fails where it was asked to.
// SPDX-License-Identifier: Apache-2.0
#include "transport.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "seqccl/log.hpp"

SEQCCL_BEGIN
namespace fault {
namespace {

constexpr std::uint64_t damage = 0x8000000000000001u;  // on a flag

class FaultTransport final : public Transport {
 public:
  FaultTransport(std::unique_ptr<Transport> inner, std::vector<Spec> specs) : inner_(std::move(inner)), specs_(std::move(specs)) {}
  ~FaultTransport() override {
    if (::getpid() != process_) return;  // a copy in a forked child
    for (const Spec& spec : specs_) {
      try {
        log_line(fmt::format("rank {} of {}: no such operation and step has come, so this did nothing: {}", rank(), num_ranks(),
                             spec.describe()));
      } catch (...) {  // no memory for the words
      }
    }
  }

  Rank rank() const noexcept override { return inner_->rank(); }
  int num_ranks() const noexcept override { return inner_->num_ranks(); }
  const char* name() const noexcept override { return inner_->name(); }
  std::vector<std::string> paths(Rank peer) const override { return inner_->paths(peer); }
  std::byte* arena(std::size_t num_bytes) override { return inner_->arena(num_bytes); }
  Buffer allocate(std::size_t num_bytes) override { return inner_->allocate(num_bytes); }
  bool is_receivable(const std::byte* data, std::size_t num_bytes) const noexcept override {
    return inner_->is_receivable(data, num_bytes);
  }
  std::size_t eager_bytes() const noexcept override { return inner_->eager_bytes(); }
  int inline_spins() const noexcept override { return inner_->inline_spins(); }

  std::uint64_t arm(const Message& receive) override {
    const std::lock_guard lock(mutex_);
    return inner_->arm(of_this_plan(receive));
  }

  bool try_send(const Message& send) override {
    const std::lock_guard lock(mutex_);
    Message message = of_this_plan(send);
    if (damaged_ && damaged_->takes(send)) message.flag ^= damage;
    if (late_ && late_->takes(send) && SteadyClock::now() < late_->until) return false;
    if (!inner_->try_send(message)) return false;
    if (damaged_ && damaged_->is(send)) damaged_.reset();
    if (late_ && late_->is(send)) late_.reset();
    return true;
  }

  bool arrived(Rank peer, Lane lane, std::uint64_t ticket) override { return inner_->arrived(peer, lane, ticket); }
  void check() override { inner_->check(); }

  void idle(int attempt, SteadyClock::time_point deadline) override {
    {
      const std::lock_guard lock(mutex_);
      if (late_ && late_->bound) deadline = std::min(deadline, late_->until);  // nobody rings when that has passed
    }
    inner_->idle(attempt, deadline);
  }

  void wake() noexcept override { inner_->wake(); }
  void abort(const Error& error) noexcept override { inner_->abort(error); }
  RankStatus& status(Rank rank) noexcept override { return inner_->status(rank); }
  SteadyClock::time_point status_time(Rank rank) const noexcept override { return inner_->status_time(rank); }
  void ask_for_status(Rank rank) noexcept override { inner_->ask_for_status(rank); }

  /// Faults that have not struck go along with this rank, whatever its number is then.
  ShrunkTransport shrink(std::chrono::nanoseconds timeout) override {
    ShrunkTransport shrunk = inner_->shrink(timeout);
    const std::lock_guard lock(mutex_);
    if (!specs_.empty()) shrunk.transport = std::make_unique<FaultTransport>(std::move(shrunk.transport), std::exchange(specs_, {}));
    return shrunk;
  }

  void describe_operation(std::string_view text) override {
    const std::lock_guard lock(mutex_);
    text_ = text;
    inner_->describe_operation(text);
  }

  std::vector<std::uint64_t> received_bytes() const override { return inner_->received_bytes(); }
  std::vector<std::uint64_t> received_messages() const override { return inner_->received_messages(); }

  void begin_step(const Schedule& schedule, std::uint32_t step) override {
    while (const std::optional<Spec> spec = take(schedule.name, step)) strike(*spec);
  }

 private:
  /// A fault of the next message: bound to the first that is tried, and to its repetitions.
  struct OfMessage {
    SteadyClock::time_point until{};
    std::optional<std::pair<Rank, Lane>> bound{};

    bool takes(const Message& send) {
      if (!bound) bound.emplace(send.peer, send.lane);
      return is(send);
    }
    [[nodiscard]] bool is(const Message& send) const { return bound == std::pair(send.peer, send.lane); }
  };

  /// The next fault that strikes here, which is then used up.
  std::optional<Spec> take(const std::string& schedule_name, std::uint32_t step) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t operation = inner_->status(rank()).operation.load(std::memory_order_relaxed);
    const auto found =
        std::find_if(specs_.begin(), specs_.end(), [&](const Spec& spec) { return spec.strikes(schedule_name, operation, step); });
    if (found == specs_.end()) return std::nullopt;
    const Spec spec = *found;
    specs_.erase(found);
    return spec;
  }

  void strike(const Spec& spec) {
    log_line(fmt::format("rank {} of {}: a fault that was asked for: {}", rank(), num_ranks(), spec.describe()));
    switch (spec.kind) {
      case Kind::kill:
        ::kill(::getpid(), SIGKILL);
        return;
      case Kind::stop:
        ::kill(::getpid(), SIGSTOP);
        return;
      case Kind::exit:
        ::_exit(0);
      case Kind::stall:
        std::this_thread::sleep_for(spec.time);
        return;
      case Kind::delay: {
        const std::lock_guard lock(mutex_);
        late_ = OfMessage{.until = SteadyClock::now() + spec.time};
        return;
      }
      case Kind::corrupt: {
        const std::lock_guard lock(mutex_);
        damaged_ = OfMessage{};
        return;
      }
      case Kind::mismatch: {
        const std::lock_guard lock(mutex_);
        turns_to_another_plan_ = true;
        return;
      }
    }
  }

  Message of_this_plan(Message message) {
    if (turns_to_another_plan_) {  // with the next message: all of this operation may have gone already
      turns_to_another_plan_ = false;
      RankStatus& mine = inner_->status(rank());
      other_plan_in_ = mine.operation.load(std::memory_order_relaxed);
      mine.plan.store(mine.plan.load(std::memory_order_relaxed) ^ damage);
      inner_->describe_operation(fmt::format("another plan, asked for with SEQCCL_FAULT\n{}", text_));
    }
    if (other_plan_in_ != 0 && other_plan_in_ == inner_->status(rank()).operation.load(std::memory_order_relaxed)) message.flag ^= damage;
    return message;
  }

  std::unique_ptr<Transport> inner_;
  std::mutex mutex_;  // steps begin on two threads of the rank
  std::vector<Spec> specs_;
  std::optional<OfMessage> damaged_, late_;
  bool turns_to_another_plan_ = false;
  std::uint64_t other_plan_in_ = 0;
  pid_t process_ = ::getpid();
  std::string text_;
};

}  // namespace

std::vector<Spec> asked_for(Ranks ranks) {
  const char* text = std::getenv("SEQCCL_FAULT");
  if (text == nullptr) return {};
  std::vector<Spec> specs = parse(text);
  for (const Spec& spec : specs)
    if (ranks == Ranks::threads && is_for_processes(spec.kind))
      throw Error(ErrorKind::argument,
                  fmt::format("SEQCCL_FAULT: kind is \"{}\" where ranks are threads of one process, which it would end "
                              "or stop; want stall, delay, corrupt or mismatch, or ranks as processes",
                              name(spec.kind)));
  return specs;
}

std::unique_ptr<Transport> with_faults(std::unique_ptr<Transport> inner, const std::vector<Spec>& specs) {
  std::vector<Spec> mine;
  std::copy_if(specs.begin(), specs.end(), std::back_inserter(mine), [&](const Spec& spec) { return spec.rank == inner->rank(); });
  if (inner->rank() == 0)
    for (const Spec& spec : specs)
      if (spec.rank >= inner->num_ranks())
        log_line(fmt::format("SEQCCL_FAULT: rank {} is not one of the {} ranks here, so this does nothing: {}", spec.rank,
                             inner->num_ranks(), spec.describe()));
  if (mine.empty()) return inner;
  for (const Spec& spec : mine)
    log_line(fmt::format("rank {} of {}: faults are on (SEQCCL_FAULT): {}", inner->rank(), inner->num_ranks(), spec.describe()));
  return std::make_unique<FaultTransport>(std::move(inner), std::move(mine));
}

}  // namespace fault
SEQCCL_END
