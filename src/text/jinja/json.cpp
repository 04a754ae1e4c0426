#include "text/jinja/json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "text/jinja/call.h"
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
  void write(const Value& value) {
    const DepthGuard guard(runtime_);
    runtime_.budget.step();
    switch (value.kind()) {
      case Kind::none:
        out_.append("null");
        return;
      case Kind::boolean:
        out_.append(value.as_boolean() ? "true" : "false");
        return;
      case Kind::integer:
      case Kind::large:
        out_.append(repr(runtime_, value));
        return;
      case Kind::real:
        out_.append(number(value.as_real()));
        return;
      case Kind::string:
        write_string(value.text());
        return;
      case Kind::list:
      case Kind::tuple: {
        const auto& items = value.items();
        write_group('[', ']', items.size(), [&](std::size_t i) { write(items[i]); });
        return;
      }
      case Kind::dict:
        write_dict(value.dict());
        return;
      default:
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

  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return real_to_string(value);
  }

  void write_key(const Value& key) {
    switch (key.kind()) {
      case Kind::string:
        write_string(key.text());
        return;
      case Kind::none:
        write_string("null");
        return;
      case Kind::boolean:
        write_string(key.as_boolean() ? "true" : "false");
        return;
      case Kind::integer:
        write_string(repr(runtime_, key));
        return;
      case Kind::real:
        write_string(number(key.as_real()));
        return;
      default:
        raise("keys must be str, int, float, bool or None, not {}", type_name(key));
    }
  }

  void write_string(std::string_view text) {
    std::string shown = "\"";
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t begin = at;
      const char32_t c = unicode::next(text, at);
      switch (c) {
        case U'"':
          shown += "\\\"";
          break;
        case U'\\':
          shown += "\\\\";
          break;
        case U'\n':
          shown += "\\n";
          break;
        case U'\r':
          shown += "\\r";
          break;
        case U'\t':
          shown += "\\t";
          break;
        case U'\f':
          shown += "\\f";
          break;
        case U'\b':
          shown += "\\b";
          break;
        default:
          if (c < 0x20 || (ascii_ && c >= 0x7F && c < 0x10000)) {
            shown += fmt::format("\\u{:04x}", static_cast<std::uint32_t>(c));
          } else if (ascii_ && c >= 0x10000) {
            const auto high = static_cast<std::uint32_t>(c) - 0x10000u;
            shown += fmt::format("\\u{:04x}\\u{:04x}", 0xD800u + (high >> 10), 0xDC00u + (high & 0x3FFu));
          } else {
            shown.append(text, begin, at - begin);
          }
      }
    }
    shown += '"';
    out_.append(shown);
  }

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

std::string to_json(Runtime& runtime, const Value& value, Arguments& options) {
  const Parameters parameters("tojson", options, {"ensure_ascii", "indent", "separators", "sort_keys"});
  return JsonWriter(runtime, parameters).run(value);
}

}  // namespace plumb::text::jinja
