#include "diagnose/hypothesis.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>

namespace plumb::diagnose {

std::span<const Hypothesis> catalogue() {
  static const std::vector<Hypothesis> all = [] {
    std::vector<Hypothesis> result;
    for (const auto& family :
         {families::tokens(), families::parameters(), families::run(), families::sampling(), families::embedding(),
          families::norm(), families::product(), families::quantization(), families::rope(), families::attention(),
          families::feed_forward(), families::experts(), families::buffer(), families::precision()}) {
      result.insert(result.end(), family.begin(), family.end());
    }
    return result;
  }();
  return all;
}

const Hypothesis* find_hypothesis(std::string_view name) {
  const auto found =
      std::find_if(catalogue().begin(), catalogue().end(), [&](const Hypothesis& h) { return h.name == name; });
  return found == catalogue().end() ? nullptr : &*found;
}

Candidate afterwards(std::string detail, std::function<void(const Site&, std::vector<float>&)> change) {
  return {std::move(detail), [change = std::move(change)](const Site& site) {
            std::vector<float> y = site.compute(*site.op);
            change(site, y);
            return y;
          }};
}

Candidate with_weight(std::string detail, plan::WeightId weight, backends::reference::RowSource rows) {
  return {std::move(detail),
          [weight, rows = std::move(rows)](const Site& site) {
            backends::reference::Scene scene = *site.scene;
            scene.weight = [&](plan::WeightId id) { return id == weight ? rows : site.scene->weight(id); };
            return backends::reference::compute(*site.op, scene);
          },
          true};
}

Candidate with_input(std::string detail, plan::ValueId input, std::function<std::vector<float>(const Site&)> value) {
  return {std::move(detail),
          [input, value = std::move(value)](const Site& site) {
            const std::vector<float> other = value(site);
            backends::reference::Scene scene = *site.scene;
            scene.value = [&](plan::ValueId id) -> std::span<const float> {
              return id == input ? std::span<const float>(other) : site.scene->value(id);
            };
            return backends::reference::compute(*site.op, scene);
          },
          true};
}

std::optional<std::uint32_t> layer_of(std::string_view value) {
  constexpr std::string_view prefix = "blk.";
  if (!value.starts_with(prefix)) return std::nullopt;
  std::uint32_t layer = 0;
  const auto [end, error] = std::from_chars(value.data() + prefix.size(), value.data() + value.size(), layer);
  if (error != std::errc() || end == value.data() + value.size() || *end != '.') return std::nullopt;
  return layer;
}

std::vector<Candidate> with_other_values(const Question& q, plan::ValueId input) {
  std::vector<Candidate> result;
  const std::uint32_t n_layers = q.plan().cache.n_layers;
  const auto layer = layer_of(q.plan().value(q.out()).name);
  const std::uint32_t first = layer ? *layer - std::min(1u, *layer) : n_layers - std::min(2u, n_layers);
  const plan::Value& right = q.plan().value(input);
  for (std::uint32_t i = 0; i < q.plan().values.size(); ++i) {
    const plan::ValueId id{i};
    const plan::Value& other = q.plan().values[i];
    const auto of = layer_of(other.name);
    const bool near = !of || *of >= first || (!layer && role(other.name) == "output");
    if (id == input || other.width != right.width || !near || q.replay.producer(id) >= q.op_index) continue;
    result.push_back(with_input(fmt::format("{} in place of {}", other.name, right.name), input,
                                [id](const Site& site) { return site.value(id); }));
  }
  return result;
}

std::optional<double> fitted(const Question& q, double low, double high, const std::function<plan::Op(double)>& op_with) {
  constexpr int n_grid = 200, n_refined = 50;
  constexpr double most_left = 0.2;  // of the right op's error
  if (q.found.empty() || q.rows.empty()) return std::nullopt;
  const std::size_t width = q.width();
  const std::size_t places[] = {q.rows.size() / 2, q.rows.size() - 1};
  View view(q.replay, {q.rows[places[0]], q.rows[places[1]]});
  view.prepare(q.op);
  const auto distance = [&](const std::vector<float>& y) {
    double sum = 0;
    for (std::size_t r = 0; r < 2; ++r) {
      for (std::size_t i = 0; i < width; ++i) {
        const double d = double{q.found[places[r] * width + i]} - y[r * width + i];
        sum += d * d;
      }
    }
    return std::isfinite(sum) ? sum : std::numeric_limits<double>::infinity();
  };
  const auto error = [&](double log) {
    return distance(backends::reference::compute(op_with(std::exp(log)), view.scene()));
  };
  const double step = (std::log(high) - std::log(low)) / n_grid;
  double best = std::log(low), least = std::numeric_limits<double>::infinity();
  for (int i = 0; i <= n_grid; ++i) {
    const double at = std::log(low) + i * step, e = error(at);
    if (e < least) {
      least = e;
      best = at;
    }
  }
  if (!std::isfinite(least)) return std::nullopt;
  // By the golden section.
  const double ratio = 2 - std::numbers::phi;
  double a = best - step, b = best + step, c = a + ratio * (b - a), d = b - ratio * (b - a);
  double at_c = error(c), at_d = error(d);
  for (int i = 0; i < n_refined; ++i) {
    if (at_c < at_d) {
      b = d;
      d = c;
      at_d = at_c;
      c = a + ratio * (b - a);
      at_c = error(c);
    } else {
      a = c;
      c = d;
      at_c = at_d;
      d = b - ratio * (b - a);
      at_d = error(d);
    }
  }
  least = std::min(at_c, at_d);
  if (least > most_left * most_left * distance(backends::reference::compute(q.op, view.scene()))) return std::nullopt;
  return std::exp(at_c < at_d ? c : d);
}

std::vector<std::int64_t> likely_shifts(std::span<const float> found, std::span<const float> expected) {
  constexpr std::size_t n_compared = 6, most = 4;
  const std::size_t n = expected.size();
  if (n <= 2 * n_compared) return {};
  std::vector<std::size_t> largest(n);
  std::iota(largest.begin(), largest.end(), std::size_t{0});
  std::partial_sort(largest.begin(), largest.begin() + n_compared, largest.end(),
                    [&](std::size_t a, std::size_t b) { return std::abs(expected[a]) > std::abs(expected[b]); });
  largest.resize(n_compared);
  const float close = 0.02f * std::abs(expected[largest.front()]);
  std::vector<std::int64_t> shifts;
  for (std::size_t by = 1; by < n && shifts.size() < most; ++by) {
    // A shift that does not go around loses some.
    const auto n_fit = std::count_if(largest.begin(), largest.end(),
                                     [&](std::size_t i) { return std::abs(found[(i + by) % n] - expected[i]) <= close; });
    if (n_fit + 1 < static_cast<std::ptrdiff_t>(n_compared)) continue;
    shifts.push_back(static_cast<std::int64_t>(by) - (by <= n / 2 ? 0 : static_cast<std::int64_t>(n)));
  }
  return shifts;
}

bool resembles(const Question& question, std::span<const float> guess) {
  constexpr double most = 0.5;
  if (question.found.empty()) return true;
  if (question.found.size() != question.expected.size() || guess.size() != question.found.size()) return false;
  double wrong = 0, right = 0;
  for (std::size_t i = 0; i < guess.size(); ++i) {
    if (!std::isfinite(question.found[i])) continue;
    const double difference = double{question.found[i]} - guess[i];
    wrong += std::isnan(difference) ? 0 : difference * difference;
    right += std::pow(double{question.found[i]} - question.expected[i], 2);
  }
  return right > 0 && wrong <= most * most * right;
}

bool is_overflow(const Question& question) {
  if (question.found.empty() || question.found.size() != question.expected.size()) return false;
  const std::size_t width = question.width();
  bool any = false;
  for (std::size_t start = 0; start < question.found.size(); start += width) {
    float largest = 0, least = std::numeric_limits<float>::infinity();
    for (std::size_t i = start; i < start + width; ++i) {
      const float found = question.found[i], expected = question.expected[i];
      if (std::isnan(found)) return false;
      if (!std::isinf(found)) {
        largest = std::max(largest, std::abs(expected));
        continue;
      }
      if (std::signbit(found) != std::signbit(expected)) return false;
      any = true;
      least = std::min(least, std::abs(expected));
    }
    if (least < largest * 0.999f) return false;
  }
  return any;
}

std::string_view role(std::string_view value) {
  return layer_of(value) ? value.substr(value.find('.', value.find('.') + 1) + 1) : value;
}

}  // namespace plumb::diagnose
