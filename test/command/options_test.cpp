// options_test.cpp - the little languages of the command line, and how what is not in them is answered.
// SPDX-License-Identifier: Apache-2.0
#include "command/options.hpp"

#include "command/choices.hpp"
#include "command/linear_options.hpp"
#include "command/names.hpp"
#include "command/support.hpp"

namespace seqccl::command::test {
namespace {

TEST(Options, masks) {
  EXPECT_EQ(parse_mask("full"), Mask::full());
  EXPECT_EQ(parse_mask("causal"), Mask::causal());
  EXPECT_EQ(parse_mask("prefix:7"), Mask::prefix(7));
  EXPECT_EQ(parse_mask("window:128,0"), Mask::window(128, 0));
  EXPECT_EQ(parse_mask("window:-1,5"), Mask::window(-1, 5));
  EXPECT_EQ(parse_mask("documents:3,0,5"), Mask::documents({3, 0, 5}));
  EXPECT_EQ(parse_mask("causal+documents:3,5+window:2,2"), Mask::causal() & Mask::documents({3, 5}) & Mask::window(2, 2));
}

TEST(Options, masks_that_are_not_right) {
  EXPECT_REFUSED(parse_mask(""), "--mask", "want one of: full, causal, prefix, window, documents, slices");
  EXPECT_REFUSED(parse_mask("casual"), "did you mean 'causal'?");
  EXPECT_REFUSED(parse_mask("causal+"), "--mask");
  EXPECT_REFUSED(parse_mask("causal:1"), "causal:1");
  EXPECT_REFUSED(parse_mask("prefix"), "prefix:LEN");
  EXPECT_REFUSED(parse_mask("prefix:1,2"), "prefix:LEN");
  EXPECT_REFUSED(parse_mask("prefix:-1"), ">= 0");
  EXPECT_REFUSED(parse_mask("window:1"), "window:LEFT,RIGHT");
  EXPECT_REFUSED(parse_mask("window:-2,0"), ">= -1");
  EXPECT_REFUSED(parse_mask("documents:1,,2"), "whole number");
  EXPECT_REFUSED(parse_mask("documents:1,-2"), ">= 0");
  EXPECT_REFUSED(parse_mask("documents:99999999999999999999"), "2^63");
}

TEST(Options, masks_from_a_file) {
  const Folder folder;
  const std::string path = folder.file("slices.json");
  const std::string mask = "slices:" + path;
  write_text(path, R"([{"q": [0, 4], "k": [0, 8], "high": 0}, {"q": [4, 8], "k": [0, 2], "low": -5, "batch": 1}])");
  BandSlice first, second;
  first = {0, 4, 0, 8, -unbounded, 0, -1};
  second = {4, 4, 0, 2, -5, unbounded, 1};
  EXPECT_EQ(parse_mask(mask), Mask::slices({first, second}));

  const auto refused = [&](const char* text, const char* want) {
    write_text(path, text);
    EXPECT_REFUSED(parse_mask(mask), path.c_str(), want);
  };
  refused("{", "not a JSON list");
  refused("{}", "not a JSON list");
  refused("[1]", "slice 0: is not an object");
  refused(R"([{"q": [0, 4]}])", "'k' is not [first, end]");
  refused(R"([{"q": [0, 4], "k": [4, 0]}])", "0 <= first <= end");
  refused(R"([{"q": [0, 4], "k": [0, 1.5]}])", "not a whole number");
  refused(R"([{"q": [0, 4], "k": [0, 18446744073709551615]}])", "larger than");
  refused(R"([{"q": [0, 4], "k": [0, 4], "hihg": 1}])", "'hihg' is not known");
  refused(R"([{"q": [0, 4], "k": [0, 4], "batch": -2}])", "batch is -2");
  EXPECT_REFUSED(parse_mask("slices:" + folder.file("none")), "cannot be opened");
}

TEST(Options, partitions) {
  EXPECT_EQ(parse_partition("contiguous", 10, 3), Partition::contiguous(10, 3));
  EXPECT_EQ(parse_partition("zigzag", 10, 3), Partition::zigzag(10, 3));
  EXPECT_EQ(parse_partition("Head-Tail", 10, 3), Partition::zigzag(10, 3));
  EXPECT_EQ(parse_partition("striped", 10, 3), Partition::striped(10, 3));
  const std::int64_t counts[] = {7, 0, 3};
  EXPECT_EQ(parse_partition("uneven:7,0,3", 10, 3), Partition::uneven(counts));
  EXPECT_REFUSED(parse_partition("uneven", 10, 3), "uneven:T0,T1,...");
  EXPECT_REFUSED(parse_partition("uneven:7,3", 10, 3), "3 numbers");
  EXPECT_REFUSED(parse_partition("uneven:7,3,1", 10, 3), "10 tokens");
  EXPECT_REFUSED(parse_partition("uneven:7,1,1", 10, 3), "sum to 9");
  EXPECT_REFUSED(parse_partition("uneven:12,-2,0", 10, 3), "10 tokens");
  EXPECT_REFUSED(parse_partition("uneven:9223372036854775807,9223372036854775807,12", 10, 3), "10 tokens");
  EXPECT_REFUSED(parse_partition("zigzag:3", 10, 3), "without anything after it");
  EXPECT_REFUSED(parse_partition("zagzig", 10, 3), "contiguous, zigzag, striped, uneven");
}

TEST(Options, numbers_meshes_nodes) {
  EXPECT_EQ(parse_counts("--tokens", "1,2k,3m,1g"), (std::vector<std::int64_t>{1, 2048, 3 << 20, 1 << 30}));
  for (const std::int64_t count : {0, 1, 1000, 1024, 3 << 20, 1 << 30}) EXPECT_EQ(parse_count("", count_text(count)), count);
  EXPECT_REFUSED(parse_count("--tokens", "4q"), "--tokens", "4q");
  EXPECT_REFUSED(parse_count("--tokens", "9223372036854775807k"), "2^63");
  EXPECT_REFUSED(parse_count("--tokens", ""), "whole number");
  EXPECT_EQ(parse_mesh("inner:4,heads:2"), (Mesh{2, 1, 4}));
  EXPECT_EQ(parse_mesh("heads:4,outer:2,heads_outermost"), (Mesh{4, 2, 1, true}));
  EXPECT_REFUSED(parse_mesh("heads_outermost:2"), "heads:U,outer:O,inner:I");
  EXPECT_REFUSED(parse_mesh("heads:0"), "at least 1");
  EXPECT_REFUSED(parse_mesh("depth:2"), "heads:U,outer:O,inner:I");
  EXPECT_EQ(parse_nodes("2x3", 6).node, (std::vector<int>{0, 0, 0, 1, 1, 1}));
  EXPECT_TRUE(parse_nodes("", 6).node.empty());
  EXPECT_REFUSED(parse_nodes("2x2", 6), "K times M = 6");
  EXPECT_REFUSED(parse_nodes("9223372036854775807x9223372036854775807", 6), "--nodes");
  EXPECT_REFUSED(parse_nodes("6", 6), "KxM");
  EXPECT_REFUSED(require_ranks(0), "1 to 1024");
}

TEST(Options, published_names_mean_methods) {
  for (const auto& [word, name] :
       {std::pair{"ulysses", "head_swap"}, std::pair{"ring_attention", "ring"}, std::pair{"llama3_cp", "kv_all_gather"},
        std::pair{"TokenRing", "token_ring"}, std::pair{"head-swap", "head_swap"}, std::pair{"auto", "automatic"}, std::pair{"USP", "mesh"},
        std::pair{"loongtrain", "mesh"}, std::pair{"LongVILA", "mesh"}, std::pair{"mm-sp", "mesh"},
        std::pair{"BurstAttention", "burst_backward"}, std::pair{"burst-engine", "double_ring"}, std::pair{"lightseq", "balanced_helper"}})
    EXPECT_EQ(parse_choices(word), std::vector<std::string>{name}) << word;
  EXPECT_EQ(parse_choices("all"), method_names());
  EXPECT_EQ(parse_choices("all").size(), 9u);
  for (const auto& [word, scan] : {std::pair{"lasp1", Scan::chain}, std::pair{"lasp2", Scan::all_gather},
                                   std::pair{"ZeCO", Scan::pipelined_chain}, std::pair{"kogge-stone", Scan::doubling}})
    EXPECT_EQ(LinearOptions{word}.scans(), std::vector<Scan>{scan}) << word;
  EXPECT_EQ(LinearOptions{"all"}.scans().size(), 5u);
  for (const auto& [word, kind] :
       {std::pair{"mamba2", LinearKind::scalar_gate}, std::pair{"deltanet", LinearKind::delta},
        std::pair{"gated-deltanet", LinearKind::gated_delta}, std::pair{"kimi", LinearKind::kda}, std::pair{"RWKV", LinearKind::rwkv6}})
    EXPECT_EQ(parse_kind(word), kind) << word;
}

TEST(Options, methods_of_other_subcommands_say_which) {
  EXPECT_REFUSED(parse_choices("decode"), "'decode' has a subcommand of its own: seqccl bench decode");
  EXPECT_REFUSED(parse_choices("star-attention"), "seqccl bench context_pass --passed 0");
  EXPECT_REFUSED(parse_choices("FlexSP"), "seqccl explain balance");
}

TEST(Options, names_of_later_versions_are_not_there_yet) {
  EXPECT_REFUSED(parse_transport("nccl"), "nccl", "not there yet", "threads, shm, ucx");
}

TEST(Options, unknown_names_list_the_known_and_the_nearest) {
  EXPECT_REFUSED(parse_choices("rng"), "--method", "'rng' is not known", "ring, bidirectional_ring, kv_all_gather, head_swap, token_ring",
                 "did you mean 'ring'?");
  EXPECT_REFUSED(parse_choices("ulises"), "did you mean 'ulysses'?");
  EXPECT_EQ(message_of([] { (void)parse_choices("xxxxxxxx"); }).find("did you mean"), std::string::npos);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
}

}  // namespace
}  // namespace seqccl::command::test
