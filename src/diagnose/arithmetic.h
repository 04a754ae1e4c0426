// The allowed difference of an op's output from the exact one. It follows from the number formats in which an engine may
// compute, the length of the op's sums, and the op's values; docs/diagnosis.md has the derivation.
//
// Rounding errors are taken as independent and uniform within half a unit in the last place, and an op's output as linear
// in them, so each output element has one variance, the sum of theirs. isolation.h says how many standard deviations an
// error may be.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "backends/reference/ops.h"
#include "diagnose/fast_product.h"
#include "plan/plan.h"
#include "trace/trace.h"

namespace plumb::diagnose {

// Half a unit in the last place of 1 (unit roundoff): https://en.wikipedia.org/wiki/Unit_roundoff
inline constexpr double unit_f32 = 0x1p-24, unit_tf32 = 0x1p-11, unit_f16 = 0x1p-11, unit_bf16 = 0x1p-8;
// Half the smallest positive number.
inline constexpr double least_f16 = 0x1p-25;

// The arithmetic of an engine. Zero means no error beyond float32's.
struct Arithmetic {
  std::string_view name;
  double operand = 0;  // unit roundoff of a product's operands: weights, activations, queries, cached keys and values
  double cache = 0;    // unit roundoff of keys and values in the cache
  double activations =
      0;                  // with quantized weights, activations have steps of (a block's largest) / (127 * this); 1 is int8
  double sum = unit_f32;  // unit roundoff of a product's running sum
  double store = 0;       // unit roundoff of every op's result
  double drift = 0;       // share by which a product is too small if its operands are truncated, not rounded
  bool eight_bit_cache = false;
};

// From fine to coarse; the first is float32.
std::span<const Arithmetic> arithmetics();

// The error in a value that an op reads: a variance for each element, and rounding to a trace's dtype.
struct InputError {
  std::span<const float> variance;  // empty: only rounding
  double rounding = 0, least = 0;
  [[nodiscard]] double at(std::size_t i, double x) const;
};

// The errors of an op's inputs, and those of a layer's cached keys and values, by position.
struct InputErrors {
  std::function<InputError(plan::ValueId)> of;
  std::function<std::pair<InputError, InputError>(std::uint32_t layer)> of_cache;
};

// The variance of every element of the op's output y, [rows, width]. `sums` is for Linear.
std::vector<float> variance(const plan::Op& op, const backends::reference::Scene& scene, std::span<const float> y,
                            const InputErrors& errors, const ProductSums& sums, const Arithmetic& arithmetic);

// Unit roundoff of a trace's dtype, and half its least positive number; both are 0 for float32.
double rounding_of(trace::Dtype dtype);
double least_of(trace::Dtype dtype);

}  // namespace plumb::diagnose
