// Metadata values of a GGUF file. Strings and arrays point into the file's bytes, which must outlive them (gguf::File keeps
// them mapped); only numbers and booleans are copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace plumb::gguf {

// Type ids of metadata values, as in the file.
enum class ValueType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

// The type's name in messages and in `plumb inspect`: "u32", "string", ...
std::string_view name(ValueType type);

// Bytes of one number or boolean in the file; 0 for strings and arrays, whose sizes vary.
std::size_t scalar_bytes(ValueType type);

// How deep arrays may be nested, when read and when written. GGUF itself sets no bound.
inline constexpr int max_array_depth = 8;

// An array. Numbers and booleans stay raw little-endian bytes (unaligned); strings and nested arrays have an element each.
struct Array {
  ValueType element = ValueType::u8;
  std::uint64_t count = 0;
  std::span<const std::byte> raw;         // numbers and booleans
  std::vector<std::string_view> strings;  // element == string
  std::vector<Array> arrays;              // element == array

  // Element i of a numeric array. T must be the type in which the file stores elements.
  template <class T>
  [[nodiscard]] T at(std::uint64_t i) const {
    T value;
    std::memcpy(&value, raw.data() + i * sizeof(T), sizeof(T));
    return value;
  }
};

using Value = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t, float, bool,
                           std::string_view, Array, std::uint64_t, std::int64_t, double>;

// Element i of an array as a value of its own; an array in an array is copied.
Value element_of(const Array& array, std::uint64_t i);

inline ValueType type_of(const Value& value) { return static_cast<ValueType>(value.index()); }

// The value as a T (an integer, double or bool) where it is a number that T holds exactly. Integers may have any width; a
// double may be stored as a float or an integer, a bool as 0 or 1. A bool is no number.
template <class T>
std::optional<T> exactly(const Value& value) {
  return std::visit(
      [](const auto& held) -> std::optional<T> {
        using Held = std::decay_t<decltype(held)>;
        constexpr bool is_integer = std::is_integral_v<Held> && !std::is_same_v<Held, bool>;
        if constexpr (std::is_same_v<Held, T>) {
          return held;
        } else if constexpr (std::is_same_v<T, double> && std::is_same_v<Held, float>) {
          return static_cast<double>(held);
        } else if constexpr (std::is_same_v<T, double> && is_integer) {
          constexpr std::int64_t most = std::int64_t{1} << std::numeric_limits<double>::digits;
          if (std::cmp_less(held, -most) || std::cmp_greater(held, most)) return std::nullopt;
          return static_cast<double>(held);
        } else if constexpr (std::is_same_v<T, bool> && is_integer) {
          if (held != 0 && held != 1) return std::nullopt;
          return held == 1;
        } else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool> && is_integer) {
          if (!std::in_range<T>(held)) return std::nullopt;
          return static_cast<T>(held);
        } else {
          return std::nullopt;
        }
      },
      value);
}

// A zero or empty value of that type, by which std::visit chooses code for the type.
Value empty_value(ValueType type);

}  // namespace plumb::gguf
