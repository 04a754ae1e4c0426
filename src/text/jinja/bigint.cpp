#include "text/jinja/bigint.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace plumb::text::jinja {

namespace {

constexpr unsigned kLimbBits = 32;

void trim(std::vector<std::uint32_t>& limbs) {
  while (!limbs.empty() && limbs.back() == 0) limbs.pop_back();
}

bool bit_at(const std::vector<std::uint32_t>& limbs, std::size_t bit) {
  return ((limbs[bit / kLimbBits] >> (bit % kLimbBits)) & 1u) != 0;
}

}  // namespace

BigInt::BigInt(std::int64_t value)
    : BigInt(from_unsigned(value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value))) {
  negative_ = value < 0;
}

BigInt BigInt::from_unsigned(std::uint64_t value) {
  BigInt result;
  result.limbs_ = {static_cast<std::uint32_t>(value), static_cast<std::uint32_t>(value >> kLimbBits)};
  trim(result.limbs_);
  return result;
}

BigInt BigInt::from_double(double value) {
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(std::trunc(value)), &exponent);
  constexpr int kMantissaBits = std::numeric_limits<double>::digits;
  auto mantissa = static_cast<std::uint64_t>(std::ldexp(fraction, kMantissaBits));
  BigInt result;
  if (mantissa == 0) return result;
  const int shift = exponent - kMantissaBits;
  if (shift <= 0) {
    result = from_unsigned(mantissa >> -shift);
  } else {
    result.limbs_.assign(static_cast<std::size_t>(shift) / kLimbBits, 0);
    const unsigned within = static_cast<unsigned>(shift) % kLimbBits;
    const std::uint64_t low = mantissa << within;
    const std::uint64_t high = within == 0 ? 0 : mantissa >> (64 - within);
    result.limbs_.push_back(static_cast<std::uint32_t>(low));
    result.limbs_.push_back(static_cast<std::uint32_t>(low >> kLimbBits));
    result.limbs_.push_back(static_cast<std::uint32_t>(high));
    trim(result.limbs_);
  }
  result.negative_ = value < 0 && !result.limbs_.empty();
  return result;
}

std::optional<BigInt> BigInt::parse(std::string_view digits, unsigned base) {
  if (digits.empty()) return std::nullopt;
  Limbs limbs;
  for (const char c : digits) {
    unsigned digit = base;
    if (c >= '0' && c <= '9') digit = static_cast<unsigned>(c - '0');
    if (c >= 'a' && c <= 'z') digit = static_cast<unsigned>(c - 'a') + 10;
    if (c >= 'A' && c <= 'Z') digit = static_cast<unsigned>(c - 'A') + 10;
    if (digit >= base) return std::nullopt;
    std::uint64_t carry = digit;
    for (std::uint32_t& limb : limbs) {
      carry += static_cast<std::uint64_t>(limb) * base;
      limb = static_cast<std::uint32_t>(carry);
      carry >>= kLimbBits;
    }
    if (carry != 0) limbs.push_back(static_cast<std::uint32_t>(carry));
    if (limbs.size() * kLimbBits > kMaxBits + kLimbBits) return std::nullopt;
  }
  return bounded(false, std::move(limbs));
}

std::size_t BigInt::bits() const {
  if (limbs_.empty()) return 0;
  return (limbs_.size() - 1) * kLimbBits + static_cast<std::size_t>(std::bit_width(limbs_.back()));
}

std::optional<std::int64_t> BigInt::to_int64() const {
  if (limbs_.size() > 2) return std::nullopt;
  std::uint64_t magnitude = 0;
  for (std::size_t i = limbs_.size(); i-- > 0;) magnitude = (magnitude << kLimbBits) | limbs_[i];
  constexpr std::uint64_t kTop = std::uint64_t{1} << 63;
  if (magnitude > kTop || (magnitude == kTop && !negative_)) return std::nullopt;
  return static_cast<std::int64_t>(negative_ ? 0 - magnitude : magnitude);
}

double BigInt::to_double() const {
  const std::size_t n_bits = bits();
  if (n_bits == 0) return 0.0;
  // The top 64 bits, the last of which collects all that are cut off: converting them then rounds as the whole would.
  std::uint64_t top = 0;
  const std::size_t taken = std::min<std::size_t>(n_bits, 64);
  for (std::size_t i = 0; i < taken; ++i) top = (top << 1) | (bit_at(limbs_, n_bits - 1 - i) ? 1u : 0u);
  for (std::size_t i = 0; i + taken < n_bits; ++i) {
    if (bit_at(limbs_, i)) {
      top |= 1u;
      break;
    }
  }
  const double magnitude = std::ldexp(static_cast<double>(top), static_cast<int>(n_bits - taken));
  return negative_ ? -magnitude : magnitude;
}

std::string BigInt::to_string(unsigned base) const {
  if (limbs_.empty()) return "0";
  std::string digits;
  for (Limbs rest = limbs_; !rest.empty();) {
    const std::uint32_t digit = divide_small(rest, base);
    digits += static_cast<char>(digit < 10 ? '0' + digit : 'a' + (digit - 10));
  }
  if (negative_) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

BigInt BigInt::operator-() const {
  BigInt result = *this;
  result.negative_ = !negative_ && !limbs_.empty();
  return result;
}

int BigInt::compare(const BigInt& left, const BigInt& right) {
  if (left.negative_ != right.negative_) return left.negative_ ? -1 : 1;
  const int magnitude = compare_magnitude(left.limbs_, right.limbs_);
  return left.negative_ ? -magnitude : magnitude;
}

std::optional<BigInt> BigInt::add(const BigInt& left, const BigInt& right) {
  if (left.negative_ == right.negative_) return bounded(left.negative_, add_magnitude(left.limbs_, right.limbs_));
  if (compare_magnitude(left.limbs_, right.limbs_) >= 0) {
    return bounded(left.negative_, subtract_magnitude(left.limbs_, right.limbs_));
  }
  return bounded(right.negative_, subtract_magnitude(right.limbs_, left.limbs_));
}

std::optional<BigInt> BigInt::multiply(const BigInt& left, const BigInt& right) {
  if (left.bits() + right.bits() > kMaxBits + 1) return std::nullopt;
  Limbs product(left.limbs_.size() + right.limbs_.size(), 0);
  for (std::size_t i = 0; i < left.limbs_.size(); ++i) {
    std::uint64_t carry = 0;
    for (std::size_t j = 0; j < right.limbs_.size(); ++j) {
      carry += static_cast<std::uint64_t>(left.limbs_[i]) * right.limbs_[j] + product[i + j];
      product[i + j] = static_cast<std::uint32_t>(carry);
      carry >>= kLimbBits;
    }
    product[i + right.limbs_.size()] = static_cast<std::uint32_t>(carry);
  }
  return bounded(left.negative_ != right.negative_, std::move(product));
}

std::pair<BigInt, BigInt> BigInt::floor_divide(const BigInt& left, const BigInt& right) {
  // Shift and subtract, bit by bit: the numbers are bounded and rare.
  Limbs quotient(left.limbs_.size(), 0);
  Limbs remainder;
  for (std::size_t bit = left.bits(); bit-- > 0;) {
    std::uint32_t carry = bit_at(left.limbs_, bit) ? 1 : 0;
    for (std::uint32_t& limb : remainder) {
      const std::uint32_t out = limb >> (kLimbBits - 1);
      limb = (limb << 1) | carry;
      carry = out;
    }
    if (carry != 0) remainder.push_back(carry);
    if (compare_magnitude(remainder, right.limbs_) >= 0) {
      remainder = subtract_magnitude(remainder, right.limbs_);
      quotient[bit / kLimbBits] |= std::uint32_t{1} << (bit % kLimbBits);
    }
  }
  const bool exact = remainder.empty();
  BigInt result;
  result.limbs_ = std::move(quotient);
  trim(result.limbs_);
  BigInt rest;
  rest.limbs_ = std::move(remainder);
  if (left.negative_ != right.negative_ && !exact) {
    result.limbs_ = add_magnitude(result.limbs_, {1});
    rest.limbs_ = subtract_magnitude(right.limbs_, rest.limbs_);
  }
  result.negative_ = left.negative_ != right.negative_ && !result.limbs_.empty();
  rest.negative_ = right.negative_ && !rest.limbs_.empty();
  return {std::move(result), std::move(rest)};
}

std::optional<BigInt> BigInt::power(BigInt base, std::uint64_t exponent) {
  BigInt result(1);
  while (exponent != 0) {
    if ((exponent & 1u) != 0) {
      auto product = multiply(result, base);
      if (!product) return std::nullopt;
      result = std::move(*product);
    }
    exponent >>= 1;
    if (exponent == 0) break;
    auto square = multiply(base, base);
    if (!square) return std::nullopt;
    base = std::move(*square);
  }
  return result;
}

int BigInt::compare_magnitude(const Limbs& left, const Limbs& right) {
  if (left.size() != right.size()) return left.size() < right.size() ? -1 : 1;
  for (std::size_t i = left.size(); i-- > 0;) {
    if (left[i] != right[i]) return left[i] < right[i] ? -1 : 1;
  }
  return 0;
}

BigInt::Limbs BigInt::add_magnitude(const Limbs& left, const Limbs& right) {
  Limbs sum(std::max(left.size(), right.size()) + 1, 0);
  std::uint64_t carry = 0;
  for (std::size_t i = 0; i < sum.size(); ++i) {
    if (i < left.size()) carry += left[i];
    if (i < right.size()) carry += right[i];
    sum[i] = static_cast<std::uint32_t>(carry);
    carry >>= kLimbBits;
  }
  trim(sum);
  return sum;
}

BigInt::Limbs BigInt::subtract_magnitude(const Limbs& left, const Limbs& right) {
  Limbs difference(left.size(), 0);
  std::uint64_t borrow = 0;
  for (std::size_t i = 0; i < left.size(); ++i) {
    const std::uint64_t taken = borrow + (i < right.size() ? right[i] : 0);
    borrow = left[i] < taken ? 1 : 0;
    difference[i] = static_cast<std::uint32_t>(left[i] - taken);
  }
  trim(difference);
  return difference;
}

std::optional<BigInt> BigInt::bounded(bool negative, Limbs limbs) {
  trim(limbs);
  BigInt result;
  result.limbs_ = std::move(limbs);
  result.negative_ = negative && !result.limbs_.empty();
  if (result.bits() > kMaxBits) return std::nullopt;
  return result;
}

std::uint32_t BigInt::divide_small(Limbs& limbs, std::uint32_t divisor) {
  std::uint64_t remainder = 0;
  for (std::size_t i = limbs.size(); i-- > 0;) {
    remainder = (remainder << kLimbBits) | limbs[i];
    limbs[i] = static_cast<std::uint32_t>(remainder / divisor);
    remainder %= divisor;
  }
  trim(limbs);
  return static_cast<std::uint32_t>(remainder);
}

}  // namespace plumb::text::jinja
