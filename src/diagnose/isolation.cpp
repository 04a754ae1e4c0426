#include "diagnose/isolation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <numbers>
#include <set>
#include <tuple>

#include "base/half.h"
#include "diagnose/hypothesis.h"
#include "quants/format.h"

namespace plumb::diagnose {

namespace {

// The largest root mean square error over many rows, in standard deviations. The rounding of a row's inputs affects all
// outputs of the row, so few rows average little, and their errors may be larger.
constexpr double most_rms = 2;
double most_rms_of(std::size_t n_rows) {
  return most_rms * (1 + 1.0 / static_cast<double>(std::max<std::size_t>(1, n_rows)));
}

bool agree_beyond_numbers(float found, float expected) {
  return (std::isnan(found) && std::isnan(expected)) || found == expected;
}

// The standard deviations of a matrix's elements.
class Deviations {
 public:
  Deviations(std::span<const float> expected, std::span<const float> variance, std::size_t width)
      : expected_(expected), variance_(variance), width_(width) {}

  double operator[](std::size_t i) {
    const double deviation = std::max(
        {std::sqrt(double{variance_[i]}), unit_f32 * std::abs(double{expected_[i]}) / std::numbers::sqrt3, least_normal});
    if (variance_[i] >= least_normal) return deviation;
    // The variance of very small numbers does not fit a float. Many engines treat numbers below the smallest normal one as
    // zero.
    if (row_ != i / width_) {
      row_ = i / width_;
      largest_ = 0;
      for (const float v : expected_.subspan(row_ * width_, width_)) largest_ = std::max(largest_, std::abs(double{v}));
    }
    return std::max(deviation, 4 * unit_f32 * std::min(largest_, most_small));
  }

 private:
  static constexpr double least_normal = 0x1p-126, most_small = 1e-10;
  std::span<const float> expected_, variance_;
  std::size_t width_;
  std::size_t row_ = ~std::size_t{0};
  double largest_ = 0;
};

// Whether all values are numbers of the 16-bit format with this unit roundoff, as in an engine that stores its results in
// it. A bfloat16 trace cannot show whether they were numbers of float16.
bool fits(std::span<const float> values, double unit, trace::Dtype dtype) {
  if (unit == unit_f16 && dtype == trace::Dtype::bf16) return true;
  return std::all_of(values.begin(), values.end(), [&](float v) {
    if (!std::isfinite(v)) return true;
    return unit == unit_f16 ? f16_to_f32(f32_to_f16(v)) == v : (std::bit_cast<std::uint32_t>(v) & 0xffff) == 0;
  });
}

void measure(const Compared& c, Check& check) {
  double expected = 0, error = 0;
  for (std::size_t i = 0; i < c.found.size(); ++i) {
    const double e = c.expected[i], f = c.found[i];
    if (!std::isfinite(f) || !std::isfinite(e)) {
      if (!agree_beyond_numbers(c.found[i], c.expected[i])) ++check.n_not_finite;
      continue;
    }
    expected += e * e;
    error += (f - e) * (f - e);
    check.largest_error = std::max(check.largest_error, std::abs(f - e));
  }
  const double n = static_cast<double>(std::max<std::size_t>(1, c.found.size()));
  check.rms_expected = std::sqrt(expected / n);
  check.rms_error = std::sqrt(error / n);
}

std::string format_of(const plan::Plan& plan, const plan::Op& op) {
  const bool product = std::holds_alternative<plan::Linear>(op) || std::holds_alternative<plan::ExpertLinear>(op) ||
                       std::holds_alternative<plan::Embed>(op);
  if (!product) return "";
  return std::string(quants::info(plan.weight(plan::weights(op).front()).tensor.format).name);
}

class Isolator {
 public:
  Isolator(Replay& replay, const Suspect& suspect, const Allowance& allowance, const OnProgress& progress)
      : replay_(replay), suspect_(suspect), plan_(replay.plan()), allowance_(allowance), progress_(progress) {}

  Isolation run() {
    count_stored();
    for (std::size_t op = 0; op < plan_.ops.size(); ++op) {
      const auto out = plan::output(plan_.ops[op]);
      if (out && suspect_.knows(*out)) check(op);
      if (progress_) progress_("checking ops", op + 1, plan_.ops.size());
    }
    judge();
    return std::move(result_);
  }

 private:
  struct Computed {
    std::vector<float> expected;
    std::vector<std::uint32_t> rows;
    ProductSums sums;
    Observed observed;
  };

  [[nodiscard]] Computed computed(std::size_t op, const Arithmetic& arithmetic) {
    Computed c;
    c.rows = replay_.rows_of(op);
    const bool linear = std::holds_alternative<plan::Linear>(plan_.ops[op]);
    c.expected = linear ? replay_.product(op, arithmetic, c.sums) : replay_.compute(op);
    c.observed = *suspect_.observe(*plan::output(plan_.ops[op]));
    return c;
  }

  // Whether a product's sums are the same in all arithmetics. They are not if its input is computed, since they then
  // include the input's errors.
  [[nodiscard]] bool shares_sums(std::size_t op) const {
    const auto* linear = std::get_if<plan::Linear>(&plan_.ops[op]);
    return linear == nullptr || suspect_.knows_all(linear->x);
  }

  [[nodiscard]] std::vector<float> variance(std::size_t op, Computed& c, std::size_t arithmetic) {
    const Arithmetic& a = arithmetics()[arithmetic];
    if (!shares_sums(op) && arithmetic > 0) c.expected = replay_.product(op, a, c.sums);
    std::vector<float> v = replay_.variance(op, c.expected, c.sums, a);
    if (c.observed.dtype != trace::Dtype::f32) add_rounding(v, c.expected, c.observed.dtype);
    return v;
  }

  // The rows of a check.
  [[nodiscard]] Compared rows_of(const Check& check, const Computed& c, std::span<const float> variance = {}) const {
    const std::size_t width = plan_.value(*plan::output(plan_.ops[check.op])).width;
    const auto place = std::find(c.rows.begin(), c.rows.end(), check.first_row) - c.rows.begin();
    const auto part = [&](std::span<const float> of, std::size_t row) {
      return of.empty() ? of : of.subspan(row * width, check.n_rows * width);
    };
    const auto computed_row = static_cast<std::size_t>(place);
    return {part(c.observed.data, check.first_row), part(c.expected, computed_row), part(variance, computed_row), width};
  }

  // Whether the results of an op may have been stored as in an arithmetic.
  [[nodiscard]] bool may_be_stored(std::size_t op, std::size_t arithmetic, const Compared& rows, trace::Dtype dtype) const {
    const double store = arithmetics()[arithmetic].store;
    return store == 0 || (is_stored(op, arithmetic) && fits(rows.found, store, dtype));
  }

  void check(std::size_t op) {
    Computed c = computed(op, arithmetics()[0]);
    const trace::Dtype dtype = c.observed.dtype;
    const std::size_t n_arithmetics = arithmetics().size();
    const std::size_t first_check = result_.checks.size();
    std::vector<double> factors;  // by check
    std::vector<bool> is_long;    // by check
    for (std::uint32_t step = 0; step < suspect_.n_steps(); ++step) {
      const std::uint32_t n = suspect_.known_rows(*plan::output(plan_.ops[op]), step);
      if (n == 0) continue;
      Check& check = result_.checks.emplace_back();
      check.op = op;
      check.step = step;
      check.n_rows = n;
      check.arithmetic = n_arithmetics;
      check.first_row = suspect_.end(step) - n;
      const Compared rows = rows_of(check, c);
      measure(rows, check);
      for (std::size_t a = 0; a < n_arithmetics; ++a) {
        if (arithmetics()[a].store > 0 && may_be_stored(op, a, rows, dtype)) check.stored_as = a;
      }
      const std::vector<std::size_t> region = replay_.region(op, std::span(&step, 1));
      check.group = group(op, step == 0, roles_of(region));
      factors.push_back(allowance_.factor * region_factor(replay_, region));
      is_long.push_back(region.size() > few_ops);
    }
    const auto checks = std::span(result_.checks).subspan(first_check);
    details_.resize(result_.checks.size());
    // Tries arithmetics from fine to coarse until every step is allowed. A step keeps the first arithmetic that allows it.
    const std::size_t finest_of_long = finest_of_long_regions();
    bool all = false;
    for (std::size_t a = 0; a < n_arithmetics && !all; ++a) {
      all = true;
      std::vector<float> v;
      for (std::size_t i = 0; i < checks.size(); ++i) {
        Check& check = checks[i];
        if (check.arithmetic < a) continue;
        check.misfits.push_back(infinity);
        if ((!is_long[i] || a >= finest_of_long) && may_be_stored(op, a, rows_of(check, c), dtype)) {
          if (v.empty()) v = variance(op, c, a);
          const Compared rows = rows_of(check, c, v);
          describe(check, rows);
          check.allowed_rms *= factors[i];
          check.misfits.back() = misfit(rows, factors[i]);
          details_[first_check + i].emplace(a, check);
        }
        if (check.misfits.back() <= 1) check.arithmetic = a;
        all = all && check.arithmetic == a;
      }
    }
    for (std::size_t i = 0; i < checks.size(); ++i) {
      Check& check = checks[i];
      check.tells = !(check.allowed_rms > check.rms_expected / 3);
      if (is_long[i] && check.step == 0) of_long_regions_.push_back(check.arithmetic);
    }
  }

  // The first arithmetic that is tried for a long region, since each costs a pass over all of the region's weights. After
  // some long regions were tried in all arithmetics, the others are taken to be as coarse.
  [[nodiscard]] std::size_t finest_of_long_regions() const {
    if (allowance_.strict || of_long_regions_.size() < regions_tried) return 0;
    std::vector<std::size_t> first(of_long_regions_.begin(), of_long_regions_.begin() + regions_tried);
    std::sort(first.begin(), first.end());
    const std::size_t median = first[regions_tried / 2];
    return median < arithmetics().size() ? median : 0;
  }

  // Counts values that are numbers of 16 bits. An engine that stores results in 16 bits does so for most values, or for
  // most values of a kind of op; a few such numbers by chance are no evidence.
  void count_stored() {
    const auto count = [&](Stored& of, const Observed& observed) {
      of.n_fit.resize(arithmetics().size(), 0);
      ++of.n;
      of.n_16_bits += observed.dtype == trace::Dtype::f32 ? 0 : 1;
      of.n_bf16 += observed.dtype == trace::Dtype::bf16 ? 1 : 0;
      for (std::size_t a = 0; a < of.n_fit.size(); ++a) {
        const double store = arithmetics()[a].store;
        if (store > 0 && fits(observed.data, store, observed.dtype)) ++of.n_fit[a];
      }
    };
    for (const plan::Op& op : plan_.ops) {
      const auto out = plan::output(op);
      if (!out || !suspect_.knows(*out)) continue;
      const Observed observed = *suspect_.observe(*out);
      count(stored_, observed);
      count(stored_by_kind_[std::string(plan::name(op))], observed);
    }
  }
  [[nodiscard]] bool is_stored(std::size_t op, std::size_t arithmetic) const {
    const Stored& of_kind = stored_by_kind_.at(std::string(plan::name(plan_.ops[op])));
    return 2 * stored_.n_fit[arithmetic] >= stored_.n || 2 * of_kind.n_fit[arithmetic] > of_kind.n;
  }

  // The roles of a region's ops as one string; empty for a single op.
  [[nodiscard]] std::string roles_of(std::span<const std::size_t> region) const {
    if (region.size() == 1) return "";
    std::set<std::string> roles;
    for (const std::size_t r : region) {
      if (const auto out = plan::output(plan_.ops[r])) roles.emplace(role(plan_.value(*out).name));
    }
    std::string all;
    for (const std::string& one : roles) all += (all.empty() ? "" : " ") + one;
    return all;
  }

  std::size_t group(std::size_t op, bool prompt, const std::string& region) {
    const auto key = std::tuple(std::string(plan::name(plan_.ops[op])), format_of(plan_, plan_.ops[op]), prompt, region);
    const auto [found, is_new] = groups_.try_emplace(key, result_.groups.size());
    if (is_new) {
      result_.groups.push_back({.kind = std::get<0>(key), .format = std::get<1>(key), .region = region, .prompt = prompt});
    }
    ++result_.groups[found->second].n_checks;
    return found->second;
  }

  void judge() {
    std::vector<std::vector<std::size_t>> used(result_.groups.size());
    for (const Check& check : result_.checks) used[check.group].push_back(check.arithmetic);
    // If an engine computes three quarters of its ops, or half of a kind, in an arithmetic, any op may use it: a format or
    // a phase with few ops shows too little by itself.
    constexpr double most = 0.5;
    std::map<std::string, std::vector<std::size_t>> used_by_kind;
    std::vector<std::size_t> used_by_all;
    for (std::size_t g = 0; g < used.size(); ++g) {
      const Group& group = result_.groups[g];
      if (!group.region.empty()) continue;
      for (auto* const of : {&used_by_kind[group.kind], &used_by_all})
        of->insert(of->end(), used[g].begin(), used[g].end());
    }
    const std::size_t usual_of_all = usual_arithmetic(std::move(used_by_all));
    for (std::size_t g = 0; g < used.size(); ++g) {
      Group& group = result_.groups[g];
      if (allowance_.strict) continue;
      const bool none_follows =
          std::all_of(used[g].begin(), used[g].end(), [](std::size_t a) { return a >= arithmetics().size(); });
      group.own = group.arithmetic = usual_of_group(g, std::move(used[g]));
      // If no op of the group follows, none shows the arithmetic; a float16 cache is common.
      if (none_follows) group.arithmetic = std::max(group.arithmetic, float16_cache());
      if (group.region.empty())
        group.arithmetic = std::max({group.arithmetic, usual_arithmetic(used_by_kind[group.kind], most), usual_of_all});
    }
    // A region has ops of several kinds: it may be as coarse as the coarsest kind usually is.
    std::size_t coarsest = 0;
    for (const Group& group : result_.groups) coarsest = std::max(coarsest, group.arithmetic);
    for (Group& group : result_.groups) {
      if (!group.region.empty()) group.arithmetic = std::max(group.arithmetic, coarsest);
    }
    for (std::size_t i = 0; i < result_.checks.size(); ++i) {
      Check& check = result_.checks[i];
      const bool is_region = !result_.groups[check.group].region.empty();
      const std::size_t usual = coarsest_of(check);
      std::size_t judged_in = check.arithmetic;
      if (check.arithmetic > usual) {
        const std::size_t n = std::min(usual + 1, check.misfits.size());
        const auto least = std::min_element(check.misfits.begin(), check.misfits.begin() + static_cast<std::ptrdiff_t>(n));
        judged_in = static_cast<std::size_t>(least - check.misfits.begin());
        check.at_fault = *least > (is_region ? outlier_of_regions : outlier) || check.arithmetic >= arithmetics().size();
      }
      check.misfit = check.misfits[judged_in];
      // An arithmetic that was not admissible has no details; the check then keeps those of the last that was.
      const auto details = details_[i].find(judged_in);
      if (details != details_[i].end()) static_cast<Details&>(check) = std::move(details->second);
    }
  }

  // The coarsest arithmetic that is allowed for a check: its group's, or one that the trace shows the engine to use.
  [[nodiscard]] std::size_t coarsest_of(const Check& check) const {
    const Group& group = result_.groups[check.group];
    std::size_t usual = group.arithmetic;
    if (allowance_.strict) return usual;
    const trace::Dtype dtype = suspect_.dtype(*plan::output(plan_.ops[check.op]));
    const bool mostly_16_bits = 2 * stored_.n_16_bits > stored_.n;
    // A bfloat16 trace hides whether results were float16, except for very small results.
    if (dtype == trace::Dtype::bf16)
      usual = std::max(usual, first_arithmetic([](const Arithmetic& a) { return a.store == unit_f16; }));
    // If float32 was written, numbers of 16 bits are not by chance.
    if (dtype == trace::Dtype::f32) usual = std::max(usual, check.stored_as);
    // An engine that writes most values in 16 bits has operands of 16 bits.
    if (mostly_16_bits && stored_.n_bf16 == 0) usual = std::max(usual, float16_operands());
    if (mostly_16_bits && stored_.n_bf16 > 0 && dtype == trace::Dtype::f32)
      usual = std::max(usual, first_arithmetic([](const Arithmetic& a) { return a.operand == unit_bf16; }));
    // If operands may be rounded, they may be truncated as well.
    if (usual == float16_operands()) ++usual;
    if (!group.region.empty()) usual = std::max(usual, float16_cache());
    return usual;
  }

  // An engine computes all layers alike; a layer needs the coarsest arithmetic of its checks. If layers differ, half of
  // them are taken to be right. A single op is judged by its own steps.
  [[nodiscard]] std::size_t usual_of_group(std::size_t group, std::vector<std::size_t> of_checks) const {
    std::map<std::size_t, std::size_t> coarsest;  // by op
    for (const Check& check : result_.checks) {
      if (check.group == group && check.arithmetic < arithmetics().size())
        coarsest[check.op] = std::max(coarsest[check.op], check.arithmetic);
    }
    if (coarsest.size() < 2) return usual_arithmetic(std::move(of_checks));
    std::vector<std::size_t> of_ops;
    of_ops.reserve(coarsest.size());
    for (const auto& [op, arithmetic] : coarsest) of_ops.push_back(arithmetic);
    return usual_arithmetic(std::move(of_ops), 0.5);
  }

  static std::size_t first_arithmetic(bool (*is)(const Arithmetic&)) {
    const auto all = arithmetics();
    return static_cast<std::size_t>(std::find_if(all.begin(), all.end(), is) - all.begin());
  }
  static std::size_t float16_cache() {
    return first_arithmetic([](const Arithmetic& a) { return a.cache == unit_f16 && a.activations > 0; });
  }
  static std::size_t float16_operands() {
    return first_arithmetic([](const Arithmetic& a) { return a.operand == unit_f16; });
  }

  // A region with more than few_ops ops is long. The first regions_tried of them are tried in all arithmetics.
  static constexpr std::size_t few_ops = 4, regions_tried = 3;
  // An op that needs a coarser arithmetic than others of its kind is at fault if its ratio in their arithmetic is above
  // this.
  static constexpr double outlier = 2, outlier_of_regions = 2.5;

  Replay& replay_;
  const Suspect& suspect_;
  const plan::Plan& plan_;
  const Allowance& allowance_;
  const OnProgress& progress_;
  Isolation result_;
  std::vector<std::map<std::size_t, Details>> details_;  // by check and arithmetic
  std::vector<std::size_t> of_long_regions_;             // for each, the arithmetic that allows the prompt's pass
  struct Stored {
    std::size_t n = 0, n_16_bits = 0, n_bf16 = 0;  // values, and those that the trace has in 16 bits
    std::vector<std::size_t> n_fit;                // by arithmetic: values that are numbers of its type
  };
  Stored stored_;                                 // of all
  std::map<std::string, Stored> stored_by_kind_;  // of op
  std::map<std::tuple<std::string, std::string, bool, std::string>, std::size_t> groups_;
};

}  // namespace

std::size_t usual_arithmetic(std::vector<std::size_t> of_ops, double share) {
  const std::size_t n = arithmetics().size();
  std::erase_if(of_ops, [&](std::size_t a) { return a >= n; });
  if (of_ops.empty()) return 0;
  std::sort(of_ops.begin(), of_ops.end());
  return of_ops[static_cast<std::size_t>(static_cast<double>(of_ops.size() - 1) * share)];
}

double region_factor(const Replay& replay, std::span<const std::size_t> region) {
  if (region.size() <= 1) return 1;
  std::set<std::uint32_t> layers;
  for (const std::size_t op : region) {
    if (const auto out = plan::output(replay.plan().ops[op]))
      layers.insert(layer_of(replay.plan().value(*out).name).value_or(0));
  }
  return of_regions * static_cast<double>(std::max<std::size_t>(1, layers.size()));
}

void describe(Check& check, const Compared& rows) {
  const auto& [found, expected, variance, width] = rows;
  double largest = -1, allowed = 0;
  check.histogram = {};
  check.row_ratio.assign(check.n_rows, 0);
  Deviations deviations(expected, variance, width);
  for (std::size_t i = 0; i < found.size(); ++i) {
    double z = std::abs(double{found[i]} - expected[i]) / deviations[i];
    if (!std::isfinite(variance[i])) z = 0;
    if (std::isnan(z)) z = agree_beyond_numbers(found[i], expected[i]) ? 0 : infinity;
    if (z > largest) {
      largest = z;
      check.worst = {.row = static_cast<std::uint32_t>(check.first_row + i / width),
                     .column = static_cast<std::uint32_t>(i % width),
                     .expected = expected[i],
                     .found = found[i]};
    }
    allowed += std::isfinite(variance[i]) ? variance[i] : 0;
    const double place = std::clamp(std::floor(std::log2(std::max(z, 1e-9))) + 9, 0.0, 16.0);
    ++check.histogram[static_cast<std::size_t>(place)];
    check.row_ratio[i / width] += static_cast<float>(std::min(z * z, 1e12) / static_cast<double>(width));
  }
  for (float& ratio : check.row_ratio) ratio = std::sqrt(ratio);
  check.allowed_rms =
      most_rms_of(check.n_rows) * std::sqrt(allowed / static_cast<double>(std::max<std::size_t>(1, found.size())));
}

double misfit(const Compared& rows, double factor) {
  const auto& [found, expected, variance, width] = rows;
  double squares = 0, largest = 0;
  Deviations deviations(expected, variance, width);
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!std::isfinite(variance[i])) continue;
    const double difference = double{found[i]} - expected[i];
    if (!std::isfinite(difference)) {
      if (agree_beyond_numbers(found[i], expected[i])) continue;
      return infinity;
    }
    if (difference == 0) continue;
    const double z = std::pow(difference / deviations[i], 2);
    squares += z;
    largest = std::max(largest, z);
  }
  const double n = static_cast<double>(std::max<std::size_t>(1, found.size()));
  return std::max(std::sqrt(squares / n) / most_rms_of(found.size() / width), std::sqrt(largest) / most_single) / factor;
}

void add_rounding(std::vector<float>& variance, std::span<const float> y, trace::Dtype dtype) {
  for (std::size_t i = 0; i < variance.size(); ++i) {
    const double bound = std::max(rounding_of(dtype) * std::abs(double{y[i]}), least_of(dtype));
    variance[i] += static_cast<float>(bound * bound / 3);
  }
}

CheckedRun::CheckedRun(const model::Model& of_model, Suspect of_suspect, const Allowance& allowed, std::uint32_t n_threads,
                       OnProgress on_progress)
    : model(of_model),
      allowance(allowed),
      progress(std::move(on_progress)),
      suspect(std::move(of_suspect)),
      replay(model, suspect.rows(), &suspect, suspect.logit_rows(), n_threads, suspect.capacity()),
      isolation(Isolator(replay, suspect, allowance, progress).run()) {}

Replay CheckedRun::replay_of(const Suspect* shown) const {
  return {model, suspect.rows(), shown, suspect.logit_rows(), replay.n_threads(), suspect.capacity()};
}

}  // namespace plumb::diagnose
