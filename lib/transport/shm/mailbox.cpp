// mailbox.cpp - one datagram says why a rank gives up; the record of a failure, written and read.
// SPDX-License-Identifier: Apache-2.0
#include "mailbox.hpp"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include "address.hpp"

SEQCCL_BEGIN
namespace shm {
namespace {

/// As it travels.
struct Word {
  std::uint64_t magic = 0x6c63637165730104u;
  std::uint64_t secret = 0;  // of the one whom it is for
  std::uint32_t kind = 0, num_culprits = 0, num_chars = 0;
  std::int32_t culprits[Failure::max_culprits] = {};
  char text[Failure::max_chars] = {};
};

Address address_of(const std::string& name) { return Address(name + "-words"); }

template <class Record>
void put_into(Record& record, const Error& error) noexcept {
  record.kind = static_cast<std::uint32_t>(error.kind());
  record.num_culprits = static_cast<std::uint32_t>(std::min(error.culprits().size(), std::size(record.culprits)));
  std::copy_n(error.culprits().begin(), record.num_culprits, record.culprits);
  record.num_chars = static_cast<std::uint32_t>(std::min(std::strlen(error.what()), sizeof(record.text)));
  std::memcpy(record.text, error.what(), record.num_chars);
}

template <class Record>
Error taken_from(const Record& record) {
  return {static_cast<ErrorKind>(record.kind), std::string(record.text, record.num_chars),
          std::vector<Rank>(record.culprits, record.culprits + record.num_culprits)};
}

}  // namespace

Mailbox::Mailbox(const std::string& name, std::uint64_t secret)
    : secret_(secret), socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  const Address own = address_of(name);
  if (!socket_.is_open() || ::bind(socket_.number(), own.name(), own.num_bytes) != 0)
    throw Error(ErrorKind::local, fmt::format("shm: no socket for the words of others: {}", std::strerror(errno)));
}

std::optional<Error> Mailbox::read() const {
  Word word;
  for (;;) {
    const ssize_t count = ::recv(socket_.number(), &word, sizeof(word), MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return std::nullopt;
    if (count != static_cast<ssize_t>(sizeof(word)) || word.magic != Word{}.magic || word.secret != secret_) continue;
    if (word.kind > static_cast<std::uint32_t>(ErrorKind::internal) || word.num_culprits > std::size(word.culprits) ||
        word.num_chars > sizeof(word.text))
      continue;
    return taken_from(word);
  }
}

void Mailbox::tell(const std::string& name, std::uint64_t secret, const Error& error) const noexcept {
  Word word;
  word.secret = secret;
  put_into(word, error);
  try {
    const Address to = address_of(name);
    while (::sendto(socket_.number(), &word, sizeof(word), MSG_NOSIGNAL | MSG_DONTWAIT, to.name(), to.num_bytes) < 0 && errno == EINTR) {
    }
  } catch (...) {  // no memory for its name: it finds this rank's sockets closed
  }
}

void write(Failure& failure, Rank writer, const Error& error) noexcept {
  failure.writer.store(writer);
  put_into(failure, error);
  failure.state.store(Failure::written, std::memory_order_seq_cst);
}

Error read(const Failure& failure) { return taken_from(failure); }

}  // namespace shm
SEQCCL_END
