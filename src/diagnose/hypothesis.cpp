#include "diagnose/hypothesis.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>

#include "diagnose/numbers.h"

namespace plumb::diagnose {

std::span<const Hypothesis> catalogue() {
  static const std::vector<Hypothesis> all = [] {
    using namespace families;
    std::vector<Hypothesis> result;
    for (const auto& family :
         {tokens(), parameters(), run(), sampling(), embedding(), norm(), product(), logits(), quantization(), rope(),
          attention(), cache(), heads(), feed_forward(), scaling(), experts(), buffer(), precision()}) {
      result.insert(result.end(), family.begin(), family.end());
    }
    return result;
  }();
  return all;
}

void Candidates::changed(plan::Op op, std::string detail) {
  all_.push_back({std::move(detail), [op](const Site& site) { return site.compute(op); }, true});
}

void Candidates::afterwards(std::string detail, std::function<void(const Site&, std::vector<float>&)> change) {
  add(std::move(detail), [change = std::move(change)](const Site& site) {
    std::vector<float> y = site.compute();
    change(site, y);
    return y;
  });
}

void Candidates::with_each(std::string detail, std::function<float(float)> of) {
  afterwards(std::move(detail), [of = std::move(of)](const Site&, std::vector<float>& y) {
    std::transform(y.begin(), y.end(), y.begin(), of);
  });
}

void Candidates::with_elements(std::string detail, std::function<float(std::uint32_t, std::size_t, float)> of) {
  afterwards(std::move(detail), [of = std::move(of)](const Site& site, std::vector<float>& y) {
    const std::size_t width = y.size() / site.rows.size();
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = of(site.rows[i / width], i % width, y[i]);
  });
}

void Candidates::with_values(std::string detail, std::map<std::pair<std::uint32_t, std::size_t>, float> values) {
  with_elements(std::move(detail), [values = std::move(values)](std::uint32_t row, std::size_t column, float right) {
    const auto found = values.find({row, column});
    return found == values.end() ? right : found->second;
  });
}

void Candidates::with_columns(std::string detail, std::vector<std::size_t> from) {
  afterwards(std::move(detail), [from = std::move(from)](const Site&, std::vector<float>& y) {
    const std::vector<float> right = y;
    const std::size_t n = from.size();
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = right[i / n * n + from[i % n]];
  });
}

void Candidates::with_shifted_columns(std::string detail, std::size_t n, std::int64_t by) {
  const auto size = static_cast<std::int64_t>(n);
  const auto forward = static_cast<std::size_t>((by % size + size) % size);
  with_columns(std::move(detail), n, [=](std::size_t c) { return (c + forward) % n; });
}

void Candidates::reading(std::string detail, std::function<void(const Site&, Scene&)> change, bool by_column) {
  const auto mistake = [change = std::move(change)](const Site& site) {
    Scene scene = site.scene;
    change(site, scene);
    return site.compute(site.op, scene);
  };
  all_.push_back({std::move(detail), mistake, by_column});
}

void Candidates::with_weight(std::string detail, plan::WeightId weight, RowSource rows) {
  reading(std::move(detail), [weight, rows = std::move(rows)](const Site& site, Scene& scene) {
    scene.weight = [&](plan::WeightId id) { return id == weight ? rows : site.scene.weight(id); };
  });
}

void Candidates::with_changed_weight(std::string detail, plan::WeightId weight,
                                     std::function<void(std::span<float>)> change) {
  reading(std::move(detail), [weight, change = std::move(change)](const Site& site, Scene& scene) {
    scene.weight = [&](plan::WeightId id) -> RowSource {
      RowSource rows = site.scene.weight(id);
      if (id != weight) return rows;
      return [rows, &change](std::uint64_t row, std::span<float> decoded) {
        rows(row, decoded);
        change(decoded);
      };
    };
  });
}

void Candidates::with_other_weights(const Question& q, plan::WeightId weight,
                                    const std::function<bool(const plan::Weight&)>& fits) {
  const std::vector<plan::Weight>& weights = q.plan().weights;
  for (std::uint32_t i = 0; i < weights.size(); ++i) {
    if (i == weight.index || !fits(weights[i])) continue;
    with_weight(fmt::format("{} instead of {}", weights[i].tensor.name, weights[weight.index].tensor.name), weight,
                backends::reference::rows_of(weights[i].tensor));
  }
}

void Candidates::with_input(std::string detail, plan::ValueId input, std::function<std::vector<float>(const Site&)> value,
                            bool by_column) {
  const auto change = [input, value = std::move(value)](const Site& site, Scene& scene) {
    scene.value = [&site, input, other = value(site)](plan::ValueId id) {
      return id == input ? std::span<const float>(other) : site.scene.value(id);
    };
  };
  reading(std::move(detail), change, by_column);
}

void Candidates::with_changed_input(std::string detail, plan::ValueId input,
                                    std::function<void(std::vector<float>&)> change) {
  with_input(std::move(detail), input, [input, change = std::move(change)](const Site& site) {
    const auto right = site.scene.value(input);
    std::vector<float> x(right.begin(), right.end());
    change(x);
    return x;
  });
}

void Candidates::with_other_values(const Question& q, plan::ValueId input) {
  const std::uint32_t n_layers = q.plan().cache.n_layers();
  const auto layer = layer_of(q.plan().value(q.out()).name);
  const std::uint32_t first = layer ? *layer - std::min(1u, *layer) : n_layers - std::min(2u, n_layers);
  const plan::Value& right = q.plan().value(input);
  for (std::uint32_t i = 0; i < q.plan().values.size(); ++i) {
    const plan::ValueId id{i};
    const plan::Value& other = q.plan().values[i];
    const auto of = layer_of(other.name);
    const bool near = !of || *of >= first || (!layer && role(other.name) == "output");
    if (id == input || other.width != right.width || !near || q.replay.producer(id) >= q.op_index) continue;
    with_input(fmt::format("{} in place of {}", other.name, right.name), input,
               [id](const Site& site) { return site.value(id); });
  }
}

void Candidates::also_in_columns(std::size_t first, std::size_t last, std::size_t width) {
  const std::size_t n = all_.size();  // counted now, since the loop adds to them
  for (std::size_t i = 0; i < n; ++i) {
    const std::string detail = all_[i].detail + (all_[i].detail.empty() ? "" : ", ");
    afterwards(fmt::format("{}in columns {} to {} of {}", detail, first, last - 1, width),
               [first, last, width, mistake = all_[i].mistake](const Site& site, std::vector<float>& y) {
                 const std::vector<float> wrong = mistake(site);
                 for (std::size_t k = 0; k < y.size(); ++k) {
                   if (k % width >= first && k % width < last) y[k] = wrong[k];
                 }
               });
  }
}

std::optional<std::uint32_t> layer_of(std::string_view value) {
  constexpr std::string_view prefix = "blk.";
  if (!value.starts_with(prefix)) return std::nullopt;
  std::uint32_t layer = 0;
  const auto [end, error] = std::from_chars(value.data() + prefix.size(), value.data() + value.size(), layer);
  if (error != std::errc() || end == value.data() + value.size() || *end != '.') return std::nullopt;
  return layer;
}

std::optional<double> fitted(const Question& q, double low, double high, const std::function<plan::Op(double)>& op_with) {
  constexpr int n_grid = 200, n_refined = 50;
  constexpr double most_left = 0.2;  // of the right op's error
  if (q.found.empty() || q.rows.empty()) return std::nullopt;
  const auto n_rows = static_cast<std::uint32_t>(q.rows.size());
  const std::uint32_t places[] = {n_rows / 2, n_rows - 1};
  const std::vector<float> found = gather(q.found, q.width(), places);
  const Site site(q.replay, q.op_index, {q.rows[places[0]], q.rows[places[1]]});
  const auto distance = [&](const std::vector<float>& y) {
    const double sum = squared_distance(found, y);
    return std::isfinite(sum) ? sum : infinity;
  };
  const auto error = [&](double log) { return distance(site.compute(op_with(std::exp(log)))); };
  const double step = (std::log(high) - std::log(low)) / n_grid;
  double best = std::log(low), least = infinity;
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
  if (least > most_left * most_left * distance(site.compute())) return std::nullopt;
  return std::exp(at_c < at_d ? c : d);
}

std::vector<std::int64_t> likely_shifts(const Question& question, bool of_last) {
  constexpr std::size_t n_compared = 6, most = 4;
  const std::size_t n = question.width();
  if (!question.has_both() || n <= 2 * n_compared) return {};
  const auto row = [&](std::span<const float> of) { return of_last ? of.last(n) : of.first(n); };
  const auto found = row(question.found), expected = row(question.expected);
  std::vector<std::size_t> largest(n);
  std::iota(largest.begin(), largest.end(), std::size_t{0});
  std::partial_sort(largest.begin(), largest.begin() + n_compared, largest.end(),
                    [&](std::size_t a, std::size_t b) { return std::abs(expected[a]) > std::abs(expected[b]); });
  largest.resize(n_compared);
  const float close = 0.02f * std::abs(expected[largest.front()]);
  std::vector<std::int64_t> shifts;
  for (std::size_t by = 1; by < n && shifts.size() < most; ++by) {
    // A shift without wrapping around loses some.
    const auto n_fit = std::count_if(largest.begin(), largest.end(),
                                     [&](std::size_t i) { return std::abs(found[(i + by) % n] - expected[i]) <= close; });
    if (n_fit + 1 < static_cast<std::ptrdiff_t>(n_compared)) continue;
    shifts.push_back(static_cast<std::int64_t>(by) - (by <= n / 2 ? 0 : static_cast<std::int64_t>(n)));
  }
  return shifts;
}

bool resembles_changed(const Question& question, const std::function<void(std::vector<float>&)>& change) {
  constexpr double most = 0.5;
  if (question.found.empty()) return true;
  if (!question.has_both()) return false;
  std::vector<float> guess(question.expected.begin(), question.expected.end());
  change(guess);
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
  if (!question.has_both()) return false;
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
