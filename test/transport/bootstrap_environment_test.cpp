// bootstrap_environment_test.cpp - what launchers set, and what is wrong with it, as tables.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <map>

#include "../../lib/transport/bootstrap/host_list.hpp"
#include "bootstrap_support.hpp"

namespace seqccl::test {
namespace {

using Variables = std::map<std::string, std::string>;

LaunchInfo launch_with(const Variables& variables) {
  return launch_from([&](const char* variable) -> const char* {
    const auto found = variables.find(variable);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

Variables plus(Variables variables, const Variables& more) {
  for (const auto& each : more) variables[each.first] = each.second;
  return variables;
}

const Variables seqccl_launch = {{"SEQCCL_RANK", "2"}, {"SEQCCL_WORLD_SIZE", "4"}, {"SEQCCL_ADDR", "::1"}, {"SEQCCL_PORT", "29500"}};
const Variables torchrun = {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "node7"}, {"MASTER_PORT", "29400"}};
const Variables open_mpi = {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
const Variables srun = {{"SLURM_PROCID", "5"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "77"}, {"SLURM_NODELIST", "node[03-07,9]"}};

struct Right {
  std::string name;
  Variables variables;
  LaunchInfo want;
};
class RightEnvironment : public ::testing::TestWithParam<Right> {};

TEST_P(RightEnvironment, IsRead) {
  const LaunchInfo got = launch_with(GetParam().variables), &want = GetParam().want;
  EXPECT_EQ(got.rank, want.rank);
  EXPECT_EQ(got.num_ranks, want.num_ranks);
  EXPECT_EQ(got.address, want.address);
  EXPECT_EQ(got.port, want.port);
  EXPECT_EQ(got.job, want.job);
  EXPECT_EQ(got.token, want.token);
  EXPECT_EQ(got.source, want.source);
}

INSTANTIATE_TEST_SUITE_P(
    Launch, RightEnvironment,
    ::testing::Values(
        Right{"seqccl", plus(seqccl_launch, {{"SEQCCL_TOKEN", "t"}}), {2, 4, "::1", 29500, "port-29500", "t", "seqccl launch"}},
        Right{"seqccl_named_job", plus(seqccl_launch, {{"SEQCCL_JOB", "j"}}), {2, 4, "::1", 29500, "j", "j", "seqccl launch"}},
        Right{"seqccl_before_torchrun", plus(seqccl_launch, torchrun), {2, 4, "::1", 29500, "port-29500", "port-29500", "seqccl launch"}},
        Right{"torchrun", torchrun, {3, 4, "node7", 29401, "port-29401", "port-29401", "torchrun"}},
        Right{"torchrun_restarted",
              plus(torchrun, {{"TORCHELASTIC_RUN_ID", "run"}, {"TORCHELASTIC_RESTART_COUNT", "2"}}),
              {3, 4, "node7", 29401, "run.2", "run.2", "torchrun"}},
        Right{"torchrun_own_port",
              plus(torchrun, {{"SEQCCL_PORT", "7000"}, {"SEQCCL_ADDR", "a"}, {"MASTER_PORT", "65535"}}),
              {3, 4, "a", 7000, "port-7000", "port-7000", "torchrun"}},
        Right{"torchrun_before_srun", plus(srun, torchrun), {3, 4, "node7", 29401, "port-29401", "port-29401", "torchrun"}},
        Right{"mpirun_across_hosts",
              plus(open_mpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}, {"SEQCCL_ADDR", "h"}, {"SEQCCL_PORT", "1"}, {"PMIX_NAMESPACE", "n"}}),
              {1, 2, "h", 1, "n", "n", "mpirun"}},
        Right{"mpich",
              {{"PMI_RANK", "0"}, {"PMI_SIZE", "3"}, {"SEQCCL_ADDR", "h"}, {"SEQCCL_PORT", "65535"}},
              {0, 3, "h", 65535, "mpirun", "mpirun", "mpirun"}},
        Right{"mpirun_within_slurm",
              plus(srun, plus(open_mpi, {{"SEQCCL_ADDR", "h"}, {"SEQCCL_PORT", "9"}})),
              {1, 2, "h", 9, "mpirun", "mpirun", "mpirun"}},
        Right{"mpich_within_slurm",
              plus(srun, {{"PMI_RANK", "1"}, {"PMI_SIZE", "32"}, {"SEQCCL_ADDR", "h"}, {"SEQCCL_PORT", "9"}}),
              {1, 32, "h", 9, "mpirun", "mpirun", "mpirun"}},
        Right{"srun", srun, {5, 8, "node03", 16384 + 77, "77.0", "77.0", "srun"}},
        Right{"srun_with_pmi",
              plus(srun, {{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}, {"PMIX_RANK", "5"}}),
              {5, 8, "node03", 16384 + 77, "77.0", "77.0", "srun"}},
        Right{
            "srun_of_one_step",
            plus(srun, {{"SLURM_STEP_ID", "3"}, {"SLURM_STEP_NUM_TASKS", "6"}, {"SLURM_STEP_NODELIST", "b,c"}, {"SLURM_JOB_ID", "16383"}}),
            {5, 6, "b", 16384 + 182, "16383.3", "16383.3", "srun"}}),
    [](const auto& instance) { return instance.param.name; });

TEST(LaunchFromEnvironment, MpirunOnOneHostNeedsNoAddress) {
  const LaunchInfo one = launch_with(plus(open_mpi, {{"PMIX_NAMESPACE", "job1"}}));
  EXPECT_EQ(one.address, "127.0.0.1");
  EXPECT_GE(one.port, 16384);
  EXPECT_LT(one.port, 32768);
  EXPECT_EQ(launch_with(plus(open_mpi, {{"PMIX_NAMESPACE", "job1"}})).port, one.port);
  EXPECT_NE(launch_with(plus(open_mpi, {{"PMIX_NAMESPACE", "job2"}})).port, one.port);  // two jobs, two ports
  const LaunchInfo hydra = launch_with({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALNRANKS", "2"}});
  EXPECT_EQ(hydra.address, "127.0.0.1");
}

struct Wrong {
  std::string name;
  Variables variables;
  std::vector<std::string> words;
};
class WrongEnvironment : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongEnvironment, IsNamed) {
  expect_error(error_of([&] { (void)launch_with(GetParam().variables); }), ErrorKind::argument, GetParam().words);
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

INSTANTIATE_TEST_SUITE_P(
    Launch, WrongEnvironment,
    ::testing::Values(
        Wrong{"nothing", {}, {"seqccl launch", "torchrun", "mpirun", "srun"}},
        Wrong{"only_rank", {{"SEQCCL_RANK", "1"}}, {"SEQCCL_RANK is set", "SEQCCL_WORLD_SIZE is not"}},
        Wrong{"only_size", {{"SEQCCL_WORLD_SIZE", "1"}}, {"SEQCCL_WORLD_SIZE is set", "SEQCCL_RANK is not"}},
        Wrong{"no_address", without(seqccl_launch, "SEQCCL_ADDR"), {"SEQCCL_ADDR is not", "host of rank 0"}},
        Wrong{"no_port", without(seqccl_launch, "SEQCCL_PORT"), {"SEQCCL_PORT is not", "port of rank 0"}},
        Wrong{"rank_is_a_word", plus(seqccl_launch, {{"SEQCCL_RANK", "two"}}), {"SEQCCL_RANK is \"two\"", "from 0 to"}},
        Wrong{"rank_is_negative", plus(seqccl_launch, {{"SEQCCL_RANK", "-1"}}), {"SEQCCL_RANK is \"-1\"", "from 0 to"}},
        Wrong{"rank_has_a_tail", plus(seqccl_launch, {{"SEQCCL_RANK", "1 "}}), {"SEQCCL_RANK is \"1 \""}},
        Wrong{"rank_is_the_size", plus(seqccl_launch, {{"SEQCCL_RANK", "4"}}), {"SEQCCL_RANK is 4", "SEQCCL_WORLD_SIZE is 4", "0 to 3"}},
        Wrong{"no_ranks", plus(seqccl_launch, {{"SEQCCL_WORLD_SIZE", "0"}}), {"SEQCCL_WORLD_SIZE is \"0\"", "from 1 to"}},
        Wrong{"huge", plus(seqccl_launch, {{"SEQCCL_WORLD_SIZE", "99999999999999999999"}}), {"SEQCCL_WORLD_SIZE", "from 1 to"}},
        Wrong{"port_out_of_range", plus(seqccl_launch, {{"SEQCCL_PORT", "65536"}}), {"SEQCCL_PORT is \"65536\"", "1 to 65535"}},
        Wrong{"empty_token", plus(seqccl_launch, {{"SEQCCL_TOKEN", ""}}), {"SEQCCL_TOKEN is empty"}},
        Wrong{"torchrun_no_address", without(torchrun, "MASTER_ADDR"), {"MASTER_ADDR is not"}},
        Wrong{"torchrun_no_port", without(torchrun, "MASTER_PORT"), {"MASTER_PORT is not"}},
        Wrong{"torchrun_last_port", plus(torchrun, {{"MASTER_PORT", "65535"}}), {"MASTER_PORT is 65535", "SEQCCL_PORT"}},
        Wrong{"torchrun_no_size", without(torchrun, "WORLD_SIZE"), {"RANK is set", "WORLD_SIZE is not"}},
        Wrong{"mpirun_across_hosts_no_address",
              plus(open_mpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}}),
              {"SEQCCL_ADDR is not set", "mpirun -x"}},
        Wrong{"mpirun_across_hosts_no_port",
              plus(open_mpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}, {"SEQCCL_ADDR", "a"}}),
              {"SEQCCL_PORT is not set"}},
        Wrong{"mpirun_two_opinions", plus(open_mpi, {{"PMIX_RANK", "0"}}), {"PMIX_RANK is 0", "OMPI_COMM_WORLD_RANK is 1"}},
        Wrong{"mpirun_two_sizes", plus(open_mpi, {{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}}), {"PMI_SIZE is 3", "OMPI_COMM_WORLD_SIZE is 2"}},
        Wrong{"pmix_without_size", {{"PMIX_RANK", "0"}}, {"PMIX_RANK is set", "OMPI_COMM_WORLD_SIZE"}},
        Wrong{"srun_no_job", without(srun, "SLURM_JOB_ID"), {"SLURM_JOB_ID is not"}},
        Wrong{"srun_no_size", without(srun, "SLURM_NTASKS"), {"SLURM_PROCID is set", "SLURM_NTASKS is not"}},
        Wrong{"srun_no_hosts", without(srun, "SLURM_NODELIST"), {"SLURM_NODELIST", "SEQCCL_ADDR"}},
        Wrong{"srun_odd_hosts", plus(srun, {{"SLURM_NODELIST", "node[3"}}), {"SLURM_NODELIST is \"node[3\"", "node[03-07,9]"}}),
    [](const auto& instance) { return instance.param.name; });

TEST(HostList, FirstHost) {
  const std::map<std::string, std::string> hosts = {{"node", "node"},
                                                    {"a,b", "a"},
                                                    {"node[03-07,9]", "node03"},
                                                    {"node[12]", "node12"},
                                                    {"r[1-2]n[07,08],x", "r1n07"},
                                                    {"a-1.b_c,d[1-2]", "a-1.b_c"},
                                                    {"n[1-2]-ib", "n1-ib"},
                                                    {"", ""},
                                                    {",a", ""},
                                                    {"n[", ""},
                                                    {"n[]", ""},
                                                    {"n[a-b]", ""},
                                                    {"n[-3]", ""},
                                                    {"n]1", ""},
                                                    {"n;rm", ""},
                                                    {"n[1,x]", ""}};
  for (const auto& [list, want] : hosts) EXPECT_EQ(bootstrap::first_host(list), want) << list;
}

}  // namespace
}  // namespace seqccl::test
