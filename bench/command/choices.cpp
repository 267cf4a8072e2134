// choices.cpp - methods by name, their options, and what the library answers in the words of the command line.
// SPDX-License-Identifier: Apache-2.0
#include "command/choices.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "command/names.hpp"
#include "command/number_option.hpp"
#include "command/options.hpp"
#include "command/refusal.hpp"

namespace seqccl::command {
namespace {

/// "0 1 | 2 3": one group per value of `group_of`, in order of rank.
template <class GroupOf>
std::string groups_text(int num_ranks, int num_groups, GroupOf group_of) {
  std::string text;
  for (int group = 0; group < num_groups; ++group) {
    if (group != 0) text += " |";
    for (Rank rank = 0; rank < num_ranks; ++rank)
      if (group_of(rank) == group) text += fmt::format(" {}", rank);
  }
  return text;
}

}  // namespace

std::vector<std::string> parse_choices(std::string_view text) {
  const std::string name = resolve(choice_names(), text);
  if (name == "all") return method_names();
  return {name};
}

void ChoiceOptions::add_to(CLI::App& app, const char* words) {
  app.add_option("-m,--method", method,
                 fmt::format("{}{}, or a published name such as ulysses, usp", words, fmt::join(method_names(), "|")))
      ->capture_default_str();
  app.add_option("--mesh", mesh,
                 "heads:U,outer:O,inner:I[,heads_outermost]: swap heads in groups of U, rings of I ranks, O of them (outer above 1: ring)");
  app.add_flag("--burst", burst, "Backward pass in which queries travel, not keys (ring, bidirectional_ring)");
  add_count(app, "--head-groups", head_groups,
            "Work in so many groups of heads: one travels while another is attended to (kv_all_gather, head_swap, or a mesh with heads)", 1,
            1 << 20);
  app.add_flag("--partials-in-dtype", partials_in_dtype,
               "Partial results travel in --dtype f16 or bf16, not in f32 (token_ring, balanced_helper)");
}

AttentionSpec ChoiceOptions::chosen(AttentionSpec spec, const std::string& name, const Topology& topology) const {
  if (!mesh.empty()) spec.mesh = parse_mesh(mesh);
  if (burst) spec.backward = Backward::burst;
  spec.head_groups = head_groups;
  spec.partials_in_dtype = partials_in_dtype;
  choose_method(spec, name, topology);
  return spec;
}

void ChoiceOptions::require_used(DType dtype, bool backward, std::string_view want_backward) const {
  const std::string name = resolve(choice_names(), method);
  if (burst && !backward && name != "automatic")  // which decides by both passes
    throw Error(ErrorKind::argument,
                fmt::format("--burst: it changes the backward pass and there is none, so it would do nothing; want {}", want_backward));
  if (!partials_in_dtype) return;
  if (name != "automatic" && name != "all" && name != "token_ring" && name != "balanced_helper")
    throw Error(ErrorKind::argument, fmt::format("--partials-in-dtype: --method {} sends no partial results, so it would do nothing; want "
                                                 "--method token_ring or balanced_helper",
                                                 name));
  if (dtype == f32)
    throw Error(
        ErrorKind::argument,
        "--partials-in-dtype: dtype is f32, in which partial results travel anyway, so it would do nothing; want --dtype bf16 or f16");
}

void ChoiceOptions::require_nodes_used(std::string_view option, std::string_view text) const {
  const std::string name = resolve(choice_names(), method);
  if (name == "automatic") return;  // simulates the nodes
  const bool looks = name == "all" || name == "double_ring" || name == "mesh";
  if (looks && mesh.empty()) return;
  throw Error(ErrorKind::argument,
              fmt::format("{}: '{}' would do nothing: {}; want --method double_ring, mesh or automatic, without --mesh", option, text,
                          looks ? "--mesh says already who is where" : fmt::format("--method {} does not look at nodes", name)));
}

std::string ChoiceOptions::note(std::int64_t kv_heads) const {
  if (head_groups <= kv_heads) return {};
  return fmt::format("--head-groups: {} is more than the {} key head{}: there are that many groups at most", head_groups, kv_heads,
                     kv_heads == 1 ? "" : "s");
}

std::string published_name(const AttentionSpec& given, const AttentionSpec& chosen, const Topology& topology) {
  for (const std::string& name : method_names()) {
    AttentionSpec named = given;
    choose_method(named, name, topology);
    if (named.method == chosen.method && named.mesh == chosen.mesh && named.backward == chosen.backward) return name;
  }
  return seqccl::name(chosen.method);
}

std::string refusal(const AttentionSpec& spec) {
  return refusal_of([&] { validate(spec, spec.partition.num_ranks()); });
}

std::string mesh_text(const Mesh& mesh) {
  return fmt::format("heads {} x outer {} x inner {}{}", mesh.heads, mesh.outer, mesh.inner,
                     mesh.heads_outermost ? ", heads outermost" : "");
}

std::string mesh_picture(const std::optional<Mesh>& mesh) {
  if (!mesh) return {};
  std::string text = fmt::format("mesh: {}\n", mesh_text(*mesh));
  const int num_ranks = mesh->num_ranks();
  if (num_ranks > 64) return text;
  if (mesh->heads > 1)
    text += fmt::format("  heads are swapped within   {}\n",
                        groups_text(num_ranks, mesh->ring_size(), [&](Rank r) { return mesh->ring_of(r); }));
  if (mesh->inner > 1)
    text += fmt::format("  rings                      {}\n", groups_text(num_ranks, mesh->heads * mesh->outer, [&](Rank r) {
                          return mesh->head_of(r) * mesh->outer + mesh->ring_of(r) / mesh->inner;
                        }));
  if (mesh->outer > 1)
    text += fmt::format("  rings of rings, between    {}\n", groups_text(num_ranks, mesh->heads * mesh->inner, [&](Rank r) {
                          return mesh->head_of(r) * mesh->inner + mesh->ring_of(r) % mesh->inner;
                        }));
  return text;
}

}  // namespace seqccl::command
