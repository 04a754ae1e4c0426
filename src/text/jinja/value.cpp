#include "text/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <functional>

#include "text/jinja/callables.h"
#include "text/unicode/characters.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {
void Budget::step(std::uint64_t count) {
  steps_ += count;
  if (steps_ > limits_.max_steps) {
    raise("the template runs for more than {} steps; it may loop without end", limits_.max_steps);
  }
}

void Budget::take(std::size_t bytes) {
  expect(bytes);
  memory_ += bytes;
}

void Budget::expect(std::size_t bytes) const {
  if (bytes > limits_.max_memory_bytes || memory_ > limits_.max_memory_bytes - bytes) {
    raise("the template uses more than {} bytes of memory", limits_.max_memory_bytes);
  }
}

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

const BigInt& Value::as_big() const { return static_cast<const BigInteger&>(*object_).value; }
bool Value::is_markup() const { return is_string() && string().markup; }
const String& Value::string() const { return static_cast<const String&>(*object_); }
const std::string& Value::text() const { return string().text; }
const Sequence& Value::sequence() const { return static_cast<const Sequence&>(*object_); }
const std::vector<Value>& Value::items() const { return sequence().items; }
const Dict& Value::dict() const { return static_cast<const Dict&>(*object_); }
const Range& Value::range() const { return static_cast<const Range&>(*object_); }
const Undefined& Value::undefined() const { return static_cast<const Undefined&>(*object_); }
const DictView& Value::dict_view() const { return static_cast<const DictView&>(*object_); }
Namespace& Value::name_space() const { return static_cast<Namespace&>(*object_); }
Iterator& Value::iterator() const { return static_cast<Iterator&>(*object_); }
Callable& Value::callable() const { return static_cast<Callable&>(*object_); }
Loop& Value::loop() const { return static_cast<Loop&>(*object_); }

String::String(Budget& budget, std::string content, bool is_html)
    : Object(budget, sizeof(String) + content.size(), 0),
      text(std::move(content)),
      markup(is_html),
      length(unicode::count(text)) {
  budget.work(text.size());
}

BigInteger::BigInteger(Budget& budget, BigInt number)
    : Object(budget, sizeof(BigInteger) + number.bits() / 8, 0), value(std::move(number)) {
  budget.work(value.bits() * 16);
}

Sequence::Sequence(Budget& budget, std::vector<Value> values, bool named_group)
    : Object(budget, sizeof(Sequence) + values.size() * sizeof(Value), depth_above(values)),
      items(std::move(values)),
      group(named_group) {
  budget.work(items.size() * sizeof(Value));
}

Dict::Dict(Runtime& runtime, std::vector<Entry> pairs)
    : Object(runtime.budget, sizeof(Dict) + pairs.size() * 3 * sizeof(Entry), depth_above(pairs)) {
  runtime.budget.work(pairs.size() * sizeof(Entry));
  entries.reserve(pairs.size());
  for (Entry& pair : pairs) {
    runtime.budget.step(2);
    const std::size_t hash = hash_of(runtime, pair.first);
    bool known = false;
    const auto [first, last] = index_.equal_range(hash);
    for (auto candidate = first; candidate != last; ++candidate) {
      runtime.budget.step();
      if (equal(runtime, entries[candidate->second].first, pair.first)) {
        entries[candidate->second].second = std::move(pair.second);
        known = true;
        break;
      }
    }
    if (known) continue;
    index_.emplace(hash, static_cast<std::uint32_t>(entries.size()));
    entries.push_back(std::move(pair));
  }
}

const Value* Dict::find(Runtime& runtime, const Value& key) const {
  if (key.is_string()) return find(key.text());
  const auto [first, last] = index_.equal_range(hash_of(runtime, key));
  for (auto candidate = first; candidate != last; ++candidate) {
    runtime.budget.step();
    const Entry& entry = entries[candidate->second];
    if (equal(runtime, entry.first, key)) return &entry.second;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  const auto [first, last] = index_.equal_range(std::hash<std::string_view>{}(key));
  for (auto candidate = first; candidate != last; ++candidate) {
    const Entry& entry = entries[candidate->second];
    if (entry.first.is_string() && entry.first.text() == key) return &entry.second;
  }
  return nullptr;
}

Range::Range(Budget& budget, std::int64_t first, std::int64_t past, std::int64_t stride)
    : Object(budget, sizeof(Range), 0), start(first), stop(past), step(stride) {
  for (const std::int64_t bound : {first, past, stride}) {
    if (bound > kMost || bound < -kMost) raise("range() of numbers beyond {} is not supported", kMost);
  }
  if (stride == 0) raise("range() arg 3 must not be zero");
  if (size() > kLongest) raise("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kLongest);
}

std::int64_t Range::size() const {
  if (step > 0) return start >= stop ? 0 : (stop - start - 1) / step + 1;
  return start <= stop ? 0 : (start - stop - 1) / -step + 1;
}

DictView::DictView(Budget& budget, Value of, Part which)
    : Object(budget, sizeof(DictView), of.depth() + 1), owner(std::move(of)), part(which) {}

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

Runtime::~Runtime() {
  for (auto& [owner, release] : kept_) release();
}

Value Runtime::string(std::string text) { return {Kind::string, make<String>(std::move(text))}; }
Value Runtime::markup(std::string text) { return {Kind::string, make<String>(std::move(text), true)}; }
Value Runtime::list(std::vector<Value> items) { return {Kind::list, make<Sequence>(std::move(items), false)}; }
Value Runtime::tuple(std::vector<Value> items, bool group) {
  return {Kind::tuple, make<Sequence>(std::move(items), group)};
}
Value Runtime::dict(std::vector<Dict::Entry> entries) {
  return {Kind::dict, std::make_shared<Dict>(*this, std::move(entries))};
}

Value Runtime::big(BigInt value) {
  if (const auto small = value.to_int64()) return Value::integer(*small);
  return {Kind::big, make<BigInteger>(std::move(value))};
}

Value Runtime::undefined(std::string message) { return {Kind::undefined, make<Undefined>(std::move(message))}; }

Value Runtime::name_space() {
  auto object = make<Namespace>();
  keep(object, [raw = object.get()] { raw->clear(); });
  return {Kind::name_space, std::move(object)};
}

Value Runtime::callable(std::string_view name, std::function<Value(Runtime&, Arguments&)> function) {
  return {Kind::callable, make<Function>(0u, name, std::move(function))};
}

void Runtime::keep(std::shared_ptr<void> owner, std::function<void()> release) {
  kept_.emplace_back(std::move(owner), std::move(release));
}

const char* type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
    case Kind::big:
      return "int";
    case Kind::real:
      return "float";
    case Kind::string:
      return value.string().markup ? "Markup" : "str";
    case Kind::list:
      return "list";
    case Kind::tuple:
      return value.sequence().group ? "_GroupTuple" : "tuple";
    case Kind::dict:
      return "dict";
    case Kind::range:
      return "range";
    case Kind::iterator:
      return value.iterator().type_name;
    case Kind::dict_view:
      switch (value.dict_view().part) {
        case DictView::Part::keys:
          return "dict_keys";
        case DictView::Part::values:
          return "dict_values";
        case DictView::Part::items:
          return "dict_items";
      }
      return "dict_items";
    case Kind::name_space:
      return "TemplateNamespace";
    case Kind::callable:
      return value.callable().type_name();
    case Kind::loop:
      return "LoopContext";
  }
  return "object";
}

bool truth(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
    case Kind::integer:
      return value.as_integer() != 0;
    case Kind::real:
      return value.as_real() != 0.0;
    case Kind::big:
    case Kind::iterator:
    case Kind::name_space:
    case Kind::callable:
      return true;
    default:
      return length(runtime, value).value_or(1) != 0;
  }
}

std::string real_to_string(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // The shortest digits that read back as the same number; Python switches to exponents at 1e16 and below 1e-4.
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view all(buffer, static_cast<std::size_t>(end - buffer));
  const std::size_t mark = all.find('e');
  int exponent = 0;
  const char* exponent_begin = all.data() + mark + (all[mark + 1] == '+' ? 2 : 1);
  std::from_chars(exponent_begin, end, exponent);
  std::string out;
  std::string digits;
  for (const char c : all.substr(0, mark)) {
    if (c == '-') out += c;
    if (c >= '0' && c <= '9') digits += c;
  }
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out += '.' + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto point = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= point) return out + digits + std::string(point - digits.size(), '0') + ".0";
  return out + digits.substr(0, point) + '.' + digits.substr(point);
}

std::string quoted(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = unicode::next(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (unicode::is_printable(c)) {
      out.append(text, begin, at - begin);
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<std::uint32_t>(c));
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<std::uint32_t>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<std::uint32_t>(c));
    }
  }
  return out + quote;
}

namespace {

void append_items(Runtime& runtime, const std::vector<Value>& items, std::string& out) {
  bool first = true;
  for (const Value& entry : items) {
    if (!first) out += ", ";
    first = false;
    append_repr(runtime, entry, out);
  }
}

template <class Entries, class Key>
void append_pairs(Runtime& runtime, const Entries& entries, std::string& out, Key append_key) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : entries) {
    if (!first) out += ", ";
    first = false;
    append_key(key);
    out += ": ";
    append_repr(runtime, value, out);
  }
  out += '}';
}

}  // namespace

void append_repr(Runtime& runtime, const Value& value, std::string& out) {
  const DepthGuard guard(runtime);
  runtime.budget.step();
  runtime.budget.expect(out.size());
  switch (value.kind()) {
    case Kind::undefined:
      out += "Undefined";
      return;
    case Kind::none:
      out += "None";
      return;
    case Kind::boolean:
      out += value.as_boolean() ? "True" : "False";
      return;
    case Kind::integer:
      out += std::to_string(value.as_integer());
      return;
    case Kind::big:
      runtime.budget.work(value.as_big().bits() * 64);
      out += value.as_big().to_string();
      return;
    case Kind::real:
      out += real_to_string(value.as_real());
      return;
    case Kind::string:
      runtime.budget.work(value.text().size());
      out += value.is_markup() ? "Markup(" + jinja::quoted(value.text()) + ')' : jinja::quoted(value.text());
      return;
    case Kind::list:
      out += '[';
      append_items(runtime, value.items(), out);
      out += ']';
      return;
    case Kind::tuple:
      out += '(';
      append_items(runtime, value.items(), out);
      out += value.items().size() == 1 ? ",)" : ")";
      return;
    case Kind::dict:
      append_pairs(runtime, value.dict().entries, out, [&](const Value& key) { append_repr(runtime, key, out); });
      return;
    case Kind::range: {
      const Range& range = value.range();
      out += fmt::format("range({}, {}", range.start, range.stop);
      out += range.step == 1 ? ")" : fmt::format(", {})", range.step);
      return;
    }
    case Kind::dict_view:
      out += type_name(value);
      out += "([";
      append_items(runtime, to_vector(runtime, value), out);
      out += "])";
      return;
    case Kind::name_space:
      out += "<Namespace ";
      append_pairs(runtime, value.name_space().attributes, out, [&](const std::string& key) { out += jinja::quoted(key); });
      out += '>';
      return;
    case Kind::callable:
      out += value.callable().shown_as;
      return;
    case Kind::iterator:
      out += fmt::format("<{} object>", value.iterator().type_name);
      return;
    case Kind::loop: {
      Loop& loop = value.loop();
      out += fmt::format("<LoopContext {}/{}>", loop.index0() + 1, loop.length(runtime));
      return;
    }
  }
}

std::string repr(Runtime& runtime, const Value& value) {
  std::string out;
  append_repr(runtime, value, out);
  return out;
}

std::string str(Runtime& runtime, const Value& value) {
  if (value.is_string()) return value.text();
  if (value.is_undefined()) return {};
  return repr(runtime, value);
}

namespace {

enum class Order : std::uint8_t { less, equal, greater, unordered };

Order order_of(int sign) { return sign < 0 ? Order::less : sign > 0 ? Order::greater : Order::equal; }

Order compare_big_to_real(const BigInt& left, double right) {
  if (std::isnan(right)) return Order::unordered;
  if (std::isinf(right)) return right > 0 ? Order::less : Order::greater;
  const int whole = BigInt::compare(left, BigInt::from_double(right));
  if (whole != 0) return order_of(whole);
  const double fraction = right - std::trunc(right);
  return order_of(fraction > 0 ? -1 : fraction < 0 ? 1 : 0);
}

Order compare_numbers(const Value& left, const Value& right) {
  if (left.is_small_integer() && right.is_small_integer()) {
    return order_of(left.as_integer() < right.as_integer() ? -1 : left.as_integer() > right.as_integer() ? 1 : 0);
  }
  if (left.is(Kind::real) && right.is(Kind::real)) {
    const double a = left.as_real();
    const double b = right.as_real();
    if (std::isnan(a) || std::isnan(b)) return Order::unordered;
    return order_of(a < b ? -1 : a > b ? 1 : 0);
  }
  if (right.is(Kind::real)) return compare_big_to_real(to_big(left), right.as_real());
  if (left.is(Kind::real)) {
    const Order reverse = compare_big_to_real(to_big(right), left.as_real());
    if (reverse == Order::less) return Order::greater;
    return reverse == Order::greater ? Order::less : reverse;
  }
  return order_of(BigInt::compare(to_big(left), to_big(right)));
}

std::size_t mixed(std::size_t seed, std::size_t hash) { return seed * 1'000'003 + hash + 0x9e3779b9u; }

}  // namespace

std::size_t hash_of(Runtime& runtime, const Value& key) {
  switch (key.kind()) {
    case Kind::undefined:
    case Kind::none:
      return static_cast<std::size_t>(key.kind());
    case Kind::boolean:
    case Kind::integer:
      return std::hash<std::int64_t>{}(key.as_integer());
    case Kind::big:
      return std::hash<double>{}(key.as_big().to_double());
    case Kind::real: {
      const double value = key.as_real();
      if (std::isfinite(value) && std::trunc(value) == value) {
        if (const auto integer = BigInt::from_double(value).to_int64()) return std::hash<std::int64_t>{}(*integer);
      }
      return std::hash<double>{}(value);
    }
    case Kind::string:
      runtime.budget.work(key.text().size());
      return std::hash<std::string_view>{}(key.text());
    case Kind::tuple: {
      const DepthGuard guard(runtime);
      std::size_t hash = key.items().size();
      for (const Value& entry : key.items()) {
        runtime.budget.step();
        hash = mixed(hash, hash_of(runtime, entry));
      }
      return hash;
    }
    case Kind::range:
      return mixed(mixed(0, std::hash<std::int64_t>{}(key.range().start)), static_cast<std::size_t>(key.range().size()));
    case Kind::list:
    case Kind::dict:
    case Kind::dict_view:
      raise("unhashable type: '{}'", type_name(key));
    default:
      return std::hash<const void*>{}(key.object().get());
  }
}

bool equal(Runtime& runtime, const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) return compare_numbers(left, right) == Order::equal;
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::undefined:
    case Kind::none:
      return true;
    case Kind::string:
      if (left.text().size() == right.text().size()) runtime.budget.work(left.text().size());
      return left.text() == right.text();
    case Kind::list:
    case Kind::tuple: {
      if (left.object() == right.object()) return true;
      if (left.items().size() != right.items().size()) return false;
      const DepthGuard guard(runtime);
      for (std::size_t i = 0; i < left.items().size(); ++i) {
        runtime.budget.step();
        if (!equal(runtime, left.items()[i], right.items()[i])) return false;
      }
      return true;
    }
    case Kind::dict: {
      if (left.object() == right.object()) return true;
      if (left.dict().entries.size() != right.dict().entries.size()) return false;
      const DepthGuard guard(runtime);
      for (const auto& [key, value] : left.dict().entries) {
        runtime.budget.step();
        const Value* other = right.dict().find(runtime, key);
        if (other == nullptr || !equal(runtime, value, *other)) return false;
      }
      return true;
    }
    case Kind::range: {
      const Range& a = left.range();
      const Range& b = right.range();
      return a.size() == b.size() && (a.size() == 0 || (a.start == b.start && (a.size() == 1 || a.step == b.step)));
    }
    default:
      return left.object() == right.object();
  }
}

namespace {

bool ordered(Runtime& runtime, const Value& left, const Value& right, const char* symbol, bool or_equal) {
  runtime.budget.step();
  if (left.is_number() && right.is_number()) {
    const Order order = compare_numbers(left, right);
    return order == Order::less || (or_equal && order == Order::equal);
  }
  if (left.is_string() && right.is_string()) {
    // UTF-8 sorts as its code points do.
    const int order = left.text().compare(right.text());
    runtime.budget.work(std::min(left.text().size(), right.text().size()));
    return order < 0 || (or_equal && order == 0);
  }
  if (left.is_sequence() && left.kind() == right.kind()) {
    const DepthGuard guard(runtime);
    const auto& a = left.items();
    const auto& b = right.items();
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (!equal(runtime, a[i], b[i])) return ordered(runtime, a[i], b[i], symbol, or_equal);
    }
    return or_equal ? a.size() <= b.size() : a.size() < b.size();
  }
  if (left.is_undefined()) fail_undefined(left);
  if (right.is_undefined()) fail_undefined(right);
  const bool swapped = symbol[0] == '>';
  raise("'{}' not supported between instances of '{}' and '{}'", symbol, type_name(swapped ? right : left),
        type_name(swapped ? left : right));
}

}  // namespace

bool less(Runtime& runtime, const Value& left, const Value& right, const char* symbol) {
  return ordered(runtime, left, right, symbol, false);
}

bool less_or_equal(Runtime& runtime, const Value& left, const Value& right, const char* symbol) {
  return ordered(runtime, left, right, symbol, true);
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::string:
      if (!item.is_string()) raise("'in <string>' requires string as left operand, not {}", type_name(item));
      runtime.budget.work(container.text().size() * kSearchWork);
      return find_first(container.text(), item.text()) != std::string::npos;
    case Kind::list:
    case Kind::tuple:
      for (const Value& entry : container.items()) {
        runtime.budget.step();
        if (equal(runtime, entry, item)) return true;
      }
      return false;
    case Kind::dict:
      return container.dict().find(runtime, item) != nullptr;
    case Kind::undefined:
      return false;
    case Kind::range:
    case Kind::dict_view:
    case Kind::iterator: {
      const auto iterator = iterate(runtime, container);
      while (const auto entry = iterator->next(runtime)) {
        runtime.budget.step();
        if (equal(runtime, *entry, item)) return true;
      }
      return false;
    }
    default:
      raise("argument of type '{}' is not iterable", type_name(container));
  }
}

std::optional<std::size_t> length(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return 0;
    case Kind::string:
      return value.string().length;
    case Kind::list:
    case Kind::tuple:
      return value.items().size();
    case Kind::dict:
      return value.dict().entries.size();
    case Kind::range:
      return static_cast<std::size_t>(value.range().size());
    case Kind::dict_view:
      return value.dict_view().owner.dict().entries.size();
    case Kind::loop:
      return static_cast<std::size_t>(value.loop().length(runtime));
    default:
      return std::nullopt;
  }
}

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::string:
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::range:
    case Kind::iterator:
    case Kind::dict_view:
    case Kind::loop:
      return true;
    default:
      return false;
  }
}

namespace {

// Walks a container that does not change.
class ContainerIterator : public Iterator {
 public:
  ContainerIterator(Budget& budget, Value container)
      : Iterator(budget, container.depth() + 1, "iterator"), container_(std::move(container)) {}

  std::optional<Value> next(Runtime& runtime) override {
    switch (container_.kind()) {
      case Kind::string: {
        const std::string& text = container_.text();
        if (position_ >= text.size()) return std::nullopt;
        const std::size_t width = unicode::width(text[position_]);
        position_ += width;
        return runtime.string(text.substr(position_ - width, width));
      }
      case Kind::list:
      case Kind::tuple:
        if (position_ >= container_.items().size()) return std::nullopt;
        return container_.items()[position_++];
      case Kind::range:
        if (position_ >= static_cast<std::size_t>(container_.range().size())) return std::nullopt;
        return Value::integer(container_.range().at(static_cast<std::int64_t>(position_++)));
      case Kind::dict:
        return from_entry(runtime, container_.dict(), DictView::Part::keys);
      case Kind::dict_view:
        return from_entry(runtime, container_.dict_view().owner.dict(), container_.dict_view().part);
      default:
        return std::nullopt;
    }
  }

 private:
  std::optional<Value> from_entry(Runtime& runtime, const Dict& dict, DictView::Part part) {
    if (position_ >= dict.entries.size()) return std::nullopt;
    const auto& [key, value] = dict.entries[position_++];
    if (part == DictView::Part::keys) return key;
    if (part == DictView::Part::values) return value;
    return runtime.tuple({key, value});
  }

  const Value container_;
  std::size_t position_ = 0;
};

}  // namespace

std::shared_ptr<Iterator> iterate(Runtime& runtime, const Value& value) {
  if (value.is(Kind::iterator)) return std::static_pointer_cast<Iterator>(value.object());
  if (!is_iterable(value) || value.is(Kind::loop)) raise("'{}' object is not iterable", type_name(value));
  return runtime.make<ContainerIterator>(value);
}

std::vector<Value> to_vector(Runtime& runtime, const Value& value) {
  if (value.is_sequence()) {
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

std::string html_escaped(Runtime& runtime, std::string_view text) {
  TextBuilder out(runtime);
  while (!text.empty()) {
    const std::size_t plain = std::min(text.find_first_of("&<>'\""), text.size());
    out.append(text.substr(0, plain));
    text.remove_prefix(plain);
    if (text.empty()) break;
    switch (text[0]) {
      case '&':
        out.append("&amp;");
        break;
      case '<':
        out.append("&lt;");
        break;
      case '>':
        out.append("&gt;");
        break;
      case '\'':
        out.append("&#39;");
        break;
      default:
        out.append("&#34;");
    }
    text.remove_prefix(1);
  }
  return out.take();
}

std::string html_escaped(Runtime& runtime, const Value& value) {
  return value.is_markup() ? value.text() : html_escaped(runtime, std::string_view(str(runtime, value)));
}

Value marked(Runtime& runtime, const Value& value) {
  if (value.is_string()) return value.is_markup() ? value : runtime.markup(value.text());
  if (!value.is_sequence()) return value;
  std::vector<Value> parts;
  parts.reserve(value.items().size());
  for (const Value& part : value.items()) parts.push_back(part.is_string() ? runtime.markup(part.text()) : part);
  return value.is(Kind::list) ? runtime.list(std::move(parts)) : runtime.tuple(std::move(parts));
}

void fail_undefined(const Value& value) { raise("{}", value.undefined().message); }

void TextBuilder::append(std::string_view text) {
  runtime_.budget.work(text.size());
  runtime_.budget.take(text.size());
  text_.append(text);
}

}  // namespace plumb::text::jinja
