// How far an op's output may lie from the exact one: derived from the number formats an engine may compute in, the length
// of its sums and the values at hand. docs/diagnosis.md has the derivation.
//
// Rounding errors are taken as independent and uniform within half a unit in the last place, and an op's output as linear
// in them: each output element gets the variance that they add up to. An engine follows where its errors, measured in these
// standard deviations, stay within `most_rms` as a root mean square and within `most_single` each.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "backends/reference/ops.h"
#include "plan/plan.h"
#include "trace/trace.h"

namespace plumb::diagnose {

// Half a unit in the last place of 1 (unit roundoff): https://en.wikipedia.org/wiki/Unit_roundoff
inline constexpr double unit_f32 = 0x1p-24, unit_tf32 = 0x1p-11, unit_f16 = 0x1p-11, unit_bf16 = 0x1p-8;
// Half the least difference of two numbers.
inline constexpr double least_f16 = 0x1p-25;

// One way to compute. Zero: exact but for float32.
struct Arithmetic {
  std::string_view name;
  double operand = 0;      // unit roundoff of a product's operands: weights, activations, queries, cached keys and values
  double cache = 0;        // of keys and values in the cache
  double activations = 0;  // steps of 1 / (this * 127) of a block's largest activation, with quantized weights; 1 is int8
  double sum = unit_f32;   // of the running sum of a product
  double store = 0;        // of every op's result
  double drift = 0;        // of a product relative to its size: operands cut off, not rounded, are all too small
  bool eight_bit_cache = false;
};

// From fine to coarse; the first is float32.
std::span<const Arithmetic> arithmetics();

// The sums over a product's inner dimension from which all of its variances follow.
struct ProductSums {
  std::vector<float> squares;  // sum_i (w x)^2
  std::vector<float> blocks;   // sum_i w^2 step^2 / 12 with int8 blocks; empty where the weights are not quantized
  std::vector<float> inputs;   // sum_i w^2 variance of x
};

// The error in a value that an op reads: a variance an element, or what rounding to a trace's dtype does.
struct InputError {
  std::span<const float> variance;  // empty: none but rounding
  double rounding = 0, least = 0;
  [[nodiscard]] double at(std::size_t i, double x) const;
};

// y and its ProductSums by one pass over the weights.
std::vector<float> product(const plan::Linear& op, const backends::reference::Scene& scene,
                           std::span<const float> variance_of_x, ProductSums& sums);

// Variance of every element of the op's output y, [rows, width]. `error` gives the inputs' errors; keys and values of the
// cache are those of KvWrite's inputs by position. `sums` is for Linear.
std::vector<float> variance(const plan::Op& op, const backends::reference::Scene& scene, std::span<const float> y,
                            const std::function<InputError(plan::ValueId)>& error,
                            const std::function<std::pair<InputError, InputError>(std::uint32_t layer)>& cache_error,
                            const ProductSums& sums, const Arithmetic& arithmetic);

// Rounding to a trace's dtype.
double rounding_of(trace::Dtype dtype);
double least_of(trace::Dtype dtype);

}  // namespace plumb::diagnose
