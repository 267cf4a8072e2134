// cluster_file.cpp - reads and writes descriptions of a cluster, strictly: a misspelt field would be a default in silence.
// SPDX-License-Identifier: Apache-2.0
#include "command/cluster_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "command/json_file.hpp"
#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

using Object = nlohmann::ordered_json;

[[noreturn]] void refuse_file(const std::string& path, const std::string& why) {
  throw Error(ErrorKind::argument, fmt::format("--cluster: '{}': {}; seqccl calibrate writes one that is right", path, why));
}

void require_fields(const std::string& path, const std::string& where, const Object& object, const std::vector<std::string>& known) {
  if (!object.is_object()) refuse_file(path, fmt::format("{}is not an object", where));
  for (const auto& [key, value] : object.items())
    if (std::ranges::find(known, key) == known.end())
      refuse_file(path, fmt::format("{}field '{}' is not known, want {}", where, key, fmt::join(known, ", ")));
}

double number_of(const std::string& path, const std::string& where, const Object& object, const char* field, double low) {
  if (!object.contains(field)) refuse_file(path, fmt::format("{}field '{}' is missing", where, field));
  const Object& value = object[field];
  constexpr double high = 1e9;
  if (!value.is_number() || !(value.get<double>() >= low) || value.get<double>() > high)
    refuse_file(path, fmt::format("{}{} is {}, want a number from {:g} to {:g}", where, field, value.dump(), low, high));
  return value.get<double>();
}

LinkClass link_of(const std::string& path, const Object& file, const char* field) {
  const std::string where = std::string(field) + ": ";
  if (!file.contains(field)) refuse_file(path, fmt::format("field '{}' is missing", field));
  require_fields(path, where, file[field], {"latency_us", "gb_per_s"});
  return {number_of(path, where, file[field], "latency_us", 0) * 1e-6, number_of(path, where, file[field], "gb_per_s", 1e-6) * 1e9};
}

Object link_json(const LinkClass& link) { return {{"latency_us", link.latency_s * 1e6}, {"gb_per_s", link.bytes_per_s / 1e9}}; }

}  // namespace

bool is_cluster_file(std::string_view text) { return text.ends_with(".json"); }

ClusterFile read_cluster(const std::string& path) {
  const Object file = read_json("--cluster", path);
  require_fields(path, "", file, {"seqccl_cluster", "inside", "between", "gflop_per_s", "memory_gb_per_s", "step_overhead_us", "measured"});
  if (number_of(path, "", file, "seqccl_cluster", 1) != 1)
    refuse_file(path, fmt::format("seqccl_cluster is {}, want 1", file["seqccl_cluster"].dump()));
  ClusterFile result;
  result.has_between = file.contains("between");
  result.cluster.inside = link_of(path, file, "inside");
  result.cluster.between = result.has_between ? link_of(path, file, "between") : result.cluster.inside;
  result.cluster.flops_per_s = number_of(path, "", file, "gflop_per_s", 1e-6) * 1e9;
  result.cluster.memory_bytes_per_s = number_of(path, "", file, "memory_gb_per_s", 1e-6) * 1e9;
  result.cluster.step_overhead_s = number_of(path, "", file, "step_overhead_us", 0) * 1e-6;
  return result;
}

nlohmann::ordered_json to_json(const ClusterFile& file) {
  Object object = {{"seqccl_cluster", 1}, {"inside", link_json(file.cluster.inside)}};
  if (file.has_between) object["between"] = link_json(file.cluster.between);
  object["gflop_per_s"] = file.cluster.flops_per_s / 1e9;
  object["memory_gb_per_s"] = file.cluster.memory_bytes_per_s / 1e9;
  object["step_overhead_us"] = file.cluster.step_overhead_s * 1e6;
  return object;
}

}  // namespace seqccl::command
