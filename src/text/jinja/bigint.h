// Integers beyond 64 bits for the template interpreter, bounded: Python itself refuses to print integers of more than
// 4300 digits, and this is about the bound here. Results beyond it are empty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace plumb::text::jinja {

class BigInt {
 public:
  static constexpr std::size_t kMaxBits = 14'336;

  BigInt() = default;
  explicit BigInt(std::int64_t value);
  static BigInt from_unsigned(std::uint64_t value);
  // Truncates towards zero; the value must be finite.
  static BigInt from_double(double value);
  // Digits of a base up to 36, letters in either case, nothing else; empty where there are others or too many.
  static std::optional<BigInt> parse(std::string_view digits, unsigned base);

  bool is_zero() const { return limbs_.empty(); }
  bool is_negative() const { return negative_; }
  bool is_odd() const { return !limbs_.empty() && (limbs_[0] & 1u) != 0; }
  std::size_t bits() const;
  std::optional<std::int64_t> to_int64() const;
  double to_double() const;  // rounded to nearest even; infinite where it is too large
  std::string to_string(unsigned base = 10) const;

  BigInt operator-() const;
  static int compare(const BigInt& left, const BigInt& right);
  static std::optional<BigInt> add(const BigInt& left, const BigInt& right);
  static std::optional<BigInt> subtract(const BigInt& left, const BigInt& right) { return add(left, -right); }
  static std::optional<BigInt> multiply(const BigInt& left, const BigInt& right);
  // Quotient rounded down and the remainder with the divisor's sign. The divisor is not zero.
  static std::pair<BigInt, BigInt> floor_divide(const BigInt& left, const BigInt& right);
  static std::optional<BigInt> power(BigInt base, std::uint64_t exponent);

 private:
  using Limbs = std::vector<std::uint32_t>;
  static int compare_magnitude(const Limbs& left, const Limbs& right);
  static Limbs add_magnitude(const Limbs& left, const Limbs& right);
  static Limbs subtract_magnitude(const Limbs& left, const Limbs& right);  // left is not the smaller
  static std::optional<BigInt> bounded(bool negative, Limbs limbs);
  static std::uint32_t divide_small(Limbs& limbs, std::uint32_t divisor);  // in place; gives the remainder

  bool negative_ = false;
  Limbs limbs_;  // least significant first, no leading zeros
};

}  // namespace plumb::text::jinja
