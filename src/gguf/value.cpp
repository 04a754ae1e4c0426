#include "gguf/value.h"

#include <array>
#include <type_traits>
#include <utility>

namespace plumb::gguf {

std::string_view name(ValueType type) {
  static constexpr std::array<std::string_view, std::variant_size_v<Value>> names{
      "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
  return names[static_cast<std::size_t>(type)];
}

Value empty_value(ValueType type) {
  static constexpr auto makers = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::array{+[] { return Value(std::in_place_index<i>); }...};
  }
  (std::make_index_sequence<std::variant_size_v<Value>>());
  return makers[static_cast<std::size_t>(type)]();
}

Value element_of(const Array& array, std::uint64_t i) {
  return std::visit(
      [&]<class T>(const T&) -> Value {
        if constexpr (std::is_same_v<T, std::string_view>) {
          return array.strings[i];
        } else if constexpr (std::is_same_v<T, Array>) {
          return array.arrays[i];
        } else {
          return array.at<T>(i);
        }
      },
      empty_value(array.element));
}

std::size_t scalar_bytes(ValueType type) {
  return std::visit([]<class T>(const T&) { return std::is_arithmetic_v<T> ? sizeof(T) : 0; }, empty_value(type));
}

}  // namespace plumb::gguf
