// Mixtures of experts: wrong experts, a wrong order, or wrong weights.
#include <fmt/format.h>

#include <algorithm>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace in_experts {
namespace {

// Reverses the k numbers of each token.
void reverse(std::vector<float>& of, std::size_t k) {
  for (auto at = of.begin(); at != of.end(); at += static_cast<std::ptrdiff_t>(k))
    std::reverse(at, at + static_cast<std::ptrdiff_t>(k));
}

void gating(const Question&, const plan::ExpertWeights& op, Candidates& out) {
  using enum plan::Gating;
  constexpr std::pair<plan::Gating, std::string_view> all[] = {{softmax, "softmax over all experts"},
                                                               {softmax_of_chosen, "softmax over the chosen ones"},
                                                               {sigmoid, "sigmoid"},
                                                               {sigmoid_normalized, "sigmoid, adding up to 1"}};
  for (const auto& [kind, name] : all) {
    if (kind != op.gating) out.with(op, &plan::ExpertWeights::gating, kind, std::string(name));
  }
  if (op.scale != 1) out.with(op, &plan::ExpertWeights::scale, 1, "the factor is left out");
}

void router_bias(const Question&, const plan::TopK& op, Candidates& out) {
  if (!op.bias) return;
  out.with(op, &plan::TopK::bias, std::nullopt, "it is left out");
  using enum plan::Score;
  constexpr std::pair<plan::Score, std::string_view> all[] = {
      {logit, "logits"}, {softmax, "softmax"}, {sigmoid, "sigmoid"}};
  for (const auto& [score, name] : all) {
    if (score != op.score) out.with(op, &plan::TopK::score, score, fmt::format("it is added to {}", name));
  }
}
void router_groups(const Question&, const plan::TopK& op, Candidates& out) {
  if (op.n_groups_used == op.n_groups) return;
  plan::TopK wrong = op;
  wrong.n_groups = wrong.n_groups_used = 1;
  out.changed(wrong, "groups are left out");
  wrong = op;
  wrong.n_groups_used = op.n_groups_used - 1;
  if (wrong.n_groups_used > 0 && wrong.k <= wrong.n_groups_used) out.changed(wrong, "one group less is used");
}

void equal_weights(const Question& q, const plan::ExpertWeights&, Candidates& out) {
  out.with_each("each has 1 / k", [k = static_cast<float>(q.width())](float) { return 1 / k; });
  out.with_each("each has 1", [](float) { return 1.0f; });
}

void order(const Question& q, Candidates& out) {
  if (q.as<plan::ExpertWeights>() == nullptr && q.as<plan::TopK>() == nullptr) return;
  out.afterwards("they are in reverse", [k = q.width()](const Site&, std::vector<float>& y) { reverse(y, k); });
}

void smallest(const Question&, const plan::TopK& op, Candidates& out) {
  out.with_changed_input("", op.x, [](std::vector<float>& x) {
    for (float& v : x) v = -v;
  });
}

void other_expert(const Question& q, Candidates& out) {
  // The next expert; the first follows the last.
  const auto next = [](std::size_t n) {
    return [n](std::vector<float>& experts) {
      for (float& e : experts) e = e + 1 < static_cast<float>(n) ? e + 1 : 0;
    };
  };
  if (const auto* top = q.as<plan::TopK>()) {
    out.afterwards("expert e + 1 for e",
                   [change = next(q.plan().value(top->x).width)](const Site&, std::vector<float>& y) { change(y); });
  }
  const auto* op = q.as<plan::ExpertLinear>();
  if (op == nullptr) return;
  const std::size_t k = q.plan().value(op->experts).width;
  const auto add = [&](const std::string& detail, auto change) { out.with_changed_input(detail, op->experts, change); };
  add("expert e + 1 for e", next(q.plan().weight(op->weight).n_experts()));
  add("expert 0 for all", [](std::vector<float>& e) { std::fill(e.begin(), e.end(), 0.0f); });
  add("the first of the chosen for all", [k](std::vector<float>& e) {
    for (std::size_t i = 0; i < e.size(); ++i) e[i] = e[i / k * k];
  });
  add("the chosen in reverse", [k](std::vector<float>& e) { reverse(e, k); });
}

void sum_weights(const Question& q, const plan::ExpertSum& op, Candidates& out) {
  const std::size_t k = q.plan().value(op.weights).width;
  const auto add = [&](const std::string& detail, auto change) { out.with_changed_input(detail, op.weights, change); };
  const auto without = [k](auto is_lost) {
    return [k, is_lost](std::vector<float>& w) {
      for (std::size_t i = 0; i < w.size(); ++i) {
        if (is_lost(i % k)) w[i] = 0;
      }
    };
  };
  add("weights are not applied", [](std::vector<float>& w) { std::fill(w.begin(), w.end(), 1.0f); });
  add("only the first expert counts", without([](std::size_t j) { return j != 0; }));
  add("the last expert is lost", without([k](std::size_t j) { return j == k - 1; }));
  add("weights are in reverse", [k](std::vector<float>& w) { reverse(w, k); });
}

constexpr Hypothesis table[] = {
    {"router-bias", Kind::op, of<router_bias>, R"(experts are chosen without the router's bias, or by other scores
DeepSeek V3, GLM 4.5 and ERNIE add a bias to the scores for the choice alone; which score it is added to matters.
choose by score + bias; weigh by the score)"},
    {"router-groups", Kind::op, of<router_groups>, R"(experts are chosen from other groups
Only experts of the best groups may be chosen; a group counts as much as its two best together.
choose the groups first)"},
    {"expert-gating", Kind::parameter, of<gating>, R"(experts are weighed by another rule
Softmax before or after the choice, or sigmoid: architectures differ, and so does the factor.
weigh experts as the architecture asks)"},
    {"expert-weights-equal", Kind::op, of<equal_weights>, R"(all experts weigh alike
The router's weights are not applied.
use the router's weights)"},
    {"expert-order", Kind::op, of<order>, R"(experts or their weights are in another order
Weight j belongs to the j-th chosen expert.
keep experts and weights in one order)"},
    {"expert-smallest", Kind::op, of<smallest>, R"(the experts with the smallest logits are chosen
The comparison is the wrong way round.
choose the largest)"},
    {"expert-other", Kind::op, of<other_expert>, R"(another expert's weights are used
The expert's offset into the weight is off.
expert e's rows begin at e * out)"},
    {"expert-sum", Kind::op, of<sum_weights>, R"(the experts' outputs are added up wrongly
A weight is not applied, or an expert is lost.
sum of weight * output over all chosen experts)"},
};

}  // namespace
}  // namespace in_experts

std::span<const Hypothesis> experts() { return in_experts::table; }

}  // namespace plumb::diagnose::families
