// context_pass_test.cpp - anchor, passed selections and local keys against the double reference over the keys put one after the other.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <mutex>

#include "seqccl/collectives.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"
#include "support/tolerance.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

ContextPassSpec spec_of(int num_ranks, DType dtype = f32) {
  ContextPassSpec spec;
  spec.batch = 2;
  spec.q_heads = 6;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.v_head_dim = 8;
  spec.dtype = dtype;
  spec.anchor_tokens = 5;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    spec.tokens.push_back(20 + 3 * (rank % 4));
    spec.passed_tokens.push_back(4 + rank % 3);
  }
  return spec;
}

/// The rows that rank r passes on: every third, from its last back, another start per batch row and head.
std::vector<std::int64_t> rows_of(const ContextPassSpec& spec, Rank rank) {
  const std::int64_t count = spec.passed_by(rank), tokens = spec.tokens_on(rank);
  std::vector<std::int64_t> rows;
  for (std::int64_t list = 0; list < spec.batch * spec.num_kv_heads(); ++list)
    for (std::int64_t s = 0; s < count; ++s) rows.push_back((tokens * 4 - 1 - 3 * s - list) % tokens);
  return rows;
}

struct RankTensors {
  HostTensor q, k, v, k_passed, v_passed, out, lse;
};

/// Rows [first, first + count) of `to` become those of `from`, which are all of it.
void put(const HostTensor& from, HostTensor& to, std::int64_t first) {
  const std::int64_t batch = from.geometry.shape[0], rows = from.geometry.shape[1], width = from.geometry.shape[2] * from.geometry.shape[3];
  const std::int64_t all = to.geometry.shape[1];
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < rows * width; ++i) to.set((b * all + first) * width + i, from.get(b * rows * width + i));
}

/// First `count` tokens of rank 0.
HostTensor head_of(const HostTensor& from, std::int64_t count) {
  HostTensor head(from.dtype, {from.geometry.shape[0], count, from.geometry.shape[2], from.geometry.shape[3]});
  const std::int64_t width = from.geometry.shape[2] * from.geometry.shape[3];
  for (std::int64_t b = 0; b < from.geometry.shape[0]; ++b)
    for (std::int64_t i = 0; i < count * width; ++i) head.set(b * count * width + i, from.get(b * from.geometry.shape[1] * width + i));
  return head;
}

void expect_right(const ContextPassSpec& spec, int repeats = 1) {
  const int num_ranks = spec.num_ranks();
  const std::int64_t B = spec.batch, Hq = spec.q_heads, Hkv = spec.num_kv_heads(), D = spec.head_dim, Dv = spec.dim_v();
  std::vector<RankTensors> ranks;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    const std::int64_t T = spec.tokens_on(rank), S = spec.passed_by(rank);
    const auto seed = static_cast<std::uint64_t>(rank) * 8;
    RankTensors mine{random_tensor(spec.dtype, {B, T, Hq, D}, seed),
                     random_tensor(spec.dtype, {B, T, Hkv, D}, seed + 1),
                     random_tensor(spec.dtype, {B, T, Hkv, Dv}, seed + 2),
                     HostTensor(spec.dtype, {B, S, Hkv, D}),
                     HostTensor(spec.dtype, {B, S, Hkv, Dv}),
                     HostTensor(spec.dtype, {B, T, Hq, Dv}),
                     HostTensor(f32, {B, Hq, T})};
    if (S != 0) {
      const std::vector<std::int64_t> rows = rows_of(spec, rank);
      select_rows(std::as_const(mine.k).view(), rows, mine.k_passed.view());
      select_rows(std::as_const(mine.v).view(), rows, mine.v_passed.view());
    }
    ranks.push_back(std::move(mine));
  }
  const HostTensor k_anchor = head_of(ranks[0].k, spec.anchor_tokens), v_anchor = head_of(ranks[0].v, spec.anchor_tokens);

  Watchdog watchdog(std::chrono::seconds(120));
  run_ranks(num_ranks, [&](Communicator& comm) {
    const auto leash = watchdog.watch(comm.transport());
    RankTensors& mine = ranks[static_cast<std::size_t>(comm.rank())];
    ContextPass pass(comm, spec);
    const ConstTensorView anchor_k = comm.rank() == 0 ? ConstTensorView{} : k_anchor.view();
    const ConstTensorView anchor_v = comm.rank() == 0 ? ConstTensorView{} : v_anchor.view();
    for (int repeat = 0; repeat < repeats; ++repeat)
      pass.forward(std::as_const(mine.q).view(), std::as_const(mine.k).view(), std::as_const(mine.v).view(), anchor_k, anchor_v,
                   std::as_const(mine.k_passed).view(), std::as_const(mine.v_passed).view(), mine.out.view(), mine.lse.view());
    std::uint64_t received = 0;
    for (const std::uint64_t bytes : comm.received_bytes()) received += bytes;
    EXPECT_EQ(received, static_cast<std::uint64_t>(repeats) * cost_of(pass.schedule()).total_received_bytes);
  });

  // Per rank: queries in rows [K - T, K) of a sequence of K keys, [anchor, passed by earlier ranks, own].
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    SCOPED_TRACE("rank " + std::to_string(rank) + "\n" + spec.describe());
    const RankTensors& mine = ranks[static_cast<std::size_t>(rank)];
    const std::int64_t T = spec.tokens_on(rank);
    if (T == 0) continue;
    std::int64_t before = spec.anchor_on(rank);
    for (Rank earlier = 0; earlier < rank; ++earlier) before += spec.passed_by(earlier);
    const std::int64_t K = before + T;
    HostTensor q(spec.dtype, {B, K, Hq, D}), k(spec.dtype, {B, K, Hkv, D}), v(spec.dtype, {B, K, Hkv, Dv});
    q.fill(0);
    put(mine.q, q, before);
    if (rank != 0) put(k_anchor, k, 0), put(v_anchor, v, 0);
    std::int64_t at = spec.anchor_on(rank);
    for (Rank earlier = 0; earlier < rank; ++earlier) {
      put(ranks[static_cast<std::size_t>(earlier)].k_passed, k, at);
      put(ranks[static_cast<std::size_t>(earlier)].v_passed, v, at);
      at += spec.passed_by(earlier);
    }
    put(mine.k, k, before);
    put(mine.v, v, before);
    const std::vector<BandSlice> slices{{before, T, 0, before}, {before, T, before, T, -unbounded, 0}};
    const reference::Attention problem{
        std::as_const(q).view(), std::as_const(k).view(), std::as_const(v).view(), {}, slices, spec.scale_or_default(), spec.softcap};
    const auto own_rows = [&](DType dtype, DType lse_dtype, auto&& attend, HostTensor& few, HostTensor& few_lse) {
      HostTensor out(dtype, {B, K, Hq, Dv}), lse(lse_dtype, {B, Hq, K});
      attend(out, lse);
      few = HostTensor(dtype, {B, T, Hq, Dv});
      few_lse = HostTensor(lse_dtype, {B, Hq, T});
      for (std::int64_t b = 0; b < B; ++b)
        for (std::int64_t i = 0; i < T * Hq * Dv; ++i) few.set(b * T * Hq * Dv + i, out.get((b * K + before) * Hq * Dv + i));
      for (std::int64_t row = 0; row < B * Hq; ++row)
        for (std::int64_t t = 0; t < T; ++t) few_lse.set(row * T + t, lse.get(row * K + before + t));
    };
    HostTensor exact_out, exact_lse, plain_out, plain_lse;
    own_rows(
        DType::f64, DType::f64, [&](HostTensor& out, HostTensor& lse) { reference::attend(problem, out.view(), lse.view()); }, exact_out,
        exact_lse);
    own_rows(
        spec.dtype, f32, [&](HostTensor& out, HostTensor& lse) { reference::attend_plain(problem, out.view(), lse.view()); }, plain_out,
        plain_lse);
    expect_accurate(mine.out, exact_out, plain_out, spec.dtype, false, "out");
    expect_accurate(mine.lse, exact_lse, plain_lse, f32, false, "lse");
  }
}

class EveryContextPass : public ::testing::TestWithParam<int> {};

TEST_P(EveryContextPass, AgreesWithDenseAttention) {
  for (const DType dtype : {f32, f16, bf16}) expect_right(spec_of(GetParam(), dtype));
  ContextPassSpec spec = spec_of(GetParam());
  spec.batch = 1;  // selections are sent in place
  spec.softcap = 4;
  expect_right(spec, 3);
}

TEST_P(EveryContextPass, EmptySelectionsEmptyRanksNoAnchor) {
  ContextPassSpec spec = spec_of(GetParam());
  for (Rank rank = 0; rank < GetParam(); ++rank) {
    if (rank % 3 == 1) spec.passed_tokens[static_cast<std::size_t>(rank)] = 0;
    if (rank % 4 == 2) spec.tokens[static_cast<std::size_t>(rank)] = spec.passed_tokens[static_cast<std::size_t>(rank)] = 0;
  }
  expect_right(spec);
  spec.kernel = {.name = "mine", .accumulates = false, .run = [](const AttendArguments& arguments) {
                   ASSERT_TRUE(arguments.fresh);
                   cpu::attend(arguments);
                 }};
  expect_right(spec);
  spec.anchor_tokens = 0;
  expect_right(spec);
  spec.passed_tokens.clear();
  expect_right(spec);
}

INSTANTIATE_TEST_SUITE_P(Ranks, EveryContextPass, ::testing::Values(1, 2, 3, 4, 5, 7, 8));

// Queries over all ranks after a context pass: the caches are the ranks' own keys.
TEST(ContextPass, StarAttentionsSecondPhaseIsDecode) {
  ContextPassSpec spec = spec_of(4);
  spec.passed_tokens.clear();
  spec.v_head_dim = 0;
  const std::int64_t B = spec.batch, Hq = spec.q_heads, Hkv = spec.kv_heads, D = spec.head_dim;
  std::vector<HostTensor> keys, values;
  std::int64_t N = 0;
  for (Rank rank = 0; rank < 4; ++rank) {
    const auto seed = static_cast<std::uint64_t>(rank);
    keys.push_back(random_tensor(f32, {B, spec.tokens_on(rank), Hkv, D}, seed));
    values.push_back(random_tensor(f32, {B, spec.tokens_on(rank), Hkv, D}, seed + 50));
    N += spec.tokens_on(rank);
  }
  const HostTensor query = random_tensor(f32, {B, 1, Hq, D}, 99);
  HostTensor q(f32, {B, N, Hq, D}), k(f32, {B, N, Hkv, D}), v(f32, {B, N, Hkv, D});
  q.fill(0);
  put(query, q, 0);
  std::int64_t at = 0;
  for (std::size_t rank = 0; rank < 4; ++rank) {
    put(keys[rank], k, at);
    put(values[rank], v, at);
    at += keys[rank].geometry.shape[1];
  }
  const std::vector<BandSlice> slices{{0, 1, 0, N}};
  HostTensor exact(DType::f64, {B, N, Hq, D}), exact_lse(DType::f64, {B, Hq, N});
  reference::attend({std::as_const(q).view(), std::as_const(k).view(), std::as_const(v).view(), {}, slices, spec.scale_or_default(), 0},
                    exact.view(), exact_lse.view());
  Watchdog watchdog(std::chrono::seconds(60));
  std::mutex reporting;
  run_ranks(4, [&](Communicator& comm) {
    const auto leash = watchdog.watch(comm.transport());
    const auto rank = static_cast<std::size_t>(comm.rank());
    DecodeSpec decode_spec;
    decode_spec.batch = B;
    decode_spec.q_heads = Hq;
    decode_spec.kv_heads = Hkv;
    decode_spec.head_dim = D;
    std::vector<std::int64_t> lengths(static_cast<std::size_t>(B), spec.tokens_on(comm.rank()));
    HostTensor out(f32, {B, 1, Hq, D}), lse(f32, {B, Hq, 1});
    Decode(comm, decode_spec).attend(query.view(), {keys[rank].view(), values[rank].view(), lengths}, out.view(), lse.view());
    const std::lock_guard lock(reporting);
    for (std::int64_t b = 0; b < B; ++b)
      for (std::int64_t i = 0; i < Hq * D; ++i) EXPECT_NEAR(out.get(b * Hq * D + i), exact.get(b * N * Hq * D + i), 2e-6);
  });
}

TEST(ContextPass, ShapesAreCheckedByName) {
  const ContextPassSpec spec = spec_of(1);
  Communicator comm = std::move(thread_communicators(1).front());
  ContextPass pass(comm, spec);
  const HostTensor q = random_tensor(f32, {2, 20, 6, 16}, 1), k = random_tensor(f32, {2, 20, 2, 16}, 2);
  const HostTensor v = random_tensor(f32, {2, 20, 2, 8}, 3), k_passed = random_tensor(f32, {2, 4, 2, 16}, 4);
  HostTensor out(f32, {2, 20, 6, 8}), lse(f32, {2, 6, 20});
  try {  // the values of the selection are missing
    pass.forward(q.view(), k.view(), v.view(), {}, {}, k_passed.view(), {}, out.view(), lse.view());
    ADD_FAILURE() << "it was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("v_passed"), std::string::npos) << error.what();
  }
}

TEST(SelectRows, TheSameForAllPerBatchRowOrPerHead) {
  const HostTensor from = random_tensor(bf16, {2, 7, 3, 4}, 1);
  const auto expect_selects = [&](const std::vector<std::int64_t>& rows, auto&& row_of) {
    HostTensor passed(bf16, {2, 2, 3, 4});
    select_rows(from.view(), rows, passed.view());
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t s = 0; s < 2; ++s)
        for (std::int64_t h = 0; h < 3; ++h)
          for (std::int64_t d = 0; d < 4; ++d)
            EXPECT_EQ(passed.get(((b * 2 + s) * 3 + h) * 4 + d), from.get(((b * 7 + row_of(b, h, s)) * 3 + h) * 4 + d));
  };
  const std::vector<std::int64_t> rows{6, 0, 3, 3, 1, 5, 2, 4, 0, 6, 5, 1};
  const auto at = [&rows](std::int64_t i) { return rows[static_cast<std::size_t>(i)]; };
  expect_selects({6, 0}, [&](std::int64_t, std::int64_t, std::int64_t s) { return at(s); });
  expect_selects({6, 0, 3, 3}, [&](std::int64_t b, std::int64_t, std::int64_t s) { return at(b * 2 + s); });
  expect_selects(rows, [&](std::int64_t b, std::int64_t h, std::int64_t s) { return at((b * 3 + h) * 2 + s); });
  HostTensor passed(bf16, {2, 2, 3, 4});
  const std::vector<std::int64_t> beyond{0, 7}, negative{-1, 0}, three{0, 1, 2};
  EXPECT_THROW(select_rows(from.view(), beyond, passed.view()), Error);
  EXPECT_THROW(select_rows(from.view(), negative, passed.view()), Error);
  EXPECT_THROW(select_rows(from.view(), three, passed.view()), Error);
}

}  // namespace
}  // namespace seqccl::test
