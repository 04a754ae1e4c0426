// Arithmetic by Python's rules, and the texts that Python reads as numbers.
#include <charconv>
#include <cmath>
#include <limits>

#include "text/jinja/value.h"
#include "text/unicode/characters.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

[[noreturn]] void fail_types(Operator op, const Value& left, const Value& right) {
  raise("unsupported operand type(s) for {}: '{}' and '{}'", kSymbols[static_cast<std::size_t>(op)], type_name(left),
        type_name(right));
}

Value bounded(Runtime& runtime, std::optional<BigInt> value) {
  if (!value) raise("an integer of more than {} bits is too large", BigInt::kMaxBits);
  return runtime.big(std::move(*value));
}

Value big_arithmetic(Runtime& runtime, Operator op, const BigInt& left, const BigInt& right) {
  const bool divides = op == Operator::floor_divide || op == Operator::modulo;
  runtime.budget.work((left.bits() + 32) * (right.bits() + 32) / (divides ? 8 : 64));
  switch (op) {
    case Operator::add:
      return bounded(runtime, BigInt::add(left, right));
    case Operator::subtract:
      return bounded(runtime, BigInt::subtract(left, right));
    case Operator::multiply:
      return bounded(runtime, BigInt::multiply(left, right));
    case Operator::floor_divide:
      return runtime.big(BigInt::floor_divide(left, right).first);
    case Operator::modulo:
      return runtime.big(BigInt::floor_divide(left, right).second);
    default:
      raise("this operator does not work on integers");
  }
}

std::int64_t floor_divide(std::int64_t left, std::int64_t right) {
  const std::int64_t quotient = left / right;
  return left % right != 0 && (left < 0) != (right < 0) ? quotient - 1 : quotient;
}

std::optional<Value> small_arithmetic(Operator op, std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  switch (op) {
    case Operator::add:
      if (__builtin_add_overflow(left, right, &result)) return std::nullopt;
      return Value::integer(result);
    case Operator::subtract:
      if (__builtin_sub_overflow(left, right, &result)) return std::nullopt;
      return Value::integer(result);
    case Operator::multiply:
      if (__builtin_mul_overflow(left, right, &result)) return std::nullopt;
      return Value::integer(result);
    case Operator::floor_divide:
      if (right == -1) return std::nullopt;
      return Value::integer(floor_divide(left, right));
    case Operator::modulo:
      if (right == -1) return Value::integer(0);
      return Value::integer(left - floor_divide(left, right) * right);
    default:
      return std::nullopt;
  }
}

double floor_divide_real(double left, double right, double& remainder) {
  remainder = std::fmod(left, right);
  double quotient = (left - remainder) / right;
  if (remainder != 0.0) {
    if ((right < 0) != (remainder < 0)) {
      remainder += right;
      quotient -= 1.0;
    }
  } else {
    remainder = std::copysign(0.0, right);
  }
  if (quotient == 0.0) return std::copysign(0.0, left / right);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1.0 : whole;
}

double finite(const Value& value) {
  const double result = to_double(value);
  if (value.is(Kind::big) && std::isinf(result)) raise("int too large to convert to float");
  return result;
}

Value real_arithmetic(Operator op, double left, double right) {
  switch (op) {
    case Operator::add:
      return Value::real(left + right);
    case Operator::subtract:
      return Value::real(left - right);
    case Operator::multiply:
      return Value::real(left * right);
    case Operator::divide:
      if (right == 0.0) raise("float division by zero");
      return Value::real(left / right);
    case Operator::floor_divide: {
      if (right == 0.0) raise("float floor division by zero");
      double remainder = 0.0;
      return Value::real(floor_divide_real(left, right, remainder));
    }
    case Operator::modulo: {
      if (right == 0.0) raise("float modulo");
      double remainder = 0.0;
      floor_divide_real(left, right, remainder);
      return Value::real(remainder);
    }
    case Operator::power: {
      if (left == 0.0 && right < 0.0) raise("0.0 cannot be raised to a negative power");
      if (left < 0.0 && std::isfinite(left) && std::isfinite(right) && std::trunc(right) != right) {
        raise("a negative number to a fractional power is a complex number, which templates do not have");
      }
      const double result = std::pow(left, right);
      if (std::isinf(result) && std::isfinite(left) && std::isfinite(right)) {
        raise("(34, 'Numerical result out of range')");
      }
      return Value::real(result);
    }
  }
  return {};
}

// The double that is nearest to the exact quotient.
double quotient_of(const Value& left, const Value& right) {
  constexpr std::int64_t kExact = std::int64_t{1} << std::numeric_limits<double>::digits;
  const auto is_exact = [](const Value& value) {
    return value.is_small_integer() && value.as_integer() <= kExact && value.as_integer() >= -kExact;
  };
  if (is_exact(left) && is_exact(right)) return to_double(left) / to_double(right);
  BigInt dividend = to_big(left);
  BigInt divisor = to_big(right);
  const bool is_negative = dividend.is_negative() != divisor.is_negative();
  if (dividend.is_negative()) dividend = -dividend;
  if (divisor.is_negative()) divisor = -divisor;
  // Scaled so that the whole part has more bits than a double; its last bit collects what is left.
  constexpr std::int64_t kBits = 66;
  const std::int64_t shift =
      kBits - (static_cast<std::int64_t>(dividend.bits()) - static_cast<std::int64_t>(divisor.bits()));
  auto& scaled = shift > 0 ? dividend : divisor;
  const auto factor = BigInt::power(BigInt(2), static_cast<std::uint64_t>(shift > 0 ? shift : -shift));
  const auto product = factor ? BigInt::multiply(scaled, *factor) : std::nullopt;
  if (!product) raise("an integer of more than {} bits is too large", BigInt::kMaxBits);
  scaled = *product;
  auto [whole, rest] = BigInt::floor_divide(dividend, divisor);
  if (!rest.is_zero() && !whole.is_odd()) whole = BigInt::add(whole, BigInt(1)).value_or(whole);
  const double result = std::ldexp(whole.to_double(), static_cast<int>(-shift));
  if (std::isinf(result)) raise("integer division result too large for a float");
  return is_negative ? -result : result;
}

Value integer_arithmetic(Runtime& runtime, Operator op, const Value& left, const Value& right) {
  const bool zero = right.is_small_integer() && right.as_integer() == 0;
  if (op == Operator::divide) {
    if (zero) raise("division by zero");
    return Value::real(quotient_of(left, right));
  }
  if (zero && op == Operator::floor_divide) raise("integer division or modulo by zero");
  if (zero && op == Operator::modulo) raise("integer modulo by zero");
  if (op == Operator::power) {
    const BigInt base = to_big(left);
    const BigInt exponent = to_big(right);
    if (exponent.is_negative()) return real_arithmetic(op, finite(left), finite(right));
    runtime.budget.work(std::size_t{1} << 16);
    const auto small = exponent.to_int64();
    if (base.bits() <= 1) {
      const bool odd = exponent.is_odd();
      if (base.is_zero()) return Value::integer(exponent.is_zero() ? 1 : 0);
      return Value::integer(base.is_negative() && odd ? -1 : 1);
    }
    if (!small) return bounded(runtime, std::nullopt);
    return bounded(runtime, BigInt::power(base, static_cast<std::uint64_t>(*small)));
  }
  if (left.is_small_integer() && right.is_small_integer()) {
    if (auto result = small_arithmetic(op, left.as_integer(), right.as_integer())) return *result;
  }
  return big_arithmetic(runtime, op, to_big(left), to_big(right));
}

Value repeated(Runtime& runtime, const Value& sequence, const Value& count) {
  const std::int64_t times = std::max<std::int64_t>(0, index_value(count, "repeat count"));
  const std::size_t n_items = sequence.is_string() ? sequence.text().size() : sequence.items().size();
  const std::size_t item_bytes = sequence.is_string() ? 1 : sizeof(Value);
  if (n_items != 0 && static_cast<std::uint64_t>(times) > runtime.budget.limits().max_memory_bytes / n_items) {
    runtime.budget.expect(std::numeric_limits<std::size_t>::max());
  }
  const std::size_t total = n_items * static_cast<std::size_t>(times);
  runtime.budget.expect(total * item_bytes);
  runtime.budget.work(total * item_bytes);
  if (sequence.is_string()) {
    std::string text;
    text.reserve(total);
    if (n_items == 1) text.assign(total, sequence.text()[0]);
    while (text.size() < total) text += sequence.text();
    return sequence.is_markup() ? runtime.markup(std::move(text)) : runtime.string(std::move(text));
  }
  std::vector<Value> items;
  items.reserve(total);
  while (items.size() < total) items.insert(items.end(), sequence.items().begin(), sequence.items().end());
  return sequence.is(Kind::list) ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
}

Value concatenated(Runtime& runtime, const Value& left, const Value& right) {
  const bool alike = left.kind() == right.kind();
  if (left.is_string()) {
    if (!alike) raise("can only concatenate str (not \"{}\") to str", type_name(right));
    if (left.is_markup() || right.is_markup()) {
      return runtime.markup(html_escaped(runtime, left) + html_escaped(runtime, right));
    }
    runtime.budget.expect(left.text().size() + right.text().size());
    return runtime.string(left.text() + right.text());
  }
  if (!alike) {
    const char* name = type_name(left);
    raise("can only concatenate {} (not \"{}\") to {}", name, type_name(right), name);
  }
  runtime.budget.expect((left.items().size() + right.items().size()) * sizeof(Value));
  std::vector<Value> items = left.items();
  items.insert(items.end(), right.items().begin(), right.items().end());
  return left.is(Kind::list) ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
}

}  // namespace

double to_double(const Value& value) {
  if (value.is(Kind::real)) return value.as_real();
  if (value.is(Kind::big)) return value.as_big().to_double();
  return static_cast<double>(value.as_integer());
}

BigInt to_big(const Value& value) { return value.is(Kind::big) ? value.as_big() : BigInt(value.as_integer()); }

std::int64_t index_value(const Value& value, std::string_view what) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::big)) raise("{}: the integer is too large", what);
  if (!value.is_small_integer()) raise("{}: '{}' object cannot be interpreted as an integer", what, type_name(value));
  return value.as_integer();
}

Value arithmetic(Runtime& runtime, Operator op, const Value& left, const Value& right) {
  if (op == Operator::modulo && left.is_string()) {
    std::string text = percent_format(runtime, left.string(), right);
    return left.is_markup() ? runtime.markup(std::move(text)) : runtime.string(std::move(text));
  }
  if (left.is_undefined()) fail_undefined(left);
  if (right.is_undefined()) fail_undefined(right);
  if (left.is_number() && right.is_number()) {
    if (left.is_integer() && right.is_integer()) return integer_arithmetic(runtime, op, left, right);
    return real_arithmetic(op, finite(left), finite(right));
  }
  const bool left_repeats = left.is_string() || left.is_sequence();
  const bool right_repeats = right.is_string() || right.is_sequence();
  if (op == Operator::add && left_repeats) return concatenated(runtime, left, right);
  if (op == Operator::multiply && (left_repeats || right_repeats)) {
    const Value& count = left_repeats ? right : left;
    if (!count.is_integer()) raise("can't multiply sequence by non-int of type '{}'", type_name(count));
    return repeated(runtime, left_repeats ? left : right, count);
  }
  fail_types(op, left, right);
}

Value negative(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::real)) return Value::real(-value.as_real());
  if (value.is_integer()) return runtime.big(-to_big(value));
  raise("bad operand type for unary -: '{}'", type_name(value));
}

Value positive(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::real)) return value;
  if (value.is_integer()) return runtime.big(to_big(value));
  raise("bad operand type for unary +: '{}'", type_name(value));
}

namespace {

// The text without surrounding white space, with underscores between digits
// removed; empty where an underscore is elsewhere.
std::optional<std::string> plain_number(std::string_view text, bool underscore_after_prefix) {
  std::u32string points = unicode::decode(text);
  while (!points.empty() && unicode::is_space(points.back())) points.pop_back();
  std::size_t begin = 0;
  while (begin < points.size() && unicode::is_space(points[begin])) ++begin;
  std::string out;
  bool after_digit = false;
  bool after_underscore = false;
  for (std::size_t i = begin; i < points.size(); ++i) {
    const char32_t c = points[i];
    if (c == U'_') {
      if (!after_digit) return std::nullopt;
      after_digit = false;
      after_underscore = true;
      continue;
    }
    const int digit = c >= U'0' && c <= U'9' ? static_cast<int>(c - U'0') : -1;
    if (digit < 0 && c >= 0x80) return std::nullopt;
    const char plain = digit >= 0 ? static_cast<char>('0' + digit) : static_cast<char>(c);
    const bool alphanumeric = digit >= 0 || (plain >= 'a' && plain <= 'z') || (plain >= 'A' && plain <= 'Z');
    if (after_underscore && (underscore_after_prefix ? !alphanumeric : digit < 0)) return std::nullopt;
    after_underscore = false;
    after_digit = underscore_after_prefix ? alphanumeric : digit >= 0;
    out += plain;
  }
  if (after_underscore) return std::nullopt;
  return out;
}

}  // namespace

std::optional<BigInt> parse_integer(std::string_view text, int base) {
  auto plain = plain_number(text, true);
  if (!plain) return std::nullopt;
  std::string_view digits = *plain;
  bool is_negative = false;
  if (!digits.empty() && (digits[0] == '+' || digits[0] == '-')) {
    is_negative = digits[0] == '-';
    digits.remove_prefix(1);
  }
  int marked = 0;
  if (digits.size() > 1 && digits[0] == '0') {
    const char mark = static_cast<char>(digits[1] | 0x20);
    if (mark == 'x') marked = 16;
    if (mark == 'o') marked = 8;
    if (mark == 'b') marked = 2;
  }
  if (marked != 0 && (base == 0 || base == marked)) {
    digits.remove_prefix(2);
    base = marked;
  } else if (base == 0) {
    base = 10;
    if (digits.size() > 1 && digits[0] == '0' && digits.find_first_not_of('0') != std::string_view::npos) {
      return std::nullopt;
    }
  }
  auto value = BigInt::parse(digits, static_cast<unsigned>(base));
  if (value && is_negative) value = -*value;
  return value;
}

std::optional<double> parse_real(std::string_view text) {
  auto plain = plain_number(text, false);
  if (!plain) return std::nullopt;
  std::string_view rest = *plain;
  bool is_negative = false;
  if (!rest.empty() && (rest[0] == '+' || rest[0] == '-')) {
    is_negative = rest[0] == '-';
    rest.remove_prefix(1);
  }
  std::string lowered(rest);
  for (char& c : lowered) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c | 0x20);
  }
  double value = 0.0;
  if (lowered == "inf" || lowered == "infinity") {
    value = std::numeric_limits<double>::infinity();
  } else if (lowered == "nan") {
    value = std::numeric_limits<double>::quiet_NaN();
  } else {
    if (lowered.empty() || (lowered[0] != '.' && (lowered[0] < '0' || lowered[0] > '9'))) return std::nullopt;
    const auto [end, error] = std::from_chars(lowered.data(), lowered.data() + lowered.size(), value);
    if (end != lowered.data() + lowered.size() || error == std::errc::invalid_argument) return std::nullopt;
    if (error == std::errc::result_out_of_range) {
      // Either end of the range: the sign of the exponent tells them apart.
      const std::size_t mark = lowered.find('e');
      const bool tiny = mark != std::string::npos ? lowered[mark + 1] == '-' : lowered[0] == '0' || lowered[0] == '.';
      value = tiny ? 0.0 : std::numeric_limits<double>::infinity();
    }
  }
  return is_negative ? -value : value;
}

}  // namespace plumb::text::jinja
