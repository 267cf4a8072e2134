// matrix.cpp - ldmatrix and mma.sync: tiles spread over the lanes of a warp.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/access.hpp"
#include "ptx/typed.hpp"

namespace ptx {
namespace {

// Lane 4 g + t holds elements (g, 2t) and (g, 2t + 1) of an 8x8 tile of halves; transposed: (2t, g) and (2t + 1, g).
// slots: count registers, address. Lanes 8 m ... 8 m + 7 have the addresses of the rows of tile m. mode 1: transposed.
void load_tiles(Warp& w, const Instruction& i, LaneMask lanes) {
  std::array<u64, num_lanes> addresses{};
  std::array<std::array<std::array<u16, 8>, 8>, 4> tiles;
  LaneMask used = 0;
  for (int lane = 0; lane < 8 * i.count; ++lane) {
    const auto l = static_cast<std::size_t>(lane);
    const Place place = place_of(i.space, w.get<u64>(i.slot[i.count], lane) + static_cast<u64>(i.offset));
    if (place.space != Space::shared) w.block->run->fault(Finding::out_of_bounds, w, i, lane, "ldmatrix from memory that is not shared");
    std::memcpy(tiles[l / 8][l % 8].data(), access(w, i, lane, place, 16, Touch::read), 16);
    addresses[l] = place.address;
    used |= LaneMask{1} << lane;
  }
  count_access(w, i, used, Space::shared, addresses, 16);
  each_lane(lanes, [&](int lane) {
    const std::size_t g = static_cast<std::size_t>(lane) / 4, t = static_cast<std::size_t>(lane) % 4 * 2;
    for (std::size_t n = 0; n < i.count; ++n) {
      const auto& tile = tiles[n];
      const u32 low = i.mode == 1 ? tile[t][g] : tile[g][t], high = i.mode == 1 ? tile[t + 1][g] : tile[g][t + 1];
      w.put(i.slot[n], lane, low | (high << 16));
    }
  });
}

template <class Half>
float half_at(u32 pair, u32 which) {
  Half half;
  half.bits = static_cast<u16>(pair >> (16 * which));
  return static_cast<float>(half);
}

// Rows of A and columns of B as floats, K long, from the registers of all lanes.
template <std::size_t K>
struct Tiles {
  float a[16][K];
  float b[8][K];
};

// Halves: register n of A holds row g + 8 (n % 2), columns 2t + 8 (n / 2) and the next; of B column g, rows 2t + 8 n and the next.
template <class Half, std::size_t K>
void gather(const Warp& w, const Instruction& i, Tiles<K>& tiles, std::size_t a_slot, std::size_t b_slot) {
  for (int lane = 0; lane < num_lanes; ++lane) {
    const std::size_t g = static_cast<std::size_t>(lane) / 4, t = static_cast<std::size_t>(lane) % 4 * 2;
    for (std::size_t n = 0; n < K / 4; ++n) {
      const u32 pair = w.get<u32>(i.slot[a_slot + n], lane);
      for (u32 h = 0; h < 2; ++h) tiles.a[g + 8 * (n % 2)][t + 8 * (n / 2) + h] = half_at<Half>(pair, h);
    }
    for (std::size_t n = 0; n < K / 8; ++n) {
      const u32 pair = w.get<u32>(i.slot[b_slot + n], lane);
      for (u32 h = 0; h < 2; ++h) tiles.b[g][t + 8 * n + h] = half_at<Half>(pair, h);
    }
  }
}

// tf32: register n of A holds row g + 8 (n % 2), column t + 4 (n / 2); of B column g, row t + 4 n. The low 13 bits are not read.
template <std::size_t K>
void gather_tf32(const Warp& w, const Instruction& i, Tiles<K>& tiles, std::size_t a_slot, std::size_t b_slot) {
  const auto value = [&](std::size_t slot, int lane) { return std::bit_cast<float>(w.get<u32>(i.slot[slot], lane) & ~u32{0x1fff}); };
  for (int lane = 0; lane < num_lanes; ++lane) {
    const std::size_t g = static_cast<std::size_t>(lane) / 4, t = static_cast<std::size_t>(lane) % 4;
    for (std::size_t n = 0; n < K / 2; ++n) tiles.a[g + 8 * (n % 2)][t + 4 * (n / 2)] = value(a_slot + n, lane);
    for (std::size_t n = 0; n < K / 4; ++n) tiles.b[g][t + 4 * n] = value(b_slot + n, lane);
  }
}

template <std::size_t K>
float dot(const Tiles<K>& tiles, std::size_t row, std::size_t column, float sum) {
  for (std::size_t k = 0; k < K; ++k) sum += tiles.a[row][k] * tiles.b[column][k];
  return sum;
}

// D = A B + C with f32 sums in order of k. Register n of C and D holds row g + 8 (n / 2), column 2t + n % 2.
template <class Element, std::size_t K>
void multiply(Warp& w, const Instruction& i, LaneMask lanes) {
  constexpr bool tf32 = std::is_same_v<Element, float>;
  constexpr std::size_t num_a = tf32 ? K / 2 : K / 4, num_b = num_a / 2, a_slot = 4, b_slot = a_slot + num_a, c_slot = b_slot + num_b;
  Tiles<K> tiles;
  if constexpr (tf32) {
    gather_tf32(w, i, tiles, a_slot, b_slot);
  } else {
    gather<Element>(w, i, tiles, a_slot, b_slot);
  }
  each_lane(lanes, [&](int lane) {
    const std::size_t g = static_cast<std::size_t>(lane) / 4, t = static_cast<std::size_t>(lane) % 4 * 2;
    std::array<float, 4> result;
    for (std::size_t n = 0; n < 4; ++n) result[n] = dot(tiles, g + 8 * (n / 2), t + n % 2, w.get<float>(i.slot[c_slot + n], lane));
    for (std::size_t n = 0; n < 4; ++n) w.put(i.slot[n], lane, result[n]);
  });
}

// The same with C and D in halves: two registers of a pair each.
template <std::size_t K>
void multiply_f16(Warp& w, const Instruction& i, LaneMask lanes) {
  constexpr std::size_t a_slot = 2, b_slot = a_slot + K / 4, c_slot = b_slot + K / 8;
  Tiles<K> tiles;
  gather<Float16>(w, i, tiles, a_slot, b_slot);
  each_lane(lanes, [&](int lane) {
    const std::size_t g = static_cast<std::size_t>(lane) / 4, t = static_cast<std::size_t>(lane) % 4 * 2;
    for (std::size_t n = 0; n < 2; ++n) {
      const u32 c = w.get<u32>(i.slot[c_slot + n], lane);
      u32 pair = 0;
      for (u32 h = 0; h < 2; ++h) pair |= u32{Float16(dot(tiles, g + 8 * n, t + h, half_at<Float16>(c, h))).bits} << (16 * h);
      w.put(i.slot[n], lane, pair);
    }
  });
}

Operation mma(const Form& form) {
  // mma.sync.aligned.shape.row.col.d.a.b.c
  const auto& parts = form.parts;
  if (parts.size() != 9 || parts[0] != "sync" || parts[1] != "aligned" || parts[3] != "row" || parts[4] != "col" || parts[6] != parts[7] ||
      parts[5] != parts[8])
    return {};
  const bool k16 = parts[2] == "m16n8k16", k8 = parts[2] == "m16n8k8", k4 = parts[2] == "m16n8k4";
  Operation made = operation(nullptr, Work::matrix, 0);
  made.writes = 4;
  made.reads = k16 ? 10 : 7;
  const std::string_view element = parts[6];
  Execute& execute = made.fields.execute;
  if (parts[5] == "f32" && element == "bf16")
    execute = k16 ? Execute{multiply<BFloat16, 16>} : k8 ? Execute{multiply<BFloat16, 8>} : nullptr;
  if (parts[5] == "f32" && element == "f16") execute = k16 ? Execute{multiply<Float16, 16>} : k8 ? Execute{multiply<Float16, 8>} : nullptr;
  if (parts[5] == "f32" && element == "tf32") {
    execute = k8 ? Execute{multiply<float, 8>} : k4 ? Execute{multiply<float, 4>} : nullptr;
    made.reads = k8 ? 10 : 7;
  }
  if (parts[5] == "f16" && element == "f16") {
    execute = k16 ? Execute{multiply_f16<16>} : k8 ? Execute{multiply_f16<8>} : nullptr;
    made.writes = 2;
    made.reads -= 2;
  }
  return made;
}

}  // namespace

Operation matrix_operation(const Form& form) {
  Operation made;
  if (form.base == "mma") {
    made = mma(form);
  } else if (form.base == "ldmatrix" && form.has("m8n8") && form.type == Type::b16) {
    made = operation(load_tiles, Work::fragment, 1);
    made.fields.count = form.has("x4") ? 4 : form.has("x2") ? 2 : 1;
    made.fields.mode = form.has("trans");
    made.fields.space = form.space;
    made.writes = made.fields.count;
  }
  if (!form.has("sync") || !form.has("aligned")) return {};
  made.fields.flow = Flow::together;
  made.fields.aligned = true;
  return made;
}

}  // namespace ptx
