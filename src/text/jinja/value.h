// The values that a chat template computes with: Python's, as far as Jinja shows them, with integers of 64 bits. Strings
// are well-formed UTF-8 and are indexed by code point. All containers but namespaces are immutable, as in Jinja's immutable
// sandbox.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/jinja/budget.h"

namespace plumb::text::jinja {

enum class Kind : std::uint8_t {
  undefined,
  none,
  boolean,
  integer,
  large,  // a JSON integer beyond 64 bits, kept as its digits: it can be shown but not computed with
  real,
  string,
  list,
  tuple,
  range,
  view,  // the result of dict.keys(), .values() and .items()
  dict,
  iterator,
  name_space,
  callable,
  loop,
};

class Value;
class Runtime;

// The base of values on the heap. `depth` is the nesting of containers inside: it bounds every recursion over values,
// including their destruction.
class Object {
 public:
  Object(Budget& budget, std::size_t bytes, std::uint32_t depth);
  virtual ~Object() { budget_.give(bytes_); }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  std::uint32_t depth() const { return depth_; }

 protected:
  void grow(std::size_t bytes) {
    budget_.take(bytes);
    bytes_ += bytes;
  }

 private:
  Budget& budget_;
  std::size_t bytes_;
  std::uint32_t depth_;
};

struct String;
struct Dict;
struct Namespace;
class Iterator;
struct Callable;
class Loop;

class Value {
 public:
  Value() : kind_(Kind::none) {}
  static Value boolean(bool value);
  static Value integer(std::int64_t value);
  static Value real(double value);
  Value(Kind kind, std::shared_ptr<Object> object) : kind_(kind), object_(std::move(object)) {}

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::undefined; }
  bool is_none() const { return kind_ == Kind::none; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_sequence() const { return kind_ == Kind::list || kind_ == Kind::tuple; }
  bool has_items() const { return is_sequence() || kind_ == Kind::range || kind_ == Kind::view; }
  // bool is an int, as in Python.
  bool is_integer() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }
  bool is_number() const { return is_integer() || kind_ == Kind::real; }

  bool as_boolean() const { return number_.integer != 0; }
  std::int64_t as_integer() const { return number_.integer; }
  double as_real() const { return number_.real; }
  const std::string& text() const;
  const String& string() const;
  const std::vector<Value>& items() const;
  const std::string& name() const;  // of a range, a view or an undefined value
  const Dict& dict() const;
  Namespace& name_space() const;
  Iterator& iterator() const;
  const Callable& callable() const;
  Loop& loop() const;

  const std::shared_ptr<Object>& object() const { return object_; }
  std::uint32_t depth() const { return object_ ? object_->depth() : 0; }

 private:
  union Number {
    std::int64_t integer;
    double real;
  };
  Kind kind_;
  Number number_{0};
  std::shared_ptr<Object> object_;
};

// `safe` and `escape` mark a string as HTML. When + adds another string to a marked one, the other is escaped first, as
// some templates expect. The results of all other operations are not marked.
struct String : Object {
  String(Budget& budget, std::string content, bool is_html = false);
  const std::string text;
  const bool marked;
  const std::size_t length;  // code points
};

// A list, a tuple, a range or a view. The name is Python's text of a range, the type of a view, or "group" for the tuples
// of `groupby`, whose two items have names too.
struct Sequence : Object {
  Sequence(Budget& budget, std::vector<Value> values, std::string shown);
  const std::vector<Value> items;
  const std::string name;
};

// Insertion-ordered, keys compared as Python does (1, 1.0 and True are one key).
struct Dict : Object {
  using Entry = std::pair<Value, Value>;
  Dict(Runtime& runtime, std::vector<Entry> pairs);
  std::vector<Entry> entries;
  const Value* find(Runtime& runtime, const Value& key) const;
  const Value* find(std::string_view key) const;

 private:
  std::optional<std::uint32_t> index_of(Runtime& runtime, const Value& key) const;

  std::unordered_multimap<std::size_t, std::uint32_t> index_;
};

// The message is the error for using the value.
struct Undefined : Object {
  Undefined(Budget& budget, std::string what)
      : Object(budget, sizeof(Undefined) + what.size(), 0), message(std::move(what)) {}
  const std::string message;
};

struct Namespace : Object {
  explicit Namespace(Budget& budget) : Object(budget, sizeof(Namespace), 0) {}
  std::vector<std::pair<std::string, Value>> attributes;  // in the order of their first assignment
  const Value* find(std::string_view name) const;
  void set(std::string_view name, Value value);

 private:
  std::unordered_map<std::string, std::size_t> index_;
};

// A sequence that can be read once. A function gives the next value.
class Iterator : public Object {
 public:
  using Body = std::function<std::optional<Value>(Runtime&)>;
  Iterator(Budget& budget, std::uint32_t depth, Body body)
      : Object(budget, sizeof(Iterator), depth), body_(std::move(body)) {}
  std::optional<Value> next(Runtime& runtime);

 private:
  Body body_;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Callable : Object {
  using Body = std::function<Value(Runtime&, Arguments&)>;
  Callable(Budget& budget, std::uint32_t depth, std::string shown, Body body)
      : Object(budget, sizeof(Callable) + shown.size(), depth), shown_as(std::move(shown)), call(std::move(body)) {}
  const std::string shown_as;
  const Body call;
};

// Counts the C++ recursion that a template causes, and fails before the stack overflows.
class DepthGuard {
 public:
  explicit DepthGuard(Runtime& runtime);
  ~DepthGuard();
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Runtime& runtime_;
};

// The context of all operations on values: the budget, the depth of recursion, the clock.
class Runtime {
 public:
  Runtime(const TemplateLimits& limits, std::chrono::system_clock::time_point now) : budget(limits), now_(now) {}
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  Budget budget;
  std::uint32_t depth = 0;

  Value string(std::string text);
  Value string(std::string_view text) { return string(std::string(text)); }
  Value string(const char* text) { return string(std::string(text)); }
  Value marked(std::string text);
  Value list(std::vector<Value> items) { return sequence(Kind::list, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(Kind::tuple, std::move(items)); }
  Value sequence(Kind kind, std::vector<Value> items, std::string name = {});
  Value dict(std::vector<Dict::Entry> entries);
  Value undefined(std::string message);
  Value name_space();
  Value iterator(std::uint32_t depth, Iterator::Body body);
  // `depth`: of the deepest value that the body keeps.
  Value callable(std::string shown, std::uint32_t depth, Callable::Body body);
  template <class T, class... Args>
  std::shared_ptr<T> make(Args&&... args) {
    return std::make_shared<T>(budget, std::forward<Args>(args)...);
  }
  // Registers a value that may refer to itself. When the run ends, `release` is called to empty it.
  void keep(std::shared_ptr<void> owner, std::function<void()> release);

  std::chrono::system_clock::time_point now() const { return now_; }

 private:
  std::chrono::system_clock::time_point now_;
  std::vector<std::pair<std::shared_ptr<void>, std::function<void()>>> kept_;
};

[[noreturn]] void fail_undefined(const Value& value);

}  // namespace plumb::text::jinja
