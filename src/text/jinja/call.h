// Calls of functions, and the built-in ones: filters, tests, methods and global functions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

Value call(Runtime& runtime, const Value& callee, Arguments& arguments);

class Parameters;

struct Builtin {
  std::string_view name;
  // `subject` is the value to the left of a filter, a test or a method. A global function has none.
  Value (*function)(Runtime& runtime, const Value& subject, Parameters& given);
  // The parameters' names. "" can be given only by its position. "*" stands for any arguments.
  std::array<const char*, 4> parameters{};
  std::size_t required = 0;  // so many of the first parameters must be given
};

const Builtin* find_builtin(std::span<const Builtin> table, std::string_view name);  // null where there is none
Value invoke(Runtime& runtime, const Builtin& builtin, const Value& subject, Arguments& arguments);

// The parameters of a built-in function, filled in from a call's arguments.
class Parameters {
 public:
  Parameters(const Builtin& function, Arguments& arguments);
  bool has(std::size_t index) const { return values_[index].has_value(); }
  const Value& operator[](std::size_t index) const { return *values_[index]; }
  // The given value, or None: for parameters whose default is None.
  Value or_none(std::size_t index) const { return values_[index].value_or(Value()); }
  bool flag(Runtime& runtime, std::size_t index, bool otherwise) const;
  std::int64_t integer(std::size_t index, std::int64_t otherwise) const;
  const std::string& text(std::size_t index) const;
  std::string_view function() const { return function_.name; }
  Arguments& all() const { return arguments_; }  // of a function that takes any

 private:
  const Builtin& function_;
  Arguments& arguments_;
  std::array<std::optional<Value>, 4> values_;
};

}  // namespace plumb::text::jinja
