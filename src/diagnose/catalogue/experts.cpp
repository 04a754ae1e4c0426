// Mixtures of experts: which experts, in which order, with which weights.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace in_experts {
namespace {

std::vector<Candidate> gating(const Question& q) {
  const auto* op = q.as<plan::ExpertWeights>();
  if (op == nullptr) return {};
  using enum plan::Gating;
  constexpr std::pair<plan::Gating, std::string_view> all[] = {{softmax, "softmax over all experts"},
                                                               {softmax_of_chosen, "softmax over the chosen ones"},
                                                               {sigmoid, "sigmoid"},
                                                               {sigmoid_normalized, "sigmoid, adding up to 1"}};
  std::vector<Candidate> result;
  for (const auto& [kind, name] : all) {
    if (kind == op->gating) continue;
    plan::ExpertWeights wrong = *op;
    wrong.gating = kind;
    result.push_back(changed(wrong, std::string(name)));
  }
  if (op->scale != 1) {
    plan::ExpertWeights wrong = *op;
    wrong.scale = 1;
    result.push_back(changed(wrong, "the factor is left out"));
  }
  return result;
}

std::vector<Candidate> equal_weights(const Question& q) {
  const auto* op = q.as<plan::ExpertWeights>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const std::size_t k = q.width();
  result.push_back(afterwards("each has 1 / k", [k](const Site&, std::vector<float>& y) {
    std::fill(y.begin(), y.end(), 1.0f / static_cast<float>(k));
  }));
  result.push_back(
      afterwards("each has 1", [](const Site&, std::vector<float>& y) { std::fill(y.begin(), y.end(), 1.0f); }));
  return result;
}

std::vector<Candidate> order(const Question& q) {
  if (!q.as<plan::ExpertWeights>() && !q.as<plan::TopK>()) return {};
  return {afterwards("they are in reverse", [k = q.width()](const Site&, std::vector<float>& y) {
    for (std::size_t i = 0; i < y.size(); i += k)
      std::reverse(y.begin() + static_cast<std::ptrdiff_t>(i), y.begin() + static_cast<std::ptrdiff_t>(i + k));
  })};
}

std::vector<Candidate> smallest(const Question& q) {
  const auto* op = q.as<plan::TopK>();
  if (op == nullptr) return {};
  return {with_input("", op->x, [x = op->x](const Site& site) {
    const auto right = site.scene->value(x);
    std::vector<float> wrong(right.begin(), right.end());
    for (float& v : wrong) v = -v;
    return wrong;
  })};
}

std::vector<Candidate> other_expert(const Question& q) {
  const auto* top = q.as<plan::TopK>();
  const auto* linear = q.as<plan::ExpertLinear>();
  std::vector<Candidate> result;
  if (top != nullptr) {
    const auto n = static_cast<float>(q.plan().value(top->x).width);
    result.push_back(afterwards("expert e + 1 for e", [n](const Site&, std::vector<float>& y) {
      for (float& e : y) e = e + 1 < n ? e + 1 : 0;
    }));
  }
  if (linear != nullptr) {
    const plan::ValueId experts = linear->experts;
    const std::size_t n = q.plan().weight(linear->weight).n_experts();
    const auto add = [&](std::string detail, auto change) {
      result.push_back(with_input(std::move(detail), experts, [experts, change](const Site& site) {
        const auto right = site.scene->value(experts);
        std::vector<float> wrong(right.begin(), right.end());
        change(wrong);
        return wrong;
      }));
    };
    add("expert e + 1 for e", [n](std::vector<float>& e) {
      for (float& v : e) v = v + 1 < static_cast<float>(n) ? v + 1 : 0;
    });
    add("expert 0 for all", [](std::vector<float>& e) { std::fill(e.begin(), e.end(), 0.0f); });
    const std::size_t k = q.plan().value(experts).width;
    add("the first of the chosen for all", [k](std::vector<float>& e) {
      for (std::size_t i = 0; i < e.size(); ++i) e[i] = e[i / k * k];
    });
    add("the chosen in reverse", [k](std::vector<float>& e) {
      for (std::size_t i = 0; i < e.size(); i += k)
        std::reverse(e.begin() + static_cast<std::ptrdiff_t>(i), e.begin() + static_cast<std::ptrdiff_t>(i + k));
    });
  }
  return result;
}

std::vector<Candidate> sum_weights(const Question& q) {
  const auto* op = q.as<plan::ExpertSum>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const std::size_t k = q.plan().value(op->weights).width;
  const auto add = [&](std::string detail, auto change) {
    result.push_back(with_input(std::move(detail), op->weights, [weights = op->weights, change](const Site& site) {
      const auto right = site.scene->value(weights);
      std::vector<float> wrong(right.begin(), right.end());
      change(wrong);
      return wrong;
    }));
  };
  add("weights are not applied", [](std::vector<float>& w) { std::fill(w.begin(), w.end(), 1.0f); });
  add("only the first expert counts", [k](std::vector<float>& w) {
    for (std::size_t i = 0; i < w.size(); ++i) {
      if (i % k != 0) w[i] = 0;
    }
  });
  add("the last expert is lost", [k](std::vector<float>& w) {
    for (std::size_t i = 0; i < w.size(); ++i) {
      if (i % k == k - 1) w[i] = 0;
    }
  });
  add("weights are in reverse", [k](std::vector<float>& w) {
    for (std::size_t i = 0; i < w.size(); i += k)
      std::reverse(w.begin() + static_cast<std::ptrdiff_t>(i), w.begin() + static_cast<std::ptrdiff_t>(i + k));
  });
  return result;
}

constexpr Hypothesis table[] = {
    {"expert-gating", "experts are weighed by another rule",
     "Softmax before or after the choice, or sigmoid: architectures differ, and so does the factor.",
     "weigh experts as the architecture asks", gating},
    {"expert-weights-equal", "all experts weigh alike", "The router's weights are not applied.", "use the router's weights",
     equal_weights},
    {"expert-order", "experts or their weights are in another order", "Weight j belongs to the j-th chosen expert.",
     "keep experts and weights in one order", order},
    {"expert-smallest", "the experts with the smallest logits are chosen", "The comparison is the wrong way round.",
     "choose the largest", smallest},
    {"expert-other", "another expert's weights are used", "The expert's offset into the weight is off.",
     "expert e's rows begin at e * out", other_expert},
    {"expert-sum", "the experts' outputs are added up wrongly", "A weight is not applied, or an expert is lost.",
     "sum of weight * output over all chosen experts", sum_weights},
};

}  // namespace
}  // namespace in_experts

std::span<const Hypothesis> experts() { return in_experts::table; }

}  // namespace plumb::diagnose::families
