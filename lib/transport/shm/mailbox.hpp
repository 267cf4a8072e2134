// mailbox.hpp - where a rank that still meets its peers is told that one of them gives up, and because of whom.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "../descriptor.hpp"
#include "layout.hpp"

SEQCCL_BEGIN
namespace shm {

/// Words of ranks that give up. A datagram socket in the abstract namespace: what is sent lies in the queue when the sender goes on,
/// whether this rank has met that one or not, and stays there when that one has ended. So who first tells all others and then closes its
/// sockets is never taken for the cause: whoever finds them closed has its word.
class Mailbox {
 public:
  /// `name`: of this rank's listening socket. @throws Error(local) if the system has no descriptor for it
  Mailbox(const std::string& name, std::uint64_t secret);
  [[nodiscard]] const Descriptor& socket() const noexcept { return socket_; }
  /// The first word that has come of somebody who knows this rank's secret; nothing if there is none.
  [[nodiscard]] std::optional<Error> read() const;
  /// Puts `error` into the mailbox of the rank that listens at `name`. A full one has others' words; one that is gone needs none.
  void tell(const std::string& name, std::uint64_t secret, const Error& error) const noexcept;

 private:
  std::uint64_t secret_;
  Descriptor socket_;
};

/// Writes `error` into a record that this thread alone may write, which is then there for all who map it.
void write(Failure& failure, Rank writer, const Error& error) noexcept;
/// What a written record says.
[[nodiscard]] Error read(const Failure& failure);

}  // namespace shm
SEQCCL_END
