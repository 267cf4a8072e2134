// convert.cpp - cvt between integers and floats of all sizes, and into pairs of halves.
// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "ptx/rounding.hpp"
#include "ptx/typed.hpp"

namespace ptx {
namespace {

template <class T>
inline constexpr bool is_half = std::is_same_v<T, Float16> || std::is_same_v<T, BFloat16>;
template <class T>
inline constexpr bool is_float = is_half<T> || std::is_floating_point_v<T>;

template <class T>
double as_double(T value) {
  if constexpr (is_half<T>) {
    return static_cast<float>(value);
  } else {
    return static_cast<double>(value);
  }
}

double to_whole(double value, u8 rounding) {
  switch (rounding) {
    case 'z':
      return std::trunc(value);
    case 'm':
      return std::floor(value);
    case 'p':
      return std::ceil(value);
    default:
      return std::nearbyint(value);
  }
}

// Toward a direction in the type To: one step back from the nearest if that lies on the wrong side.
template <class To>
To narrowed(double value, u8 rounding) {
  if constexpr (std::is_same_v<To, double>) {
    return value;
  } else if constexpr (std::is_same_v<To, float>) {
    const auto nearest = static_cast<float>(value);
    if (std::isinf(nearest) && std::isfinite(value) && (rounding == 'z' || (rounding == 'm') == (value > 0)) && rounding != 'n' &&
        rounding != 0)
      return std::copysign(std::numeric_limits<float>::max(), nearest);
    return directed(nearest, value - static_cast<double>(nearest), rounding);
  } else {
    To nearest(to_odd(value));
    const double error = value - as_double(nearest);
    const bool away = as_double(nearest) > 0 ? error < 0 : error > 0;  // nearest is the larger in magnitude
    const bool toward_zero = rounding == 'z' || (rounding == 'm' && as_double(nearest) > 0) || (rounding == 'p' && as_double(nearest) < 0);
    if (away && toward_zero) --nearest.bits;
    return nearest;
  }
}

struct Convert {
  const Instruction& i;

  template <class To, class From>
  [[nodiscard]] To run(From from) const {
    if constexpr (is_float<To>) {
      if constexpr (std::is_integral_v<From> && sizeof(From) == 8 && !std::is_same_v<To, double>) {
        return To(static_cast<float>(from));  // not by way of double: one rounding
      } else if constexpr (std::is_integral_v<From> && sizeof(From) == 8) {
        return static_cast<double>(from);
      } else {
        double value = as_double(from);
        if (i.flush && std::is_same_v<From, float>) value = flushed(static_cast<float>(value));
        if (i.to_integer) value = to_whole(value, i.rounding);
        if (i.saturate) value = value > 0 ? std::fmin(value, 1.0) : 0.0;
        if (i.relu && !(value > 0) && !std::isnan(value)) value = 0;
        To result = narrowed<To>(value, i.to_integer ? u8{'n'} : i.rounding);
        if constexpr (std::is_same_v<To, float>) result = i.flush ? flushed(result) : result;
        return result;
      }
    } else if constexpr (is_float<From>) {
      const double value = to_whole(as_double(from), i.rounding);
      if (std::isnan(value)) return 0;
      constexpr To low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
      if (value <= static_cast<double>(low)) return low;
      return value >= static_cast<double>(high) ? high : static_cast<To>(value);
    } else {
      if (i.saturate) {
        constexpr To low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
        if (std::cmp_less(from, low)) return low;
        if (std::cmp_greater(from, high)) return high;
      }
      return static_cast<To>(from);
    }
  }
};

template <class To, class From>
void convert(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) { w.put(i.slot[0], lane, Convert{i}.run<To>(w.get<From>(i.slot[1], lane))); });
}

// cvt.rn.bf16x2.f32 d, a, b: a in the upper half
template <class Half>
void convert_pair(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    const Half upper = Convert{i}.run<Half>(w.get<float>(i.slot[1], lane)), lower = Convert{i}.run<Half>(w.get<float>(i.slot[2], lane));
    w.put(i.slot[0], lane, lower.bits | (u32{upper.bits} << 16));
  });
}

// tf32 keeps 10 bits of the mantissa; .rna rounds ties away from zero, .rn to even
void convert_tf32(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    const u32 bits = w.get<u32>(i.slot[1], lane);
    const bool finite = (bits & 0x7f800000) != 0x7f800000;
    const u32 half = i.mode == 1 ? 0x1000 : 0xfff + (bits >> 13 & 1);
    w.put(i.slot[0], lane, finite ? (bits + half) & ~u32{0x1fff} : bits);
  });
}

template <class Pick>
Execute for_number(Type type, Pick pick) {
  switch (type) {
    case Type::f16:
      return pick(Tag<Float16>{});
    case Type::bf16:
      return pick(Tag<BFloat16>{});
    case Type::f32:
      return pick(Tag<float>{});
    case Type::f64:
      return pick(Tag<double>{});
    default:
      return for_any_integer(type, pick);
  }
}

}  // namespace

Operation convert_operation(const Form& form) {
  if (form.base != "cvt" || form.parts.size() < 2) return {};
  Operation made = operation(nullptr, Work::convert, 1);
  Instruction& fields = made.fields;
  for (const char mode : {'n', 'z', 'm', 'p'}) {
    const std::string name = std::string("r") + mode;
    if (form.has(name)) fields.rounding = static_cast<u8>(mode);
    if (form.has(name + "i")) fields.rounding = static_cast<u8>(mode), fields.to_integer = true;
  }
  fields.saturate = form.has("sat");
  fields.relu = form.has("relu");
  fields.flush = form.has("ftz");
  const Type to = form.other_type, from = form.type;
  if (to == Type::f16x2 || to == Type::bf16x2) {
    if (from != Type::f32) return {};
    fields.execute = to == Type::f16x2 ? Execute{convert_pair<Float16>} : convert_pair<BFloat16>;
    made.reads = 2;
  } else if (to == Type::tf32) {
    if (from != Type::f32 || !(form.has("rna") || form.has("rn")) || fields.relu || fields.saturate) return {};
    fields.execute = convert_tf32;
    fields.mode = form.has("rna");
  } else {
    fields.execute = for_number(to, [&](auto t) -> Execute {
      using To = typename decltype(t)::type;
      return for_number(from, [](auto f) -> Execute { return convert<To, typename decltype(f)::type>; });
    });
  }
  return made;
}

}  // namespace ptx
