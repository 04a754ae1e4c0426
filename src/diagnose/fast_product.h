// Products for diagnosis: the reference's, to the last bit, in less time; of a sample of the outputs, or with the sums from
// which variances follow. tests/diagnose/fast_product_test.cpp holds them to the reference.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backends/reference/ops.h"
#include "plan/plan.h"

namespace plumb::diagnose {

// Sums over a product's inner dimension from which all of its variances follow; all are [rows, n_out].
struct ProductSums {
  std::vector<float> squares;  // sum_i (w x)^2
  std::vector<float> blocks;  // sum_i w^2 step^2 / 12, step being that of int8 blocks; empty: the weights are not quantized
  std::vector<float> inputs;  // sum_i w^2 variance of x; empty: x has none
};

// Every column_stride-th output of a row, the others being NaN.
std::vector<float> product(const plan::Linear& op, const backends::reference::Scene& scene,
                           std::uint32_t column_stride = 1);
// All outputs and their sums by one pass over the weights. variance_of_x: [rows, n_in] or empty.
std::vector<float> product(const plan::Linear& op, const backends::reference::Scene& scene,
                           std::span<const float> variance_of_x, ProductSums& sums);

}  // namespace plumb::diagnose
