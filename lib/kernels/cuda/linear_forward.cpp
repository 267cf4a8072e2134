// linear_forward.cpp - outputs and summaries of runs of tokens, as launches over their segments.
// SPDX-License-Identifier: Apache-2.0
#include "linear_arguments.hpp"
#include "linear_delta.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

using Tables = DecayTables;

std::int64_t last_extent(const ConstTensorView& x) { return x.geometry.num_axes == 4 ? x.extent(3) : 0; }
bool is_empty(const LinearSizes& s) { return s.num_runs() == 0; }

/// Calls visit(segment) for all segments, from the first or from the last; for one without tokens if there are none and `even_if_empty`.
template <class Visit>
void for_each_segment(const char* who, const LinearSizes& sizes, std::int64_t chunks, bool backwards, Stream stream, Visit visit) {
  const std::int64_t count = (sizes.num_chunks() + chunks - 1) / chunks;
  for (std::int64_t n = 0; n < count; ++n) visit(LinearSegment(who, sizes, chunks, backwards ? count - 1 - n : n, stream));
}

/// E and T of an empty run: zero and the identity.
SweepProblem sweep_of(const LinearSizes& s, std::int64_t width) {
  SweepProblem p;
  p.key_dim = static_cast<std::int32_t>(s.key_dim), p.width = static_cast<std::int32_t>(width);
  p.total_width = static_cast<std::int32_t>(s.width);
  return p;
}
void write_empty(const char* who, const LinearSizes& s, const TensorView& state, const TensorView& transition, Stream stream) {
  const LinearSegment none(who, s, 1, 0, stream);
  zero(state, stream);
  if (!transition) return;
  SweepProblem p = sweep_of(s, s.key_dim);
  p.identity = true, p.final = LinearSegment::state(transition);
  none.launch(launch_sweep, p);
}
void write_log_sum(const char* who, const LinearSizes& s, const double* sums, const TensorView& log_sum, Stream stream) {
  if (!log_sum) return;
  if (s.width == 0 || s.tokens == 0) return zero(log_sum, stream);
  LogSumProblem p;
  p.batch = static_cast<std::int32_t>(s.batch), p.heads = static_cast<std::int32_t>(s.heads), p.width = static_cast<std::int32_t>(s.width);
  p.sums = sums, p.to = log_sum.as<float>();
  p.batch_stride = log_sum.stride(0), p.head_stride = log_sum.stride(1), p.row_stride = log_sum.stride(2);
  require_launch(who, launch_log_sum(p, stream));
}

// --- summaries, of tokens and of gradients ---------------------------------------------------------------------------------

/// Tables, sums of logs (B H, W) and for delta kinds their system; for gradients of those also scores and dU.
struct SummaryBuffers {
  SummaryBuffers(Scratch& scratch, const LinearSizes& s, std::int64_t chunks, bool delta_rule, bool is_backward)
      : tables(scratch, s, chunks, Tables::keys_bit | Tables::queries_bit | Tables::total_bit | Tables::ratio_bit | Tables::log_total_bit),
        sums(scratch.take<double>(s.num_runs() * s.width)),
        delta(scratch, s, delta_rule ? chunks : 0),
        scores(scratch.take(delta_rule && is_backward ? s.num_runs() * chunks * chunk_tokens * chunk_tokens : 0)) {}
  Tables tables;
  double* sums;
  DeltaBuffers delta;
  float* scores;
};
SegmentBytes summary_bytes(const LinearSizes& s, bool delta_rule, bool is_backward) {
  return [=](std::int64_t chunks) {
    Scratch count;
    (void)SummaryBuffers(count, s, chunks, delta_rule, is_backward);
    return count.used();
  };
}

/// An empty run may have a beta without an address.
template <class Arguments>
bool is_delta(const Arguments& a) {
  return a.beta || a.transition;
}

LinearSizes check(const LinearSummaryArguments& a) {
  const char* who = "linear_summary";
  const LinearSizes s = linear_sizes(who, "k", a.k, a.log_decay, a.beta, last_extent(a.v));
  check_values(who, "v", a.v, s);
  check_state(who, "state", a.state, s);
  if (a.log_sum && is_delta(a)) refuse(who, "log_sum is given with beta, want transition");
  if (is_delta(a)) check_linear(who, "beta", a.beta, s.batch, s.tokens, s.heads, 1);
  if (a.transition) check_linear(who, "transition", a.transition, s.batch, s.heads, s.key_dim, s.key_dim);
  check_log_sum(who, a.log_sum, s);
  return s;
}

LinearSizes check(const LinearSummaryBackwardArguments& a) {
  const char* who = "linear_summary_backward";
  const LinearSizes s = linear_sizes(who, "q", a.q, a.log_decay, a.beta, last_extent(a.dout));
  check_values(who, "dout", a.dout, s);
  check_state(who, "dstate", a.dstate, s);
  if (is_delta(a)) check_linear(who, "beta", a.beta, s.batch, s.tokens, s.heads, 1);
  if (is_delta(a)) check_linear(who, "k", a.k, s.batch, s.tokens, s.heads, s.key_dim, true);
  if (a.log_sum && is_delta(a)) refuse(who, "log_sum is given with beta, want transition");
  if (a.before && is_delta(a)) refuse(who, "before is true with beta, want false: no delta kind has a bonus");
  if (a.transition) check_linear(who, "transition", a.transition, s.batch, s.heads, s.key_dim, s.key_dim);
  check_log_sum(who, a.log_sum, s);
  return s;
}

LinearSizes check(const LinearLocalArguments& a) {
  const char* who = "linear_local";
  if (a.beta && a.bonus) refuse(who, "beta and bonus are both given, want one kind: delta or RWKV6");
  const LinearSizes s = linear_sizes(who, "q", a.q, a.log_decay, a.beta, last_extent(a.v));
  check_linear(who, "k", a.k, s.batch, s.tokens, s.heads, s.key_dim, true);
  check_values(who, "v", a.v, s);
  check_values(who, "out", a.out, s);
  check_f32(who, "out", a.out);
  check_bonus(who, a.bonus, s);
  if (a.state) check_state(who, "state", a.state, s);
  return s;
}

LinearSizes check(const LinearEnterArguments& a) {
  const char* who = "linear_enter";
  const LinearSizes s = linear_sizes(who, "q", a.q, a.log_decay, {}, last_extent(a.out));
  check_values(who, "out", a.out, s);
  check_f32(who, "out", a.out);
  if (a.transposed && a.log_decay) refuse(who, "log_decay is given and transposed is true, want one of them");
  check_linear(who, "state", a.state, s.batch, s.heads, a.transposed ? s.value_dim : s.key_dim, a.transposed ? s.key_dim : s.value_dim);
  return s;
}

struct LocalBuffers {
  LocalBuffers(Scratch& scratch, const LinearSizes& s, std::int64_t chunks, bool is_delta)
      : tables(scratch, s, chunks, Tables::keys_bit | Tables::queries_bit | Tables::total_bit | Tables::ratio_bit),
        carry(scratch.take(s.state_floats())),
        delta(scratch, s, is_delta ? chunks : 0),
        scores(scratch.take(s.num_runs() * chunks * chunk_tokens * chunk_tokens)),
        states(scratch.take(s.state_floats() * chunks)) {}
  Tables tables;
  float* carry;  // (B H, Dk, Dv) between segments
  DeltaBuffers delta;
  float *scores, *states;
};
SegmentBytes local_bytes(const LinearSizes& s, bool is_delta) {
  return [=](std::int64_t chunks) {
    Scratch count;
    (void)LocalBuffers(count, s, chunks, is_delta);
    return count.used();
  };
}

struct EnterBuffers {
  EnterBuffers(Scratch& scratch, const LinearSizes& s, std::int64_t chunks)
      : tables(scratch, s, chunks, Tables::queries_bit | Tables::log_total_bit | Tables::carry_bit),
        sums(scratch.take<double>(s.num_runs() * s.width)) {}
  Tables tables;
  double* sums;
};
SegmentBytes enter_bytes(const LinearSizes& s) {
  return [=](std::int64_t chunks) {
    Scratch count;
    (void)EnterBuffers(count, s, chunks);
    return count.used();
  };
}

}  // namespace

WorkspaceNeed workspace_need(const LinearSummaryArguments& a) {
  const LinearSizes s = check(a);
  return workspace_need(s, summary_bytes(s, is_delta(a), false));
}
WorkspaceNeed workspace_need(const LinearSummaryBackwardArguments& a) {
  const LinearSizes s = check(a);
  return workspace_need(s, summary_bytes(s, is_delta(a), true));
}
WorkspaceNeed workspace_need(const LinearLocalArguments& a) {
  const LinearSizes s = check(a);
  return workspace_need(s, local_bytes(s, static_cast<bool>(a.beta)));
}
WorkspaceNeed workspace_need(const LinearEnterArguments& a) {
  const LinearSizes s = check(a);
  return workspace_need(s, enter_bytes(s));
}

// state <- diag(exp(g_C)) state + K^^T u, u = v, or U - W state. The transition goes the same way from the identity on, without v.
void linear_summary(const LinearSummaryArguments& a, DeviceMemory workspace, Stream stream) {
  const char* who = "linear_summary";
  const LinearSizes s = check(a);
  const bool delta_rule = is_delta(a);
  const std::int64_t chunks = segment_chunks(who, s, summary_bytes(s, delta_rule, false), workspace);
  if (is_empty(s)) return;
  Scratch scratch(workspace.data);
  const SummaryBuffers buffers(scratch, s, chunks, delta_rule, false);
  if (s.tokens == 0) write_empty(who, s, a.state, a.transition, stream);
  for_each_segment(who, s, chunks, false, stream, [&](const LinearSegment& segment) {
    const LinearSegment::Decays decays{buffers.tables, a.log_decay};
    segment.make(buffers.tables, a.log_decay, false);
    if (segment.is_first() && s.width > 0) segment.zero(buffers.sums, static_cast<std::size_t>(s.num_runs() * s.width) * sizeof(double));
    if (s.width > 0) segment.scan(buffers.tables.log_total, s.width, nullptr, buffers.sums);
    const ChunkMatrix leaving = segment.decayed(segment.tokens(a.k), buffers.tables.keys);
    SweepProblem p = sweep_of(s, s.value_dim);
    p.total = buffers.tables.total;
    p.final = LinearSegment::state(a.state);
    if (!segment.is_first()) p.initial = p.final;
    if (delta_rule) {
      const DeltaBuffers& delta = buffers.delta;
      prepare_delta(segment, s, decays, a.k, a.beta, delta);
      segment.product({{.a = segment.pairs(delta.solve), .b = segment.tokens(a.v)}}, segment.rows(delta.u, s.value_dim));
      p.p = segment.rows(delta.w, s.key_dim), p.sign = -1, p.middle = segment.rows(delta.u, s.value_dim);
      p.a2 = leaving;
    } else {
      p.a1 = leaving, p.b1 = segment.tokens(a.v);
    }
    segment.launch(launch_sweep, p);
    if (!a.transition) return;
    p.width = p.key_dim, p.middle = {}, p.final = LinearSegment::state(a.transition);
    p.initial = segment.is_first() ? ChunkMatrix{} : p.final, p.identity = segment.is_first();
    segment.launch(launch_sweep, p);
  });
  write_log_sum(who, s, buffers.sums, a.log_sum, stream);
}

// From the last chunk to the first: X <- diag(exp(g_C)) X + scale Q~^T dout, and for delta kinds - W^T dU, dU = scale A^T dout + K^ X.
void linear_summary_backward(const LinearSummaryBackwardArguments& a, DeviceMemory workspace, Stream stream) {
  const char* who = "linear_summary_backward";
  const LinearSizes s = check(a);
  const bool delta_rule = is_delta(a);
  const std::int64_t chunks = segment_chunks(who, s, summary_bytes(s, delta_rule, true), workspace);
  if (is_empty(s)) return;
  Scratch scratch(workspace.data);
  const SummaryBuffers buffers(scratch, s, chunks, delta_rule, true);
  if (s.tokens == 0) write_empty(who, s, a.dstate, a.transition, stream);
  for_each_segment(who, s, chunks, true, stream, [&](const LinearSegment& segment) {
    const LinearSegment::Decays decays{buffers.tables, a.log_decay, a.before};
    segment.make(buffers.tables, a.log_decay, a.before);
    if (segment.is_last() && s.width > 0) segment.zero(buffers.sums, static_cast<std::size_t>(s.num_runs() * s.width) * sizeof(double));
    if (s.width > 0) segment.scan(buffers.tables.log_total, s.width, nullptr, buffers.sums);
    const ChunkMatrix dout = segment.tokens(a.dout, a.scale);
    SweepProblem p = sweep_of(s, s.value_dim);
    p.backwards = true, p.total = buffers.tables.total;
    p.final = LinearSegment::state(a.dstate);
    if (!segment.is_last()) p.initial = p.final;
    p.a1 = segment.decayed(segment.tokens(a.q), buffers.tables.queries), p.b1 = dout;
    if (delta_rule) {
      const DeltaBuffers& delta = buffers.delta;
      prepare_delta(segment, s, decays, a.k, a.beta, delta);
      segment.scores(decays, segment.tokens(a.k), {{segment.tokens(a.q), buffers.scores}});
      segment.product({{.a = segment.pairs(buffers.scores), .b = dout, .turn_a = true}}, segment.rows(delta.u, s.value_dim));
      p.p = segment.decayed(segment.tokens(a.k), buffers.tables.keys), p.middle = segment.rows(delta.u, s.value_dim);
      p.a2 = segment.rows(delta.w, s.key_dim), p.sign2 = -1;
    }
    segment.launch(launch_sweep, p);
    if (!a.transition) return;
    p.width = p.key_dim, p.a1 = p.b1 = p.middle = {}, p.final = LinearSegment::state(a.transition);
    p.initial = segment.is_last() ? ChunkMatrix{} : p.final, p.identity = segment.is_last();
    segment.launch(launch_sweep, p);
  });
  write_log_sum(who, s, buffers.sums, a.log_sum, stream);
}

// out = scale (Q~ S + A u), A = scores(q, k), S what enters each chunk.
void linear_local(const LinearLocalArguments& a, DeviceMemory workspace, Stream stream) {
  const char* who = "linear_local";
  const LinearSizes s = check(a);
  const bool is_delta = static_cast<bool>(a.beta), before = static_cast<bool>(a.bonus);
  const std::int64_t chunks = segment_chunks(who, s, local_bytes(s, is_delta), workspace);
  if (is_empty(s)) return;
  Scratch scratch(workspace.data);
  const LocalBuffers buffers(scratch, s, chunks, is_delta);
  for_each_segment(who, s, chunks, false, stream, [&](const LinearSegment& segment) {
    const LinearSegment::Decays decays{buffers.tables, a.log_decay, before};
    segment.make(buffers.tables, a.log_decay, before);
    const ChunkMatrix q = segment.tokens(a.q, a.scale), k = segment.tokens(a.k), leaving = segment.decayed(k, buffers.tables.keys);
    ChunkMatrix updates = segment.tokens(a.v);
    SweepProblem p = sweep_of(s, s.value_dim);
    p.total = buffers.tables.total, p.states = buffers.states;
    p.initial = segment.is_first() ? LinearSegment::state(a.state) : segment.state(buffers.carry, s.key_dim, s.value_dim);
    if (!segment.is_last()) p.final = segment.state(buffers.carry, s.key_dim, s.value_dim);
    if (is_delta) {
      const DeltaBuffers& delta = buffers.delta;
      prepare_delta(segment, s, decays, a.k, a.beta, delta);
      updates = segment.rows(delta.u, s.value_dim);
      segment.product({{.a = segment.pairs(delta.solve), .b = segment.tokens(a.v)}}, updates);
      p.p = segment.rows(delta.w, s.key_dim), p.sign = -1, p.middle = p.mid = updates;
      p.a2 = leaving;
    } else {
      p.a1 = leaving, p.b1 = updates;
    }
    segment.launch(launch_sweep, p);
    segment.scores(decays, k, {{q, buffers.scores}});
    if (a.bonus) {
      BonusProblem bonus;
      bonus.q = q, bonus.k = k, bonus.bonus = a.bonus.as<float>(), bonus.bonus_head = a.bonus.stride(2), bonus.pairs = buffers.scores;
      segment.launch(launch_bonus, bonus);
    }
    segment.product({{.a = segment.decayed(q, buffers.tables.queries), .b = segment.states(buffers.states, s.key_dim, s.value_dim)},
                     {.a = segment.pairs(buffers.scores), .b = updates}},
                    segment.tokens(a.out));
  });
}

// With G the sum before a chunk: out_t += state^T (scale exp(G + g_t) q_t).
void linear_enter(const LinearEnterArguments& a, DeviceMemory workspace, Stream stream) {
  const char* who = "linear_enter";
  const LinearSizes s = check(a);
  const std::int64_t chunks = segment_chunks(who, s, enter_bytes(s), workspace);
  if (is_empty(s)) return;
  Scratch scratch(workspace.data);
  const EnterBuffers buffers(scratch, s, chunks);
  for_each_segment(who, s, chunks, false, stream, [&](const LinearSegment& segment) {
    if (s.width > 0) {
      if (segment.is_first()) segment.zero(buffers.sums, static_cast<std::size_t>(s.num_runs() * s.width) * sizeof(double));
      Tables sums = buffers.tables;  // at first only the sums of chunks
      sums.queries = nullptr, sums.carry = nullptr;
      segment.make(sums, a.log_decay, a.before);
      segment.scan(buffers.tables.log_total, s.width, buffers.tables.carry, buffers.sums);
      Tables factors = buffers.tables;
      factors.log_total = nullptr;
      segment.make(factors, a.log_decay, a.before);
    }
    segment.product({{.a = segment.decayed(segment.tokens(a.q, a.scale), buffers.tables.queries),
                      .b = LinearSegment::state(a.state),
                      .turn_b = a.transposed}},
                    segment.tokens(a.out), {.accumulate = true});
  });
}

}  // namespace cuda
SEQCCL_END
