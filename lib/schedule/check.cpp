// check.cpp - all checks together, and their report.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/check.hpp"

#include <algorithm>

#include "well_formed.hpp"

SEQCCL_BEGIN

std::string CheckReport::text() const {
  constexpr std::size_t most = 20;
  std::string result;
  for (std::size_t i = 0; i < std::min(problems.size(), most); ++i) result += problems[i] + "\n";
  if (problems.size() > most) result += "... and " + std::to_string(problems.size() - most) + " more\n";
  return result;
}

CheckReport check(std::span<const Schedule> schedules, const Claim& claim) {
  CheckReport report = checker::check_well_formed(schedules);
  if (!report.ok()) return report;
  const auto append = [&report](const char* kind, const CheckReport& part) {
    for (const std::string& problem : part.problems) report.problems.push_back(std::string(kind) + ": " + problem);
  };
  append("matching", check_matching(schedules));
  append("deadlock", check_deadlock_free(schedules));
  for (const Schedule& schedule : schedules) append("race", check_races(schedule));
  append("coverage", check_coverage(schedules, claim));
  return report;
}

SEQCCL_END
