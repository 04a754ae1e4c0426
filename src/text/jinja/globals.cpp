#include "text/jinja/globals.h"

#include <ctime>

#include "text/jinja/call.h"
#include "text/jinja/iterate.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

Value make_range(Runtime& runtime, const Value&, Parameters& given) {
  constexpr std::int64_t most_elements = 100'000;           // as in Jinja's sandbox
  constexpr std::int64_t farthest = std::int64_t{1} << 62;  // so that differences fit 64 bits
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

Value make_dict(Runtime& runtime, const Value&, Parameters& given) {
  return runtime.dict(dict_entries(runtime, given.all()));
}

Value make_namespace(Runtime& runtime, const Value&, Parameters& given) {
  const Value attributes = runtime.dict(dict_entries(runtime, given.all()));
  Value space = runtime.name_space();
  for (const auto& [key, value] : attributes.dict().entries) {
    if (!key.is_string()) raise("the names of a namespace are strings, not {}", type_name(key));
    check_namespace_name(key.text());
    space.name_space().set(key.text(), value);
  }
  return space;
}

Value raise_exception(Runtime& runtime, const Value&, Parameters& given) { raise("{}", str(runtime, given[0])); }

Value strftime_now(Runtime& runtime, const Value&, Parameters& given) {
  const std::string& wanted = given.text(0);
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

constexpr Builtin globals[] = {
    {"range", make_range, {"", "", ""}, 1},        {"dict", make_dict, {"*"}},
    {"namespace", make_namespace, {"*"}},          {"raise_exception", raise_exception, {"message"}, 1},
    {"strftime_now", strftime_now, {"format"}, 1},
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
  if (name == "cycler" || name == "joiner" || name == "lipsum") raise("the function '{}' is not supported", name);
  const Builtin* found = find_builtin(globals, name);
  if (found == nullptr) return std::nullopt;
  return runtime.callable(fmt::format("<function {}>", name), 0, [found](Runtime& running, Arguments& arguments) {
    return invoke(running, *found, Value(), arguments);
  });
}

}  // namespace plumb::text::jinja
