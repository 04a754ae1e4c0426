// Attention over the cache: heads, scale, mask, softmax, and what the cache holds.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <set>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace in_attention {
namespace {

using backends::reference::AttentionRule;
using backends::reference::Scene;

Candidate with_rule(const plan::Attention& op, std::string detail,
                    std::function<void(const Site&, AttentionRule&)> change) {
  return {std::move(detail), [op, change = std::move(change)](const Site& site) {
            AttentionRule rule = attention_rule(op, *site.scene);
            change(site, rule);
            return backends::reference::attend(op, rule, *site.scene);
          }};
}

// The op over a cache that holds something else; `cache` changes the scene's key and cached_value.
Candidate with_cache(const plan::Attention& op, std::string detail, std::function<void(const Site&, Scene&)> cache) {
  return {std::move(detail), [op, cache = std::move(cache)](const Site& site) {
            Scene scene = *site.scene;
            cache(site, scene);
            return backends::reference::compute(plan::Op(op), scene);
          }};
}

// The op with key and value heads that are not the same one.
Candidate with_heads(const plan::Attention& op, std::string detail, std::function<std::uint32_t(std::uint32_t)> key_head,
                     std::function<std::uint32_t(std::uint32_t)> value_head) {
  return {std::move(detail), [op, key_head = std::move(key_head), value_head = std::move(value_head)](const Site& site) {
            const Scene& scene = *site.scene;
            const AttentionRule rule = attention_rule(op, scene);
            const auto queries = scene.value(op.q);
            const std::size_t d = op.head_dim, heads = op.n_heads;
            std::vector<float> y(site.rows.size() * heads * d, 0.0f);
            for (std::size_t r = 0; r < site.rows.size(); ++r) {
              for (std::uint32_t h = 0; h < heads; ++h) {
                const std::size_t at = (r * heads + h) * d;
                std::vector<double> weights;
                std::vector<std::uint32_t> seen;
                for (std::uint32_t s = 0; s < scene.cached(r); ++s) {
                  if (!rule.sees(r, s)) continue;
                  const float* key = scene.key(op.layer, r, s) + key_head(h) * d;
                  double score = 0;
                  for (std::size_t i = 0; i < d; ++i) score += double{queries[at + i]} * key[i];
                  score *= op.scale;
                  weights.push_back(op.soft_cap > 0 ? op.soft_cap * std::tanh(score / op.soft_cap) : score);
                  seen.push_back(s);
                }
                if (seen.empty()) continue;
                rule.weigh(h, weights);
                for (std::size_t j = 0; j < seen.size(); ++j) {
                  const float* value = scene.cached_value(op.layer, r, seen[j]) + value_head(h) * d;
                  for (std::size_t i = 0; i < d; ++i) y[at + i] += static_cast<float>(weights[j] * value[i]);
                }
              }
            }
            return y;
          }};
}

const plan::Attention* attention_of(const Question& q) { return q.as<plan::Attention>(); }

std::uint32_t n_prompt(const Replay& replay) {
  return static_cast<std::uint32_t>(
      std::count_if(replay.rows().begin(), replay.rows().end(), [](const auto& r) { return r.sequence == 0; }));
}

// First position of a row's step.
std::uint32_t step_start(const Site& site, std::uint64_t row) {
  const std::uint32_t step = site.scene->rows[row].sequence;
  return step == 0 ? 0 : n_prompt(*site.replay) + step - 1;
}

// Positions in the cache when a row's step has written its own.
std::uint32_t end_of_step(const Site& site, std::uint64_t row) {
  return n_prompt(*site.replay) + site.scene->rows[row].sequence;
}

std::vector<Candidate> head_map(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr || op->n_heads == op->n_kv_heads) return {};
  std::vector<Candidate> result;
  const auto add = [&](std::string detail, auto map) {
    result.push_back(with_rule(*op, std::move(detail), [map](const Site&, AttentionRule& rule) { rule.kv_head = map; }));
  };
  const std::uint32_t n = op->n_kv_heads, heads = op->n_heads;
  add("head h reads head h modulo n_kv_heads: tiled instead of repeated", [n](std::uint32_t h) { return h % n; });
  add("all heads read head 0", [](std::uint32_t) { return 0u; });
  add("head h reads head h, as if there were as many", [n](std::uint32_t h) { return std::min(h, n - 1); });
  add("the heads are in reverse", [n, heads](std::uint32_t h) { return n - 1 - h * n / heads; });
  add("head h reads head h / n_kv_heads", [n](std::uint32_t h) { return std::min(h / n, n - 1); });
  add("the next group's head", [n, heads](std::uint32_t h) { return (h * n / heads + 1) % n; });
  const auto right = [n, heads](std::uint32_t h) { return h * n / heads; };
  const auto tiled = [n](std::uint32_t h) { return h % n; };
  const auto first = [](std::uint32_t) { return 0u; };
  result.push_back(with_heads(*op, "keys are tiled, values repeated", tiled, right));
  result.push_back(with_heads(*op, "values are tiled, keys repeated", right, tiled));
  result.push_back(with_heads(*op, "all heads read keys of head 0", first, right));
  result.push_back(with_heads(*op, "all heads read values of head 0", right, first));
  return result;
}

// Key and value heads of another order, as many query heads as there are.
std::vector<Candidate> kv_head_order(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr || op->n_kv_heads < 2) return {};
  const std::uint32_t n = op->n_kv_heads, heads = op->n_heads;
  const auto right = [n, heads](std::uint32_t h) { return h * n / heads; };
  const auto reversed = [n, heads](std::uint32_t h) { return n - 1 - h * n / heads; };
  const auto next = [n, heads](std::uint32_t h) { return (h * n / heads + 1) % n; };
  return {with_heads(*op, "key heads in reverse", reversed, right),
          with_heads(*op, "value heads in reverse", right, reversed), with_heads(*op, "the next key head", next, right),
          with_heads(*op, "the next value head", right, next)};
}

std::vector<Candidate> scale(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  const auto& p = q.replay.parameters();
  const double d = op->head_dim;
  std::vector<Candidate> result;
  const auto add = [&](double value, std::string_view what) {
    if (std::abs(value / op->scale - 1) < 1e-3) return;
    plan::Attention wrong = *op;
    wrong.scale = static_cast<float>(value);
    result.push_back(changed(wrong, fmt::format("{} ({:.4g}) instead of {:.4g}", what, value, op->scale)));
  };
  add(1, "no scale");
  add(op->scale * op->scale, "the scale squared");
  add(1 / d, "1 / head_dim");
  add(1 / std::sqrt(d), "1 / sqrt(head_dim)");
  add(std::sqrt(d), "sqrt(head_dim)");
  add(1 / std::sqrt(static_cast<double>(p.d_model)), "1 / sqrt(d_model)");
  add(1 / std::sqrt(static_cast<double>(op->n_heads)), "1 / sqrt(n_heads)");
  add(1 / std::sqrt(d / 2), "1 / sqrt(head_dim / 2)");
  add(std::sqrt(op->scale), "the scale's root");
  const auto with = [op](double value) {
    plan::Attention wrong = *op;
    wrong.scale = static_cast<float>(value);
    return plan::Op(wrong);
  };
  // A softmax to the base 2 is the scale times ln 2, and has a name of its own.
  const auto value = fitted(q, op->scale / 100.0, op->scale * 100.0, with);
  if (value && std::abs(*value / op->scale / std::numbers::ln2 - 1) > 1e-3) add(*value, "another scale");
  return result;
}

std::vector<Candidate> mask_self(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  return {with_rule(*op, "", [](const Site& site, AttentionRule& rule) {
    rule.sees = [right = rule.sees, rows = site.scene->rows](std::uint64_t row, std::uint32_t s) {
      return right(row, s) && s != rows[row].position;
    };
  })};
}

std::vector<Candidate> mask_next(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  return {with_rule(*op, "", [](const Site& site, AttentionRule& rule) {
    rule.sees = [right = rule.sees, rows = site.scene->rows](std::uint64_t row, std::uint32_t s) {
      return right(row, s) || s == rows[row].position + 1;
    };
  })};
}

std::vector<Candidate> mask_missing(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  return {with_rule(
      *op, "", [](const Site&, AttentionRule& rule) { rule.sees = [](std::uint64_t, std::uint32_t) { return true; }; })};
}

// A mask that does not exclude: positions after the token keep the score that `masked` makes of theirs, and their share of
// the softmax.
Candidate weak_mask(const plan::Attention& op, std::string detail, std::function<double(double)> masked,
                    bool reads_values) {
  return {std::move(detail), [op, masked = std::move(masked), reads_values](const Site& site) {
            const AttentionRule right = attention_rule(op, *site.scene);
            std::vector<float> y;
            // Row by row, since the rule for weights does not know the row.
            for (std::size_t r = 0; r < site.rows.size(); ++r) {
              const View view_of_row(*site.replay, {site.rows[r]});
              Scene scene = view_of_row.scene();
              scene.key = [&, r](std::uint32_t layer, std::uint64_t, std::uint32_t s) {
                return site.scene->key(layer, r, s);
              };
              scene.cached_value = [&, r](std::uint32_t layer, std::uint64_t, std::uint32_t s) {
                return site.scene->cached_value(layer, r, s);
              };
              AttentionRule rule = attention_rule(op, scene);
              rule.sees = [](std::uint64_t, std::uint32_t) { return true; };
              rule.weigh = [&, r, usual = rule.weigh](std::uint32_t h, std::span<double> scores) {
                for (std::uint32_t s = 0; s < scores.size(); ++s) {
                  if (!right.sees(r, s)) scores[s] = masked(scores[s]);
                }
                usual(h, scores);
                for (std::uint32_t s = 0; !reads_values && s < scores.size(); ++s) {
                  if (!right.sees(r, s)) scores[s] = 0;
                }
              };
              const std::vector<float> row = backends::reference::attend(op, rule, scene);
              y.insert(y.end(), row.begin(), row.end());
            }
            return y;
          }};
}

std::vector<Candidate> mask_zero(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  const auto zero = [](double) { return 0.0; };
  return {weak_mask(*op, "with their values", zero, true), weak_mask(*op, "and no values", zero, false)};
}

std::vector<Candidate> mask_weak(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr || q.is_inner()) return {};
  std::vector<Candidate> result;
  for (const double by : {1.0, 2.0, 4.0, 5.0, 8.0, 10.0, 16.0, 20.0})
    result.push_back(weak_mask(
        *op, fmt::format("by {:g}", by), [by](double score) { return score - by; }, true));
  return result;
}

std::vector<Candidate> window(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  std::set<std::uint32_t> sizes;
  if (op->window > 0) {
    sizes = {0, op->window - 1, op->window + 1, op->window / 2, op->window * 2};
  } else {
    for (std::uint32_t w = 2; w < q.replay.rows().size(); w *= 2) sizes.insert({w, w - 1, w + 1});
  }
  for (const std::uint32_t size : sizes) {
    if (size == op->window) continue;
    plan::Attention wrong = *op;
    wrong.window = size;
    result.push_back(changed(wrong, size == 0 ? fmt::format("no window instead of {} positions", op->window)
                                    : op->window == 0
                                        ? fmt::format("a window of {} positions; the file asks for none", size)
                                        : fmt::format("a window of {} positions instead of {}", size, op->window)));
  }
  return result;
}

std::vector<Candidate> soft_cap(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  for (const float cap : {0.0f, 1.0f, 2.0f, 5.0f, 10.0f, 15.0f, 20.0f, 25.0f, 30.0f, 50.0f, 100.0f}) {
    if (cap == op->soft_cap) continue;
    plan::Attention wrong = *op;
    wrong.soft_cap = cap;
    result.push_back(changed(wrong, cap == 0 ? fmt::format("scores are not capped at {:g}", op->soft_cap)
                                             : fmt::format("scores are capped at {:g}", cap)));
  }
  return result;
}

// ALiBi, https://arxiv.org/abs/2108.12409 (section 3): -m (t - s) is added to the scores, m = 2^(-8 (h + 1) / n_heads).
// What all positions seen have in common the softmax takes away, so that m times the place among them will do.
std::vector<Candidate> distance_bias(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const auto biased = [&](std::string detail, double sign) {
    result.push_back(
        with_rule(*op, std::move(detail), [sign, n = static_cast<double>(op->n_heads)](const Site&, AttentionRule& rule) {
          rule.weigh = [right = rule.weigh, sign, n](std::uint32_t head, std::span<double> scores) {
            const double slope = sign * std::exp2(-8.0 * (head + 1) / n);
            for (std::size_t i = 0; i < scores.size(); ++i) scores[i] += slope * static_cast<double>(i);
            right(head, scores);
          };
        }));
  };
  biased("ALiBi's, 2^(-8 (h + 1) / n_heads) a position", 1);
  biased("ALiBi's, with the wrong sign", -1);
  return result;
}

std::vector<Candidate> uniform_weights(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  return {with_rule(*op, "", [](const Site&, AttentionRule& rule) {
    rule.weigh = [](std::uint32_t, std::span<double> scores) {
      std::fill(scores.begin(), scores.end(), 1.0 / static_cast<double>(scores.size()));
    };
  })};
}

std::vector<Candidate> softmax(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const auto weighed = [&](std::string detail, auto weigh) {
    result.push_back(with_rule(*op, std::move(detail), [weigh](const Site&, AttentionRule& rule) { rule.weigh = weigh; }));
  };
  weighed("scores are used as weights, without softmax", [](std::uint32_t, std::span<double>) {});
  weighed("weights are not divided by their sum", [](std::uint32_t, std::span<double> scores) {
    const double largest = *std::max_element(scores.begin(), scores.end());
    for (double& s : scores) s = std::exp(s - largest);
  });
  weighed("weights are exp(score), neither reduced by the largest nor divided by their sum",
          [](std::uint32_t, std::span<double> scores) {
            for (double& s : scores) s = std::exp(s);
          });
  weighed("weights are the positive scores, divided by their sum", [](std::uint32_t, std::span<double> scores) {
    double total = 0;
    for (double& s : scores) total += s = std::max(s, 0.0);
    for (double& s : scores) s /= std::max(total, 1e-9);
  });
  weighed("weights are sigmoids of the scores", [](std::uint32_t, std::span<double> scores) {
    for (double& s : scores) s = 1 / (1 + std::exp(-s));
  });
  weighed("the base is 2 instead of e", [](std::uint32_t, std::span<double> scores) {
    const double largest = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (double& s : scores) total += s = std::exp2(s - largest);
    for (double& s : scores) s /= total;
  });
  for (const std::size_t multiple : {1, 4, 8, 16, 32, 64, 128, 256}) {
    weighed(multiple == 1 ? "1 is added to the softmax's sum"
                          : fmt::format("keys of zeros, up to a multiple of {}, share the softmax", multiple),
            [multiple](std::uint32_t, std::span<double> scores) {
              const std::size_t n = scores.size();
              const std::size_t n_zero = multiple == 1 ? 1 : (n + multiple - 1) / multiple * multiple - n;
              const double largest = std::max(0.0, *std::max_element(scores.begin(), scores.end()));
              double total = static_cast<double>(n_zero) * std::exp(-largest);
              for (double& s : scores) total += s = std::exp(s - largest);
              for (double& s : scores) s /= total;
            });
  }
  weighed("the largest weight is set to the largest score's place alone", [](std::uint32_t, std::span<double> scores) {
    const auto largest = std::max_element(scores.begin(), scores.end());
    const auto at = static_cast<std::size_t>(largest - scores.begin());
    for (std::size_t s = 0; s < scores.size(); ++s) scores[s] = s == at ? 1 : 0;
  });
  return result;
}

// The softmax taken over heads, or over the queries of the step, instead of over positions.
std::vector<Candidate> softmax_axis(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  for (const bool over_heads : {true, false}) {
    result.push_back({over_heads ? "over heads" : "over the step's tokens", [op = *op, over_heads](const Site& site) {
                        // All rows of the run, since those of a step share the sum.
                        std::vector<std::uint32_t> all(site.replay->rows().size());
                        for (std::uint32_t r = 0; r < all.size(); ++r) all[r] = r;
                        View view(*site.replay, all);
                        view.prepare(plan::Op(op));
                        const Scene& scene = view.scene();
                        const AttentionRule rule = attention_rule(op, scene);
                        const auto queries = scene.value(op.q);
                        const std::size_t n = all.size(), d = op.head_dim, heads = op.n_heads;
                        std::vector<double> weight(n * heads * n, 0.0);  // [row, head, position]
                        for (std::size_t t = 0; t < n; ++t) {
                          for (std::uint32_t h = 0; h < heads; ++h) {
                            for (std::uint32_t s = 0; s < scene.cached(t); ++s) {
                              if (!rule.sees(t, s)) continue;
                              const float* key = scene.key(op.layer, t, s) + std::size_t{rule.kv_head(h)} * d;
                              double score = 0;
                              for (std::size_t i = 0; i < d; ++i)
                                score += double{queries[(t * heads + h) * d + i]} * key[i];
                              weight[(t * heads + h) * n + s] = std::exp(std::min(score * op.scale, 700.0));
                            }
                          }
                        }
                        std::vector<float> y(site.rows.size() * heads * d, 0.0f);
                        for (std::size_t r = 0; r < site.rows.size(); ++r) {
                          const std::size_t t = site.rows[r];
                          for (std::uint32_t h = 0; h < heads; ++h) {
                            for (std::uint32_t s = 0; s < scene.cached(t); ++s) {
                              const double own = weight[(t * heads + h) * n + s];
                              if (own == 0) continue;
                              double total = 0;
                              if (over_heads) {
                                for (std::size_t other = 0; other < heads; ++other)
                                  total += weight[(t * heads + other) * n + s];
                              } else {
                                for (std::size_t other = 0; other < n; ++other) {
                                  if (scene.rows[other].sequence == scene.rows[t].sequence)
                                    total += weight[(other * heads + h) * n + s];
                                }
                              }
                              const float* value = scene.cached_value(op.layer, t, s) + std::size_t{rule.kv_head(h)} * d;
                              for (std::size_t i = 0; i < d; ++i)
                                y[(r * heads + h) * d + i] += static_cast<float>(own / total * value[i]);
                            }
                          }
                        }
                        return y;
                      }});
  }
  return result;
}

// exp in float32 or float16 of scores that are not reduced by the largest.
std::vector<Candidate> overflow(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  for (const double most : {3.4028234663852886e38, 65504.0}) {
    result.push_back(with_rule(*op, most > 1e6 ? "in float32, scores above 88" : "in float16, scores above 11",
                               [most](const Site&, AttentionRule& rule) {
                                 rule.weigh = [most](std::uint32_t, std::span<double> scores) {
                                   const double infinity = std::numeric_limits<double>::infinity();
                                   double total = 0;
                                   for (double& s : scores) {
                                     s = std::exp(s);
                                     if (s > most) s = infinity;
                                     total += s;
                                   }
                                   if (total > most) total = infinity;
                                   for (double& s : scores) s /= total;
                                 };
                               }));
  }
  return result;
}

std::vector<Candidate> sinks(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr || !op->sinks) return {};
  plan::Attention wrong = *op;
  wrong.sinks.reset();
  return {changed(wrong)};
}

// Queries or keys from before the rotation, keys for values and the like.
std::vector<Candidate> other_values(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  const plan::KvWrite& write = q.replay.kv_write(op->layer);
  std::vector<Candidate> result;
  const auto before = [&](plan::ValueId id) {
    const plan::Op& maker = q.plan().ops[q.replay.producer(id)];
    const auto* rope = std::get_if<plan::Rope>(&maker);
    return rope == nullptr ? std::optional<plan::ValueId>() : std::optional(rope->x);
  };
  if (const auto x = before(op->q)) {
    result.push_back(
        with_input("queries are those before the rotation", op->q, [x](const Site& site) { return site.value(*x); }));
  }
  const std::size_t width = q.plan().value(write.k).width;
  const auto from = [width](const Values& values) {
    return [values, width](std::uint32_t, std::uint64_t, std::uint32_t s) { return values->data() + s * width; };
  };
  if (const auto x = before(write.k)) {
    result.push_back(with_cache(*op, "the cache has the keys from before the rotation",
                                [x, from](const Site& site, Scene& scene) { scene.key = from(site.replay->value(*x)); }));
  }
  result.push_back(with_cache(*op, "keys and values are exchanged",
                              [](const Site&, Scene& scene) { std::swap(scene.key, scene.cached_value); }));
  result.push_back(with_cache(*op, "keys are read in place of values",
                              [](const Site&, Scene& scene) { scene.cached_value = scene.key; }));
  return result;
}

std::vector<Candidate> other_layer(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  std::set<std::int64_t> layers{std::int64_t{op->layer} - 1, std::int64_t{op->layer} + 1, 0};
  for (const std::int64_t layer : layers) {
    if (layer < 0 || layer >= q.plan().cache.n_layers || layer == op->layer) continue;
    // A later layer's are those of the step before: not to be had while the prompt runs.
    if (layer > op->layer) continue;
    for (const int what : {0, 1, 2}) {
      result.push_back(with_cache(*op,
                                  fmt::format("{} of layer {}",
                                              what == 0   ? "keys and values"
                                              : what == 1 ? "keys"
                                                          : "values",
                                              layer),
                                  [layer, what](const Site& site, Scene& scene) {
                                    const plan::KvWrite& write = site.replay->kv_write(static_cast<std::uint32_t>(layer));
                                    const std::size_t width = site.scene->plan->value(write.k).width;
                                    const auto from = [width](const Values& values) {
                                      return [values, width](std::uint32_t, std::uint64_t, std::uint32_t s) {
                                        return values->data() + s * width;
                                      };
                                    };
                                    if (what != 2) scene.key = from(site.replay->value(write.k));
                                    if (what != 1) scene.cached_value = from(site.replay->value(write.v));
                                  }));
    }
  }
  return result;
}

std::vector<Candidate> position(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  for (const bool around : {false, true})
    for (const int by : {1, -1}) {
      for (const int what : {0, 1, 2}) {
        result.push_back(with_cache(
            *op,
            fmt::format("{} of position s {:+d} at s{}",
                        what == 0   ? "keys and values"
                        : what == 1 ? "keys"
                                    : "values",
                        by, around ? ", the last one's at the other end" : ""),
            [by, around, what, op = *op](const Site& site, Scene& scene) {
              const std::size_t width = site.scene->plan->value(site.replay->kv_write(op.layer).k).width;
              const auto zero = std::make_shared<const std::vector<float>>(width, 0.0f);
              const auto shifted = [&](auto right) {
                return [right, by, around, zero, &site](std::uint32_t layer, std::uint64_t row, std::uint32_t s) {
                  const std::int64_t n = end_of_step(site, row);
                  const std::int64_t at = around ? (std::int64_t{s} + by + n) % n : std::int64_t{s} + by;
                  return at < 0 || at >= (around ? n : std::int64_t{site.scene->cached(row)})
                             ? zero->data()
                             : right(layer, row, static_cast<std::uint32_t>(at));
                };
              };
              if (what != 2) scene.key = shifted(site.scene->key);
              if (what != 1) scene.cached_value = shifted(site.scene->cached_value);
            }));
      }
    }
  return result;
}

std::vector<Candidate> lost(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const auto seen = [&](std::string detail, std::function<bool(const Site&, std::uint64_t row, std::uint32_t s)> keep) {
    result.push_back(with_rule(*op, std::move(detail), [keep = std::move(keep)](const Site& site, AttentionRule& rule) {
      rule.sees = [right = rule.sees, keep, &site](std::uint64_t row, std::uint32_t s) {
        return right(row, s) && keep(site, row, s);
      };
    }));
  };
  seen("a step sees its own tokens only",
       [](const Site& site, std::uint64_t row, std::uint32_t s) { return s >= step_start(site, row); });
  seen("steps after the prompt see the prompt and themselves only",
       [](const Site& site, std::uint64_t row, std::uint32_t s) {
         return s < n_prompt(*site.replay) || s >= step_start(site, row);
       });
  seen("steps after the prompt see the prompt only", [](const Site& site, std::uint64_t row, std::uint32_t s) {
    return step_start(site, row) == 0 || s < n_prompt(*site.replay);
  });
  seen("steps after the prompt do not see the prompt", [](const Site& site, std::uint64_t row, std::uint32_t s) {
    return step_start(site, row) == 0 || s >= n_prompt(*site.replay);
  });
  seen("the first position is never seen", [](const Site&, std::uint64_t, std::uint32_t s) { return s > 0; });
  seen("the prompt's last position is never seen after it", [](const Site& site, std::uint64_t row, std::uint32_t s) {
    return step_start(site, row) == 0 || s + 1 != n_prompt(*site.replay);
  });
  for (std::uint32_t batch = 2; batch < q.replay.rows().size(); batch *= 2) {
    seen(fmt::format("a part of {} tokens sees nothing of the parts before it", batch),
         [batch](const Site& site, std::uint64_t row, std::uint32_t s) {
           return s / batch == site.scene->rows[row].position / batch;
         });
  }
  return result;
}

// The slots that a step after the prompt writes are not those that it should.
std::vector<Candidate> slot(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const std::uint32_t n = n_prompt(q.replay);
  const std::size_t width = q.plan().value(q.replay.kv_write(op->layer).k).width;
  // at(slot, cached): the position whose key lies in the slot; none: nothing was written there.
  const auto add = [&](std::string detail, std::function<std::int64_t(std::uint32_t slot, std::uint32_t cached)> at) {
    result.push_back(with_cache(*op, std::move(detail), [at = std::move(at), width](const Site& site, Scene& scene) {
      const auto zero = std::make_shared<const std::vector<float>>(width, 0.0f);
      const auto moved = [&](auto right) {
        return [right, at, zero, &site](std::uint32_t layer, std::uint64_t row, std::uint32_t s) {
          const std::int64_t from = at(s, site.scene->cached(row));
          return from < 0 ? zero->data() : right(layer, row, static_cast<std::uint32_t>(from));
        };
      };
      scene.key = moved(site.scene->key);
      scene.cached_value = moved(site.scene->cached_value);
    }));
  };
  add("a step after the prompt writes one slot early, over the token before it",
      [n](std::uint32_t s, std::uint32_t cached) -> std::int64_t {
        if (cached <= n || s + 1 < n) return s;
        return s + 1 < cached ? std::int64_t{s} + 1 : -1;
      });
  result.push_back(
      {"a step after the prompt writes one slot early, and its last slot is not read", [op = *op, n](const Site& site) {
         Scene scene = *site.scene;
         const auto moved = [&site, n](auto right) {
           return [right, &site, n](std::uint32_t layer, std::uint64_t row, std::uint32_t s) {
             const std::uint32_t cached = site.scene->cached(row);
             return right(layer, row, cached > n && s + 2 == cached ? cached - 1 : s);
           };
         };
         scene.key = moved(site.scene->key);
         scene.cached_value = moved(site.scene->cached_value);
         AttentionRule rule = attention_rule(op, scene);
         rule.sees = [right = rule.sees, &site, n](std::uint64_t row, std::uint32_t s) {
           const std::uint32_t cached = site.scene->cached(row);
           return right(row, s) && (cached <= n || s + 1 < cached);
         };
         return backends::reference::attend(op, rule, scene);
       }});
  add("all steps after the prompt write the same slot", [n](std::uint32_t s, std::uint32_t cached) -> std::int64_t {
    if (s < n || cached <= n) return s;
    return s == n ? std::int64_t{cached} - 1 : -1;
  });
  add("steps after the prompt write from slot 0 again", [n](std::uint32_t s, std::uint32_t cached) -> std::int64_t {
    if (cached <= n) return s;
    return s < cached - n ? std::int64_t{s} + n : s < n ? std::int64_t{s} : -1;
  });
  add("a step after the prompt does not write the cache",
      [n](std::uint32_t s, std::uint32_t cached) -> std::int64_t { return cached > n && s >= n ? -1 : std::int64_t{s}; });
  add("each step after the prompt writes slot 0, too",
      [n](std::uint32_t s, std::uint32_t cached) -> std::int64_t { return cached > n && s == 0 ? cached - 1 : s; });
  add("the prompt's last token was overwritten by the one after it",
      [n](std::uint32_t s, std::uint32_t cached) -> std::int64_t { return cached > n && s + 1 == n ? n : s; });
  return result;
}

// One position of the cache that holds nothing, or another position's.
std::vector<Candidate> one_slot(const Question& q) {
  const auto* op = attention_of(q);
  constexpr std::size_t most_positions = 96;  // the search is over all of them
  if (op == nullptr || q.found.empty() || q.replay.rows().size() > most_positions) return {};
  std::vector<Candidate> result;
  const auto n = static_cast<std::int64_t>(q.replay.rows().size());
  const std::size_t width = q.plan().value(q.replay.kv_write(op->layer).k).width;
  // Rows before the slot do not see it; the last one at fault sees all that matter.
  const std::int64_t last = q.rows.empty() ? n : std::int64_t{q.rows.back()};
  for (std::int64_t slot = 0; slot <= last; ++slot) {
    for (const std::int64_t from : std::set<std::int64_t>{-1, 0, slot - 1, slot + 1}) {
      if (from < -1 || from == slot || from > last) continue;
      result.push_back(with_cache(
          *op, from < 0 ? fmt::format("slot {} is zero", slot) : fmt::format("slot {} holds position {}", slot, from),
          [slot, from, width](const Site& site, Scene& scene) {
            const auto zero = std::make_shared<const std::vector<float>>(width, 0.0f);
            const auto moved = [&](auto right) {
              return [right, slot, from, zero, &site](std::uint32_t layer, std::uint64_t row, std::uint32_t s) {
                if (s != slot) return right(layer, row, s);
                return from < 0 || from >= site.scene->cached(row) ? zero->data()
                                                                   : right(layer, row, static_cast<std::uint32_t>(from));
              };
            };
            scene.key = moved(site.scene->key);
            scene.cached_value = moved(site.scene->cached_value);
          }));
    }
    result.push_back(
        with_rule(*op, fmt::format("slot {} is not seen", slot), [slot](const Site& site, AttentionRule& rule) {
          rule.sees = [right = rule.sees, slot, rows = site.scene->rows](std::uint64_t row, std::uint32_t s) {
            return right(row, s) && (s != slot || s == rows[row].position);
          };
        }));
  }
  return result;
}

// The output's heads in an order that the suspect's output shows.
std::vector<Candidate> output_heads(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr || op->n_heads < 2 || q.found.empty() || q.expected.size() != q.found.size()) return {};
  constexpr double most_left = 0.05;
  const std::size_t d = op->head_dim, heads = op->n_heads, width = d * heads;
  std::vector<std::size_t> from(heads);
  bool is_other = false;
  std::string list;
  for (std::size_t h = 0; h < heads; ++h) {
    double least = std::numeric_limits<double>::infinity(), size = 0;
    for (std::size_t other = 0; other < heads; ++other) {
      double error = 0;
      for (std::size_t r = 0; r < std::min<std::size_t>(q.rows.size(), 4); ++r) {
        for (std::size_t i = 0; i < d; ++i) {
          const double f = q.found[r * width + h * d + i];
          error += std::pow(f - q.expected[r * width + other * d + i], 2);
          if (other == 0) size += f * f;
        }
      }
      if (error < least) {
        least = error;
        from[h] = other;
      }
    }
    if (!(least <= most_left * most_left * size)) return {};
    is_other = is_other || from[h] != h;
    list += fmt::format("{}{}", h == 0 ? "" : ", ", from[h]);
  }
  if (!is_other) return {};
  return {afterwards("heads " + list, [from, d, width](const Site&, std::vector<float>& y) {
    const std::vector<float> right = y;
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = right[i / width * width + from[i % width / d] * d + i % d];
  })};
}

std::vector<Candidate> head_order(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr || op->n_heads < 2) return {};
  return {afterwards("", [d = op->head_dim, heads = op->n_heads](const Site&, std::vector<float>& y) {
    const std::vector<float> right = y;
    const std::size_t n = std::size_t{d} * heads;
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = right[i / n * n + i % n % heads * d + i % n / heads];
  })};
}

std::vector<Candidate> part_of_head(const Question& q) {
  const auto* op = attention_of(q);
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  for (const std::uint32_t n : std::set<std::uint32_t>{op->head_dim / 2, op->head_dim - 1, op->head_dim - 4, 32, 64, 128}) {
    if (n == 0 || n >= op->head_dim) continue;
    result.push_back(with_input(fmt::format("scores are of the first {} of {} components", n, op->head_dim), op->q,
                                [n, op = *op](const Site& site) {
                                  const auto right = site.scene->value(op.q);
                                  std::vector<float> wrong(right.begin(), right.end());
                                  for (std::size_t i = 0; i < wrong.size(); ++i) {
                                    if (i % op.head_dim >= n) wrong[i] = 0;
                                  }
                                  return wrong;
                                }));
  }
  return result;
}

constexpr Hypothesis table[] = {
    {"attention-head-map", "query heads read the wrong key and value heads",
     "With grouped queries, n_heads / n_kv_heads neighbouring query heads share one key head: repeated (0, 0, 1, 1), not "
     "tiled "
     "(0, 1, 0, 1).",
     "kv_head = head / (n_heads / n_kv_heads)", head_map},
    {"attention-kv-head-order", "key or value heads are read in another order",
     "The head's offset is computed otherwise for keys than for values.", "one offset for both: kv_head * head_dim",
     kv_head_order},
    {"attention-scale", "scores are scaled by another factor",
     "q . k is multiplied by 1 / sqrt(head_dim) unless the file says otherwise; without it the softmax is all but one-hot, "
     "with "
     "it twice all but flat.",
     "multiply scores by attention.scale or 1 / sqrt(head_dim), once", scale},
    {"attention-mask-self", "a token does not attend to itself",
     "The mask ends one early (s < t), or attention runs before the token's key is in the cache.",
     "admit s <= t, and write the cache before attention", mask_self},
    {"attention-mask-next", "a token attends to the next one", "The mask ends one late (s <= t + 1).", "admit s <= t",
     mask_next},
    {"attention-mask-missing", "there is no causal mask",
     "Every token of the prompt sees all others; single steps after it are right.", "admit s <= t", mask_missing},
    {"attention-mask-zero", "masked scores are 0 instead of -infinity", "Masked positions keep a share of the softmax.",
     "set masked scores to -infinity before the softmax", mask_zero},
    {"attention-mask-weak", "masked scores are lowered, not excluded",
     "The mask adds a number that is not low enough: masked positions keep a share of the softmax.",
     "add -infinity, or the type's lowest number", mask_weak},
    {"attention-window", "the sliding window is another",
     "attention.sliding_window counts positions, that of the token included.", "admit t - window < s <= t", window},
    {"attention-soft-cap", "scores are capped otherwise", "cap * tanh(score / cap), where the architecture asks for it.",
     "cap scores as the architecture asks", soft_cap},
    {"attention-distance-bias", "scores are biased by distance",
     "ALiBi adds a bias to the scores instead of rotating queries and keys; these models rotate.",
     "add nothing to the scores but the mask", distance_bias},
    {"attention-uniform", "all positions weigh alike",
     "All scores are equal: keys or queries are zero where attention reads them, or the scores are lost.",
     "check that keys are written to the cache, and what the scores' product reads", uniform_weights},
    {"attention-softmax", "the weights are no softmax of the scores",
     "exp(score - largest) / sum, over the positions seen.", "take the softmax over positions", softmax},
    {"attention-softmax-axis", "the softmax runs over the wrong axis",
     "Weights add up to 1 over positions, for each head and token.", "take the softmax over positions", softmax_axis},
    {"attention-overflow", "the softmax overflows",
     "exp of a large score is infinite, and infinite divided by infinite is no number; reduced by the largest score it "
     "cannot be.",
     "subtract the largest score before exp", overflow},
    {"attention-sinks-ignored", "attention sinks are left out",
     "The learned sink of each head takes a share of the softmax (gpt-oss).", "add exp(sink) to the softmax's sum", sinks},
    {"attention-other-values", "attention reads other queries, keys or values",
     "Rotated and unrotated, or keys and values, are exchanged.",
     "rotate queries and keys; keys make scores, values the sum", other_values},
    {"cache-other-layer", "attention reads another layer's cache", "The layer's offset into the cache is off.",
     "index the cache by layer", other_layer},
    {"cache-position", "cached keys lie at other positions",
     "The slot that is read is off by one from the slot that is written.", "read and write slot = position", position},
    {"cache-lost", "cached positions are not seen",
     "The cache is cleared, or its length not passed on, between steps or between the parts of a long prompt.",
     "carry the cache's length from step to step", lost},
    {"cache-slot", "steps after the prompt write the wrong slot", "The write index does not follow the number of tokens.",
     "write at slot = position", slot},
    {"cache-one-slot", "one position of the cache is not what was written",
     "It was overwritten, never written, or is skipped: its neighbours are right.",
     "look at what else writes at this position's offset", one_slot},
    {"attention-heads-exchanged", "attention's output has its heads in another order",
     "Each head is right, and lies where another belongs.", "write head h at h * head_dim", output_heads},
    {"attention-head-order", "attention's output is [head_dim, heads]", "The result is written transposed.",
     "head h's components lie at h * head_dim", head_order},
    {"attention-part-of-head", "scores are made of a part of the head",
     "The inner loop ends before head_dim: a head wider than the kernel was written for.",
     "sum over all head_dim components", part_of_head},
};

}  // namespace
}  // namespace in_attention

std::span<const Hypothesis> attention() { return in_attention::table; }

}  // namespace plumb::diagnose::families
