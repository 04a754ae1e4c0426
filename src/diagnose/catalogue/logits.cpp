// The logits: those of other tokens or rows, or changed afterwards.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_logits {
namespace {

bool makes_logits(const Question& q, const plan::Linear& op) { return role(q.plan().value(op.out).name) == "logits"; }

void other_row(const Question& q, const plan::Linear& op, Candidates& out) {
  if (!makes_logits(q, op)) return;
  // In a step of one token no token comes before; there the mistake is buffer-stale.
  const auto run = q.replay.rows();
  const bool any_beside = std::any_of(q.rows.begin(), q.rows.end(), [&](std::uint32_t row) {
    return row > 0 && run[row].sequence == run[row - 1].sequence;
  });
  if (any_beside) out.with_input("the token before", op.x, [x = op.x](const Site& site) { return site.value(x, 1); });
  out.with_input("the step's first token", op.x, [x = op.x](const Site& site) {
    return site.value_on(x, [&](std::uint32_t row) { return std::int64_t{site.replay.step_of(row).begin}; });
  });
}

void other_index(const Question& q, const plan::Linear& op, Candidates& out) {
  if (!makes_logits(q, op)) return;
  std::vector<std::int64_t> shifts = {1, -1, 3, -3};
  for (const std::int64_t by : likely_shifts(q, true)) {
    if (std::find(shifts.begin(), shifts.end(), -by) == shifts.end()) shifts.push_back(-by);
  }
  for (const std::int64_t by : shifts)
    out.with_shifted_columns(fmt::format("logit i is that of token i {:+d}", by), q.width(), by);
}

// The tokens of the context up to a row, with their counts.
std::map<std::size_t, int> context_of(std::span<const backends::Row> rows, std::uint32_t row) {
  std::map<std::size_t, int> tokens;
  for (std::uint32_t r = 0; r <= row; ++r) ++tokens[static_cast<std::size_t>(rows[r].token)];
  return tokens;
}

// Changes to a row of logits that are made by samplers and by other models' heads.
void postprocessed(const Question& q, Candidates& out) {
  if (q.out() != q.plan().logits) return;
  const std::size_t width = q.width();
  const auto rows = q.replay.rows();
  using RowChange = std::function<void(std::uint32_t row, std::span<float> y)>;
  // Computes only changes that resemble the suspect's logits: their products are the largest of the run.
  const auto add = [&](std::string detail, const RowChange& change) {
    const bool fits = resembles_changed(q, [&](std::vector<float>& y) {
      for (std::size_t r = 0; r < q.rows.size(); ++r) change(q.rows[r], std::span(y).subspan(r * width, width));
    });
    if (!fits) return;
    out.afterwards(std::move(detail), [change, width](const Site& site, std::vector<float>& y) {
      for (std::size_t r = 0; r < site.rows.size(); ++r) change(site.rows[r], std::span(y).subspan(r * width, width));
    });
  };
  const auto log_sum = [](std::span<const float> y) {
    const double largest = *std::max_element(y.begin(), y.end());
    double sum = 0;
    for (const float v : y) sum += std::exp(v - largest);
    return largest + std::log(sum);
  };
  add("a softmax", [log_sum](std::uint32_t, std::span<float> y) {
    const double all = log_sum(y);
    for (float& v : y) v = static_cast<float>(std::exp(v - all));
  });
  add("the logarithm of a softmax", [log_sum](std::uint32_t, std::span<float> y) {
    const double all = log_sum(y);
    for (float& v : y) v = static_cast<float>(v - all);
  });
  add("the largest is subtracted", [](std::uint32_t, std::span<float> y) {
    const float largest = *std::max_element(y.begin(), y.end());
    for (float& v : y) v -= largest;
  });
  const auto add_each = [&](const std::string& detail, auto of) {
    add(detail, [of](std::uint32_t, std::span<float> y) {
      for (float& v : y) v = static_cast<float>(of(double{v}));
    });
  };
  add_each("a sigmoid", [](double v) { return 1 / (1 + std::exp(-v)); });
  std::set<double> caps{15, 30, 50};
  if (q.has_both()) {
    // Solves found = cap tanh(expected / cap) for the largest logit, by bisection: the right side grows with cap.
    const auto at = static_cast<std::size_t>(
        std::max_element(q.expected.begin(), q.expected.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }) -
        q.expected.begin());
    const double expected = std::abs(double{q.expected[at]}), found = std::abs(double{q.found[at]});
    double low = found, high = 1e4 * expected;
    for (int i = 0; i < 60 && found > 0 && found < expected; ++i) {
      const double cap = std::sqrt(low * high);
      (cap * std::tanh(expected / cap) < found ? low : high) = cap;
    }
    if (found > 0 && found < expected) {
      const double fitted = to_digits(high, 3);
      if (std::none_of(caps.begin(), caps.end(), [&](double c) { return std::abs(c / high - 1) < 0.01; }))
        caps.insert(fitted);
    }
  }
  for (const double cap : caps) {
    const auto* own = q.as<plan::SoftCap>();
    if (own != nullptr && std::abs(own->cap / cap - 1) < 0.01) continue;
    add_each(fmt::format("a soft cap of {:g}", cap), [cap](double v) { return cap * std::tanh(v / cap); });
  }
  // Penalties of tokens that occurred before.
  double ratio = 1.3, once = 1, each = 0.5;
  if (q.has_both()) {
    std::vector<double> ratios, differences, by_count;
    for (std::size_t r = 0; r < q.rows.size(); ++r) {
      for (const auto& [token, n] : context_of(rows, q.rows[r])) {
        const double found = q.found[r * width + token], expected = q.expected[r * width + token];
        if (found != 0 && expected != 0) ratios.push_back(expected > 0 ? expected / found : found / expected);
        differences.push_back(expected - found);
        by_count.push_back((expected - found) / n);
      }
    }
    if (ratios.empty()) return;
    ratio = median(ratios);
    once = median(differences);
    each = median(by_count);
  }
  if (std::isfinite(ratio) && ratio > 0) {
    add(fmt::format("a repetition penalty of {:.4g}", ratio), [ratio, rows](std::uint32_t row, std::span<float> y) {
      for (const auto& [token, n] : context_of(rows, row))
        y[token] = static_cast<float>(y[token] > 0 ? y[token] / ratio : y[token] * ratio);
    });
  }
  if (!std::isfinite(once) || !std::isfinite(each)) return;
  add(fmt::format("a presence penalty of {:.4g}", once), [once, rows](std::uint32_t row, std::span<float> y) {
    for (const auto& [token, n] : context_of(rows, row)) y[token] = static_cast<float>(y[token] - once);
  });
  add(fmt::format("a frequency penalty of {:.4g}", each), [each, rows](std::uint32_t row, std::span<float> y) {
    for (const auto& [token, n] : context_of(rows, row)) y[token] = static_cast<float>(y[token] - each * n);
  });
}

// Some ids are excluded, and all others are right.
void filtered(const Question& q, Candidates& out) {
  if (q.out() != q.plan().logits || !q.has_both()) return;
  constexpr float excluded = -1e8f;
  const std::size_t width = q.width();
  std::map<std::pair<std::uint32_t, std::size_t>, float> held;  // by row and id
  std::set<std::size_t> ids;
  std::size_t n = 0;
  double right = 0, wrong = 0;
  for (std::size_t i = 0; i < q.found.size(); ++i) {
    if (q.found[i] <= excluded && q.expected[i] > excluded) {
      held[{q.rows[i / width], i % width}] = q.found[i];
      ids.insert(i % width);
      ++n;
    } else {
      right += std::pow(double{q.expected[i]}, 2);
      wrong += std::pow(double{q.found[i]} - q.expected[i], 2);
    }
  }
  if (n == 0 || n == q.found.size() || !(wrong <= 1e-4 * right)) return;
  // If it is the end of the vocabulary in all rows, it is not a sampler's work but buffer-uninitialized.
  if (ids.size() > 1 && ids.size() * q.rows.size() == n && *ids.begin() + ids.size() == width) return;
  std::string detail = fmt::format("{} of {} ids in each row", n / q.rows.size(), width);
  if (ids.size() * q.rows.size() == n && ids.size() <= 4) {
    detail = ids.size() == 1 ? "id " : "ids ";
    for (const std::size_t id : ids) detail += (id == *ids.begin() ? "" : ", ") + std::to_string(id);
  }
  out.with_values(std::move(detail), std::move(held));
}

constexpr Hypothesis table[] = {
    {"logits-other-row", Kind::op, of<other_row>, R"(the logits are another token's
The row that is taken for the last is not: the count of tokens is off by one, or the first row is used.
take the row of the last token)"},
    {"logits-index", Kind::op, of<other_index>, R"(the logits are shifted by some ids
The table of rows or the index of the largest is off.
logit i belongs to token i)"},
    {"logits-filtered", Kind::op, of<filtered>, R"(some tokens are excluded from the logits
Their logits are -infinity, or as good as that: a filter of the sampler (top-k, top-p, a grammar, suppressed tokens) has run before they were kept.
take the logits before the sampler's filters)"},
    {"logits-postprocessed", Kind::op, of<postprocessed>, R"(the logits are not those of the output's product
A softmax, a soft cap that the file does not ask for, or a sampler's penalty has been applied to them.
take the logits as the product gives them; cap them where the file says so only)"},
};

}  // namespace
}  // namespace in_logits

std::span<const Hypothesis> logits() { return in_logits::table; }

}  // namespace plumb::diagnose::families
