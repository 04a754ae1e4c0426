// The feed-forward's activation, and the residual stream.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace {

using ElementFn = double (*)(double gate, double up);

double silu(double x) { return x / (1 + std::exp(-x)); }

Candidate element_wise(const plan::GatedActivation& op, ElementFn f, std::string detail = "") {
  return {std::move(detail), [op, f](const Site& site) {
            const auto gate = site.scene->value(op.gate), up = site.scene->value(op.up);
            std::vector<float> y(gate.size());
            for (std::size_t i = 0; i < y.size(); ++i) y[i] = static_cast<float>(f(gate[i], up[i]));
            return y;
          }};
}

std::vector<Candidate> exchanged(const Question& q) {
  const auto* op = q.as<plan::GatedActivation>();
  if (op == nullptr) return {};
  plan::GatedActivation wrong = *op;
  std::swap(wrong.gate, wrong.up);
  return {changed(wrong)};
}

std::vector<Candidate> other_function(const Question& q) {
  const auto* op = q.as<plan::GatedActivation>();
  if (op == nullptr) return {};
  using enum plan::Activation;
  constexpr std::pair<plan::Activation, std::string_view> all[] = {
      {silu, "SiLU"}, {gelu_tanh, "GELU by tanh"}, {gelu_erf, "GELU by erf"}, {relu, "ReLU"}};
  std::vector<Candidate> result;
  for (const auto& [activation, name] : all) {
    if (activation == op->activation) continue;
    plan::GatedActivation wrong = *op;
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
  return result;
}

std::vector<Candidate> missing(const Question& q) {
  const auto* op = q.as<plan::GatedActivation>();
  if (op == nullptr) return {};
  return {element_wise(*op, [](double g, double u) { return g * u; })};
}

std::vector<Candidate> on_product(const Question& q) {
  const auto* op = q.as<plan::GatedActivation>();
  if (op == nullptr) return {};
  return {element_wise(*op, [](double g, double u) { return families::silu(g * u); })};
}

std::vector<Candidate> half(const Question& q) {
  const auto* op = q.as<plan::GatedActivation>();
  if (op == nullptr) return {};
  return {element_wise(
              *op, [](double g, double) { return families::silu(g); }, "the up projection is left out"),
          element_wise(
              *op, [](double, double u) { return families::silu(u); }, "the gate is left out"),
          element_wise(
              *op, [](double g, double u) { return families::silu(g) + u; }, "they are added"),
          element_wise(
              *op, [](double g, double u) { return families::silu(g) * families::silu(u); }, "both are activated"),
          element_wise(
              *op, [](double g, double u) { return families::silu(g) * (u + 1); }, "1 is added to the up projection")};
}

std::vector<Candidate> interleaved(const Question& q) {
  const auto* op = q.as<plan::GatedActivation>();
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
  const auto* op = q.as<plan::GatedActivation>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  for (const double limit : {1.0, 5.0, 6.0, 7.0, 10.0, 20.0, 100.0}) {
    result.push_back({fmt::format("inputs clamped at {:g}", limit), [op = *op, limit](const Site& site) {
                        const auto gate = site.scene->value(op.gate), up = site.scene->value(op.up);
                        std::vector<float> y(gate.size());
                        for (std::size_t i = 0; i < y.size(); ++i) {
                          y[i] = static_cast<float>(
                              backends::reference::activate(op.activation, std::min<double>(gate[i], limit)) *
                              std::clamp<double>(up[i], -limit, limit));
                        }
                        return y;
                      }});
  }
  return result;
}

std::vector<Candidate> residual_missing(const Question& q) {
  const auto* op = q.as<plan::Add>();
  if (op == nullptr) return {};
  return {{"", [op = *op](const Site& site) {
             const auto b = site.scene->value(op.b);
             return std::vector<float>(b.begin(), b.end());
           }}};
}

std::vector<Candidate> branch_missing(const Question& q) {
  const auto* op = q.as<plan::Add>();
  if (op == nullptr) return {};
  return {{"", [op = *op](const Site& site) {
             const auto a = site.scene->value(op.a);
             return std::vector<float>(a.begin(), a.end());
           }}};
}

std::vector<Candidate> residual_from(const Question& q) {
  const auto* op = q.as<plan::Add>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const auto layer = layer_of(q.plan().value(op->out).name);
  for (std::uint32_t i = 0; i < q.plan().values.size(); ++i) {
    const plan::ValueId id{i};
    const plan::Value& other = q.plan().values[i];
    const auto of = layer_of(other.name);
    const bool near = !of || !layer || *of == *layer || *of + 1 == *layer;
    if (id == op->a || other.width != q.width() || !near || q.replay.producer(id) >= q.op_index) continue;
    result.push_back(with_input(fmt::format("{} in place of {}", other.name, q.plan().value(op->a).name), op->a,
                                [id](const Site& site) { return site.value(id); }));
  }
  return result;
}

std::vector<Candidate> branch_from(const Question& q) {
  const auto* op = q.as<plan::Add>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const auto layer = layer_of(q.plan().value(op->out).name);
  for (std::uint32_t i = 0; i < q.plan().values.size(); ++i) {
    const plan::ValueId id{i};
    const plan::Value& other = q.plan().values[i];
    const auto of = layer_of(other.name);
    const bool near = !of || !layer || *of == *layer || *of + 1 == *layer;
    if (id == op->b || id == op->a || other.width != q.width() || !near || q.replay.producer(id) >= q.op_index) continue;
    result.push_back(with_input(fmt::format("{} in place of {}", other.name, q.plan().value(op->b).name), op->b,
                                [id](const Site& site) { return site.value(id); }));
  }
  return result;
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
    {"branch-from-elsewhere", "another value is added to the residual", "The buffer of the branch holds something else.",
     "add the output of the branch", branch_from},
    {"residual-weighed", "residual and branch are added with other weights", "Added twice, subtracted, or scaled.",
     "x + branch", residual_weighed},
};

}  // namespace

std::span<const Hypothesis> feed_forward() { return table; }

}  // namespace plumb::diagnose::families
