// bootstrap_tcp_test.cpp - the TCP store against strangers: wrong tokens, garbage, silence, floods, ports and hosts that are not there.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>

#include "../../lib/transport/bootstrap/siphash.hpp"
#include "../../lib/transport/bootstrap/socket.hpp"
#include "../../lib/transport/bootstrap/tcp_server.hpp"
#include "../../lib/transport/bootstrap/wire.hpp"
#include "bootstrap_support.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using std::chrono::steady_clock;

constexpr auto long_time = seconds(100);

/// Two ranks that meet at the store of rank 0 and gather, while whatever the test does goes on.
void expect_two_ranks_meet(int port) {
  expect_no_errors(errors_of_ranks({0, 1}, [&](Rank rank) {
    const auto store = tcp_store(launch_of(rank, 2, port), long_time);
    EXPECT_EQ(store_all_gather(*store, rank, 2, long_time)("x").size(), 2u);
  }));
}

/// A store of rank 0 of two, and rank 1 coming after `meanwhile`.
void expect_no_harm(const std::function<void(int port)>& meanwhile) {
  const Watchdog dog(seconds(240));
  const int port = free_port();
  const auto store = tcp_store(launch_of(0, 2, port), long_time);
  meanwhile(port);
  std::thread other([&] {
    const auto own = tcp_store(launch_of(1, 2, port), long_time);
    EXPECT_EQ(store_all_gather(*own, 1, 2, long_time)("x").size(), 2u);
  });
  EXPECT_EQ(store_all_gather(*store, 0, 2, long_time)("x").size(), 2u);
  other.join();
}

TEST(TcpStore, AWrongTokenOrJobIsRefusedAtOnceAndHarmsNobody) {
  expect_no_harm([](int port) {
    LaunchInfo wrong = launch_of(1, 2, port);
    wrong.token = "guess";
    expect_error(error_of([&] { (void)tcp_store(wrong, long_time); }), ErrorKind::argument, {"token", "127.0.0.1:", "SEQCCL_TOKEN"});
    wrong = launch_of(1, 2, port);
    wrong.job = "another job";
    expect_error(error_of([&] { (void)tcp_store(wrong, long_time); }), ErrorKind::argument, {"job"});
  });
}

TEST(TcpStore, GarbageIsHungUpOn) {
  expect_no_harm([](int port) {
    for (const std::string& garbage : {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(1 << 16, '\0'), std::string("S\xff")}) {
      const PlainSocket stranger(port);
      ASSERT_TRUE(stranger.connected());
      (void)stranger.say(garbage);  // may be cut off in the middle
      EXPECT_TRUE(stranger.closes(long_time));
    }
  });
}

TEST(TcpStore, ARequestBeforeTheHandshakeIsHungUpOn) {
  expect_no_harm([](int port) {
    std::string put, get;
    bootstrap::append_message(put, {.kind = bootstrap::MessageKind::put, .key = "k", .value = "v"});
    bootstrap::append_message(get, {.kind = bootstrap::MessageKind::get, .key = "k", .value = {}});
    for (const std::string& request : {put, get}) {
      const PlainSocket stranger(port);
      ASSERT_TRUE(stranger.say(request));
      EXPECT_TRUE(stranger.closes(long_time));
    }
  });
}

TEST(TcpStore, AProofOfAnotherConnectionIsWorthNothing) {
  expect_no_harm([](int port) {
    const bootstrap::Bytes16 key = bootstrap::job_key("secret", "test"), own{};
    const auto challenge_of = [](const PlainSocket& socket) {
      const std::string heard = socket.hear(bootstrap::wire_header_bytes + 16, long_time);
      bootstrap::Bytes16 nonce{};
      const bootstrap::Parsed parsed = bootstrap::parse_message(heard);
      EXPECT_EQ(parsed.state, bootstrap::ParseState::whole);
      if (parsed.state == bootstrap::ParseState::whole) std::copy_n(parsed.message.value.begin(), 16, nonce.begin());
      return nonce;
    };
    const auto answer_to = [&](const PlainSocket& socket, const bootstrap::Bytes16& nonce) {
      const bootstrap::Bytes16 shown = bootstrap::proof(key, "client", nonce, own);
      std::string body(own.begin(), own.end()), bytes;
      body.append(shown.begin(), shown.end());
      bootstrap::append_message(bytes, {.kind = bootstrap::MessageKind::hello, .key = {}, .value = body});
      EXPECT_TRUE(socket.say(bytes));
      return bootstrap::parse_message(socket.hear(bootstrap::wire_header_bytes, long_time), 0).state == bootstrap::ParseState::whole
                 ? bootstrap::MessageKind::denied
                 : bootstrap::MessageKind::welcome;
    };
    const PlainSocket first(port), second(port);
    const bootstrap::Bytes16 nonce = challenge_of(first), other = challenge_of(second);
    EXPECT_FALSE(bootstrap::same_bytes(nonce, other));
    EXPECT_EQ(answer_to(first, nonce), bootstrap::MessageKind::welcome);  // the test speaks the protocol
    EXPECT_EQ(answer_to(second, nonce), bootstrap::MessageKind::denied);  // a recording of that does not help
    EXPECT_TRUE(second.closes(long_time));
  });
}

TEST(TcpStore, ASilentClientIsHungUpOnAfterAWhile) {
  const Watchdog dog(seconds(120));
  const int port = free_port();
  const bootstrap::TcpServer server("127.0.0.1", port, bootstrap::job_key("t", "j"), {.max_strangers = 4, .handshake = milliseconds(200)});
  const PlainSocket silent(port), slow(port);
  ASSERT_TRUE(slow.say("S"));  // a beginning, and then nothing
  EXPECT_TRUE(silent.closes(long_time));
  EXPECT_TRUE(slow.closes(long_time));
}

TEST(TcpStore, AFloodOfSilentClientsDelaysButDoesNotKeepOut) {
  expect_no_harm([](int port) {
    std::vector<std::unique_ptr<PlainSocket>> flood;
    for (int i = 0; i < 400; ++i) flood.push_back(std::make_unique<PlainSocket>(port));
    const auto store = tcp_store(launch_of(1, 2, port), long_time);  // comes in behind three times the places
    store->put("in spite of them", "");
  });
}

TEST(TcpStore, PlacesThatGetFreeAllAtOnceAreGivenAway) {
  const Watchdog dog(seconds(60));
  const int port = free_port();
  // One place: whenever its stranger is sent away, nobody is left whose time could wake the server.
  const bootstrap::TcpServer server("127.0.0.1", port, bootstrap::job_key("secret", "test"),
                                    {.max_strangers = 1, .handshake = milliseconds(150), .handshake_if_full = milliseconds(50)});
  const PlainSocket first(port), second(port);
  const auto store = tcp_store(launch_of(1, 2, port), long_time);
  store->put("in the end", "");
}

TEST(TcpStore, AClientThatTakesNoAnswersDoesNotStopTheOthers) {
  expect_no_harm([](int port) {
    const auto filler = tcp_store(launch_of(1, 2, port), long_time);
    filler->put("large", std::string(max_store_value_bytes, 'x'));
    // A member that asks again and again and never reads: the server stops listening to it.
    const bootstrap::Bytes16 key = bootstrap::job_key("secret", "test"), own{};
    const PlainSocket greedy(port);
    const std::string heard = greedy.hear(bootstrap::wire_header_bytes + 16, long_time);
    bootstrap::Bytes16 nonce{};
    std::copy_n(heard.begin() + bootstrap::wire_header_bytes, 16, nonce.begin());
    const bootstrap::Bytes16 shown = bootstrap::proof(key, "client", nonce, own);
    std::string body(own.begin(), own.end()), bytes;
    body.append(shown.begin(), shown.end());
    bootstrap::append_message(bytes, {.kind = bootstrap::MessageKind::hello, .key = {}, .value = body});
    ASSERT_TRUE(greedy.say(bytes));
    ASSERT_EQ(greedy.hear(bootstrap::wire_header_bytes + 16, long_time).size(), bootstrap::wire_header_bytes + 16);
    bytes.clear();
    for (int i = 0; i < 100; ++i) bootstrap::append_message(bytes, {.kind = bootstrap::MessageKind::get, .key = "large", .value = {}});
    ASSERT_TRUE(greedy.say(bytes));
    EXPECT_EQ(filler->get("large", steady_clock::now() + long_time)->size(), max_store_value_bytes);
  });
}

TEST(TcpStore, APortInUseIsNamed) {
  const Watchdog dog(seconds(60));
  PlainSocket taken;
  const int port = taken.take_port(/*listening=*/true);
  expect_error(error_of([&] { (void)tcp_store(launch_of(0, 1, port), seconds(1)); }), ErrorKind::argument,
               {"port is " + std::to_string(port), "in use", "SEQCCL_PORT"});
  const auto store = tcp_store(launch_of(0, 1, free_port()), long_time);
  EXPECT_EQ(store->place().rfind("127.0.0.1:", 0), 0u);
}

TEST(TcpStore, APortIsFreeAgainAtOnce) {
  const Watchdog dog(seconds(120));
  const int port = free_port();
  for (int i = 0; i < 5; ++i) expect_two_ranks_meet(port);
}

TEST(TcpStore, WhoeverElseListensThereIsNotTakenForRankZero) {
  const Watchdog dog(seconds(60));
  PlainSocket program;
  const int port = program.take_port(/*listening=*/true);
  // A program that waits for the other end to begin: the deadline ends it.
  expect_error(error_of([&] { (void)tcp_store(launch_of(1, 2, port), milliseconds(300)); }), ErrorKind::stalled,
               {"rank 0 of 2 has not opened the store", "says nothing"});
  // One that greets in words of its own.
  std::thread greeter([&] { program.greet_all("220 mail ready\r\n", 2); });
  expect_error(error_of([&] { (void)tcp_store(launch_of(1, 2, port), long_time); }), ErrorKind::argument, {"is not rank 0 of this job"});
  greeter.join();
}

TEST(TcpStore, AServerWithAnotherKeyIsNotTrusted) {
  const Watchdog dog(seconds(60));
  const int port = free_port();
  const bootstrap::TcpServer other("127.0.0.1", port, bootstrap::job_key("other", "job"));
  expect_error(error_of([&] { (void)tcp_store(launch_of(1, 2, port), long_time); }), ErrorKind::argument, {"token or job"});
}

TEST(TcpStore, NobodyThereIsToldAtTheDeadline) {
  const Watchdog dog(seconds(60));
  // A closed port, and an address that no packet comes back from (documentation only, RFC 5737).
  for (const char* address : {"127.0.0.1", "192.0.2.1", "::1"}) {
    LaunchInfo launch = launch_of(1, 2, free_port());
    launch.address = address;
    const auto begin = steady_clock::now();
    const auto error = error_of([&] { (void)tcp_store(launch, milliseconds(400)); });
    expect_error(error, ErrorKind::stalled, {"rank 0 of 2 has not opened the store at", address, "after 0.4 s"});
    EXPECT_EQ(error->culprits(), std::vector<Rank>{0});
    EXPECT_LT(steady_clock::now() - begin, seconds(20));
  }
}

TEST(TcpStore, WrongArgumentsAreRefused) {
  LaunchInfo launch = launch_of(0, 1, 1);
  launch.port = 0;
  expect_error(error_of([&] { (void)tcp_store(launch, seconds(1)); }), ErrorKind::argument, {"port is 0", "1 to 65535"});
  launch = launch_of(3, 2, 1);
  expect_error(error_of([&] { (void)tcp_store(launch, seconds(1)); }), ErrorKind::argument, {"rank is 3"});
  launch = launch_of(0, 1, 1);
  expect_error(error_of([&] { (void)tcp_store(launch, seconds(-1)); }), ErrorKind::argument, {"timeout is -1 s"});
  launch.address = "";
  expect_error(error_of([&] { (void)tcp_store(launch, seconds(1)); }), ErrorKind::argument, {"address is empty"});
  launch = launch_of(1, 2, 1);
  launch.address = "no host has this name.";
  expect_error(error_of([&] { (void)tcp_store(launch, seconds(1)); }), ErrorKind::argument, {"no host has this name."});
}

TEST(TcpStore, RanksMayComeBeforeRankZero) {
  const Watchdog dog(seconds(120));
  const int port = free_port();
  std::atomic<bool> is_waiting = false;
  expect_no_errors(errors_of_ranks({0, 1, 2}, [&](Rank rank) {
    if (rank == 0) {
      while (!is_waiting) std::this_thread::yield();
      std::this_thread::sleep_for(milliseconds(30));
    } else {
      is_waiting = true;
    }
    const auto store = tcp_store(launch_of(rank, 3, port), long_time);
    EXPECT_EQ(store_all_gather(*store, rank, 3, long_time)("x").size(), 3u);
  }));
}

bool has_ipv6() {
  const int number = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 own{};
  own.sin6_family = AF_INET6;
  own.sin6_addr = in6addr_loopback;
  const bool has = number >= 0 && ::bind(number, reinterpret_cast<sockaddr*>(&own), sizeof own) == 0;
  if (number >= 0) ::close(number);
  return has;
}

TEST(TcpStore, NamesAllInterfacesAndIpv6) {
  const Watchdog dog(seconds(120));
  std::vector<std::string> addresses = {"localhost", "0.0.0.0"};
  if (has_ipv6()) addresses.push_back("::1");
  for (const std::string& address : addresses) {
    const int port = free_port();
    expect_no_errors(errors_of_ranks({0, 1}, [&](Rank rank) {
      LaunchInfo launch = launch_of(rank, 2, port);
      launch.address = address;
      const auto store = tcp_store(launch, long_time);
      EXPECT_EQ(store_all_gather(*store, rank, 2, long_time)("x").size(), 2u);
    }));
  }
}

TEST(TcpStore, WithoutRankZeroTheOthersAreToldThatItIsGone) {
  const Watchdog dog(seconds(120));
  const int port = free_port();
  auto first = tcp_store(launch_of(0, 2, port), long_time);
  const auto second = tcp_store(launch_of(1, 2, port), long_time);
  first.reset();
  const auto error = error_of([&] { (void)second->get("key", steady_clock::now() + long_time); });
  expect_error(error, ErrorKind::dead, {"rank 0", "is gone"});
  EXPECT_EQ(error->culprits(), std::vector<Rank>{0});
  expect_error(error_of([&] { second->put("key", ""); }), ErrorKind::dead, {"rank 0"});
}

/// A port that nobody listens at, among those that the system gives to sockets that connect (Linux: even ones first): sooner or later one
/// is given that port, and meets itself.
TEST(BootstrapTcp, NobodyConnectsToItself) {
  int port = PlainSocket().take_port(/*listening=*/false);
  for (int round = 0; round < 2; ++round, port ^= 1) {
    std::string reason;
    for (int i = 0; i < 40'000; ++i)
      ASSERT_FALSE(bootstrap::connect_to("127.0.0.1", port, bootstrap::Clock::now() + seconds(10), reason).is_open()) << i;
    EXPECT_EQ(reason, bootstrap::system_text(ECONNREFUSED));
  }
}

}  // namespace
}  // namespace seqccl::test
