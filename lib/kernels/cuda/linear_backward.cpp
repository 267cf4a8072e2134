// linear_backward.cpp - gradients of a run of tokens, as launches over its segments from the last to the first.
// SPDX-License-Identifier: Apache-2.0
#include "linear_arguments.hpp"
#include "linear_delta.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

using Tables = DecayTables;
constexpr const char* who = "linear_backward";

/// One number per head, summed over batch and tokens? One token of one batch has the same extents: there strides of 0 tell.
bool is_constant(const LinearBackwardArguments& a) {
  const TensorView& d = a.dlog_decay;
  if (!d || d.geometry.num_axes != 4 || d.extent(0) != 1 || d.extent(1) != 1 || d.extent(3) != 1) return false;
  return a.q.extent(0) != 1 || a.q.extent(1) != 1 || (a.log_decay.stride(0) == 0 && a.log_decay.stride(1) == 0);
}

LinearSizes check(const LinearBackwardArguments& a) {
  if (a.beta && a.bonus) refuse(who, "beta and bonus are both given, want one kind: delta or RWKV6");
  const LinearSizes s = linear_sizes(who, "q", a.q, a.log_decay, a.beta, a.v.geometry.num_axes == 4 ? a.v.extent(3) : 0);
  check_linear(who, "k", a.k, s.batch, s.tokens, s.heads, s.key_dim, true);
  check_values(who, "v", a.v, s);
  check_values(who, "dout", a.dout, s);
  check_bonus(who, a.bonus, s);
  if (a.state) check_state(who, "state", a.state, s);
  if (a.dleaving) check_state(who, "dleaving", a.dleaving, s);
  check_linear(who, "dq", a.dq, s.batch, s.tokens, s.heads, s.key_dim, true);
  check_linear(who, "dk", a.dk, s.batch, s.tokens, s.heads, s.key_dim, true);
  check_values(who, "dv", a.dv, s);
  if (a.dbeta && !a.beta) refuse(who, "dbeta is given and beta is not, want both");
  if (a.dbeta) check_linear(who, "dbeta", a.dbeta, s.batch, s.tokens, s.heads, 1);
  if (a.dbonus && !a.bonus) refuse(who, "dbonus is given and bonus is not, want both");
  if (a.dbonus) check_linear(who, "dbonus", a.dbonus, 1, 1, s.heads, s.key_dim);
  if (!a.dlog_decay) return s;
  if (!a.log_decay && s.tokens > 0) refuse(who, "dlog_decay is given and log_decay is not, want both");
  if (!a.log_decay) return s;  // an empty run's may have no address
  const bool constant = is_constant(a);
  check_linear(who, "dlog_decay", a.dlog_decay, constant ? 1 : s.batch, constant ? 1 : s.tokens, s.heads, constant ? 1 : s.width);
  return s;
}

/// Which of the arrays an op has.
struct Kind {
  explicit Kind(const LinearBackwardArguments& a)
      : is_delta(a.beta), has_bonus(a.bonus), wants_decay(a.dlog_decay), constant(is_constant(a)), wants_bonus(a.dbonus) {}
  bool is_delta, has_bonus, wants_decay, constant, wants_bonus;
};

struct Buffers {
  Buffers(Scratch& scratch, const LinearSizes& s, std::int64_t chunks, const Kind& kind)
      : tables(scratch, s, chunks, Tables::queries_bit | Tables::keys_bit | Tables::total_bit | Tables::ratio_bit),
        delta(scratch, s, kind.is_delta ? chunks : 0) {
    const std::int64_t num_segments = chunks > 0 ? (s.num_chunks() + chunks - 1) / chunks : 0, items = s.num_runs() * chunks;
    const std::int64_t pairs = items * chunk_tokens * chunk_tokens, keys = items * chunk_tokens * s.key_dim,
                       values = items * chunk_tokens * s.value_dim;
    const bool vector = s.width > 1;
    checkpoints = scratch.take(std::max<std::int64_t>(0, num_segments - 1) * s.state_floats());
    carry = scratch.take(num_segments > 1 ? s.state_floats() : 0);
    for (float** states_of : {&states, &dstates}) *states_of = scratch.take(s.state_floats() * chunks);
    for (float** of : {&scores, &dscores}) *of = scratch.take(pairs);
    for (float** of : {&dq, &leave}) *of = scratch.take(keys);
    if (vector || kind.is_delta) column = scratch.take(keys);
    if (kind.wants_decay && !vector) dscores_raw = scratch.take(pairs);
    if (kind.is_delta) {
      row = scratch.take(keys), dgram = scratch.take(pairs);
      if (kind.wants_decay && !vector) dgram_raw = scratch.take(pairs);
      for (float** of : {&y, &du, &z, &dr}) *of = scratch.take(values);
    }
    if (kind.wants_decay) passing = scratch.take(items * s.key_dim);
    if (kind.constant) sums = scratch.take<double>(items), shares = scratch.take<double>(s.num_runs());
    if (kind.wants_bonus) dbonus = scratch.take<double>(items * s.key_dim), bonus_shares = scratch.take<double>(s.num_runs() * s.key_dim);
  }
  Tables tables;
  DeltaBuffers delta;
  float *checkpoints = nullptr, *carry = nullptr;    // states that enter segments but the first; dstate between segments
  float *states = nullptr, *dstates = nullptr;       // (items, Dk, Dv) entering each chunk; of the state that leaves it
  float* scores = nullptr;                           // (items, C, C)
  float *dscores = nullptr, *dscores_raw = nullptr;  // with r(t,i) of a scalar gate, and without
  float *dgram = nullptr, *dgram_raw = nullptr;
  float *dq = nullptr, *leave = nullptr, *row = nullptr, *column = nullptr;  // (items, C, Dk); dk = leave + row + column
  float *y = nullptr, *du = nullptr, *z = nullptr, *dr = nullptr;            // (items, C, Dv)
  float* passing = nullptr;                                                  // (items, Dk)
  double *sums = nullptr, *shares = nullptr, *dbonus = nullptr, *bonus_shares = nullptr;
};
SegmentBytes bytes_of(const LinearSizes& s, const Kind& kind) {
  return [=](std::int64_t chunks) {
    Scratch count;
    (void)Buffers(count, s, chunks, kind);
    return count.used();
  };
}

/// The gradients of one run in every batch row and head. With S the state that enters a chunk, X the gradient of the state that leaves it,
/// dO = scale dout, u = v or what the delta rule makes of it, A = scores(q, k), dA = dO u^T below the diagonal:
///
///     enter_t = exp(g_t) (dO S^T)_t      leave_i = exp(g_C - g_i) (u X^T)_i
///     dq = enter + dA k                  dk = leave + dA^T q             (with r(t,i), and what a token does for itself)
///
/// and for the delta kinds, Z = N^T dU, dU = A^T dO + K^ X, dR = diag(beta) Z, dG = -dR u^T below the diagonal:
///
///     dv = dR    dbeta_t = z_t y_t, y = v - K~ S - G u    dk += -exp(g) (dR S^T) + dG k + dG^T k
class RunGradients {
 public:
  RunGradients(const LinearBackwardArguments& a, const LinearSizes& s, const Kind& kind, const Buffers& buffers, std::int64_t chunks,
               Stream stream)
      : a_(a), s_(s), kind_(kind), b_(buffers), chunks_(chunks), stream_(stream) {}

  void run() {
    const std::int64_t num_segments = (s_.num_chunks() + chunks_ - 1) / chunks_;
    for (std::int64_t n = 0; n + 1 < num_segments; ++n) {
      const LinearSegment segment(who, s_, chunks_, n, stream_);
      prepare(segment);
      forward(segment, n, nullptr, checkpoint(segment, n + 1));
    }
    for (std::int64_t n = num_segments - 1; n >= 0; --n) backward(LinearSegment(who, s_, chunks_, n, stream_), n);
  }

 private:
  [[nodiscard]] LinearSegment::Decays decays() const { return {b_.tables, a_.log_decay, kind_.has_bonus}; }
  /// The state that enters segment n.
  [[nodiscard]] ChunkMatrix checkpoint(const LinearSegment& segment, std::int64_t n) const {
    return n == 0 ? LinearSegment::state(a_.state) : segment.state(b_.checkpoints + (n - 1) * s_.state_floats(), s_.key_dim, s_.value_dim);
  }
  [[nodiscard]] SweepProblem sweep() const {
    SweepProblem p;
    p.key_dim = static_cast<std::int32_t>(s_.key_dim), p.width = static_cast<std::int32_t>(s_.value_dim);
    p.total = b_.tables.total, p.total_width = static_cast<std::int32_t>(s_.width);
    return p;
  }
  [[nodiscard]] ChunkMatrix updates(const LinearSegment& segment) const {
    return kind_.is_delta ? segment.rows(b_.delta.u, s_.value_dim) : segment.tokens(a_.v);
  }
  void prepare(const LinearSegment& segment) const {
    segment.make(b_.tables, a_.log_decay, kind_.has_bonus);
    if (!kind_.is_delta) return;
    prepare_delta(segment, s_, decays(), a_.k, a_.beta, b_.delta);
    segment.product({{.a = segment.pairs(b_.delta.solve), .b = segment.tokens(a_.v)}}, updates(segment));
  }
  void forward(const LinearSegment& segment, std::int64_t n, float* states, const ChunkMatrix& final) const {
    SweepProblem p = sweep();
    p.initial = checkpoint(segment, n), p.final = final, p.states = states;
    const ChunkMatrix leaving = segment.decayed(segment.tokens(a_.k), b_.tables.keys);
    if (kind_.is_delta) {
      p.p = segment.rows(b_.delta.w, s_.key_dim), p.sign = -1, p.middle = p.mid = updates(segment);
      p.a2 = leaving;
    } else {
      p.a1 = leaving, p.b1 = updates(segment);
    }
    segment.launch(launch_sweep, p);
  }

  void backward(const LinearSegment& segment, std::int64_t n) const {
    const ChunkMatrix q = segment.tokens(a_.q), k = segment.tokens(a_.k), dout = segment.tokens(a_.dout, a_.scale), u = updates(segment);
    const ChunkMatrix entering_q = segment.decayed(q, b_.tables.queries), leaving_k = segment.decayed(k, b_.tables.keys);
    const ChunkMatrix states = segment.states(b_.states, s_.key_dim, s_.value_dim),
                      dstates = segment.states(b_.dstates, s_.key_dim, s_.value_dim);
    const ChunkMatrix scores = segment.pairs(b_.scores);
    const auto values = [&](float* x) { return segment.rows(x, s_.value_dim); };
    const auto keys = [&](float* x) { return segment.rows(x, s_.key_dim); };
    prepare(segment);
    forward(segment, n, b_.states, {});

    // A; gradients of states; dv
    segment.scores(decays(), k, {{q, b_.scores}});
    if (kind_.has_bonus) add_bonus(segment, q, k);
    SweepProblem p = sweep();
    p.backwards = true, p.states = b_.dstates;
    p.initial = segment.is_last() ? LinearSegment::state(a_.dleaving) : segment.state(b_.carry, s_.key_dim, s_.value_dim);
    if (!segment.is_first()) p.final = segment.state(b_.carry, s_.key_dim, s_.value_dim);
    p.a1 = entering_q, p.b1 = dout;
    if (kind_.is_delta) {
      segment.product({{.a = scores, .b = dout, .turn_a = true}}, values(b_.du));
      p.p = leaving_k, p.middle = p.mid = values(b_.du), p.a2 = keys(b_.delta.w), p.sign2 = -1;
    }
    segment.launch(launch_sweep, p);
    if (kind_.is_delta)
      updates_backward(segment, states, dout);
    else
      segment.product({{.a = leaving_k, .b = dstates}, {.a = scores, .b = dout, .turn_a = true}}, segment.tokens(a_.dv));

    // Through states.
    const LinearSegment::Options by_queries{.factor = b_.tables.queries, .factor_width = s_.width},
        by_keys{.factor = b_.tables.keys, .factor_width = s_.width};
    segment.product({{.a = dout, .b = states, .turn_b = true}}, keys(b_.dq), by_queries);
    segment.product({{.a = u, .b = dstates, .turn_b = true}}, keys(b_.leave), by_keys);
    if (kind_.is_delta) segment.product({{.a = values(b_.dr), .b = states, .turn_b = true, .sign = -1}}, keys(b_.row), by_queries);

    // Through pairs of tokens.
    segment.weigh_pairs(decays(), {.a = dout, .b = u, .turn_b = true}, b_.dscores, b_.dscores_raw);
    if (kind_.is_delta) segment.weigh_pairs(decays(), {.a = values(b_.dr), .b = u, .turn_b = true, .sign = -1}, b_.dgram, b_.dgram_raw);
    if (kind_.wants_decay) segment.dots(states, dstates, one_column(segment, b_.passing, s_.key_dim));
    if (kind_.wants_decay && s_.width == 1) decay_backward(segment);
    float* const column = b_.column != nullptr ? b_.column : b_.leave;
    if (b_.column != nullptr)
      segment.zero(column, static_cast<std::size_t>(segment.num_items() * chunk_tokens * s_.key_dim) * sizeof(float));
    segment.add_pairs(decays(), b_.dscores, k, q, b_.dq, column);
    if (kind_.is_delta) segment.add_pairs(decays(), b_.dgram, k, k, b_.row, column);
    if (kind_.wants_decay && s_.width > 1) decay_backward(segment);

    FinishProblem f;
    f.key_dim = static_cast<std::int32_t>(s_.key_dim), f.value_dim = static_cast<std::int32_t>(s_.value_dim);
    f.q = q, f.k = k, f.v = u, f.dout = dout, f.has_diagonal = true;
    if (kind_.has_bonus) f.bonus = a_.bonus.as<float>(), f.bonus_head = a_.bonus.stride(2);
    f.dq_part = b_.dq, f.dk_parts[0] = b_.leave, f.dk_parts[1] = b_.row, f.dk_parts[2] = b_.column;
    f.dv_part = b_.dr;
    f.dq = segment.tokens(a_.dq), f.dk = segment.tokens(a_.dk), f.dv = segment.tokens(a_.dv);
    f.dbonus = b_.dbonus;
    segment.launch(launch_finish, f);
    if (kind_.wants_bonus) share(segment, b_.dbonus, s_.key_dim, b_.bonus_shares, a_.dbonus);
  }

  /// The delta rule, from dU on: dR, dbeta.
  void updates_backward(const LinearSegment& segment, const ChunkMatrix& states, const ChunkMatrix&) const {
    const auto values = [&](float* x) { return segment.rows(x, s_.value_dim); };
    segment.product({{.a = segment.pairs(b_.delta.solve), .b = values(b_.du), .turn_a = true}}, values(b_.dr));
    if (!a_.dbeta) return;
    segment.product({{.a = segment.pairs(b_.delta.inverse), .b = values(b_.du), .turn_a = true}}, values(b_.z));
    segment.product({{.a = segment.decayed(segment.tokens(a_.k), b_.tables.queries), .b = states, .sign = -1},
                     {.a = segment.pairs(b_.delta.gram), .b = updates(segment), .sign = -1}},
                    values(b_.y), {.plus = segment.tokens(a_.v)});
    segment.dots(values(b_.z), values(b_.y), segment.tokens(a_.dbeta));
  }

  void add_bonus(const LinearSegment& segment, const ChunkMatrix& q, const ChunkMatrix& k) const {
    BonusProblem p;
    p.q = q, p.k = k, p.bonus = a_.bonus.as<float>(), p.bonus_head = a_.bonus.stride(2), p.pairs = b_.scores;
    segment.launch(launch_bonus, p);
  }

  void decay_backward(const LinearSegment& segment) const {
    DecayGradient p{segment.decay_problem(a_.log_decay, kind_.has_bonus)};
    p.key_dim = static_cast<std::int32_t>(s_.key_dim);
    p.total = b_.tables.total;
    p.q = segment.tokens(a_.q), p.k = segment.tokens(a_.k);
    p.passing = b_.passing, p.leave = b_.leave, p.x = b_.dq, p.plus = b_.row;
    if (s_.width == 1) {
      p.weights[0] = b_.scores, p.gradients[0] = b_.dscores_raw;
      if (kind_.is_delta) p.weights[1] = b_.delta.gram, p.gradients[1] = b_.dgram_raw;
    } else {
      p.minus = b_.column;
    }
    if (!kind_.constant) {
      const ChunkMatrix to = segment.tokens(a_.dlog_decay);
      p.to = static_cast<float*>(to.data), p.to_batch = to.batch, p.to_token = to.row, p.to_head = to.head;
    }
    p.sums = b_.sums;
    segment.launch(launch_decay_gradient, p);
    if (kind_.constant) share(segment, b_.sums, 1, b_.shares, a_.dlog_decay);
  }

  /// Adds up what chunks have, and behind the last of them over the batch.
  void share(const LinearSegment& segment, const double* values, std::int64_t width, double* sums, const TensorView& to) const {
    if (segment.is_last()) segment.zero(sums, static_cast<std::size_t>(s_.num_runs() * width) * sizeof(double));
    segment.scan(values, width, nullptr, sums);
    if (!segment.is_first()) return;
    ShareProblem p;
    p.batch = static_cast<std::int32_t>(s_.batch), p.heads = static_cast<std::int32_t>(s_.heads),
    p.width = static_cast<std::int32_t>(width);
    p.sums = sums, p.to = to.as<float>(), p.to_head = to.stride(2), p.add = a_.add_constant;
    require_launch(who, launch_shares(p, stream_));
  }

  static ChunkMatrix one_column(const LinearSegment& segment, float* x, std::int64_t num_rows) { return segment.states(x, num_rows, 1); }

  const LinearBackwardArguments& a_;
  const LinearSizes& s_;
  const Kind& kind_;
  const Buffers& b_;
  std::int64_t chunks_;
  Stream stream_;
};

}  // namespace

WorkspaceNeed workspace_need(const LinearBackwardArguments& a) {
  const LinearSizes s = check(a);
  return workspace_need(s, bytes_of(s, Kind(a)));
}

void linear_backward(const LinearBackwardArguments& a, DeviceMemory workspace, Stream stream) {
  const LinearSizes s = check(a);
  const Kind kind(a);
  const std::int64_t chunks = segment_chunks(who, s, bytes_of(s, kind), workspace);
  for (const TensorView& share : {kind.constant ? a.dlog_decay : TensorView{}, a.dbonus})
    if (share && (s.num_runs() == 0 || s.tokens == 0) && !a.add_constant) zero(share, stream);  // of no tokens
  if (s.num_runs() == 0 || s.tokens == 0) return;
  Scratch scratch(workspace.data);
  const Buffers buffers(scratch, s, chunks, kind);
  RunGradients(a, s, kind, buffers, chunks, stream).run();
}

}  // namespace cuda
SEQCCL_END
