// Fast products for diagnosis, equal to the reference's bit for bit: of a sample of the outputs, or with the sums from
// which variances follow. tests/diagnose/fast_product_test.cpp compares them with the reference.
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
  std::vector<float> blocks;   // sum_i w^2 step^2 / 12, with the step of int8 blocks; empty: the weights are not quantized
  std::vector<float> inputs;   // sum_i w^2 variance of x; empty: x has none
};

// Every column_stride-th output of a row; the others are NaN.
std::vector<float> product(const plan::Linear& op, const backends::reference::Scene& scene,
                           std::uint32_t column_stride = 1);
// All outputs and their sums, in one pass over the weights. variance_of_x: [rows, n_in] or empty.
std::vector<float> product(const plan::Linear& op, const backends::reference::Scene& scene,
                           std::span<const float> variance_of_x, ProductSums& sums);

}  // namespace plumb::diagnose
