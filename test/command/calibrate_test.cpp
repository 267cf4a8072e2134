// calibrate_test.cpp - `seqccl calibrate` writes what --cluster reads; descriptions that are not right are refused.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "command/cluster_file.hpp"
#include "command/output_file.hpp"
#include "command/support.hpp"
#include "support/watchdog.hpp"

namespace seqccl::command::test {
namespace {

using nlohmann::json;
using seqccl::test::Watchdog;

constexpr const char* described = R"({"seqccl_cluster": 1, "inside": {"latency_us": 2, "gb_per_s": 10}, "between": {"latency_us": 20,
"gb_per_s": 1}, "gflop_per_s": 50, "memory_gb_per_s": 8, "step_overhead_us": 0.5, "measured": {"ranks": 2}})";

TEST(Calibrate, what_is_measured_is_read_by_explain_and_bench) {
  const Watchdog dog(std::chrono::seconds(240));
  const Folder folder;
  const std::string path = folder.file("cluster.json");
  const Ran ran = run({"calibrate", "-p", "2", "-x", "shm", "--between", "threads", "--repeat", "3", "-o", path});
  ASSERT_EQ(ran.code, exit_right) << ran.err;
  expect_words(ran.out, {"inside ", " + bytes / ", "(shm, by shared memory", "between ", "(threads, by own memory", "written to " + path});
  const ClusterFile file = read_cluster(path);
  EXPECT_TRUE(file.has_between);
  for (const double figure : {file.cluster.inside.bytes_per_s, file.cluster.between.bytes_per_s, file.cluster.flops_per_s,
                              file.cluster.memory_bytes_per_s, file.cluster.step_overhead_s})
    EXPECT_GT(figure, 0);
  EXPECT_EQ(run({"explain", "attention", "--ranks", "4", "--nodes", "2x2", "--tokens", "1k", "--cluster", path}).code, exit_right);
  const std::vector<std::string> small = {"bench",    "attention", "-p",         "2", "-n",         "128",       "--repeat", "1",
                                          "--method", "ring",      "--head-dim", "8", "--backward", "--cluster", path};
  const Ran text = run(small);
  expect_words(text.out, {"predicted  error", "predicted by " + path + ": median of the errors "});
  std::vector<std::string> with_json = small;
  with_json.emplace_back("--json");
  const json rows = json::parse(run(with_json).out).at("results");
  ASSERT_EQ(rows.size(), 2u);
  for (const json& row : rows)
    EXPECT_NEAR(row.at("prediction_error").get<double>(), row.at("predicted_s").get<double>() / row.at("median_s").get<double>() - 1, 1e-9);
}

TEST(Calibrate, an_output_file_is_there_whole_or_as_it_was) {
  const Folder folder;
  const std::string path = folder.file("cluster.json");
  write_text(path, "before");
  const auto text_of = [&] {
    std::ifstream stream(path);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  };
  const auto num_files = [&] {
    const std::filesystem::directory_iterator files(std::filesystem::path(path).parent_path());
    return std::distance(begin(files), end(files));
  };
  {
    const OutputFile abandoned("--output", path);
    EXPECT_EQ(text_of(), "before");
  }
  EXPECT_EQ(text_of(), "before");
  EXPECT_EQ(num_files(), 1);
  OutputFile file("--output", path);
  file.finish("after");
  EXPECT_EQ(text_of(), "after");
  EXPECT_EQ(num_files(), 1);
  std::filesystem::create_directory(folder.file("folder.json"));
  EXPECT_REFUSED(OutputFile("--output", folder.file("folder.json")), "--output: '" + folder.file("folder.json") + "' cannot be written: ");
  EXPECT_REFUSED(OutputFile("--output", folder.file("no/file.json")),
                 "--output: '" + folder.file("no/file.json") + "' cannot be written: ");
}

TEST(Calibrate, a_description_is_what_the_simulator_gets) {
  const Folder folder;
  const std::string path = folder.file("cluster.json");
  write_text(path, described);
  const ClusterFile file = read_cluster(path);
  EXPECT_DOUBLE_EQ(file.cluster.inside.latency_s, 2e-6);
  EXPECT_DOUBLE_EQ(file.cluster.between.bytes_per_s, 1e9);
  EXPECT_DOUBLE_EQ(file.cluster.flops_per_s, 50e9);
  EXPECT_DOUBLE_EQ(file.cluster.memory_bytes_per_s, 8e9);
  EXPECT_DOUBLE_EQ(file.cluster.step_overhead_s, 0.5e-6);
  const std::string again = folder.file("again.json");
  write_text(again, to_json(file).dump());
  EXPECT_EQ(to_json(read_cluster(again)).dump(), to_json(file).dump());
  // The same figures by options and by the file give the same times.
  const std::vector<std::string> plan = {"explain", "attention", "--ranks", "4",        "--nodes",  "2x2",  "--tokens",
                                         "4k",      "--method",  "ring",    "--json",   "--inside", "2,10", "--between",
                                         "20,1",    "--gflops",  "50",      "--memory", "8"};
  std::vector<std::string> from_file(plan.begin(), plan.begin() + 11);
  from_file.insert(from_file.end(), {"--cluster", path});
  std::string with_overhead = described;
  with_overhead.replace(with_overhead.find("0.5"), 3, "1.0");  // that of --cluster threads
  write_text(path, with_overhead);
  const Ran by_file = run(from_file), by_options = run(plan);
  ASSERT_EQ(by_file.code, exit_right) << by_file.err;
  EXPECT_EQ(by_file.out, by_options.out);
}

TEST(Calibrate, what_is_not_right_is_refused) {
  const Folder folder;
  const std::string path = folder.file("cluster.json");
  const auto refused = [&](const std::string& from, const std::string& to, const std::vector<std::string>& words) {
    std::string text = described;
    text.replace(text.find(from), from.size(), to);
    write_text(path, text);
    EXPECT_REFUSED(read_cluster(path), "--cluster: '" + path + "'");
    expect_words(message_of([&] { (void)read_cluster(path); }), words);
  };
  refused("\"gflop_per_s\"", "\"gflops\"", {"field 'gflops' is not known, want seqccl_cluster, inside"});
  refused("\"latency_us\": 20", "\"latency\": 20", {"between: field 'latency' is not known, want latency_us, gb_per_s"});
  refused("\"gflop_per_s\": 50, ", "", {"field 'gflop_per_s' is missing"});
  refused("\"latency_us\": 2,", "", {"inside: field 'latency_us' is missing"});
  refused("\"gb_per_s\": 10", "\"gb_per_s\": 0", {"inside: gb_per_s is 0, want a number from 1e-06 to 1e+09"});
  refused("\"gb_per_s\": 10", "\"gb_per_s\": \"10\"", {"inside: gb_per_s is \"10\", want a number"});
  refused("\"seqccl_cluster\": 1", "\"seqccl_cluster\": 2", {"seqccl_cluster is 2, want 1"});
  refused("{\"seqccl_cluster\"", "[{\"seqccl_cluster\"", {"is not JSON"});
  const auto said = [](const std::vector<std::string>& arguments, const std::vector<std::string>& words) {
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, exit_bad_input) << ran.out;
    expect_words(ran.err, words);
  };
  said({"explain", "attention", "--cluster", folder.file("none.json")}, {"--cluster: '", "cannot be read"});
  std::string one_class = described;
  one_class.replace(one_class.find("\"between\""), one_class.find("\"gflop") - one_class.find("\"between\""), "");
  write_text(path, one_class);
  said({"explain", "attention", "--ranks", "4", "--nodes", "2x2", "--cluster", path}, {"--nodes: '2x2' has links between nodes, but"});
  said({"bench", "attention", "--ranks", "4", "--ranks-per-node", "2", "--cluster", path},
       {"--ranks-per-node: '", "has no links between nodes"});
  said({"bench", "attention", "--cluster", "gpus"}, {"--cluster: 'gpus' is not right, want a FILE.json"});
  said({"calibrate", "-o", "cluster"}, {"--output: 'cluster' is not right, want a name that ends with .json"});
  said({"calibrate", "-o", folder.file("no/folder.json")}, {"cannot be written"});
  said({"calibrate", "-x", "shm,threads"}, {"--transport: 'shm,threads' has 2 paths, want one"});
  said({"calibrate", "-p", "1"}, {"--ranks: '1' is not right, want 2 to 1024"});
}

}  // namespace
}  // namespace seqccl::command::test
