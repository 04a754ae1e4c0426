// Matrices of a run's values, row-major, and measures of the difference between two.
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
// A matrix of n_rows rows with `data` at the given rows; all other rows are NaN.
std::vector<float> scatter(std::vector<float> data, std::size_t width, std::span<const std::uint32_t> rows,
                           std::size_t n_rows);

// Up to n elements of a list, evenly spread and including the last.
std::vector<std::uint32_t> sample(std::span<const std::uint32_t> all, std::size_t n);

// The root mean square; elements that are not finite count as 0.
double rms(std::span<const float> a);
// The root mean square of a - b. It is infinite if only one of two elements is NaN, or if one of them is infinite.
double rms_difference(std::span<const float> a, std::span<const float> b);

}  // namespace plumb::diagnose
