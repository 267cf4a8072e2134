// explain_base.hpp - what every `seqccl explain` does once the schedules are there: tables, proofs, one of them in full.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "command/planned.hpp"
#include "command/subcommand.hpp"
#include "command/sweep.hpp"

namespace seqccl::command {

class Explain : public Subcommand {
 protected:
  void add_common(CLI::App& app, bool has_backward = true);

  struct Refused {
    std::string method, why;
  };
  /// The candidates' table if there are several, where methods win if a sweep is given, and the best (or only) one in full.
  int show(const Console& console, const std::vector<Planned>& candidates, const std::vector<Refused>& refused, const Cluster& cluster,
           const Sweep* sweep = nullptr) const;

  PlanOptions plan_;
  int steps_of_ = -1;
  std::string note_;  // shown below the table
};

}  // namespace seqccl::command
