// The feed-forward's activation, and the residual stream.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_feed_forward {
namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

// The range of columns in which the suspect's rows are wrong, [first, last), if it is not all columns.
std::optional<std::pair<std::size_t, std::size_t>> wrong_run(const Question& q) {
  if (!q.has_both()) return std::nullopt;
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

// Adds the candidates so far again, with the mistake only in the wrong columns.
void add_in_run(const Question& q, Candidates& out) {
  if (const auto run = wrong_run(q)) out.also_in_columns(run->first, run->second, q.width());
}

// The op as a function of one element of each input; without `up`, that element is 1.
template <class F>
Mistake element_wise(const plan::Activate& op, F f) {
  return [op, f](const Site& site) {
    const auto gate = site.scene.value(op.gate), up = op.up ? site.scene.value(*op.up) : gate;
    std::vector<float> y(gate.size());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = static_cast<float>(f(gate[i], op.up ? up[i] : 1.0f));
    return y;
  };
}

constexpr std::pair<plan::Activation, std::string_view> activations[] = {{plan::Activation::silu, "SiLU"},
                                                                         {plan::Activation::gelu_tanh, "GELU by tanh"},
                                                                         {plan::Activation::gelu_erf, "GELU by erf"},
                                                                         {plan::Activation::relu, "ReLU"}};

void exchanged(const Question& q, const plan::Activate& op, Candidates& out) {
  if (!op.up) return;
  plan::Activate wrong = op;
  std::swap(wrong.gate, *wrong.up);
  out.changed(wrong);
  for (const auto& [activation, name] : activations) {
    if (activation == op.activation || q.is_inner()) continue;
    wrong.activation = activation;
    out.changed(wrong, fmt::format("and {} is used", name));
  }
  add_in_run(q, out);
}

void other_function(const Question& q, const plan::Activate& op, Candidates& out) {
  for (const auto& [activation, name] : activations) {
    if (activation == op.activation) continue;
    plan::Activate wrong = op;
    wrong.activation = activation;
    out.changed(wrong, std::string(name));
  }
  out.add("quick GELU, x sigmoid(1.702 x)",
          element_wise(op, [](double g, double u) { return g / (1 + std::exp(-1.702 * g)) * u; }));
  out.add("sigmoid", element_wise(op, [](double g, double u) { return u / (1 + std::exp(-g)); }));
  out.add("tanh", element_wise(op, [](double g, double u) { return std::tanh(g) * u; }));
  out.add("squared ReLU", element_wise(op, [](double g, double u) { return g > 0 ? g * g * u : 0; }));
  if (q.is_inner()) return;
  out.add("SiLU twice", element_wise(op, [](double g, double u) { return silu(silu(g)) * u; }));
  out.add("hard swish, x clamp(x / 6 + 1/2)",
          element_wise(op, [](double g, double u) { return g * std::clamp(g / 6 + 0.5, 0.0, 1.0) * u; }));
  out.add("softsign", element_wise(op, [](double g, double u) { return g / (1 + std::abs(g)) * u; }));
  out.add("a sigmoid made of x / (2 + |x|)",
          element_wise(op, [](double g, double u) { return g * (g / (2 + std::abs(g)) + 1) / 2 * u; }));
  out.add("softplus", element_wise(op, [](double g, double u) { return softplus(g) * u; }));
  out.add("Mish", element_wise(op, [](double g, double u) { return g * std::tanh(softplus(g)) * u; }));
  out.add("ELU", element_wise(op, [](double g, double u) { return (g > 0 ? g : std::expm1(g)) * u; }));
  out.add("leaky ReLU, 0.01 x below 0", element_wise(op, [](double g, double u) { return (g > 0 ? g : 0.01 * g) * u; }));
  out.add("leaky ReLU, 0.1 x below 0", element_wise(op, [](double g, double u) { return (g > 0 ? g : 0.1 * g) * u; }));
  out.add("x sigmoid(-x)", element_wise(op, [](double g, double u) { return g / (1 + std::exp(g)) * u; }));
  if (op.activation != plan::Activation::silu) return;
  // x sigmoid(beta x): the beta that fits best, by thirds.
  if (q.found.empty()) return;
  const Values gate = q.replay.value(op.gate), up = op.up ? q.replay.value(*op.up) : gate;
  const std::size_t width = q.width();
  const auto error = [&](double beta) {
    double sum = 0;
    for (std::size_t c = 0; c < width; ++c) {
      const double g = (*gate)[q.rows[0] * width + c], u = op.up ? (*up)[q.rows[0] * width + c] : 1;
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
  if (std::abs(beta - 1) < 0.01 || std::abs(beta - 1.702) < 0.01 || !(error(beta) < 0.1 * error(1))) return;
  out.add(fmt::format("x sigmoid({:g} x)", beta),
          element_wise(op, [beta](double g, double u) { return g / (1 + std::exp(-beta * g)) * u; }));
}

void missing(const Question& q, const plan::Activate& op, Candidates& out) {
  out.add("", element_wise(op, [](double g, double u) { return g * u; }));
  add_in_run(q, out);
}

void on_product(const Question&, const plan::Activate& op, Candidates& out) {
  if (!op.up) return;
  out.add("", element_wise(op, [](double g, double u) { return silu(g * u); }));
}

void half(const Question&, const plan::Activate& op, Candidates& out) {
  if (!op.up) return;
  out.add("the up projection is left out", element_wise(op, [](double g, double) { return silu(g); }));
  out.add("the gate is left out", element_wise(op, [](double, double u) { return silu(u); }));
  out.add("the gate is used for both", element_wise(op, [](double g, double) { return silu(g) * g; }));
  out.add("they are added", element_wise(op, [](double g, double u) { return silu(g) + u; }));
  out.add("both are activated", element_wise(op, [](double g, double u) { return silu(g) * silu(u); }));
  out.add("1 is added to the up projection", element_wise(op, [](double g, double u) { return silu(g) * (u + 1); }));
  out.add("1 is added to the activation", element_wise(op, [](double g, double u) { return (silu(g) + 1) * u; }));
}

void interleaved(const Question& q, const plan::Activate& op, Candidates& out) {
  if (!op.up) return;
  out.add("", [op, n = q.width()](const Site& site) {
    const auto gate = site.scene.value(op.gate), up = site.scene.value(*op.up);
    std::vector<float> y(gate.size());
    // gate and up are stored one after the other, but are read as pairs.
    const auto both = [&](std::size_t row, std::size_t i) { return i < n ? gate[row * n + i] : up[row * n + i - n]; };
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t row = i / n, j = i % n;
      y[i] = static_cast<float>(backends::reference::activate(op.activation, both(row, 2 * j)) * both(row, 2 * j + 1));
    }
    return y;
  });
}

void clamped_gate(const Question& q, const plan::Activate& op, Candidates& out) {
  constexpr double none = infinity;
  const auto add = [&](std::string detail, double of_gate, double of_up) {
    out.add(std::move(detail), element_wise(op, [activation = op.activation, of_gate, of_up](double g, double u) {
              return backends::reference::activate(activation, std::min(g, of_gate)) * std::clamp(u, -of_up, of_up);
            }));
  };
  for (const double limit : {1.0, 2.0, 5.0, 6.0, 7.0, 10.0, 20.0, 100.0}) {
    add(fmt::format("inputs clamped at {:g}", limit), limit, limit);
    if (q.is_inner() || !op.up) continue;
    add(fmt::format("up clamped at {:g}", limit), none, limit);
    add(fmt::format("gate clamped at {:g}", limit), limit, none);
  }
  if (!op.up) return;
  // The limit of `up` shows where the gate is below 0, since the gate's own limit does not act there.
  if (!q.found.empty()) {
    const Values gate = q.replay.value(op.gate), up = q.replay.value(*op.up);
    const std::size_t width = q.width();
    std::vector<double> limits;
    for (std::size_t i = 0; i < q.found.size(); ++i) {
      const std::size_t at = q.rows[i / width] * width + i % width;
      const double activated = backends::reference::activate(op.activation, (*gate)[at]), right = std::abs((*up)[at]);
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
  // gpt-oss's activation, with its limit and without.
  out.add("gpt-oss's, clamp(x, 7) sigmoid(1.702 x) (up + 1)", element_wise(op, [](double g, double u) {
            const double gate = std::min(g, 7.0);
            return gate / (1 + std::exp(-1.702 * gate)) * (std::clamp(u, -7.0, 7.0) + 1);
          }));
  out.add("gpt-oss's without its limit, x sigmoid(1.702 x) (up + 1)",
          element_wise(op, [](double g, double u) { return g / (1 + std::exp(-1.702 * g)) * (u + 1); }));
}

// Two operands of different tokens or columns.
void misaligned(const Question& q, Candidates& out) {
  if (q.is_inner() || (q.as<plan::Activate>() == nullptr && q.as<plan::Add>() == nullptr)) return;
  const std::size_t width = q.width();
  using Rows = std::span<const backends::Row>;
  for (const plan::ValueId id : plan::inputs(q.op)) {
    const std::string& name = q.plan().value(id).name;
    const auto of_row = [&](std::string_view which, std::uint32_t (*from)(Rows rows, std::uint32_t row)) {
      out.with_input(fmt::format("{} of the {}", name, which), id, [id, width, from](const Site& site) {
        std::vector<std::uint32_t> rows;
        for (const std::uint32_t row : site.rows) rows.push_back(from(site.replay.rows(), row));
        return gather(*site.replay.value(id), width, rows);
      });
    };
    // Rows shift around the step's end.
    of_row("token before", [](Rows rows, std::uint32_t row) {
      const StepRows step = step_of(rows, row);
      return row > step.begin ? row - 1 : step.end - 1;
    });
    of_row("step's last token", [](Rows rows, std::uint32_t row) { return step_of(rows, row).end - 1; });
    of_row("step's first token", [](Rows rows, std::uint32_t row) { return step_of(rows, row).begin; });
    of_row("step before", [](Rows, std::uint32_t row) { return row == 0 ? row : row - 1; });
    for (const std::size_t by : {std::size_t{1}, width - 1}) {
      out.with_changed_input(
          fmt::format("{} one column {}", name, by == 1 ? "early" : "late"), id, [width, by](std::vector<float>& x) {
            for (auto at = x.begin(); at != x.end(); at += static_cast<std::ptrdiff_t>(width))
              std::rotate(at, at + static_cast<std::ptrdiff_t>(by), at + static_cast<std::ptrdiff_t>(width));
          });
    }
  }
}

// The sum as another function of one element of each operand.
template <class F>
Mistake of_operands(const plan::Add& op, F f) {
  return [op, f](const Site& site) {
    const auto a = site.scene.value(op.a), b = site.scene.value(op.b);
    std::vector<float> y(a.size());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = static_cast<float>(f(a[i], b[i]));
    return y;
  };
}

void multiplied(const Question& q, const plan::Add& op, Candidates& out) {
  if (!q.is_inner()) out.add("", of_operands(op, [](float a, float b) { return a * b; }));
}

void residual_missing(const Question& q, const plan::Add& op, Candidates& out) {
  out.add("", of_operands(op, [](float, float b) { return b; }));
  add_in_run(q, out);
}

void branch_missing(const Question& q, const plan::Add& op, Candidates& out) {
  if (!layer_of(q.plan().value(q.out()).name)) return;
  out.add("", of_operands(op, [](float a, float) { return a; }));
  add_in_run(q, out);
}

void residual_from(const Question& q, const plan::Add& op, Candidates& out) { out.with_other_values(q, op.a); }

// A norm has overwritten the residual with its result, before the weight.
void normalized(const Question& q, const plan::Add& op, Candidates& out) {
  if (q.is_inner()) return;
  for (const plan::Op& other : q.plan().ops) {
    const auto* norm = std::get_if<plan::Norm>(&other);
    if (norm == nullptr || norm->x != op.a) continue;
    out.with_changed_input("", op.a, [eps = norm->eps, width = q.width()](std::vector<float>& x) {
      for (std::size_t start = 0; start < x.size(); start += width) {
        double sum = 0;
        for (std::size_t i = start; i < start + width; ++i) sum += double{x[i]} * x[i];
        const double s = 1 / std::sqrt(sum / static_cast<double>(width) + eps);
        for (std::size_t i = start; i < start + width; ++i) x[i] = static_cast<float>(x[i] * s);
      }
    });
    return;
  }
}

void branch_from(const Question& q, const plan::Add& op, Candidates& out) { out.with_other_values(q, op.b); }

void residual_weighed(const Question& q, const plan::Add& op, Candidates& out) {
  const auto add = [&](double a, double b, std::string detail) {
    out.add(std::move(detail), of_operands(op, [a, b](float x, float y) { return a * x + b * y; }));
  };
  add(2, 1, "the residual is added twice");
  add(1, 2, "the branch is added twice");
  add(1, -1, "the branch is subtracted");
  add(0.5, 0.5, "their mean is taken");
  add(std::sqrt(0.5), std::sqrt(0.5), "their sum is divided by sqrt(2)");
  if (q.found.empty()) return;
  // The weights that fit best, by least squares.
  const Values x = q.replay.value(op.a), y = q.replay.value(op.b);
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
}

constexpr Hypothesis table[] = {
    {"gate-up-exchanged", Kind::op, of<exchanged>, R"(gate and up are exchanged
The activation is that of the gate; here it is applied to the up projection.
activation(gate) * up)"},
    {"activation-other", Kind::parameter, of<other_function>, R"(another activation function is used
llama and qwen use SiLU, Gemma GELU by its tanh formula; the kinds of GELU differ by 1e-3.
use the activation that the architecture asks for)"},
    {"activation-missing", Kind::op, of<missing>, R"(the activation is left out
gate * up.
activation(gate) * up)"},
    {"activation-on-product", Kind::op, of<on_product>, R"(the activation is applied to the product
activation(gate * up).
activation(gate) * up)"},
    {"gate-or-up-missing", Kind::op, of<half>, R"(gate and up are joined otherwise
One of the two is left out, or they are not multiplied.
activation(gate) * up)"},
    {"gate-up-interleaved", Kind::op, of<interleaved>, R"(gate and up are read as interleaved
A joined product has all of gate and then all of up; it is read in pairs.
gate is the first half, up the second)"},
    {"activation-clamped", Kind::op, of<clamped_gate>, R"(the feed-forward's inputs are clamped
A limit that another architecture asks for, or that hides an overflow.
do not clamp)"},
    {"residual-missing", Kind::op, of<residual_missing>, R"(the residual is not added
The output is the branch's alone.
x + branch)"},
    {"branch-missing", Kind::op, of<branch_missing>, R"(the branch is not added
The output is the residual's alone: attention or feed-forward has no effect.
x + branch)"},
    {"residual-from-elsewhere", Kind::op, of<residual_from>, R"(the residual is taken from another place
The residual stream is the value before the norm; a norm that works in place overwrites it.
keep the value before the norm)"},
    {"residual-normalized", Kind::op, of<normalized>, R"(the residual is normalised
The norm before the branch works in place, and applies its weight elsewhere.
keep the value before the norm)"},
    {"branch-from-elsewhere", Kind::op, of<branch_from>, R"(another value is added to the residual
The buffer of the branch holds something else.
add the output of the branch)"},
    {"residual-multiplied", Kind::op, of<multiplied>, R"(residual and branch are multiplied
The two are gated as gate and up are, instead of added.
x + branch)"},
    {"operands-misaligned", Kind::op, of<misaligned>, R"(the op's two inputs are not of the same token or column
One of them is read with another row, or one element off.
read both at row * width + column)"},
    {"residual-weighed", Kind::op, of<residual_weighed>, R"(residual and branch are added with other weights
Added twice, subtracted, or scaled.
x + branch)"},
};

}  // namespace
}  // namespace in_feed_forward

std::span<const Hypothesis> feed_forward() { return in_feed_forward::table; }

}  // namespace plumb::diagnose::families
