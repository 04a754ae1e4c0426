#include "text/jinja/iterate.h"

#include "text/jinja/loop.h"
#include "text/jinja/show.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

bool is_iterable(const Value& value) {
  return value.has_items() || value.is_string() || value.is_undefined() || value.is(Kind::dict) ||
         value.is(Kind::iterator) || value.is(Kind::loop);
}

std::optional<std::size_t> length(Runtime& runtime, const Value& value) {
  if (value.has_items()) return value.items().size();
  if (value.is_string()) return value.string().length;
  if (value.is(Kind::dict)) return value.dict().entries.size();
  if (value.is(Kind::loop)) return static_cast<std::size_t>(value.loop().length(runtime));
  if (value.is_undefined()) return 0;
  return std::nullopt;
}

std::shared_ptr<Iterator> iterate(Runtime& runtime, const Value& value) {
  if (value.is(Kind::iterator)) return std::static_pointer_cast<Iterator>(value.object());
  if (!is_iterable(value) || value.is(Kind::loop)) raise("'{}' object is not iterable", type_name(value));
  auto next = [value, at = std::size_t{0}](Runtime& running) mutable -> std::optional<Value> {
    if (value.is_string()) {
      if (at >= value.text().size()) return std::nullopt;
      const std::size_t begin = at;
      at += unicode::width(value.text()[at]);
      return running.string(value.text().substr(begin, at - begin));
    }
    if (value.is(Kind::dict)) {
      return at < value.dict().entries.size() ? std::optional(value.dict().entries[at++].first) : std::nullopt;
    }
    return value.has_items() && at < value.items().size() ? std::optional(value.items()[at++]) : std::nullopt;
  };
  return runtime.make<Iterator>(value.depth() + 1, std::move(next));
}

std::vector<Value> to_vector(Runtime& runtime, const Value& value) {
  if (value.has_items()) {
    runtime.budget.step(value.items().size() / 2);
    return value.items();
  }
  std::vector<Value> result;
  const auto iterator = iterate(runtime, value);
  while (auto entry = iterator->next(runtime)) {
    runtime.budget.step();
    runtime.budget.expect(result.size() * sizeof(Value));
    result.push_back(std::move(*entry));
  }
  return result;
}

}  // namespace plumb::text::jinja
