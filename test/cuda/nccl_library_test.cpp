// nccl_library_test.cpp - what seqccl declares of NCCL is what nccl.h says, and the absence of the library is told.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "../lib/transport/cuda/nccl_library.hpp"
#include "seqccl/error.hpp"

#if __has_include(<nccl.h>)
#include <nccl.h>
static_assert(sizeof(seqccl::nccl::UniqueId) == sizeof(ncclUniqueId) && alignof(seqccl::nccl::UniqueId) == alignof(ncclUniqueId));
static_assert(sizeof(seqccl::nccl::Result) == sizeof(ncclResult_t) && sizeof(seqccl::nccl::DataType) == sizeof(ncclDataType_t));
static_assert(int{seqccl::nccl::remote_error} == int{ncclRemoteError} && int{seqccl::nccl::in_progress} == int{ncclInProgress});
static_assert(int{seqccl::nccl::int8} == int{ncclInt8} && int{seqccl::nccl::invalid_usage} == int{ncclInvalidUsage});
static_assert(offsetof(seqccl::nccl::Config, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(seqccl::nccl::Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(seqccl::nccl::Config, most_blocks) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(seqccl::nccl::Config, network) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(seqccl::nccl::Config, split_share) == offsetof(ncclConfig_t, splitShare));
#if NCCL_VERSION_CODE >= 22800
static_assert(sizeof(seqccl::nccl::Config) == sizeof(ncclConfig_t));
static_assert(offsetof(seqccl::nccl::Config, traffic_class) == offsetof(ncclConfig_t, trafficClass));
static_assert(offsetof(seqccl::nccl::Config, name) == offsetof(ncclConfig_t, commName));
static_assert(offsetof(seqccl::nccl::Config, block_policy) == offsetof(ncclConfig_t, CTAPolicy));
static_assert(offsetof(seqccl::nccl::Config, nvlink_centric) == offsetof(ncclConfig_t, nvlinkCentricSched));
static_assert(seqccl::nccl::zero_blocks == NCCL_CTA_POLICY_ZERO);
#endif
#endif

namespace {

using seqccl::Error;

std::string refusal(const std::string& file) {
  try {
    (void)seqccl::nccl::load_library(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), seqccl::ErrorKind::argument);
    return error.what();
  }
  return "";
}

TEST(NcclLibrary, VersionsAreWrittenAsNcclCountsThem) {
  EXPECT_EQ(seqccl::nccl::version_text(22809), "2.28.9");
  EXPECT_EQ(seqccl::nccl::version_text(2708), "2.7.8");
}

TEST(NcclLibrary, AnAbsentFileIsNamedWithWhatWouldBeRight) {
  const std::string what = refusal("libnccl-nowhere.so");
  EXPECT_NE(what.find("libnccl-nowhere.so"), std::string::npos) << what;
  EXPECT_NE(what.find("SEQCCL_NCCL_LIBRARY"), std::string::npos) << what;
}

TEST(NcclLibrary, AnotherLibraryIsNotTakenForIt) {
  const std::string what = refusal("libm.so.6");
  EXPECT_NE(what.find("ncclGetVersion"), std::string::npos) << what;
}

}  // namespace
