// library.cpp - loads libucp and leaves the process as it was.
// SPDX-License-Identifier: Apache-2.0
#include "library.hpp"

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "../dynamic_library.hpp"

SEQCCL_BEGIN
namespace ucx {

#if SEQCCL_HAS_UCX

struct KeepSignalActions::Actions {
  struct sigaction of[NSIG] = {};
  bool known[NSIG] = {};
};

KeepSignalActions::KeepSignalActions() : actions_(new Actions) {
  for (int signal = 1; signal < NSIG; ++signal) actions_->known[signal] = ::sigaction(signal, nullptr, &actions_->of[signal]) == 0;
}

KeepSignalActions::~KeepSignalActions() {
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction now {};
    if (!actions_->known[signal] || ::sigaction(signal, nullptr, &now) != 0) continue;
    const struct sigaction& before = actions_->of[signal];
    if (now.sa_handler != before.sa_handler || now.sa_flags != before.sa_flags) (void)::sigaction(signal, &before, nullptr);
  }
  delete actions_;
}

namespace {

constexpr const char* advice = "UCX (Debian: libucx0), or its libucp in SEQCCL_UCX_LIBRARY";

Library load() {
  const KeepSignalActions keep;
  const char* file = std::getenv("SEQCCL_UCX_LIBRARY");
  const DynamicLibrary found("ucx: libucp", {file != nullptr && *file != 0 ? file : "libucp.so.0"}, advice);
  Library ucp;
  found.find("ucp_get_version", ucp.get_version);
  unsigned major = 0, minor = 0, release = 0;
  ucp.get_version(&major, &minor, &release);
  ucp.version = fmt::format("{}.{}.{}", major, minor, release);
  ucp.path = DynamicLibrary::path_of(ucp.get_version);
  if (major != UCP_API_MAJOR || minor < UCP_API_MINOR)
    throw Error(ErrorKind::argument, fmt::format("ucx: {} is version {}, want {}.{} or a later {}.x, for which seqccl was built", ucp.path,
                                                 ucp.version, UCP_API_MAJOR, UCP_API_MINOR, UCP_API_MAJOR));
  found.find("ucp_config_read", ucp.config_read);
  found.find("ucp_config_release", ucp.config_release);
  found.find("ucp_init_version", ucp.init_version);
  found.find("ucp_cleanup", ucp.cleanup);
  found.find("ucp_worker_create", ucp.worker_create);
  found.find("ucp_worker_destroy", ucp.worker_destroy);
  found.find("ucp_worker_get_address", ucp.worker_get_address);
  found.find("ucp_worker_release_address", ucp.worker_release_address);
  found.find("ucp_worker_set_am_recv_handler", ucp.worker_set_am_recv_handler);
  found.find("ucp_worker_progress", ucp.worker_progress);
  found.find("ucp_worker_get_efd", ucp.worker_get_efd);
  found.find("ucp_worker_arm", ucp.worker_arm);
  found.find("ucp_worker_flush_nbx", ucp.worker_flush_nbx);
  found.find("ucp_ep_create", ucp.ep_create);
  found.find("ucp_ep_print_info", ucp.ep_print_info);
  found.find("ucp_am_send_nbx", ucp.am_send_nbx);
  found.find("ucp_am_recv_data_nbx", ucp.am_recv_data_nbx);
  found.find("ucp_request_check_status", ucp.request_check_status);
  found.find("ucp_request_free", ucp.request_free);
  found.find("ucs_status_string", ucp.status_string);

  // A peer that dies is told by seqccl's own error; UCX would print lines of its own for each connection.
  ucs_status_t (*set_option)(const char*, const char*) = nullptr;
  found.find_if_there("ucs_global_opts_set_value", set_option);
  if (set_option != nullptr && std::getenv("UCX_LOG_LEVEL") == nullptr) (void)set_option("LOG_LEVEL", "fatal");
  return ucp;
}

}  // namespace

const Library& library() {
  static const Library loaded = load();  // tried again on the next call if it throws
  return loaded;
}

Found find_library() {
  try {
    const Library& ucp = library();
    return {true, fmt::format("UCX {} ({})", ucp.version, ucp.path)};
  } catch (const Error& error) {
    return {false, error.what()};
  }
}

#else

Found find_library() {
  return {false, "seqccl was built without UCX: its headers were not there; want libucx-dev (Debian) where seqccl is built"};
}

#endif

}  // namespace ucx
SEQCCL_END
