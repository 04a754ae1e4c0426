// Matrices of a run's values, row-major, and measures of the difference between two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace plumb::diagnose {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

// Copies row `at` of one matrix to row `place` of another.
void copy_row(std::span<const float> from, std::size_t at, std::span<float> to, std::size_t place, std::size_t width);
// Some rows of a matrix.
std::vector<float> gather(std::span<const float> data, std::size_t width, std::span<const std::uint32_t> rows);
// A matrix of n_rows rows with `data` at the given rows; all other rows are NaN.
std::vector<float> scatter(std::vector<float> data, std::size_t width, std::span<const std::uint32_t> rows,
                           std::size_t n_rows);

// Up to n elements of a list, evenly spread and including the last.
std::vector<std::uint32_t> sample(std::span<const std::uint32_t> all, std::size_t n);

// The sums of a * b, of squares, and of the squares of a - b.
double dot(std::span<const float> a, std::span<const float> b);
inline double squares(std::span<const float> a) { return dot(a, a); }
double squared_distance(std::span<const float> a, std::span<const float> b);
// The root mean square; elements that are not finite count as 0.
double rms(std::span<const float> a);
// The root mean square of a - b. It is infinite if only one of two elements is NaN, or if one of them is infinite.
double rms_difference(std::span<const float> a, std::span<const float> b);

double median(std::vector<double> of);
// x to so many significant digits, as people write numbers.
double to_digits(double x, int n);

}  // namespace plumb::diagnose
