// worker.cpp - opens and closes UCX.
// SPDX-License-Identifier: Apache-2.0
#include "worker.hpp"

#if SEQCCL_HAS_UCX

#include <fmt/format.h>
#include <sys/eventfd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <sstream>

#include "../descriptor.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

// Contexts share tables inside UCX while they open and close.
std::mutex& opening() {
  static std::mutex mutex;
  return mutex;
}

/// UCX 1.13 ends the process if it gets no descriptor in the middle of opening. One takes 10 here (2026-11-24); where
/// there are more devices, more.
void require_descriptors(Rank rank) {
  constexpr std::size_t num_spare = 32;
  std::array<Descriptor, num_spare> spare;
  for (Descriptor& one : spare) {
    one = Descriptor(::eventfd(0, EFD_CLOEXEC));
    if (!one.is_open())
      throw Error(ErrorKind::local,
                  fmt::format("ucx: rank {}: the system gives fewer than {} new descriptors ({}), want that many for UCX; raise the limit "
                              "(ulimit -n)",
                              rank, num_spare, std::strerror(errno)),
                  {rank});
  }
}

}  // namespace

Worker::Worker(Rank rank) : rank_(rank), ucp_(library()) {
  const std::lock_guard lock(opening());
  require_descriptors(rank);
  const KeepSignalActions keep;
  try {
    ucp_config_t* config = nullptr;
    require(ucp_.config_read(nullptr, nullptr, &config), "ucp_config_read");
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    const ucs_status_t status = ucp_.init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &context_);
    ucp_.config_release(config);
    require(status, "ucp_init");
    ucp_worker_params_t worker{};
    worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    worker.thread_mode = UCS_THREAD_MODE_SERIALIZED;
    require(ucp_.worker_create(context_, &worker, &worker_), "ucp_worker_create");
    require(ucp_.worker_get_efd(worker_, &event_), "ucp_worker_get_efd");
  } catch (...) {
    close();
    throw;
  }
}

void keep_for_good(void* memory) noexcept {
  try {
    static std::mutex mutex;
    static auto* const kept = new std::vector<void*>;  // never destroyed
    const std::lock_guard lock(mutex);
    kept->push_back(memory);
  } catch (const std::bad_alloc&) {  // it is kept all the same
  }
}

Worker::~Worker() {
  if (leaked_) {
    keep_for_good(worker_);
    keep_for_good(context_);
    return;
  }
  const std::lock_guard lock(opening());
  close();
}

void Worker::close() noexcept {
  if (worker_ != nullptr) ucp_.worker_destroy(worker_);
  if (context_ != nullptr) ucp_.cleanup(context_);
}

std::string Worker::address() const {
  ucp_address_t* address = nullptr;
  std::size_t num_bytes = 0;
  require(ucp_.worker_get_address(worker_, &address, &num_bytes), "ucp_worker_get_address");
  const std::string bytes(reinterpret_cast<const char*>(address), num_bytes);
  ucp_.worker_release_address(worker_, address);
  return bytes;
}

void Worker::connect(const std::vector<std::string>& addresses) {
  for (std::size_t peer = 0; peer < addresses.size(); ++peer) {
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS;
    params.address = reinterpret_cast<const ucp_address_t*>(addresses[peer].data());
    ucp_ep_h endpoint = nullptr;
    if (const ucs_status_t status = ucp_.ep_create(worker_, &params, &endpoint); status != UCS_OK)
      throw Error(ErrorKind::dead,
                  fmt::format("ucx: rank {} cannot connect to rank {}: ucp_ep_create: {}", rank_, peer, ucp_.status_string(status)),
                  {static_cast<Rank>(peer)});
    endpoints_.push_back(endpoint);
  }
}

// UCX 1.13 tells it in no other way: "#   lane[0]:  1:tcp/lo.0 md[0]  -> ..."
std::set<std::string> Worker::transports(Rank peer) const {
  char* data = nullptr;
  std::size_t num_bytes = 0;
  std::FILE* stream = ::open_memstream(&data, &num_bytes);
  if (stream == nullptr) return {};
  ucp_.ep_print_info(endpoint(peer), stream);
  std::fclose(stream);
  const std::unique_ptr<char, void (*)(void*)> owner(data, std::free);
  std::istringstream lines(std::string(data, num_bytes));
  std::set<std::string> result;
  for (std::string line; std::getline(lines, line);) {
    if (const std::size_t lane = line.find("lane["); lane != std::string::npos) {
      std::istringstream words(line.substr(line.find(':', lane) + 1));
      std::string resource;  // "1:tcp/lo.0"
      words >> resource;
      const std::size_t begin = resource.find(':') + 1, end = resource.find('/');
      if (end != std::string::npos && begin < end) result.insert(resource.substr(begin, end - begin));
    }
  }
  return result;
}

void Worker::on_message(ucp_am_recv_callback_t call, void* argument) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = 0;
  params.cb = call;
  params.arg = argument;
  require(ucp_.worker_set_am_recv_handler(worker_, &params), "ucp_worker_set_am_recv_handler");
}

void Worker::require(ucs_status_t status, const char* what) const {
  if (status != UCS_OK)
    throw Error(ErrorKind::local, fmt::format("ucx: rank {}: {}: {}", rank_, what, ucp_.status_string(status)), {rank_});
}

}  // namespace ucx
SEQCCL_END

#endif
