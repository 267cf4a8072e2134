// decode_test.cpp - decoding over a sharded cache, step after step, against the double reference over the whole sequence.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>
#include <tuple>

#include "seqccl/collectives.hpp"
#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"
#include "support/tolerance.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

/// How a rank lays out its shard.
enum class Layout { block, pages, pages_k_then_v, pages_of_one };
constexpr Layout all_layouts[] = {Layout::block, Layout::pages, Layout::pages_k_then_v, Layout::pages_of_one};

/// A sequence per batch row that grows by Tq tokens a step; who owns what; every query, key and value there will be.
struct Story {
  DecodeSpec spec;
  int num_ranks = 1, num_steps = 3;
  std::int64_t tokens_in_all = 0;        // of the longest row at the end
  std::vector<std::vector<Rank>> owner;  // [batch][token], in sequence order
  std::vector<std::int64_t> old;         // [batch] tokens before the first step
  HostTensor keys, values;               // (B, N, Hkv, D): token n of row b
  std::vector<HostTensor> queries;       // [step] (B, Tq, Hq, D)
  std::vector<HostTensor> exact_out, exact_lse, plain_out, plain_lse;

  Story(const DecodeSpec& decode, int ranks, std::uint64_t seed = 1) : spec(decode), num_ranks(ranks) {
    std::mt19937_64 random(seed);
    const std::int64_t B = spec.batch, Tq = spec.q_tokens, Hkv = spec.num_kv_heads();
    for (std::int64_t b = 0; b < B; ++b) {
      // Uneven; some ranks have nothing of some rows, and the last row begins empty everywhere.
      old.push_back(b + 1 == B && B > 1 ? 0 : 3 + static_cast<std::int64_t>(random() % 60));
      std::vector<Rank> of_row;
      const auto absent = static_cast<Rank>(random() % static_cast<std::uint64_t>(ranks));
      for (std::int64_t n = 0; n < old.back(); ++n) {
        const auto rank = static_cast<Rank>(random() % static_cast<std::uint64_t>(ranks));
        of_row.push_back(rank == absent ? (rank + 1) % ranks : rank);
      }
      // New tokens: interleaved in even rows, all to one rank in odd ones.
      for (std::int64_t n = 0; n < num_steps * Tq; ++n)
        of_row.push_back(b % 2 == 0 ? decode_owner(old.back() + n, ranks) : static_cast<Rank>(b % ranks));
      owner.push_back(std::move(of_row));
      tokens_in_all = std::max(tokens_in_all, old.back() + num_steps * Tq);
    }
    keys = random_tensor(spec.dtype, {B, tokens_in_all, Hkv, spec.head_dim}, seed + 1);
    values = random_tensor(spec.dtype, {B, tokens_in_all, Hkv, spec.dim_v()}, seed + 2);
    for (int step = 0; step < num_steps; ++step) solve(step, seed);
  }

  /// Queries stand in rows 0 .. Tq - 1 of the reference's sequence; slices say what they see of the keys.
  void solve(int step, std::uint64_t seed) {
    const std::int64_t B = spec.batch, Tq = spec.q_tokens, N = tokens_in_all, Hq = spec.q_heads;
    queries.push_back(random_tensor(spec.dtype, {B, Tq, Hq, spec.head_dim}, seed + 10 + static_cast<std::uint64_t>(step)));
    HostTensor q(spec.dtype, {B, N, Hq, spec.head_dim});
    q.fill(0);
    const std::int64_t row = Hq * spec.head_dim;
    std::vector<BandSlice> slices;
    for (std::int64_t b = 0; b < B; ++b) {
      for (std::int64_t i = 0; i < Tq * row; ++i) q.set(b * N * row + i, queries.back().get(b * Tq * row + i));
      const std::int64_t before = old[static_cast<std::size_t>(b)] + step * Tq;
      if (before > 0) slices.push_back({0, Tq, 0, before, -unbounded, unbounded, b});
      slices.push_back({0, Tq, before, Tq, -unbounded, before, b});
    }
    const reference::Attention problem{std::as_const(q).view(),
                                       std::as_const(keys).view(),
                                       std::as_const(values).view(),
                                       {},
                                       slices,
                                       spec.scale_or_default(),
                                       spec.softcap};
    const auto first_rows = [&](DType dtype, DType lse_dtype, auto&& attend, std::vector<HostTensor>& outs, std::vector<HostTensor>& lses) {
      HostTensor out(dtype, {B, N, Hq, spec.dim_v()}), lse(lse_dtype, {B, Hq, N});
      attend(out, lse);
      HostTensor few(dtype, {B, Tq, Hq, spec.dim_v()}), few_lse(lse_dtype, {B, Hq, Tq});
      const std::int64_t out_row = Hq * spec.dim_v();
      for (std::int64_t b = 0; b < B; ++b) {
        for (std::int64_t i = 0; i < Tq * out_row; ++i) few.set(b * Tq * out_row + i, out.get(b * N * out_row + i));
        for (std::int64_t h = 0; h < Hq; ++h)
          for (std::int64_t t = 0; t < Tq; ++t) few_lse.set((b * Hq + h) * Tq + t, lse.get((b * Hq + h) * N + t));
      }
      outs.push_back(std::move(few));
      lses.push_back(std::move(few_lse));
    };
    first_rows(
        DType::f64, DType::f64, [&](HostTensor& out, HostTensor& lse) { reference::attend(problem, out.view(), lse.view()); }, exact_out,
        exact_lse);
    first_rows(
        spec.dtype, f32, [&](HostTensor& out, HostTensor& lse) { reference::attend_plain(problem, out.view(), lse.view()); }, plain_out,
        plain_lse);
  }

  [[nodiscard]] HostTensor new_of(const HostTensor& all, int step) const {
    const std::int64_t heads = all.geometry.shape[2], dim = all.geometry.shape[3], Tq = spec.q_tokens;
    HostTensor result(all.dtype, {spec.batch, Tq, heads, dim});
    for (std::int64_t b = 0; b < spec.batch; ++b) {
      const std::int64_t first = old[static_cast<std::size_t>(b)] + step * Tq;
      for (std::int64_t i = 0; i < Tq * heads * dim; ++i)
        result.set(b * Tq * heads * dim + i, all.get((b * tokens_in_all + first) * heads * dim + i));
    }
    return result;
  }
  [[nodiscard]] std::vector<Rank> owners(int step) const {
    std::vector<Rank> result;
    for (std::int64_t b = 0; b < spec.batch; ++b)
      for (std::int64_t t = 0; t < spec.q_tokens; ++t)
        result.push_back(
            owner[static_cast<std::size_t>(b)][static_cast<std::size_t>(old[static_cast<std::size_t>(b)] + step * spec.q_tokens + t)]);
    return result;
  }
};

/// One rank's shard with its memory, which begins as NaN everywhere.
struct Shard {
  const Story& story;
  Rank rank;
  Layout layout;
  std::int64_t page_tokens, capacity;
  std::vector<std::int64_t> lengths;
  std::vector<std::int32_t> table;
  HostTensor k_memory, v_memory;
  TensorView k, v;

  Shard(const Story& of, Rank me, Layout how, std::int64_t room) : story(of), rank(me), layout(how) {
    const DecodeSpec& spec = story.spec;
    const std::int64_t B = spec.batch, Hkv = spec.num_kv_heads();
    page_tokens = layout == Layout::pages_of_one ? 1 : 4;
    const std::int64_t max_pages = (room + page_tokens - 1) / page_tokens;
    capacity = layout == Layout::block ? room : max_pages * page_tokens;
    lengths.assign(static_cast<std::size_t>(B), 0);
    const auto make = [&](HostTensor& memory, std::int64_t dim) {
      if (layout == Layout::block) {
        memory = HostTensor(spec.dtype, {B, capacity, Hkv, dim});
        return memory.view();
      }
      // Twice as many pages as are used; k_then_v leaves a hole of a page after each.
      const std::int64_t num_pages = 2 * B * max_pages, pitch = layout == Layout::pages_k_then_v ? 2 : 1;
      memory = HostTensor(spec.dtype, {num_pages, pitch * page_tokens, Hkv, dim});
      TensorView pages = memory.view();
      pages.geometry.shape[1] = page_tokens;
      return pages;
    };
    k = make(k_memory, spec.head_dim);
    v = make(v_memory, spec.dim_v());
    if (layout != Layout::block) {
      std::vector<std::int32_t> pages(static_cast<std::size_t>(2 * B * max_pages));
      std::iota(pages.begin(), pages.end(), 0);
      std::shuffle(pages.begin(), pages.end(), std::mt19937_64(static_cast<std::uint64_t>(rank) + 77));
      table.assign(pages.begin(), pages.begin() + static_cast<std::ptrdiff_t>(B * max_pages));
    }
    for (std::int64_t b = 0; b < B; ++b) {
      const auto& owners = story.owner[static_cast<std::size_t>(b)];
      for (std::int64_t n = 0; n < story.old[static_cast<std::size_t>(b)]; ++n)
        if (owners[static_cast<std::size_t>(n)] == rank) store(b, lengths[static_cast<std::size_t>(b)]++, n);
    }
  }

  /// First element of place `place` of batch row b.
  [[nodiscard]] std::int64_t offset(const TensorView& view, std::int64_t b, std::int64_t place) const {
    if (layout == Layout::block) return b * view.stride(0) + place * view.stride(1);
    const std::int64_t max_pages = capacity / page_tokens;
    return table[static_cast<std::size_t>(b * max_pages + place / page_tokens)] * view.stride(0) + place % page_tokens * view.stride(1);
  }
  void store(std::int64_t b, std::int64_t place, std::int64_t token) {
    const auto one = [&](HostTensor& memory, const TensorView& view, const HostTensor& all) {
      const std::int64_t width = all.geometry.shape[2] * all.geometry.shape[3];
      for (std::int64_t i = 0; i < width; ++i)
        memory.set(offset(view, b, place) + i, all.get((b * story.tokens_in_all + token) * width + i));
    };
    one(k_memory, k, story.keys);
    one(v_memory, v, story.values);
  }
  /// Every token up to the given number is where it belongs, and the lengths say so.
  void expect_holds(std::int64_t num_steps) const {
    for (std::int64_t b = 0; b < story.spec.batch; ++b) {
      const auto& owners = story.owner[static_cast<std::size_t>(b)];
      const std::int64_t end = story.old[static_cast<std::size_t>(b)] + num_steps * story.spec.q_tokens;
      std::int64_t place = 0;
      for (std::int64_t n = 0; n < end; ++n) {
        if (owners[static_cast<std::size_t>(n)] != rank) continue;
        const auto same = [&](const HostTensor& memory, const TensorView& view, const HostTensor& all) {
          const std::int64_t width = all.geometry.shape[2] * all.geometry.shape[3];
          for (std::int64_t i = 0; i < width; ++i)
            if (memory.get(offset(view, b, place) + i) != all.get((b * story.tokens_in_all + n) * width + i)) return false;
          return true;
        };
        ASSERT_TRUE(same(k_memory, k, story.keys)) << "k of row " << b << ", token " << n << " on rank " << rank;
        ASSERT_TRUE(same(v_memory, v, story.values)) << "v of row " << b << ", token " << n << " on rank " << rank;
        ++place;
      }
      EXPECT_EQ(lengths[static_cast<std::size_t>(b)], place) << "row " << b << " on rank " << rank;
    }
  }
  [[nodiscard]] DecodeCache cache() { return {.k = k, .v = v, .lengths = lengths, .page_table = table}; }
};

/// Decodes the story on thread ranks and holds every step against the reference.
void expect_right(const Story& story, Layout layout) {
  const DecodeSpec& spec = story.spec;
  const std::int64_t B = spec.batch, Tq = spec.q_tokens, Hq = spec.q_heads, Dv = spec.dim_v();
  std::vector<HostTensor> outs(static_cast<std::size_t>(story.num_ranks)), lses(outs.size());
  std::mutex reporting;
  Watchdog watchdog(std::chrono::seconds(120));
  std::vector<HostTensor> whole_out, whole_lse;
  for (int step = 0; step < story.num_steps; ++step) {
    whole_out.emplace_back(spec.dtype, std::initializer_list<std::int64_t>{B, Tq, Hq, Dv});
    whole_lse.emplace_back(f32, std::initializer_list<std::int64_t>{B, Hq, Tq});
  }
  run_ranks(story.num_ranks, [&](Communicator& comm) {
    const auto leash = watchdog.watch(comm.transport());
    const Rank rank = comm.rank();
    Shard shard(story, rank, layout, story.tokens_in_all);
    Decode decode(comm, spec);
    const Rows heads = decode.heads();
    for (int step = 0; step < story.num_steps; ++step) {
      const HostTensor k_new = story.new_of(story.keys, step), v_new = story.new_of(story.values, step);
      HostTensor out(spec.dtype, {B, Tq, heads.count, Dv}), lse(f32, {B, heads.count, Tq});
      decode.append(story.queries[static_cast<std::size_t>(step)].view(), k_new.view(), v_new.view(), story.owners(step), shard.cache(),
                    out.view(), lse.view());
      const std::lock_guard lock(reporting);
      shard.expect_holds(step + 1);
      // Everywhere: the last rank's, after it was compared with the first one's; by heads: each its own.
      HostTensor& to = whole_out[static_cast<std::size_t>(step)];
      HostTensor& to_lse = whole_lse[static_cast<std::size_t>(step)];
      for (std::int64_t row = 0; row < B * Tq; ++row)
        for (std::int64_t i = 0; i < heads.count * Dv; ++i) to.set((row * Hq + heads.first) * Dv + i, out.get(row * heads.count * Dv + i));
      for (std::int64_t b = 0; b < B; ++b)
        for (std::int64_t i = 0; i < heads.count * Tq; ++i) to_lse.set((b * Hq + heads.first) * Tq + i, lse.get(b * heads.count * Tq + i));
      if (step + 1 == story.num_steps) {
        outs[static_cast<std::size_t>(rank)] = out;
        lses[static_cast<std::size_t>(rank)] = lse;
      }
    }
  });
  for (std::size_t step = 0; step < whole_out.size(); ++step) {
    SCOPED_TRACE("step " + std::to_string(step) + ", " + std::to_string(story.num_ranks) + " ranks\n" + spec.describe());
    expect_accurate(whole_out[step], story.exact_out[step], story.plain_out[step], spec.dtype, false, "out");
    expect_accurate(whole_lse[step], story.exact_lse[step], story.plain_lse[step], f32, false, "lse");
  }
  // Results everywhere are the same bits on all ranks, whatever the form.
  if (spec.result == DecodeResult::by_heads) return;
  for (std::size_t rank = 1; rank < outs.size(); ++rank) {
    EXPECT_EQ(outs[rank].bytes, outs[0].bytes) << "out of rank " << rank;
    EXPECT_EQ(lses[rank].bytes, lses[0].bytes) << "lse of rank " << rank;
  }
}

DecodeSpec spec_of(DecodeMerge merge, DType dtype = f32, DecodeResult result = DecodeResult::everywhere) {
  DecodeSpec spec;
  spec.batch = 3;
  spec.q_heads = 6;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.dtype = dtype;
  spec.merge = merge;
  spec.result = result;
  return spec;
}

constexpr DecodeMerge all_merges[] = {DecodeMerge::butterfly, DecodeMerge::tree, DecodeMerge::all_to_all};

class EveryDecode : public ::testing::TestWithParam<int> {};

TEST_P(EveryDecode, AgreesWithDenseAttention) {
  int number = 0;
  for (const DecodeMerge merge : all_merges)
    for (const DecodeResult result : {DecodeResult::everywhere, DecodeResult::by_heads})
      for (const DType dtype : {f32, f16, bf16}) {
        DecodeSpec spec = spec_of(merge, dtype, result);
        spec.q_tokens = number % 2 == 0 ? 1 : 4;
        expect_right(Story(spec, GetParam(), static_cast<std::uint64_t>(number)), all_layouts[number % 4]);
        if (HasFatalFailure()) return;
        ++number;
      }
}

TEST_P(EveryDecode, EveryLayoutOfTheCache) {
  for (const Layout layout : all_layouts)
    for (const std::int64_t q_tokens : {1, 4}) {
      DecodeSpec spec = spec_of(DecodeMerge::automatic);
      spec.q_tokens = q_tokens;
      spec.v_head_dim = 8;
      spec.softcap = q_tokens == 1 ? 0.0f : 5.0f;
      spec.batch = q_tokens == 1 ? 1 : 4;
      expect_right(Story(spec, GetParam(), 5), layout);
    }
}

INSTANTIATE_TEST_SUITE_P(Ranks, EveryDecode, ::testing::Values(1, 2, 3, 4, 5, 7, 8));

TEST(Decode, AutomaticChoosesByMessageSize) {
  run_ranks(8, [](Communicator& comm) {
    DecodeSpec spec = spec_of(DecodeMerge::automatic);
    EXPECT_EQ(Decode(comm, spec).spec().merge, DecodeMerge::butterfly);
    spec.batch = 1 << 14;
    EXPECT_EQ(Decode(comm, spec).spec().merge, DecodeMerge::all_to_all);
  });
}

TEST(Decode, AttendWithoutNewTokensSeesTheWholeCacheAndTakesTheUsersKernel) {
  DecodeSpec spec = spec_of(DecodeMerge::butterfly);
  spec.kernel = {.name = "mine", .accumulates = false, .run = [](const AttendArguments& arguments) { cpu::attend(arguments); }};
  const Story story(spec, 3);
  std::mutex reporting;
  Watchdog watchdog(std::chrono::seconds(60));
  run_ranks(3, [&](Communicator& comm) {
    const auto leash = watchdog.watch(comm.transport());
    Shard shard(story, comm.rank(), Layout::pages, story.tokens_in_all);
    // The first step's tokens are put there by hand; one query then sees what `append` would have shown it.
    for (std::int64_t b = 0; b < spec.batch; ++b) {
      const std::int64_t token = story.old[static_cast<std::size_t>(b)];
      if (story.owner[static_cast<std::size_t>(b)][static_cast<std::size_t>(token)] == comm.rank())
        shard.store(b, shard.lengths[static_cast<std::size_t>(b)]++, token);
    }
    const std::vector<std::int64_t> lengths = shard.lengths;
    Decode decode(comm, spec);
    HostTensor out(f32, {spec.batch, 1, spec.q_heads, 16}), lse(f32, {spec.batch, spec.q_heads, 1});
    decode.attend(story.queries[0].view(), shard.cache(), out.view(), lse.view());
    const std::lock_guard lock(reporting);
    EXPECT_EQ(shard.lengths, lengths);
    expect_accurate(out, story.exact_out[0], story.plain_out[0], f32, false, "out");
    expect_accurate(lse, story.exact_lse[0], story.plain_lse[0], f32, false, "lse");
  });
}

TEST(Decode, NothingIsWrittenWhenTheCacheIsFull) {
  DecodeSpec spec = spec_of(DecodeMerge::butterfly);
  spec.q_tokens = 4;
  const Story story(spec, 1);
  Communicator comm = std::move(thread_communicators(1).front());
  const HostTensor k_new = story.new_of(story.keys, 0), v_new = story.new_of(story.values, 0);
  const std::int64_t longest = *std::max_element(story.old.begin(), story.old.end());
  for (const Layout layout : all_layouts) {
    Shard shard(story, 0, layout, longest);
    if (layout != Layout::block && layout != Layout::pages_of_one) shard.table.back() = -1;  // a page that is not there either
    shard.lengths.back() = layout == Layout::block ? 0 : shard.capacity - 2;
    const auto [k, v, lengths] = std::tuple(shard.k_memory.bytes, shard.v_memory.bytes, shard.lengths);
    Decode decode(comm, spec);
    HostTensor out(f32, {spec.batch, 4, spec.q_heads, 16}), lse(f32, {spec.batch, spec.q_heads, 4});
    try {
      decode.append(story.queries[0].view(), k_new.view(), v_new.view(), story.owners(0), shard.cache(), out.view(), lse.view());
      ADD_FAILURE() << "it fitted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument);
    }
    EXPECT_EQ(shard.k_memory.bytes, k);
    EXPECT_EQ(shard.v_memory.bytes, v);
    EXPECT_EQ(shard.lengths, lengths);
  }
}

// Each rank thinks that the other owns the token: without the check it would be lost.
TEST(Decode, RanksThatDisagreeAboutOwnersAreMismatched) {
  const DecodeSpec spec = spec_of(DecodeMerge::butterfly);
  const Story story(spec, 2);
  Watchdog watchdog(std::chrono::seconds(60));
  std::vector<Communicator> comms = thread_communicators(2);
  std::mutex reporting;
  std::vector<std::thread> threads;
  for (Communicator& comm : comms)
    threads.emplace_back([&story, &spec, &watchdog, &reporting, &comm] {
      const auto leash = watchdog.watch(comm.transport());
      Shard shard(story, comm.rank(), Layout::block, story.tokens_in_all);
      const std::vector<std::int64_t> lengths = shard.lengths;
      const std::vector<Rank> owners(static_cast<std::size_t>(spec.batch), comm.rank());  // both write, and both must take it back
      const HostTensor k_new = story.new_of(story.keys, 0), v_new = story.new_of(story.values, 0);
      Decode decode(comm, spec);
      HostTensor out(f32, {spec.batch, 1, spec.q_heads, 16}), lse(f32, {spec.batch, spec.q_heads, 1});
      ErrorKind kind = ErrorKind::internal;
      std::string text;
      try {
        decode.append(story.queries[0].view(), k_new.view(), v_new.view(), owners, shard.cache(), out.view(), lse.view());
      } catch (const Error& error) {
        kind = error.kind();
        text = error.what();
      }
      const std::lock_guard lock(reporting);
      EXPECT_EQ(kind, ErrorKind::mismatched) << text;
      EXPECT_NE(text.find("owners"), std::string::npos) << text;
      EXPECT_EQ(shard.lengths, lengths);
    });
  for (std::thread& thread : threads) thread.join();
}

TEST(Decode, WhatCannotBeBoundIsRefusedByName) {
  const DecodeSpec spec = spec_of(DecodeMerge::butterfly);
  const Story story(spec, 1);
  Communicator comm = std::move(thread_communicators(1).front());
  Decode decode(comm, spec);
  EXPECT_THROW((void)decode.schedule(), Error);
  HostTensor out(f32, {spec.batch, 1, spec.q_heads, 16}), lse(f32, {spec.batch, spec.q_heads, 1});
  const auto message_of = [&](auto&& change) -> std::string {
    Shard shard(story, 0, Layout::pages, story.tokens_in_all);
    DecodeCache cache = shard.cache();
    change(cache);
    try {
      decode.attend(story.queries[0].view(), cache, out.view(), lse.view());
    } catch (const Error& error) {
      return error.kind() == ErrorKind::argument ? error.what() : "";
    }
    return "";
  };
  const auto expect_names = [&](const char* what, auto&& change) {
    const std::string text = message_of(change);
    EXPECT_NE(text.find(what), std::string::npos) << text;
  };
  expect_names("lengths", [](DecodeCache& cache) { cache.lengths = cache.lengths.first(2); });
  expect_names("page table", [](DecodeCache& cache) { cache.page_table = cache.page_table.first(cache.page_table.size() - 1); });
  expect_names("cache.k", [](DecodeCache& cache) { cache.k = {}; });
  expect_names("cache.v", [](DecodeCache& cache) { cache.v.dtype = bf16; });
  expect_names("cache.k", [](DecodeCache& cache) { cache.k.geometry.strides[0] -= 1; });
  expect_names("cache.v", [](DecodeCache& cache) { cache.v.geometry.strides[0] *= 2; });
  expect_names("per page", [](DecodeCache& cache) {  // pages that overlap by all but a token
    cache.k.geometry.strides[0] = cache.k.geometry.strides[1];
  });
  expect_names("axis", [](DecodeCache& cache) { cache.k.geometry.strides[3] = 2; });
  EXPECT_EQ(message_of([](DecodeCache&) {}), "");
}

}  // namespace
}  // namespace seqccl::test
