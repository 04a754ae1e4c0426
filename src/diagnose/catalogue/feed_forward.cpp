// The feed-forward's activation, and the residual stream.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace in_feed_forward {
namespace {

using ElementFn = double (*)(double gate, double up);

double silu(double x) { return x / (1 + std::exp(-x)); }
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

// The run of columns in which the suspect's rows differ, where it is not all of them: [first, last).
std::optional<std::pair<std::size_t, std::size_t>> wrong_run(const Question& q) {
  if (q.found.empty() || q.found.size() != q.expected.size()) return std::nullopt;
  const std::size_t width = q.width();
  double size = 0;
  for (const float v : q.expected) size += double{v} * v;
  const double small = 1e-4 * std::sqrt(size / static_cast<double>(q.expected.size()));
  std::size_t first = width, last = 0;
  for (std::size_t i = 0; i < q.found.size(); ++i) {
    if (!(std::abs(double{q.found[i]} - q.expected[i]) > small)) continue;
    first = std::min(first, i % width);
    last = std::max(last, i % width + 1);
  }
  if (first >= last || (first == 0 && last == width)) return std::nullopt;
  return std::pair(first, last);
}

// A mistake that is made in some columns only.
Candidate in_columns(const Question& q, std::pair<std::size_t, std::size_t> run, const Candidate& everywhere) {
  return {fmt::format("{}{}in columns {} to {} of {}", everywhere.detail, everywhere.detail.empty() ? "" : ", ", run.first,
                      run.second - 1, q.width()),
          [run, width = q.width(), mistake = everywhere.mistake](const Site& site) {
            std::vector<float> y = site.compute(*site.op);
            const std::vector<float> wrong = mistake(site);
            for (std::size_t i = 0; i < y.size(); ++i) {
              if (i % width >= run.first && i % width < run.second) y[i] = wrong[i];
            }
            return y;
          }};
}
// The candidates, and each in the columns that differ.
std::vector<Candidate> also_in_run(const Question& q, std::vector<Candidate> candidates) {
  const auto run = wrong_run(q);
  const std::size_t n = candidates.size();
  for (std::size_t i = 0; run && i < n; ++i) candidates.push_back(in_columns(q, *run, candidates[i]));
  return candidates;
}

Candidate element_wise(const plan::Activate& op, ElementFn f, std::string detail = "") {
  return {std::move(detail), [op, f](const Site& site) {
            const auto gate = site.scene->value(op.gate), up = site.scene->value(op.up);
            std::vector<float> y(gate.size());
            for (std::size_t i = 0; i < y.size(); ++i) y[i] = static_cast<float>(f(gate[i], up[i]));
            return y;
          }};
}

constexpr std::pair<plan::Activation, std::string_view> activations[] = {{plan::Activation::silu, "SiLU"},
                                                                         {plan::Activation::gelu_tanh, "GELU by tanh"},
                                                                         {plan::Activation::gelu_erf, "GELU by erf"},
                                                                         {plan::Activation::relu, "ReLU"}};

std::vector<Candidate> exchanged(const Question& q) {
  const auto* op = q.as<plan::Activate>();
  if (op == nullptr) return {};
  plan::Activate wrong = *op;
  std::swap(wrong.gate, wrong.up);
  std::vector<Candidate> result{changed(wrong)};
  for (const auto& [activation, name] : activations) {
    if (activation == op->activation || q.is_inner()) continue;
    wrong.activation = activation;
    result.push_back(changed(wrong, fmt::format("and {} is used", name)));
  }
  return also_in_run(q, std::move(result));
}

std::vector<Candidate> other_function(const Question& q) {
  const auto* op = q.as<plan::Activate>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  for (const auto& [activation, name] : activations) {
    if (activation == op->activation) continue;
    plan::Activate wrong = *op;
    wrong.activation = activation;
    result.push_back(changed(wrong, std::string(name)));
  }
  result.push_back(element_wise(
      *op, [](double g, double u) { return g / (1 + std::exp(-1.702 * g)) * u; }, "quick GELU, x sigmoid(1.702 x)"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return u / (1 + std::exp(-g)); }, "sigmoid"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return std::tanh(g) * u; }, "tanh"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return g > 0 ? g * g * u : 0; }, "squared ReLU"));
  if (q.is_inner()) return result;
  result.push_back(element_wise(
      *op, [](double g, double u) { return silu(silu(g)) * u; }, "SiLU twice"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return g * std::clamp(g / 6 + 0.5, 0.0, 1.0) * u; },
      "hard swish, x clamp(x / 6 + 1/2)"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return g / (1 + std::abs(g)) * u; }, "softsign"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return g * (g / (2 + std::abs(g)) + 1) / 2 * u; }, "a sigmoid made of x / (2 + |x|)"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return softplus(g) * u; }, "softplus"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return g * std::tanh(softplus(g)) * u; }, "Mish"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return (g > 0 ? g : std::expm1(g)) * u; }, "ELU"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return (g > 0 ? g : 0.01 * g) * u; }, "leaky ReLU, 0.01 x below 0"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return (g > 0 ? g : 0.1 * g) * u; }, "leaky ReLU, 0.1 x below 0"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return g / (1 + std::exp(g)) * u; }, "x sigmoid(-x)"));
  if (op->activation != plan::Activation::silu) return result;
  // x sigmoid(beta x): the beta that fits best, by thirds.
  if (q.found.empty()) return result;
  const Values gate = q.replay.value(op->gate), up = q.replay.value(op->up);
  const std::size_t width = q.width();
  const auto error = [&](double beta) {
    double sum = 0;
    for (std::size_t c = 0; c < width; ++c) {
      const double g = (*gate)[q.rows[0] * width + c], u = (*up)[q.rows[0] * width + c];
      sum += std::pow(q.found[c] - g / (1 + std::exp(-beta * g)) * u, 2);
    }
    return sum;
  };
  double low = 0.1, high = 10;
  for (int i = 0; i < 40; ++i) {
    const double a = low + (high - low) / 3, b = high - (high - low) / 3;
    (error(a) < error(b) ? high : low) = error(a) < error(b) ? b : a;
  }
  const double beta = std::strtod(fmt::format("{:.3g}", low).c_str(), nullptr);
  if (std::abs(beta - 1) < 0.01 || std::abs(beta - 1.702) < 0.01 || !(error(beta) < 0.1 * error(1))) return result;
  result.push_back({fmt::format("x sigmoid({:g} x)", beta), [op = *op, beta](const Site& site) {
                      const auto g = site.scene->value(op.gate), u = site.scene->value(op.up);
                      std::vector<float> y(g.size());
                      for (std::size_t i = 0; i < y.size(); ++i)
                        y[i] = static_cast<float>(g[i] / (1 + std::exp(-beta * g[i])) * u[i]);
                      return y;
                    }});
  return result;
}

std::vector<Candidate> missing(const Question& q) {
  const auto* op = q.as<plan::Activate>();
  if (op == nullptr) return {};
  return also_in_run(q, {element_wise(*op, [](double g, double u) { return g * u; })});
}

std::vector<Candidate> on_product(const Question& q) {
  const auto* op = q.as<plan::Activate>();
  if (op == nullptr) return {};
  return {element_wise(*op, [](double g, double u) { return silu(g * u); })};
}

std::vector<Candidate> half(const Question& q) {
  const auto* op = q.as<plan::Activate>();
  if (op == nullptr) return {};
  return {element_wise(
              *op, [](double g, double) { return silu(g); }, "the up projection is left out"),
          element_wise(
              *op, [](double, double u) { return silu(u); }, "the gate is left out"),
          element_wise(
              *op, [](double g, double) { return silu(g) * g; }, "the gate is used for both"),
          element_wise(
              *op, [](double g, double u) { return silu(g) + u; }, "they are added"),
          element_wise(
              *op, [](double g, double u) { return silu(g) * silu(u); }, "both are activated"),
          element_wise(
              *op, [](double g, double u) { return silu(g) * (u + 1); }, "1 is added to the up projection"),
          element_wise(
              *op, [](double g, double u) { return (silu(g) + 1) * u; }, "1 is added to the activation")};
}

std::vector<Candidate> interleaved(const Question& q) {
  const auto* op = q.as<plan::Activate>();
  if (op == nullptr) return {};
  return {
      {"", [op = *op, n = q.width()](const Site& site) {
         const auto gate = site.scene->value(op.gate), up = site.scene->value(op.up);
         std::vector<float> y(gate.size());
         // The two results lie behind each other and are read as pairs.
         const auto both = [&](std::size_t row, std::size_t i) { return i < n ? gate[row * n + i] : up[row * n + i - n]; };
         for (std::size_t i = 0; i < y.size(); ++i) {
           const std::size_t row = i / n, j = i % n;
           y[i] = static_cast<float>(backends::reference::activate(op.activation, both(row, 2 * j)) * both(row, 2 * j + 1));
         }
         return y;
       }}};
}

std::vector<Candidate> clamped_gate(const Question& q) {
  const auto* op = q.as<plan::Activate>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  constexpr double none = std::numeric_limits<double>::infinity();
  const auto add = [&](std::string detail, double of_gate, double of_up) {
    result.push_back({std::move(detail), [op = *op, of_gate, of_up](const Site& site) {
                        const auto gate = site.scene->value(op.gate), up = site.scene->value(op.up);
                        std::vector<float> y(gate.size());
                        for (std::size_t i = 0; i < y.size(); ++i) {
                          y[i] = static_cast<float>(
                              backends::reference::activate(op.activation, std::min<double>(gate[i], of_gate)) *
                              std::clamp<double>(up[i], -of_up, of_up));
                        }
                        return y;
                      }});
  };
  for (const double limit : {1.0, 2.0, 5.0, 6.0, 7.0, 10.0, 20.0, 100.0}) {
    add(fmt::format("inputs clamped at {:g}", limit), limit, limit);
    if (q.is_inner()) continue;
    add(fmt::format("up clamped at {:g}", limit), none, limit);
    add(fmt::format("gate clamped at {:g}", limit), limit, none);
  }
  // What the suspect's up would have to be, where it is not what it is; below 0 the gate has no limit.
  if (!q.found.empty()) {
    const Values gate = q.replay.value(op->gate), up = q.replay.value(op->up);
    const std::size_t width = q.width();
    std::vector<double> limits;
    for (std::size_t i = 0; i < q.found.size(); ++i) {
      const std::size_t at = q.rows[i / width] * width + i % width;
      const double activated = backends::reference::activate(op->activation, (*gate)[at]), right = std::abs((*up)[at]);
      const double limit = std::abs(q.found[i] / activated);
      if ((*gate)[at] < 0 && std::isfinite(limit) && limit < 0.99 * right) limits.push_back(limit);
    }
    if (!limits.empty()) {
      const auto middle = limits.begin() + static_cast<std::ptrdiff_t>(limits.size() / 2);
      std::nth_element(limits.begin(), middle, limits.end());
      const double limit = std::strtod(fmt::format("{:.3g}", *middle).c_str(), nullptr);
      add(fmt::format("inputs clamped at {:g}", limit), limit, limit);
      add(fmt::format("up clamped at {:g}", limit), none, limit);
    }
  }
  // gpt-oss, with its limit and without.
  result.push_back(element_wise(
      *op,
      [](double g, double u) {
        const double gate = std::min(g, 7.0);
        return gate / (1 + std::exp(-1.702 * gate)) * (std::clamp(u, -7.0, 7.0) + 1);
      },
      "gpt-oss's, clamp(x, 7) sigmoid(1.702 x) (up + 1)"));
  result.push_back(element_wise(
      *op, [](double g, double u) { return g / (1 + std::exp(-1.702 * g)) * (u + 1); },
      "gpt-oss's without its limit, x sigmoid(1.702 x) (up + 1)"));
  return result;
}

// Two operands that do not belong to the same token, or column.
std::vector<Candidate> misaligned(const Question& q) {
  if (q.is_inner()) return {};
  const auto* gated = q.as<plan::Activate>();
  const auto* sum = q.as<plan::Add>();
  if (gated == nullptr && sum == nullptr) return {};
  std::vector<Candidate> result;
  const std::size_t width = q.width();
  for (const plan::ValueId id : plan::inputs(q.op)) {
    const std::string& name = q.plan().value(id).name;
    // from: of a row of a run.
    const auto of_row = [&](std::string_view which, auto from) {
      result.push_back(with_input(fmt::format("{} of the {}", name, which), id, [id, width, from](const Site& site) {
        const auto rows = site.replay->rows();
        const Values all = site.replay->value(id);
        std::vector<float> out(site.rows.size() * width);
        for (std::size_t r = 0; r < site.rows.size(); ++r) {
          std::copy_n(all->begin() + static_cast<std::ptrdiff_t>(from(rows, site.rows[r]) * width), width,
                      out.begin() + static_cast<std::ptrdiff_t>(r * width));
        }
        return out;
      }));
    };
    using Rows = std::span<const backends::Row>;
    of_row("token before", [](Rows rows, std::size_t row) {
      // Around the step's end, as a shift of its rows goes.
      if (row > 0 && rows[row - 1].sequence == rows[row].sequence) return row - 1;
      while (row + 1 < rows.size() && rows[row + 1].sequence == rows[row].sequence) ++row;
      return row;
    });
    of_row("step's last token", [](Rows rows, std::size_t row) {
      while (row + 1 < rows.size() && rows[row + 1].sequence == rows[row].sequence) ++row;
      return row;
    });
    of_row("step's first token", [](Rows rows, std::size_t row) {
      while (row > 0 && rows[row - 1].sequence == rows[row].sequence) --row;
      return row;
    });
    of_row("step before", [](Rows, std::size_t row) { return row == 0 ? row : row - 1; });
    for (const std::size_t by : {std::size_t{1}, width - 1}) {
      result.push_back(with_input(
          fmt::format("{} one column {}", name, by == 1 ? "early" : "late"), id, [id, width, by](const Site& site) {
            const auto right = site.scene->value(id);
            std::vector<float> out(right.begin(), right.end());
            for (auto at = out.begin(); at != out.end(); at += static_cast<std::ptrdiff_t>(width))
              std::rotate(at, at + static_cast<std::ptrdiff_t>(by), at + static_cast<std::ptrdiff_t>(width));
            return out;
          }));
    }
  }
  return result;
}

std::vector<Candidate> multiplied(const Question& q) {
  if (q.is_inner()) return {};
  const auto* op = q.as<plan::Add>();
  if (op == nullptr) return {};
  return {{"", [op = *op](const Site& site) {
             const auto a = site.scene->value(op.a), b = site.scene->value(op.b);
             std::vector<float> y(a.begin(), a.end());
             for (std::size_t i = 0; i < y.size(); ++i) y[i] *= b[i];
             return y;
           }}};
}

std::vector<Candidate> residual_missing(const Question& q) {
  const auto* op = q.as<plan::Add>();
  if (op == nullptr) return {};
  return also_in_run(q, {{"", [op = *op](const Site& site) {
                            const auto b = site.scene->value(op.b);
                            return std::vector<float>(b.begin(), b.end());
                          }}});
}

std::vector<Candidate> branch_missing(const Question& q) {
  const auto* op = q.as<plan::Add>();
  if (op == nullptr) return {};
  return also_in_run(q, {{"", [op = *op](const Site& site) {
                            const auto a = site.scene->value(op.a);
                            return std::vector<float>(a.begin(), a.end());
                          }}});
}

std::vector<Candidate> residual_from(const Question& q) {
  const auto* op = q.as<plan::Add>();
  return op == nullptr ? std::vector<Candidate>() : with_other_values(q, op->a);
}

// The residual that a norm in place left, before its weight.
std::vector<Candidate> normalized(const Question& q) {
  if (q.is_inner()) return {};
  const auto* op = q.as<plan::Add>();
  if (op == nullptr) return {};
  for (const plan::Op& other : q.plan().ops) {
    const auto* norm = std::get_if<plan::Norm>(&other);
    if (norm == nullptr || norm->x != op->a) continue;
    return {with_input("", op->a, [x = op->a, eps = norm->eps, width = q.width()](const Site& site) {
      const auto right = site.scene->value(x);
      std::vector<float> out(right.begin(), right.end());
      for (std::size_t start = 0; start < out.size(); start += width) {
        double sum = 0;
        for (std::size_t i = start; i < start + width; ++i) sum += double{out[i]} * out[i];
        const double s = 1 / std::sqrt(sum / static_cast<double>(width) + eps);
        for (std::size_t i = start; i < start + width; ++i) out[i] = static_cast<float>(out[i] * s);
      }
      return out;
    })};
  }
  return {};
}

std::vector<Candidate> branch_from(const Question& q) {
  const auto* op = q.as<plan::Add>();
  return op == nullptr ? std::vector<Candidate>() : with_other_values(q, op->b);
}

std::vector<Candidate> residual_weighed(const Question& q) {
  const auto* op = q.as<plan::Add>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const auto add = [&](double a, double b, std::string detail) {
    result.push_back({std::move(detail), [op = *op, a, b](const Site& site) {
                        const auto x = site.scene->value(op.a), y = site.scene->value(op.b);
                        std::vector<float> sum(x.size());
                        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = static_cast<float>(a * x[i] + b * y[i]);
                        return sum;
                      }});
  };
  add(2, 1, "the residual is added twice");
  add(1, 2, "the branch is added twice");
  add(1, -1, "the branch is subtracted");
  add(0.5, 0.5, "their mean is taken");
  add(std::sqrt(0.5), std::sqrt(0.5), "their sum is divided by sqrt(2)");
  if (q.found.empty()) return result;
  // The weights that fit best, by least squares.
  const Values x = q.replay.value(op->a), y = q.replay.value(op->b);
  const std::size_t width = q.width();
  double xx = 0, xy = 0, yy = 0, xf = 0, yf = 0;
  for (std::size_t r = 0; r < q.rows.size(); ++r) {
    for (std::size_t i = 0; i < width; ++i) {
      const double a = (*x)[q.rows[r] * width + i], b = (*y)[q.rows[r] * width + i], f = q.found[r * width + i];
      xx += a * a;
      xy += a * b;
      yy += b * b;
      xf += a * f;
      yf += b * f;
    }
  }
  const double determinant = xx * yy - xy * xy;
  if (determinant > 1e-9 * xx * yy) {
    const double a = (xf * yy - yf * xy) / determinant, b = (yf * xx - xf * xy) / determinant;
    if (std::isfinite(a) && std::isfinite(b)) add(a, b, fmt::format("{:.4g} x residual + {:.4g} x branch", a, b));
  }
  return result;
}

constexpr Hypothesis table[] = {
    {"gate-up-exchanged", "gate and up are exchanged",
     "The activation is that of the gate; here it is applied to the up projection.", "activation(gate) * up", exchanged},
    {"activation-other", "another activation function is used",
     "llama and qwen use SiLU, Gemma GELU by its tanh formula; the kinds of GELU differ by 1e-3.",
     "use the activation that the architecture asks for", other_function},
    {"activation-missing", "the activation is left out", "gate * up.", "activation(gate) * up", missing},
    {"activation-on-product", "the activation is applied to the product", "activation(gate * up).", "activation(gate) * up",
     on_product},
    {"gate-or-up-missing", "gate and up are joined otherwise", "One of the two is left out, or they are not multiplied.",
     "activation(gate) * up", half},
    {"gate-up-interleaved", "gate and up are read as interleaved",
     "A joined product has all of gate and then all of up; it is read in pairs.", "gate is the first half, up the second",
     interleaved},
    {"activation-clamped", "the feed-forward's inputs are clamped",
     "A limit that another architecture asks for, or that hides an overflow.", "do not clamp", clamped_gate},
    {"residual-missing", "the residual is not added", "The output is the branch's alone.", "x + branch", residual_missing},
    {"branch-missing", "the branch is not added",
     "The output is the residual's alone: attention or feed-forward has no effect.", "x + branch", branch_missing},
    {"residual-from-elsewhere", "the residual is taken from another place",
     "The residual stream is the value before the norm; a norm that works in place overwrites it.",
     "keep the value before the norm", residual_from},
    {"residual-normalized", "the residual is normalised",
     "The norm before the branch works in place, and applies its weight elsewhere.", "keep the value before the norm",
     normalized},
    {"branch-from-elsewhere", "another value is added to the residual", "The buffer of the branch holds something else.",
     "add the output of the branch", branch_from},
    {"residual-multiplied", "residual and branch are multiplied", "The two are gated as gate and up are, instead of added.",
     "x + branch", multiplied},
    {"operands-misaligned", "the op's two inputs are not of the same token or column",
     "One of them is read with another row, or one element off.", "read both at row * width + column", misaligned},
    {"residual-weighed", "residual and branch are added with other weights", "Added twice, subtracted, or scaled.",
     "x + branch", residual_weighed},
};

}  // namespace
}  // namespace in_feed_forward

std::span<const Hypothesis> feed_forward() { return in_feed_forward::table; }

}  // namespace plumb::diagnose::families
