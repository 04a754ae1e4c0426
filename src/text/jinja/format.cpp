#include "text/jinja/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/jinja/strings.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

// How a value becomes text, in either language.
struct Spec {
  char sign = 0;       // '+' or '-', where it is given; '+' stands before positive numbers too
  bool zeros = false;  // between the sign and the digits, up to the width
  std::optional<Align> align;
  std::string fill = " ";
  std::int64_t width = 0;
  std::optional<std::int64_t> precision;
  char type = 0;
};

// Reads digits from `at` on.
std::int64_t read_number(std::string_view text, std::size_t& at) {
  const std::size_t begin = at;
  while (at < text.size() && is_digit(text[at])) ++at;
  return parse_integer(text.substr(begin, at - begin)).value_or(0);
}

// Whether one of these characters stands at `at`, which then moves behind it.
bool skip(std::string_view text, std::size_t& at, std::string_view characters) {
  if (at >= text.size() || characters.find(text[at]) == std::string_view::npos) return false;
  ++at;
  return true;
}

// [width][.precision][type]
void read_sizes(std::string_view text, std::size_t& at, Spec& spec) {
  spec.width = read_number(text, at);
  if (skip(text, at, ".")) spec.precision = read_number(text, at);
  if (at < text.size()) spec.type = text[at++];
}

// What follows a '%': [flags -, +, 0] and the sizes.
Spec read_percent_spec(std::string_view text, std::size_t& at) {
  Spec spec{.align = Align::right};
  while (skip(text, at, "-+0")) {
    const char flag = text[at - 1];
    if (flag == '-') spec.align = Align::left;
    if (flag == '+') spec.sign = '+';
    if (flag == '0') spec.zeros = true;
  }
  if (spec.align == Align::left) spec.zeros = false;
  read_sizes(text, at, spec);
  return spec;
}

// What follows the ':' of a field: [[fill]align][sign][0] and the sizes. None: there is more.
std::optional<Spec> read_field_spec(std::string_view text) {
  Spec spec;
  std::size_t at = unicode::offset(text, 1);  // the fill is one character
  const bool has_fill = skip(text, at, "<>^");
  if (has_fill) {
    spec.fill = text.substr(0, at - 1);
  } else {
    at = 0;
  }
  if (has_fill || skip(text, at, "<>^")) {
    const char align = text[at - 1];
    spec.align = align == '<' ? Align::left : align == '>' ? Align::right : Align::center;
  }
  if (skip(text, at, "+-")) spec.sign = text[at - 1];
  if (skip(text, at, "0")) {
    spec.zeros = !spec.align;
    if (!has_fill) spec.fill = "0";
  }
  read_sizes(text, at, spec);
  return at == text.size() ? std::optional(std::move(spec)) : std::nullopt;
}

std::string formatted_number(const Value& value, const Spec& spec) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::large)) fail_too_large();
  if (!value.is_number()) raise("%{} format: a real number is required, not {}", spec.type, type_name(value));
  const std::string plus = spec.sign == '+' ? "+" : "";
  if (spec.type == 'f') {
    constexpr std::int64_t most_digits = 1'000;
    const std::int64_t digits = spec.precision.value_or(6);
    if (digits > most_digits) raise("a precision of {} is too large", digits);
    const double number = to_double(value);
    return (std::signbit(number) ? "" : plus) + fmt::format("{:.{}f}", number, digits);
  }
  if (spec.precision) raise("a precision of the conversion %{} is not supported", spec.type);
  const std::int64_t number = value.is(Kind::real) ? to_integer(value.as_real()) : value.as_integer();
  return (number < 0 ? "" : plus) + fmt::format("{}", number);
}

std::string formatted(Runtime& runtime, const Value& value, const Spec& spec) {
  std::string text = spec.type == 's' ? str(runtime, value) : formatted_number(value, spec);
  if (spec.type == 's' && spec.precision) text.resize(unicode::offset(text, static_cast<std::size_t>(*spec.precision)));
  if (spec.zeros && spec.type != 's') return zero_filled(runtime, text, spec.width);
  const Align align = spec.align.value_or(value.is_number() ? Align::right : Align::left);
  if (align != Align::center) return padded(runtime, text, align, spec.width, spec.fill);
  // Of an odd number of characters the larger half stands behind, other than where str.center() puts it.
  const auto length = static_cast<std::int64_t>(unicode::count(text));
  text = padded(runtime, text, Align::right, length + (spec.width - length) / 2, spec.fill);
  return padded(runtime, text, Align::left, spec.width, spec.fill);
}

// A field of str.format with `text` after the colon.
std::string formatted_field(Runtime& runtime, const Value& value, std::string_view text) {
  if (text.empty()) return str(runtime, value);
  std::optional<Spec> spec = read_field_spec(text);
  if (spec && spec->type == 0) spec->type = value.is_integer() ? 'd' : 's';
  const bool fits = spec && (spec->type == 'f'   ? value.is_number()
                             : spec->type == 'd' ? value.is_integer()
                                                 : spec->type == 's' && value.is_string() && spec->sign == 0);
  if (!fits) raise("the format '{}' of a value of type '{}' is not supported", text, type_name(value));
  return formatted(runtime, value, *spec);
}

}  // namespace

std::string percent_format(Runtime& runtime, std::string_view format, const Value& arguments) {
  const bool is_tuple = arguments.is(Kind::tuple);
  const std::span<const Value> values = is_tuple ? std::span(arguments.items()) : std::span(&arguments, 1);
  std::size_t next = 0;
  TextBuilder out(runtime.budget);
  for (std::size_t at = 0; at < format.size();) {
    const std::size_t percent = std::min(format.find('%', at), format.size());
    out.append(format.substr(at, percent - at));
    at = percent + 1;
    if (percent == format.size()) break;
    const Spec spec = read_percent_spec(format, at);
    if (spec.type == '%') {
      out.append("%");
      continue;
    }
    if (spec.type == 0) raise("incomplete format");
    if (std::string_view("sdf").find(spec.type) == std::string_view::npos) {
      raise("the format character '{}' is not supported; use s, d or f", spec.type);
    }
    if (next == values.size()) raise("not enough arguments for format string");
    out.append(formatted(runtime, values[next++], spec));
  }
  // Python accepts a single value with keys or indices that is not used.
  const bool may_stay = !is_tuple && (arguments.is(Kind::dict) || arguments.has_items() || arguments.is_undefined());
  if (next < values.size() && !may_stay) raise("not all arguments converted during string formatting");
  return out.take();
}

std::string brace_format(Runtime& runtime, std::string_view format, const Arguments& arguments) {
  TextBuilder out(runtime.budget);
  std::int64_t next = 0;
  const auto argument = [&](std::string_view name) -> const Value& {
    const auto index = name.empty() ? std::optional(next++) : is_digit(name[0]) ? parse_integer(name) : std::nullopt;
    if (index) {
      if (*index < std::ssize(arguments.positional)) return arguments.positional[static_cast<std::size_t>(*index)];
      raise("Replacement index {} out of range for positional args tuple", *index);
    }
    runtime.budget.step(arguments.named.size() / 8 + 1);
    const auto found = std::ranges::find(arguments.named, name, &std::pair<std::string, Value>::first);
    if (found == arguments.named.end()) raise("format has no argument {}", jinja::quoted(name));
    return found->second;
  };
  for (std::size_t at = 0; at < format.size();) {
    const std::size_t brace = std::min(format.find_first_of("{}", at), format.size());
    out.append(format.substr(at, brace - at));
    if (brace == format.size()) break;
    at = brace + 1;
    if (at < format.size() && format[at] == format[brace]) {
      out.append(format.substr(at++, 1));
      continue;
    }
    if (format[brace] == '}') raise("Single '}}' encountered in format string");
    const std::size_t end = format.find('}', at);
    if (end == std::string_view::npos) raise("expected '}}' before end of string");
    const std::string_view field = format.substr(at, end - at);
    const std::string_view name = field.substr(0, field.find(':'));
    if (field.find_first_of("{!") != std::string_view::npos || name.find_first_of(".[") != std::string_view::npos) {
      raise("the field '{{{}}}' of a format is not supported", field);
    }
    out.append(formatted_field(runtime, argument(name), field.substr(std::min(name.size() + 1, field.size()))));
    at = end + 1;
  }
  return out.take();
}

}  // namespace plumb::text::jinja
