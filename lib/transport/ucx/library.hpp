// library.hpp - libucp, found at run time: its functions by the types of its header, and nothing linked.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "seqccl/version.hpp"

#if __has_include(<ucp/api/ucp.h>)
#define SEQCCL_HAS_UCX 1
#include <ucp/api/ucp.h>
#else
#define SEQCCL_HAS_UCX 0
#endif

SEQCCL_BEGIN
namespace ucx {

/// What `seqccl info` says: version and file, or why there is none.
struct Found {
  bool is_there = false;
  std::string text;
};
/// Loads the library if it has not been loaded.
[[nodiscard]] Found find_library();

#if SEQCCL_HAS_UCX

/// Names as in UCP, without ucp_.
struct Library {
  decltype(&::ucp_get_version) get_version = nullptr;
  decltype(&::ucp_config_read) config_read = nullptr;
  decltype(&::ucp_config_release) config_release = nullptr;
  decltype(&::ucp_init_version) init_version = nullptr;
  decltype(&::ucp_cleanup) cleanup = nullptr;
  decltype(&::ucp_worker_create) worker_create = nullptr;
  decltype(&::ucp_worker_destroy) worker_destroy = nullptr;
  decltype(&::ucp_worker_get_address) worker_get_address = nullptr;
  decltype(&::ucp_worker_release_address) worker_release_address = nullptr;
  decltype(&::ucp_worker_set_am_recv_handler) worker_set_am_recv_handler = nullptr;
  decltype(&::ucp_worker_progress) worker_progress = nullptr;
  decltype(&::ucp_worker_get_efd) worker_get_efd = nullptr;
  decltype(&::ucp_worker_arm) worker_arm = nullptr;
  decltype(&::ucp_worker_flush_nbx) worker_flush_nbx = nullptr;
  decltype(&::ucp_ep_create) ep_create = nullptr;
  decltype(&::ucp_ep_print_info) ep_print_info = nullptr;
  decltype(&::ucp_am_send_nbx) am_send_nbx = nullptr;
  decltype(&::ucp_am_recv_data_nbx) am_recv_data_nbx = nullptr;
  decltype(&::ucp_request_check_status) request_check_status = nullptr;
  decltype(&::ucp_request_free) request_free = nullptr;
  decltype(&::ucs_status_string) status_string = nullptr;
  std::string version, path;
};

/// Loads it on the first call. SEQCCL_UCX_LIBRARY names another file than libucp.so.0. The process's signal handlers are afterwards what
/// they were: UCX would put its own in their place. @throws Error(argument) if it is not there or too old
[[nodiscard]] const Library& library();

/// Keeps the signal actions that the process has now, and puts them back at the end of its life.
class KeepSignalActions {
 public:
  KeepSignalActions();
  ~KeepSignalActions();
  KeepSignalActions(const KeepSignalActions&) = delete;
  KeepSignalActions& operator=(const KeepSignalActions&) = delete;

 private:
  struct Actions;
  Actions* actions_;
};

#endif

}  // namespace ucx
SEQCCL_END
