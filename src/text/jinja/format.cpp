#include "text/jinja/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "text/jinja/access.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/jinja/strings.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

constexpr int max_precision = 1'000;

// [[fill]align][sign][0][width][grouping][.precision][type]. Each of the two kinds of formatting uses a part of it.
struct Spec {
  std::string fill = " ";
  char align = 0;
  char sign = '-';
  std::int64_t width = 0;
  char grouping = 0;
  int precision = -1;
  char type = 0;

  void fill_with_zeros() {
    fill = "0";
    align = '=';
  }
};

// Reads digits from `at` on.
std::int64_t read_number(std::string_view text, std::size_t& at) {
  std::int64_t value = 0;
  for (; at < text.size() && is_digit(text[at]); ++at) {
    value = value * 10 + (text[at] - '0');
    if (value > std::numeric_limits<int>::max()) raise("Too many decimal digits in format string");
  }
  return value;
}

// `sign_size`: bytes at the start that stay before the padding if it is zeros.
std::string padded(Runtime& runtime, std::string text, const Spec& spec, char default_align, std::size_t sign_size = 0) {
  const std::int64_t missing = spec.width - static_cast<std::int64_t>(unicode::count(text));
  if (missing <= 0) return text;
  const std::string filling = repeated_text(runtime, spec.fill, missing);
  switch (spec.align == 0 ? default_align : spec.align) {
    case '<':
      return text + filling;
    case '^': {
      const std::size_t half = static_cast<std::size_t>(missing / 2) * spec.fill.size();
      return filling.substr(0, half) + text + filling.substr(half);
    }
    case '=':
      return text.insert(sign_size, filling);
    default:
      return filling + text;
  }
}

// The integer digits that `text` starts with, in groups of three.
std::string grouped(std::string text, char separator) {
  const std::size_t whole = std::min(text.find_first_not_of("0123456789"), text.size());
  for (std::size_t at = whole; at > 3;) text.insert(at -= 3, 1, separator);
  return text;
}

std::string real_digits(double magnitude, const Spec& spec) {
  if (!std::isfinite(magnitude)) return std::isnan(magnitude) ? "nan" : "inf";
  if (spec.type == 0 && spec.precision < 0) return real_to_string(magnitude);
  if (spec.precision > max_precision) raise("a precision of {} is too large", spec.precision);
  const int digits = spec.precision < 0 ? 6 : spec.precision;
  switch (spec.type) {
    case 'e':
      return fmt::format("{:.{}e}", magnitude, digits);
    case 'f':
    case 'F':
      return fmt::format("{:.{}f}", magnitude, digits);
    case 'g':
      return fmt::format("{:.{}g}", magnitude, std::max(digits, 1));
    case '%':
      return fmt::format("{:.{}f}%", magnitude * 100.0, digits);
    default:
      raise("the format of a number with the type '{}' and a precision is not supported; use e, f, g or %",
            spec.type == 0 ? ' ' : spec.type);
  }
}

std::string integer_digits(std::uint64_t magnitude, char type) {
  switch (type) {
    case 'x':
      return fmt::format("{:x}", magnitude);
    case 'X':
      return fmt::format("{:X}", magnitude);
    case 'o':
      return fmt::format("{:o}", magnitude);
    case 'b':
      return fmt::format("{:b}", magnitude);
    default:
      return fmt::format("{}", magnitude);
  }
}

std::string format_number(Runtime& runtime, const Value& value, const Spec& spec) {
  const bool whole =
      value.is_integer() && std::string_view("doxXb").find(spec.type == 0 ? 'd' : spec.type) != std::string::npos;
  std::string digits;
  bool is_negative = false;
  if (whole) {
    if (spec.precision >= 0) raise("Precision not allowed in integer format specifier");
    is_negative = value.as_integer() < 0;
    const auto bits = static_cast<std::uint64_t>(value.as_integer());
    digits = integer_digits(is_negative ? 0 - bits : bits, spec.type);
  } else {
    const double real = to_double(value);
    is_negative = std::signbit(real) && !std::isnan(real);
    digits = real_digits(std::fabs(real), spec);
  }
  if (spec.grouping != 0) {
    if (spec.align == '=') raise("grouped digits that are filled up with zeros are not supported");
    digits = grouped(std::move(digits), spec.grouping);
  }
  const std::string sign = is_negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  return padded(runtime, sign + digits, spec, '>', sign.size());
}

std::string format_text(Runtime& runtime, std::string text, const Spec& spec, char default_align) {
  if (spec.precision >= 0) text.resize(unicode::offset(text, static_cast<std::size_t>(spec.precision)));
  return padded(runtime, std::move(text), spec, default_align);
}

Spec read_spec(std::string_view text) {
  const auto is_align = [&](std::size_t i) {
    return i < text.size() && std::string_view("<>=^").find(text[i]) != std::string_view::npos;
  };
  Spec spec;
  std::size_t at = 0;
  const std::size_t fill = unicode::width(text[0]);
  if (is_align(fill)) {
    spec.fill = std::string(text.substr(0, fill));
    at = fill;
  }
  if (is_align(at)) spec.align = text[at++];
  const auto peek = [&] { return at < text.size() ? text[at] : '\0'; };
  if (peek() == '+' || peek() == '-' || peek() == ' ') spec.sign = text[at++];
  if (peek() == '#') raise("the flag '#' of a format is not supported");
  if (peek() == '0' && spec.align == 0) spec.fill_with_zeros();
  spec.width = read_number(text, at);
  if (peek() == ',' || peek() == '_') spec.grouping = text[at++];
  if (peek() == '.') {
    ++at;
    if (!is_digit(peek())) raise("Format specifier missing precision");
    spec.precision = static_cast<int>(read_number(text, at));
  }
  if (at < text.size()) spec.type = text[at++];
  if (at < text.size()) raise("Invalid format specifier");
  return spec;
}

// format(value, spec)
std::string format_value(Runtime& runtime, const Value& value, std::string_view text) {
  if (text.empty()) return str(runtime, value);
  if (!value.is_string() && !value.is_number()) {
    raise("unsupported format string passed to {}.__format__", type_name(value));
  }
  const Spec spec = read_spec(text);
  const std::string_view types = value.is_string() ? "s" : value.is_integer() ? "bdoxXefFg%" : "efFg%";
  if (spec.type != 0 && types.find(spec.type) == std::string_view::npos) {
    raise("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value));
  }
  if (value.is_number()) return format_number(runtime, value, spec);
  if (spec.sign != '-' || spec.align == '=' || spec.grouping != 0) raise("Invalid format specifier for a string");
  return format_text(runtime, value.text(), spec, '<');
}

// Formats a text with '%' conversions, each with the next argument.
class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, std::string_view format, const Value& arguments)
      : runtime_(runtime), format_(format), arguments_(arguments), out_(runtime.budget) {
    if (arguments.is(Kind::tuple)) {
      positional_ = arguments.items();
    } else {
      positional_ = {arguments};
      lenient_ = arguments.is(Kind::dict) || arguments.has_items() || arguments.is_undefined();
    }
  }

  std::string run() {
    while (at_ < format_.size()) {
      const std::size_t percent = std::min(format_.find('%', at_), format_.size());
      out_.append(format_.substr(at_, percent - at_));
      at_ = percent;
      if (at_ < format_.size()) {
        ++at_;
        convert();
      }
    }
    if (next_ < positional_.size() && !lenient_) raise("not all arguments converted during string formatting");
    return out_.take();
  }

 private:
  char peek() const { return at_ < format_.size() ? format_[at_] : '\0'; }

  Value next_argument() {
    if (next_ >= positional_.size()) raise("not enough arguments for format string");
    return positional_[next_++];
  }

  std::int64_t number_or_star() {
    if (peek() != '*') return read_number(format_, at_);
    ++at_;
    const Value value = next_argument();
    if (!value.is_integer()) raise("* wants int");
    constexpr std::int64_t farthest = std::numeric_limits<int>::max();
    return std::clamp<std::int64_t>(value.as_integer(), -farthest, farthest);
  }

  void convert() {
    std::optional<Value> keyed;
    if (peek() == '(') keyed = key_argument();
    Spec spec;
    bool left = false;
    bool zeros = false;
    for (; std::string_view("-+ 0").find(peek()) != std::string_view::npos; ++at_) {
      if (peek() == '-') left = true;
      if (peek() == '0') zeros = true;
      if (peek() == '+' || (peek() == ' ' && spec.sign != '+')) spec.sign = peek();
    }
    spec.width = number_or_star();
    left = left || spec.width < 0;
    spec.width = std::abs(spec.width);
    if (peek() == '.') {
      ++at_;
      spec.precision = static_cast<int>(std::max<std::int64_t>(0, number_or_star()));
    }
    if (at_ >= format_.size()) raise("incomplete format");
    spec.type = format_[at_++];
    if (spec.type == '%') return out_.append("%");
    spec.align = left ? '<' : '>';
    const Value value = keyed ? *keyed : next_argument();
    if (spec.type == 's' || spec.type == 'r') {
      return out_.append(format_text(runtime_, spec.type == 's' ? str(runtime_, value) : repr(runtime_, value), spec, '>'));
    }
    if (zeros && !left) spec.fill_with_zeros();
    out_.append(format_number(runtime_, number_of(value, spec), spec));
  }

  // The number that a conversion shows, and the type for it in str.format.
  static Value number_of(const Value& value, Spec& spec) {
    if (value.is_undefined()) fail_undefined(value);
    if (value.is(Kind::large)) fail_too_large();
    if (std::string_view("eEfFgG").find(spec.type) != std::string_view::npos) {
      if (!value.is_number()) raise("must be real number, not {}", type_name(value));
      return Value::real(to_double(value));
    }
    if (std::string_view("diuxXo").find(spec.type) == std::string_view::npos) {
      raise("the format character '{}' is not supported", spec.type);
    }
    const bool decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    if (!value.is_integer() && !(decimal && value.is(Kind::real))) {
      raise("%{} format: {} is required, not {}", spec.type, decimal ? "a real number" : "an integer", type_name(value));
    }
    if (spec.precision >= 0) raise("a precision of the conversion %{} is not supported", spec.type);
    if (decimal) spec.type = 'd';
    return value.is(Kind::real) ? Value::integer(to_integer(value.as_real())) : value;
  }

  Value key_argument() {
    if (!arguments_.is(Kind::dict)) raise("format requires a mapping");
    const std::size_t begin = at_ + 1;
    const std::size_t end = format_.find(')', begin);
    if (end == std::string_view::npos) raise("incomplete format key");
    at_ = end + 1;
    next_ = positional_.size();  // later conversions need a key too
    const std::string_view key = format_.substr(begin, end - begin);
    const Value* found = arguments_.dict().find(key);
    if (found == nullptr) raise("the format string's key {} is not in the mapping", jinja::quoted(key));
    return *found;
  }

  Runtime& runtime_;
  const std::string_view format_;
  const Value& arguments_;
  TextBuilder out_;
  std::vector<Value> positional_;
  bool lenient_ = false;  // unused arguments are no error, as for all values with keys or indices
  std::size_t next_ = 0;
  std::size_t at_ = 0;
};

// str.format: fills in the replacement fields.
class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const Arguments& arguments) : runtime_(runtime), arguments_(arguments) {}

  std::string run(std::string_view format) {
    TextBuilder out(runtime_.budget);
    for (std::size_t at = 0; at < format.size();) {
      const std::size_t brace = std::min(format.find_first_of("{}", at), format.size());
      out.append(format.substr(at, brace - at));
      at = brace;
      if (at >= format.size()) break;
      if (at + 1 < format.size() && format[at + 1] == format[at]) {
        out.append(format.substr(at, 1));
        at += 2;
        continue;
      }
      if (format[at] == '}') raise("Single '}}' encountered in format string");
      const std::size_t end = format.find('}', at);
      if (end == std::string_view::npos) raise("expected '}}' before end of string");
      out.append(field(format.substr(at + 1, end - at - 1)));
      at = end + 1;
    }
    return out.take();
  }

 private:
  // name[.attribute | [key]]…[!conversion][:spec]
  std::string field(std::string_view text) {
    if (text.find('{') != std::string_view::npos) raise("fields within fields of a format are not supported");
    const std::size_t colon = std::min(text.find(':'), text.size());
    std::string_view name = text.substr(0, colon);
    char conversion = 's';
    const std::size_t mark = name.find('!');
    if (mark != std::string_view::npos) {
      if (mark + 2 != name.size()) raise("end of string while looking for conversion specifier");
      conversion = name[mark + 1];
      name = name.substr(0, mark);
      if (conversion != 's' && conversion != 'r') raise("the conversion '!{}' of a format is not supported", conversion);
    }
    Value value = resolve(name);
    if (mark != std::string_view::npos) {
      value = runtime_.string(conversion == 's' ? str(runtime_, value) : repr(runtime_, value));
    }
    return format_value(runtime_, value, text.substr(std::min(colon + 1, text.size())));
  }

  Value resolve(std::string_view name) {
    std::size_t at = std::min(name.find_first_of(".["), name.size());
    Value value = argument(name.substr(0, at));
    while (at < name.size()) {
      const bool is_key = name[at] == '[';
      if (!is_key && name[at] != '.') raise("Only '.' or '[' may follow ']' in format field specifier");
      const std::size_t end = is_key ? name.find(']', at) : std::min(name.find_first_of(".[", at + 1), name.size());
      if (end == std::string_view::npos) raise("Missing ']' in format string");
      if (end == at + 1) raise("Empty attribute in format string");
      const std::string_view key = name.substr(at + 1, end - at - 1);
      const auto index = is_key && is_number(key) ? parse_integer(key, 10) : std::nullopt;
      value = !is_key ? attribute(runtime_, value, key)
                      : item(runtime_, value, index ? Value::integer(*index) : runtime_.string(key));
      at = is_key ? end + 1 : end;
    }
    return value;
  }

  static bool is_number(std::string_view text) {
    return !text.empty() && text.size() < 10 && std::ranges::all_of(text, is_digit);
  }

  Value argument(std::string_view name) {
    if (!name.empty() && !is_number(name)) {
      runtime_.budget.step(arguments_.named.size() / 8 + 1);
      for (const auto& [key, value] : arguments_.named) {
        if (key == name) return value;
      }
      raise("format has no argument {}", jinja::quoted(name));
    }
    bool& this_way = name.empty() ? automatic_ : manual_;
    this_way = true;
    if (automatic_ && manual_) raise("cannot switch between manual and automatic field numbering");
    const auto index = static_cast<std::size_t>(name.empty() ? next_++ : parse_integer(name, 10).value_or(0));
    if (index >= arguments_.positional.size()) {
      raise("Replacement index {} out of range for positional args tuple", index);
    }
    return arguments_.positional[index];
  }

  Runtime& runtime_;
  const Arguments& arguments_;
  std::int64_t next_ = 0;
  bool automatic_ = false;
  bool manual_ = false;
};

}  // namespace

std::string percent_format(Runtime& runtime, std::string_view format, const Value& arguments) {
  return PercentFormatter(runtime, format, arguments).run();
}

std::string brace_format(Runtime& runtime, std::string_view format, const Arguments& arguments) {
  return BraceFormatter(runtime, arguments).run(format);
}

}  // namespace plumb::text::jinja
