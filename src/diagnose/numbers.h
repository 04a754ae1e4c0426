// Matrices of a run's values, row-major, and how far two of them are apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace plumb::diagnose {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

// Some rows of a matrix.
std::vector<float> gather(std::span<const float> data, std::size_t width, std::span<const std::uint32_t> rows);
// The matrix of n_rows that has these rows, in this order; all others are NaN.
std::vector<float> scatter(std::vector<float> data, std::size_t width, std::span<const std::uint32_t> rows,
                           std::size_t n_rows);

// Up to n of a list, evenly spread, the last among them.
std::vector<std::uint32_t> sample(std::span<const std::uint32_t> all, std::size_t n);

// Root mean square; elements that are not finite count as 0.
double rms(std::span<const float> a);
// Of a - b; infinite where one is not a number and the other is, or one of them is infinite.
double rms_difference(std::span<const float> a, std::span<const float> b);

}  // namespace plumb::diagnose
