// data_plane.hpp - messages between ranks as UCX active messages: small ones at once, large ones when the receiver has given a credit.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "worker.hpp"

#if SEQCCL_HAS_UCX

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "../armed_queue.hpp"
#include "seqccl/transport.hpp"

SEQCCL_BEGIN
namespace ucx {

inline constexpr std::uint64_t num_slots = 8;
inline constexpr std::size_t eager_bytes = std::size_t{16} * 1024;
/// With a credit, up to here in pieces through UCX's buffers, above by its rendezvous; over TCP alone all in pieces. UCX's own threshold is
/// worse (notes.md); where the user sets UCX_RNDV_THRESH it counts instead.
inline constexpr std::size_t pieces_bytes = std::size_t{192} * 1024;

/// Before every active message. Both ends have one layout, which they compare when they meet (layout_word).
struct Header {
  enum Kind : std::uint32_t {
    data,    // the message itself
    credit,  // the receiver expects it, and has room
    taken,   // the receiver has taken in all before `taken`
    offer,   // the sender has it and waits for its credit
  };
  std::uint32_t kind = data;
  std::int32_t from = 0, lane = 0, unused = 0;
  std::uint64_t number = 0, num_bytes = 0, flag = 0;  // of the message; numbers count from 0 per pair and lane
  std::uint64_t taken_before = 0;
};

/// What a message did not come to.
struct Trouble {
  Rank peer = 0;
  bool is_sender = false;  // this rank is
  std::uint64_t sent_bytes = 0, expected_bytes = 0;
  std::string broken;  // UCX's word; empty: sizes or flags differ
  SteadyClock::time_point since = SteadyClock::now();
};

/// All calls lock: the rank's threads and its control thread may come at any time. After shut() nothing touches UCX any more, nor memory of
/// the user's.
class DataPlane {
 public:
  DataPlane(Rank rank, int num_ranks);
  ~DataPlane();
  DataPlane(const DataPlane&) = delete;
  DataPlane& operator=(const DataPlane&) = delete;

  [[nodiscard]] std::string address() const { return worker_.address(); }
  void connect(const std::vector<std::string>& addresses);

  /// UCX's transports to `peer`; none after shut().
  [[nodiscard]] std::vector<std::string> paths(Rank peer) const;

  [[nodiscard]] std::uint64_t arm(const Message& receive);
  [[nodiscard]] bool try_send(const Message& send);
  [[nodiscard]] bool has_come(Rank peer, Lane lane, std::uint64_t ticket) const noexcept {
    return incoming_[index(peer, static_cast<int>(lane))].taken.load(std::memory_order_acquire) >= ticket;
  }

  /// True if something was done. Does not wait for another thread that does the same.
  bool progress() noexcept;
  /// False if there is something to do already.
  [[nodiscard]] bool may_sleep() noexcept;
  [[nodiscard]] int event() const noexcept { return worker_.event(); }

  [[nodiscard]] bool has_trouble() const noexcept { return has_trouble_.load(std::memory_order_acquire); }
  [[nodiscard]] std::optional<Trouble> trouble() const;

  /// Messages begun to, and come from, a rank on all lanes.
  [[nodiscard]] std::uint64_t num_sent(Rank peer) const noexcept { return counts_[static_cast<std::size_t>(peer)].sent.load(); }
  [[nodiscard]] std::uint64_t num_come(Rank peer) const noexcept { return counts_[static_cast<std::size_t>(peer)].come.load(); }
  /// A message has been begun and UCX has not said that it is over.
  [[nodiscard]] bool is_sending_to(Rank peer) const noexcept;
  /// Nothing more is sent to a rank that left.
  void forget(Rank peer) noexcept { counts_[static_cast<std::size_t>(peer)].is_gone.store(true); }
  void shut() noexcept;
  /// UCX still knows memory of ours or the user's: the arena must outlive it.
  [[nodiscard]] bool is_busy() const noexcept {
    const std::lock_guard lock(mutex_);
    return num_under_way_ != 0;
  }

  [[nodiscard]] std::vector<std::uint64_t> received_bytes() const;
  [[nodiscard]] std::vector<std::uint64_t> received_messages() const;

 private:
  struct Incoming;
  /// Where a large message lands: what UCX brings back with it.
  struct Landing {
    DataPlane* plane = nullptr;
    Rank peer = 0;
    int lane = 0;
    std::uint64_t number = 0;
  };
  /// Message `number` is at number mod num_slots, while taken <= number < taken + num_slots.
  struct Place {
    bool is_stored = false;   // came before its receive was armed: it is in the room
    bool is_offered = false;  // its sender waits for a credit
    bool is_here = false;     // is where it belongs
    std::uint64_t num_bytes = 0, flag = 0;
    Landing landing;
  };
  struct Incoming {
    ArmedQueue armed;  // from number `taken` on
    std::atomic<std::uint64_t> taken{0};
    std::uint64_t granted = 0, told_taken = 0;
    std::array<Place, num_slots> places;
    std::unique_ptr<std::byte[]> rooms;  // once something has come too early
  };
  struct Outgoing {
    std::uint64_t sent = 0, seen_taken = 0;
    std::array<Header, num_slots> credits;  // of message n if number == n and kind is credit
    Header header;
    void* request = nullptr;  // of the message that is under way
    int num_refused = 0;
    std::uint64_t offered = 0;  // number + 1
  };
  struct Counts {
    std::atomic<std::uint64_t> sent{0}, come{0}, bytes{0}, messages{0};
    std::atomic<bool> is_gone{false};
  };
  /// A header on its way.
  struct Note {
    Header header;
    DataPlane* plane = nullptr;
    Rank peer = -1;
  };

  [[nodiscard]] std::size_t index(Rank peer, int lane) const noexcept { return static_cast<std::size_t>(peer) * num_lanes + lane; }
  static ucs_status_t receive(void* self, const void* header, std::size_t header_bytes, void* data, std::size_t num_bytes,
                              const ucp_am_recv_param_t* param);
  static void landed(void* request, ucs_status_t status, std::size_t num_bytes, void* landing);
  static void note_sent(void* request, ucs_status_t status, void* note);

  ucs_status_t take_data(const Header& header, void* data, bool is_rendezvous);
  void take_offer(const Header& header);
  void put_in_place(Rank peer, int lane, std::uint64_t number);
  void grant(Rank peer, int lane, Incoming& from);
  bool begin(const Message& send, Outgoing& to);
  bool finish(Rank peer, Outgoing& to, ucs_status_t status);
  void send_note(Rank peer, Header header) noexcept;
  void clash(Rank peer, bool is_sender, std::uint64_t sent_bytes, std::uint64_t expected_bytes);
  void broken(Rank peer, ucs_status_t status) noexcept;

  Rank rank_;
  int num_ranks_;
  const Library& ucp_;
  bool user_chose_threshold_;
  std::vector<std::size_t> pieces_bytes_;  // by rank
  mutable std::mutex mutex_;
  bool is_shut_ = false;
  std::vector<Incoming> incoming_;
  std::vector<Outgoing> outgoing_;
  std::vector<Counts> counts_;
  std::vector<std::unique_ptr<Note>> notes_;
  std::vector<Note*> spare_notes_;
  int num_under_way_ = 0;  // requests that know memory of ours or the user's
  std::atomic<bool> has_trouble_{false};
  std::optional<Trouble> trouble_;
  Worker worker_;  // the last: goes first
};

}  // namespace ucx
SEQCCL_END

#endif
