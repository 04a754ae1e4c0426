// The feed-forward's activation, and the residual stream.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
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
  const double small = 1e-4 * std::sqrt(squares(q.expected) / static_cast<double>(q.expected.size()));
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

// Adds the op as a function of one element of each input; without `up`, that element is 1.
template <class Function>
void add(Candidates& out, const plan::Activate& op, const std::string& detail, Function function) {
  out.add(detail, [op, function](const Site& site) {
    const auto gate = site.scene.value(op.gate), up = op.up ? site.scene.value(*op.up) : gate;
    std::vector<float> y(up.size());
    const std::size_t each = up.size() / gate.size();
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = static_cast<float>(function(gate[i / each], op.up ? up[i] : 1.0f));
    return y;
  });
}
// The same for the operands of a sum.
template <class Function>
void add(Candidates& out, const plan::Add& op, const std::string& detail, Function function) {
  out.add(detail, [op, function](const Site& site) {
    const auto a = site.scene.value(op.a), b = site.scene.value(op.b);
    std::vector<float> y(a.size());
    std::transform(a.begin(), a.end(), b.begin(), y.begin(),
                   [&](float x, float branch) { return static_cast<float>(function(x, branch)); });
    return y;
  });
}

constexpr std::pair<plan::Activation, std::string_view> activations[] = {{plan::Activation::silu, "SiLU"},
                                                                         {plan::Activation::gelu_tanh, "GELU by tanh"},
                                                                         {plan::Activation::gelu_erf, "GELU by erf"},
                                                                         {plan::Activation::relu, "ReLU"},
                                                                         {plan::Activation::relu_squared, "squared ReLU"},
                                                                         {plan::Activation::sigmoid, "sigmoid"},
                                                                         {plan::Activation::tanh, "tanh"}};

// Whether a value of the gate is the factor of several neighbours.
bool is_spread(const Question& q, const plan::Activate& op) { return q.plan().value(op.gate).width != q.width(); }

void exchanged(const Question& q, const plan::Activate& op, Candidates& out) {
  if (!op.up || is_spread(q, op)) return;
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
    if (activation != op.activation) out.with(op, &plan::Activate::activation, activation, std::string(name));
  }
  struct Function {
    std::string_view name;
    double (*of)(double x);
  };
  constexpr Function likely[] = {
      {"quick GELU, x sigmoid(1.702 x)", [](double x) { return x / (1 + std::exp(-1.702 * x)); }},
  };
  constexpr Function others[] = {
      {"SiLU twice", [](double x) { return silu(silu(x)); }},
      {"hard swish, x clamp(x / 6 + 1/2)", [](double x) { return x * std::clamp(x / 6 + 0.5, 0.0, 1.0); }},
      {"softsign", [](double x) { return x / (1 + std::abs(x)); }},
      {"a sigmoid made of x / (2 + |x|)", [](double x) { return x * (x / (2 + std::abs(x)) + 1) / 2; }},
      {"softplus", softplus},
      {"Mish", [](double x) { return x * std::tanh(softplus(x)); }},
      {"ELU", [](double x) { return x > 0 ? x : std::expm1(x); }},
      {"leaky ReLU, 0.01 x below 0", [](double x) { return x > 0 ? x : 0.01 * x; }},
      {"leaky ReLU, 0.1 x below 0", [](double x) { return x > 0 ? x : 0.1 * x; }},
      {"x sigmoid(-x)", [](double x) { return x / (1 + std::exp(x)); }},
  };
  const auto try_all = [&](std::span<const Function> functions) {
    for (const auto& [name, of] : functions)
      add(out, op, std::string(name), [of = of](double g, double u) { return of(g) * u; });
  };
  try_all(likely);
  if (q.is_inner()) return;
  try_all(others);
  if (op.activation != plan::Activation::silu || is_spread(q, op)) return;
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
  const double beta = to_digits(low, 3);
  if (std::abs(beta - 1) < 0.01 || std::abs(beta - 1.702) < 0.01 || !(error(beta) < 0.1 * error(1))) return;
  add(out, op, fmt::format("x sigmoid({:g} x)", beta),
      [beta](double g, double u) { return g / (1 + std::exp(-beta * g)) * u; });
}

void missing(const Question& q, const plan::Activate& op, Candidates& out) {
  add(out, op, "", [](double g, double u) { return g * u; });
  add_in_run(q, out);
}

void on_product(const Question&, const plan::Activate& op, Candidates& out) {
  if (!op.up) return;
  add(out, op, "", [](double g, double u) { return silu(g * u); });
}

void half(const Question&, const plan::Activate& op, Candidates& out) {
  if (!op.up) return;
  add(out, op, "the up projection is left out", [](double g, double) { return silu(g); });
  add(out, op, "the gate is left out", [](double, double u) { return silu(u); });
  add(out, op, "the gate is used for both", [](double g, double) { return silu(g) * g; });
  add(out, op, "they are added", [](double g, double u) { return silu(g) + u; });
  add(out, op, "both are activated", [](double g, double u) { return silu(g) * silu(u); });
  add(out, op, "1 is added to the up projection", [](double g, double u) { return silu(g) * (u + 1); });
  add(out, op, "1 is added to the activation", [](double g, double u) { return (silu(g) + 1) * u; });
}

void interleaved(const Question& q, const plan::Activate& op, Candidates& out) {
  if (!op.up || is_spread(q, op)) return;
  out.add("", [op, n = q.width()](const Site& site) {
    const auto gate = site.scene.value(op.gate), up = site.scene.value(*op.up);
    std::vector<float> y(gate.size());
    // gate and up are stored one after the other, but are read as pairs.
    const auto both = [&](std::size_t row, std::size_t i) { return i < n ? gate[row * n + i] : up[row * n + i - n]; };
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t row = i / n, j = i % n;
      y[i] = static_cast<float>(backends::reference::activate(op, both(row, 2 * j)) * both(row, 2 * j + 1));
    }
    return y;
  });
}

void clamped_gate(const Question& q, const plan::Activate& op, Candidates& out) {
  const auto clamped = [&](std::string_view what, double limit, double of_gate, double of_up) {
    add(out, op, fmt::format("{} clamped at {:g}", what, limit), [op, of_gate, of_up](double g, double u) {
      return backends::reference::activate(op, std::min(g, of_gate)) * std::clamp(u, -of_up, of_up);
    });
  };
  for (const double limit : {1.0, 2.0, 5.0, 6.0, 7.0, 10.0, 20.0, 100.0}) {
    clamped("inputs", limit, limit, limit);
    if (q.is_inner() || !op.up) continue;
    clamped("up", limit, infinity, limit);
    clamped("gate", limit, limit, infinity);
  }
  if (!op.up || is_spread(q, op)) return;
  // The limit of `up` shows where the gate is below 0, since the gate's own limit does not act there.
  if (!q.found.empty()) {
    const Values gate = q.replay.value(op.gate), up = q.replay.value(*op.up);
    const std::size_t width = q.width();
    std::vector<double> limits;
    for (std::size_t i = 0; i < q.found.size(); ++i) {
      const std::size_t at = q.rows[i / width] * width + i % width;
      const double activated = backends::reference::activate(op, (*gate)[at]), right = std::abs((*up)[at]);
      const double limit = std::abs(q.found[i] / activated);
      if ((*gate)[at] < 0 && std::isfinite(limit) && limit < 0.99 * right) limits.push_back(limit);
    }
    if (!limits.empty()) {
      const double limit = to_digits(median(std::move(limits)), 3);
      clamped("inputs", limit, limit, limit);
      clamped("up", limit, infinity, limit);
    }
  }
  // gpt-oss's activation, with its limit and without.
  const auto of_gpt_oss = [](double g, double u) { return g / (1 + std::exp(-1.702 * g)) * (u + 1); };
  add(out, op, "gpt-oss's, clamp(x, 7) sigmoid(1.702 x) (up + 1)",
      [=](double g, double u) { return of_gpt_oss(std::min(g, 7.0), std::clamp(u, -7.0, 7.0)); });
  add(out, op, "gpt-oss's without its limit, x sigmoid(1.702 x) (up + 1)", of_gpt_oss);
}

// Two operands of different tokens or columns.
void misaligned(const Question& q, Candidates& out) {
  if (q.is_inner() || (q.as<plan::Activate>() == nullptr && q.as<plan::Add>() == nullptr)) return;
  const std::size_t width = q.width();
  for (const plan::ValueId id : plan::inputs(q.op)) {
    const std::string& name = q.plan().value(id).name;
    const auto of_row = [&](std::string_view which, std::uint32_t (*from)(StepRows step, std::uint32_t row)) {
      out.with_input(fmt::format("{} of the {}", name, which), id, [id, from](const Site& site) {
        return site.value_on(id, [&](std::uint32_t row) { return std::int64_t{from(site.replay.step_of(row), row)}; });
      });
    };
    // Rows shift around the step's end.
    of_row("token before", [](StepRows step, std::uint32_t row) { return row > step.begin ? row - 1 : step.end - 1; });
    of_row("step's last token", [](StepRows step, std::uint32_t) { return step.end - 1; });
    of_row("step's first token", [](StepRows step, std::uint32_t) { return step.begin; });
    of_row("step before", [](StepRows, std::uint32_t row) { return row == 0 ? row : row - 1; });
    for (const std::size_t by : {std::size_t{1}, width - 1}) {
      out.with_changed_input(
          fmt::format("{} one column {}", name, by == 1 ? "early" : "late"), id, [width, by](std::vector<float>& x) {
            for (auto at = x.begin(); at != x.end(); at += static_cast<std::ptrdiff_t>(width))
              std::rotate(at, at + static_cast<std::ptrdiff_t>(by), at + static_cast<std::ptrdiff_t>(width));
          });
    }
  }
}

void multiplied(const Question& q, const plan::Add& op, Candidates& out) {
  if (!q.is_inner()) add(out, op, "", [](float a, float b) { return a * b; });
}

void residual_missing(const Question& q, const plan::Add& op, Candidates& out) {
  add(out, op, "", [](float, float b) { return b; });
  add_in_run(q, out);
}

void branch_missing(const Question& q, const plan::Add& op, Candidates& out) {
  if (!layer_of(q.plan().value(q.out()).name)) return;
  add(out, op, "", [](float a, float) { return a; });
  add_in_run(q, out);
}

// A norm has overwritten the residual with its result, before the weight.
void normalized(const Question& q, const plan::Add& op, Candidates& out) {
  for (const plan::Op& other : q.plan().ops) {
    const auto* norm = std::get_if<plan::Norm>(&other);
    if (norm == nullptr || norm->x != op.a) continue;
    out.with_changed_input("", op.a, [eps = norm->eps, width = q.width()](std::vector<float>& x) {
      for (std::size_t start = 0; start < x.size(); start += width) {
        const auto row = std::span(x).subspan(start, width);
        const double s = 1 / std::sqrt(squares(row) / static_cast<double>(width) + eps);
        for (float& v : row) v = static_cast<float>(v * s);
      }
    });
    return;
  }
}

void residual_weighed(const Question& q, const plan::Add& op, Candidates& out) {
  const auto weighed = [&](double a, double b, const std::string& detail) {
    add(out, op, detail, [a, b](float x, float y) { return a * x + b * y; });
  };
  weighed(2, 1, "the residual is added twice");
  weighed(1, 2, "the branch is added twice");
  weighed(1, -1, "the branch is subtracted");
  weighed(0.5, 0.5, "their mean is taken");
  weighed(std::sqrt(0.5), std::sqrt(0.5), "their sum is divided by sqrt(2)");
  if (q.found.empty()) return;
  // The weights that fit best, by least squares.
  const std::vector<float> x = gather(*q.replay.value(op.a), q.width(), q.rows);
  const std::vector<float> y = gather(*q.replay.value(op.b), q.width(), q.rows);
  const double xx = squares(x), xy = dot(x, y), yy = squares(y), xf = dot(x, q.found), yf = dot(y, q.found);
  const double determinant = xx * yy - xy * xy;
  if (determinant > 1e-9 * xx * yy) {
    const double a = (xf * yy - yf * xy) / determinant, b = (yf * xx - xf * xy) / determinant;
    if (std::isfinite(a) && std::isfinite(b)) weighed(a, b, fmt::format("{:.4g} x residual + {:.4g} x branch", a, b));
  }
}

void limit_missing(const Question&, const plan::Activate& op, Candidates& out) {
  if (op.limit > 0) out.with(op, &plan::Activate::limit, 0);
}
void other_alpha(const Question&, const plan::Activate& op, Candidates& out) {
  if (op.activation != plan::Activation::silu || op.alpha == 1) return;
  out.with(op, &plan::Activate::alpha, 1, "the factor is left out");
}
void offset_missing(const Question&, const plan::Activate& op, Candidates& out) {
  if (op.up_offset != 0) out.with(op, &plan::Activate::up_offset, 0);
}

constexpr Hypothesis table[] = {
    {"activation-limit-missing", Kind::op, of<limit_missing>, R"(the feed-forward's inputs are not limited
gpt-oss limits the gate from above, and up on both sides.
apply the limits before the activation)"},
    {"activation-alpha", Kind::parameter, of<other_alpha>, R"(the sigmoid's factor is left out
gpt-oss has x sigmoid(1.702 x), where others have SiLU.
multiply the sigmoid's argument)"},
    {"activation-offset-missing", Kind::op, of<offset_missing>, R"(1 is not added to the up projection
gpt-oss multiplies the activation by up + 1.
add it)"},
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
    {"residual-from-elsewhere", Kind::op, of<other_operand<&plan::Add::a>>, R"(the residual is taken from another place
The residual stream is the value before the norm; a norm that works in place overwrites it.
keep the value before the norm)"},
    {"residual-normalized", Kind::op, of_shown<normalized>, R"(the residual is normalised
The norm before the branch works in place, and applies its weight elsewhere.
keep the value before the norm)"},
    {"branch-from-elsewhere", Kind::op, of<other_operand<&plan::Add::b>>, R"(another value is added to the residual
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
