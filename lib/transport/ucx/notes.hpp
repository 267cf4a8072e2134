// notes.hpp - what ranks write to each other on the control plane: as bytes and back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "../bootstrap/wire.hpp"
#include "election.hpp"
#include "seqccl/error.hpp"
#include "seqccl/transport.hpp"

SEQCCL_BEGIN
namespace ucx {

/// Reads numbers from the front; throws std::out_of_range where the text is too short.
class NoteReader {
 public:
  explicit NoteReader(std::string_view text) : text_(text) {}
  std::uint64_t number(std::size_t num_bytes) {
    if (text_.size() < num_bytes) throw std::out_of_range("note");
    const std::uint64_t value = bootstrap::read_number(text_.substr(0, num_bytes));
    text_.remove_prefix(num_bytes);
    return value;
  }
  [[nodiscard]] std::string rest() const { return std::string(text_); }

 private:
  std::string_view text_;
};

inline std::string failure_note(const Error& error) {
  std::string note;
  bootstrap::append_number(note, static_cast<std::uint64_t>(error.kind()), 4);
  bootstrap::append_number(note, error.culprits().size(), 4);
  for (const Rank culprit : error.culprits()) bootstrap::append_number(note, static_cast<std::uint32_t>(culprit), 4);
  return note += std::string_view(error.what()).substr(0, 65536);
}
inline Error read_failure(std::string_view note) {
  NoteReader reader(note);
  const auto kind = static_cast<ErrorKind>(reader.number(4));
  std::vector<Rank> culprits(std::min<std::size_t>(reader.number(4), note.size() / 4));
  for (Rank& culprit : culprits) culprit = static_cast<Rank>(reader.number(4));
  return {kind, reader.rest(), std::move(culprits)};
}

/// Clocks of hosts differ: a status travels with the age of its last progress.
inline std::string status_note(const RankStatus& status, std::string_view description) {
  std::string note;
  // The time last, as whoever reads a status does (host_run.cpp).
  const std::int32_t compute_step = status.compute_step.load(), waiting_for = status.waiting_for.load();
  const std::uint64_t finished = status.finished.load(), operation = status.operation.load();
  const std::int32_t step = status.step.load();
  const std::uint64_t plan = status.plan.load(), earlier_plan = status.earlier_plan.load();
  const std::int64_t now = SteadyClock::now().time_since_epoch().count();
  const std::int64_t age = now - status.progress_ns.load(), looked_age = now - status.looked_ns.load();
  bootstrap::append_number(note, operation, 8);
  bootstrap::append_number(note, finished, 8);
  bootstrap::append_number(note, static_cast<std::uint64_t>(std::max<std::int64_t>(age, 0)), 8);
  bootstrap::append_number(note, static_cast<std::uint64_t>(std::max<std::int64_t>(looked_age, 0)), 8);
  bootstrap::append_number(note, plan, 8);
  bootstrap::append_number(note, earlier_plan, 8);
  bootstrap::append_number(note, static_cast<std::uint32_t>(step), 4);
  bootstrap::append_number(note, static_cast<std::uint32_t>(compute_step), 4);
  bootstrap::append_number(note, static_cast<std::uint32_t>(waiting_for), 4);
  return note += description.substr(0, 8192);
}
/// Into `status`, the time first: whoever sees a new state must not see an old time. Returns the description.
inline std::string read_status(std::string_view note, RankStatus& status) {
  NoteReader reader(note);
  const std::uint64_t operation = reader.number(8), finished = reader.number(8);
  const auto age = static_cast<std::int64_t>(reader.number(8)), looked_age = static_cast<std::int64_t>(reader.number(8));
  const std::uint64_t plan = reader.number(8), earlier_plan = reader.number(8);
  const auto step = static_cast<std::int32_t>(reader.number(4));
  const auto compute_step = static_cast<std::int32_t>(reader.number(4)), waiting_for = static_cast<std::int32_t>(reader.number(4));
  const std::int64_t now = SteadyClock::now().time_since_epoch().count();
  status.looked_ns.store(now - looked_age);
  status.progress_ns.store(now - age);
  status.earlier_plan.store(earlier_plan);
  status.plan.store(plan);
  status.step.store(step);
  status.operation.store(operation);
  status.finished.store(finished);
  status.compute_step.store(compute_step);
  status.waiting_for.store(waiting_for);
  return reader.rest();
}

inline std::string members_note(const std::vector<Rank>& members) {
  std::string note;
  bootstrap::append_number(note, members.size(), 4);
  for (const Rank member : members) bootstrap::append_number(note, static_cast<std::uint32_t>(member), 4);
  return note;
}
/// @throws std::out_of_range also where a rank is named that is none
inline std::vector<Rank> read_members(NoteReader& reader, int num_ranks) {
  std::vector<Rank> members;
  for (std::uint64_t left = reader.number(4); left > 0; --left) {
    members.push_back(static_cast<Rank>(reader.number(4)));
    if (members.back() < 0 || members.back() >= num_ranks) throw std::out_of_range("member");
  }
  return members;
}

inline std::string statement_note(const Statement& statement) {
  std::string note;
  bootstrap::append_number(note, statement.number, 8);
  bootstrap::append_number(note, statement.has_come ? 1 : 0, 1);
  bootstrap::append_number(note, statement.promised, 8);
  bootstrap::append_number(note, statement.accepted, 8);
  return note + members_note(statement.members);
}
inline Statement read_statement(std::string_view note, int num_ranks) {
  NoteReader reader(note);
  Statement statement;
  statement.number = reader.number(8);
  statement.has_come = reader.number(1) != 0;
  statement.promised = reader.number(8);
  statement.accepted = reader.number(8);
  statement.members = read_members(reader, num_ranks);
  return statement;
}

}  // namespace ucx
SEQCCL_END
