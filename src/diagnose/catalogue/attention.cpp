// Attention: which heads, scores, mask and softmax.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "diagnose/catalogue/attention.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_attention {
namespace {

using backends::reference::AttentionRule;

// Attention in which a query head reads the key of one head and the value of another.
void with_heads(Candidates& out, const plan::Attention& op, std::string detail,
                std::function<std::uint32_t(std::uint32_t)> key_head,
                std::function<std::uint32_t(std::uint32_t)> value_head) {
  out.add(std::move(detail), [op, key_head = std::move(key_head), value_head = std::move(value_head)](const Site& site) {
    const Scene& scene = site.scene;
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
          const double product = dot(queries.subspan(at, d), {scene.key(op.layer, r, s) + key_head(h) * d, d});
          weights.push_back(score_of(op, rule, product, r, h, s));
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
  });
}

void head_map(const Question&, const plan::Attention& op, Candidates& out) {
  if (op.n_heads == op.n_kv_heads) return;
  const auto add = [&](std::string detail, auto map) {
    with_rule(out, op, std::move(detail), [map](const Site&, AttentionRule& rule) { rule.kv_head = map; });
  };
  const std::uint32_t n = op.n_kv_heads, heads = op.n_heads;
  add("head h reads head h modulo n_kv_heads: tiled instead of repeated", [n](std::uint32_t h) { return h % n; });
  add("all heads read head 0", [](std::uint32_t) { return 0u; });
  add("head h reads head h, as if there were as many", [n](std::uint32_t h) { return std::min(h, n - 1); });
  add("the heads are in reverse", [n, heads](std::uint32_t h) { return n - 1 - h * n / heads; });
  add("head h reads head h / n_kv_heads", [n](std::uint32_t h) { return std::min(h / n, n - 1); });
  add("the next group's head", [n, heads](std::uint32_t h) { return (h * n / heads + 1) % n; });
  const auto right = [n, heads](std::uint32_t h) { return h * n / heads; };
  const auto tiled = [n](std::uint32_t h) { return h % n; };
  const auto first = [](std::uint32_t) { return 0u; };
  with_heads(out, op, "keys are tiled, values repeated", tiled, right);
  with_heads(out, op, "values are tiled, keys repeated", right, tiled);
  with_heads(out, op, "all heads read keys of head 0", first, right);
  with_heads(out, op, "all heads read values of head 0", right, first);
}

// Query heads assigned to key-value heads in another order.
void kv_head_order(const Question&, const plan::Attention& op, Candidates& out) {
  if (op.n_kv_heads < 2) return;
  const std::uint32_t n = op.n_kv_heads, heads = op.n_heads;
  const auto right = [n, heads](std::uint32_t h) { return h * n / heads; };
  const auto reversed = [n, heads](std::uint32_t h) { return n - 1 - h * n / heads; };
  const auto next = [n, heads](std::uint32_t h) { return (h * n / heads + 1) % n; };
  with_heads(out, op, "key heads in reverse", reversed, right);
  with_heads(out, op, "value heads in reverse", right, reversed);
  with_heads(out, op, "the next key head", next, right);
  with_heads(out, op, "the next value head", right, next);
}

void scale(const Question& q, const plan::Attention& op, Candidates& out) {
  const auto& p = q.replay.parameters();
  const double d = op.head_dim;
  const auto add = [&](double value, std::string_view what) {
    if (std::abs(value / op.scale - 1) < 1e-3) return;
    out.with(op, &plan::Attention::scale, static_cast<float>(value),
             fmt::format("{} ({:.4g}) instead of {:.4g}", what, value, op.scale));
  };
  add(1, "no scale");
  add(op.scale * op.scale, "the scale squared");
  add(1 / d, "1 / head_dim");
  add(1 / std::sqrt(d), "1 / sqrt(head_dim)");
  add(std::sqrt(d), "sqrt(head_dim)");
  add(1 / std::sqrt(static_cast<double>(p.d_model)), "1 / sqrt(d_model)");
  add(1 / std::sqrt(static_cast<double>(op.n_heads)), "1 / sqrt(n_heads)");
  add(1 / std::sqrt(d / 2), "1 / sqrt(head_dim / 2)");
  add(std::sqrt(op.scale), "the scale's root");
  // ln 2 times the scale is what a softmax to the base 2 comes to, which has a name of its own.
  const auto value = fitted(q, op, &plan::Attention::scale, op.scale / 100.0, op.scale * 100.0);
  if (value && std::abs(*value / op.scale / std::numbers::ln2 - 1) > 1e-3) add(*value, "another scale");
}

// Attention with another mask: `sees` is given the right mask, the position of the row and that of the key.
template <auto sees>
void mask(const Question&, const plan::Attention& op, Candidates& out) {
  if (!op.causal) return;
  with_rule(out, op, "", [](const Site& site, AttentionRule& rule) {
    rule.sees = [right = rule.sees, rows = site.scene.rows](std::uint64_t row, std::uint32_t s) {
      return sees(right(row, s), rows[row].position, s);
    };
  });
}

// A mask that does not exclude: `masked` gives the scores of positions after the token, and they keep their share of the
// softmax.
void weak_mask(Candidates& out, const plan::Attention& op, std::string detail, std::function<double(double)> masked,
               bool reads_values) {
  out.add(std::move(detail), [op, masked = std::move(masked), reads_values](const Site& site) {
    const AttentionRule right = attention_rule(op, site.scene);
    std::vector<float> y;
    // Row by row, since the rule for weights is not given the row.
    for (std::size_t r = 0; r < site.rows.size(); ++r) {
      const Site of_row(site.replay, site.op_index, {site.rows[r]});
      AttentionRule rule = attention_rule(op, of_row.scene);
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
      const std::vector<float> row = backends::reference::attend(op, rule, of_row.scene);
      y.insert(y.end(), row.begin(), row.end());
    }
    return y;
  });
}

void causal_mask(const Question&, const plan::Attention& op, Candidates& out) {
  if (!op.causal) out.with(op, &plan::Attention::causal, true);
}

void mask_zero(const Question&, const plan::Attention& op, Candidates& out) {
  const auto zero = [](double) { return 0.0; };
  weak_mask(out, op, "with their values", zero, true);
  weak_mask(out, op, "and no values", zero, false);
}

void mask_weak(const Question&, const plan::Attention& op, Candidates& out) {
  for (const double by : {1.0, 2.0, 4.0, 5.0, 8.0, 10.0, 16.0, 20.0})
    weak_mask(
        out, op, fmt::format("by {:g}", by), [by](double score) { return score - by; }, true);
}

std::string described(const plan::Attention& op) {
  if (op.window == 0) return "none";
  return fmt::format("{} of {} positions", op.window_kind == plan::WindowKind::chunked ? "parts" : "a window", op.window);
}

// The windows of the plan's other attentions.
void window_of_layer(const Question& q, const plan::Attention& op, Candidates& out) {
  std::set<std::pair<std::uint32_t, plan::WindowKind>> seen{{op.window, op.window_kind}};
  for (const plan::Op& one : q.plan().ops) {
    const auto* other = std::get_if<plan::Attention>(&one);
    if (other == nullptr || (other->window == 0 && op.window == 0)) continue;
    if (!seen.emplace(other->window, other->window_kind).second) continue;
    plan::Attention wrong = op;
    wrong.window = other->window;
    wrong.window_kind = other->window_kind;
    out.changed(wrong, fmt::format("that of {}, {}, instead of {}", q.plan().value(other->out).name, described(*other),
                                   described(op)));
  }
}

void window_kind(const Question&, const plan::Attention& op, Candidates& out) {
  if (op.window == 0 || !op.causal) return;
  plan::Attention wrong = op;
  wrong.window_kind = op.window_kind == plan::WindowKind::chunked ? plan::WindowKind::sliding : plan::WindowKind::chunked;
  out.changed(wrong, fmt::format("{} instead of {}", described(wrong), described(op)));
}

// Attention whose mask follows from the positions of the row and of the key.
template <class Sees>
void with_mask(Candidates& out, const plan::Attention& op, std::string detail, Sees sees) {
  with_rule(out, op, std::move(detail), [sees](const Site& site, AttentionRule& rule) {
    rule.sees = [sees, rows = site.scene.rows](std::uint64_t row, std::uint32_t s) {
      return sees(std::int64_t{rows[row].position}, std::int64_t{s});
    };
  });
}

// Parts of the sequence that begin one position early or late.
void chunk_start(const Question&, const plan::Attention& op, Candidates& out) {
  if (op.window == 0 || op.window_kind != plan::WindowKind::chunked) return;
  for (const int by : {1, -1}) {
    with_mask(out, op, by > 0 ? "one position late" : "one position early",
              [by, n = std::int64_t{op.window}](std::int64_t t, std::int64_t s) {
                const auto part = [&](std::int64_t at) { return (at - by) / n; };
                return s <= t && part(s) == part(t);
              });
  }
}

// The window of an encoder, in which half lies on each side of the token.
void window_sides(const Question&, const plan::Attention& op, Candidates& out) {
  if (op.window == 0 || op.causal) return;
  const auto n = std::int64_t{op.window}, half = n / 2;
  const auto add = [&](std::string detail, std::int64_t before, std::int64_t after) {
    with_mask(out, op, std::move(detail),
              [before, after](std::int64_t t, std::int64_t s) { return t - before <= s && s <= t + after; });
  };
  add("half before the token, none after it", half, 0);
  add("half after the token, none before it", 0, half);
  add("all after the token", 0, n - 1);
  add("all on each side", n - 1, n - 1);
  add("all and one more on each side", n, n);
}

void window(const Question& q, const plan::Attention& op, Candidates& out) {
  std::set<std::uint32_t> sizes;
  if (op.window > 0) {
    // Half of an encoder's window lies on each side, so the next other window differs by 2.
    sizes = {0, op.window - 1, op.window + 1, op.window / 2, op.window * 2};
    if (!op.causal) sizes.insert({op.window - std::min(op.window, 2U), op.window + 2});
  } else if (op.causal) {
    for (std::uint32_t w = 2; w < q.replay.rows().size(); w *= 2) sizes.insert({w, w - 1, w + 1});
  }
  for (const std::uint32_t size : sizes) {
    if (size == op.window) continue;
    out.with(op, &plan::Attention::window, size,
             size == 0        ? fmt::format("no window instead of {} positions", op.window)
             : op.window == 0 ? fmt::format("a window of {} positions; the file asks for none", size)
                              : fmt::format("a window of {} positions instead of {}", size, op.window));
  }
}

void soft_cap(const Question&, const plan::Attention& op, Candidates& out) {
  for (const float cap : {0.0f, 1.0f, 2.0f, 5.0f, 10.0f, 15.0f, 20.0f, 25.0f, 30.0f, 50.0f, 100.0f}) {
    if (cap == op.soft_cap) continue;
    out.with(op, &plan::Attention::soft_cap, cap,
             cap == 0 ? fmt::format("scores are not capped at {:g}", op.soft_cap)
                      : fmt::format("scores are capped at {:g}", cap));
  }
}

// Attention with ALiBi by other slopes.
template <class Slope>
void with_slopes(Candidates& out, const plan::Attention& op, std::string detail, Slope slope) {
  with_rule(out, op, std::move(detail), [slope](const Site& site, AttentionRule& rule) {
    rule.bias = [slope, rows = site.scene.rows](std::uint64_t row, std::uint32_t head, std::uint32_t s) {
      return slope(head) * static_cast<double>(std::int64_t{s} - std::int64_t{rows[row].position});
    };
  });
}
// The slope of a head if the number of heads were a power of two: 2^(-max_bias * (h + 1) / n_heads).
double plain_slope(double head, const plan::Attention& op, double max_bias) {
  return std::exp2(-max_bias * (head + 1) / op.n_heads);
}

void distance_bias(const Question&, const plan::Attention& op, Candidates& out) {
  if (op.alibi_max_bias > 0 || !op.causal) return;
  constexpr double usual = 8;
  with_slopes(out, op, "ALiBi's, 2^(-8 (h + 1) / n_heads) a position",
              [op](std::uint32_t h) { return plain_slope(h, op, usual); });
  with_slopes(out, op, "ALiBi's, with the wrong sign", [op](std::uint32_t h) { return -plain_slope(h, op, usual); });
}

void alibi(const Question& q, const plan::Attention& op, Candidates& out) {
  if (op.alibi_max_bias <= 0) return;
  using backends::reference::alibi_slope;
  const std::uint32_t n = op.n_heads;
  const double max_bias = op.alibi_max_bias;
  out.with(op, &plan::Attention::alibi_max_bias, 0.0F, "scores are not biased");
  with_slopes(out, op, "the slopes have the wrong sign", [op](std::uint32_t h) { return -alibi_slope(op, h); });
  with_slopes(out, op, "each head has the next one's slope",
              [op, n](std::uint32_t h) { return alibi_slope(op, (h + 1) % n); });
  with_slopes(out, op, "each head has the slope of the one before, from 1 on",
              [op, max_bias](std::uint32_t h) { return plain_slope(h - 1.0, op, max_bias); });
  with_slopes(out, op, "the heads' slopes are in reverse", [op, n](std::uint32_t h) { return alibi_slope(op, n - 1 - h); });
  with_slopes(out, op, "all heads have the first one's slope", [op](std::uint32_t) { return alibi_slope(op, 0); });
  with_slopes(out, op, "the slopes are those of a number of heads that is a power of two",
              [op, max_bias](std::uint32_t h) { return plain_slope(h, op, max_bias); });
  with_slopes(out, op, "the biases are scaled as the products of queries and keys",
              [op](std::uint32_t h) { return alibi_slope(op, h) * op.scale; });
  if (const auto value = fitted(q, op, &plan::Attention::alibi_max_bias, 0.5, 64)) {
    out.with(op, &plan::Attention::alibi_max_bias, static_cast<float>(*value),
             fmt::format("the largest bias is {:.4g} instead of {:g}", *value, max_bias));
  }
}

// Attention whose weights follow from the scores of a row and head in another way.
template <class Weigh>
void with_weights(Candidates& out, const plan::Attention& op, std::string detail, Weigh weigh) {
  with_rule(out, op, std::move(detail), [weigh](const Site&, AttentionRule& rule) {
    rule.weigh = [weigh](std::uint32_t, std::span<double> scores) { weigh(scores); };
  });
}

void uniform_weights(const Question&, const plan::Attention& op, Candidates& out) {
  with_weights(out, op, "", [](std::span<double> scores) {
    std::fill(scores.begin(), scores.end(), 1.0 / static_cast<double>(scores.size()));
  });
}

// Weights of(score), divided by their sum; `total` is added to the sum, which is at least `least`.
template <class Of>
void divide_by_sum(std::span<double> scores, Of of, double total = 0, double least = 0) {
  for (double& s : scores) total += s = of(s);
  for (double& s : scores) s /= std::max(total, least);
}

void softmax(const Question&, const plan::Attention& op, Candidates& out) {
  const auto weighed = [&](std::string detail, auto weigh) { with_weights(out, op, std::move(detail), weigh); };
  weighed("scores are used as weights, without softmax", [](std::span<double>) {});
  weighed("weights are not divided by their sum", [](std::span<double> scores) {
    const double largest = *std::max_element(scores.begin(), scores.end());
    for (double& s : scores) s = std::exp(s - largest);
  });
  weighed("weights are exp(score), neither reduced by the largest nor divided by their sum", [](std::span<double> scores) {
    for (double& s : scores) s = std::exp(s);
  });
  weighed("weights are the positive scores, divided by their sum", [](std::span<double> scores) {
    divide_by_sum(
        scores, [](double s) { return std::max(s, 0.0); }, 0, 1e-9);
  });
  weighed("weights are sigmoids of the scores", [](std::span<double> scores) {
    for (double& s : scores) s = 1 / (1 + std::exp(-s));
  });
  weighed("the base is 2 instead of e", [](std::span<double> scores) {
    const double largest = *std::max_element(scores.begin(), scores.end());
    divide_by_sum(scores, [&](double s) { return std::exp2(s - largest); });
  });
  for (const std::size_t multiple : {1, 4, 8, 16, 32, 64, 128, 256}) {
    weighed(multiple == 1 ? "1 is added to the softmax's sum"
                          : fmt::format("keys of zeros, up to a multiple of {}, share the softmax", multiple),
            [multiple](std::span<double> scores) {
              const std::size_t n = scores.size();
              const std::size_t n_zero = multiple == 1 ? 1 : (n + multiple - 1) / multiple * multiple - n;
              const double largest = std::max(0.0, *std::max_element(scores.begin(), scores.end()));
              divide_by_sum(
                  scores, [&](double s) { return std::exp(s - largest); },
                  static_cast<double>(n_zero) * std::exp(-largest));
            });
  }
  weighed("the largest weight is set to the largest score's place alone", [](std::span<double> scores) {
    const auto largest = std::max_element(scores.begin(), scores.end());
    std::fill(scores.begin(), scores.end(), 0);
    *largest = 1;
  });
}

// Attention whose weights add up to 1 over the heads, or over a step's queries, instead of over positions.
std::vector<float> attend_over(const Site& site, const plan::Attention& op, bool over_heads) {
  // Computes all rows of the run, since the rows of a step share the sum.
  const Site run(site.replay, site.op_index, site.replay.all_rows());
  const Scene& scene = run.scene;
  const AttentionRule rule = attention_rule(op, scene);
  const auto queries = scene.value(op.q);
  const std::size_t n = run.rows.size(), d = op.head_dim, heads = op.n_heads;
  std::vector<double> weight(n * heads * n, 0.0);  // [row, head, position]
  for (std::size_t t = 0; t < n; ++t) {
    for (std::uint32_t h = 0; h < heads; ++h) {
      for (std::uint32_t s = 0; s < scene.cached(t); ++s) {
        if (!rule.sees(t, s)) continue;
        const float* key = scene.key(op.layer, t, s) + std::size_t{rule.kv_head(h)} * d;
        const double product = dot(queries.subspan((t * heads + h) * d, d), {key, d});
        weight[(t * heads + h) * n + s] = std::exp(std::min(score_of(op, rule, product, t, h, s), 700.0));
      }
    }
  }
  std::vector<float> y(site.rows.size() * heads * d, 0.0f);
  for (std::size_t r = 0; r < site.rows.size(); ++r) {
    const std::size_t t = site.rows[r];
    const auto [begin, end] = site.step(r);
    for (std::uint32_t h = 0; h < heads; ++h) {
      for (std::uint32_t s = 0; s < scene.cached(t); ++s) {
        const double own = weight[(t * heads + h) * n + s];
        if (own == 0) continue;
        double total = 0;
        if (over_heads) {
          for (std::size_t other = 0; other < heads; ++other) total += weight[(t * heads + other) * n + s];
        } else {
          for (std::size_t other = begin; other < end; ++other) total += weight[(other * heads + h) * n + s];
        }
        const float* value = scene.cached_value(op.layer, t, s) + std::size_t{rule.kv_head(h)} * d;
        for (std::size_t i = 0; i < d; ++i) y[(r * heads + h) * d + i] += static_cast<float>(own / total * value[i]);
      }
    }
  }
  return y;
}

void softmax_axis(const Question&, const plan::Attention& op, Candidates& out) {
  out.add("over heads", [op](const Site& site) { return attend_over(site, op, true); });
  out.add("over the step's tokens", [op](const Site& site) { return attend_over(site, op, false); });
}

// exp in float32 or float16 of scores from which the largest is not subtracted.
void overflow(const Question&, const plan::Attention& op, Candidates& out) {
  for (const double most : {3.4028234663852886e38, 65504.0}) {
    with_weights(out, op, most > 1e6 ? "in float32, scores above 88" : "in float16, scores above 11",
                 [most](std::span<double> scores) {
                   double total = 0;
                   for (double& s : scores) {
                     s = std::exp(s);
                     if (s > most) s = infinity;
                     total += s;
                   }
                   if (total > most) total = infinity;
                   for (double& s : scores) s /= total;
                 });
  }
}

// Other values as inputs: queries or keys from before the rotation, keys in place of values, and so on.
void other_values(const Question& q, const plan::Attention& op, Candidates& out) {
  const plan::KvWrite& write = q.replay.kv_write(op.layer);
  const auto before = [&](plan::ValueId id) {
    const plan::Op& maker = q.plan().ops[q.replay.producer(id)];
    const auto* rope = std::get_if<plan::Rope>(&maker);
    return rope == nullptr ? std::optional<plan::ValueId>() : std::optional(rope->x);
  };
  if (const auto x = before(op.q)) {
    out.with_input("queries are those before the rotation", op.q, [x](const Site& site) { return site.value(*x); });
  }
  if (const auto x = before(write.k)) {
    out.reading("the cache has the keys from before the rotation",
                [x](const Site& site, Scene& scene) { scene.key = rows_of_value(site, *x); });
  }
  out.reading("keys and values are exchanged", [](const Site&, Scene& scene) { std::swap(scene.key, scene.cached_value); });
  out.reading("keys are read in place of values", [](const Site&, Scene& scene) { scene.cached_value = scene.key; });
}

constexpr Hypothesis table[] = {
    {"attention-head-map", Kind::parameter, of<head_map>, R"(query heads read the wrong key and value heads
With grouped queries, n_heads / n_kv_heads neighbouring query heads share one key head: repeated (0, 0, 1, 1), not tiled (0, 1, 0, 1).
kv_head = head / (n_heads / n_kv_heads))"},
    {"attention-kv-head-order", Kind::op, of<kv_head_order>, R"(key or value heads are read in another order
The head's offset is computed otherwise for keys than for values.
one offset for both: kv_head * head_dim)"},
    {"attention-scale", Kind::parameter, of<scale>, R"(scores are scaled by another factor
q . k is multiplied by 1 / sqrt(head_dim) unless the file says otherwise; without it the softmax is all but one-hot, with it twice all but flat.
multiply scores by attention.scale or 1 / sqrt(head_dim), once)"},
    {"attention-mask-self", Kind::op,
     of<mask<[](bool right, std::uint32_t t, std::uint32_t s) { return right && s != t; }>>,
     R"(a token does not attend to itself
The mask ends one early (s < t), or attention runs before the token's key is in the cache.
admit s <= t, and write the cache before attention)"},
    {"attention-mask-next", Kind::op,
     of<mask<[](bool right, std::uint32_t t, std::uint32_t s) { return right || s == t + 1; }>>,
     R"(a token attends to the next one
The mask ends one late (s <= t + 1).
admit s <= t)"},
    {"attention-mask-missing", Kind::op,
     of<mask<[](bool right, std::uint32_t t, std::uint32_t s) { return right || t < s; }>>,
     R"(there is no causal mask
Every token of the prompt sees all others; single steps after it are right.
admit s <= t)"},
    {"attention-mask-causal", Kind::parameter, of<causal_mask>,
     R"(attention has a causal mask in a model that sees both sides
Encoders read a text as a whole: a token attends to those after it too. attention.causal says so in the file.
admit all positions of the text, and no key of another text)"},
    {"attention-mask-zero", Kind::op, of<mask_zero>, R"(masked scores are 0 instead of -infinity
Masked positions keep a share of the softmax.
set masked scores to -infinity before the softmax)"},
    {"attention-mask-weak", Kind::op, of_shown<mask_weak>, R"(masked scores are lowered, not excluded
The mask adds a number that is not low enough: masked positions keep a share of the softmax.
add -infinity, or the type's lowest number)"},
    {"attention-window-of-layer", Kind::parameter, of<window_of_layer>, R"(the layer has another kind of layer's window
Where layers with and without a window take turns, the pattern says which are which, and from which layer on it counts.
take the window of each layer by the model's pattern)"},
    {"attention-window-kind", Kind::parameter, of<window_kind>,
     R"(a window that slides is taken for parts of the sequence, or the reverse
A sliding window moves with the token; parts of the sequence (Llama 4) begin at multiples of their length, where a token sees itself alone.
admit s / chunk = t / chunk for parts, t - window < s for windows that slide)"},
    {"attention-chunk-start", Kind::op, of<chunk_start>, R"(parts of the sequence begin at other positions
A token at a multiple of the part's length is the first of its part.
admit s / chunk = t / chunk)"},
    {"attention-window-sides", Kind::op, of<window_sides>, R"(an encoder's window does not lie on both sides in halves
A window of n positions reaches n / 2 positions to each side.
admit |t - s| <= window / 2)"},
    {"attention-window", Kind::parameter, of<window>, R"(the sliding window is another
attention.sliding_window counts positions, that of the token included.
admit t - window < s <= t)"},
    {"attention-soft-cap", Kind::parameter, of<soft_cap>, R"(scores are capped otherwise
cap * tanh(score / cap), where the architecture asks for it.
cap scores as the architecture asks)"},
    {"attention-distance-bias", Kind::op, of<distance_bias>, R"(scores are biased by distance
ALiBi adds a bias to the scores instead of rotating queries and keys; these models rotate.
add nothing to the scores but the mask)"},
    {"attention-alibi", Kind::op, of<alibi>, R"(the scores' bias by distance is not ALiBi's
-slope * (t - s) is added to the scaled scores, with slope 2^(-max_bias (h + 1) / n) for head h; where the number of heads is no power of two, the slopes beyond the largest one are every other slope of twice as many heads.
add -slope(h) * (t - s) to the scores, after the scale)"},
    {"attention-uniform", Kind::op, of<uniform_weights>, R"(all positions weigh alike
All scores are equal: keys or queries are zero where attention reads them, or the scores are lost.
check that keys are written to the cache, and what the scores' product reads)"},
    {"attention-softmax", Kind::op, of<softmax>, R"(the weights are no softmax of the scores
exp(score - largest) / sum, over the positions seen.
take the softmax over positions)"},
    {"attention-softmax-axis", Kind::op, of<softmax_axis>, R"(the softmax runs over the wrong axis
Weights add up to 1 over positions, for each head and token.
take the softmax over positions)"},
    {"attention-overflow", Kind::op, of<overflow>, R"(the softmax overflows
exp of a large score is infinite, and infinite divided by infinite is no number; reduced by the largest score it cannot be.
subtract the largest score before exp)"},
    {"attention-sinks-ignored", Kind::parameter, of<without<&plan::Attention::sinks>>, R"(attention sinks are left out
The learned sink of each head takes a share of the softmax (gpt-oss).
add exp(sink) to the softmax's sum)"},
    {"attention-other-values", Kind::op, of<other_values>, R"(attention reads other queries, keys or values
Rotated and unrotated, or keys and values, are exchanged.
rotate queries and keys; keys make scores, values the sum)"},
};

}  // namespace
}  // namespace in_attention

std::span<const Hypothesis> attention() { return in_attention::table; }

}  // namespace plumb::diagnose::families
