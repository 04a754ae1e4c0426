#include "text/jinja/globals.h"

#include <ctime>

#include "text/jinja/call.h"
#include "text/jinja/iterate.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

Value make_range(Runtime& runtime, Arguments& arguments) {
  constexpr std::int64_t most_elements = 100'000;           // as in Jinja's sandbox
  constexpr std::int64_t farthest = std::int64_t{1} << 62;  // so that differences fit 64 bits
  const Parameters given("range", arguments, {"", "", ""}, 1);
  const std::int64_t start = given.has(1) ? given.integer(0, 0) : 0;
  const std::int64_t stop = given.integer(given.has(1) ? 1 : 0, 0);
  const std::int64_t step = given.integer(2, 1);
  if (step == 0) raise("range() arg 3 must not be zero");
  for (const std::int64_t bound : {start, stop, step}) {
    if (bound >= farthest || bound <= -farthest) raise("range() of numbers beyond {} is not supported", farthest);
  }
  std::int64_t size = 0;
  if (step > 0 && start < stop) size = (stop - start - 1) / step + 1;
  if (step < 0 && start > stop) size = (start - stop - 1) / -step + 1;
  if (size > most_elements) {
    raise("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", most_elements);
  }
  runtime.budget.expect(static_cast<std::size_t>(size) * sizeof(Value));
  std::vector<Value> items;
  items.reserve(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < size; ++i) items.push_back(Value::integer(start + i * step));
  std::string shown =
      step == 1 ? fmt::format("range({}, {})", start, stop) : fmt::format("range({}, {}, {})", start, stop, step);
  return runtime.sequence(Kind::range, std::move(items), std::move(shown));
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

Value make_dict(Runtime& runtime, Arguments& arguments) { return runtime.dict(dict_entries(runtime, arguments)); }

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
  constexpr std::size_t longest_format = 4096;
  if (wanted.size() > longest_format) raise("strftime_now: the format is longer than {} bytes", longest_format);
  if (wanted.find('\0') != std::string::npos) raise("embedded null character");
  const auto since_epoch = runtime.now().time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since_epoch);
  const auto microseconds = std::chrono::duration_cast<std::chrono::microseconds>(since_epoch - seconds).count();
  // Replaces the directives that Python handles itself; datetime.now() has no time zone.
  std::string directives;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const char directive = wanted[i] == '%' && i + 1 < wanted.size() ? wanted[i + 1] : '\0';
    if (directive == 'f') directives += fmt::format("{:06}", microseconds);
    if (directive != 'f' && directive != 'z' && directive != 'Z') directives += wanted[i];
    if (directive == '%') directives += '%';
    if (directive == 'f' || directive == 'z' || directive == 'Z' || directive == '%') ++i;
  }
  // With a character in front, an empty result can be told from one that does not fit.
  directives.insert(0, 1, '|');
  const std::time_t time = std::chrono::system_clock::to_time_t(std::chrono::system_clock::time_point(seconds));
  std::tm local{};
  if (localtime_r(&time, &local) == nullptr) raise("strftime_now: the time cannot be shown");
  std::string shown(longest_format * 16, '\0');
  const std::size_t size = std::strftime(shown.data(), shown.size(), directives.c_str(), &local);
  if (size == 0) raise("strftime_now: the text is too long");
  return runtime.string(unicode::repaired(std::string_view(shown).substr(1, size - 1)));
}

Value lipsum(Runtime&, Arguments&) { raise("lipsum() makes random text, which a chat template must not"); }

struct GlobalFunction {
  std::string_view name;
  Value (*function)(Runtime&, Arguments&);
};

constexpr GlobalFunction globals[] = {
    {"range", make_range},   {"dict", make_dict}, {"namespace", make_namespace},        {"cycler", Cycler::make},
    {"joiner", make_joiner}, {"lipsum", lipsum},  {"raise_exception", raise_exception}, {"strftime_now", strftime_now},
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
  for (const GlobalFunction& entry : globals) {
    if (entry.name == name) return runtime.callable(name, entry.function);
  }
  return std::nullopt;
}

}  // namespace plumb::text::jinja
