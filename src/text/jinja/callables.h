// What a template can call: built-in functions, and the loop variable.
#pragma once

#include <array>
#include <initializer_list>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

class Function : public Callable {
 public:
  using Body = std::function<Value(Runtime&, Arguments&)>;
  Function(Budget& budget, std::uint32_t depth, std::string_view name, Body body)
      : Callable(budget, depth, fmt::format("<function {}>", name)), body_(std::move(body)) {}
  Value call(Runtime& runtime, Arguments& arguments) override { return body_(runtime, arguments); }

 private:
  Body body_;
};

// A Python function's parameters, filled from a call's arguments.
class Parameters {
 public:
  // The first `required` names must be given.
  Parameters(const char* function, Arguments& arguments, std::initializer_list<const char*> names,
             std::size_t required = 0);
  bool has(std::size_t index) const { return values_[index].has_value(); }
  const Value& operator[](std::size_t index) const { return *values_[index]; }
  // The value given, or None where there is none: for parameters whose default is None.
  Value or_none(std::size_t index) const { return values_[index].value_or(Value()); }
  bool flag(Runtime& runtime, std::size_t index, bool otherwise) const;
  std::int64_t integer(std::size_t index, std::int64_t otherwise) const;

 private:
  static constexpr std::size_t kMost = 8;
  const char* function_;
  std::array<std::optional<Value>, kMost> values_;
};

// A generator made of a function that gives the next value.
class Generator : public Iterator {
 public:
  using Body = std::function<std::optional<Value>(Runtime&)>;
  Generator(Budget& budget, std::uint32_t depth, Body body, const char* name = "generator")
      : Iterator(budget, depth, name), body_(std::move(body)) {}
  std::optional<Value> next(Runtime& runtime) override;

 private:
  Body body_;
};

// The `loop` variable of one running {% for %}.
class Loop : public Object {
 public:
  Loop(Budget& budget, Value iterable, std::shared_ptr<Iterator> source, std::int64_t depth0);

  bool advance(Runtime& runtime);  // to the next item; false at the end
  const Value& current() const { return current_; }
  std::int64_t index0() const { return index0_; }
  std::int64_t length(Runtime& runtime);
  std::int64_t nesting() const { return depth0_; }
  std::optional<Value> attribute(Runtime& runtime, const Value& self, std::string_view name);
  bool changed(Runtime& runtime, std::vector<Value> values);

  // Runs the loop's body over another iterable; set for recursive loops.
  std::function<Value(Runtime&, const Value& iterable, std::int64_t depth0)> recurse;

 private:
  bool peek(Runtime& runtime);

  Value iterable_;
  std::shared_ptr<Iterator> source_;
  std::int64_t depth0_;
  std::int64_t index0_ = -1;
  std::optional<std::int64_t> length_;
  Value current_;
  Value previous_;
  std::optional<Value> after_;
  std::optional<Value> last_changed_;
};

// The filter or test of that name; a null function where there is none.
using Filter = Value (*)(Runtime&, const Value& subject, Arguments& arguments);
using Test = bool (*)(Runtime&, const Value& subject, Arguments& arguments);
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);

// range, dict, namespace, cycler, joiner, raise_exception, strftime_now: the global of that name.
std::optional<Value> global(Runtime& runtime, std::string_view name);

void check_namespace_name(std::string_view name);

Value call(Runtime& runtime, const Value& callee, Arguments& arguments);

// Searches that take linear time; npos where there is none. They may take as long as copying this many times the text.
inline constexpr std::size_t kSearchWork = 16;
std::size_t find_first(std::string_view text, std::string_view needle, std::size_t from = 0);
std::size_t find_last(std::string_view text, std::string_view needle);

// Python's str methods, for the filters of the same names.
std::string replaced(Runtime& runtime, std::string_view text, std::string_view old, std::string_view fresh,
                     std::int64_t most);
std::string repeated_text(Runtime& runtime, std::string_view unit, std::int64_t times);  // none for times below 1
std::string centered(Runtime& runtime, const String& text, std::int64_t width, std::string_view fill);
std::string_view trimmed(std::string_view text);
bool is_lower(Runtime& runtime, std::string_view text);
bool is_upper(Runtime& runtime, std::string_view text);

}  // namespace plumb::text::jinja
