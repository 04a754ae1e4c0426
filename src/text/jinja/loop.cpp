#include "text/jinja/loop.h"

#include "text/jinja/compare.h"
#include "text/jinja/iterate.h"

namespace plumb::text::jinja {

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
    return runtime.callable("<function cycle>", self.depth(), [self](Runtime&, Arguments& arguments) {
      if (arguments.positional.empty()) raise("no items for cycling given");
      const auto index = static_cast<std::size_t>(self.loop().index0());
      return arguments.positional[index % arguments.positional.size()];
    });
  }
  if (name == "changed") {
    return runtime.callable("<function changed>", self.depth(), [self](Runtime& now, Arguments& arguments) {
      return Value::boolean(self.loop().changed(now, std::move(arguments.positional)));
    });
  }
  return std::nullopt;
}

}  // namespace plumb::text::jinja
