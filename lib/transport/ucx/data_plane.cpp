// data_plane.cpp - messages sent within the window, over ucp_am_send_nbx; what is received is in data_plane_receive.cpp.
// SPDX-License-Identifier: Apache-2.0
#include "data_plane.hpp"

#if SEQCCL_HAS_UCX

#include <fmt/format.h>

#include <cstdlib>

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
