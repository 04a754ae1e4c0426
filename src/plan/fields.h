// Visits the fields of a plain struct: for_each_field(op, visit) calls visit(field) for each field, in order. The types of
// its fields are the only description of an op (plan.h), so no list of operands can be incomplete.
//
// The number of fields is the largest number of values from which the struct can be initialized. Works for structs of up to
// 14 fields, without base classes and without arrays.
#pragma once

#include <cstddef>
#include <type_traits>

namespace plumb::plan {

namespace detail {

struct AnyValue {
  template <class T>
  operator T() const;  // NOLINT(google-explicit-constructor): never called, it stands for a value of any type
};

template <class Struct, class... Values>
constexpr std::size_t count_fields() {
  if constexpr (requires { Struct{Values{}..., AnyValue{}}; }) {
    return count_fields<Struct, Values..., AnyValue>();
  } else {
    return sizeof...(Values);
  }
}

}  // namespace detail

template <class Struct>
inline constexpr std::size_t n_fields = detail::count_fields<std::remove_const_t<Struct>>();

template <class Struct, class Visit>
constexpr void for_each_field(Struct& op, const Visit& visit) {
  const auto each = [&](auto&... fields) { (visit(fields), ...); };
  // clang-format off
#define PLUMB_FIELDS(count, ...) else if constexpr (n_fields<Struct> == count) { auto& [__VA_ARGS__] = op; each(__VA_ARGS__); }
  if constexpr (n_fields<Struct> == 0) {}
  PLUMB_FIELDS(1, a)
  PLUMB_FIELDS(2, a, b)
  PLUMB_FIELDS(3, a, b, c)
  PLUMB_FIELDS(4, a, b, c, d)
  PLUMB_FIELDS(5, a, b, c, d, e)
  PLUMB_FIELDS(6, a, b, c, d, e, f)
  PLUMB_FIELDS(7, a, b, c, d, e, f, g)
  PLUMB_FIELDS(8, a, b, c, d, e, f, g, h)
  PLUMB_FIELDS(9, a, b, c, d, e, f, g, h, i)
  PLUMB_FIELDS(10, a, b, c, d, e, f, g, h, i, j)
  PLUMB_FIELDS(11, a, b, c, d, e, f, g, h, i, j, k)
  PLUMB_FIELDS(12, a, b, c, d, e, f, g, h, i, j, k, l)
  PLUMB_FIELDS(13, a, b, c, d, e, f, g, h, i, j, k, l, m)
  PLUMB_FIELDS(14, a, b, c, d, e, f, g, h, i, j, k, l, m, n)
  else static_assert(n_fields<Struct> <= 14, "a struct of more fields wants another line above");
#undef PLUMB_FIELDS
  // clang-format on
}

}  // namespace plumb::plan
