// Products with weights: a wrong weight, layout or input.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "diagnose/hypothesis.h"
#include "quants/format.h"

namespace plumb::diagnose::families {

namespace in_product {
namespace {

// The largest weight that is decoded as a whole for a hypothesis, in elements.
constexpr std::uint64_t most_elements = std::uint64_t{1} << 28;

struct Product {
  const plan::Linear& op;
  const plan::Weight& weight;
  std::uint64_t n_in, n_out;
  std::string_view role;
  std::optional<std::uint32_t> layer;

  static std::optional<Product> in(const Question& q) {
    const auto* op = q.as<plan::Linear>();
    if (op == nullptr) return std::nullopt;
    const plan::Weight& weight = q.plan().weight(op->weight);
    const std::string_view name = q.plan().value(op->out).name;
    return Product{*op, weight, weight.in(), weight.out(), diagnose::role(name), layer_of(name)};
  }
};

// The product with element (j, i) of its weight read from place index(j, i) of the buffer, modulo its length.
template <class Index>
void reread(Candidates& out, const Product& p, const std::string& detail, Index index) {
  if (p.weight.tensor.n_elements() > most_elements) return;
  out.reading(detail, [weight = p.op.weight, index](const Site& site, Scene& scene) {
    const Values flat = site.replay.flat(site.scene.plan->weight(weight).tensor);
    scene.weight = [&site, weight, index, flat](plan::WeightId id) -> RowSource {
      if (id != weight) return site.scene.weight(id);
      return [index, flat](std::uint64_t row, std::span<float> w) {
        for (std::size_t i = 0; i < w.size(); ++i) {
          const std::uint64_t at = index(row, i);
          w[i] = (*flat)[at < flat->size() ? at : at % flat->size()];
        }
      };
    };
  });
}

// The order of rows whose groups of n are taken apart into halves (the even ones first), and the order back.
auto to_halves(std::uint64_t n) {
  return [n](std::uint64_t j) { return j / n * n + (j % n < n / 2 ? 2 * (j % n) : 2 * (j % n - n / 2) + 1); };
}
auto to_adjacent(std::uint64_t n) {
  return [n](std::uint64_t j) { return j / n * n + j % n / 2 + (j % 2) * (n / 2); };
}

bool makes_heads(const Product& p) { return p.role == "attn_q" || p.role == "attn_k" || p.role == "attn_v"; }

void transposed(const Question&, const Product& p, Candidates& out) {
  reread(out, p, fmt::format("[{}, {}] read as [{}, {}]", p.n_out, p.n_in, p.n_in, p.n_out),
         [out = p.n_out](std::uint64_t j, std::uint64_t i) { return i * out + j; });
}

void transposed_by_head(const Question& q, const Product& p, Candidates& out) {
  const std::uint64_t d = q.replay.parameters().head_dim;
  if (!makes_heads(p) || p.n_out % d != 0 || p.n_out == d) return;
  reread(out, p, fmt::format("each head's [{}, {}] read as [{}, {}]", d, p.n_in, p.n_in, d),
         [d, in = p.n_in](std::uint64_t j, std::uint64_t i) { return j / d * d * in + i * d + j % d; });
}

void transposed_by_block(const Question&, const Product& p, Candidates& out) {
  for (const std::uint64_t b : {8, 16, 32, 64}) {
    if (p.n_in % b != 0 || p.n_out % b != 0) continue;
    reread(out, p, fmt::format("every {} x {} tile turned", b, b),
           [b, in = p.n_in](std::uint64_t j, std::uint64_t i) { return (j / b * b + i % b) * in + i / b * b + j % b; });
  }
}

void stride(const Question& q, const Product& p, Candidates& out) {
  const auto& h = q.replay.parameters();
  std::set<std::uint64_t> strides{p.n_out,    h.d_model,  h.q_width(), h.kv_width(), h.d_ff,      p.n_in / 2,
                                  p.n_in - 1, p.n_in + 1, p.n_in - 32, p.n_in + 32,  p.n_in + 64, p.n_in + 128};
  for (const std::uint64_t stride : strides) {
    if (stride == p.n_in || stride == 0 || stride > 4 * p.n_in) continue;
    reread(out, p, fmt::format("rows {} apart instead of {}", stride, p.n_in),
           [stride](std::uint64_t j, std::uint64_t i) { return j * stride + i; });
  }
}

// Weights that lie behind each other, with their biases.
struct Joined {
  struct Part {
    std::uint64_t begin, end;  // rows of the whole
    RowSource rows;
    std::optional<RowSource> bias;
  };
  std::vector<Part> parts;

  [[nodiscard]] std::uint64_t n_rows() const { return parts.empty() ? 0 : parts.back().end; }
  void add(const plan::Plan& plan, const plan::Linear& op) {
    const auto rows_of = [&](plan::WeightId id) { return backends::reference::rows_of(plan.weight(id).tensor); };
    parts.push_back({n_rows(), n_rows() + plan.weight(op.weight).out(), rows_of(op.weight),
                     op.bias ? std::optional(rows_of(*op.bias)) : std::nullopt});
  }
  void weight(std::uint64_t row, std::span<float> out) const {
    std::fill(out.begin(), out.end(), 0.0f);
    for (const Part& part : parts) {
      if (row >= part.begin && row < part.end) part.rows(row - part.begin, out);
    }
  }
  [[nodiscard]] std::vector<float> bias() const {
    std::vector<float> all(n_rows(), 0.0f);
    for (const Part& part : parts) {
      if (part.bias) (*part.bias)(0, std::span(all).subspan(part.begin, part.end - part.begin));
    }
    return all;
  }
};

// The product whose row j, and element j of whose bias, is row from(j) of the weights.
void with_rows(Candidates& out, const Product& p, std::string detail, const Joined& weights,
               std::function<std::uint64_t(std::uint64_t j)> from, bool bias_too, bool by_column) {
  const auto change = [weights, from = std::move(from), own = p.op.weight, bias_too](const Site& site, Scene& scene) {
    scene.weight = [&, own, bias_too](plan::WeightId id) -> RowSource {
      if (id == own) return [&](std::uint64_t j, std::span<float> w) { weights.weight(from(j), w); };
      if (!bias_too) return site.scene.weight(id);
      return [&](std::uint64_t, std::span<float> b) {
        const std::vector<float> all = weights.bias();
        for (std::size_t j = 0; j < b.size(); ++j) b[j] = from(j) < all.size() ? all[from(j)] : 0.0f;
      };
    };
  };
  out.reading(std::move(detail), change, by_column);
}

// Calls add(bias_too, note) for the mistake in weight and bias, and for that in the weight alone.
template <class Add>
void with_and_without_bias(const Product& p, Add add) {
  add(true, "");
  if (p.op.bias) add(false, ", the bias is not");
}

void row_order(const Question& q, const Product& p, Candidates& out) {
  const std::uint64_t d = q.replay.parameters().head_dim;
  if ((p.role != "attn_q" && p.role != "attn_k") || d % 2 != 0) return;
  Joined own;
  own.add(q.plan(), p.op);
  // For K also with the number of query heads, which cuts its rows into shorter heads.
  const std::uint64_t short_head = p.n_out / q.replay.parameters().n_heads;
  for (const std::uint64_t n : std::set<std::uint64_t>{d, short_head}) {
    if (n < 4 || n % 2 != 0 || n > d) continue;
    with_and_without_bias(p, [&](bool bias_too, std::string note) {
      if (n != d) note += fmt::format(", with heads of {}", n);
      with_rows(out, p, "the rows of a head are taken apart into halves" + note, own, to_halves(n), bias_too, false);
      with_rows(out, p, "the halves of a head are interleaved" + note, own, to_adjacent(n), bias_too, false);
    });
  }
}

void other_layer(const Question& q, const Product& p, Candidates& out) {
  if (!p.layer) return;
  const std::string name(p.weight.tensor.name), tail = name.substr(name.find('.', 4));
  out.with_other_weights(q, p.op.weight, [&](const plan::Weight& w) {
    return w.tensor.name.ends_with(tail) && w.in() == p.n_in && w.out() == p.n_out;
  });
}

void other_weight(const Question& q, const Product& p, Candidates& out) {
  out.with_other_weights(q, p.op.weight, [&](const plan::Weight& w) {
    const bool is_tied = p.role == "logits" && w.tensor.name == "token_embd.weight";  // that mistake is output-tied
    return w.in() == p.n_in && w.out() == p.n_out && w.n_experts() == 1 && !is_tied &&
           layer_of(w.tensor.name) == layer_of(p.weight.tensor.name);
  });
}

void tied(const Question& q, const Product& p, Candidates& out) {
  if (p.role != "logits" || q.replay.parameters().tied_embeddings) return;
  for (const plan::Weight& weight : q.plan().weights) {
    if (weight.tensor.name == "token_embd.weight")
      out.with_weight("", p.op.weight, backends::reference::rows_of(weight.tensor));
  }
}

// For logits the mistake is logits-index.
void shifted_rows(const Question& q, const Product& p, Candidates& out) {
  if (p.role == "logits") return;
  const auto n = static_cast<std::int64_t>(p.n_out);
  const auto add = [&](std::int64_t by, bool wraps) {
    out.with_weight(
        fmt::format("row j {:+d} for row j", by), p.op.weight,
        [rows = backends::reference::rows_of(p.weight.tensor), by, wraps, n](std::uint64_t j, std::span<float> w) {
          const std::int64_t from = static_cast<std::int64_t>(j) + by;
          std::fill(w.begin(), w.end(), 0.0f);
          if (wraps || (from >= 0 && from < n)) rows(static_cast<std::uint64_t>((from + n) % n), w);
        });
  };
  add(1, true);
  add(-1, true);
  // The memory beyond the weight is not known. If columns wrap around, the mistake is buffer-column-shifted.
  for (const std::int64_t right : likely_shifts(q)) {
    if (std::abs(right) != 1) add(-right, false);
  }
}

void shifted_elements(const Question&, const Product& p, Candidates& out) {
  const auto total = static_cast<std::int64_t>(p.weight.tensor.n_elements());
  for (const std::int64_t size : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
    for (const std::int64_t by : {size, -size}) {
      if (size % static_cast<std::int64_t>(p.n_in) == 0) continue;
      reread(out, p, fmt::format("{} elements {}", size, by > 0 ? "late" : "early"),
             [by, total, in = p.n_in](std::uint64_t j, std::uint64_t i) {
               return static_cast<std::uint64_t>((static_cast<std::int64_t>(j * in + i) + by + total) % total);
             });
    }
  }
}

// The weights that some engines join with the op's own: Q, K and V, or gate and up. `own` is the op's place among them.
std::optional<Joined> joined_of(const Question& q, const Product& p, std::size_t& own) {
  std::vector<std::string_view> roles;
  if (makes_heads(p)) roles = {"attn_q", "attn_k", "attn_v"};
  if (p.role == "ffn_gate" || p.role == "ffn_up") roles = {"ffn_gate", "ffn_up"};
  if (roles.empty() || !p.layer) return std::nullopt;
  Joined joined;
  for (const std::string_view role : roles) {
    const auto value = q.plan().find(fmt::format("blk.{}.{}", *p.layer, role));
    const auto* op = value ? std::get_if<plan::Linear>(&q.plan().ops[q.replay.producer(*value)]) : nullptr;
    if (op == nullptr || q.plan().weight(op->weight).in() != p.n_in) return std::nullopt;
    if (role == p.role) own = joined.parts.size();
    joined.add(q.plan(), *op);
  }
  return joined;
}

void joined_otherwise(const Question& q, const Product& p, Candidates& out) {
  std::size_t own = 0;
  const auto joined = joined_of(q, p, own);
  if (!joined) return;
  // from: the joined weight's row that is read for row j of the op's own.
  const auto add = [&](const std::string& detail, auto from) {
    with_and_without_bias(p, [&](bool bias_too, const std::string& note) {
      with_rows(out, p, detail + note, *joined, from, bias_too, true);
    });
  };
  const std::uint64_t begin = joined->parts[own].begin, total = joined->n_rows(), n = joined->parts.size();
  if (total / n * own != begin) {
    add(fmt::format("cut into {} equal parts", n), [start = total / n * own](std::uint64_t j) { return start + j; });
  }
  add(n == 2 ? "rows of gate and up in turn" : "rows of Q, K and V in turn",
      [n, own](std::uint64_t j) { return n * j + own; });
  const std::uint64_t d = q.replay.parameters().head_dim, n_q = joined->parts[0].end, n_k = joined->parts[1].end - n_q;
  if (n == 3 && n_q % d == 0 && n_k % d == 0) {
    add("each key head's Q, K and V together", [d, own, group = n_q / n_k](std::uint64_t j) {
      const std::uint64_t head = j / d;
      const std::uint64_t at = own == 0 ? head / group * (group + 2) + head % group : head * (group + 2) + group + own - 1;
      return at * d + j % d;
    });
  }
  // Searches the suspect's first outputs among all outputs of the joined weight.
  if (q.found.size() < p.n_out || p.op.bias) return;
  // If whole parts are exchanged, the mistake is weight-other; if a few rows are, it is weight-row-off-by-one.
  constexpr std::size_t n_compared = 8;
  constexpr std::uint64_t some = 16;
  const Values all = q.replay.value(p.op.x);
  const std::span<const float> x = std::span(*all).subspan(q.rows[0] * p.n_in, p.n_in);
  std::vector<float> w(p.n_in);
  std::vector<double> y(total);
  double size = 0;
  for (std::uint64_t row = 0; row < total; ++row) {
    joined->weight(row, w);
    for (std::size_t i = 0; i < w.size(); ++i) y[row] += double{w[i]} * x[i];
    size = std::max(size, std::abs(y[row]));
  }
  for (std::uint64_t start = 0; start + n_compared < total; ++start) {
    bool fits =
        (start > begin + some || start + some < begin) &&
        std::none_of(joined->parts.begin(), joined->parts.end(), [&](const auto& part) { return part.begin == start; });
    for (std::size_t j = 0; fits && j < std::min<std::size_t>(n_compared, p.n_out); ++j)
      fits = std::abs(q.found[j] - y[start + j]) < 1e-2 * size;
    if (fits) add(fmt::format("cut at row {} instead of {}", start, begin), [start](std::uint64_t j) { return start + j; });
  }
}

void part_of_sum(const Question& q, const Product& p, Candidates& out) {
  std::set<std::uint64_t> lengths{p.n_in / 2, p.n_in / 4, p.n_in * 3 / 4, p.n_in - 1, p.n_in - 4, p.n_in - 8, p.n_in - 16};
  for (const std::uint64_t tile : {32, 64, 128, 256, 512, 1024}) {
    lengths.insert(p.n_in / tile * tile);
    if (p.n_in > tile) lengths.insert(p.n_in - tile);
    lengths.insert(tile);
  }
  const auto& h = q.replay.parameters();
  for (const std::uint64_t other : {std::uint64_t{h.d_model}, std::uint64_t{h.head_dim}, std::uint64_t{h.kv_width()}})
    lengths.insert(other);
  const auto add = [&](const std::string& detail, auto is_summed) {
    out.with_changed_weight(detail, p.op.weight, [is_summed](std::span<float> w) {
      for (std::size_t i = 0; i < w.size(); ++i) {
        if (!is_summed(i)) w[i] = 0;
      }
    });
  };
  for (const std::uint64_t n : lengths) {
    if (n == 0 || n >= p.n_in) continue;
    add(fmt::format("the first {} of {} inputs are summed", n, p.n_in), [n](std::size_t i) { return i < n; });
  }
  if (q.is_inner()) return;
  for (const std::uint64_t n : std::set<std::uint64_t>{1, 4, 8, 16, 32, 64, 128, 256, p.n_in / 4, p.n_in / 2}) {
    if (n > 0 && n < p.n_in)
      add(fmt::format("the first {} of {} inputs are left out", n, p.n_in), [n](std::size_t i) { return i >= n; });
  }
  for (const std::size_t half : {1, 16}) {
    for (const bool second : {false, true}) {
      // For half a block of 32, the mistake is quant-part-decoded.
      const bool is_block = half == 16 && !second && quants::info(p.weight.tensor.format).block_size == 2 * half;
      if (p.n_in <= half || is_block) continue;
      const std::string_view which = second ? "second" : "first";
      add(half == 1 ? fmt::format("every second input is summed, from the {} on", which)
                    : fmt::format("the {} {} of every {} inputs are summed", which, half, 2 * half),
          [half, second](std::size_t i) { return (i / half % 2 == 1) == second; });
    }
  }
}

void part_twice(const Question&, const Product& p, Candidates& out) {
  for (const std::uint64_t n : std::set<std::uint64_t>{1, 8, 16, 32, 64, 128, 256, p.n_in / 2}) {
    for (const bool last : {true, false}) {
      if (n == 0 || n >= p.n_in) continue;
      out.with_changed_weight(fmt::format("the {} {} of {}", last ? "last" : "first", n, p.n_in), p.op.weight,
                              [n, last](std::span<float> w) {
                                for (float& v : last ? w.last(n) : w.first(n)) v *= 2;
                              });
    }
  }
}

// The product whose column i is multiplied with input from(i).
template <class From>
void with_input_order(Candidates& out, const Product& p, const std::string& detail, From from) {
  out.with_changed_input(detail, p.op.x, [n = p.n_in, from](std::vector<float>& x) {
    const std::vector<float> right = x;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = right[i / n * n + from(i % n)];
  });
}

void input_order(const Question& q, const Product& p, Candidates& out) {
  const auto add = [&](std::string detail, auto from) { with_input_order(out, p, std::move(detail), from); };
  const std::size_t n = p.n_in, d = q.replay.parameters().head_dim;
  add("halves exchanged", [n](std::size_t i) { return (i + n / 2) % n; });
  add("in reverse", [n](std::size_t i) { return n - 1 - i; });
  add("one late", [n](std::size_t i) { return (i + n - 1) % n; });
  add("one early", [n](std::size_t i) { return (i + 1) % n; });
  if (n % 2 == 0) {
    add("neighbours exchanged", [](std::size_t i) { return i ^ 1; });
    add("even ones first, then odd ones", to_halves(n));
    add("the halves interleaved", to_adjacent(n));
  }
  if (p.role != "attn_out" || n % d != 0) return;
  add("heads in reverse", [n, d](std::size_t i) { return (n / d - 1 - i / d) * d + i % d; });
  add("components d apart, heads next to each other", [n, d](std::size_t i) { return i % (n / d) * d + i / (n / d); });
}

void input_transposed(const Question&, const Product& p, Candidates& out) {
  out.with_input("", p.op.x, [x = p.op.x, n = p.n_in](const Site& site) {
    const Values all = site.replay.value(x);
    std::vector<float> wrong(site.rows.size() * n);
    for (std::size_t r = 0; r < site.rows.size(); ++r) {
      const auto [begin, end] = site.step(r);
      for (std::size_t i = 0; i < n; ++i) wrong[r * n + i] = (*all)[begin * n + i * (end - begin) + site.rows[r] - begin];
    }
    return wrong;
  });
}

void output_transposed(const Question&, const Product& p, Candidates& out) {
  if (p.role == "logits") return;
  out.add("", [n = p.n_out](const Site& site) {
    const std::vector<float> right = Site(site.replay, site.op_index, site.replay.all_rows()).compute();
    std::vector<float> y(site.rows.size() * n);
    for (std::size_t i = 0; i < y.size(); ++i) {
      const auto [begin, end] = site.step(i / n);
      const std::size_t at = (site.rows[i / n] - begin) * n + i % n, n_rows = end - begin;
      y[i] = right[(begin + at % n_rows) * n + at / n_rows];
    }
    return y;
  });
}

void heads_exchanged(const Question& q, const Product& p, Candidates& out) {
  const std::size_t d = q.replay.parameters().head_dim, n = p.n_out;
  if (makes_heads(p) && n % d == 0 && n > d) {
    const std::size_t n_heads = n / d;
    out.with_columns("the output is [head_dim, heads]", n, [=](std::size_t c) { return c % d * n_heads + c / d; });
    out.with_columns("components are written head_dim apart", n,
                     [=](std::size_t c) { return c % n_heads * d + c / n_heads; });
    out.with_columns("the heads are in reverse", n, [=](std::size_t c) { return (n_heads - 1 - c / d) * d + c % d; });
  }
  if (p.role == "attn_out" && p.n_in % d == 0) {
    with_input_order(out, p, "the input is read as [head_dim, heads]",
                     [d, n_heads = p.n_in / d](std::size_t i) { return i % d * n_heads + i / d; });
  }
}

// Whether a tensor, or the tensor of which it is a part ("attn_qkv.bias[0:64]"), is a bias.
bool is_bias(std::string_view name) { return name.substr(0, name.find('[')).ends_with(".bias"); }

void bias_other(const Question& q, const Product& p, Candidates& out) {
  if (!p.op.bias) return;
  const std::size_t d = q.replay.parameters().head_dim, n = p.n_out;
  std::vector<float> bias(n);
  q.rows_of (*p.op.bias)(0, bias);
  // The number that is added to output j, besides its bias.
  const auto beyond = [&](auto of) {
    std::vector<float> difference(n);
    for (std::size_t j = 0; j < n; ++j) difference[j] = of(j);
    return [difference](std::vector<float>& y) {
      for (std::size_t i = 0; i < y.size(); ++i) y[i] += difference[i % difference.size()];
    };
  };
  const auto add = [&](const std::string& detail, auto change) {
    out.afterwards(detail, [change](const Site&, std::vector<float>& y) { change(y); });
  };
  add("it is added twice", beyond([&](std::size_t j) { return bias[j]; }));
  add("it is subtracted", beyond([&](std::size_t j) { return -2 * bias[j]; }));
  add("the next output's", beyond([&](std::size_t j) { return bias[(j + 1) % n] - bias[j]; }));
  add("the output's before", beyond([&](std::size_t j) { return bias[(j + n - 1) % n] - bias[j]; }));
  const auto reordered = [&](const std::string& detail, auto from) {
    const auto change = beyond([&](std::size_t j) { return bias[from(j)] - bias[j]; });
    if (resembles_changed(q, change)) add(detail, change);
  };
  if (makes_heads(p) && n % d == 0 && d % 2 == 0) {
    reordered("its heads are taken apart into halves, the weight's rows are not", to_halves(d));
    reordered("the halves of its heads are interleaved, the weight's rows are not", to_adjacent(d));
    if (n > d) reordered("the first head's for all", [d](std::size_t j) { return j % d; });
  }
  out.with_other_weights(q, *p.op.bias,
                         [n](const plan::Weight& w) { return w.in() == n && w.out() == 1 && is_bias(w.tensor.name); });
}

constexpr Hypothesis table[] = {
    {"weight-transposed", Kind::weight, of<transposed>, R"(the weight is read as [in, out]
GGUF stores a weight's rows by output: [out, in], in contiguous. Read as [in, out] it is another matrix of the same numbers; a test with a matrix that the test itself laid out as [in, out] passes.
y[j] = sum over i of w[j * in + i] * x[i])"},
    {"weight-transposed-by-head", Kind::weight, of<transposed_by_head>, R"(each head's part of the weight is read transposed
The weight is cut into heads and each part taken for [in, head_dim].
a head's part is [head_dim, in])"},
    {"weight-transposed-by-block", Kind::weight, of<transposed_by_block>, R"(tiles of the weight are turned
The kernel loads tiles and exchanges row and column within them.
keep row and column when a tile is stored)"},
    {"weight-stride", Kind::weight, of<stride>, R"(the weight's rows are read at another distance
The stride is another matrix' width, or padding is assumed that the file does not have.
rows lie `in` elements apart)"},
    {"weight-row-order", Kind::weight, of<row_order>, R"(rows of Q or K are permuted, or should not have been
llama's GGUF files have the rows of Q and K permuted for rotation of neighbours; converting them again, or back, without changing the rotation turns the wrong pairs.
use the file's rows as they are, with the architecture's pairing)"},
    {"weight-other-layer", Kind::weight, of<other_layer>, R"(another layer's weight is used
The layer index is off, or a buffer is reused.
bind the weight by its name)"},
    {"weight-other", Kind::weight, of<other_weight>, R"(another weight of the same shape is used
Two tensors are exchanged: gate and up, k and v, q and the output projection.
bind the weight by its name)"},
    {"output-tied", Kind::op, of<tied>, R"(the embedding is used in place of the output's own weight
The file has output.weight; it is ignored as if embeddings were tied.
use output.weight where the file has it)"},
    {"weight-row-off-by-one", Kind::weight, of<shifted_rows>, R"(the weight's rows are off by one, or by some
The pointer to the rows is rows early or late.
row j begins at j * in)"},
    {"weight-offset", Kind::weight, of_shown<shifted_elements>, R"(the weight is read some elements early or late
The tensor's offset in the file is off: the header's end is not aligned, or a block or vector is skipped.
a tensor begins at its offset from the aligned end of the header)"},
    {"weight-joined", Kind::weight, of_shown<joined_otherwise>, R"(a joined weight is cut at other places than it was joined
Q, K and V (or gate and up) lie behind each other. They have different numbers of rows where heads are shared, and are not interleaved.
K begins after all rows of Q, V after all of K)"},
    {"product-part-of-sum", Kind::op, of<part_of_sum>, R"(the product sums a part of its inputs
The inner loop ends early: a length that is no multiple of the tile, or k of another matrix.
sum over all inputs; check k and the remainder)"},
    {"product-summed-twice", Kind::op, of_shown<part_twice>, R"(the product sums some of its inputs twice
The tiles of the inner loop overlap: the last one is moved back to end with the row, and is not masked.
sum each input once)"},
    {"product-input-order", Kind::op, of_shown<input_order>, R"(the product reads its input in another order
Heads, halves or neighbours of the input are not where the weight's columns expect them.
multiply column i by input i)"},
    {"product-input-transposed", Kind::op, of<input_transposed>, R"(the product reads its input as [in, T]
m and k are exchanged for the activations: right for one token, wrong for a prompt.
activations are [T, in], in contiguous)"},
    {"product-output-transposed", Kind::op, of<output_transposed>, R"(the product writes its output as [out, T]
m and n are exchanged for the result: right for one token, wrong for a prompt.
results are [T, out], out contiguous)"},
    {"product-heads-exchanged", Kind::op, of<heads_exchanged>, R"(heads and their components are exchanged
[heads, head_dim] is taken for [head_dim, heads], or the heads are in another order.
head h has the components h * head_dim and following)"},
    {"bias-dropped", Kind::op, of<without<&plan::Linear::bias>>, R"(the bias is not added
The file has a bias for this product; qwen2's q, k and v have one.
add the bias)"},
    {"bias-other", Kind::op, of<bias_other>, R"(the bias is added wrongly
It is added twice, with another sign, or is another tensor.
add the product's own bias once)"},
    {"product-other-input", Kind::op, of<other_operand<&plan::Linear::x>>, R"(the product reads another value
The buffer that it is given is another op's: a norm that was skipped, the residual instead of its norm.
give the product the value that the architecture asks for)"},
};

}  // namespace
}  // namespace in_product

std::span<const Hypothesis> product() { return in_product::table; }

}  // namespace plumb::diagnose::families
