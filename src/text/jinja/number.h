// Arithmetic by Python's rules with 64-bit integers, and numbers read from texts as in Python.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

enum class Operator : std::uint8_t { add, subtract, multiply, divide, floor_divide, modulo, power };
// Fails if an integer result does not fit 64 bits.
Value arithmetic(Runtime& runtime, Operator op, const Value& left, const Value& right);
Value negative(const Value& value);
Value positive(const Value& value);

// Fails with the error that an integer does not fit 64 bits.
[[noreturn]] void fail_too_large();

double to_double(const Value& value);                                 // of a number
std::int64_t to_integer(double value);                                // towards zero; fails where it does not fit
std::int64_t index_value(const Value& value, std::string_view what);  // of an integer
// int(text) and float(text), with ASCII digits and no underscores; empty where Python raises ValueError.
std::optional<std::int64_t> parse_integer(std::string_view text);
std::optional<double> parse_real(std::string_view text);

}  // namespace plumb::text::jinja
