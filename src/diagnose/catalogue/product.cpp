// Products with weights: which weight, in which layout, times what.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "diagnose/hypothesis.h"
#include "quants/format.h"

namespace plumb::diagnose::families {

namespace in_product {
namespace {

using backends::reference::RowSource;

// Largest weight that is decoded whole for a hypothesis, in elements.
constexpr std::uint64_t most_elements = std::uint64_t{1} << 28;

// The product with weight(j, i) read from the buffer at `index(j, i)`, modulo its length.
template <class Index>
Candidate reread(std::string detail, plan::WeightId weight, Index index) {
  return {std::move(detail),
          [weight, index](const Site& site) {
            const Values flat = site.replay->flat(site.scene->plan->weight(weight).tensor);
            backends::reference::Scene scene = *site.scene;
            scene.weight = [&](plan::WeightId id) -> RowSource {
              if (id != weight) return site.scene->weight(id);
              return [&](std::uint64_t row, std::span<float> out) {
                for (std::size_t i = 0; i < out.size(); ++i) {
                  const std::uint64_t at = index(row, i);
                  out[i] = (*flat)[at < flat->size() ? at : at % flat->size()];
                }
              };
            };
            return backends::reference::compute(*site.op, scene);
          },
          true};
}

struct Product {
  const plan::Linear* op;
  const plan::Weight* weight;
  std::uint64_t in, out;
  std::string_view role;
  std::optional<std::uint32_t> layer;
};

std::optional<Product> product_of(const Question& q) {
  const auto* op = q.as<plan::Linear>();
  if (op == nullptr) return std::nullopt;
  const plan::Weight& weight = q.plan().weight(op->weight);
  const std::string_view name = q.plan().value(op->out).name;
  return Product{op, &weight, weight.in(), weight.out(), role(name), layer_of(name)};
}

bool makes_heads(const Product& p) { return p.role == "attn_q" || p.role == "attn_k" || p.role == "attn_v"; }

std::vector<Candidate> transposed(const Question& q) {
  const auto p = product_of(q);
  if (!p || p->weight->tensor.n_elements() > most_elements) return {};
  return {reread(fmt::format("[{}, {}] read as [{}, {}]", p->out, p->in, p->in, p->out), p->op->weight,
                 [out = p->out](std::uint64_t j, std::uint64_t i) { return i * out + j; })};
}

std::vector<Candidate> transposed_by_head(const Question& q) {
  const auto p = product_of(q);
  const std::uint64_t d = q.replay.parameters().head_dim;
  if (!p || !makes_heads(*p) || p->out % d != 0 || p->out == d) return {};
  return {reread(fmt::format("each head's [{}, {}] read as [{}, {}]", d, p->in, p->in, d), p->op->weight,
                 [d, in = p->in](std::uint64_t j, std::uint64_t i) { return j / d * d * in + i * d + j % d; })};
}

std::vector<Candidate> transposed_by_block(const Question& q) {
  const auto p = product_of(q);
  if (!p || p->weight->tensor.n_elements() > most_elements) return {};
  std::vector<Candidate> result;
  for (const std::uint64_t b : {8, 16, 32, 64}) {
    if (p->in % b != 0 || p->out % b != 0) continue;
    result.push_back(
        reread(fmt::format("every {} x {} tile turned", b, b), p->op->weight,
               [b, in = p->in](std::uint64_t j, std::uint64_t i) { return (j / b * b + i % b) * in + i / b * b + j % b; }));
  }
  return result;
}

std::vector<Candidate> stride(const Question& q) {
  const auto p = product_of(q);
  if (!p || p->weight->tensor.n_elements() > most_elements) return {};
  const auto& h = q.replay.parameters();
  std::set<std::uint64_t> strides{p->out,    h.d_model, h.q_width(), h.kv_width(), h.d_ff,     p->in / 2,
                                  p->in - 1, p->in + 1, p->in - 32,  p->in + 32,   p->in + 64, p->in + 128};
  std::vector<Candidate> result;
  for (const std::uint64_t stride : strides) {
    if (stride == p->in || stride == 0 || stride > 4 * p->in) continue;
    result.push_back(reread(fmt::format("rows {} apart instead of {}", stride, p->in), p->op->weight,
                            [stride](std::uint64_t j, std::uint64_t i) { return j * stride + i; }));
  }
  return result;
}

std::vector<Candidate> row_order(const Question& q) {
  const auto p = product_of(q);
  const std::uint64_t d = q.replay.parameters().head_dim;
  if (!p || (p->role != "attn_q" && p->role != "attn_k") || d % 2 != 0) return {};
  const RowSource rows = backends::reference::rows_of(p->weight->tensor);
  const auto reordered = [&](std::string detail, auto from, bool bias_too) {
    Candidate c{std::move(detail), [op = *p->op, rows, from, bias_too](const Site& site) {
                  backends::reference::Scene scene = *site.scene;
                  scene.weight = [&](plan::WeightId id) -> RowSource {
                    if (id == op.weight) return [&](std::uint64_t j, std::span<float> out) { rows(from(j), out); };
                    if (!bias_too) return site.scene->weight(id);
                    return [&, id](std::uint64_t, std::span<float> out) {
                      std::vector<float> bias(out.size());
                      site.scene->weight(id)(0, bias);
                      for (std::size_t j = 0; j < out.size(); ++j) out[j] = bias[from(j)];
                    };
                  };
                  return backends::reference::compute(*site.op, scene);
                }};
    return c;
  };
  // Of K with the query heads' number too: its rows are then cut into shorter heads.
  const std::uint64_t short_head = p->out / q.replay.parameters().n_heads;
  std::vector<Candidate> result;
  for (const std::uint64_t n : std::set<std::uint64_t>{d, short_head}) {
    if (n < 4 || n % 2 != 0 || n > d) continue;
    // Row j of the suspect is row from(j) of the file.
    const auto to_halves = [n](std::uint64_t j) {
      return j / n * n + (j % n < n / 2 ? 2 * (j % n) : 2 * (j % n - n / 2) + 1);
    };
    const auto to_adjacent = [n](std::uint64_t j) { return j / n * n + j % n / 2 + (j % 2) * (n / 2); };
    for (const bool bias_too : {true, false}) {
      if (!bias_too && !p->op->bias) continue;
      const std::string note = (p->op->bias && !bias_too ? std::string(", the bias is not") : std::string()) +
                               (n == d ? "" : fmt::format(", with heads of {}", n));
      result.push_back(reordered("the rows of a head are taken apart into halves" + note, to_halves, bias_too));
      result.push_back(reordered("the halves of a head are interleaved" + note, to_adjacent, bias_too));
    }
  }
  return result;
}

std::vector<Candidate> other_layer(const Question& q) {
  const auto p = product_of(q);
  if (!p || !p->layer) return {};
  const std::string& name = std::string(p->weight->tensor.name);
  const std::string tail = name.substr(name.find('.', 4));
  std::vector<Candidate> result;
  for (std::uint32_t i = 0; i < q.plan().weights.size(); ++i) {
    const plan::Weight& other = q.plan().weights[i];
    if (i == p->op->weight.index || !other.tensor.name.ends_with(tail) || other.in() != p->in || other.out() != p->out)
      continue;
    result.push_back(with_weight(fmt::format("{} instead of {}", other.tensor.name, name), p->op->weight,
                                 backends::reference::rows_of(other.tensor)));
  }
  return result;
}

std::vector<Candidate> other_weight(const Question& q) {
  const auto p = product_of(q);
  if (!p) return {};
  std::vector<Candidate> result;
  for (std::uint32_t i = 0; i < q.plan().weights.size(); ++i) {
    const plan::Weight& other = q.plan().weights[i];
    if (i == p->op->weight.index || other.in() != p->in || other.out() != p->out || other.n_experts() != 1) continue;
    if (p->role == "logits" && other.tensor.name == "token_embd.weight") continue;  // output-tied
    if (layer_of(other.tensor.name) != layer_of(p->weight->tensor.name)) continue;
    result.push_back(with_weight(fmt::format("{} instead of {}", other.tensor.name, p->weight->tensor.name), p->op->weight,
                                 backends::reference::rows_of(other.tensor)));
  }
  return result;
}

std::vector<Candidate> tied(const Question& q) {
  const auto p = product_of(q);
  if (!p || p->role != "logits" || q.replay.parameters().tied_embeddings) return {};
  const auto& weights = q.plan().weights;
  const auto embedding = std::find_if(weights.begin(), weights.end(),
                                      [](const plan::Weight& w) { return w.tensor.name == "token_embd.weight"; });
  if (embedding == weights.end()) return {};
  return {with_weight("", p->op->weight, backends::reference::rows_of(embedding->tensor))};
}

// Of logits this is logits-index.
std::vector<Candidate> shifted_rows(const Question& q) {
  const auto p = product_of(q);
  if (!p || p->role == "logits") return {};
  const RowSource rows = backends::reference::rows_of(p->weight->tensor);
  std::vector<Candidate> result;
  const auto n = static_cast<std::int64_t>(p->out);
  for (const std::int64_t by : {1, -1}) {
    result.push_back(with_weight(fmt::format("row j {:+d} for row j", by), p->op->weight,
                                 [rows, by, n](std::uint64_t j, std::span<float> out) {
                                   rows(static_cast<std::uint64_t>((static_cast<std::int64_t>(j) + by + n) % n), out);
                                 }));
  }
  if (q.found.size() < p->out || q.found.size() != q.expected.size()) return result;
  for (const std::int64_t right : likely_shifts(q.found.first(p->out), q.expected.first(p->out))) {
    if (right == 1 || right == -1) continue;
    // What lies beyond the weight is not known. Columns that go around are buffer-column-shifted.
    result.push_back(with_weight(fmt::format("row j {:+d} for row j", -right), p->op->weight,
                                 [rows, right, n](std::uint64_t j, std::span<float> out) {
                                   const std::int64_t from = static_cast<std::int64_t>(j) - right;
                                   std::fill(out.begin(), out.end(), 0.0f);
                                   if (from >= 0 && from < n) rows(static_cast<std::uint64_t>(from), out);
                                 }));
  }
  return result;
}

std::vector<Candidate> shifted_elements(const Question& q) {
  if (q.is_inner()) return {};
  const auto p = product_of(q);
  if (!p || p->weight->tensor.n_elements() > most_elements) return {};
  std::vector<Candidate> result;
  const auto total = static_cast<std::int64_t>(p->weight->tensor.n_elements());
  for (const std::int64_t size : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
    for (const std::int64_t by : {size, -size}) {
      if (size % static_cast<std::int64_t>(p->in) == 0) continue;
      result.push_back(reread(fmt::format("{} elements {}", size, by > 0 ? "late" : "early"), p->op->weight,
                              [by, total, in = p->in](std::uint64_t j, std::uint64_t i) {
                                return static_cast<std::uint64_t>((static_cast<std::int64_t>(j * in + i) + by + total) %
                                                                  total);
                              }));
    }
  }
  return result;
}

// Weights that some engines join: Q, K and V, or gate and up.
struct Joined {
  std::vector<RowSource> rows;
  std::vector<std::optional<RowSource>> biases;
  std::vector<std::uint64_t> begins;  // of each, and the number of all rows
  std::size_t own = 0;                // which is the op's

  void weight(std::uint64_t row, std::span<float> out) const {
    std::fill(out.begin(), out.end(), 0.0f);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (row >= begins[i] && row < begins[i + 1]) rows[i](row - begins[i], out);
    }
  }
  [[nodiscard]] std::vector<float> bias() const {
    std::vector<float> all(begins.back(), 0.0f);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (biases[i]) (*biases[i])(0, std::span(all).subspan(begins[i], begins[i + 1] - begins[i]));
    }
    return all;
  }
};

std::optional<Joined> joined_of(const Question& q, const Product& p) {
  const std::string_view name = p.weight->tensor.name;
  std::vector<std::string_view> parts;
  if (makes_heads(p)) parts = {"attn_q", "attn_k", "attn_v"};
  if (p.role == "ffn_gate" || p.role == "ffn_up") parts = {"ffn_gate", "ffn_up"};
  if (parts.empty() || !p.layer) return std::nullopt;
  Joined joined;
  joined.begins.push_back(0);
  const auto& weights = q.plan().weights;
  const auto find = [&](const std::string& wanted) {
    return std::find_if(weights.begin(), weights.end(), [&](const plan::Weight& w) { return w.tensor.name == wanted; });
  };
  for (const std::string_view part : parts) {
    const std::string stem = fmt::format("blk.{}.{}", *p.layer, part);
    const auto weight = find(stem + ".weight"), bias = find(stem + ".bias");
    if (weight == weights.end() || weight->in() != p.in) return std::nullopt;
    if (name == weight->tensor.name) joined.own = joined.rows.size();
    joined.rows.push_back(backends::reference::rows_of(weight->tensor));
    joined.biases.push_back(bias == weights.end() ? std::nullopt
                                                  : std::optional(backends::reference::rows_of(bias->tensor)));
    joined.begins.push_back(joined.begins.back() + weight->out());
  }
  return joined;
}

std::vector<Candidate> joined_otherwise(const Question& q) {
  if (q.is_inner()) return {};
  const auto p = product_of(q);
  if (!p) return {};
  const auto joined = joined_of(q, *p);
  if (!joined) return {};
  std::vector<Candidate> result;
  // from: the joined weight's row that is read for row j of the op's own.
  using Rows = std::function<std::uint64_t(std::uint64_t j)>;
  const auto add = [&](const std::string& detail, const Rows& from) {
    for (const bool bias_too : {true, false}) {
      if (!bias_too && !p->op->bias) continue;
      const std::string_view note = p->op->bias && !bias_too ? ", the bias is not" : "";
      result.push_back({fmt::format("{}{}", detail, note),
                        [joined = *joined, from, op = *p->op, bias_too](const Site& site) {
                          backends::reference::Scene scene = *site.scene;
                          scene.weight = [&](plan::WeightId id) -> RowSource {
                            if (id == op.weight)
                              return [&](std::uint64_t j, std::span<float> out) { joined.weight(from(j), out); };
                            if (!bias_too) return site.scene->weight(id);
                            return [&](std::uint64_t, std::span<float> out) {
                              const std::vector<float> bias = joined.bias();
                              for (std::size_t j = 0; j < out.size(); ++j)
                                out[j] = from(j) < bias.size() ? bias[from(j)] : 0.0f;
                            };
                          };
                          return backends::reference::compute(*site.op, scene);
                        },
                        true});
    }
  };
  const std::uint64_t own = joined->own, begin = joined->begins[own], total = joined->begins.back(),
                      n = joined->rows.size();
  if (total / n * own != begin) {
    add(fmt::format("cut into {} equal parts", n), [start = total / n * own](std::uint64_t j) { return start + j; });
  }
  add(n == 2 ? "rows of gate and up in turn" : "rows of Q, K and V in turn",
      [n, own](std::uint64_t j) { return n * j + own; });
  const std::uint64_t d = q.replay.parameters().head_dim;
  if (n == 3 && joined->begins[1] % d == 0 && (joined->begins[2] - joined->begins[1]) % d == 0) {
    const std::uint64_t n_kv = (joined->begins[2] - joined->begins[1]) / d, group = joined->begins[1] / d / n_kv;
    add("each key head's Q, K and V together", [d, own, group](std::uint64_t j) {
      const std::uint64_t head = j / d;
      const std::uint64_t at = own == 0 ? head / group * (group + 2) + head % group : head * (group + 2) + group + own - 1;
      return at * d + j % d;
    });
  }
  // Where the suspect's first rows are found among all that the joined weight gives.
  if (q.found.size() < p->out || p->op->bias) return result;
  // Whole parts are weight-other, and some rows weight-row-off-by-one.
  constexpr std::size_t n_compared = 8;
  constexpr std::uint64_t some = 16;
  const Values all = q.replay.value(p->op->x);
  const std::span<const float> x = std::span(*all).subspan(q.rows[0] * p->in, p->in);
  std::vector<float> w(p->in);
  std::vector<double> y(total);
  double size = 0;
  for (std::uint64_t row = 0; row < total; ++row) {
    joined->weight(row, w);
    for (std::size_t i = 0; i < w.size(); ++i) y[row] += double{w[i]} * x[i];
    size = std::max(size, std::abs(y[row]));
  }
  for (std::uint64_t start = 0; start + n_compared < total; ++start) {
    bool fits = (start > begin + some || start + some < begin) &&
                std::count(joined->begins.begin(), joined->begins.end(), start) == 0;
    for (std::size_t j = 0; fits && j < std::min<std::size_t>(n_compared, p->out); ++j)
      fits = std::abs(q.found[j] - y[start + j]) < 1e-2 * size;
    if (fits) add(fmt::format("cut at row {} instead of {}", start, begin), [start](std::uint64_t j) { return start + j; });
  }
  return result;
}

std::vector<Candidate> part_of_sum(const Question& q) {
  const auto p = product_of(q);
  if (!p) return {};
  std::set<std::uint64_t> lengths{p->in / 2, p->in / 4, p->in * 3 / 4, p->in - 1, p->in - 4, p->in - 8, p->in - 16};
  for (const std::uint64_t tile : {32, 64, 128, 256, 512, 1024}) {
    lengths.insert(p->in / tile * tile);
    if (p->in > tile) lengths.insert(p->in - tile);
    lengths.insert(tile);
  }
  const auto& h = q.replay.parameters();
  for (const std::uint64_t other : {std::uint64_t{h.d_model}, std::uint64_t{h.head_dim}, std::uint64_t{h.kv_width()}})
    lengths.insert(other);
  const RowSource rows = backends::reference::rows_of(p->weight->tensor);
  std::vector<Candidate> result;
  const auto add = [&](std::string detail, auto is_summed) {
    result.push_back(
        with_weight(std::move(detail), p->op->weight, [rows, is_summed](std::uint64_t j, std::span<float> out) {
          rows(j, out);
          for (std::size_t i = 0; i < out.size(); ++i) {
            if (!is_summed(i)) out[i] = 0;
          }
        }));
  };
  for (const std::uint64_t n : lengths) {
    if (n == 0 || n >= p->in) continue;
    add(fmt::format("the first {} of {} inputs are summed", n, p->in), [n](std::size_t i) { return i < n; });
  }
  if (q.is_inner()) return result;
  for (const std::uint64_t n : std::set<std::uint64_t>{1, 4, 8, 16, 32, 64, 128, 256, p->in / 4, p->in / 2}) {
    if (n > 0 && n < p->in)
      add(fmt::format("the first {} of {} inputs are left out", n, p->in), [n](std::size_t i) { return i >= n; });
  }
  for (const std::size_t half : {1, 16}) {
    for (const bool second : {false, true}) {
      // Of a block of 32 that is quant-part-decoded.
      const bool is_block = half == 16 && !second && quants::info(p->weight->tensor.format).block_size == 2 * half;
      if (p->in <= half || is_block) continue;
      const std::string_view which = second ? "second" : "first";
      add(half == 1 ? fmt::format("every second input is summed, from the {} on", which)
                    : fmt::format("the {} {} of every {} inputs are summed", which, half, 2 * half),
          [half, second](std::size_t i) { return (i / half % 2 == 1) == second; });
    }
  }
  return result;
}

std::vector<Candidate> part_twice(const Question& q) {
  if (q.is_inner()) return {};
  const auto p = product_of(q);
  if (!p) return {};
  const RowSource rows = backends::reference::rows_of(p->weight->tensor);
  std::vector<Candidate> result;
  for (const std::uint64_t n : std::set<std::uint64_t>{1, 8, 16, 32, 64, 128, 256, p->in / 2}) {
    for (const bool last : {true, false}) {
      if (n == 0 || n >= p->in) continue;
      result.push_back(with_weight(fmt::format("the {} {} of {}", last ? "last" : "first", n, p->in), p->op->weight,
                                   [rows, n, last](std::uint64_t j, std::span<float> out) {
                                     rows(j, out);
                                     for (float& v : last ? out.last(n) : out.first(n)) v *= 2;
                                   }));
    }
  }
  return result;
}

// Column i of the weight with another input than the i-th.
std::vector<Candidate> input_order(const Question& q) {
  if (q.is_inner()) return {};
  const auto p = product_of(q);
  if (!p) return {};
  std::vector<Candidate> result;
  const auto add = [&](std::string detail, std::function<std::size_t(std::size_t i)> from) {
    result.push_back(
        with_input(std::move(detail), p->op->x, [x = p->op->x, n = p->in, from = std::move(from)](const Site& site) {
          const auto right = site.scene->value(x);
          std::vector<float> wrong(right.size());
          for (std::size_t i = 0; i < wrong.size(); ++i) wrong[i] = right[i / n * n + from(i % n)];
          return wrong;
        }));
  };
  const std::size_t n = p->in, d = q.replay.parameters().head_dim;
  add("halves exchanged", [n](std::size_t i) { return (i + n / 2) % n; });
  add("in reverse", [n](std::size_t i) { return n - 1 - i; });
  add("one late", [n](std::size_t i) { return (i + n - 1) % n; });
  add("one early", [n](std::size_t i) { return (i + 1) % n; });
  if (n % 2 == 0) {
    add("neighbours exchanged", [](std::size_t i) { return i ^ 1; });
    add("even ones first, then odd ones", [n](std::size_t i) { return i < n / 2 ? 2 * i : 2 * (i - n / 2) + 1; });
    add("the halves interleaved", [n](std::size_t i) { return i / 2 + (i % 2) * (n / 2); });
  }
  if (p->role != "attn_out" || n % d != 0) return result;
  add("heads in reverse", [n, d](std::size_t i) { return (n / d - 1 - i / d) * d + i % d; });
  add("components d apart, heads next to each other", [n, d](std::size_t i) { return i % (n / d) * d + i / (n / d); });
  return result;
}

// All rows of the steps that a site's rows belong to, as one list, and where each step begins in it.
std::vector<std::uint32_t> rows_of_step(const Site& site, std::uint32_t step) {
  std::vector<std::uint32_t> rows;
  for (std::uint32_t r = 0; r < site.replay->rows().size(); ++r) {
    if (site.replay->rows()[r].sequence == step) rows.push_back(r);
  }
  return rows;
}

std::vector<Candidate> input_transposed(const Question& q) {
  const auto p = product_of(q);
  if (!p) return {};
  return {with_input("", p->op->x, [x = p->op->x, in = p->in](const Site& site) {
    const Values all = site.replay->value(x);
    std::vector<float> out(site.rows.size() * in);
    for (std::size_t r = 0; r < site.rows.size(); ++r) {
      const auto step = rows_of_step(site, site.scene->rows[r].sequence);
      const std::size_t t = site.rows[r] - step.front();
      for (std::size_t i = 0; i < in; ++i) out[r * in + i] = (*all)[step.front() * in + i * step.size() + t];
    }
    return out;
  })};
}

std::vector<Candidate> output_transposed(const Question& q) {
  const auto p = product_of(q);
  if (!p || p->role == "logits") return {};
  return {{"", [out = p->out](const Site& site) {
             std::vector<float> y(site.rows.size() * out);
             std::map<std::uint32_t, std::vector<float>> of_step;
             for (std::size_t r = 0; r < site.rows.size(); ++r) {
               const std::uint32_t step = site.scene->rows[r].sequence;
               const auto rows = rows_of_step(site, step);
               if (!of_step.contains(step)) {
                 const View view(*site.replay, rows);
                 of_step[step] = backends::reference::compute(*site.op, view.scene());
               }
               for (std::size_t j = 0; j < out; ++j) {
                 const std::size_t at = (site.rows[r] - rows.front()) * out + j;
                 y[r * out + j] = of_step[step][at % rows.size() * out + at / rows.size()];
               }
             }
             return y;
           }}};
}

std::vector<Candidate> heads_exchanged(const Question& q) {
  const auto p = product_of(q);
  const std::size_t d = q.replay.parameters().head_dim;
  if (!p) return {};
  std::vector<Candidate> result;
  if (makes_heads(*p) && p->out % d == 0 && p->out > d) {
    result.push_back(afterwards("the output is [head_dim, heads]", [d, n = p->out](const Site&, std::vector<float>& y) {
      const std::vector<float> right = y;
      for (std::size_t i = 0; i < y.size(); ++i) y[i] = right[i / n * n + i % n % d * (n / d) + i % n / d];
    }));
    result.push_back(
        afterwards("components are written head_dim apart", [d, n = p->out](const Site&, std::vector<float>& y) {
          const std::vector<float> right = y;
          for (std::size_t i = 0; i < y.size(); ++i) y[i / n * n + i % d * (n / d) + i % n / d] = right[i];
        }));
    result.push_back(afterwards("the heads are in reverse", [d, n = p->out](const Site&, std::vector<float>& y) {
      const std::vector<float> right = y;
      for (std::size_t i = 0; i < y.size(); ++i) y[i] = right[i / n * n + (n / d - 1 - i % n / d) * d + i % d];
    }));
  }
  if (p->role == "attn_out" && p->in % d == 0) {
    result.push_back(
        with_input("the input is read as [head_dim, heads]", p->op->x, [x = p->op->x, d, n = p->in](const Site& site) {
          const auto right = site.scene->value(x);
          std::vector<float> wrong(right.size());
          for (std::size_t i = 0; i < wrong.size(); ++i) wrong[i] = right[i / n * n + i % n % d * (n / d) + i % n / d];
          return wrong;
        }));
  }
  return result;
}

std::vector<Candidate> bias_dropped(const Question& q) {
  const auto p = product_of(q);
  if (!p || !p->op->bias) return {};
  plan::Linear wrong = *p->op;
  wrong.bias.reset();
  return {changed(wrong)};
}

std::vector<Candidate> bias_other(const Question& q) {
  const auto p = product_of(q);
  if (!p || !p->op->bias) return {};
  std::vector<Candidate> result;
  const plan::WeightId bias = *p->op->bias;
  result.push_back(afterwards("it is added twice", [bias, n = p->out](const Site& site, std::vector<float>& y) {
    const std::vector<float> b = site.scene->vector(bias);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += b[i % n];
  }));
  result.push_back(afterwards("it is subtracted", [bias, n = p->out](const Site& site, std::vector<float>& y) {
    const std::vector<float> b = site.scene->vector(bias);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] -= 2 * b[i % n];
  }));
  for (const std::size_t by : {std::size_t{1}, p->out - 1}) {
    result.push_back(afterwards(by == 1 ? "the next output's" : "the output's before",
                                [bias, by, n = p->out](const Site& site, std::vector<float>& y) {
                                  const std::vector<float> b = site.scene->vector(bias);
                                  for (std::size_t i = 0; i < y.size(); ++i) y[i] += b[(i + by) % n] - b[i % n];
                                }));
  }
  const std::size_t d = q.replay.parameters().head_dim, width = p->out;
  const auto reordered = [&](std::string detail, auto from) {
    std::vector<float> b(width);
    backends::reference::rows_of(q.plan().weight(bias).tensor)(0, b);
    std::vector<float> difference(width);
    for (std::size_t j = 0; j < width; ++j) difference[j] = b[from(j)] - b[j];
    const auto change = [difference](std::vector<float>& y) {
      for (std::size_t i = 0; i < y.size(); ++i) y[i] += difference[i % difference.size()];
    };
    if (resembles_changed(q, change))
      result.push_back(afterwards(std::move(detail), [change](const Site&, std::vector<float>& y) { change(y); }));
  };
  if (makes_heads(*p) && width % d == 0 && d % 2 == 0) {
    reordered("its heads are taken apart into halves, the weight's rows are not",
              [d](std::size_t j) { return j / d * d + (j % d < d / 2 ? 2 * (j % d) : 2 * (j % d - d / 2) + 1); });
    reordered("the halves of its heads are interleaved, the weight's rows are not",
              [d](std::size_t j) { return j / d * d + j % d / 2 + (j % 2) * (d / 2); });
    if (width > d) reordered("the first head's for all", [d](std::size_t j) { return j % d; });
  }
  for (std::uint32_t i = 0; i < q.plan().weights.size(); ++i) {
    const plan::Weight& other = q.plan().weights[i];
    if (i == bias.index || other.in() != p->out || other.out() != 1 || !other.tensor.name.ends_with(".bias")) continue;
    result.push_back(with_weight(fmt::format("{} instead of {}", other.tensor.name, q.plan().weight(bias).tensor.name),
                                 bias, backends::reference::rows_of(other.tensor)));
  }
  return result;
}

std::vector<Candidate> other_input(const Question& q) {
  const auto p = product_of(q);
  return p ? with_other_values(q, p->op->x) : std::vector<Candidate>();
}

std::vector<Candidate> logits_row(const Question& q) {
  const auto p = product_of(q);
  if (!p || p->role != "logits") return {};
  std::vector<Candidate> result;
  const plan::ValueId x = p->op->x;
  // Where a step has one token it has none before it: there it is buffer-stale.
  const auto run = q.replay.rows();
  const bool any_beside = std::any_of(q.rows.begin(), q.rows.end(), [&](std::uint32_t row) {
    return row > 0 && run[row].sequence == run[row - 1].sequence;
  });
  if (any_beside) result.push_back(with_input("the token before", x, [x](const Site& site) { return site.value(x, 1); }));
  result.push_back(with_input("the step's first token", x, [x, in = p->in](const Site& site) {
    const Values all = site.replay->value(x);
    std::vector<float> out(site.rows.size() * in);
    for (std::size_t r = 0; r < site.rows.size(); ++r) {
      const std::size_t first = rows_of_step(site, site.scene->rows[r].sequence).front();
      std::copy_n(all->begin() + static_cast<std::ptrdiff_t>(first * in), in,
                  out.begin() + static_cast<std::ptrdiff_t>(r * in));
    }
    return out;
  }));
  return result;
}

std::vector<Candidate> logits_index(const Question& q) {
  const auto p = product_of(q);
  if (!p || p->role != "logits") return {};
  std::vector<Candidate> result;
  std::vector<std::int64_t> shifts = {1, -1, 3, -3};
  if (q.found.size() == q.expected.size() && q.found.size() >= p->out) {
    for (const std::int64_t by : likely_shifts(q.found.last(p->out), q.expected.last(p->out))) {
      if (std::find(shifts.begin(), shifts.end(), -by) == shifts.end()) shifts.push_back(-by);
    }
  }
  result.reserve(shifts.size());
  for (const std::int64_t by : shifts) {
    result.push_back(afterwards(fmt::format("logit i is that of token i {:+d}", by),
                                [by, n = static_cast<std::int64_t>(p->out)](const Site&, std::vector<float>& y) {
                                  const std::vector<float> right = y;
                                  for (std::size_t i = 0; i < y.size(); ++i) {
                                    const std::int64_t row = static_cast<std::int64_t>(i) / n,
                                                       j = static_cast<std::int64_t>(i) % n;
                                    y[i] = right[static_cast<std::size_t>(row * n + (j + by + n) % n)];
                                  }
                                }));
  }
  return result;
}

// Tokens of the context up to a row, and how often each is there.
std::map<std::size_t, int> context_of(std::span<const backends::Row> rows, std::uint32_t row) {
  std::map<std::size_t, int> tokens;
  for (std::uint32_t r = 0; r <= row; ++r) ++tokens[static_cast<std::size_t>(rows[r].token)];
  return tokens;
}

double median(std::vector<double> of) {
  std::nth_element(of.begin(), of.begin() + static_cast<std::ptrdiff_t>(of.size() / 2), of.end());
  return of[of.size() / 2];
}

// Changes to a row of logits that samplers and other heads make.
std::vector<Candidate> logits_postprocessed(const Question& q) {
  if (q.out() != q.plan().logits) return {};
  const std::size_t width = q.width();
  const auto rows = q.replay.rows();
  using RowChange = std::function<void(std::uint32_t row, std::span<float> y)>;
  std::vector<Candidate> result;
  // Only what resembles the suspect's is computed: the products behind it are the largest of the run.
  const auto add = [&](std::string detail, const RowChange& change) {
    const bool fits = resembles_changed(q, [&](std::vector<float>& y) {
      for (std::size_t r = 0; r < q.rows.size(); ++r) change(q.rows[r], std::span(y).subspan(r * width, width));
    });
    if (!fits) return;
    result.push_back(afterwards(std::move(detail), [change, width](const Site& site, std::vector<float>& y) {
      for (std::size_t r = 0; r < site.rows.size(); ++r) change(site.rows[r], std::span(y).subspan(r * width, width));
    }));
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
  add("a sigmoid", [](std::uint32_t, std::span<float> y) {
    for (float& v : y) v = static_cast<float>(1 / (1 + std::exp(-double{v})));
  });
  std::set<double> caps{15, 30, 50};
  if (q.found.size() == q.expected.size() && !q.found.empty()) {
    // found = cap tanh(expected / cap), at the largest: by bisection, as it grows with cap.
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
      const double fitted = std::strtod(fmt::format("{:.2e}", high).c_str(), nullptr);
      if (std::none_of(caps.begin(), caps.end(), [&](double c) { return std::abs(c / high - 1) < 0.01; }))
        caps.insert(fitted);
    }
  }
  for (const double cap : caps) {
    const auto* own = q.as<plan::SoftCap>();
    if (own != nullptr && std::abs(own->cap / cap - 1) < 0.01) continue;
    add(fmt::format("a soft cap of {:g}", cap), [cap](std::uint32_t, std::span<float> y) {
      for (float& v : y) v = static_cast<float>(cap * std::tanh(v / cap));
    });
  }
  // Penalties of the tokens that were there before.
  double ratio = 1.3, once = 1, each = 0.5;
  if (q.found.size() == q.expected.size() && !q.found.empty()) {
    std::vector<double> ratios, differences, by_count;
    for (std::size_t r = 0; r < q.rows.size(); ++r) {
      for (const auto& [token, n] : context_of(rows, q.rows[r])) {
        const double found = q.found[r * width + token], expected = q.expected[r * width + token];
        if (found != 0 && expected != 0) ratios.push_back(expected > 0 ? expected / found : found / expected);
        differences.push_back(expected - found);
        by_count.push_back((expected - found) / n);
      }
    }
    if (ratios.empty()) return result;
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
  if (!std::isfinite(once) || !std::isfinite(each)) return result;
  add(fmt::format("a presence penalty of {:.4g}", once), [once, rows](std::uint32_t row, std::span<float> y) {
    for (const auto& [token, n] : context_of(rows, row)) y[token] = static_cast<float>(y[token] - once);
  });
  add(fmt::format("a frequency penalty of {:.4g}", each), [each, rows](std::uint32_t row, std::span<float> y) {
    for (const auto& [token, n] : context_of(rows, row)) y[token] = static_cast<float>(y[token] - each * n);
  });
  return result;
}

// Some ids have no chance, and all others are as they should be.
std::vector<Candidate> logits_filtered(const Question& q) {
  if (q.out() != q.plan().logits || q.found.empty() || q.found.size() != q.expected.size()) return {};
  constexpr float excluded = -1e8f;
  const std::size_t width = q.width();
  std::map<std::uint32_t, std::map<std::size_t, float>> of_row;
  std::set<std::size_t> ids;
  std::size_t n = 0;
  double right = 0, wrong = 0;
  for (std::size_t i = 0; i < q.found.size(); ++i) {
    if (q.found[i] <= excluded && q.expected[i] > excluded) {
      of_row[q.rows[i / width]][i % width] = q.found[i];
      ids.insert(i % width);
      ++n;
    } else {
      right += std::pow(double{q.expected[i]}, 2);
      wrong += std::pow(double{q.found[i]} - q.expected[i], 2);
    }
  }
  if (n == 0 || n == q.found.size() || !(wrong <= 1e-4 * right)) return {};
  // The vocabulary's end, in all rows, is no choice of a sampler's: buffer-uninitialized.
  if (ids.size() > 1 && ids.size() * q.rows.size() == n && *ids.begin() + ids.size() == width) return {};
  std::string detail = fmt::format("{} of {} ids in each row", n / q.rows.size(), width);
  if (ids.size() * q.rows.size() == n && ids.size() <= 4) {
    detail = ids.size() == 1 ? "id " : "ids ";
    for (const std::size_t id : ids) detail += (id == *ids.begin() ? "" : ", ") + std::to_string(id);
  }
  return {afterwards(std::move(detail), [of_row, width](const Site& site, std::vector<float>& y) {
    for (std::size_t r = 0; r < site.rows.size(); ++r) {
      const auto found = of_row.find(site.rows[r]);
      if (found == of_row.end()) continue;
      for (const auto& [id, value] : found->second) y[r * width + id] = value;
    }
  })};
}

constexpr Hypothesis table[] = {
    {"weight-transposed", "the weight is read as [in, out]",
     "GGUF stores a weight's rows by output: [out, in], in contiguous. Read as [in, out] it is another matrix of the same "
     "numbers; a test with a matrix that the test itself laid out as [in, out] passes.",
     "y[j] = sum over i of w[j * in + i] * x[i]", transposed},
    {"weight-transposed-by-head", "each head's part of the weight is read transposed",
     "The weight is cut into heads and each part taken for [in, head_dim].", "a head's part is [head_dim, in]",
     transposed_by_head},
    {"weight-transposed-by-block", "tiles of the weight are turned",
     "The kernel loads tiles and exchanges row and column within them.", "keep row and column when a tile is stored",
     transposed_by_block},
    {"weight-stride", "the weight's rows are read at another distance",
     "The stride is another matrix' width, or padding is assumed that the file does not have.",
     "rows lie `in` elements apart", stride},
    {"weight-row-order", "rows of Q or K are permuted, or should not have been",
     "llama's GGUF files have the rows of Q and K permuted for rotation of neighbours; converting them again, or back, "
     "without "
     "changing the rotation turns the wrong pairs.",
     "use the file's rows as they are, with the architecture's pairing", row_order},
    {"weight-other-layer", "another layer's weight is used", "The layer index is off, or a buffer is reused.",
     "bind the weight by its name", other_layer},
    {"weight-other", "another weight of the same shape is used",
     "Two tensors are exchanged: gate and up, k and v, q and the output projection.", "bind the weight by its name",
     other_weight},
    {"output-tied", "the embedding is used in place of the output's own weight",
     "The file has output.weight; it is ignored as if embeddings were tied.", "use output.weight where the file has it",
     tied},
    {"weight-row-off-by-one", "the weight's rows are off by one, or by some",
     "The pointer to the rows is rows early or late.", "row j begins at j * in", shifted_rows},
    {"weight-offset", "the weight is read some elements early or late",
     "The tensor's offset in the file is off: the header's end is not aligned, or a block or vector is skipped.",
     "a tensor begins at its offset from the aligned end of the header", shifted_elements},
    {"weight-joined", "a joined weight is cut at other places than it was joined",
     "Q, K and V (or gate and up) lie behind each other. They have different numbers of rows where heads are shared, and "
     "are "
     "not interleaved.",
     "K begins after all rows of Q, V after all of K", joined_otherwise},
    {"product-part-of-sum", "the product sums a part of its inputs",
     "The inner loop ends early: a length that is no multiple of the tile, or k of another matrix.",
     "sum over all inputs; check k and the remainder", part_of_sum},
    {"product-summed-twice", "the product sums some of its inputs twice",
     "The tiles of the inner loop overlap: the last one is moved back to end with the row, and is not masked.",
     "sum each input once", part_twice},
    {"product-input-order", "the product reads its input in another order",
     "Heads, halves or neighbours of the input are not where the weight's columns expect them.",
     "multiply column i by input i", input_order},
    {"product-input-transposed", "the product reads its input as [in, T]",
     "m and k are exchanged for the activations: right for one token, wrong for a prompt.",
     "activations are [T, in], in contiguous", input_transposed},
    {"product-output-transposed", "the product writes its output as [out, T]",
     "m and n are exchanged for the result: right for one token, wrong for a prompt.",
     "results are [T, out], out contiguous", output_transposed},
    {"product-heads-exchanged", "heads and their components are exchanged",
     "[heads, head_dim] is taken for [head_dim, heads], or the heads are in another order.",
     "head h has the components h * head_dim and following", heads_exchanged},
    {"bias-dropped", "the bias is not added", "The file has a bias for this product; qwen2's q, k and v have one.",
     "add the bias", bias_dropped},
    {"bias-other", "the bias is added wrongly", "It is added twice, with another sign, or is another tensor.",
     "add the product's own bias once", bias_other},
    {"product-other-input", "the product reads another value",
     "The buffer that it is given is another op's: a norm that was skipped, the residual instead of its norm.",
     "give the product the value that the architecture asks for", other_input},
    {"logits-other-row", "the logits are another token's",
     "The row that is taken for the last is not: the count of tokens is off by one, or the first row is used.",
     "take the row of the last token", logits_row},
    {"logits-index", "the logits are shifted by some ids", "The table of rows or the index of the largest is off.",
     "logit i belongs to token i", logits_index},
    {"logits-filtered", "some tokens are excluded from the logits",
     "Their logits are -infinity, or as good as that: a filter of the sampler (top-k, top-p, a grammar, suppressed tokens) "
     "has "
     "run before they were kept.",
     "take the logits before the sampler's filters", logits_filtered},
    {"logits-postprocessed", "the logits are not those of the output's product",
     "A softmax, a soft cap that the file does not ask for, or a sampler's penalty has been applied to them.",
     "take the logits as the product gives them; cap them where the file says so only", logits_postprocessed},
};

}  // namespace
}  // namespace in_product

std::span<const Hypothesis> product() { return in_product::table; }

}  // namespace plumb::diagnose::families
