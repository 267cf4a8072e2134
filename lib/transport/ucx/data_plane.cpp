// data_plane.cpp - credits, arrivals and windows over ucp_am_send_nbx.
// SPDX-License-Identifier: Apache-2.0
#include "data_plane.hpp"

#if SEQCCL_HAS_UCX

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>

SEQCCL_BEGIN
namespace ucx {
namespace {

constexpr int refusals_before_offer = 4;  // most credits are there at the first or second look

}  // namespace

DataPlane::DataPlane(Rank rank, int num_ranks)
    : rank_(rank),
      num_ranks_(num_ranks),
      ucp_(library()),
      user_chose_threshold_(std::getenv("UCX_RNDV_THRESH") != nullptr),
      incoming_(static_cast<std::size_t>(num_ranks) * num_lanes),
      outgoing_(incoming_.size()),
      counts_(static_cast<std::size_t>(num_ranks)),
      worker_(rank) {
  worker_.on_message(receive, this);
  for (Rank peer = 0; peer < num_ranks; ++peer)
    for (int lane = 0; lane < num_lanes; ++lane)
      for (Place& place : incoming_[index(peer, lane)].places) place.landing = {this, peer, lane, 0};
}

DataPlane::~DataPlane() {
  if (num_under_way_ == 0) return;
  worker_.leak();
  for (auto& note : notes_) keep_for_good(note.release());
}

void DataPlane::connect(const std::vector<std::string>& addresses) {
  const std::lock_guard lock(mutex_);
  worker_.connect(addresses);
  for (Rank peer = 0; peer < num_ranks_; ++peer) {
    const bool only_tcp = worker_.transports(peer) == std::set<std::string>{"tcp"};
    pieces_bytes_.push_back(user_chose_threshold_ ? eager_bytes : only_tcp ? SIZE_MAX : pieces_bytes);
  }
}

std::vector<std::string> DataPlane::paths(Rank peer) const {
  const std::lock_guard lock(mutex_);
  if (is_shut_) return {};
  const std::set<std::string> names = worker_.transports(peer);
  return {names.begin(), names.end()};
}

bool DataPlane::progress() noexcept {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  return lock && !is_shut_ && worker_.progress();
}

bool DataPlane::may_sleep() noexcept {
  const std::lock_guard lock(mutex_);
  return !is_shut_ && worker_.arm();
}

void DataPlane::shut() noexcept {
  const std::lock_guard lock(mutex_);
  is_shut_ = true;
}

bool DataPlane::is_sending_to(Rank peer) const noexcept {
  const std::lock_guard lock(mutex_);
  if (is_shut_) return false;
  for (int lane = 0; lane < num_lanes; ++lane) {
    void* request = outgoing_[index(peer, lane)].request;
    if (request != nullptr && ucp_.request_check_status(request) == UCS_INPROGRESS) return true;
  }
  return false;
}

std::optional<Trouble> DataPlane::trouble() const {
  const std::lock_guard lock(mutex_);
  return trouble_;
}

// --- Receiving. ---

std::uint64_t DataPlane::arm(const Message& receive) {
  const std::lock_guard lock(mutex_);
  const int lane = static_cast<int>(receive.lane);
  Incoming& from = incoming_[index(receive.peer, lane)];
  const std::uint64_t number = from.taken + from.armed.size();
  from.armed.push_back({receive.data, receive.num_bytes, receive.flag});
  if (is_shut_) return number + 1;
  Place& place = from.places[number % num_slots];
  if (number < from.taken + num_slots && (place.is_stored || place.is_offered)) {
    if (place.num_bytes != receive.num_bytes || place.flag != receive.flag) {
      clash(receive.peer, false, place.num_bytes, receive.num_bytes);
    } else if (place.is_stored) {
      if (receive.num_bytes != 0) std::memcpy(receive.data, from.rooms.get() + number % num_slots * eager_bytes, receive.num_bytes);
      put_in_place(receive.peer, lane, number);
    }
  }
  grant(receive.peer, lane, from);
  return number + 1;
}

ucs_status_t DataPlane::receive(void* self, const void* header, std::size_t header_bytes, void* data, std::size_t,
                                const ucp_am_recv_param_t* param) {
  DataPlane& plane = *static_cast<DataPlane*>(self);
  Header said;
  if (header_bytes != sizeof(said)) return UCS_OK;
  std::memcpy(&said, header, sizeof(said));
  if (said.from < 0 || said.from >= plane.num_ranks_ || said.lane < 0 || said.lane >= num_lanes) return UCS_OK;
  if (said.kind == Header::data) return plane.take_data(said, data, (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0);
  if (said.kind == Header::offer) {
    plane.take_offer(said);
    return UCS_OK;
  }
  Outgoing& to = plane.outgoing_[plane.index(said.from, said.lane)];
  to.seen_taken = std::max(to.seen_taken, said.taken_before);
  if (said.kind == Header::credit) to.credits[said.number % num_slots] = said;
  return UCS_OK;
}

ucs_status_t DataPlane::take_data(const Header& header, void* data, bool is_rendezvous) {
  Incoming& from = incoming_[index(header.from, header.lane)];
  const std::uint64_t slot = header.number % num_slots;
  Place& place = from.places[slot];
  if (header.number - from.taken >= from.armed.size()) {  // too early: it is small, and there is a room for each of the window
    if (header.num_bytes > eager_bytes || is_rendezvous || header.number - from.taken >= num_slots) {
      clash(header.from, false, header.num_bytes, 0);
      return UCS_OK;
    }
    if (!from.rooms) from.rooms = std::make_unique<std::byte[]>(num_slots * eager_bytes);
    if (header.num_bytes != 0) std::memcpy(from.rooms.get() + slot * eager_bytes, data, header.num_bytes);
    place.is_stored = true;
    place.num_bytes = header.num_bytes;
    place.flag = header.flag;
    counts_[static_cast<std::size_t>(header.from)].come.fetch_add(1);
    return UCS_OK;
  }
  const Armed& armed = from.armed[header.number - from.taken];
  if (armed.num_bytes != header.num_bytes || armed.flag != header.flag) {
    clash(header.from, false, header.num_bytes, armed.num_bytes);
    return UCS_OK;
  }
  if (!is_rendezvous) {
    if (header.num_bytes != 0) std::memcpy(armed.data, data, header.num_bytes);
    counts_[static_cast<std::size_t>(header.from)].come.fetch_add(1);
    put_in_place(header.from, header.lane, header.number);
    return UCS_OK;
  }
  place.landing.number = header.number;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.recv_am = landed;
  param.user_data = &place.landing;
  ++num_under_way_;
  void* request = ucp_.am_recv_data_nbx(worker_.handle(), data, armed.data, armed.num_bytes, &param);
  if (UCS_PTR_IS_ERR(request)) {
    --num_under_way_;
    broken(header.from, UCS_PTR_STATUS(request));
  } else if (request == nullptr) {
    landed(nullptr, UCS_OK, armed.num_bytes, &place.landing);
  }
  return UCS_INPROGRESS;
}

void DataPlane::landed(void* request, ucs_status_t status, std::size_t, void* where) {
  const Landing landing = *static_cast<const Landing*>(where);
  DataPlane& plane = *landing.plane;
  --plane.num_under_way_;
  if (request != nullptr) plane.ucp_.request_free(request);
  if (status != UCS_OK) return plane.broken(landing.peer, status);
  plane.counts_[static_cast<std::size_t>(landing.peer)].come.fetch_add(1);
  plane.put_in_place(landing.peer, landing.lane, landing.number);
}

void DataPlane::take_offer(const Header& header) {
  Incoming& from = incoming_[index(header.from, header.lane)];
  const std::uint64_t ahead = header.number - from.taken;
  if (ahead < from.armed.size()) {
    const Armed& armed = from.armed[ahead];
    if (armed.num_bytes != header.num_bytes || armed.flag != header.flag) clash(header.from, false, header.num_bytes, armed.num_bytes);
  } else if (ahead < num_slots) {
    Place& place = from.places[header.number % num_slots];
    place.is_offered = true;
    place.num_bytes = header.num_bytes;
    place.flag = header.flag;
  }
}

/// The bytes are there; messages count in order.
void DataPlane::put_in_place(Rank peer, int lane, std::uint64_t number) {
  Incoming& from = incoming_[index(peer, lane)];
  from.places[number % num_slots].is_here = true;
  std::uint64_t taken = from.taken;
  for (; !from.armed.empty(); ++taken) {
    Place& place = from.places[taken % num_slots];
    if (!place.is_here) break;
    place.is_here = place.is_stored = place.is_offered = false;
    Counts& counts = counts_[static_cast<std::size_t>(peer)];
    counts.bytes.fetch_add(from.armed.front().num_bytes, std::memory_order_relaxed);
    counts.messages.fetch_add(1, std::memory_order_relaxed);
    from.armed.pop_front();
    from.taken.store(taken + 1, std::memory_order_release);
  }
  grant(peer, lane, from);
  // Half a window behind is soon enough: the sender still has the other half.
  if (taken - from.told_taken >= num_slots / 2) {
    from.told_taken = taken;
    send_note(peer, {.kind = Header::taken, .lane = lane, .taken_before = taken});
  }
}

/// Gives credits for large receives, as many as there are slots.
void DataPlane::grant(Rank peer, int lane, Incoming& from) {
  const std::uint64_t taken = from.taken;
  from.granted = std::max(from.granted, taken);
  for (; from.granted < taken + from.armed.size() && from.granted < taken + num_slots; ++from.granted) {
    const Armed& armed = from.armed[from.granted - taken];
    if (armed.num_bytes <= eager_bytes) continue;
    from.told_taken = taken;
    send_note(peer, {.kind = Header::credit,
                     .lane = lane,
                     .number = from.granted,
                     .num_bytes = armed.num_bytes,
                     .flag = armed.flag,
                     .taken_before = taken});
  }
}

// --- Sending. ---

bool DataPlane::try_send(const Message& send) {
  const std::lock_guard lock(mutex_);
  if (is_shut_) return false;
  Outgoing& to = outgoing_[index(send.peer, static_cast<int>(send.lane))];
  if (to.request != nullptr) return finish(send.peer, to, ucp_.request_check_status(to.request));
  if (counts_[static_cast<std::size_t>(send.peer)].is_gone) return false;
  if (send.num_bytes <= eager_bytes) return to.sent - to.seen_taken < num_slots && begin(send, to);
  const Header& credit = to.credits[to.sent % num_slots];
  if (credit.kind == Header::credit && credit.number == to.sent) {
    if (credit.num_bytes == send.num_bytes && credit.flag == send.flag) return begin(send, to);
    clash(send.peer, true, send.num_bytes, credit.num_bytes);
    return false;
  }
  // Who expects something small gives no credit: he is told what there is, and sees that it does not fit.
  if (++to.num_refused >= refusals_before_offer && to.offered <= to.sent) {
    to.offered = to.sent + 1;
    send_note(
        send.peer,
        {.kind = Header::offer, .lane = static_cast<int>(send.lane), .number = to.sent, .num_bytes = send.num_bytes, .flag = send.flag});
  }
  return false;
}

bool DataPlane::begin(const Message& send, Outgoing& to) {
  to.header = {.kind = Header::data,
               .from = rank_,
               .lane = static_cast<int>(send.lane),
               .number = to.sent,
               .num_bytes = send.num_bytes,
               .flag = send.flag};
  ucp_request_param_t param{};
  if (send.num_bytes <= pieces_bytes_[static_cast<std::size_t>(send.peer)]) {
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_AM_SEND_FLAG_EAGER;
  }
  to.num_refused = 0;
  counts_[static_cast<std::size_t>(send.peer)].sent.fetch_add(1);
  void* request = ucp_.am_send_nbx(worker_.endpoint(send.peer), 0, &to.header, sizeof(to.header), send.data, send.num_bytes, &param);
  if (UCS_PTR_IS_ERR(request)) {
    broken(send.peer, UCS_PTR_STATUS(request));
    return false;
  }
  if (request == nullptr) {
    ++to.sent;
    return true;
  }
  to.request = request;
  ++num_under_way_;
  return finish(send.peer, to, ucp_.request_check_status(request));
}

bool DataPlane::finish(Rank peer, Outgoing& to, ucs_status_t status) {
  if (status == UCS_INPROGRESS) return false;
  ucp_.request_free(to.request);
  to.request = nullptr;
  --num_under_way_;
  if (status != UCS_OK) {
    broken(peer, status);
    return false;
  }
  ++to.sent;
  return true;
}

void DataPlane::send_note(Rank peer, Header header) noexcept {
  if (is_shut_ || counts_[static_cast<std::size_t>(peer)].is_gone) return;
  if (spare_notes_.empty()) {
    notes_.push_back(std::make_unique<Note>());
    spare_notes_.reserve(notes_.size());
    spare_notes_.push_back(notes_.back().get());
  }
  Note* note = spare_notes_.back();
  spare_notes_.pop_back();
  header.from = rank_;
  *note = {header, this, peer};
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.flags = UCP_AM_SEND_FLAG_EAGER;
  param.cb.send = note_sent;
  param.user_data = note;
  ++num_under_way_;
  void* request = ucp_.am_send_nbx(worker_.endpoint(peer), 0, &note->header, sizeof(note->header), nullptr, 0, &param);
  if (request != nullptr && !UCS_PTR_IS_ERR(request)) return;
  note_sent(nullptr, request == nullptr ? UCS_OK : UCS_PTR_STATUS(request), note);
}

void DataPlane::note_sent(void* request, ucs_status_t status, void* what) {
  Note* note = static_cast<Note*>(what);
  DataPlane& plane = *note->plane;
  if (request != nullptr) plane.ucp_.request_free(request);
  --plane.num_under_way_;
  plane.spare_notes_.push_back(note);
  if (status != UCS_OK && !plane.counts_[static_cast<std::size_t>(note->peer)].is_gone) plane.broken(note->peer, status);
}

// --- Failing. ---

void DataPlane::clash(Rank peer, bool is_sender, std::uint64_t sent_bytes, std::uint64_t expected_bytes) {
  if (trouble_) return;
  trouble_ = {.peer = peer, .is_sender = is_sender, .sent_bytes = sent_bytes, .expected_bytes = expected_bytes};
  has_trouble_.store(true, std::memory_order_release);
}

void DataPlane::broken(Rank peer, ucs_status_t status) noexcept {
  if (trouble_) return;
  trouble_ = {.peer = peer, .broken = ucp_.status_string(status)};
  has_trouble_.store(true, std::memory_order_release);
}

std::vector<std::uint64_t> DataPlane::received_bytes() const {
  std::vector<std::uint64_t> result;
  for (const Counts& counts : counts_) result.push_back(counts.bytes.load(std::memory_order_relaxed));
  return result;
}
std::vector<std::uint64_t> DataPlane::received_messages() const {
  std::vector<std::uint64_t> result;
  for (const Counts& counts : counts_) result.push_back(counts.messages.load(std::memory_order_relaxed));
  return result;
}

}  // namespace ucx
SEQCCL_END

#endif
