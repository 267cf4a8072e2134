// nccl_library.hpp - libnccl, found at run time: the few types and functions of it that seqccl uses; building needs no nccl.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <climits>
#include <cstddef>
#include <string>

#include "seqccl/version.hpp"

SEQCCL_BEGIN
namespace nccl {

struct Comm;  // ncclComm: only ever behind a pointer
/// What ncclUniqueId is: passed by value, so size and alignment are part of NCCL's binary interface.
struct UniqueId {
  char bytes[128];
};

/// ncclResult_t
enum Result : unsigned {
  success = 0,
  unhandled_cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7,
};

/// ncclDataType_t: seqccl moves bytes only.
enum DataType : unsigned { int8 = 0 };

/// ncclConfig_t as of NCCL 2.28. `size` says how much of it the library may read: of one before 2.28 what 2.18 had; later ones take the
/// rest as not set.
struct Config {
  std::size_t size = 0;
  unsigned magic = 0xcafebeef;
  unsigned version = 0;
  int blocking = INT_MIN;
  int cluster_size = INT_MIN;
  int fewest_blocks = INT_MIN;
  int most_blocks = INT_MIN;
  const char* network = nullptr;
  int split_share = INT_MIN;
  int traffic_class = INT_MIN;  // padding in 2.18
  const char* name = nullptr;   // from here on 2.28
  int collnet = INT_MIN;
  int block_policy = INT_MIN;
  int shrink_share = INT_MIN;
  int nvls_blocks = INT_MIN;
  int channels_per_peer = INT_MIN;
  int nvlink_centric = INT_MIN;

  Config() : Config(0) {}
  explicit Config(int library_version)
      : size(library_version < 22800 ? offsetof(Config, name) : sizeof(Config)), version(library_version < 22800 ? 21800 : 22800) {}
};
/// Config::block_policy
constexpr int zero_blocks = 2;  // NCCL_CTA_POLICY_ZERO: copy engines where NCCL can

/// Names as in NCCL, without nccl. A stream is a cudaStream_t.
struct Library {
  Result (*get_version)(int*) = nullptr;
  Result (*get_unique_id)(UniqueId*) = nullptr;
  Result (*comm_init_rank_config)(Comm**, int, UniqueId, int, Config*) = nullptr;
  Result (*comm_split)(Comm*, int, int, Comm**, Config*) = nullptr;
  Result (*comm_finalize)(Comm*) = nullptr;
  Result (*comm_destroy)(Comm*) = nullptr;
  Result (*comm_abort)(Comm*) = nullptr;
  Result (*comm_get_async_error)(Comm*, Result*) = nullptr;
  Result (*comm_count)(const Comm*, int*) = nullptr;
  Result (*comm_user_rank)(const Comm*, int*) = nullptr;
  Result (*comm_cu_device)(const Comm*, int*) = nullptr;
  Result (*send)(const void*, std::size_t, DataType, int, Comm*, void*) = nullptr;
  Result (*recv)(void*, std::size_t, DataType, int, Comm*, void*) = nullptr;
  Result (*group_start)() = nullptr;
  Result (*group_end)() = nullptr;
  const char* (*get_error_string)(Result) = nullptr;
  const char* (*get_last_error)(Comm*) = nullptr;
  // Null in a version that has none.
  Result (*comm_register)(const Comm*, void*, std::size_t, void**) = nullptr;  // 2.19
  Result (*comm_deregister)(const Comm*, void*) = nullptr;                     // 2.19
  Result (*comm_shrink)(Comm*, int*, int, Comm**, Config*, int) = nullptr;     // 2.27
  int version_code = 0;
  std::string version, path;
};

constexpr int oldest_version = 21800;

/// "2.28.9" of 22809.
[[nodiscard]] std::string version_text(int code);
/// Loads `file`, which must be 2.18 or later. @throws Error(argument) if it is not there, is no NCCL or is too old
[[nodiscard]] Library load_library(const std::string& file);
/// The library of this process, loaded on the first call: the file in SEQCCL_NCCL_LIBRARY, or the copy that the process has already loaded
/// (two copies of NCCL do not know of each other's communicators), or the system's libnccl.so.2. @throws as load_library
[[nodiscard]] const Library& library();

}  // namespace nccl
SEQCCL_END
