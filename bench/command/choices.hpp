// choices.hpp - a softmax method by any of its published names, and the options that choose mesh, backward and head groups.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "seqccl/attention.hpp"

namespace seqccl::command {

/// Names that --method means: one, or all that choose_method knows for "all". "automatic" yields {"automatic"}. @throws Error(argument)
[[nodiscard]] std::vector<std::string> parse_choices(std::string_view text);

/// --method, --mesh, --burst, --head-groups, --partials-in-dtype.
struct ChoiceOptions {
  std::string method{};  // its default
  std::string mesh{};
  bool burst = false, partials_in_dtype = false;
  int head_groups = 1;

  /// `words`: what --method takes besides the names of methods.
  void add_to(CLI::App& app, const char* words);
  [[nodiscard]] std::vector<std::string> names() const { return parse_choices(method); }
  /// `spec` (with its partition) as these options and the named method want it. @throws Error(argument) if --mesh cannot be read
  [[nodiscard]] AttentionSpec chosen(AttentionSpec spec, const std::string& name, const Topology& topology) const;
  /// @throws Error(argument) naming an option that would change nothing: --burst without a backward pass, which `want_backward` brings;
  /// --partials-in-dtype of a method that sends no partial results, or of those that are in f32 anyway
  void require_used(DType dtype, bool backward, std::string_view want_backward) const;
  /// @throws Error(argument) if `option` says who shares a node and no named method asks; `text` is what was written
  void require_nodes_used(std::string_view option, std::string_view text) const;
  /// What is not quite as asked for with so many key heads; empty if nothing.
  [[nodiscard]] std::string note(std::int64_t kv_heads) const;
};

/// The published name by which `given` becomes `chosen`: what Method::automatic came to.
[[nodiscard]] std::string published_name(const AttentionSpec& given, const AttentionSpec& chosen, const Topology& topology);

/// Why the library refuses this problem, beginning with the option to change; empty if it does not.
[[nodiscard]] std::string refusal(const AttentionSpec& spec);

/// "heads 2 x outer 1 x inner 2".
[[nodiscard]] std::string mesh_text(const Mesh& mesh);
/// The mesh and who swaps heads with whom and which ranks form the rings; empty without a mesh.
[[nodiscard]] std::string mesh_picture(const std::optional<Mesh>& mesh);

}  // namespace seqccl::command
