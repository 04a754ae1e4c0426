// Calls of functions, and the parameters of a built-in function, filled in from a call's arguments.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

Value call(Runtime& runtime, const Value& callee, Arguments& arguments);

class Parameters {
 public:
  // The first `required` names must be given.
  Parameters(const char* function, Arguments& arguments, std::initializer_list<const char*> names,
             std::size_t required = 0);
  bool has(std::size_t index) const { return values_[index].has_value(); }
  const Value& operator[](std::size_t index) const { return *values_[index]; }
  // The given value, or None: for parameters whose default is None.
  Value or_none(std::size_t index) const { return values_[index].value_or(Value()); }
  bool flag(Runtime& runtime, std::size_t index, bool otherwise) const;
  std::int64_t integer(std::size_t index, std::int64_t otherwise) const;

 private:
  static constexpr std::size_t most = 8;
  const char* function_;
  std::array<std::optional<Value>, most> values_;
};

}  // namespace plumb::text::jinja
