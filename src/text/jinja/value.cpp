#include "text/jinja/value.h"

#include <algorithm>

#include "text/jinja/compare.h"
#include "text/jinja/loop.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

std::uint32_t depth_above(const std::vector<Value>& items) {
  std::uint32_t depth = 0;
  for (const Value& value : items) depth = std::max(depth, value.depth());
  return depth + 1;
}

std::uint32_t depth_above(const std::vector<Dict::Entry>& entries) {
  std::uint32_t depth = 0;
  for (const auto& [key, value] : entries) depth = std::max({depth, key.depth(), value.depth()});
  return depth + 1;
}

}  // namespace

Object::Object(Budget& budget, std::size_t bytes, std::uint32_t depth) : budget_(budget), bytes_(bytes), depth_(depth) {
  if (depth > budget.limits().max_depth) raise("values are nested more than {} levels deep", budget.limits().max_depth);
  budget.take(bytes);
}

DepthGuard::DepthGuard(Runtime& runtime) : runtime_(runtime) {
  if (runtime.depth >= runtime.budget.limits().max_depth) {
    raise("nested more than {} levels deep", runtime.budget.limits().max_depth);
  }
  ++runtime.depth;
}

DepthGuard::~DepthGuard() { --runtime_.depth; }

Value Value::boolean(bool value) {
  Value result;
  result.kind_ = Kind::boolean;
  result.number_.integer = value ? 1 : 0;
  return result;
}

Value Value::integer(std::int64_t value) {
  Value result;
  result.kind_ = Kind::integer;
  result.number_.integer = value;
  return result;
}

Value Value::real(double value) {
  Value result;
  result.kind_ = Kind::real;
  result.number_.real = value;
  return result;
}

const String& Value::string() const { return static_cast<const String&>(*object_); }
const std::string& Value::text() const { return string().text; }
const std::vector<Value>& Value::items() const { return static_cast<const Sequence&>(*object_).items; }
const std::string& Value::name() const {
  return is_undefined() ? static_cast<const Undefined&>(*object_).message : static_cast<const Sequence&>(*object_).name;
}
const Dict& Value::dict() const { return static_cast<const Dict&>(*object_); }
Namespace& Value::name_space() const { return static_cast<Namespace&>(*object_); }
Iterator& Value::iterator() const { return static_cast<Iterator&>(*object_); }
const Callable& Value::callable() const { return static_cast<const Callable&>(*object_); }
Loop& Value::loop() const { return static_cast<Loop&>(*object_); }

String::String(Budget& budget, std::string content, bool is_html)
    : Object(budget, sizeof(String) + content.size(), 0),
      text(std::move(content)),
      marked(is_html),
      length(unicode::count(text)) {
  budget.work(text.size());
}

Sequence::Sequence(Budget& budget, std::vector<Value> values, std::string shown)
    : Object(budget, sizeof(Sequence) + values.size() * sizeof(Value), depth_above(values)),
      items(std::move(values)),
      name(std::move(shown)) {
  budget.work(items.size() * sizeof(Value));
}

Dict::Dict(Runtime& runtime, std::vector<Entry> pairs)
    : Object(runtime.budget, sizeof(Dict) + pairs.size() * 3 * sizeof(Entry), depth_above(pairs)) {
  runtime.budget.work(pairs.size() * sizeof(Entry));
  entries.reserve(pairs.size());
  for (Entry& pair : pairs) {
    runtime.budget.step(2);
    if (const auto known = index_of(runtime, pair.first)) {
      entries[*known].second = std::move(pair.second);
      continue;
    }
    index_.emplace(hash_of(runtime, pair.first), static_cast<std::uint32_t>(entries.size()));
    entries.push_back(std::move(pair));
  }
}

std::optional<std::uint32_t> Dict::index_of(Runtime& runtime, const Value& key) const {
  const auto [first, last] = index_.equal_range(hash_of(runtime, key));
  for (auto candidate = first; candidate != last; ++candidate) {
    runtime.budget.step();
    if (equal(runtime, entries[candidate->second].first, key)) return candidate->second;
  }
  return std::nullopt;
}

const Value* Dict::find(Runtime& runtime, const Value& key) const {
  const auto found = index_of(runtime, key);
  return found ? &entries[*found].second : nullptr;
}

const Value* Dict::find(std::string_view key) const {
  const auto [first, last] = index_.equal_range(std::hash<std::string_view>{}(key));
  for (auto candidate = first; candidate != last; ++candidate) {
    const Entry& entry = entries[candidate->second];
    if (entry.first.is_string() && entry.first.text() == key) return &entry.second;
  }
  return nullptr;
}

const Value* Namespace::find(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &attributes[found->second].second;
}

void Namespace::set(std::string_view name, Value value) {
  const auto [slot, is_new] = index_.try_emplace(std::string(name), attributes.size());
  if (!is_new) {
    attributes[slot->second].second = std::move(value);
    return;
  }
  attributes.emplace_back(std::string(name), std::move(value));
  grow(2 * (sizeof(attributes[0]) + name.size()));
}

std::optional<Value> Iterator::next(Runtime& runtime) {
  const DepthGuard guard(runtime);
  return body_(runtime);
}

Runtime::~Runtime() {
  for (auto& [owner, release] : kept_) release();
}

Value Runtime::string(std::string text) { return {Kind::string, make<String>(std::move(text))}; }

Value Runtime::marked(std::string text) { return {Kind::string, make<String>(std::move(text), true)}; }

Value Runtime::sequence(Kind kind, std::vector<Value> items, std::string name) {
  return {kind, make<Sequence>(std::move(items), std::move(name))};
}

Value Runtime::dict(std::vector<Dict::Entry> entries) {
  return {Kind::dict, std::make_shared<Dict>(*this, std::move(entries))};
}

Value Runtime::undefined(std::string message) { return {Kind::undefined, make<Undefined>(std::move(message))}; }

Value Runtime::name_space() {
  auto object = make<Namespace>();
  keep(object, [raw = object.get()] { raw->attributes.clear(); });
  return {Kind::name_space, std::move(object)};
}

Value Runtime::iterator(std::uint32_t above, Iterator::Body body) {
  return {Kind::iterator, make<Iterator>(above + 1, std::move(body))};
}

Value Runtime::callable(std::string shown, std::uint32_t above, Callable::Body body) {
  return {Kind::callable, make<Callable>(above + 1, std::move(shown), std::move(body))};
}

void Runtime::keep(std::shared_ptr<void> owner, std::function<void()> release) {
  kept_.emplace_back(std::move(owner), std::move(release));
}

void fail_undefined(const Value& value) { raise("{}", value.name()); }

}  // namespace plumb::text::jinja
