// The values that a chat template computes with: Python's, as far as Jinja shows them. Strings are valid UTF-8 and are
// indexed by code point. All containers but namespaces are immutable, as in Jinja's immutable sandbox.
//
// Inside the interpreter errors travel as a thrown Failure, which ChatTemplate turns into a Result.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/jinja/bigint.h"
#include "text/jinja/limits.h"

namespace plumb::text::jinja {

struct Failure {
  std::string message;
  std::uint32_t line = 0;  // 0: not known yet; the innermost node that sees the Failure fills it in
};

template <class... Args>
[[noreturn]] void raise(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{fmt::format(format, std::forward<Args>(args)...), 0};
}

// What a run may still use. Steps count evaluated nodes and, at kBytesAStep, the text that is read or made.
class Budget {
 public:
  static constexpr std::size_t kBytesAStep = 256;

  explicit Budget(const TemplateLimits& limits) : limits_(limits) {}

  const TemplateLimits& limits() const { return limits_; }
  void step(std::uint64_t count = 1);
  void work(std::size_t bytes) { step(bytes / kBytesAStep); }
  // Memory that live values hold. `expect` fails early for a value that is about to be made.
  void take(std::size_t bytes);
  void give(std::size_t bytes) { memory_ -= bytes; }
  void expect(std::size_t bytes) const;

 private:
  const TemplateLimits& limits_;
  std::uint64_t steps_ = 0;
  std::size_t memory_ = 0;
};

enum class Kind : std::uint8_t {
  undefined,
  none,
  boolean,
  integer,
  big,
  real,
  string,
  list,
  tuple,
  dict,
  range,
  iterator,
  dict_view,
  name_space,
  callable,
  loop,
};

class Value;
class Runtime;

// What a value on the heap has in common. `depth` is the nesting of containers below it: it bounds every recursion
// over values, including their destruction.
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
struct BigInteger;
struct Sequence;
struct Dict;
struct Range;
struct Undefined;
struct DictView;
struct Namespace;
class Iterator;
class Callable;
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
  bool is_markup() const;  // a string that is marked as HTML
  bool is_sequence() const { return kind_ == Kind::list || kind_ == Kind::tuple; }
  // bool is an int, as in Python.
  bool is_small_integer() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }
  bool is_integer() const { return is_small_integer() || kind_ == Kind::big; }
  bool is_number() const { return is_integer() || kind_ == Kind::real; }

  bool as_boolean() const { return number_.integer != 0; }
  std::int64_t as_integer() const { return number_.integer; }
  double as_real() const { return number_.real; }
  const BigInt& as_big() const;
  const std::string& text() const;
  const String& string() const;
  const std::vector<Value>& items() const;
  const Sequence& sequence() const;
  const Dict& dict() const;
  const Range& range() const;
  const Undefined& undefined() const;
  const DictView& dict_view() const;
  Namespace& name_space() const;
  Iterator& iterator() const;
  Callable& callable() const;
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

// A string that is marked as HTML (markupsafe's Markup, which `safe` and `escape` make) escapes what is added to it.
struct String : Object {
  explicit String(Budget& budget, std::string content, bool is_html = false);
  const std::string text;
  const bool markup;
  const std::size_t length;  // code points
};

struct BigInteger : Object {
  BigInteger(Budget& budget, BigInt number);
  const BigInt value;
};

// A list or a tuple. What `groupby` gives is a tuple whose two items also have names.
struct Sequence : Object {
  Sequence(Budget& budget, std::vector<Value> values, bool named_group);
  const std::vector<Value> items;
  const bool group;
};

std::size_t hash_of(Runtime& runtime, const Value& key);  // fails for values that Python does not hash

// Insertion-ordered, keys compared as Python does (1, 1.0 and True are one key).
struct Dict : Object {
  using Entry = std::pair<Value, Value>;
  Dict(Runtime& runtime, std::vector<Entry> pairs);
  std::vector<Entry> entries;
  const Value* find(Runtime& runtime, const Value& key) const;
  const Value* find(std::string_view key) const;

 private:
  std::unordered_multimap<std::size_t, std::uint32_t> index_;
};

struct Range : Object {
  static constexpr std::int64_t kLongest = 100'000;             // elements, as in Jinja's sandbox
  static constexpr std::int64_t kMost = std::int64_t{1} << 30;  // bound of start, stop and step
  // Fails where a bound is beyond kMost or there are more than kLongest elements.
  Range(Budget& budget, std::int64_t first, std::int64_t past, std::int64_t stride);
  const std::int64_t start, stop, step;
  std::int64_t size() const;
  std::int64_t at(std::int64_t index) const { return start + index * step; }
};

struct Undefined : Object {
  // With an owner: "'owner' has no attribute 'name'"; without: "'name' is undefined"; a hint replaces both.
  Undefined(Budget& budget, std::string what)
      : Object(budget, sizeof(Undefined) + what.size(), 0), message(std::move(what)) {}
  const std::string message;
};

struct DictView : Object {
  enum class Part : std::uint8_t { keys, values, items };
  DictView(Budget& budget, Value of, Part which);
  const Value owner;
  const Part part;
};

struct Namespace : Object {
  explicit Namespace(Budget& budget) : Object(budget, sizeof(Namespace), 0) {}
  std::vector<std::pair<std::string, Value>> attributes;  // in the order of their first assignment
  const Value* find(std::string_view name) const;
  void set(std::string_view name, Value value);
  void clear() {
    attributes.clear();
    index_.clear();
  }

 private:
  std::unordered_map<std::string, std::size_t> index_;
};

// Something that is walked once: generators and reversed lists.
class Iterator : public Object {
 public:
  Iterator(Budget& budget, std::uint32_t depth, const char* name) : Object(budget, 64, depth), type_name(name) {}
  virtual std::optional<Value> next(Runtime& runtime) = 0;
  const char* const type_name;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

class Callable : public Object {
 public:
  Callable(Budget& budget, std::uint32_t depth, std::string shown)
      : Object(budget, sizeof(Callable) + shown.size(), depth), shown_as(std::move(shown)) {}
  virtual Value call(Runtime& runtime, Arguments& arguments) = 0;
  virtual const char* type_name() const { return "function"; }
  virtual std::optional<Value> attribute(Runtime&, std::string_view) { return std::nullopt; }
  const std::string shown_as;
};

// Counts the C++ recursion that a template causes, and fails before the stack ends.
class DepthGuard {
 public:
  explicit DepthGuard(Runtime& runtime);
  ~DepthGuard();
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Runtime& runtime_;
};

// What all operations on values need: the budget, the depth of recursion, the clock.
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
  Value markup(std::string text);
  Value list(std::vector<Value> items);
  Value tuple(std::vector<Value> items, bool group = false);
  Value dict(std::vector<Dict::Entry> entries);
  Value big(BigInt value);  // an integer of either kind
  Value undefined(std::string message);
  Value name_space();
  Value callable(std::string_view name, std::function<Value(Runtime&, Arguments&)> function);
  template <class T, class... Args>
  std::shared_ptr<T> make(Args&&... args) {
    return std::make_shared<T>(budget, std::forward<Args>(args)...);
  }
  // Values that may refer to themselves are emptied when the run ends: `release` is called then.
  void keep(std::shared_ptr<void> owner, std::function<void()> release);

  std::chrono::system_clock::time_point now() const { return now_; }

 private:
  std::chrono::system_clock::time_point now_;
  std::vector<std::pair<std::shared_ptr<void>, std::function<void()>>> kept_;
};

// JSON to values; text that is no UTF-8 is repaired with U+FFFD.
Value from_json(Runtime& runtime, const nlohmann::ordered_json& json);

const char* type_name(const Value& value);
bool truth(Runtime& runtime, const Value& value);
std::string str(Runtime& runtime, const Value& value);
std::string repr(Runtime& runtime, const Value& value);
void append_repr(Runtime& runtime, const Value& value, std::string& out);
std::string quoted(std::string_view text);  // Python's repr of a string
std::string real_to_string(double value);
bool equal(Runtime& runtime, const Value& left, const Value& right);
// Python's <, for sorting and comparisons; fails where Python does. The symbol is for the message.
bool less(Runtime& runtime, const Value& left, const Value& right, const char* symbol = "<");
bool less_or_equal(Runtime& runtime, const Value& left, const Value& right, const char* symbol = "<=");
bool contains(Runtime& runtime, const Value& container, const Value& item);
std::optional<std::size_t> length(Runtime& runtime, const Value& value);
// Any iterable as a vector; fails with "'x' object is not iterable".
std::vector<Value> to_vector(Runtime& runtime, const Value& value);
// An iterator over any iterable, without copying it.
std::shared_ptr<Iterator> iterate(Runtime& runtime, const Value& value);
bool is_iterable(const Value& value);

// Arithmetic, by Python's rules.
enum class Operator : std::uint8_t { add, subtract, multiply, divide, floor_divide, modulo, power };
Value arithmetic(Runtime& runtime, Operator op, const Value& left, const Value& right);
Value negative(Runtime& runtime, const Value& value);
Value positive(Runtime& runtime, const Value& value);
double to_double(const Value& value);                                 // of a number
BigInt to_big(const Value& value);                                    // of an integer
std::int64_t index_value(const Value& value, std::string_view what);  // of an integer that must fit
// int(text, base) and float(text) as Python reads them; empty where they raise ValueError.
std::optional<BigInt> parse_integer(std::string_view text, int base);
std::optional<double> parse_real(std::string_view text);

// obj.name and obj[key], as the sandbox resolves them: Undefined where there is none.
Value attribute(Runtime& runtime, const Value& object, std::string_view name);
Value attribute_only(Runtime& runtime, const Value& object, std::string_view name);  // never an item
Value item(Runtime& runtime, const Value& object, const Value& key);
// The [start:stop:step] part of a string or sequence.
Value slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop, const Value& step);
// The Python method of a built-in type; empty where the type has none of that name.
std::optional<Value> method(Runtime& runtime, const Value& object, std::string_view name);
[[noreturn]] void fail_undefined(const Value& value);

// HTML's five special characters as entities; markup is left as it is.
std::string html_escaped(Runtime& runtime, const Value& value);
std::string html_escaped(Runtime& runtime, std::string_view text);
// The string, or each string of a list or tuple, marked as HTML; other values as they are.
Value marked(Runtime& runtime, const Value& value);

// printf-style and str.format formatting. Where the format is markup, what is put in is escaped.
std::string percent_format(Runtime& runtime, const String& format, const Value& arguments);
std::string brace_format(Runtime& runtime, const String& format, const Arguments& arguments);
// format(value, spec)
std::string format_value(Runtime& runtime, const Value& value, std::string_view spec);

std::string to_json(Runtime& runtime, const Value& value, const Arguments& options);

// Appends with the run's memory limit in view.
class TextBuilder {
 public:
  explicit TextBuilder(Runtime& runtime) : runtime_(runtime) {}
  ~TextBuilder() { runtime_.budget.give(text_.size()); }
  TextBuilder(const TextBuilder&) = delete;
  TextBuilder& operator=(const TextBuilder&) = delete;
  void append(std::string_view text);
  std::string take() {
    runtime_.budget.give(text_.size());
    return std::exchange(text_, {});
  }
  const std::string& view() const { return text_; }

 private:
  Runtime& runtime_;
  std::string text_;
};

}  // namespace plumb::text::jinja
