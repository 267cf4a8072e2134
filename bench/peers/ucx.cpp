// ucx.cpp - all-gather and all-to-all as everybody writes them on UCX: all tagged messages at once, then wait.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <ucp/api/ucp.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "server.hpp"

namespace {

struct Card {
  std::size_t num_bytes = 0;
  unsigned char address[4096];
};

void must(ucs_status_t status, const char* what) {
  if (status != UCS_OK) throw std::runtime_error(std::string(what) + ": " + ucs_status_string(status));
}

class Worker {
 public:
  Worker(peers::Page& page, Card* cards, int rank, int num_ranks, bool yields) : rank_(rank), yields_(yields) {
    ucp_params_t parameters{};
    parameters.field_mask = UCP_PARAM_FIELD_FEATURES;
    parameters.features = UCP_FEATURE_TAG;
    ucp_config_t* config = nullptr;
    must(ucp_config_read(nullptr, nullptr, &config), "ucp_config_read");
    must(ucp_init(&parameters, config, &context_), "ucp_init");
    ucp_config_release(config);
    ucp_worker_params_t worker{};
    worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    worker.thread_mode = UCS_THREAD_MODE_SINGLE;
    must(ucp_worker_create(context_, &worker, &worker_), "ucp_worker_create");
    ucp_address_t* address = nullptr;
    std::size_t num_bytes = 0;
    must(ucp_worker_get_address(worker_, &address, &num_bytes), "ucp_worker_get_address");
    if (num_bytes > sizeof(Card::address)) throw std::runtime_error("the worker's address is too long");
    cards[rank].num_bytes = num_bytes;
    std::memcpy(cards[rank].address, address, num_bytes);
    ucp_worker_release_address(worker_, address);
    peers::barrier(page, num_ranks);
    for (int peer = 0; peer < num_ranks; ++peer) {
      ucp_ep_params_t endpoint{};
      endpoint.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS;
      endpoint.address = reinterpret_cast<const ucp_address_t*>(cards[peer].address);
      must(ucp_ep_create(worker_, &endpoint, &endpoints_.emplace_back()), "ucp_ep_create");
    }
    peers::barrier(page, num_ranks);
    sent_.resize(endpoints_.size());
    received_.resize(endpoints_.size());
  }

  void send(int peer, const std::byte* data, std::size_t num_bytes) {
    const ucp_request_param_t none{};
    const auto to = static_cast<std::size_t>(peer);
    requests_.push_back(ucp_tag_send_nbx(endpoints_[to], data, num_bytes, tag(rank_, sent_[to]++), &none));
  }
  void receive(int peer, std::byte* data, std::size_t num_bytes) {
    const ucp_request_param_t none{};
    const auto from = static_cast<std::size_t>(peer);
    requests_.push_back(ucp_tag_recv_nbx(worker_, data, num_bytes, tag(peer, received_[from]++), ~std::uint64_t{0}, &none));
  }
  void wait_all() {
    for (void* request : requests_) {
      if (request == nullptr) continue;
      if (UCS_PTR_IS_ERR(request)) must(UCS_PTR_STATUS(request), "a message");
      while (ucp_request_check_status(request) == UCS_INPROGRESS) progress();
      ucp_request_free(request);
    }
    requests_.clear();
  }
  void progress() {
    if (ucp_worker_progress(worker_) != 0)
      idle_ = 0;
    else if (yields_ && ++idle_ > 4)
      ::sched_yield();
  }

 private:
  static ucp_tag_t tag(int from, std::uint32_t number) { return static_cast<ucp_tag_t>(from) << 32 | number; }

  int rank_;
  bool yields_;
  int idle_ = 0;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  std::vector<ucp_ep_h> endpoints_;
  std::vector<std::uint32_t> sent_, received_;
  std::vector<void*> requests_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s PAGE RANKS spin|yield   (started by seqccl_compare)\n", argv[0]);
    return 2;
  }
  const int num_ranks = std::atoi(argv[2]);
  const std::size_t cards_bytes = sizeof(Card) * static_cast<std::size_t>(num_ranks);
  void* const memory = ::mmap(nullptr, cards_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return peers::fork_ranks(num_ranks, [&](int rank) {
    peers::MappedPage page(argv[1], false);
    Worker worker(*page, static_cast<Card*>(memory), rank, num_ranks, std::strcmp(argv[3], "yield") == 0);
    std::byte* const send = peers::private_buffer(peers::max_bytes);
    std::byte* const receive = peers::private_buffer(peers::max_bytes);
    const auto exchange = [&](std::size_t bytes, std::size_t stride) {
      for (int i = 1; i < num_ranks; ++i) {
        const int from = (rank + num_ranks - i) % num_ranks;
        worker.receive(from, receive + static_cast<std::size_t>(from) * bytes, bytes);
      }
      for (int i = 1; i < num_ranks; ++i) {
        const int to = (rank + i) % num_ranks;
        worker.send(to, send + static_cast<std::size_t>(to) * stride, bytes);
      }
      const auto mine = static_cast<std::size_t>(rank);
      std::memcpy(receive + mine * bytes, send + mine * stride, bytes);
      worker.wait_all();
    };
    peers::serve(page, rank, num_ranks,
                 {.prepare = {},
                  .all_gather = [&](std::size_t bytes) { exchange(bytes, 0); },
                  .all_to_all = [&](std::size_t bytes) { exchange(bytes, bytes); },
                  .settle = [&] { peers::barrier(*page, num_ranks, [&] { worker.progress(); }); },
                  .send = send,
                  .receive = receive});
  });
}
