// planned.cpp - records, checks and simulates the schedules of all ranks.
// SPDX-License-Identifier: Apache-2.0
#include "command/planned.hpp"

#include <fmt/format.h>

#include "command/choices.hpp"
#include "command/linear_options.hpp"
#include "command/number_option.hpp"
#include "command/options.hpp"

namespace seqccl::command {

void PlanOptions::add_to(CLI::App& app, bool has_backward) {
  add_count(app, "-p,--ranks", num_ranks, "Number of ranks", 1, max_ranks);
  add_count(app, "-n,--tokens", num_tokens, "N, tokens in all", 1, max_size);
  if (has_backward) app.add_flag("--backward", backward, "The backward pass instead of the forward pass");
  cluster.add_to(app);
}

Planned plan_attention(const AttentionSpec& spec, const std::string& name, bool backward, const Cluster& cluster) {
  if (const std::string why = refusal(spec); !why.empty()) throw Error(ErrorKind::argument, why);
  const MethodEntry& entry = entry_of(spec.method);
  Planned planned{name, spec.mesh, record_all(backward ? entry.backward : entry.forward, spec), {}, {}};
  if (spec.mesh && !spec.mesh->is_flat())
    for (Schedule& schedule : planned.schedules) schedule.name += fmt::format(" on a mesh, {}", mesh_text(*spec.mesh));
  if (backward && spec.backward == Backward::burst)
    for (Schedule& schedule : planned.schedules) schedule.name += ", burst";
  const Claim claim{
      .partition = &spec.partition, .mask = &spec.mask, .batch = spec.batch, .q_heads = spec.q_heads, .kv_heads = spec.num_kv_heads()};
  planned.report = check(planned.schedules, claim);
  if (planned.report.ok()) planned.simulation = simulate(planned.schedules, cluster);
  return planned;
}

Planned plan_linear(const LinearSpec& spec, bool backward, const Cluster& cluster) {
  if (const std::string why = refusal(spec); !why.empty()) throw Error(ErrorKind::argument, why);
  Planned planned{spec.causal ? name(spec.scan) : "all_reduce",
                  {},
                  record_all(backward ? collectives::linear_backward : collectives::linear_forward, spec),
                  {},
                  {}};
  const Claim claim{.partition = &spec.partition,
                    .batch = spec.batch,
                    .q_heads = spec.heads,
                    .kv_heads = spec.heads,
                    .documents = spec.documents.empty() ? nullptr : &spec.documents,
                    .causal = spec.causal};
  planned.report = check(planned.schedules, claim);
  if (planned.report.ok()) planned.simulation = simulate(planned.schedules, cluster);
  return planned;
}

}  // namespace seqccl::command
