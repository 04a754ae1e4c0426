#include "text/jinja/number.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "text/jinja/format.h"
#include "text/jinja/show.h"
#include "text/jinja/strings.h"

namespace plumb::text::jinja {

namespace {

constexpr const char* symbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

[[noreturn]] void fail_types(Operator op, const Value& left, const Value& right) {
  raise("unsupported operand type(s) for {}: '{}' and '{}'", symbols[static_cast<std::size_t>(op)], type_name(left),
        type_name(right));
}

std::int64_t floor_divide(std::int64_t left, std::int64_t right) {
  const std::int64_t quotient = left / right;
  return left % right != 0 && (left < 0) != (right < 0) ? quotient - 1 : quotient;
}

std::int64_t multiplied(std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  if (__builtin_mul_overflow(left, right, &result)) fail_too_large();
  return result;
}

std::int64_t raised(std::int64_t base, std::int64_t exponent) {
  if (base == 0 || base == 1) return exponent == 0 ? 1 : base;
  if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  std::int64_t result = 1;
  for (; exponent > 0; --exponent) result = multiplied(result, base);  // overflows after 62 rounds at most
  return result;
}

double modulo(double left, double right) {
  const double remainder = std::fmod(left, right);
  if (remainder == 0.0) return std::copysign(0.0, right);
  return (right < 0) != (remainder < 0) ? remainder + right : remainder;
}

double real_arithmetic(Operator op, double left, double right) {
  switch (op) {
    case Operator::add:
      return left + right;
    case Operator::subtract:
      return left - right;
    case Operator::multiply:
      return left * right;
    case Operator::divide:
      if (right == 0.0) raise("float division by zero");
      return left / right;
    case Operator::floor_divide:
      if (right == 0.0) raise("float floor division by zero");
      if (const double quotient = std::round((left - modulo(left, right)) / right); quotient != 0.0) return quotient;
      return std::copysign(0.0, left / right);
    case Operator::modulo:
      if (right == 0.0) raise("float modulo");
      return modulo(left, right);
    case Operator::power:
      break;
  }
  if (left == 0.0 && right < 0.0) raise("0.0 cannot be raised to a negative power");
  if (left < 0.0 && std::isfinite(left) && std::isfinite(right) && std::trunc(right) != right) {
    raise("a negative number to a fractional power is a complex number, which templates do not have");
  }
  const double result = std::pow(left, right);
  if (std::isinf(result) && std::isfinite(left) && std::isfinite(right)) raise("(34, 'Numerical result out of range')");
  return result;
}

Value integer_arithmetic(Operator op, std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  switch (op) {
    case Operator::add:
      if (__builtin_add_overflow(left, right, &result)) fail_too_large();
      return Value::integer(result);
    case Operator::subtract:
      if (__builtin_sub_overflow(left, right, &result)) fail_too_large();
      return Value::integer(result);
    case Operator::multiply:
      return Value::integer(multiplied(left, right));
    case Operator::divide:
      if (right == 0) raise("division by zero");
      return Value::real(static_cast<double>(left) / static_cast<double>(right));
    case Operator::floor_divide:
      if (right == 0) raise("integer division or modulo by zero");
      return Value::integer(right == -1 ? multiplied(left, -1) : floor_divide(left, right));
    case Operator::modulo:
      if (right == 0) raise("integer modulo by zero");
      return Value::integer(right == -1 ? 0 : left - floor_divide(left, right) * right);
    case Operator::power:
      break;
  }
  if (right < 0) return Value::real(real_arithmetic(op, static_cast<double>(left), static_cast<double>(right)));
  return Value::integer(raised(left, right));
}

Value repeated(Runtime& runtime, const Value& sequence, std::int64_t times) {
  if (sequence.is_string()) return runtime.string(repeated_text(runtime, sequence.text(), times));
  const std::vector<Value>& unit = sequence.items();
  std::vector<Value> items;
  for (; times > 0 && !unit.empty(); --times) {
    runtime.budget.step(unit.size() / 8);
    runtime.budget.expect((items.size() + unit.size()) * sizeof(Value));
    items.insert(items.end(), unit.begin(), unit.end());
  }
  return runtime.sequence(sequence.kind(), std::move(items));
}

Value concatenated(Runtime& runtime, const Value& left, const Value& right) {
  const std::string name = type_name(left);
  if (left.kind() != right.kind()) {
    raise("can only concatenate {} (not \"{}\") to {}", name, type_name(right), name);
  }
  if (left.is_string()) {
    runtime.budget.expect(left.text().size() + right.text().size());
    if (left.string().marked || right.string().marked) {
      return runtime.marked(html_escaped(runtime, left.string()) + html_escaped(runtime, right.string()));
    }
    return runtime.string(left.text() + right.text());
  }
  runtime.budget.expect((left.items().size() + right.items().size()) * sizeof(Value));
  std::vector<Value> items = left.items();
  items.insert(items.end(), right.items().begin(), right.items().end());
  return runtime.sequence(left.kind(), std::move(items));
}

// The whole text as a number for std::from_chars, which takes no plus sign and does not skip white space.
std::string_view plain_number(std::string_view text) {
  text = trimmed(text);
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  return text;
}

}  // namespace

void fail_too_large() { raise("an integer beyond 64 bits is not supported"); }

double to_double(const Value& value) {
  return value.is(Kind::real) ? value.as_real() : static_cast<double>(value.as_integer());
}

std::int64_t to_integer(double value) {
  if (std::isnan(value)) raise("cannot convert float NaN to integer");
  if (std::isinf(value)) raise("cannot convert float infinity to integer");
  constexpr double past = 0x1p63;
  if (value >= past || value < -past) fail_too_large();
  return static_cast<std::int64_t>(value);
}

std::int64_t index_value(const Value& value, std::string_view what) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::large)) fail_too_large();
  if (!value.is_integer()) raise("{}: '{}' object cannot be interpreted as an integer", what, type_name(value));
  return value.as_integer();
}

Value arithmetic(Runtime& runtime, Operator op, const Value& left, const Value& right) {
  if (op == Operator::modulo && left.is_string()) return runtime.string(percent_format(runtime, left.text(), right));
  if (left.is_undefined()) fail_undefined(left);
  if (right.is_undefined()) fail_undefined(right);
  if (left.is(Kind::large) || right.is(Kind::large)) fail_too_large();
  if (left.is_integer() && right.is_integer()) return integer_arithmetic(op, left.as_integer(), right.as_integer());
  if (left.is_number() && right.is_number()) {
    return Value::real(real_arithmetic(op, to_double(left), to_double(right)));
  }
  const bool left_repeats = left.is_string() || left.is_sequence();
  const bool right_repeats = right.is_string() || right.is_sequence();
  if (op == Operator::add && left_repeats) return concatenated(runtime, left, right);
  if (op == Operator::multiply && (left_repeats || right_repeats)) {
    const Value& count = left_repeats ? right : left;
    if (!count.is_integer()) raise("can't multiply sequence by non-int of type '{}'", type_name(count));
    return repeated(runtime, left_repeats ? left : right, count.as_integer());
  }
  fail_types(op, left, right);
}

Value negative(const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::real)) return Value::real(-value.as_real());
  if (value.is_integer()) return Value::integer(multiplied(value.as_integer(), -1));
  if (value.is(Kind::large)) fail_too_large();
  raise("bad operand type for unary -: '{}'", type_name(value));
}

Value positive(const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::real)) return value;
  if (value.is_integer()) return Value::integer(value.as_integer());
  raise("bad operand type for unary +: '{}'", type_name(value));
}

std::optional<std::int64_t> parse_integer(std::string_view text) {
  text = plain_number(text);
  const char* const past = text.data() + text.size();
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), past, value);
  if (end != past || error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) fail_too_large();
  return value;
}

std::optional<double> parse_real(std::string_view text) {
  text = plain_number(text);
  const char* const past = text.data() + text.size();
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), past, value);
  if (end != past || error == std::errc::invalid_argument) return std::nullopt;
  // Out of range at either end: strtod tells infinity from zero.
  return error == std::errc::result_out_of_range ? std::strtod(std::string(text).c_str(), nullptr) : value;
}

}  // namespace plumb::text::jinja
