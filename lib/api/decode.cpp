// decode.cpp - the Decode class: finds the rows of the cache, writes the new tokens, patches the plan and runs it.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/decode.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "operation.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/simulate.hpp"

SEQCCL_BEGIN

namespace {

Error refuse(const std::string& what) { return {ErrorKind::argument, "Decode: " + what}; }

/// Rows from one page to the next, in tokens; the same in k and v.
std::int64_t rows_per_page(const char* name, const ConstTensorView& pages) {
  const std::int64_t num_pages = pages.extent(0), page_tokens = pages.extent(1);
  if (num_pages < 2 || !pages) return page_tokens;
  const std::int64_t page = pages.stride(0), token = page_tokens == 1 ? page : pages.stride(1);  // the page is the token
  if (token <= 0 || page < page_tokens * token || page % token != 0)
    throw refuse(fmt::format("cache.{} has strides {} per page and {} per token, want a multiple of the token stride, {} or more", name,
                             page, token, page_tokens * token));
  return page / token;
}

/// Pages as (B, rows, Hkv, D): every batch row sees all of them, the slices choose.
TensorView rows_of_pages(const TensorView& pages, std::int64_t batch, std::int64_t page_rows) {
  const auto [num_pages, page_tokens] = std::pair(pages.extent(0), pages.extent(1));
  TensorView rows = pages;
  rows.geometry.shape[0] = batch;
  rows.geometry.strides[0] = 0;
  rows.geometry.shape[1] = num_pages == 0 ? 0 : (num_pages - 1) * page_rows + page_tokens;
  if (page_tokens == 1 && num_pages > 1) rows.geometry.strides[1] = pages.stride(0);
  return rows;
}

struct Shard {
  TensorView k, v;  // (B, rows, Hkv, Dk | Dv)
  collectives::CacheRows rows;
};

Shard shard_of(const DecodeSpec& spec, const DecodeCache& cache) {
  for (const auto& [name, view] : {std::pair{"cache.k", cache.k}, std::pair{"cache.v", cache.v}})
    if (view.geometry.num_axes != 4) throw refuse(fmt::format("{} has {} axes, want 4", name, view.geometry.num_axes));
  const char* who = "Decode";
  const std::int64_t kv_heads = spec.num_kv_heads(), outer = cache.k.extent(0), inner = cache.k.extent(1);
  const bool paged = !cache.page_table.empty();
  require(who, "cache.k", cache.k, spec.dtype, {paged ? outer : spec.batch, inner, kv_heads, spec.head_dim});
  require(who, "cache.v", cache.v, spec.dtype, {paged ? outer : spec.batch, inner, kv_heads, spec.dim_v()});
  if (!paged) return {cache.k, cache.v, {.capacity = inner}};

  const auto num_entries = static_cast<std::int64_t>(cache.page_table.size());
  if (num_entries % spec.batch != 0)
    throw refuse(fmt::format("the page table has {} entries, want a multiple of batch = {}", num_entries, spec.batch));
  if (inner < 1) throw refuse("pages have 0 tokens, want 1 or more");
  const std::int64_t page_rows = rows_per_page("k", cache.k);
  if (const std::int64_t of_v = rows_per_page("v", cache.v); of_v != page_rows)
    throw refuse(fmt::format("a page is {} tokens from the next in cache.k and {} in cache.v, want the same", page_rows, of_v));
  return {rows_of_pages(cache.k, spec.batch, page_rows),
          rows_of_pages(cache.v, spec.batch, page_rows),
          {.capacity = num_entries / spec.batch * inner,
           .page_tokens = inner,
           .page_rows = page_rows,
           .num_pages = outer,
           .page_table = cache.page_table}};
}

/// (1, count, H, D) of a (B, T, H, D) view.
template <class View>
View run_of(const View& view, std::int64_t batch, std::int64_t first, std::int64_t count) {
  View run = view;
  const std::int64_t offset = batch * view.stride(0) + first * view.stride(1);
  run.data = view.template as<std::byte>() + offset * static_cast<std::int64_t>(size_bytes(view.dtype));
  run.geometry.shape[0] = 1;
  run.geometry.shape[1] = count;
  return run;
}

void require_last_axis(const char* name, const ConstTensorView& view) {
  if (view && view.geometry.num_elements() != 0 && view.extent(3) > 1 && view.stride(3) != 1)
    throw refuse(fmt::format("{} has stride {} along its last axis, want 1", name, view.stride(3)));
}

std::uint64_t mixed(std::uint64_t hash, std::span<const Rank> owners) {
  for (const Rank owner : owners) hash = (hash ^ static_cast<std::uint64_t>(owner + 1)) * 0x100000001b3u;
  return hash;
}

}  // namespace

struct Decode::State {
  Communicator* comm;
  DecodeSpec spec;
  std::string identity;
  std::optional<Schedule> plan{};
  std::int64_t plan_rows = 0;
  std::uint64_t plan_fingerprint = 0;
  collectives::CacheStep step{};
  std::string description{};
  std::vector<TraceEvent>* trace = nullptr;

  [[nodiscard]] Rows heads() const { return spec.heads_of(comm->rank(), comm->size()); }

  void check_views(const char* who, const ConstTensorView& q, const TensorView& out, const TensorView& lse) const {
    const std::int64_t num_heads = heads().count;
    require(who, "q", q, spec.dtype, {spec.batch, spec.q_tokens, spec.q_heads, spec.head_dim});
    require(who, "out", out, spec.dtype, {spec.batch, spec.q_tokens, num_heads, spec.dim_v()});
    require(who, "lse", lse, f32, {spec.batch, num_heads, spec.q_tokens});
  }

  /// The kept plan with this step's slices and owners.
  const Schedule& patched(std::int64_t cache_rows, std::span<const Rank> owners) {
    if (!plan || plan_rows != cache_rows) {
      plan = collectives::decode(spec, comm->size(), comm->rank(), cache_rows, step.slices);
      plan_rows = cache_rows;
      plan_fingerprint = plan->fingerprint;
    } else {
      collectives::replace_slices(*plan, step.slices);
    }
    // Ranks that disagree about owners would lose a token or store it twice: let them find out.
    plan->fingerprint = mixed(plan_fingerprint, owners);
    description = identity;
    if (!owners.empty()) description += fmt::format("owners = {}\n", fmt::join(owners, " "));
    return *plan;
  }

  void run(const ConstTensorView& q, const ConstTensorView& k_new, const ConstTensorView& v_new, std::span<const Rank> owners,
           const DecodeCache& cache, const TensorView& out, const TensorView& lse) {
    const Shard shard = shard_of(spec, cache);
    for (const auto& [name, view] :
         {std::pair{"q", q}, std::pair{"k_new", k_new}, std::pair{"v_new", v_new}, std::pair{"cache.k", ConstTensorView(shard.k)},
          std::pair{"cache.v", ConstTensorView(shard.v)}, std::pair{"out", ConstTensorView(out)}})
      require_last_axis(name, view);
    collectives::plan_cache_step(spec, comm->size(), comm->rank(), shard.rows, cache.lengths, owners, step);

    const Schedule& schedule = patched(shard.k.extent(1), owners);
    Bindings memory(schedule, comm->arena(schedule.workspace_bytes));
    memory.bind(Tensor::q, q);
    memory.bind(Tensor::k, ConstTensorView(shard.k));
    memory.bind(Tensor::v, ConstTensorView(shard.v));
    memory.bind(Tensor::out, out);
    memory.bind(Tensor::lse, rearranged(lse, {0, 2, 1, -1}));
    memory.require_complete();
    for (const collectives::CacheWrite& write : step.writes) {
      // In pages the row counts from the first page whatever the batch row: its stride is 0.
      cpu::copy(run_of(k_new, write.batch, write.token, write.count), run_of(shard.k, write.batch, write.row, write.count), 1);
      cpu::copy(run_of(v_new, write.batch, write.token, write.count), run_of(shard.v, write.batch, write.row, write.count), 1);
    }
    run_on(*comm, memory, description, spec.kernel, trace);
    for (const collectives::CacheWrite& write : step.writes) cache.lengths[static_cast<std::size_t>(write.batch)] += write.count;
  }
};

Decode::Decode(Communicator& comm, DecodeSpec spec) {
  validate(spec, comm.size());
  if (comm.transport().executor() != nullptr)  // the cache is written here, and a step's slices change within its plan
    throw refuse(fmt::format("the communicator is on a device ({}), want one on the host: caches on devices are not supported yet",
                             comm.transport().name()));
  if (spec.merge == DecodeMerge::automatic) {
    const LinkClass link = Cluster::thread_ranks().inside;
    const double butterfly = decode_merge_seconds(spec, comm.size(), DecodeMerge::butterfly, link);
    const double all_to_all = decode_merge_seconds(spec, comm.size(), DecodeMerge::all_to_all, link);
    spec.merge = all_to_all < butterfly ? DecodeMerge::all_to_all : DecodeMerge::butterfly;
  }
  std::string identity = spec.describe();
  state_ = std::make_unique<State>(State{&comm, std::move(spec), std::move(identity)});
}
Decode::~Decode() = default;
Decode::Decode(Decode&&) noexcept = default;
Decode& Decode::operator=(Decode&&) noexcept = default;

void Decode::attend(ConstTensorView q, const DecodeCache& cache, TensorView out, TensorView lse) {
  const char* who = "Decode::attend";
  state_->check_views(who, q, out, lse);
  require_distinct(who, {{"q", q}, {"cache.k", cache.k}, {"cache.v", cache.v}}, {{"out", out}, {"lse", lse}});
  state_->run(q, {}, {}, {}, cache, out, lse);
}

void Decode::append(ConstTensorView q, ConstTensorView k_new, ConstTensorView v_new, std::span<const Rank> owners, const DecodeCache& cache,
                    TensorView out, TensorView lse) {
  const char* who = "Decode::append";
  const DecodeSpec& spec = state_->spec;
  state_->check_views(who, q, out, lse);
  require(who, "k_new", k_new, spec.dtype, {spec.batch, spec.q_tokens, spec.num_kv_heads(), spec.head_dim});
  require(who, "v_new", v_new, spec.dtype, {spec.batch, spec.q_tokens, spec.num_kv_heads(), spec.dim_v()});
  if (owners.empty()) throw refuse("owners is empty, want one rank per new token; to append nothing, call attend");
  require_distinct(who, {{"q", q}, {"k_new", k_new}, {"v_new", v_new}},
                   {{"out", out}, {"lse", lse}, {"cache.k", cache.k}, {"cache.v", cache.v}});
  state_->run(q, k_new, v_new, owners, cache, out, lse);
}

const DecodeSpec& Decode::spec() const noexcept { return state_->spec; }
Rows Decode::heads() const noexcept { return state_->heads(); }
const Schedule& Decode::schedule() const {
  if (!state_->plan) throw refuse("schedule is asked for before the first step, want it after one: the plan depends on the cache");
  return *state_->plan;
}
void Decode::set_trace(std::vector<TraceEvent>* trace) noexcept { state_->trace = trace; }

SEQCCL_END
