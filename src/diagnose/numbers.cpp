#include "diagnose/numbers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace plumb::diagnose {

namespace {

double root_of_mean(double sum, std::size_t n) { return std::sqrt(sum / static_cast<double>(std::max<std::size_t>(1, n))); }

}  // namespace

void copy_row(std::span<const float> from, std::size_t at, std::span<float> to, std::size_t place, std::size_t width) {
  std::copy_n(&from[at * width], width, &to[place * width]);
}

std::vector<float> gather(std::span<const float> data, std::size_t width, std::span<const std::uint32_t> rows) {
  std::vector<float> out(rows.size() * width);
  for (std::size_t i = 0; i < rows.size(); ++i) copy_row(data, rows[i], out, i, width);
  return out;
}

std::vector<float> scatter(std::vector<float> data, std::size_t width, std::span<const std::uint32_t> rows,
                           std::size_t n_rows) {
  if (rows.size() == n_rows) return data;
  std::vector<float> out(n_rows * width, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t i = 0; i < rows.size(); ++i) copy_row(data, i, out, rows[i], width);
  return out;
}

std::vector<std::uint32_t> sample(std::span<const std::uint32_t> all, std::size_t n) {
  if (all.size() <= n) return {all.begin(), all.end()};
  std::vector<std::uint32_t> result;
  for (std::size_t i = 0; i < n; ++i) result.push_back(all[(i + 1) * all.size() / n - 1]);
  return result;
}

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

double squared_distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - b[i], 2);
  return sum;
}

double rms(std::span<const float> a) {
  double sum = 0;
  for (const float v : a) sum += std::isfinite(v) ? double{v} * v : 0;
  return root_of_mean(sum, a.size());
}

double rms_difference(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = double{a[i]} - b[i];
    if (std::isinf(d) || std::isnan(a[i]) != std::isnan(b[i])) return infinity;
    if (!std::isnan(d)) sum += d * d;
  }
  return root_of_mean(sum, a.size());
}

double median(std::vector<double> of) {
  const auto middle = of.begin() + static_cast<std::ptrdiff_t>(of.size() / 2);
  std::nth_element(of.begin(), middle, of.end());
  return *middle;
}

double to_digits(double x, int n) { return std::strtod(fmt::format("{:.{}g}", x, n).c_str(), nullptr); }

}  // namespace plumb::diagnose
