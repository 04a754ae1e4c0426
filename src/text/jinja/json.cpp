#include "text/jinja/json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "text/jinja/compare.h"
#include "text/jinja/iterate.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

Value from_json(Runtime& runtime, const nlohmann::ordered_json& json) {
  const DepthGuard guard(runtime);
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::boolean:
      return Value::boolean(json.get<bool>());
    case Type::number_integer:
      return Value::integer(json.get<std::int64_t>());
    case Type::number_unsigned:
      if (json.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max()) {
        return Value::integer(json.get<std::int64_t>());
      }
      return {Kind::large, runtime.string(json.dump()).object()};
    case Type::number_float:
      return Value::real(json.get<double>());
    case Type::string:
      return runtime.string(unicode::repaired(json.get_ref<const std::string&>()));
    case Type::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& entry : json) items.push_back(from_json(runtime, entry));
      return runtime.list(std::move(items));
    }
    case Type::object: {
      std::vector<Dict::Entry> entries;
      entries.reserve(json.size());
      for (const auto& [key, value] : json.items()) {
        entries.emplace_back(runtime.string(unicode::repaired(key)), from_json(runtime, value));
      }
      return runtime.dict(std::move(entries));
    }
    case Type::null:
    case Type::binary:
    case Type::discarded:
      return {};
  }
  return {};
}

namespace {

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const Parameters& options) : runtime_(runtime), out_(runtime.budget) {
    ascii_ = options.flag(runtime, 0, false);
    sort_ = options.flag(runtime, 3, false);
    if (const Value indent = options.or_none(1); indent.is_string()) {
      indent_ = indent.text();
    } else if (!indent.is_none()) {
      const auto width = static_cast<std::size_t>(std::max<std::int64_t>(0, index_value(indent, "tojson: indent")));
      runtime.budget.expect(width);
      indent_ = std::string(width, ' ');
    }
    item_separator_ = indent_ ? "," : ", ";
    if (const Value separators = options.or_none(2); !separators.is_none()) {
      const std::vector<Value> pair = to_vector(runtime, separators);
      if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
        raise("tojson: separators is a pair of strings");
      }
      item_separator_ = pair[0].text();
      key_separator_ = pair[1].text();
    }
  }

  std::string run(const Value& value) {
    write(value);
    return out_.take();
  }

 private:
  // A value that may be a key too; empty for others.
  std::optional<std::string> scalar(const Value& value) {
    switch (value.kind()) {
      case Kind::none:
        return "null";
      case Kind::boolean:
        return value.as_boolean() ? "true" : "false";
      case Kind::integer:
      case Kind::large:
        return repr(runtime_, value);
      case Kind::real:
        if (std::isnan(value.as_real())) return "NaN";
        if (std::isinf(value.as_real())) return value.as_real() < 0 ? "-Infinity" : "Infinity";
        return real_to_string(value.as_real());
      default:
        return std::nullopt;
    }
  }

  void write(const Value& value) {
    const DepthGuard guard(runtime_);
    runtime_.budget.step();
    if (const auto text = scalar(value)) {
      out_.append(*text);
    } else if (value.is_string()) {
      write_string(value.text());
    } else if (value.is_sequence()) {
      write_group('[', ']', value.items().size(), [&](std::size_t i) { write(value.items()[i]); });
    } else if (value.is(Kind::dict)) {
      write_dict(value.dict());
    } else {
      raise("Object of type {} is not JSON serializable", type_name(value));
    }
  }

  void write_dict(const Dict& dict) {
    std::vector<const Dict::Entry*> entries;
    entries.reserve(dict.entries.size());
    for (const Dict::Entry& entry : dict.entries) entries.push_back(&entry);
    if (sort_) {
      std::stable_sort(entries.begin(), entries.end(),
                       [this](const auto* a, const auto* b) { return less(runtime_, a->first, b->first); });
    }
    write_group('{', '}', entries.size(), [&](std::size_t i) {
      write_key(entries[i]->first);
      out_.append(key_separator_);
      write(entries[i]->second);
    });
  }

  template <class WriteItem>
  void write_group(char open, char close, std::size_t count, WriteItem write_item) {
    out_.append(std::string_view(&open, 1));
    if (count != 0) {
      ++level_;
      for (std::size_t i = 0; i < count; ++i) {
        if (i != 0) out_.append(item_separator_);
        new_line();
        write_item(i);
      }
      --level_;
      new_line();
    }
    out_.append(std::string_view(&close, 1));
  }

  void new_line() {
    if (!indent_) return;
    out_.append("\n");
    for (std::size_t i = 0; i < level_; ++i) out_.append(*indent_);
  }

  void write_key(const Value& key) {
    const auto text = scalar(key);
    if (!text && !key.is_string()) raise("keys must be str, int, float, bool or None, not {}", type_name(key));
    write_string(text ? *text : key.text());
  }

  void write_string(const std::string& text) { out_.append(nlohmann::json(text).dump(-1, ' ', ascii_)); }

  Runtime& runtime_;
  TextBuilder out_;
  bool ascii_ = false;
  bool sort_ = false;
  std::optional<std::string> indent_;
  std::string item_separator_;
  std::string key_separator_ = ": ";
  std::size_t level_ = 0;
};

}  // namespace

std::string to_json(Runtime& runtime, const Value& value, const Parameters& options) {
  return JsonWriter(runtime, options).run(value);
}

}  // namespace plumb::text::jinja
