// bootstrap_store_test.cpp - ranks as threads that gather through a store, and what happens when one is missing or wrong.
// SPDX-License-Identifier: Apache-2.0
#include "bootstrap_support.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using std::chrono::steady_clock;

constexpr auto long_time = seconds(100);  // never used up in a test that passes

/// How the ranks of a test get to their store.
struct Stores {
  std::string name;
  std::function<std::function<std::unique_ptr<Store>(const LaunchInfo&)>(const Directory&)> open;
};
class StoreTest : public ::testing::TestWithParam<Stores> {
 protected:
  [[nodiscard]] std::unique_ptr<Store> open(Rank rank, int num_ranks) const { return opener_(launch_of(rank, num_ranks, port_)); }

  Watchdog dog_{seconds(240)};
  Directory directory_;
  int port_ = free_port();
  std::function<std::unique_ptr<Store>(const LaunchInfo&)> opener_ = GetParam().open(directory_);
};
INSTANTIATE_TEST_SUITE_P(
    Bootstrap, StoreTest,
    ::testing::Values(Stores{"tcp", [](const Directory&) { return [](const LaunchInfo& launch) { return tcp_store(launch, long_time); }; }},
                      Stores{"file",
                             [](const Directory& directory) {
                               return [path = directory.path()](const LaunchInfo& launch) { return file_store(path, launch); };
                             }}),
    [](const auto& instance) { return instance.param.name; });

std::string text_of_rank(Rank rank, int round) {
  // Lengths from nothing to beyond one value of the store, all bytes.
  static const std::size_t lengths[] = {3, 0, 500, 70'000, 400'000};
  std::string text(lengths[static_cast<std::size_t>(rank + round) % 5], '\0');
  for (std::size_t i = 0; i < text.size(); ++i)
    text[i] = static_cast<char>(i * 7 + static_cast<std::size_t>(rank) * 31 + static_cast<std::size_t>(round));
  return text;
}

TEST_P(StoreTest, EveryRankGetsAllStrings) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8}) {
    dog_.round(num_ranks);
    port_ = free_port();
    expect_no_errors(errors_of_ranks(ranks_below(num_ranks), [&](Rank rank) {
      const auto store = open(rank, num_ranks);
      AllGather all_gather = store_all_gather(*store, rank, num_ranks, long_time);
      AllGather other = store_all_gather(*store, rank, num_ranks, long_time, "another communicator");
      for (int round = 0; round < 4; ++round) {
        const auto everyone = (round == 2 ? other : all_gather)(text_of_rank(rank, round));
        ASSERT_EQ(everyone.size(), static_cast<std::size_t>(num_ranks));
        for (Rank peer = 0; peer < num_ranks; ++peer) EXPECT_TRUE(everyone[static_cast<std::size_t>(peer)] == text_of_rank(peer, round));
      }
    }));
    EXPECT_TRUE(directory_.is_empty());  // a file store leaves nothing
  }
}

TEST_P(StoreTest, OneWhoEndsAtOnceTakesNothingFromTheOthers) {
  // Rank 0 and its store go as soon as they may; the others are as slow as the machine makes them.
  for (int i = 0; i < 20; ++i) {
    dog_.round(i);
    port_ = free_port();
    expect_no_errors(errors_of_ranks(ranks_below(3), [&](Rank rank) {
      const auto store = open(rank, 3);
      EXPECT_EQ(store_all_gather(*store, rank, 3, long_time)("x").size(), 3u);
    }));
  }
}

TEST_P(StoreTest, KeysArePutOnceAndWaitedFor) {
  expect_no_errors(errors_of_ranks({0, 1}, [&](Rank rank) {
    const auto store = open(rank, 2);
    const auto far = steady_clock::now() + long_time;
    if (rank == 0) {
      store->put("a", "1");
      EXPECT_EQ(store->get("b", far), "");
      expect_error(error_of([&] { store->put("b", "2"); }), ErrorKind::mismatched, {"\"b\"", "put before", store->place()});
      EXPECT_EQ(store->get("a", steady_clock::now()), "1");
      EXPECT_EQ(store->get("never", steady_clock::now() + milliseconds(30)), std::nullopt);
      EXPECT_EQ(store->get("never", steady_clock::now()), std::nullopt);
      const std::string longest(max_store_key_bytes, '/');
      store->put(longest, std::string(max_store_value_bytes, '\xff'));
      EXPECT_EQ(store->get(longest, far), std::string(max_store_value_bytes, '\xff'));
      for (const std::string& key : {std::string(), std::string(max_store_key_bytes + 1, 'k')}) {
        expect_error(error_of([&] { store->put(key, "1"); }), ErrorKind::argument, {"key has", "1 to 256"});
        expect_error(error_of([&] { (void)store->get(key, far); }), ErrorKind::argument, {"key has", "1 to 256"});
      }
      expect_error(error_of([&] { store->put("c", std::string(max_store_value_bytes + 1, 'v')); }), ErrorKind::argument,
                   {"1048577", "1048576"});
      store->put("end", "");
      EXPECT_EQ(store->get("end of 1", far), "");
    } else {
      EXPECT_EQ(store->get("a", far), "1");
      std::this_thread::sleep_for(milliseconds(20));
      store->put("b", "");
      EXPECT_EQ(store->get("end", far), "");
      store->put("end of 1", "");
    }
  }));
}

TEST_P(StoreTest, MissingRanksAreNamedByAllWhoCame) {
  const auto errors = errors_of_ranks({0, 1, 3, 4}, [&](Rank rank) {
    const auto store = open(rank, 6);
    AllGather all_gather = store_all_gather(*store, rank, 6, seconds(1));
    const auto begin = steady_clock::now();
    const auto error = error_of([&] { (void)all_gather("x"); });
    EXPECT_LT(steady_clock::now() - begin, seconds(60));
    expect_error(error_of([&] { (void)all_gather("x"); }), ErrorKind::stalled, {error->what()});  // and so again
    throw Error(*error);
  });
  for (const auto& error : errors) {
    expect_error(error, ErrorKind::stalled, {"ranks 2, 5 of 6 have not arrived after 1 s (round 0); waited at "});
    EXPECT_EQ(error->culprits(), (std::vector<Rank>{2, 5}));
  }
}

TEST_P(StoreTest, ARankThatDoesNotComeBackIsNamedWithTheRound) {
  const auto errors = errors_of_ranks(ranks_below(3), [&](Rank rank) {
    const auto store = open(rank, 3);
    AllGather all_gather = store_all_gather(*store, rank, 3, seconds(rank == 1 ? 100 : 1));
    (void)all_gather("x");
    if (rank != 1) (void)all_gather("y");
  });
  // The TCP store sees that it is gone; over files its time must pass.
  const bool notices = GetParam().name == "tcp";
  for (const Rank rank : {0, 2}) {
    expect_error(errors[static_cast<std::size_t>(rank)], notices ? ErrorKind::dead : ErrorKind::stalled,
                 {notices ? "rank 1 of 3 has left or ended" : "rank 1 of 3 has not arrived", "(round 1)"});
    EXPECT_EQ(errors[static_cast<std::size_t>(rank)]->culprits(), std::vector<Rank>{1});
  }
  EXPECT_FALSE(errors[1].has_value());
}

TEST_P(StoreTest, AnotherNumberOfRanksIsNamed) {
  // Rank 2 thinks of 8. Nobody waits for ranks that only it believes in.
  const auto errors = errors_of_ranks(ranks_below(4), [&](Rank rank) {
    const auto store = open(rank, rank == 2 ? 8 : 4);
    (void)store_all_gather(*store, rank, rank == 2 ? 8 : 4, long_time)("x");
  });
  for (const auto& error : errors) {
    expect_error(error, ErrorKind::mismatched, {"rank 0 says 4, rank 2 says 8"});
    EXPECT_EQ(error->culprits(), std::vector<Rank>{2});
  }
}

TEST_P(StoreTest, ARankBeyondTheOthersNumberIsToldSo) {
  const auto errors = errors_of_ranks({0, 1, 6}, [&](Rank rank) {
    const int num_ranks = rank == 6 ? 8 : 2;
    const auto store = open(rank, num_ranks);
    AllGather all_gather = store_all_gather(*store, rank, num_ranks, long_time);
    if (rank == 6) {
      const auto error = error_of([&] { (void)all_gather("x"); });
      store->put("rank 6 knows", "");
      throw Error(*error);
    }
    (void)all_gather("x");
    // Ranks 0 and 1 do not know of rank 6, so the test makes them stay until it has seen their number.
    EXPECT_TRUE(rank != 0 || store->get("rank 6 knows", steady_clock::now() + long_time).has_value());
  });
  EXPECT_FALSE(errors[0].has_value());
  EXPECT_FALSE(errors[1].has_value());
  expect_error(errors[2], ErrorKind::mismatched, {"rank 0 says 2, rank 6 says 8"});
}

TEST_P(StoreTest, TwoProcessesOfOneRankAreTold) {
  const auto errors = errors_of_ranks({0, 1, 1}, [&](Rank rank) {
    const auto store = open(rank, 3);
    (void)store_all_gather(*store, rank, 3, seconds(1))("x");
  });
  int num_told = 0;
  for (const std::size_t i : {1u, 2u}) num_told += errors[i] && errors[i]->kind() == ErrorKind::mismatched ? 1 : 0;
  EXPECT_EQ(num_told, 1);
  expect_error(errors[0], ErrorKind::stalled, {"rank 2 of 3"});
}

TEST_P(StoreTest, WrongArgumentsAreRefused) {
  const auto store = open(0, 1);
  expect_error(error_of([&] { (void)store_all_gather(*store, 0, 0, seconds(1)); }), ErrorKind::argument, {"num_ranks is 0"});
  expect_error(error_of([&] { (void)store_all_gather(*store, 2, 2, seconds(1)); }), ErrorKind::argument, {"rank is 2", "0 to 1"});
  expect_error(error_of([&] { (void)store_all_gather(*store, -1, 2, seconds(1)); }), ErrorKind::argument, {"rank is -1"});
  expect_error(error_of([&] { (void)store_all_gather(*store, 0, 1, seconds(0)); }), ErrorKind::argument, {"timeout is 0 s"});
  expect_error(error_of([&] { (void)store_all_gather(*store, 0, 1, seconds(1), ""); }), ErrorKind::argument, {"group has 0 bytes"});
  AllGather all_gather = store_all_gather(*store, 0, 1, seconds(1));
  expect_error(error_of([&] { (void)all_gather(std::string(max_store_value_bytes, 'x')); }), ErrorKind::argument,
               {"mine has 1048576 bytes"});
  EXPECT_EQ(all_gather(std::string(max_store_value_bytes - 64, 'x')).at(0).size(), max_store_value_bytes - 64);
}

TEST(FileStore, ARankWithoutRankZeroRemovesWhatItPut) {
  const Watchdog dog(seconds(60));
  const Directory directory;
  expect_error(error_of([&] {
                 const auto store = file_store(directory.path(), launch_of(1, 2, 1));
                 (void)store_all_gather(*store, 1, 2, milliseconds(50))("x");
               }),
               ErrorKind::stalled, {"rank 0 of 2 has not arrived", directory.path()});
  EXPECT_TRUE(directory.is_empty());
}

TEST(FileStore, JobsInOneFolderDoNotMix) {
  const Directory directory;
  LaunchInfo one = launch_of(0, 1, 1), two = one;
  two.job = "another";
  const auto first = file_store(directory.path(), one), second = file_store(directory.path(), two);
  first->put("key", "1");
  EXPECT_EQ(second->get("key", steady_clock::now()), std::nullopt);
}

TEST(FileStore, AFolderThatIsNotThereIsRefused) {
  expect_error(error_of([] { (void)file_store("/no/such/folder", launch_of(0, 1, 1)); }), ErrorKind::argument,
               {"directory is \"/no/such/folder\"", "want one that all ranks see"});
}

}  // namespace
}  // namespace seqccl::test
