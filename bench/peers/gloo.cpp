// gloo.cpp - Gloo's allgather and alltoall over TCP loopback, the only way that it has within a host.
// SPDX-License-Identifier: Apache-2.0
#include <gloo/allgather.h>
#include <gloo/alltoall.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "server.hpp"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s PAGE RANKS   (started by seqccl_compare)\n", argv[0]);
    return 2;
  }
  const int num_ranks = std::atoi(argv[2]);
  const std::filesystem::path store = std::string(argv[1]) + ".gloo";
  std::filesystem::create_directory(store);
  const int code = peers::fork_ranks(num_ranks, [&](int rank) {
    gloo::transport::tcp::attr attributes;
    attributes.hostname = "127.0.0.1";
    const auto context = std::make_shared<gloo::rendezvous::Context>(rank, num_ranks);
    gloo::rendezvous::FileStore files(store);
    auto device = gloo::transport::tcp::CreateDevice(attributes);
    context->connectFullMesh(files, device);
    auto* const send = reinterpret_cast<char*>(peers::private_buffer(peers::max_bytes));
    auto* const receive = reinterpret_cast<char*>(peers::private_buffer(peers::max_bytes));
    const auto width = static_cast<std::size_t>(num_ranks);
    peers::MappedPage page(argv[1], false);
    peers::serve(page, rank, num_ranks,
                 {.prepare = {},
                  .all_gather =
                      [&](std::size_t bytes) {
                        gloo::AllgatherOptions options(context);
                        options.setInput<char>(send, bytes);
                        options.setOutput<char>(receive, bytes * width);
                        gloo::allgather(options);
                      },
                  .all_to_all =
                      [&](std::size_t bytes) {
                        gloo::AlltoallOptions options(context);
                        options.setInput<char>(send, bytes * width);
                        options.setOutput<char>(receive, bytes * width);
                        gloo::alltoall(options);
                      },
                  .settle = {},
                  .send = reinterpret_cast<std::byte*>(send),
                  .receive = reinterpret_cast<std::byte*>(receive)});
  });
  std::filesystem::remove_all(store);
  return code;
}
