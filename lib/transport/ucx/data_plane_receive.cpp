// data_plane_receive.cpp - what comes as an active message: put in its place, kept for its receive, or a credit to send by.
// SPDX-License-Identifier: Apache-2.0
#include "data_plane.hpp"

#if SEQCCL_HAS_UCX

#include <algorithm>
#include <cstring>

SEQCCL_BEGIN
namespace ucx {

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

}  // namespace ucx
SEQCCL_END

#endif
