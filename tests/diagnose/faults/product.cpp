// Products: the weight read in another way, a part of the sum, another input, the bias.
#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

namespace {

const Names all_products{"attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down", "logits"};
const Names heads{"attn_q", "attn_k"};

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

}  // namespace

void add_product_faults(const Add& add) {
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
  add("the bias of the first head for all", {"attn_q", "attn_k", "attn_v"}, with([](const Engine&, Op& op) {
        if (op.bias.data.empty()) op.rows = 0;
        for (std::size_t i = op.config.head_dim; i < op.bias.data.size(); ++i)
          op.bias.data[i] = op.bias.data[i - op.config.head_dim];
      }),
      {"bias-other"});
}

}  // namespace plumb::diagnose::planted
