// The mistakes, as their makers would make them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/half.h"
#include "diagnose/faulty_engine.h"

namespace plumb::diagnose::planted {

namespace {

using Names = std::vector<std::string>;
using Causes = std::set<std::string>;

const Names norms{"attn_norm", "ffn_norm", "output_norm"};
const Names products{"attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down"};
const Names all_products{"attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down", "logits"};
const Names heads{"attn_q", "attn_k"};
const Names rotations{"attn_q_rope", "attn_k_rope"};
const Names any{"token_embd", "attn_norm", "attn_v", "attn_k_rope", "attn_ctx", "attn_resid", "ffn_act", "ffn_down"};

// The op, and then something done to each element, or to the whole.
std::function<Floats(const Engine&, Op)> each(float (*change)(float)) {
  return [change](const Engine& engine, const Op& op) {
    Floats y = engine.plain(op);
    for (float& v : y) v = change(v);
    return y;
  };
}
std::function<Floats(const Engine&, Op)> then(std::function<void(Floats& y, std::size_t width, const Op& op)> change) {
  return [change = std::move(change)](const Engine& engine, const Op& op) {
    Floats y = engine.plain(op);
    change(y, y.size() / op.rows, op);
    return y;
  };
}
// The op with its parameters or inputs changed.
std::function<Floats(const Engine&, Op)> with(std::function<void(const Engine&, Op&)> change) {
  return [change = std::move(change)](const Engine& engine, Op op) {
    change(engine, op);
    return engine.plain(op);
  };
}
std::function<Floats(const Engine&, Op)> weights(std::function<Floats(const Op&)> read) {
  return [read = std::move(read)](const Engine& engine, Op op) {
    Floats w = read(op);
    if (w.size() != op.w.data.size()) return Floats();
    op.w.data = std::move(w);
    return engine.plain(op);
  };
}

std::string blk(std::size_t layer, std::string_view rest) { return fmt::format("blk.{}.{}", layer, rest); }

float bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }
float cut_to_bf16(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, 4);
  bits &= 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

std::uint8_t byte(std::span<const std::byte> raw, std::size_t i) { return std::to_integer<std::uint8_t>(raw[i]); }
std::uint16_t half_bits(std::span<const std::byte> raw, std::size_t i) {
  return static_cast<std::uint16_t>(byte(raw, i) | byte(raw, i + 1) << 8);
}
float half(std::span<const std::byte> raw, std::size_t i) { return f16_to_f32(half_bits(raw, i)); }

// Blocks of Q8_0: a half-precision scale and 32 signed bytes (ggml-common.h's block_q8_0,
// https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h).
std::function<Floats(const Engine&, Op)> q8_0(
    std::function<float(std::span<const std::byte> raw, std::size_t block, std::size_t n_blocks, std::size_t i)> number) {
  return weights([number = std::move(number)](const Op& op) {
    if (op.w.format != quants::Format::q8_0) return Floats();
    const std::size_t n_blocks = op.w.raw.size() / 34;
    Floats w(n_blocks * 32);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = number(op.w.raw, i / 32, n_blocks, i % 32);
    return w;
  });
}

// Super-blocks of Q4_K: d and dmin, 12 bytes of packed 6-bit scales and minima, 128 bytes of nibbles (block_q4_K).
struct Q4K {
  bool interleaved = false, no_minimum = false, add_minimum = false, plain_scales = false, bf16_scale = false,
       next_scale = false, offset = false, half = false, minimum_before = false, unmasked = false;
};
std::function<Floats(const Engine&, Op)> q4_k(Q4K mistake) {
  return weights([mistake](const Op& op) {
    if (op.w.format != quants::Format::q4_k) return Floats();
    const std::size_t n = op.w.raw.size() / 144;
    Floats w(n * 256);
    for (std::size_t b = 0; b < n; ++b) {
      const auto raw = op.w.raw.subspan(b * 144, 144);
      const auto of_scale = mistake.next_scale ? op.w.raw.subspan((b + 1) % n * 144, 144) : raw;
      const float d = mistake.bf16_scale ? bf16_to_f32(half_bits(raw, 0)) : half(of_scale, 0), dmin = half(of_scale, 2);
      for (std::size_t j = 0; j < 8; ++j) {
        int scale = byte(raw, 4 + j) & 63, minimum = byte(raw, 4 + (j + 4) % 12) & 63;
        if (j >= 4 && !mistake.plain_scales) {
          scale = (byte(raw, 8 + j) & 15) | (byte(raw, j) >> 6) << 4;
          minimum = byte(raw, 8 + j) >> 4 | (byte(raw, 4 + j) >> 6) << 4;
        }
        if (mistake.unmasked && j < 4) scale = byte(raw, 4 + j);
        if (mistake.minimum_before) {
          const std::size_t k = (j + 7) % 8;
          minimum = k < 4 ? byte(raw, 8 + k) & 63 : byte(raw, 8 + k) >> 4 | (byte(raw, 4 + k) >> 6) << 4;
        }
        for (std::size_t i = 0; i < 32; ++i) {
          int q = byte(raw, 16 + j / 2 * 32 + i) >> (j % 2 * 4) & 15;
          if (mistake.interleaved) q = byte(raw, 16 + j * 16 + i / 2) >> (i % 2 * 4) & 15;
          if (mistake.offset) q -= 8;
          float value = d * static_cast<float>(scale) * static_cast<float>(q);
          const float low = dmin * static_cast<float>(minimum);
          if (!mistake.no_minimum) value += mistake.add_minimum ? low : -low;
          if (mistake.half && j >= 4) value = 0;
          w[b * 256 + j * 32 + i] = value;
        }
      }
    }
    return w;
  });
}

// Super-blocks of Q6_K: 128 bytes of low nibbles, 64 of two high bits, 16 signed scales, d (block_q6_K).
struct Q6K {
  bool no_high = false, high_swapped = false, no_offset = false, unsigned_scales = false, scale_before = false,
       as_q4_k = false, pairs_exchanged = false;
};
std::function<Floats(const Engine&, Op)> q6_k(Q6K mistake) {
  return weights([mistake](const Op& op) {
    if (op.w.format != quants::Format::q6_k) return Floats();
    const std::size_t n = op.w.raw.size() / 210;
    Floats w(n * 256);
    for (std::size_t b = 0; b < n; ++b) {
      const auto raw = op.w.raw.subspan(b * 210, 210);
      for (std::size_t k = 0; k < 256; ++k) {
        const std::size_t part = k / 128, quarter = k % 128 / 32, l = k % 32;
        int low = byte(raw, part * 64 + quarter % 2 * 32 + l) >> (quarter / 2 * 4) & 15;
        if (mistake.as_q4_k) low = byte(raw, part * 64 + quarter / 2 * 32 + l) >> (quarter % 2 * 4) & 15;
        int high = byte(raw, 128 + part * 32 + l) >> (2 * quarter) & 3;
        if (mistake.no_high) high = 0;
        if (mistake.high_swapped) high = byte(raw, 128 + part * 32 + l) >> (2 * (3 - quarter)) & 3;
        if (mistake.pairs_exchanged && (quarter == 1 || quarter == 2))
          high = byte(raw, 128 + part * 32 + l) >> (2 * (3 - quarter)) & 3;
        const std::uint8_t scale = byte(raw, 192 + (mistake.scale_before ? (k / 16 + 15) % 16 : k / 16));
        const int s = mistake.unsigned_scales ? scale : static_cast<std::int8_t>(scale);
        const int q = (low | high << 4) - (mistake.no_offset ? 0 : 32);
        w[b * 256 + k] = half(raw, 208) * static_cast<float>(s * q);
      }
    }
    return w;
  });
}

// Attention with its parts open: which scores, from which positions, made to which weights.
struct Attention {
  std::function<std::size_t(std::size_t h, const Config& c)> kv = [](std::size_t h, const Config& c) {
    return h / (c.n_heads / c.n_kv_heads);
  };
  std::function<double(double dot, const Config& c)> score = [](double dot, const Config& c) {
    return dot / std::sqrt(static_cast<double>(c.head_dim));
  };
  // t, s: positions; n: positions in the cache, those of all tokens of this step among them
  std::function<bool(std::size_t t, std::size_t s, std::size_t n, const Op& op)> seen =
      [](std::size_t t, std::size_t s, std::size_t, const Op&) { return s <= t; };
  double masked = -std::numeric_limits<double>::infinity();
  // Added to a score.
  double (*bias)(std::size_t t, std::size_t s, std::size_t h, const Config& c) = [](std::size_t, std::size_t, std::size_t,
                                                                                    const Config&) { return 0.0; };
  std::size_t (*components)(std::size_t head_dim) = [](std::size_t d) { return d; };
  void (*weights)(std::vector<double>& p) = [](std::vector<double>& p) {
    double sum = 0;
    for (double& v : p) sum += v = std::exp(v);
    for (double& v : p) v /= sum;
  };
};

std::function<Floats(const Engine&, Op)> attention(Attention a) {
  return [a = std::move(a)](const Engine&, const Op& op) {
    const Config& c = op.config;
    const std::size_t n = op.position + op.rows, kv_width = c.n_kv_heads * c.head_dim;
    Floats y(op.x.size());
    for (std::size_t t = 0; t < op.rows; ++t) {
      for (std::size_t h = 0; h < c.n_heads; ++h) {
        const std::size_t g = a.kv(h, c);
        std::vector<double> p(n, a.masked);
        for (std::size_t s = 0; s < n; ++s) {
          if (!a.seen(op.position + t, s, n, op)) continue;
          p[s] = 0;
          for (std::size_t i = 0; i < a.components(c.head_dim); ++i)
            p[s] += double{op.x[(t * c.n_heads + h) * c.head_dim + i]} * op.keys[s * kv_width + g * c.head_dim + i];
          p[s] = a.score(p[s], c) + a.bias(op.position + t, s, h, c);
        }
        a.weights(p);
        for (std::size_t i = 0; i < c.head_dim; ++i) {
          double sum = 0;
          for (std::size_t s = 0; s < n; ++s) sum += p[s] == 0 ? 0 : p[s] * op.values[s * kv_width + g * c.head_dim + i];
          y[(t * c.n_heads + h) * c.head_dim + i] = static_cast<float>(sum);
        }
      }
    }
    return y;
  };
}

// Rotation with its parts open.
struct Rotation {
  std::function<double(std::size_t position, std::size_t t, std::size_t head, const Op& op)> at =
      [](std::size_t position, std::size_t, std::size_t, const Op&) { return static_cast<double>(position); };
  std::function<double(double i, double n, double theta)> frequency = [](double i, double n, double theta) {
    return std::pow(theta, -2 * i / n);
  };
  bool swapped = false, in_place = false;
};

std::function<Floats(const Engine&, Op)> rotation(Rotation r) {
  return [r = std::move(r)](const Engine&, const Op& op) {
    const Config& c = op.config;
    Floats y = op.x;
    const std::size_t n_heads = y.size() / op.rows / c.head_dim, half_rot = c.n_rot / 2;
    for (std::size_t t = 0; t < op.rows; ++t) {
      for (std::size_t h = 0; h < n_heads; ++h) {
        for (std::size_t i = 0; i < half_rot; ++i) {
          const double angle =
              r.at(op.position + t, t, h, op) * r.frequency(static_cast<double>(i), static_cast<double>(c.n_rot), c.theta);
          double cosine = std::cos(angle), sine = std::sin(angle);
          if (r.swapped) std::swap(cosine, sine);
          float* const head = &y[(t * n_heads + h) * c.head_dim];
          float& a = head[c.halves ? i : 2 * i];
          float& b = head[c.halves ? i + half_rot : 2 * i + 1];
          const double x0 = a, x1 = b;
          a = static_cast<float>(x0 * cosine - x1 * sine);
          b = static_cast<float>((r.in_place ? double{a} : x0) * sine + x1 * cosine);
        }
      }
    }
    return y;
  };
}

std::function<Floats(const Engine&, Op)> activation(double (*f)(double gate, double up)) {
  return [f](const Engine&, const Op& op) {
    Floats y(op.x.size());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = static_cast<float>(f(op.x[i], op.other[i]));
    return y;
  };
}

// Rows of a norm, given its mean square.
std::function<Floats(const Engine&, Op)> norm(double (*value)(double x, double w, double mean_square, double mean, double n,
                                                              double eps)) {
  return [value](const Engine&, const Op& op) {
    Floats y(op.x.size());
    const std::size_t n = op.w.data.size();
    for (std::size_t row = 0; row < y.size(); row += n) {
      double squares = 0, sum = 0;
      for (std::size_t i = 0; i < n; ++i) {
        squares += double{op.x[row + i]} * op.x[row + i];
        sum += op.x[row + i];
      }
      const auto count = static_cast<double>(n);
      for (std::size_t i = 0; i < n; ++i)
        y[row + i] =
            static_cast<float>(value(op.x[row + i], op.w.data[i], squares / count, sum / count, count, op.config.eps));
    }
    return y;
  };
}

Floats permuted_rows(const Op& op, bool back) {
  const std::size_t d = op.config.head_dim, n = op.config.n_rot;
  Floats w = op.w.data;
  for (std::size_t row = 0; row < op.w.rows; ++row) {
    const std::size_t i = row % d;
    if (i >= n) continue;
    const std::size_t other = back ? (i % 2) * n / 2 + i / 2 : i % (n / 2) * 2 + i / (n / 2);
    std::copy_n(op.w.data.begin() + static_cast<std::ptrdiff_t>((row - i + other) * op.w.width), op.w.width,
                w.begin() + static_cast<std::ptrdiff_t>(row * op.w.width));
  }
  return w;
}

std::vector<Plant> make_faults() {
  std::vector<Plant> f;
  const auto add = [&](std::string name, Names roles, std::function<Floats(const Engine&, Op)> make, Causes causes) {
    f.push_back({std::move(name), std::move(roles), std::move(make), std::move(causes)});
  };

  // Layout of weights.
  add("weight read as [in, out]", all_products, weights([](const Op& op) {
        Floats w(op.w.data.size());
        for (std::size_t o = 0; o < op.w.rows; ++o) {
          for (std::size_t i = 0; i < op.w.width; ++i) w[o * op.w.width + i] = op.w.data[i * op.w.rows + o];
        }
        return w;
      }),
      {"weight-transposed"});
  add("each head's rows transposed", {"attn_q", "attn_k", "attn_v"}, weights([](const Op& op) {
        const std::size_t d = op.config.head_dim, in = op.w.width;
        Floats w(op.w.data.size());
        for (std::size_t h = 0; h < op.w.rows / d; ++h) {
          for (std::size_t o = 0; o < d; ++o) {
            for (std::size_t i = 0; i < in; ++i) w[(h * d + o) * in + i] = op.w.data[h * d * in + i * d + o];
          }
        }
        return w;
      }),
      {"weight-transposed-by-head"});
  for (const std::size_t tile : {16u, 32u}) {
    add(fmt::format("tiles of {} transposed", tile), products, weights([tile](const Op& op) {
          if (op.w.rows % tile != 0 || op.w.width % tile != 0) return Floats();
          Floats w(op.w.data.size());
          for (std::size_t o = 0; o < op.w.rows; ++o) {
            for (std::size_t i = 0; i < op.w.width; ++i)
              w[o * op.w.width + i] = op.w.data[(o / tile * tile + i % tile) * op.w.width + i / tile * tile + o % tile];
          }
          return w;
        }),
        {"weight-transposed-by-block", "weight-transposed"});  // a small weight is one tile
  }
  add("rows one element too far apart", products, weights([](const Op& op) {
        Floats w(op.w.data.size());
        for (std::size_t o = 0; o < op.w.rows; ++o) {
          for (std::size_t i = 0; i < op.w.width; ++i)
            w[o * op.w.width + i] = op.w.data[std::min(o * (op.w.width + 1) + i, w.size() - 1)];
        }
        return w;
      }),
      {"weight-stride"});
  add("weights of the layer after", products, with([](const Engine& e, Op& op) {
        const std::string name = op.role == "attn_out" ? "attn_output" : op.role;
        op.w = e.weight(blk((op.layer + 1) % e.config().n_layers, name + ".weight"));
      }),
      {"weight-other-layer"});
  add("K's weight used for V", {"attn_v"},
      with([](const Engine& e, Op& op) { op.w = e.weight(blk(op.layer, "attn_k.weight")); }),
      {"weight-other", "buffer-aliased"});
  add("gate's weight used for up", {"ffn_up"},
      with([](const Engine& e, Op& op) { op.w = e.weight(blk(op.layer, "ffn_gate.weight")); }),
      {"weight-other", "buffer-aliased"});
  add("rows off by one", products, weights([](const Op& op) {
        Floats w = op.w.data;
        std::rotate(w.begin(), w.begin() + static_cast<std::ptrdiff_t>(op.w.width), w.end());
        return w;
      }),
      {"weight-row-off-by-one", "buffer-column-shifted"});
  add("Q or K permuted once more", heads, weights([](const Op& op) { return permuted_rows(op, false); }),
      {"weight-row-order"});
  add("Q or K permuted back", heads, weights([](const Op& op) { return permuted_rows(op, true); }), {"weight-row-order"});
  add("the last eighth of the inputs left out", all_products, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t) {
          for (std::size_t o = 0; o < width; ++o) {
            for (std::size_t i = op.w.width - op.w.width / 8; i < op.w.width; ++i)
              y[t * width + o] -= op.x[t * op.w.width + i] * op.w.data[o * op.w.width + i];
          }
        }
      }),
      {"product-part-of-sum"});
  add("half of the inputs left out", products, with([](const Engine&, Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t) {
          for (std::size_t i = op.w.width / 2; i < op.w.width; ++i) op.x[t * op.w.width + i] = 0;
        }
      }),
      {"product-part-of-sum"});
  add("the input before the norm", {"attn_q", "attn_v"}, with([](const Engine& e, Op& op) {
        op.x = op.layer == 0 ? e.value("token_embd", op.step) : e.value(blk(op.layer - 1, "output"), op.step);
      }),
      {"product-other-input"});
  add("the residual stream for the feed-forward's norm", {"ffn_gate", "ffn_up"},
      with([](const Engine& e, Op& op) { op.x = e.value(blk(op.layer, "attn_resid"), op.step); }), {"product-other-input"});
  add("attention's norm for the feed-forward's", {"ffn_gate", "ffn_up"},
      with([](const Engine& e, Op& op) { op.x = e.value(blk(op.layer, "attn_norm"), op.step); }), {"product-other-input"});
  add("the output written as [out, T]", products, then([](Floats& y, std::size_t width, const Op& op) {
        const Floats right = y;
        for (std::size_t i = 0; i < y.size(); ++i) y[i % width * op.rows + i / width] = right[i];
      }),
      {"product-output-transposed"});
  add("the input read as [in, T]", products, with([](const Engine&, Op& op) {
        const Floats right = op.x;
        const std::size_t width = right.size() / op.rows;
        for (std::size_t i = 0; i < right.size(); ++i) op.x[i] = right[i % width * op.rows + i / width];
      }),
      {"product-input-transposed"});
  add("heads and components exchanged", {"attn_q", "attn_k", "attn_v"},
      then([](Floats& y, std::size_t width, const Op& op) {
        const Floats right = y;
        const std::size_t d = op.config.head_dim, n = width / d;
        for (std::size_t i = 0; i < y.size(); ++i) {
          const std::size_t row = i / width, h = i % width / d, c = i % d;
          y[row * width + c * n + h] = right[i];
        }
      }),
      {"product-heads-exchanged"});
  add("the bias left out", {"attn_q", "attn_k", "attn_v"}, with([](const Engine&, Op& op) {
        if (op.bias.data.empty()) op.rows = 0;
        op.bias.data.clear();
      }),
      {"bias-dropped"});
  add("the bias added twice", {"attn_q", "attn_k", "attn_v"}, with([](const Engine&, Op& op) {
        for (float& b : op.bias.data) b *= 2;
      }),
      {"bias-other"});
  add("the bias of the neighbouring output", {"attn_q", "attn_k", "attn_v"}, with([](const Engine&, Op& op) {
        if (!op.bias.data.empty()) std::rotate(op.bias.data.begin(), op.bias.data.begin() + 1, op.bias.data.end());
      }),
      {"bias-other"});
  add("the embedding in place of the output's weight", {"logits"},
      with([](const Engine& e, Op& op) { op.w = e.weight("token_embd.weight"); }), {"output-tied"});
  for (const int by : {1, 2, 7}) {
    add(fmt::format("logits shifted by {}", by), {"logits"},
        then([by](Floats& y, std::size_t, const Op&) { std::rotate(y.begin(), y.begin() + by, y.end()); }),
        {"logits-index"});
  }
  add("logits of the first token", {"logits"}, with([](const Engine& e, Op& op) {
        const Floats all = e.value("output_norm", op.step);
        op.x.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(op.w.width));
      }),
      {"logits-other-row"});

  // Embedding.
  add("the embedding scaled by sqrt(d)", {"token_embd"}, then([](Floats& y, std::size_t width, const Op&) {
        for (float& v : y) v *= std::sqrt(static_cast<float>(width));
      }),
      {"embedding-scale"});
  add("the embedding of the id before", {"token_embd"}, with([](const Engine&, Op& op) {
        for (float& id : op.x) id = id > 0 ? id - 1 : id;
      }),
      {"embedding-row-off-by-one"});
  add("the first token's embedding for all", {"token_embd"},
      with([](const Engine&, Op& op) { std::fill(op.x.begin(), op.x.end(), op.x[0]); }), {"embedding-one-token"});
  add("the embeddings one token late", {"token_embd"}, with([](const Engine& e, Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t)
          op.x[t] = static_cast<float>(e.tokens()[op.position + t == 0 ? 0 : op.position + t - 1]);
      }),
      {"embedding-other-tokens", "buffer-row-shifted"});

  // Norms.
  for (const double eps : {1e-2, 0.5}) {
    add(fmt::format("eps of {}", eps), norms, with([eps](const Engine&, Op& op) { op.config.eps = eps; }), {"norm-eps"});
  }
  add("the norm's weight left out", norms,
      norm([](double x, double, double ms, double, double, double eps) { return x / std::sqrt(ms + eps); }),
      {"norm-weight-missing"});
  add("the norm's weight twice", norms,
      norm([](double x, double w, double ms, double, double, double eps) { return x / std::sqrt(ms + eps) * w * w; }),
      {"norm-weight-twice"});
  add("1 added to the norm's weight", norms,
      norm([](double x, double w, double ms, double, double, double eps) { return x / std::sqrt(ms + eps) * (w + 1); }),
      {"norm-weight-plus-one"});
  add("a layer norm", norms, norm([](double x, double w, double ms, double mean, double, double eps) {
        return (x - mean) / std::sqrt(ms - mean * mean + eps) * w;
      }),
      {"norm-mean-subtracted"});
  add("the sum for the mean", norms,
      norm([](double x, double w, double ms, double, double n, double eps) { return x / std::sqrt(ms * n + eps) * w; }),
      {"norm-sum-for-mean"});
  add("no root", norms, norm([](double x, double w, double ms, double, double, double eps) { return x / (ms + eps) * w; }),
      {"norm-not-rooted"});
  add("not normalised", norms, norm([](double x, double w, double, double, double, double) { return x * w; }),
      {"norm-not-normalized"});
  add("the norm skipped", norms, [](const Engine&, const Op& op) { return op.x; }, {"norm-skipped", "buffer-aliased"});
  add("n - 1 for n", norms, norm([](double x, double w, double ms, double, double n, double eps) {
        return x / std::sqrt(ms * n / (n - 1) + eps) * w;
      }),
      {"value-scaled"});
  add("the mean of half the row", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t n = op.w.data.size();
        for (std::size_t row = 0; row < y.size(); row += n) {
          double squares = 0;
          for (std::size_t i = 0; i < n / 2; ++i) squares += double{op.x[row + i]} * op.x[row + i];
          for (std::size_t i = 0; i < n; ++i)
            y[row + i] = static_cast<float>(op.x[row + i] /
                                            std::sqrt(squares / static_cast<double>(n / 2) + op.config.eps) * op.w.data[i]);
        }
        return y;
      },
      {"norm-part-of-row"});
  add("one mean for all tokens", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        double squares = 0;
        for (const float v : op.x) squares += double{v} * v;
        for (std::size_t i = 0; i < y.size(); ++i)
          y[i] = static_cast<float>(op.x[i] / std::sqrt(squares / static_cast<double>(y.size()) + op.config.eps) *
                                    op.w.data[i % op.w.data.size()]);
        return y;
      },
      {"norm-over-tokens"});
  add("the other norm's weight", {"attn_norm", "ffn_norm"}, with([](const Engine& e, Op& op) {
        op.w = e.weight(blk(op.layer, op.role == "attn_norm" ? "ffn_norm.weight" : "attn_norm.weight"));
      }),
      {"norm-other-weight", "weight-other"});
  add("the norm's weight of the layer after", {"attn_norm", "ffn_norm"}, with([](const Engine& e, Op& op) {
        op.w = e.weight(blk((op.layer + 1) % e.config().n_layers, op.role + ".weight"));
      }),
      {"norm-other-weight", "weight-other-layer"});
  add("a norm of heads taken over the whole row", {"attn_q_norm", "attn_k_norm"},
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t width = y.size() / op.rows;
        for (std::size_t row = 0; row < y.size(); row += width) {
          double squares = 0;
          for (std::size_t i = 0; i < width; ++i) squares += double{op.x[row + i]} * op.x[row + i];
          for (std::size_t i = 0; i < width; ++i)
            y[row + i] =
                static_cast<float>(op.x[row + i] / std::sqrt(squares / static_cast<double>(width) + op.config.eps) *
                                   op.w.data[i % op.w.data.size()]);
        }
        return y;
      },
      {"norm-whole-row"});
  add("a norm of heads skipped", {"attn_q_norm", "attn_k_norm"}, [](const Engine&, const Op& op) { return op.x; },
      {"norm-skipped", "buffer-aliased"});

  // Rotary embedding.
  add("the other pairing", rotations, with([](const Engine&, Op& op) { op.config.halves = !op.config.halves; }),
      {"rope-pairing"});
  for (const double theta : {5e5, 2e4, 1e3}) {
    add(fmt::format("a base of {}", theta), rotations, with([theta](const Engine&, Op& op) { op.config.theta = theta; }),
        {"rope-theta"});
  }
  const auto at = [](std::function<double(std::size_t, std::size_t, std::size_t, const Op&)> position) {
    Rotation r;
    r.at = std::move(position);
    return rotation(std::move(r));
  };
  add("turned backwards", rotations,
      at([](std::size_t p, std::size_t, std::size_t, const Op&) { return -static_cast<double>(p); }), {"rope-direction"});
  for (const int by : {1, 3}) {
    add(fmt::format("positions from {}", by), rotations,
        at([by](std::size_t p, std::size_t, std::size_t, const Op&) { return static_cast<double>(p) + by; }),
        {"rope-position-offset"});
  }
  add("positions from 0 in each step", rotations,
      at([](std::size_t, std::size_t t, std::size_t, const Op&) { return static_cast<double>(t); }),
      {"rope-position-restarts", "rope-skipped"});
  add("one position for all tokens of a step", rotations,
      at([](std::size_t, std::size_t, std::size_t, const Op& op) { return static_cast<double>(op.position); }),
      {"rope-position-frozen", "rope-skipped"});
  add("the head's number in the position", rotations,
      at([](std::size_t p, std::size_t, std::size_t h, const Op&) { return static_cast<double>(p + h); }),
      {"rope-by-head"});
  add("positions divided by 4", rotations,
      at([](std::size_t p, std::size_t, std::size_t, const Op&) { return static_cast<double>(p) / 4; }), {"rope-scaling"});
  add("not rotated", rotations, [](const Engine&, const Op& op) { return op.x; }, {"rope-skipped", "buffer-aliased"});
  add("rotated twice", rotations,
      [](const Engine& e, Op op) {
        op.x = e.plain(op);
        return e.plain(op);
      },
      {"rope-twice", "op-twice"});
  add("half of the components", rotations, with([](const Engine&, Op& op) { op.config.n_rot /= 2; }), {"rope-partial"});
  const auto frequency = [](double (*of)(double, double, double)) {
    Rotation r;
    r.frequency = of;
    return rotation(std::move(r));
  };
  // Which is the square root of the base.
  add("i/d for 2i/d", rotations, frequency([](double i, double n, double theta) { return std::pow(theta, -i / n); }),
      {"rope-exponent", "rope-theta"});
  add("(i+1) for i", rotations,
      frequency([](double i, double n, double theta) { return std::pow(theta, -2 * (i + 1) / n); }), {"rope-exponent"});
  {
    Rotation swapped, in_place;
    swapped.swapped = in_place.in_place = true;
    add("sine for cosine", rotations, rotation(swapped), {"rope-sine-cosine"});
    add("the second component from the first one's new value", rotations, rotation(in_place), {"rope-in-place"});
  }

  // Attention.
  const Names ctx{"attn_ctx"};
  const auto scored = [](double (*score)(double, const Config&)) {
    Attention a;
    a.score = score;
    return attention(std::move(a));
  };
  add("no scale", ctx, scored([](double dot, const Config&) { return dot; }), {"attention-scale"});
  add("the scale twice", ctx, scored([](double dot, const Config& c) { return dot / static_cast<double>(c.head_dim); }),
      {"attention-scale"});
  add("the scale of the whole width", ctx,
      scored([](double dot, const Config& c) { return dot / std::sqrt(static_cast<double>(c.d)); }), {"attention-scale"});
  add("scores capped at 5", ctx, scored([](double dot, const Config& c) {
        return 5 * std::tanh(dot / std::sqrt(static_cast<double>(c.head_dim)) / 5);
      }),
      {"attention-soft-cap"});
  const auto masked = [](bool (*seen)(std::size_t, std::size_t, std::size_t, const Op&)) {
    Attention a;
    a.seen = seen;
    return attention(std::move(a));
  };
  add("the token itself masked", ctx,
      masked([](std::size_t t, std::size_t s, std::size_t, const Op&) { return s < t || t == 0; }),
      {"attention-mask-self"});
  add("the next token seen", ctx, masked([](std::size_t t, std::size_t s, std::size_t, const Op&) { return s <= t + 1; }),
      {"attention-mask-next"});
  add("no mask", ctx, masked([](std::size_t, std::size_t, std::size_t, const Op&) { return true; }),
      {"attention-mask-missing", "attention-mask-next"});
  for (const std::size_t window : {3u, 8u}) {
    Attention a;
    a.seen = [window](std::size_t t, std::size_t s, std::size_t, const Op&) { return s <= t && s + window > t; };
    add(fmt::format("a window of {}", window), ctx, attention(a), {"attention-window"});
  }
  {
    Attention a;
    a.masked = 0;
    add("masked scores of 0", ctx, attention(a), {"attention-mask-zero"});
  }
  {
    Attention a;
    a.kv = [](std::size_t h, const Config& c) { return h % c.n_kv_heads; };
    add("key and value heads in turn", ctx, attention(a), {"attention-head-map"});
    a.kv = [](std::size_t, const Config&) { return std::size_t{0}; };
    add("the first key and value head for all", ctx, attention(a), {"attention-head-map"});
  }
  {
    Attention a;
    a.bias = [](std::size_t t, std::size_t s, std::size_t h, const Config& c) {
      const double slope = std::pow(2.0, -8.0 / static_cast<double>(c.n_heads) * static_cast<double>(h + 1));
      return t < s ? 0 : -slope * static_cast<double>(t - s);
    };
    add("ALiBi besides the rotation", ctx, attention(a), {"attention-distance-bias"});
    a.seen = [](std::size_t, std::size_t, std::size_t, const Op&) { return true; };
    a.bias = [](std::size_t t, std::size_t s, std::size_t, const Config&) { return s > t ? -5.0 : 0.0; };
    add("a mask of -5", ctx, attention(a), {"attention-mask-weak"});
  }
  {
    Attention a;
    a.components = [](std::size_t d) { return d / 2; };
    add("scores of half a head", ctx, attention(a), {"attention-part-of-head"});
  }
  {
    Attention a;
    a.weights = [](std::vector<double>& p) {
      for (double& v : p) v = std::exp(v);
    };
    add("weights that are not divided by their sum", ctx, attention(a), {"attention-softmax"});
    a.weights = [](std::vector<double>& p) {
      double sum = 0;
      for (double& v : p) sum += v = std::isinf(v) ? 0 : std::max(v, 0.0);
      for (double& v : p) v /= std::max(sum, 1e-9);
    };
    add("a rectifier for the softmax", ctx, attention(a), {"attention-softmax"});
  }
  add("attention's output as [head_dim, heads]", ctx, then([](Floats& y, std::size_t width, const Op& op) {
        const Floats right = y;
        const std::size_t d = op.config.head_dim, n = width / d;
        for (std::size_t i = 0; i < y.size(); ++i) y[i / width * width + i % d * n + i % width / d] = right[i];
      }),
      {"attention-head-order"});
  add("queries before their rotation", ctx, with([](const Engine& e, Op& op) {
        const std::string norm = blk(op.layer, "attn_q_norm");
        op.x = e.value(e.value(norm, op.step).empty() ? blk(op.layer, "attn_q") : norm, op.step);
      }),
      {"attention-other-values"});
  add("keys for values", ctx, with([](const Engine&, Op& op) { op.values = op.keys; }), {"attention-other-values"});
  add("the cache of the layer before", ctx, with([](const Engine& e, Op& op) {
        if (op.layer == 0) return;
        std::tie(op.keys, op.values) = e.cache(op.layer - 1);
      }),
      {"cache-other-layer"});
  add("the cache one position off", ctx, with([](const Engine&, Op& op) {
        const auto width = static_cast<std::ptrdiff_t>(op.config.n_kv_heads * op.config.head_dim);
        std::rotate(op.keys.begin(), op.keys.end() - width, op.keys.end());
        std::rotate(op.values.begin(), op.values.end() - width, op.values.end());
      }),
      {"cache-position"});
  add("the cache cleared before the step", ctx,
      masked([](std::size_t t, std::size_t s, std::size_t, const Op& op) { return s <= t && s >= op.position; }),
      {"cache-lost", "attention-window"});
  add("the step's keys and values in the slot before", ctx,
      [](const Engine& e, Op op) {
        if (op.step == 0) return Floats();
        const auto width = static_cast<std::ptrdiff_t>(op.config.n_kv_heads * op.config.head_dim);
        for (Floats* of : {&op.keys, &op.values}) {
          std::copy(of->end() - width, of->end(), of->end() - 2 * width);
          of->resize(of->size() - static_cast<std::size_t>(width));
        }
        op.position -= 1;
        return e.plain(op);
      },
      {"cache-slot"});

  // Feed-forward.
  const Names act{"ffn_act"};
  add("GELU by tanh", act, activation([](double g, double u) {
        return 0.5 * g * (1 + std::tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) * u;
      }),
      {"activation-other"});
  add("GELU by erf", act, activation([](double g, double u) { return 0.5 * g * (1 + std::erf(g / std::sqrt(2.0))) * u; }),
      {"activation-other"});
  add("quick GELU", act, activation([](double g, double u) { return g / (1 + std::exp(-1.702 * g)) * u; }),
      {"activation-other"});
  add("ReLU", act, activation([](double g, double u) { return std::max(g, 0.0) * u; }), {"activation-other"});
  add("a sigmoid without its factor", act, activation([](double g, double u) { return 1 / (1 + std::exp(-g)) * u; }),
      {"activation-other"});
  add("no activation", act, activation([](double g, double u) { return g * u; }), {"activation-missing"});
  add("gate and up exchanged", act, activation([](double g, double u) { return u / (1 + std::exp(-u)) * g; }),
      {"gate-up-exchanged"});
  add("SiLU of the product", act, activation([](double g, double u) { return g * u / (1 + std::exp(-g * u)); }),
      {"activation-on-product"});
  add("up left out", act, activation([](double g, double) { return g / (1 + std::exp(-g)); }), {"gate-or-up-missing"});
  add("up added", act, activation([](double g, double u) { return g / (1 + std::exp(-g)) + u; }), {"gate-or-up-missing"});

  // Residuals.
  const Names adds{"attn_resid", "output"};
  add("no residual", adds, [](const Engine&, const Op& op) { return op.other; }, {"residual-missing", "buffer-aliased"});
  add("no branch", adds, [](const Engine&, const Op& op) { return op.x; }, {"branch-missing", "buffer-aliased"});
  add("the residual after the norm", adds, with([](const Engine& e, Op& op) {
        op.x = e.value(blk(op.layer, op.role == "output" ? "ffn_norm" : "attn_norm"), op.step);
      }),
      {"residual-from-elsewhere"});
  add("the residual from before attention", {"output"}, with([](const Engine& e, Op& op) {
        op.x = op.layer == 0 ? e.value("token_embd", op.step) : e.value(blk(op.layer - 1, "output"), op.step);
      }),
      {"residual-from-elsewhere"});
  add("the branch twice", adds, with([](const Engine&, Op& op) {
        for (float& v : op.other) v *= 2;
      }),
      {"residual-weighed"});
  add("the sum halved", adds, each([](float v) { return v / 2; }), {"residual-weighed", "value-scaled"});

  // Quantization.
  add("Q8_0's bytes as unsigned", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return half(raw, b * 34) * static_cast<float>(byte(raw, b * 34 + 2 + i));
      }),
      {"quant-signedness"});
  add("Q8_0's scale as bfloat16", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return bf16_to_f32(half_bits(raw, b * 34)) *
               static_cast<float>(static_cast<std::int8_t>(byte(raw, b * 34 + 2 + i)));
      }),
      {"quant-scale-type"});
  add("Q8_0's scale of the block after", products, q8_0([](auto raw, std::size_t b, std::size_t n, std::size_t i) {
        return half(raw, (b + 1) % n * 34) * static_cast<float>(static_cast<std::int8_t>(byte(raw, b * 34 + 2 + i)));
      }),
      {"quant-neighbour-scale"});
  add("Q8_0's blocks in pairs exchanged", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return half(raw, (b ^ 1) * 34) * static_cast<float>(static_cast<std::int8_t>(byte(raw, (b ^ 1) * 34 + 2 + i)));
      }),
      {"quant-block-order"});
  add("half of each Q8_0 block decoded", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return i >= 16 ? 0 : half(raw, b * 34) * static_cast<float>(static_cast<std::int8_t>(byte(raw, b * 34 + 2 + i)));
      }),
      {"quant-part-decoded"});
  add("Q4_K's nibbles as neighbours", products, q4_k({.interleaved = true}), {"quant-nibble-order"});
  add("Q4_K without minimum", products, q4_k({.no_minimum = true}), {"quant-minimum"});
  add("Q4_K's minimum added", products, q4_k({.add_minimum = true}), {"quant-minimum"});
  add("Q4_K's scales not unpacked", products, q4_k({.plain_scales = true}), {"quant-packed-scales"});
  add("Q4_K's scale as bfloat16", products, q4_k({.bf16_scale = true}), {"quant-scale-type"});
  add("Q4_K's scale of the block after", products, q4_k({.next_scale = true}), {"quant-neighbour-scale"});
  add("8 taken from Q4_K's numbers", products, q4_k({.offset = true}), {"quant-offset"});
  // The canary's rows are one block, half of which is half of the inputs.
  add("half of each Q4_K block decoded", products, q4_k({.half = true}), {"quant-part-decoded", "product-part-of-sum"});
  add("Q6_K's high bits left out", products, q6_k({.no_high = true}), {"quant-high-bits"});
  add("Q6_K's high bits in another order", products, q6_k({.high_swapped = true}), {"quant-high-bits"});
  add("32 not taken from Q6_K's numbers", products, q6_k({.no_offset = true}), {"quant-offset"});
  add("Q6_K's scales as unsigned", products, q6_k({.unsigned_scales = true}), {"quant-signedness"});

  // Precision.
  add("results truncated to bfloat16", {"attn_q", "ffn_down", "attn_ctx"}, each(cut_to_bf16), {"precision-truncated"});
  add("results rounded to bfloat16", {"attn_v", "ffn_up", "output"}, each(bf16), {"precision-rounded"});
  add("the weight kept in bfloat16", {"attn_k", "ffn_down"}, weights([](const Op& op) {
        Floats w = op.w.data;
        for (float& v : w) v = bf16(v);
        return w;
      }),
      {"weight-converted"});
  for (const float limit : {0.5f, 2.5f}) {
    add(fmt::format("results held at {}", limit), any, then([limit](Floats& y, std::size_t, const Op&) {
          for (float& v : y) v = std::clamp(v, -limit, limit);
        }),
        {"value-clamped", "activation-clamped"});
  }
  add("the sign lost", {"attn_q", "ffn_down"}, each([](float v) { return -v; }), {"value-negated"});
  add("scaled by 1.05", any, each([](float v) { return 1.05f * v; }),
      {"value-scaled", "embedding-scale", "residual-weighed"});
  add("0.1 added", {"attn_norm", "attn_v", "attn_ctx", "ffn_down"}, each([](float v) { return v + 0.1f; }),
      {"value-offset"});

  // Buffers.
  add("nothing written", any, each([](float) { return 0.0f; }), {"buffer-zero"});
  add("the last columns not written", any, then([](Floats& y, std::size_t width, const Op&) {
        for (std::size_t i = 0; i < y.size(); ++i) y[i] = i % width >= width - width / 8 ? 0 : y[i];
      }),
      {"buffer-partly-written"});
  add("the last row not written", any, then([](Floats& y, std::size_t width, const Op& op) {
        if (op.rows > 1) std::fill(y.end() - static_cast<std::ptrdiff_t>(width), y.end(), 0.0f);
      }),
      {"buffer-partly-written"});
  add("a part that is no number", {"attn_v", "ffn_act"}, then([](Floats& y, std::size_t width, const Op&) {
        for (std::size_t i = 0; i < y.size(); ++i) {
          if (i % width < 5) y[i] = std::numeric_limits<float>::quiet_NaN();
        }
      }),
      {"buffer-uninitialized"});
  add("rows shifted by one", any, then([](Floats& y, std::size_t width, const Op&) {
        std::rotate(y.begin(), y.end() - static_cast<std::ptrdiff_t>(width), y.end());
      }),
      {"buffer-row-shifted", "embedding-other-tokens"});
  add("columns shifted by two", any, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t) {
          const auto row = y.begin() + static_cast<std::ptrdiff_t>(t * width);
          std::rotate(row, row + 2, row + static_cast<std::ptrdiff_t>(width));
        }
      }),
      {"buffer-column-shifted"});
  add("the layer before's output", {"attn_v", "ffn_act", "attn_ctx", "ffn_norm"},
      [](const Engine& e, const Op& op) { return op.layer == 0 ? Floats() : e.value(blk(op.layer - 1, op.role), op.step); },
      {"buffer-stale"});
  add("the prompt's output in all later steps", {"attn_v", "ffn_act", "attn_ctx", "ffn_norm"},
      [](const Engine& e, const Op& op) {
        Floats y = e.value(blk(op.layer, op.role), 0);
        if (op.step == 0 || y.empty()) return Floats();
        y.resize(e.plain(op).size());
        return y;
      },
      {"buffer-stale"});
  add("another op's output", {"ffn_down", "attn_out"},
      [](const Engine& e, const Op& op) {
        return e.value(blk(op.layer, op.role == "ffn_down" ? "ffn_norm" : "attn_norm"), op.step);
      },
      {"buffer-aliased"});

  // What no catalogue has.
  add("each row sorted", {"attn_v", "ffn_down"}, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t) {
          const auto row = y.begin() + static_cast<std::ptrdiff_t>(t * width);
          std::sort(row, row + static_cast<std::ptrdiff_t>(width));
        }
      }),
      {});
  add("a wave over the columns", {"attn_norm", "ffn_act", "attn_q"}, then([](Floats& y, std::size_t width, const Op&) {
        for (std::size_t i = 0; i < y.size(); ++i) y[i] *= 1 + 0.3f * std::sin(static_cast<float>(i % width) / 7);
      }),
      {});
  add("noise", {"attn_k", "output", "ffn_gate"}, then([](Floats& y, std::size_t, const Op&) {
        std::uint32_t state = 1;
        for (float& v : y) {
          state = state * 1664525u + 1013904223u;
          v *= 1 + 0.05f * (static_cast<float>(state >> 8) / 8388608.0f - 1);
        }
      }),
      {});

  // Norms, once more.
  add("the norm of what attention read", {"ffn_norm"}, with([](const Engine& e, Op& op) {
        op.x = op.layer == 0 ? e.value("token_embd", op.step) : e.value(blk(op.layer - 1, "output"), op.step);
      }),
      {"norm-other-input"});
  add("the last norm of what the feed-forward read", {"output_norm"},
      with([](const Engine& e, Op& op) { op.x = e.value(blk(e.config().n_layers - 1, "attn_resid"), op.step); }),
      {"norm-other-input"});
  add("the first token's root mean square for all", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t n = op.w.data.size();
        double squares = 0;
        for (std::size_t i = 0; i < n; ++i) squares += double{op.x[i]} * op.x[i];
        for (std::size_t i = 0; i < y.size(); ++i)
          y[i] =
              static_cast<float>(op.x[i] * op.w.data[i % n] / std::sqrt(squares / static_cast<double>(n) + op.config.eps));
        return y;
      },
      {"norm-other-factor"});
  add("half of the squares summed, all counted", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t n = op.w.data.size();
        for (std::size_t t = 0; t < op.rows; ++t) {
          double squares = 0;
          for (std::size_t i = 0; i < n; i += 2) squares += double{op.x[t * n + i]} * op.x[t * n + i];
          const double root = std::sqrt(squares / static_cast<double>(n) + op.config.eps);
          for (std::size_t i = 0; i < n; ++i) y[t * n + i] = static_cast<float>(op.x[t * n + i] / root * op.w.data[i]);
        }
        return y;
      },
      {"norm-part-of-row"});
  add("the mean of absolutes for its root", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t n = op.w.data.size();
        for (std::size_t t = 0; t < op.rows; ++t) {
          double sum = 0;
          for (std::size_t i = 0; i < n; ++i) sum += std::fabs(op.x[t * n + i]);
          for (std::size_t i = 0; i < n; ++i)
            y[t * n + i] = static_cast<float>(op.x[t * n + i] / (sum / static_cast<double>(n)) * op.w.data[i]);
        }
        return y;
      },
      {"norm-other-statistic"});
  add("a norm a group of threads", norms,
      [](const Engine& e, Op op) {
        const std::size_t n = op.w.data.size();
        Floats y;
        for (std::size_t start = 0; start < op.x.size(); start += 32) {
          Op of = op;
          of.x.assign(op.x.begin() + static_cast<std::ptrdiff_t>(start),
                      op.x.begin() + static_cast<std::ptrdiff_t>(start + 32));
          of.w.data.assign(op.w.data.begin() + static_cast<std::ptrdiff_t>(start % n),
                           op.w.data.begin() + static_cast<std::ptrdiff_t>(start % n + 32));
          const Floats part = e.plain(of);
          y.insert(y.end(), part.begin(), part.end());
        }
        return y;
      },
      {"norm-by-parts"});
  add("weighed, then normalised", norms,
      [](const Engine& e, Op op) {
        const std::size_t n = op.w.data.size();
        for (std::size_t i = 0; i < op.x.size(); ++i) op.x[i] *= op.w.data[i % n];
        std::fill(op.w.data.begin(), op.w.data.end(), 1.0f);
        return e.plain(op);
      },
      {"norm-weight-before"});

  // Logits.
  const Names head{"logits"};
  add("probabilities for logits", head, then([](Floats& y, std::size_t, const Op&) {
        double sum = 0;
        for (const float v : y) sum += std::exp(double{v});
        for (float& v : y) v = static_cast<float>(std::exp(double{v}) / sum);
      }),
      {"logits-postprocessed"});
  add("logits capped at 7", head, each([](float v) { return 7 * std::tanh(v / 7); }), {"logits-postprocessed"});
  add("a penalty for what was said", head,
      [](const Engine& e, const Op& op) {
        Floats y = e.plain(op);
        const std::size_t n = op.position + e.value("token_embd", op.step).size() / e.config().d;
        std::set<std::int32_t> said(e.tokens().begin(), e.tokens().begin() + static_cast<std::ptrdiff_t>(n));
        for (const std::int32_t id : said) {
          float& v = y[static_cast<std::size_t>(id)];
          v = v < 0 ? v * 1.2f : v / 1.2f;
        }
        return y;
      },
      {"logits-postprocessed"});
  add("all but the ten largest logits gone", head, then([](Floats& y, std::size_t, const Op&) {
        Floats by_size = y;
        std::sort(by_size.begin(), by_size.end());
        const float tenth = by_size[by_size.size() - 10];
        for (float& v : y) v = v < tenth ? -std::numeric_limits<float>::infinity() : v;
      }),
      {"logits-filtered"});
  add("three ids forbidden", head, then([](Floats& y, std::size_t, const Op&) {
        for (const std::size_t id : {0u, 3u, 7u}) y[id] = -1e9f;
      }),
      {"logits-filtered"});

  // Products, once more.
  add("the even inputs alone", products, with([](const Engine&, Op& op) {
        for (std::size_t i = 1; i < op.x.size(); i += 2) op.x[i] = 0;
      }),
      {"product-part-of-sum"});
  add("the first tile left out", products, with([](const Engine&, Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t) {
          for (std::size_t i = 0; i < 16; ++i) op.x[t * op.w.width + i] = 0;
        }
      }),
      {"product-part-of-sum"});
  add("the last tile twice", products, with([](const Engine&, Op& op) {
        for (std::size_t t = 1; t <= op.rows; ++t) {
          for (std::size_t i = 1; i <= 16; ++i) op.x[t * op.w.width - i] *= 2;
        }
      }),
      {"product-summed-twice"});
  add("heads of the context in reverse", {"attn_out"}, with([](const Engine&, Op& op) {
        const std::size_t d = op.config.head_dim, n = op.w.width;
        const Floats right = op.x;
        for (std::size_t t = 0; t < op.rows; ++t) {
          for (std::size_t h = 0; h < n / d; ++h)
            std::copy_n(right.begin() + static_cast<std::ptrdiff_t>(t * n + h * d), d,
                        op.x.begin() + static_cast<std::ptrdiff_t>((t + 1) * n - (h + 1) * d));
        }
      }),
      {"product-input-order"});
  add("eight weights too late", products, weights([](const Op& op) {
        Floats w(op.w.data.begin() + 8, op.w.data.end());
        w.resize(op.w.data.size());
        return w;
      }),
      {"weight-offset"});
  add("four rows too late", {"ffn_gate", "ffn_up", "attn_q", "ffn_down"}, weights([](const Op& op) {
        Floats w(op.w.data.begin() + static_cast<std::ptrdiff_t>(4 * op.w.width), op.w.data.end());
        for (std::size_t i = 0; w.size() < op.w.data.size(); ++i) w.push_back(op.w.data[i * 7 % op.w.width]);
        return w;
      }),
      {"weight-row-off-by-one"});
  const auto joined = [](const Engine& e, const Op& op, std::initializer_list<const char*> parts) {
    Matrix all;
    for (const char* const part : parts) {
      const Matrix& m = e.weight(blk(op.layer, fmt::format("{}.weight", part)));
      all.data.insert(all.data.end(), m.data.begin(), m.data.end());
      all.rows += m.rows;
    }
    return all;
  };
  add("Q, K and V thought equally long", {"attn_k", "attn_v"}, with([joined](const Engine& e, Op& op) {
        const Matrix all = joined(e, op, {"attn_q", "attn_k", "attn_v"});
        const std::size_t third = all.rows / 3 * (op.role == "attn_k" ? 1 : 2);
        for (std::size_t i = 0; i < op.w.data.size(); ++i) {
          const std::size_t from = third * op.w.width + i;
          op.w.data[i] = from < all.data.size() ? all.data[from] : 0;
        }
      }),
      {"weight-joined"});
  add("gate and up thought interleaved", {"ffn_gate", "ffn_up"}, with([joined](const Engine& e, Op& op) {
        const Matrix all = joined(e, op, {"ffn_gate", "ffn_up"});
        for (std::size_t o = 0; o < op.w.rows; ++o)
          std::copy_n(all.data.begin() + static_cast<std::ptrdiff_t>((2 * o + (op.role == "ffn_up" ? 1 : 0)) * op.w.width),
                      op.w.width, op.w.data.begin() + static_cast<std::ptrdiff_t>(o * op.w.width));
      }),
      {"weight-joined"});
  add("added to the step before's", {"attn_v", "ffn_down", "ffn_up"},
      [](const Engine& e, const Op& op) {
        Floats y = e.plain(op);
        const Floats before = op.step == 0 ? Floats() : e.value(blk(op.layer, op.role), op.step - 1);
        for (std::size_t i = 0; !before.empty() && i < y.size(); ++i) y[i] += before[before.size() - y.size() + i];
        return before.empty() ? before : y;
      },
      {"buffer-not-cleared"});
  add("up added to gate", {"ffn_up"},
      [](const Engine& e, const Op& op) {
        Floats y = e.plain(op);
        const Floats gate = e.value(blk(op.layer, "ffn_gate"), op.step);
        for (std::size_t i = 0; i < y.size(); ++i) y[i] += gate[i];
        return y;
      },
      {"buffer-not-cleared"});
  add("the bias of the first head for all", {"attn_q", "attn_k", "attn_v"}, with([](const Engine&, Op& op) {
        if (op.bias.data.empty()) op.rows = 0;
        for (std::size_t i = op.config.head_dim; i < op.bias.data.size(); ++i)
          op.bias.data[i] = op.bias.data[i - op.config.head_dim];
      }),
      {"bias-other"});

  // Quantization, once more.
  add("Q8_0's scales apart from its bytes", products, q8_0([](auto raw, std::size_t b, std::size_t n, std::size_t i) {
        return half(raw, 2 * b) * static_cast<float>(static_cast<std::int8_t>(byte(raw, 2 * n + 32 * b + i)));
      }),
      {"quant-planar"});
  add("a row's first Q8_0 scale for all", {"attn_q", "ffn_down"}, weights([](const Op& op) {
        if (op.w.format != quants::Format::q8_0) return Floats();
        Floats w(op.w.data.size());
        for (std::size_t i = 0; i < w.size(); ++i) {
          const std::size_t row = i / op.w.width * op.w.width / 32 * 34;
          w[i] =
              half(op.w.raw, row) * static_cast<float>(static_cast<std::int8_t>(byte(op.w.raw, i / 32 * 34 + 2 + i % 32)));
        }
        return w;
      }),
      {"quant-neighbour-scale"});
  add("halves of each Q8_0 block exchanged", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return half(raw, b * 34) * static_cast<float>(static_cast<std::int8_t>(byte(raw, b * 34 + 2 + (i + 16) % 32)));
      }),
      {"quant-block-order"});
  add("Q4_K's minimum of the sub-block before", products, q4_k({.minimum_before = true}), {"quant-packed-scales"});
  add("Q4_K's first scales with the bits of the last", products, q4_k({.unmasked = true}), {"quant-packed-scales"});
  add("Q6_K's scale of the sub-block before", products, q6_k({.scale_before = true}), {"quant-neighbour-scale"});
  add("Q6_K's nibbles as Q4_K's", products, q6_k({.as_q4_k = true}), {"quant-nibble-order"});
  add("the second and third of Q6_K's pairs exchanged", products, q6_k({.pairs_exchanged = true}), {"quant-high-bits"});
  add("a file of eight bits in place of float32", products, weights([](const Op& op) {
        if (op.w.format != quants::Format::f32) return Floats();
        Floats w = op.w.data;
        for (std::size_t b = 0; b < w.size(); b += 32) {
          float largest = 0;
          for (std::size_t i = b; i < b + 32; ++i) largest = std::max(largest, std::fabs(w[i]));
          const float exact = largest / 127, d = f16_to_f32(f32_to_f16(exact));
          for (std::size_t i = b; i < b + 32 && exact > 0; ++i) w[i] = std::round(w[i] / exact) * d;
        }
        return w;
      }),
      {"weight-requantized"});

  // Embedding and feed-forward, once more.
  add("the output's rows for the tokens", {"token_embd"},
      with([](const Engine& e, Op& op) { op.w = e.weight("output.weight"); }), {"embedding-other-table"});
  add("the table as [d, vocab]", {"token_embd"},
      [](const Engine&, const Op& op) {
        Floats y;
        for (const float id : op.x) {
          for (std::size_t i = 0; i < op.w.width; ++i) y.push_back(op.w.data[i * op.w.rows + static_cast<std::size_t>(id)]);
        }
        return y;
      },
      {"embedding-layout"});
  add("a norm behind the embedding", {"token_embd"}, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t) {
          double squares = op.config.eps * static_cast<double>(width);
          for (std::size_t i = 0; i < width; ++i) squares += double{y[t * width + i]} * y[t * width + i];
          for (std::size_t i = 0; i < width; ++i)
            y[t * width + i] /= static_cast<float>(std::sqrt(squares / static_cast<double>(width)));
        }
      }),
      {"embedding-normalized"});
  add("SiLU of SiLU", act, activation([](double g, double u) {
        const double once = g / (1 + std::exp(-g));
        return once / (1 + std::exp(-once)) * u;
      }),
      {"activation-other"});
  add("a logarithm for the rectifier", act, activation([](double g, double u) { return std::log(1 + std::exp(g)) * u; }),
      {"activation-other"});
  add("a steeper sigmoid", act, activation([](double g, double u) { return g / (1 + std::exp(-3 * g)) * u; }),
      {"activation-other"});
  add("gpt-oss's activation", act, activation([](double g, double u) {
        g = g > 7 ? 7 : g;
        return (std::min(std::max(u, -7.0), 7.0) + 1) * g / (1 + std::exp(-1.702 * g));
      }),
      {"activation-clamped"});
  add("no activation in the last columns", act, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t i = 0; i < y.size(); ++i) {
          if (i % width >= width / 2) y[i] = op.x[i] * op.other[i];
        }
      }),
      {"activation-missing"});
  add("the branch of the last token for all", adds, with([](const Engine&, Op& op) {
        const std::size_t width = op.x.size() / op.rows;
        for (std::size_t i = 0; i < op.other.size(); ++i) op.other[i] = op.other[op.other.size() - width + i % width];
      }),
      {"operands-misaligned"});
  add("up of the token before", act, with([](const Engine&, Op& op) {
        const auto width = static_cast<std::ptrdiff_t>(op.x.size() / op.rows);
        std::rotate(op.other.begin(), op.other.end() - width, op.other.end());
      }),
      {"operands-misaligned"});
  add("times for plus", adds,
      [](const Engine&, const Op& op) {
        Floats y = op.x;
        for (std::size_t i = 0; i < y.size(); ++i) y[i] *= op.other[i];
        return y;
      },
      {"residual-multiplied"});
  add("the branch not added in some columns", adds, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t i = 0; i < y.size(); ++i) {
          if (i % width >= 8 && i % width < 24) y[i] = op.x[i];
        }
      }),
      {"branch-missing"});
  add("the residual normalised in place", adds, with([](const Engine& e, Op& op) {
        Op norm = op;
        norm.role = "attn_norm";
        norm.w.data.assign(op.x.size() / op.rows, 1.0f);
        op.x = e.plain(norm);
      }),
      {"residual-normalized"});

  // Numbers and buffers.
  add("what is large overflows", {"attn_v", "ffn_down", "output"}, then([](Floats& y, std::size_t, const Op&) {
        float largest = 0;
        for (const float v : y) largest = std::max(largest, std::fabs(v));
        for (float& v : y) {
          if (std::fabs(v) > largest * 0.8f) v *= std::numeric_limits<float>::infinity();
        }
      }),
      {"precision-overflow"});
  add("a step's output a step late", {"attn_v", "ffn_act", "attn_ctx", "ffn_norm"},
      [](const Engine& e, const Op& op) { return op.step == 2 ? e.value(blk(op.layer, op.role), 1) : Floats(); },
      {"buffer-stale"});
  add("the last columns left from the step before", {"ffn_act", "attn_ctx", "ffn_down"},
      [](const Engine& e, const Op& op) {
        if (op.step == 0) return Floats();
        Floats y = e.plain(op);
        const Floats before = e.value(blk(op.layer, op.role), op.step - 1);
        for (std::size_t i = y.size() - y.size() / 4; i < y.size(); ++i) y[i] = before[before.size() - y.size() + i];
        return y;
      },
      {"buffer-partly-written"});
  add("tokens counted from the end", {"attn_v", "ffn_act", "ffn_norm", "attn_ctx"},
      then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t t = 0; 2 * t < op.rows; ++t) {
          for (std::size_t i = 0; i < width; ++i) std::swap(y[t * width + i], y[(op.rows - 1 - t) * width + i]);
        }
      }),
      {"buffer-rows-exchanged"});
  add("two tokens exchanged", {"attn_v", "ffn_act", "ffn_norm"}, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t i = 0; op.rows > 3 && i < width; ++i) std::swap(y[width + i], y[3 * width + i]);
      }),
      {"buffer-rows-exchanged"});
  add("columns counted from the end", {"ffn_down", "ffn_act"}, then([](Floats& y, std::size_t width, const Op&) {
        for (auto row = y.begin(); row != y.end(); row += static_cast<std::ptrdiff_t>(width))
          std::reverse(row, row + static_cast<std::ptrdiff_t>(width));
      }),
      {"buffer-columns-exchanged"});
  add("a tile written twice", {"ffn_down", "ffn_act", "attn_out"}, then([](Floats& y, std::size_t width, const Op&) {
        for (std::size_t i = 0; i < y.size(); ++i) {
          if (i % width >= width - 16) y[i] = y[i - 16];
        }
      }),
      {"buffer-columns-exchanged"});
  add("no number at all", any, each([](float) { return std::numeric_limits<float>::quiet_NaN(); }), {"value-not-a-number"});
  return f;
}

}  // namespace

const std::vector<Plant>& faults() {
  static const std::vector<Plant> all = make_faults();
  return all;
}

}  // namespace plumb::diagnose::planted
