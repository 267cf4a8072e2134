// nccl_library.cpp - finds libnccl and takes its functions.
// SPDX-License-Identifier: Apache-2.0
#include "nccl_library.hpp"

#include <cstdlib>

#include "../dynamic_library.hpp"

SEQCCL_BEGIN
namespace nccl {

namespace {

constexpr const char* advice = "NCCL 2.18 or later (Debian: libnccl2), or its libnccl in SEQCCL_NCCL_LIBRARY";

/// The soname is enough for a libnccl.so.2 that is loaded already, from wherever: the loader gives it back. One that is part of another
/// library, as in some frameworks, is known by its symbol.
std::string file_to_load() {
  if (const char* file = std::getenv("SEQCCL_NCCL_LIBRARY"); file != nullptr && *file != 0) return file;
  if (void* loaded = ::dlsym(RTLD_DEFAULT, "ncclGetVersion"); loaded != nullptr) {
    Dl_info info{};
    if (::dladdr(loaded, &info) != 0 && info.dli_fname != nullptr) return info.dli_fname;
  }
  return "libnccl.so.2";
}

}  // namespace

std::string version_text(int code) {
  return code < 10000 ? fmt::format("{}.{}.{}", code / 1000, code / 100 % 10, code % 100)
                      : fmt::format("{}.{}.{}", code / 10000, code / 100 % 100, code % 100);
}

Library load_library(const std::string& file) {
  const DynamicLibrary found("nccl: libnccl", {file}, advice);
  Library nccl;
  found.find("ncclGetVersion", nccl.get_version);
  nccl.path = DynamicLibrary::path_of(nccl.get_version);
  if (const Result result = nccl.get_version(&nccl.version_code); result != success)
    throw Error(ErrorKind::argument,
                fmt::format("nccl: {} does not tell its version (result {}); want {}", nccl.path, unsigned{result}, advice));
  nccl.version = version_text(nccl.version_code);
  if (nccl.version_code < oldest_version)
    throw Error(ErrorKind::argument, fmt::format("nccl: {} is version {}; want {}", nccl.path, nccl.version, advice));
  found.find("ncclGetUniqueId", nccl.get_unique_id);
  found.find("ncclCommInitRankConfig", nccl.comm_init_rank_config);
  found.find("ncclCommSplit", nccl.comm_split);
  found.find("ncclCommFinalize", nccl.comm_finalize);
  found.find("ncclCommDestroy", nccl.comm_destroy);
  found.find("ncclCommAbort", nccl.comm_abort);
  found.find("ncclCommGetAsyncError", nccl.comm_get_async_error);
  found.find("ncclCommCount", nccl.comm_count);
  found.find("ncclCommUserRank", nccl.comm_user_rank);
  found.find("ncclCommCuDevice", nccl.comm_cu_device);
  found.find("ncclSend", nccl.send);
  found.find("ncclRecv", nccl.recv);
  found.find("ncclGroupStart", nccl.group_start);
  found.find("ncclGroupEnd", nccl.group_end);
  found.find("ncclGetErrorString", nccl.get_error_string);
  found.find("ncclGetLastError", nccl.get_last_error);
  found.find_if_there("ncclCommRegister", nccl.comm_register);
  found.find_if_there("ncclCommDeregister", nccl.comm_deregister);
  found.find_if_there("ncclCommShrink", nccl.comm_shrink);
  return nccl;
}

const Library& library() {
  static const Library loaded = load_library(file_to_load());  // tried again on the next call if it throws
  return loaded;
}

}  // namespace nccl
SEQCCL_END
