#include "text/jinja/callables.h"
#include "text/unicode/utf8.h"

#include <algorithm>
#include <ctime>
#include <limits>

namespace plumb::text::jinja {

Parameters::Parameters(const char* function, Arguments& arguments, std::initializer_list<const char*> names,
                       std::size_t required)
    : function_(function) {
  if (arguments.positional.size() > names.size()) {
    raise("{}() takes at most {} argument{} ({} given)", function, names.size(), names.size() == 1 ? "" : "s",
          arguments.positional.size());
  }
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = std::move(arguments.positional[i]);
  for (auto& [key, value] : arguments.named) {
    const auto* const found = std::ranges::find_if(names, [&wanted = key](const char* name) { return wanted == name; });
    if (found == names.end() || key.empty())
      raise("{}() got an unexpected keyword argument {}", function, jinja::quoted(key));
    auto& slot = values_[static_cast<std::size_t>(found - names.begin())];
    if (slot) raise("{}() got multiple values for argument {}", function, jinja::quoted(key));
    slot = std::move(value);
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (!values_[i]) raise("{}() misses a required argument (number {})", function, i + 1);
  }
}

bool Parameters::flag(Runtime& runtime, std::size_t index, bool otherwise) const {
  return values_[index] ? truth(runtime, *values_[index]) : otherwise;
}

std::int64_t Parameters::integer(std::size_t index, std::int64_t otherwise) const {
  return values_[index] ? index_value(*values_[index], function_) : otherwise;
}

std::optional<Value> Generator::next(Runtime& runtime) {
  const DepthGuard guard(runtime);
  return body_(runtime);
}

Loop::Loop(Budget& budget, Value iterable, std::shared_ptr<Iterator> source, std::int64_t depth0)
    : Object(budget, sizeof(Loop), source->depth() + 1),
      iterable_(std::move(iterable)),
      source_(std::move(source)),
      depth0_(depth0) {}

bool Loop::peek(Runtime& runtime) {
  if (!after_) after_ = source_->next(runtime);
  return after_.has_value();
}

bool Loop::advance(Runtime& runtime) {
  if (!peek(runtime)) return false;
  ++index0_;
  previous_ = std::move(current_);
  current_ = std::move(*after_);
  after_.reset();
  return true;
}

std::int64_t Loop::length(Runtime& runtime) {
  if (length_) return *length_;
  if (const auto known = iterable_.is(Kind::iterator) ? std::nullopt : jinja::length(runtime, iterable_)) {
    length_ = static_cast<std::int64_t>(*known);
    return *length_;
  }
  std::vector<Value> rest;
  while (auto entry = source_->next(runtime)) {
    runtime.budget.step();
    rest.push_back(std::move(*entry));
  }
  length_ = static_cast<std::int64_t>(rest.size()) + index0_ + 1 + (after_ ? 1 : 0);
  source_ = iterate(runtime, runtime.list(std::move(rest)));
  return *length_;
}

bool Loop::changed(Runtime& runtime, std::vector<Value> values) {
  Value now = runtime.tuple(std::move(values));
  if (last_changed_ && equal(runtime, *last_changed_, now)) return false;
  last_changed_ = std::move(now);
  return true;
}

std::optional<Value> Loop::attribute(Runtime& runtime, const Value& self, std::string_view name) {
  if (name == "index") return Value::integer(index0_ + 1);
  if (name == "index0") return Value::integer(index0_);
  if (name == "first") return Value::boolean(index0_ == 0);
  if (name == "last") return Value::boolean(!peek(runtime));
  if (name == "length") return Value::integer(length(runtime));
  if (name == "revindex") return Value::integer(length(runtime) - index0_);
  if (name == "revindex0") return Value::integer(length(runtime) - index0_ - 1);
  if (name == "depth") return Value::integer(depth0_ + 1);
  if (name == "depth0") return Value::integer(depth0_);
  if (name == "previtem") return index0_ == 0 ? runtime.undefined("there is no previous item") : previous_;
  if (name == "nextitem") return peek(runtime) ? *after_ : runtime.undefined("there is no next item");
  if (name == "cycle") {
    return runtime.callable("cycle", [self](Runtime&, Arguments& arguments) {
      if (arguments.positional.empty()) raise("no items for cycling given");
      const auto index = static_cast<std::size_t>(self.loop().index0());
      return arguments.positional[index % arguments.positional.size()];
    });
  }
  if (name == "changed") {
    return runtime.callable("changed", [self](Runtime& now, Arguments& arguments) {
      return Value::boolean(self.loop().changed(now, std::move(arguments.positional)));
    });
  }
  return std::nullopt;
}

Value call(Runtime& runtime, const Value& callee, Arguments& arguments) {
  const DepthGuard guard(runtime);
  if (callee.is(Kind::callable)) return callee.callable().call(runtime, arguments);
  if (callee.is_undefined()) fail_undefined(callee);
  if (callee.is(Kind::loop)) {
    Loop& loop = callee.loop();
    if (!loop.recurse) raise("The loop must have the 'recursive' marker to be called recursively.");
    const Parameters given("loop", arguments, {"iterable"}, 1);
    return loop.recurse(runtime, given[0], loop.nesting() + 1);
  }
  raise("'{}' object is not callable", type_name(callee));
}

namespace {

constexpr std::uint64_t kMaxRange = 100'000;  // jinja2.sandbox.MAX_RANGE

Value make_range(Runtime& runtime, Arguments& arguments) {
  const Parameters given("range", arguments, {"", "", ""}, 1);
  const std::int64_t start = given.has(1) ? given.integer(0, 0) : 0;
  const std::int64_t stop = given.integer(given.has(1) ? 1 : 0, 0);
  const std::int64_t step = given.integer(2, 1);
  if (step == 0) raise("range() arg 3 must not be zero");
  constexpr auto kFarthest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const std::uint64_t stride = step > 0 ? static_cast<std::uint64_t>(step) : 0 - static_cast<std::uint64_t>(step);
  std::uint64_t span = 0;
  if (step > 0 ? start < stop : start > stop) {
    span = static_cast<std::uint64_t>(std::max(start, stop)) - static_cast<std::uint64_t>(std::min(start, stop));
    if ((span - 1) / stride + 1 > kMaxRange) {
      raise("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange);
    }
  }
  if (span > kFarthest || stride > kFarthest) raise("range(): the bounds are too far apart");
  return {Kind::range, runtime.make<Range>(start, stop, step)};
}

// dict(mapping or pairs, **named)
std::vector<Dict::Entry> dict_entries(Runtime& runtime, Arguments& arguments) {
  std::vector<Dict::Entry> entries;
  if (arguments.positional.size() > 1) raise("dict expected at most 1 argument, got {}", arguments.positional.size());
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.is(Kind::dict)) {
      entries = source.dict().entries;
    } else {
      std::size_t index = 0;
      for (const Value& pair : to_vector(runtime, source)) {
        if (!is_iterable(pair)) raise("cannot convert dictionary update sequence element #{} to a sequence", index);
        std::vector<Value> parts = to_vector(runtime, pair);
        if (parts.size() != 2) {
          raise("dictionary update sequence element #{} has length {}; 2 is required", index, parts.size());
        }
        entries.emplace_back(std::move(parts[0]), std::move(parts[1]));
        ++index;
      }
    }
  }
  for (auto& [key, value] : arguments.named) entries.emplace_back(runtime.string(key), std::move(value));
  return entries;
}

class DictType : public Callable {
 public:
  explicit DictType(Budget& budget) : Callable(budget, 0, "<class 'dict'>") {}
  Value call(Runtime& runtime, Arguments& arguments) override { return runtime.dict(dict_entries(runtime, arguments)); }
  std::optional<Value> attribute(Runtime& runtime, std::string_view name) override {
    return name == "fromkeys" ? method(runtime, runtime.dict({}), name) : std::nullopt;
  }
};

Value make_namespace(Runtime& runtime, Arguments& arguments) {
  const Value attributes = runtime.dict(dict_entries(runtime, arguments));
  Value space = runtime.name_space();
  for (const auto& [key, value] : attributes.dict().entries) {
    if (!key.is_string()) raise("the names of a namespace are strings, not {}", type_name(key));
    check_namespace_name(key.text());
    space.name_space().set(key.text(), value);
  }
  return space;
}

class Cycler : public Callable {
 public:
  Cycler(Budget& budget, std::uint32_t depth, Value items)
      : Callable(budget, depth, "<Cycler>"), items_(std::move(items)) {}
  Value call(Runtime&, Arguments&) override { raise("'Cycler' object is not callable"); }
  const char* type_name() const override { return "Cycler"; }
  std::optional<Value> attribute(Runtime& runtime, std::string_view name) override {
    if (name == "current") return items_.items()[position_];
    if (name == "items") return items_;
    if (name == "pos") return Value::integer(static_cast<std::int64_t>(position_));
    if (name == "next" || name == "reset") {
      const bool moves = name == "next";
      return runtime.callable(name, [self = self_.lock(), moves](Runtime&, Arguments&) {
        Value now = self->items_.items()[self->position_];
        self->position_ = moves ? (self->position_ + 1) % self->items_.items().size() : 0;
        return moves ? now : Value();
      });
    }
    return std::nullopt;
  }
  static Value make(Runtime& runtime, Arguments& arguments) {
    if (arguments.positional.empty()) raise("at least one item has to be provided");
    Value items = runtime.tuple(std::move(arguments.positional));
    const std::uint32_t depth = items.depth() + 1;
    auto cycler = runtime.make<Cycler>(depth, std::move(items));
    cycler->self_ = cycler;
    return {Kind::callable, std::move(cycler)};
  }

 private:
  const Value items_;
  std::size_t position_ = 0;
  std::weak_ptr<Cycler> self_;
};

Value make_joiner(Runtime& runtime, Arguments& arguments) {
  const Parameters given("joiner", arguments, {"sep"});
  Value separator = given.has(0) ? given[0] : runtime.string(", ");
  return runtime.callable("joiner", [separator, used = false](Runtime& now, Arguments& none) mutable {
    const Parameters nothing("joiner", none, {});
    if (used) return separator;
    used = true;
    return now.string("");
  });
}

Value raise_exception(Runtime& runtime, Arguments& arguments) {
  const Parameters given("raise_exception", arguments, {"message"}, 1);
  raise("{}", str(runtime, given[0]));
}

Value strftime_now(Runtime& runtime, Arguments& arguments) {
  const Parameters given("strftime_now", arguments, {"format"}, 1);
  if (!given[0].is_string()) raise("strftime() argument 1 must be str, not {}", type_name(given[0]));
  const std::string& wanted = given[0].text();
  constexpr std::size_t kLongestFormat = 4096;
  if (wanted.size() > kLongestFormat) raise("strftime_now: the format is longer than {} bytes", kLongestFormat);
  if (wanted.find('\0') != std::string::npos) raise("embedded null character");
  const auto since_epoch = runtime.now().time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since_epoch);
  const auto microseconds = std::chrono::duration_cast<std::chrono::microseconds>(since_epoch - seconds).count();
  // The directives that Python handles itself: there is no time zone in datetime.now().
  std::string directives;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const char directive = wanted[i] == '%' && i + 1 < wanted.size() ? wanted[i + 1] : '\0';
    if (directive == 'f') directives += fmt::format("{:06}", microseconds);
    if (directive != 'f' && directive != 'z' && directive != 'Z') directives += wanted[i];
    if (directive == '%') directives += '%';
    if (directive == 'f' || directive == 'z' || directive == 'Z' || directive == '%') ++i;
  }
  // A mark in front tells an empty result from one that does not fit.
  directives.insert(0, 1, '|');
  const std::time_t time = std::chrono::system_clock::to_time_t(std::chrono::system_clock::time_point(seconds));
  std::tm local{};
  if (localtime_r(&time, &local) == nullptr) raise("strftime_now: the time cannot be shown");
  std::string shown(kLongestFormat * 16, '\0');
  const std::size_t size = std::strftime(shown.data(), shown.size(), directives.c_str(), &local);
  if (size == 0) raise("strftime_now: the text is too long");
  return runtime.string(unicode::repaired(std::string_view(shown).substr(1, size - 1)));
}

Value lipsum(Runtime&, Arguments&) { raise("lipsum() makes random text, which a chat template must not"); }

struct GlobalFunction {
  std::string_view name;
  Value (*function)(Runtime&, Arguments&);
};

constexpr GlobalFunction kGlobals[] = {
    {"range", make_range}, {"namespace", make_namespace},        {"cycler", Cycler::make},       {"joiner", make_joiner},
    {"lipsum", lipsum},    {"raise_exception", raise_exception}, {"strftime_now", strftime_now},
};

}  // namespace

void check_namespace_name(std::string_view name) {
  if (!name.starts_with("_")) return;
  raise(
      "Chat templates cannot store underscore-prefixed attributes on a namespace, but got {}. "
      "Please rename the attribute.",
      jinja::quoted(name));
}

std::optional<Value> global(Runtime& runtime, std::string_view name) {
  if (name == "dict") return Value(Kind::callable, runtime.make<DictType>());
  for (const GlobalFunction& entry : kGlobals) {
    if (entry.name == name) return runtime.callable(name, entry.function);
  }
  return std::nullopt;
}

}  // namespace plumb::text::jinja
