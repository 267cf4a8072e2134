// conformance_test.cpp - credits, arrivals, order, sizes, mismatch, leaving, abort and deadlines of a host transport.
// SPDX-License-Identifier: Apache-2.0
#include "conformance.hpp"

#include <atomic>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

SteadyClock::time_point soon() { return SteadyClock::now() + seconds(30); }

void send(Transport& transport, const Message& message) {
  ASSERT_TRUE(wait_until(transport, soon(), [&] { return transport.try_send(message); }));
}
void wait_for(Transport& transport, Rank peer, Lane lane, std::uint64_t ticket) {
  ASSERT_TRUE(wait_until(transport, soon(), [&] { return transport.arrived(peer, lane, ticket); }));
}

// Byte i of message `number` from one rank to another: says where it comes from and where it belongs.
std::vector<std::byte> coded(Rank from, Rank to, int number, std::size_t num_bytes) {
  std::vector<std::byte> bytes(num_bytes);
  for (std::size_t i = 0; i < num_bytes; ++i) bytes[i] = static_cast<std::byte>(from * 7 + to * 31 + number * 101 + i * 13 + (i >> 8));
  return bytes;
}

template <class Body>
Error error_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  return {ErrorKind::internal, "nothing was thrown"};
}

TEST_P(TransportTest, MovesZeroOneAndManyBytesAtAnyAlignment) {
  Watchdog dog(seconds(60));
  on_ranks(2, [](Transport& transport) {
    const Rank peer = 1 - transport.rank();
    for (const std::size_t num_bytes : {0u, 1u, 7u, 64u, 4097u, (5u << 20) + 3u}) {
      for (const std::size_t shift : {0u, 1u, 3u}) {
        const auto text = coded(transport.rank(), peer, 0, num_bytes), expected = coded(peer, transport.rank(), 0, num_bytes);
        std::vector<std::byte> from(num_bytes + 8);
        std::byte* to = transport.arena(num_bytes + 8);
        std::fill_n(to, num_bytes + 8, std::byte{0xee});
        std::copy(text.begin(), text.end(), from.begin() + static_cast<std::ptrdiff_t>(shift));
        const auto ticket = transport.arm({peer, Lane::comm, to + shift, num_bytes, 5});
        send(transport, {peer, Lane::comm, from.data() + shift, num_bytes, 5});
        wait_for(transport, peer, Lane::comm, ticket);
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), to + shift));
        EXPECT_EQ(to[shift + num_bytes], std::byte{0xee});
        if (shift > 0) {
          EXPECT_EQ(to[shift - 1], std::byte{0xee});
        }
      }
    }
  });
}

constexpr std::size_t large = 100'000;  // never without a credit

TEST_P(TransportTest, ALargeSendWaitsForItsCredit) {
  Watchdog dog(seconds(60));
  std::atomic<bool> refused{false};
  on_ranks(2, [&](Transport& transport) {
    if (transport.rank() == 0) {
      auto data = coded(0, 1, 0, large);
      EXPECT_FALSE(transport.try_send({1, Lane::comm, data.data(), large, 0}));
      refused = true;
      transport.wake();
      send(transport, {1, Lane::comm, data.data(), large, 0});
    } else {
      while (!refused) std::this_thread::yield();
      std::byte* data = transport.arena(large);
      const auto ticket = transport.arm({0, Lane::comm, data, large, 0});
      wait_for(transport, 0, Lane::comm, ticket);
      const auto expected = coded(0, 1, 0, large);
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), data));
    }
  });
}

TEST_P(TransportTest, LanesAreIndependentAndOrderedInThemselves) {
  constexpr int num_messages = 100;
  for (const std::size_t num_bytes : {std::size_t{8}, std::size_t{1000}, std::size_t{40'000}}) {
    Watchdog dog(seconds(60));
    on_ranks(2, [num_bytes](Transport& transport) {
      std::byte* memory = transport.arena(3 * num_messages * num_bytes);
      const auto at = [&](int lane, int number) {
        return memory + static_cast<std::size_t>((lane - 1) * num_messages + number) * num_bytes;
      };
      if (transport.rank() == 0) {
        std::mt19937 random(3);
        std::array<int, 4> next{};
        while (next[1] + next[2] + next[3] < 3 * num_messages) {
          const int lane = 1 + static_cast<int>(random() % 3);
          if (next[lane] == num_messages) continue;
          const auto bytes = coded(0, lane, next[lane], num_bytes);
          std::copy(bytes.begin(), bytes.end(), at(lane, next[lane]));
          send(transport, {1, static_cast<Lane>(lane), at(lane, next[lane]), num_bytes, 0});
          ++next[lane];
        }
      } else {
        std::vector<std::uint64_t> tickets;
        for (int number = 0; number < num_messages; ++number) {
          for (const int lane : {3, 1, 2}) {
            const auto ticket = transport.arm({0, static_cast<Lane>(lane), at(lane, number), num_bytes, 0});
            if (lane == 1) tickets.push_back(ticket);
          }
        }
        for (const int lane : {2, 3, 1}) wait_for(transport, 0, static_cast<Lane>(lane), tickets.back());
        for (const int lane : {1, 2, 3}) {
          for (int number = 0; number < num_messages; ++number) {
            const auto expected = coded(0, lane, number, num_bytes);
            EXPECT_TRUE(std::equal(expected.begin(), expected.end(), at(lane, number))) << "lane " << lane << ", message " << number;
          }
        }
      }
    });
  }
}

TEST_P(TransportTest, AllToAllAHundredTimesAndBytesAreCounted) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8}) {
    Watchdog dog(seconds(120));
    on_ranks(num_ranks, [&](Transport& transport) {
      const auto leash = dog.watch(transport);
      const Rank rank = transport.rank();
      const auto size_of = [](Rank from, Rank to, int round) {
        return static_cast<std::size_t>(17 * from + 5 * to + 3 * (round % 4)) + (round % 5 == 4 ? 20'000 : 0);
      };
      std::byte* arena = transport.arena(static_cast<std::size_t>(num_ranks) * 21'000);
      std::vector<std::uint64_t> num_bytes(num_ranks);
      for (int round = 0; round < 100; ++round) {
        std::vector<std::vector<std::byte>> out(num_ranks), in(num_ranks);  // in: what has come, copied out of the arena
        std::vector<std::uint64_t> tickets(num_ranks);
        std::vector<bool> sent(num_ranks);
        for (Rank peer = 0; peer < num_ranks; ++peer) {
          out[peer] = coded(rank, peer, round, size_of(rank, peer, round));
          in[peer].resize(size_of(peer, rank, round));
          tickets[peer] = transport.arm({peer, Lane::comm, arena + peer * 21'000, in[peer].size(), static_cast<std::uint64_t>(round)});
          num_bytes[peer] += in[peer].size();
        }
        ASSERT_TRUE(wait_until(transport, soon(), [&] {
          bool done = true;
          for (Rank peer = 0; peer < num_ranks; ++peer) {
            if (!sent[peer])
              sent[peer] = transport.try_send({peer, Lane::comm, out[peer].data(), out[peer].size(), static_cast<std::uint64_t>(round)});
            done = done && sent[peer] && transport.arrived(peer, Lane::comm, tickets[peer]);
          }
          return done;
        }));
        for (Rank peer = 0; peer < num_ranks; ++peer) std::copy_n(arena + peer * 21'000, in[peer].size(), in[peer].begin());
        for (Rank peer = 0; peer < num_ranks; ++peer) EXPECT_EQ(in[peer], coded(peer, rank, round, in[peer].size()));
      }
      EXPECT_EQ(transport.received_bytes(), num_bytes);
      EXPECT_EQ(transport.received_messages(), std::vector<std::uint64_t>(num_ranks, 100));
    });
  }
}

// Whoever notices names both, and says what he has and what the other has.
TEST_P(TransportTest, MismatchNamesBothRanksAndWhatDiffers) {
  struct Case {
    std::size_t sent, expected;
    std::uint64_t flag;
  };
  for (const Case& sizes :
       {Case{7, 8, 1}, Case{8, 8, 2}, Case{large, large, 2}, Case{8, large, 1}, Case{large, 8, 1}, Case{large, large + 1, 1}}) {
    Watchdog dog(seconds(60));
    on_ranks(2, [&](Transport& transport) {
      const bool first = transport.rank() == 0;
      std::byte* memory = transport.arena(large + 1);
      transport.describe_operation(first ? "gather of q\nheads 2\ntokens 3" : "gather of q\nheads 2\ntokens 4\nand more");
      const Error error = error_of([&] {
        if (first) {
          send(transport, {1, Lane::comm, memory, sizes.sent, sizes.flag});
          (void)wait_until(transport, soon(), [] { return false; });  // the other may be the one who notices
        } else {
          const auto ticket = transport.arm({0, Lane::comm, memory, sizes.expected, 1});
          wait_for(transport, 0, Lane::comm, ticket);
        }
      });
      EXPECT_EQ(error.kind(), ErrorKind::mismatched);
      EXPECT_EQ(error.culprits(), (std::vector<Rank>{0, 1}));  // neither has said that it is in an operation
      const std::string what = error.what();
      EXPECT_NE(what.find("gather of q"), std::string::npos) << what;
      const auto says = [&](const std::string& words) { return what.find(words) != std::string::npos; };
      EXPECT_TRUE(says("first difference: \"tokens 3\" against \"tokens 4\"") ||
                  says("first difference: \"tokens 4\" against \"tokens 3\""))
          << what;
      EXPECT_EQ(says("sends " + std::to_string(sizes.sent) + " bytes where rank 1 expects " + std::to_string(sizes.expected)) ||
                    says("expects " + std::to_string(sizes.expected) + " bytes where rank 0 sends " + std::to_string(sizes.sent)),
                sizes.sent != sizes.expected)
          << what;
      EXPECT_THROW(transport.check(), Error);  // and it stays failed
    });
  }
}

TEST_P(TransportTest, TellsWhoLeft) {
  Watchdog dog(seconds(60));
  on_ranks(3, [](Transport& transport) {
    std::byte data{};
    if (transport.rank() == 1) {
      EXPECT_FALSE(transport.status(1).left);
      return;
    }
    EXPECT_TRUE(wait_until(transport, soon(), [&] { return transport.status(1).left.load(); }));
    EXPECT_FALSE(transport.try_send({1, Lane::comm, &data, 1, 0}));
  });
}

TEST_P(TransportTest, NothingIsWrittenToARankThatLeft) {
  Watchdog dog(seconds(60));
  on_ranks(2, [](Transport& transport) {
    std::byte data{};
    if (transport.rank() == 1) {
      (void)transport.arm({0, Lane::comm, &data, 1, 0});  // a credit into this stack frame, never taken back
      return;
    }
    EXPECT_TRUE(wait_until(transport, soon(), [&] { return transport.status(1).left.load(); }));
    EXPECT_FALSE(transport.try_send({1, Lane::comm, &data, 1, 0}));
  });
}

TEST_P(TransportTest, AbortEndsAllWaitsAndNothingIsWrittenAfterwards) {
  Watchdog dog(seconds(60));
  std::atomic<int> num_waiting{0};
  on_ranks(4, [&](Transport& transport) {
    std::byte data{0x11};
    const auto ticket = transport.arm({(transport.rank() + 1) % 4, Lane::comm, &data, 1, 0});
    ++num_waiting;
    std::thread aborter;
    if (transport.rank() == 2) {
      aborter = std::thread([&] {
        while (num_waiting < 4) std::this_thread::yield();
        std::this_thread::sleep_for(milliseconds(50));  // by now they block
        transport.abort(Error(ErrorKind::local, "the user lost patience", {2}));
        transport.abort(Error(ErrorKind::dead, "too late", {3}));
      });
    }
    const Error error = error_of([&] { wait_for(transport, (transport.rank() + 1) % 4, Lane::comm, ticket); });
    EXPECT_EQ(error.kind(), ErrorKind::local);
    EXPECT_STREQ(error.what(), "the user lost patience");
    EXPECT_EQ(error.culprits(), std::vector<Rank>{2});
    std::byte other{0x22};
    EXPECT_THROW((void)transport.try_send({(transport.rank() + 3) % 4, Lane::comm, &other, 1, 0}), Error);  // there is a credit
    EXPECT_EQ(data, std::byte{0x11});
    if (aborter.joinable()) aborter.join();
  });
}

TEST_P(TransportTest, WaitEndsAtItsDeadline) {
  Watchdog dog(seconds(60));
  on_ranks(1, [](Transport& transport) {
    const auto begin = SteadyClock::now();
    EXPECT_FALSE(wait_until(transport, begin + milliseconds(80), [] { return false; }));
    EXPECT_GE(SteadyClock::now() - begin, milliseconds(80));
    EXPECT_LT(SteadyClock::now() - begin, seconds(2));
  });
}

TEST_P(TransportTest, AWakeUpBetweenPollAndSleepIsNotLost) {
  Watchdog dog(seconds(60));
  on_ranks(2, [](Transport& transport) {
    constexpr int blocks = 1 << 20;  // by this attempt every policy blocks
    const auto begin = SteadyClock::now();
    transport.idle(0, soon());
    transport.wake();  // as by a peer, after this rank's poll
    transport.idle(blocks, soon());
    EXPECT_LT(SteadyClock::now() - begin, seconds(10));
  });
}

TEST_P(TransportTest, TwoThreadsOfARankWaitSideBySide) {
  Watchdog dog(seconds(60));
  on_ranks(1, [](Transport& transport) {
    constexpr int num_turns = 3000;
    std::atomic<int> turn{0};
    const auto play = [&](int side) {
      for (int mine = side; mine < num_turns; mine += 2) {
        EXPECT_TRUE(wait_until(transport, soon(), [&] { return turn.load() == mine; }));
        turn = mine + 1;
        transport.wake();
      }
    };
    std::thread other(play, 1);
    play(0);
    other.join();
    EXPECT_EQ(turn, num_turns);
  });
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TransportTest);

}  // namespace
}  // namespace seqccl::test
