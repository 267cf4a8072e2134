// attention.cpp - the same ring attention on the host and on a CUDA device: four ranks as threads share the device, and agree with the
// host. SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <seqccl/cuda.hpp>
#include <seqccl/seqccl.hpp>

#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace seqccl;

constexpr int num_ranks = 4;
constexpr std::int64_t N = 96, Hq = 4, Hkv = 2, D = 16;

const AttentionSpec spec{.q_heads = Hq,
                         .kv_heads = Hkv,
                         .head_dim = D,
                         .partition = Partition::zigzag(N, num_ranks),
                         .mask = Mask::causal(),
                         .method = Method::ring};

/// Host memory of a rank's tensors, (1, T, H, D) f32.
struct Tensors {
  explicit Tensors(Rank rank)
      : tokens(spec.partition.tokens_on(rank)),
        q(count(Hq)),
        k(count(Hkv)),
        v(count(Hkv)),
        out(count(Hq)),
        lse(static_cast<std::size_t>(tokens * Hq)) {
    for (std::size_t i = 0; i < q.size(); ++i) q[i] = std::sin(0.1F * static_cast<float>(i + static_cast<std::size_t>(rank)));
    for (std::size_t i = 0; i < k.size(); ++i)
      k[i] = std::cos(0.3F * static_cast<float>(i)), v[i] = std::sin(0.7F * static_cast<float>(i + 5));
  }
  [[nodiscard]] std::size_t count(std::int64_t heads) const { return static_cast<std::size_t>(tokens * heads * D); }
  std::int64_t tokens;
  std::vector<float> q, k, v, out, lse;
};

void require(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

/// The same floats in device memory.
class OnDevice {
 public:
  explicit OnDevice(const std::vector<float>& host) : num_bytes_(host.size() * sizeof(float)) {
    require(cudaMalloc(&data_, num_bytes_), "cudaMalloc");
    require(cudaMemcpy(data_, host.data(), num_bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  [[nodiscard]] void* data() const { return data_; }
  void download(std::vector<float>& host) const {
    require(cudaMemcpy(host.data(), data_, num_bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy");
  }

 private:
  void* data_ = nullptr;
  std::size_t num_bytes_;
};

void attend_on_device(Communicator& comm, std::unique_ptr<cuda::DeviceTransport> data, Tensors& x) {
  cudaStream_t stream = nullptr;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  cuda::use_device(comm, std::move(data), {.stream = stream});
  const OnDevice q(x.q), k(x.k), v(x.v), out(x.out), lse(x.lse);
  const auto tensor = [&](const OnDevice& at, std::int64_t heads) { return view(at.data(), f32, {1, x.tokens, heads, D}); };

  Attention attention(comm, spec);
  attention.forward(tensor(q, Hq), tensor(k, Hkv), tensor(v, Hkv), tensor(out, Hq), view(lse.data(), f32, {1, Hq, x.tokens}));  // enqueued
  const cuda::DeviceCounts counts = cuda::last_counts(comm);
  require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  out.download(x.out);
  cudaStreamDestroy(stream);
  if (comm.rank() == 0)
    std::printf("rank 0 enqueued %d kernels' steps and %d exchanges, %d events recorded, %d waits\n", static_cast<int>(counts.ops),
                static_cast<int>(counts.exchanges), static_cast<int>(counts.event_records), static_cast<int>(counts.event_waits));
}

void attend_on_host(Communicator& comm, Tensors& x) {
  const auto tensor = [&](std::vector<float>& at, std::int64_t heads) { return view(at.data(), f32, {1, x.tokens, heads, D}); };
  Attention attention(comm, spec);
  attention.forward(tensor(x.q, Hq), tensor(x.k, Hkv), tensor(x.v, Hkv), tensor(x.out, Hq), view(x.lse.data(), f32, {1, Hq, x.tokens}));
}

}  // namespace

int main() {
  int num_devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&num_devices); error != cudaSuccess || num_devices == 0) {
    std::fprintf(stderr, "there is no CUDA device here: %s\n", cudaGetErrorString(error));
    return 2;
  }
  auto ends = cuda::shared_device_transports(num_ranks);
  std::vector<Tensors> host, device;
  for (Rank rank = 0; rank < num_ranks; ++rank) host.emplace_back(rank), device.emplace_back(rank);
  run_ranks(num_ranks, [&](Communicator& comm) { attend_on_host(comm, host[static_cast<std::size_t>(comm.rank())]); });
  run_ranks(num_ranks, [&](Communicator& comm) {
    const auto rank = static_cast<std::size_t>(comm.rank());
    attend_on_device(comm, std::move(ends[rank]), device[rank]);
  });
  float worst = 0;
  for (std::size_t rank = 0; rank < num_ranks; ++rank)
    for (std::size_t i = 0; i < host[rank].out.size(); ++i) worst = std::fmax(worst, std::fabs(host[rank].out[i] - device[rank].out[i]));
  std::printf("out of the device is that of the host within %.1e\n", static_cast<double>(worst));
  return worst < 1e-4F ? 0 : 1;
}
