// attention_test.cpp - every softmax method on thread ranks against dense attention in double: numbers, bytes, repeatability.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/attention.hpp"

#include <gtest/gtest.h>

#include "api/softmax_cases.hpp"

namespace seqccl::test {
namespace {

class EveryMethod : public ::testing::TestWithParam<Method> {};

TEST_P(EveryMethod, AgreesWithDenseAttention) {
  int number = 0;
  for (const std::vector<int>& level : pairwise_cases(softmax_factors, 11 + static_cast<int>(GetParam()))) {
    if (is_sanitized && ++number % 3 != 0) continue;
    run_softmax_case(GetParam(), level);
    if (HasFailure()) return;
  }
}

TEST_P(EveryMethod, InputsMayBeStrided) {
  AttentionSpec spec;
  spec.partition = Partition::zigzag(40, 4);
  spec.mask = Mask::causal();
  spec.batch = 2;
  spec.q_heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.method = GetParam();
  const SoftmaxProblem problem(spec);
  const SoftmaxProblem::Run expected = problem.run();
  HostTensor whole(f32, {2, 40, 4, 16});
  Watchdog watchdog(std::chrono::seconds(60));
  run_ranks(4, [&](Communicator& comm) {
    const auto leash = watchdog.watch(comm.transport());
    const std::int64_t T = spec.partition.tokens_on(comm.rank());
    // q, k, v packed side by side in one (B, T, Hq + 2 Hkv, D) tensor, as many models store them.
    HostTensor packed(f32, {2, T, 8, 16}), out_wide(f32, {2, T, 4, 32}), lse(f32, {2, 4, T});
    const auto part = [&](std::int64_t head, std::int64_t count) {
      TensorView view = packed.view();
      view.data = view.as<float>() + head * 16;
      view.geometry.shape[2] = count;
      return view;
    };
    spec.partition.shard(problem.q.view(), comm.rank(), part(0, 4));
    spec.partition.shard(problem.k.view(), comm.rank(), part(4, 2));
    spec.partition.shard(problem.v.view(), comm.rank(), part(6, 2));
    TensorView out = out_wide.view();
    out.geometry.shape[3] = 16;
    Attention attention(comm, spec);
    attention.forward(part(0, 4), part(4, 2), part(6, 2), out, lse.view());
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    spec.partition.unshard(out, comm.rank(), whole.view());
  });
  EXPECT_EQ(whole.bytes, expected.whole.out.bytes);
}

TEST_P(EveryMethod, UsersOwnKernelIsCalledAndMerged) {
  for (const bool accumulates : {false, true}) {
    AttentionSpec spec;
    spec.partition = Partition::zigzag(48, 4);
    spec.mask = Mask::causal();
    spec.q_heads = 4;
    spec.head_dim = 16;
    spec.method = GetParam();
    std::atomic<int> calls{0};
    spec.kernel = {.name = "counting", .accumulates = accumulates, .run = [&](const AttendArguments& arguments) {
                     ++calls;
                     EXPECT_TRUE(accumulates || arguments.fresh);
                     cpu::attend(arguments);
                   }};
    const SoftmaxProblem problem(spec);
    problem.expect_right(problem.run());
    EXPECT_GE(calls, 4);
  }
}

TEST_P(EveryMethod, NanInOneKeyShowsInEveryQueryThatSeesIt) {
  AttentionSpec spec;
  spec.partition = Partition::zigzag(32, 4);
  spec.mask = Mask::causal();
  spec.q_heads = 4;
  spec.head_dim = 8;
  spec.method = GetParam();
  SoftmaxProblem problem(spec);
  problem.k.set(10 * 4 * 8, std::numeric_limits<double>::quiet_NaN());  // token 10, head 0
  const SoftmaxProblem::Run run = problem.run();
  for (std::int64_t t = 0; t < 32; ++t)
    for (std::int64_t h = 0; h < 4; ++h)
      EXPECT_EQ(std::isnan(run.whole.out.get((t * 4 + h) * 8)), h == 0 && t >= 10) << "token " << t << " head " << h;
}

INSTANTIATE_TEST_SUITE_P(Softmax, EveryMethod, ::testing::ValuesIn(all_methods()), [](const auto& test) { return name(test.param); });

TEST(Attention, AutomaticPicksTheCheapestSimulatedCandidate) {
  AttentionSpec spec;
  spec.partition = Partition::zigzag(64, 4);
  spec.mask = Mask::causal();
  spec.q_heads = 4;
  spec.head_dim = 16;
  const SoftmaxProblem problem(spec);
  problem.expect_right(problem.run());
  run_ranks(4, [&](Communicator& comm) {
    const Attention attention(comm, spec);
    EXPECT_NE(attention.method(), Method::automatic);
    EXPECT_NE(attention.explain().find("the cheapest of"), std::string::npos);
    EXPECT_NE(attention.explain().find(name(attention.method())), std::string::npos);
  });
}

TEST(Attention, TwoForwardsBeforeTwoBackwards) {
  AttentionSpec spec;
  spec.partition = Partition::zigzag(32, 2);
  spec.mask = Mask::causal();
  spec.q_heads = 2;
  spec.head_dim = 8;
  spec.method = Method::ring;
  const SoftmaxProblem a(spec, 1), b(spec, 2);
  const auto expect_a = a.run(), expect_b = b.run();
  run_ranks(2, [&](Communicator& comm) {
    const Rank rank = comm.rank();
    const auto shard = [&](const HostTensor& whole) {
      HostTensor part(f32, {1, 16, 2, 8});
      spec.partition.shard(whole.view(), rank, part.view());
      return part;
    };
    Attention attention(comm, spec);
    struct Layer {
      const SoftmaxProblem* problem;
      const SoftmaxProblem::Run* expected;
      HostTensor q, k, v, dout;
      SoftmaxTensors results;
    };
    std::vector<Layer> layers;
    for (const auto& [problem, expected] : {std::pair{&a, &expect_a}, std::pair{&b, &expect_b}})
      layers.push_back(
          {problem, expected, shard(problem->q), shard(problem->k), shard(problem->v), shard(problem->dout), problem->empty(f32, 1, 16)});
    for (Layer& layer : layers)
      attention.forward(layer.q.view(), layer.k.view(), layer.v.view(), layer.results.out.view(), layer.results.lse.view());
    for (Layer& layer : layers) {  // in the same order: nothing is kept between calls
      attention.backward(layer.dout.view(), layer.q.view(), layer.k.view(), layer.v.view(), layer.results.out.view(),
                         layer.results.lse.view(), layer.results.dq.view(), layer.results.dk.view(), layer.results.dv.view());
      EXPECT_EQ(layer.results.dk.bytes, shard(layer.expected->whole.dk).bytes);
    }
  });
}

TEST(Attention, WrongArgumentsThrowBeforeAnythingIsSentAndLeaveTheCommunicatorUsable) {
  run_ranks(2, [](Communicator& comm) {
    AttentionSpec spec;
    spec.partition = Partition::contiguous(8, 2);
    spec.q_heads = 2;
    spec.head_dim = 4;
    spec.method = Method::ring;
    HostTensor q = random_tensor(f32, {1, 4, 2, 4}, 1), out(f32, {1, 4, 2, 4}), lse(f32, {1, 2, 4}), small(f32, {1, 3, 2, 4}),
               half(f16, {1, 4, 2, 4});
    const auto message = [&](auto&& call) {
      try {
        call();
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::argument);
        return std::string(error.what());
      }
      return std::string("nothing thrown");
    };
    Attention attention(comm, spec);
    EXPECT_EQ(message([&] { attention.forward(q.view(), small.view(), q.view(), out.view(), lse.view()); }),
              "Attention::forward: k has shape (1, 3, 2, 4), want (1, 4, 2, 4)");
    EXPECT_EQ(message([&] { attention.forward(q.view(), q.view(), half.view(), out.view(), lse.view()); }),
              "Attention::forward: v is f16, want f32");
    EXPECT_NE(message([&] { attention.forward(q.view(), q.view(), q.view(), q.view(), lse.view()); }).find("out and q share memory"),
              std::string::npos);
    EXPECT_NE(message([&] { attention.forward(q.view(), q.view(), {}, out.view(), lse.view()); }).find("v is missing"), std::string::npos);
    const auto refused = [&](auto&& change) {
      AttentionSpec wrong = spec;
      change(wrong);
      return message([&] { Attention(comm, wrong); });
    };
    EXPECT_NE(refused([](AttentionSpec& s) { s.kv_heads = 3; }).find("kv_heads is 3, want a divisor of q_heads = 2"), std::string::npos);
    EXPECT_NE(refused([](AttentionSpec& s) { s.head_dim = 0; }).find("head_dim is 0"), std::string::npos);
    EXPECT_NE(refused([](AttentionSpec& s) { s.batch = -1; }).find("batch is -1"), std::string::npos);
    EXPECT_NE(refused([](AttentionSpec& s) {
                s.q_heads = std::int64_t{1} << 62;
                s.kv_heads = 1;
              }).find("2^62"),
              std::string::npos);
    EXPECT_NE(refused([](AttentionSpec& s) { s.partition = Partition::contiguous(8, 3); }).find("3 ranks, want 2"), std::string::npos);
    EXPECT_NE(refused([](AttentionSpec& s) { s.mask = Mask::documents({3}); }).find("document lengths sum to 3"), std::string::npos);
    EXPECT_NE(refused([](AttentionSpec& s) { s.mesh = Mesh{.heads = 3}; }).find("want each extent 1 or more and 2 ranks in all"),
              std::string::npos);
    const auto chosen = [&](Method method, auto&& change) {
      return refused([&](AttentionSpec& s) {
        s.method = method;
        change(s);
      });
    };
    EXPECT_NE(chosen(Method::token_ring, [](AttentionSpec& s) { s.mesh = Mesh{.outer = 2}; }).find("method ring only"), std::string::npos);
    EXPECT_NE(chosen(Method::head_swap, [](AttentionSpec& s) { s.mesh = Mesh{.inner = 2}; }).find("use method ring"), std::string::npos);
    EXPECT_NE(chosen(Method::kv_all_gather, [](AttentionSpec& s) { s.backward = Backward::burst; }).find("use ring or"), std::string::npos);
    EXPECT_NE(chosen(Method::ring, [](AttentionSpec& s) { s.head_groups = 2; }).find("use kv_all_gather, head_swap"), std::string::npos);
    EXPECT_NE(chosen(Method::head_swap, [](AttentionSpec& s) { s.head_groups = 0; }).find("head_groups is 0"), std::string::npos);
    EXPECT_NE(refused([](AttentionSpec& s) { s.scale = std::numeric_limits<float>::infinity(); }).find("scale"), std::string::npos);
    // Still usable: everybody refused locally, nobody sent anything.
    attention.forward(q.view(), q.view(), q.view(), out.view(), lse.view());
    EXPECT_FALSE(std::isnan(out.get(0)));
  });
}

TEST(Attention, RanksWithoutTokensMayLeaveTensorsOut) {
  for (const MethodEntry& entry : method_table())
    run_ranks(2, [&](Communicator& comm) {
      AttentionSpec spec;
      spec.partition = Partition::uneven(std::vector<std::int64_t>{4, 0});
      spec.q_heads = 2;
      spec.head_dim = 4;
      spec.method = entry.method;
      Attention attention(comm, spec);
      if (comm.rank() == 1) return attention.forward({}, {}, {}, {}, {});
      const HostTensor x = random_tensor(f32, {1, 4, 2, 4}, 1);
      HostTensor out(f32, {1, 4, 2, 4}), lse(f32, {1, 2, 4});
      attention.forward(x.view(), x.view(), x.view(), out.view(), lse.view());
      EXPECT_FALSE(std::isnan(out.get(31))) << entry.name;
    });
}

TEST(Attention, OutputsThatShareMemoryAreRefused) {
  run_ranks(1, [](Communicator& comm) {
    AttentionSpec spec;
    spec.partition = Partition::contiguous(4, 1);
    spec.head_dim = 4;
    spec.method = Method::ring;
    Attention attention(comm, spec);
    HostTensor memory = random_tensor(f32, {1, 8, 1, 4}, 1), x = random_tensor(f32, {1, 4, 1, 4}, 2), lse(f32, {1, 1, 4});
    TensorView q = memory.view(), out = memory.view();
    q.geometry.shape[1] = out.geometry.shape[1] = 4;
    out.data = out.as<float>() + 8;  // two rows into q
    EXPECT_THROW(attention.forward(q, x.view(), x.view(), out, lse.view()), Error);
    TensorView repeated = x.view();
    repeated.geometry.strides[1] = 0;
    EXPECT_THROW(attention.forward(q, q, q, repeated, lse.view()), Error);
    out.data = memory.view().as<float>() + 16;  // right behind q
    EXPECT_NO_THROW(attention.forward(q, x.view(), x.view(), out, lse.view()));
  });
}

TEST(Attention, SinksThatTheSpecDoesNotSpeakOfAreRefused) {
  run_ranks(1, [](Communicator& comm) {
    AttentionSpec spec;
    spec.partition = Partition::contiguous(4, 1);
    spec.head_dim = 4;
    const HostTensor x = random_tensor(f32, {1, 4, 1, 4}, 1), sinks = random_tensor(f32, {1}, 2);
    HostTensor out(f32, {1, 4, 1, 4}), lse(f32, {1, 1, 4});
    Attention attention(comm, spec);
    EXPECT_THROW(attention.forward(x.view(), x.view(), x.view(), out.view(), lse.view(), sinks.view()), Error);
  });
}

TEST(Attention, AutomaticIsOneOfTheNamesOrIsRefused) {
  AttentionSpec spec;
  spec.partition = Partition::zigzag(64, 4);
  spec.q_heads = 4;
  spec.head_dim = 8;
  const AttentionSpec chosen = fastest_method(spec);
  EXPECT_NE(chosen.method, Method::automatic);
  EXPECT_EQ(fastest_method(chosen).method, chosen.method);
  spec.backward = Backward::burst;
  spec.head_groups = 2;  // burst needs a ring, which has no head groups without a mesh
  spec.mesh = Mesh{1, 1, 4};
  run_ranks(4, [&](Communicator& comm) {
    try {
      const Attention attention(comm, spec);
      ADD_FAILURE() << "accepted as " << name(attention.method());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument) << error.what();
      EXPECT_NE(std::string(error.what()).find("head_groups"), std::string::npos) << error.what();
    }
  });
}

TEST(Attention, AnEmptyRankMayHaveAnyStrides) {
  run_ranks(3, [](Communicator& comm) {  // memory as (B, H, T, D)
    AttentionSpec spec;
    spec.batch = 2;
    spec.q_heads = 2;
    spec.head_dim = 4;
    const std::int64_t shards[] = {6, 0, 6};
    spec.partition = Partition::uneven(shards);
    const std::int64_t tokens = comm.rank() == 1 ? 0 : 6;
    const HostTensor x = random_tensor(f32, {2, 2, tokens, 4}, 1);
    HostTensor out(f32, {2, 2, tokens, 4}), lse(f32, {2, 2, tokens});
    const auto by_token = [](auto view) {
      std::swap(view.geometry.shape[1], view.geometry.shape[2]);
      std::swap(view.geometry.strides[1], view.geometry.strides[2]);
      return view;
    };
    Attention attention(comm, spec);
    EXPECT_NO_THROW(attention.forward(by_token(x.view()), by_token(x.view()), by_token(x.view()), by_token(out.view()), lse.view()));
  });
}

TEST(Attention, PublishedNamesAreChoicesOfMethodMeshAndBackward) {
  AttentionSpec spec;
  spec.partition = Partition::zigzag(64, 8);
  choose_method(spec, "double_ring", Topology::nodes(2, 4));
  EXPECT_EQ(spec.method, Method::ring);
  EXPECT_EQ(*spec.mesh, (Mesh{1, 2, 4}));
  spec.mesh.reset();
  choose_method(spec, "mesh", Topology::nodes(2, 4));
  EXPECT_EQ(*spec.mesh, (Mesh{4, 1, 2}));
  choose_method(spec, "burst_backward");
  EXPECT_EQ(spec.backward, Backward::burst);
  EXPECT_EQ(*spec.mesh, (Mesh{4, 1, 2})) << "a mesh that is set is kept";
  choose_method(spec, "balanced_helper");
  EXPECT_EQ(spec.method, Method::balanced_helper);
  EXPECT_THROW(choose_method(spec, "mash"), Error);
}

}  // namespace
}  // namespace seqccl::test
