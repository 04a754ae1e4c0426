// printf-style formatting ('%5.2f' % x), str.format, and the format specifications that both share.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "text/jinja/value.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

constexpr int kMaxPrecision = 1'000;

struct Spec {
  std::string fill = " ";
  char align = 0;
  char sign = '-';
  bool alternate = false;
  bool zero = false;
  std::int64_t width = 0;
  char grouping = 0;
  int precision = -1;
  char type = 0;
};

std::string padded(Runtime& runtime, std::string text, const Spec& spec, char default_align, std::size_t prefix_size) {
  const auto length = static_cast<std::int64_t>(unicode::count(text));
  if (length >= spec.width) return text;
  const auto missing = static_cast<std::size_t>(spec.width - length);
  runtime.budget.expect(missing * spec.fill.size());
  runtime.budget.work(missing * spec.fill.size());
  const auto fill = [&](std::size_t count) {
    std::string out;
    out.reserve(count * spec.fill.size());
    for (std::size_t i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  switch (spec.align == 0 ? default_align : spec.align) {
    case '<':
      return text + fill(missing);
    case '^':
      return fill(missing / 2) + text + fill(missing - missing / 2);
    case '=':
      return text.substr(0, prefix_size) + fill(missing) + text.substr(prefix_size);
    default:
      return fill(missing) + text;
  }
}

std::string sign_of(bool is_negative, char sign) {
  if (is_negative) return "-";
  return sign == '-' ? "" : std::string(1, sign);
}

std::string grouped(const std::string& digits, char separator, std::size_t group) {
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % group == 0) out += separator;
    out += digits[i];
  }
  return out;
}

// Zero fill counts the separators that it would get, so the digits are extended first.
std::string zero_extended(Runtime& runtime, std::string digits, std::size_t taken, const Spec& spec, std::size_t group) {
  if (!(spec.align == '=' && spec.fill == "0")) return spec.grouping ? grouped(digits, spec.grouping, group) : digits;
  runtime.budget.expect(static_cast<std::size_t>(std::max<std::int64_t>(spec.width, 0)) * 2);
  const auto width = static_cast<std::size_t>(std::max<std::int64_t>(spec.width - static_cast<std::int64_t>(taken), 0));
  if (spec.grouping == 0) {
    if (digits.size() < width) digits.insert(0, width - digits.size(), '0');
    return digits;
  }
  const auto grown = [&](std::size_t count) { return count + (count - 1) / group; };
  std::size_t count = std::max<std::size_t>(digits.size(), 1);
  if (grown(count) < width) {
    count = std::max(count, width * group / (group + 1));
    while (grown(count) < width) ++count;
  }
  if (digits.size() < count) digits.insert(0, count - digits.size(), '0');
  return grouped(digits, spec.grouping, group);
}

std::string real_digits(double magnitude, char type, int precision, bool alternate) {
  if (std::isnan(magnitude)) return (type == 'E' || type == 'F' || type == 'G') ? "NAN" : "nan";
  if (std::isinf(magnitude)) return (type == 'E' || type == 'F' || type == 'G') ? "INF" : "inf";
  const int digits = precision < 0 ? 6 : precision;
  switch (type) {
    case 'e':
      return alternate ? fmt::format("{:#.{}e}", magnitude, digits) : fmt::format("{:.{}e}", magnitude, digits);
    case 'E':
      return alternate ? fmt::format("{:#.{}E}", magnitude, digits) : fmt::format("{:.{}E}", magnitude, digits);
    case 'f':
    case 'F':
      return alternate ? fmt::format("{:#.{}f}", magnitude, digits) : fmt::format("{:.{}f}", magnitude, digits);
    case 'G':
      return alternate ? fmt::format("{:#.{}G}", magnitude, std::max(digits, 1))
                       : fmt::format("{:.{}G}", magnitude, std::max(digits, 1));
    case '%':
      return fmt::format("{:.{}f}", magnitude * 100.0, digits) + '%';
    case 0: {
      if (precision < 0) return real_to_string(magnitude);
      // As 'g', but with a digit after the point, and with exponents one power earlier.
      std::string text = fmt::format("{:.{}g}", magnitude, std::max(digits, 1));
      const bool plain = text.find_first_of("e.") == std::string::npos;
      if (plain && static_cast<int>(text.size()) >= std::max(digits, 1) && magnitude != 0.0) {
        return fmt::format("{:.{}e}", magnitude, std::max(digits, 1) - 1);
      }
      return plain ? text + ".0" : text;
    }
    default:
      return alternate ? fmt::format("{:#.{}g}", magnitude, std::max(digits, 1))
                       : fmt::format("{:.{}g}", magnitude, std::max(digits, 1));
  }
}

std::string format_real(Runtime& runtime, double value, const Spec& spec) {
  if (spec.precision > kMaxPrecision) raise("a precision of {} is too large", spec.precision);
  const bool is_negative = std::signbit(value) && !std::isnan(value);
  std::string digits = real_digits(std::fabs(value), spec.type == 'n' ? 'g' : spec.type, spec.precision, spec.alternate);
  const std::size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  const std::string rest = digits.substr(whole);
  const std::string sign = sign_of(is_negative, spec.sign);
  const std::string text =
      sign + (whole == 0 ? "" : zero_extended(runtime, digits.substr(0, whole), sign.size() + rest.size(), spec, 3)) + rest;
  return padded(runtime, text, spec, '>', sign.size());
}

std::string format_integer(Runtime& runtime, const Value& value, const Spec& spec) {
  if (spec.precision >= 0) raise("Precision not allowed in integer format specifier");
  const BigInt number = to_big(value);
  runtime.budget.work(number.bits() * 64);
  if (spec.type == 'c') {
    const auto code = number.to_int64();
    if (!code || *code < 0 || *code > 0x10FFFF) raise("%c arg not in range(0x110000)");
    std::string text;
    unicode::append(text, static_cast<char32_t>(*code));
    return padded(runtime, unicode::repaired(text), spec, '<', 0);
  }
  unsigned base = 10;
  std::string prefix;
  if (spec.type == 'b') base = 2, prefix = "0b";
  if (spec.type == 'o') base = 8, prefix = "0o";
  if (spec.type == 'x') base = 16, prefix = "0x";
  if (spec.type == 'X') base = 16, prefix = "0X";
  std::string digits = number.to_string(base);
  if (number.is_negative()) digits.erase(0, 1);
  if (spec.type == 'X')
    std::ranges::transform(digits, digits.begin(), [](char c) { return static_cast<char>(std::toupper(c)); });
  const std::string head = sign_of(number.is_negative(), spec.sign) + (spec.alternate ? prefix : "");
  return padded(runtime, head + zero_extended(runtime, digits, head.size(), spec, base == 10 ? 3 : 4), spec, '>',
                head.size());
}

class SpecReader {
 public:
  explicit SpecReader(std::string_view text) : text_(text) {}

  // [[fill]align][sign][#][0][width][grouping][.precision][type]
  Spec read() {
    Spec spec;
    std::size_t after_first = 0;
    if (!text_.empty()) unicode::next(text_, after_first);
    if (after_first < text_.size() && is_align(text_[after_first])) {
      spec.fill = std::string(text_.substr(0, after_first));
      spec.align = text_[after_first];
      at_ = after_first + 1;
    } else if (!text_.empty() && is_align(text_[0])) {
      spec.align = text_[0];
      at_ = 1;
    }
    if (peek() == '+' || peek() == '-' || peek() == ' ') spec.sign = text_[at_++];
    if (peek() == '#') spec.alternate = true, ++at_;
    if (peek() == '0') {
      spec.zero = true;
      ++at_;
    }
    spec.width = number();
    if (peek() == ',' || peek() == '_') spec.grouping = text_[at_++];
    if (peek() == '.') {
      ++at_;
      if (peek() < '0' || peek() > '9') raise("Format specifier missing precision");
      spec.precision = static_cast<int>(std::min<std::int64_t>(number(), std::numeric_limits<int>::max()));
    }
    if (at_ < text_.size()) {
      spec.type = text_[at_++];
      if (at_ < text_.size()) raise("Invalid format specifier");
    }
    return spec;
  }

 private:
  static bool is_align(char c) { return c == '<' || c == '>' || c == '=' || c == '^'; }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  std::int64_t number() {
    std::int64_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      value = value * 10 + (text_[at_++] - '0');
      if (value > std::numeric_limits<int>::max()) raise("Too many decimal digits in format string");
    }
    return value;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

std::string ascii_escaped(const std::string& shown) {
  std::string out;
  for (std::size_t at = 0; at < shown.size();) {
    const char32_t c = unicode::next(shown, at);
    const auto code = static_cast<std::uint32_t>(c);
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", code);
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      out += fmt::format("\\U{:08x}", code);
    }
  }
  return out;
}

[[noreturn]] void fail_type_code(char type, const Value& value) {
  raise("Unknown format code '{}' for object of type '{}'", type, type_name(value));
}

}  // namespace

std::string format_value(Runtime& runtime, const Value& value, std::string_view text) {
  if (text.empty()) return str(runtime, value);
  if (!value.is_string() && !value.is_number()) {
    raise("unsupported format string passed to {}.__format__", type_name(value));
  }
  Spec spec = SpecReader(text).read();
  if (value.is_string()) {
    if (spec.type != 0 && spec.type != 's') fail_type_code(spec.type, value);
    if (spec.sign != '-' || spec.align == '=' || spec.grouping != 0 || spec.alternate) {
      raise("Invalid format specifier for a string");
    }
    if (spec.zero && spec.fill == " ") spec.fill = "0";
    std::string shown = value.text();
    if (spec.precision >= 0) shown.resize(unicode::offset(shown, static_cast<std::size_t>(spec.precision)));
    return padded(runtime, std::move(shown), spec, '<', 0);
  }
  if (spec.zero && spec.align == 0) {
    spec.fill = "0";
    spec.align = '=';
  }
  constexpr std::string_view kIntegerTypes = "bcdoxXn";
  constexpr std::string_view kRealTypes = "eEfFgGn%";
  const bool as_integer = value.is_integer() && (spec.type == 0 || kIntegerTypes.find(spec.type) != std::string_view::npos);
  if (as_integer) return format_integer(runtime, value, spec);
  if (spec.type != 0 && kRealTypes.find(spec.type) == std::string_view::npos) fail_type_code(spec.type, value);
  return format_real(runtime, to_double(value), spec);
}

namespace {

// One '%' conversion after another over the arguments.
class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, const String& format, const Value& arguments)
      : runtime_(runtime), format_(format.text), escapes_(format.markup), arguments_(arguments), out_(runtime) {
    if (arguments.is(Kind::tuple)) {
      positional_ = arguments.items();
    } else {
      positional_ = {arguments};
      mapping_ = arguments.is(Kind::dict);
      lenient_ = mapping_ || arguments.is(Kind::list) || arguments.is(Kind::range) || arguments.is_undefined();
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
  char take() {
    if (at_ >= format_.size()) raise("incomplete format");
    return format_[at_++];
  }

  Value next_argument() {
    if (next_ >= positional_.size()) raise("not enough arguments for format string");
    return positional_[next_++];
  }

  std::int64_t number_or_star() {
    if (at_ < format_.size() && format_[at_] == '*') {
      ++at_;
      const Value value = next_argument();
      if (!value.is_small_integer()) raise("* wants int");
      return std::clamp<std::int64_t>(value.as_integer(), -std::numeric_limits<int>::max(),
                                      std::numeric_limits<int>::max());
    }
    std::int64_t value = 0;
    while (at_ < format_.size() && format_[at_] >= '0' && format_[at_] <= '9') {
      value = value * 10 + (format_[at_++] - '0');
      if (value > std::numeric_limits<int>::max()) raise("width too big");
    }
    return value;
  }

  void convert() {
    std::optional<Value> keyed;
    if (at_ < format_.size() && format_[at_] == '(') keyed = key_argument();
    Spec spec;
    bool left = false;
    for (bool more = true; more && at_ < format_.size();) {
      switch (format_[at_]) {
        case '-':
          left = true;
          break;
        case '+':
          spec.sign = '+';
          break;
        case ' ':
          spec.sign = spec.sign == '+' ? '+' : ' ';
          break;
        case '#':
          spec.alternate = true;
          break;
        case '0':
          spec.zero = true;
          break;
        default:
          more = false;
      }
      if (more) ++at_;
    }
    spec.width = number_or_star();
    if (spec.width < 0) {
      left = true;
      spec.width = -spec.width;
    }
    if (at_ < format_.size() && format_[at_] == '.') {
      ++at_;
      spec.precision = static_cast<int>(std::max<std::int64_t>(0, number_or_star()));
    }
    while (at_ < format_.size() && (format_[at_] == 'l' || format_[at_] == 'h' || format_[at_] == 'L')) ++at_;
    const std::size_t type_at = at_;
    spec.type = take();
    spec.align = left ? '<' : '>';
    if (spec.type == '%') {
      out_.append("%");
      return;
    }
    constexpr std::string_view kKnown = "sradiuoxXeEfFgGc";
    if (kKnown.find(spec.type) == std::string_view::npos) {
      raise("unsupported format character '{}' (0x{:x}) at index {}", spec.type, static_cast<unsigned char>(spec.type),
            type_at);
    }
    const Value value = keyed ? *keyed : next_argument();
    out_.append(converted(value, spec, left));
  }

  Value key_argument() {
    ++at_;
    if (!mapping_) raise("format requires a mapping");
    const std::size_t begin = at_;
    for (int open = 1; open > 0;) {
      if (at_ >= format_.size()) raise("incomplete format key");
      if (format_[at_] == '(') ++open;
      if (format_[at_] == ')') --open;
      ++at_;
    }
    const std::string_view key = format_.substr(begin, at_ - begin - 1);
    const Value* found = arguments_.dict().find(key);
    next_ = positional_.size();  // what follows needs a key, too
    if (found == nullptr) raise("the format string's key {} is not in the mapping", quoted(key));
    return *found;
  }

  std::string converted(const Value& value, Spec& spec, bool left) {
    switch (spec.type) {
      case 's':
      case 'r':
      case 'a': {
        std::string text;
        if (spec.type == 's') {
          text = escapes_ ? html_escaped(runtime_, value) : str(runtime_, value);
        } else {
          text = repr(runtime_, value);
          if (escapes_) text = html_escaped(runtime_, std::string_view(text));
          if (spec.type == 'a') text = ascii_escaped(text);
        }
        if (spec.precision >= 0) text.resize(unicode::offset(text, static_cast<std::size_t>(spec.precision)));
        return padded(runtime_, std::move(text), spec, '>', 0);
      }
      case 'c': {
        if (value.is_string()) {
          if (value.string().length != 1) raise("%c requires int or char");
          return padded(runtime_, value.text(), spec, '>', 0);
        }
        if (!value.is_integer()) raise("%c requires int or char");
        spec.precision = -1;
        return format_integer(runtime_, value, spec);
      }
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X':
        return converted_integer(value, spec, left);
      default: {
        if (value.is_undefined()) fail_undefined(value);
        if (!value.is_number()) raise("must be real number, not {}", type_name(value));
        zero_fill(spec, left);
        return format_real(runtime_, to_double(value), spec);
      }
    }
  }

  static void zero_fill(Spec& spec, bool left) {
    if (!spec.zero || left) return;
    spec.fill = "0";
    spec.align = '=';
  }

  std::string converted_integer(const Value& value, Spec& spec, bool left) {
    const bool decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    if (value.is_undefined()) fail_undefined(value);
    Value number = value;
    if (value.is(Kind::real) && decimal) {
      if (!std::isfinite(value.as_real())) raise("cannot convert float infinity or NaN to integer");
      number = runtime_.big(BigInt::from_double(value.as_real()));
    } else if (!value.is_integer()) {
      if (decimal) raise("%{} format: a real number is required, not {}", spec.type, type_name(value));
      raise("%{} format: an integer is required, not {}", spec.type, type_name(value));
    }
    if (decimal) spec.type = 'd';
    zero_fill(spec, left);
    if (spec.precision < 0) return format_integer(runtime_, number, spec);
    // A precision is a least number of digits.
    if (spec.precision > kMaxPrecision) raise("a precision of {} is too large", spec.precision);
    Spec bare = spec;
    bare.width = 0;
    bare.precision = -1;
    bare.fill = " ";
    bare.align = '>';
    std::string text = format_integer(runtime_, number, bare);
    const std::size_t digits_begin = std::min(text.find_first_not_of("+- "), text.size());
    const std::size_t prefix = digits_begin + (spec.alternate && !decimal ? 2 : 0);
    const std::size_t n_digits = text.size() - prefix;
    const auto wanted = static_cast<std::size_t>(spec.precision);
    if (n_digits < wanted) text.insert(prefix, wanted - n_digits, '0');
    return padded(runtime_, std::move(text), spec, '>', prefix);
  }

  Runtime& runtime_;
  const std::string_view format_;
  const bool escapes_;  // what is put into markup
  const Value& arguments_;
  TextBuilder out_;
  std::vector<Value> positional_;
  bool mapping_ = false;
  bool lenient_ = false;  // arguments left over are no error, as for everything that has keys or indices
  std::size_t next_ = 0;
  std::size_t at_ = 0;
};

// str.format over its replacement fields.
class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const Arguments& arguments, bool escapes)
      : runtime_(runtime), arguments_(arguments), escapes_(escapes) {}

  std::string run(std::string_view format, int nesting) {
    if (nesting > 2) raise("Max string recursion exceeded");
    TextBuilder out(runtime_);
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
      const std::size_t begin = ++at;
      int open = 1;
      while (at < format.size() && open > 0) {
        if (format[at] == '{') ++open;
        if (format[at] == '}') --open;
        ++at;
      }
      if (open > 0 && begin >= format.size()) raise("Single '{{' encountered in format string");
      if (open > 0) raise("expected '}}' before end of string");
      out.append(field(format.substr(begin, at - begin - 1), nesting));
    }
    return out.take();
  }

 private:
  std::string field(std::string_view text, int nesting) {
    std::size_t end = 0;
    for (bool in_brackets = false; end < text.size(); ++end) {
      if (text[end] == '[') in_brackets = true;
      if (text[end] == ']') in_brackets = false;
      if (!in_brackets && (text[end] == '!' || text[end] == ':')) break;
      if (text[end] == '{') raise("unexpected '{{' in field name");
    }
    Value value = resolve(text.substr(0, end));
    if (end < text.size() && text[end] == '!') {
      if (end + 1 >= text.size()) raise("end of string while looking for conversion specifier");
      const char conversion = text[end + 1];
      end += 2;
      if (end < text.size() && text[end] != ':') raise("expected ':' after conversion specifier");
      if (conversion == 's') {
        value = runtime_.string(str(runtime_, value));
      } else if (conversion == 'r') {
        value = runtime_.string(repr(runtime_, value));
      } else if (conversion == 'a') {
        value = runtime_.string(ascii_escaped(repr(runtime_, value)));
      } else {
        raise("Unknown conversion specifier {}", conversion);
      }
    }
    std::string spec;
    if (end < text.size()) spec = run(text.substr(end + 1), nesting + 1);
    if (!escapes_) return format_value(runtime_, value, spec);
    if (!value.is_markup()) return html_escaped(runtime_, std::string_view(format_value(runtime_, value, spec)));
    if (!spec.empty()) raise("Unsupported format specification for Markup.");
    return value.text();
  }

  Value resolve(std::string_view name) {
    std::size_t at = std::min(name.find_first_of(".["), name.size());
    Value value = argument(name.substr(0, at));
    while (at < name.size()) {
      if (name[at] == '.') {
        const std::size_t end = std::min(name.find_first_of(".[", at + 1), name.size());
        if (end == at + 1) raise("Empty attribute in format string");
        value = attribute(runtime_, value, name.substr(at + 1, end - at - 1));
        at = end;
      } else if (name[at] == '[') {
        const std::size_t end = name.find(']', at);
        if (end == std::string_view::npos) raise("Missing ']' in format string");
        if (end == at + 1) raise("Empty attribute in format string");
        const std::string_view key = name.substr(at + 1, end - at - 1);
        value = item(runtime_, value, key_of(key));
        at = end + 1;
      } else {
        raise("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  static bool is_number(std::string_view text) {
    return !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string_view::npos;
  }
  Value key_of(std::string_view key) {
    return is_number(key) ? Value::integer(std::stoll(std::string(key))) : runtime_.string(key);
  }

  Value argument(std::string_view name) {
    std::size_t index = 0;
    if (name.empty()) {
      if (manual_) raise("cannot switch from manual field specification to automatic field numbering");
      automatic_ = true;
      index = next_++;
    } else if (is_number(name)) {
      if (automatic_) raise("cannot switch from automatic field numbering to manual field specification");
      manual_ = true;
      index = std::stoull(std::string(name));
    } else {
      runtime_.budget.step(arguments_.named.size() / 8 + 1);
      for (const auto& [key, value] : arguments_.named) {
        if (key == name) return value;
      }
      raise("format has no argument {}", quoted(name));
    }
    if (index >= arguments_.positional.size()) {
      raise("Replacement index {} out of range for positional args tuple", index);
    }
    return arguments_.positional[index];
  }

  Runtime& runtime_;
  const Arguments& arguments_;
  const bool escapes_;  // what is put into markup
  std::size_t next_ = 0;
  bool automatic_ = false;
  bool manual_ = false;
};

}  // namespace

std::string percent_format(Runtime& runtime, const String& format, const Value& arguments) {
  return PercentFormatter(runtime, format, arguments).run();
}

std::string brace_format(Runtime& runtime, const String& format, const Arguments& arguments) {
  return BraceFormatter(runtime, arguments, format.markup).run(format.text, 1);
}

}  // namespace plumb::text::jinja
