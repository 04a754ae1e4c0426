#include "diagnose/faulty_engine.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numbers>
#include <numeric>

#include "plumb/trace.h"

namespace plumb::diagnose::planted {

namespace {

double difference(const Floats& a, const Floats& b) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(b[i])) continue;  // nothing is known about a result of NaN or infinite inputs
    const double d = double{a[i]} - b[i];
    if (!std::isfinite(d)) return 1;
    error += d * d;
    size += double{b[i]} * b[i];
  }
  return std::sqrt(error / std::max(size, 1e-30));
}

// The slopes of n heads by the code of ALiBi's authors (https://github.com/ofirpress/attention_with_linear_biases).
std::vector<double> alibi_slopes(std::size_t n, double max_bias) {
  std::vector<double> slopes;
  if ((n & (n - 1)) == 0) {
    const double start = std::pow(2.0, -max_bias / static_cast<double>(n));
    for (std::size_t i = 0; i < n; ++i) slopes.push_back(std::pow(start, static_cast<double>(i + 1)));
    return slopes;
  }
  std::size_t closest = 1;
  while (2 * closest < n) closest *= 2;
  slopes = alibi_slopes(closest, max_bias);
  const std::vector<double> more = alibi_slopes(2 * closest, max_bias);
  for (std::size_t i = 0; slopes.size() < n; i += 2) slopes.push_back(more[i]);
  return slopes;
}

}  // namespace

bool Config::sees(std::size_t layer, std::size_t t, std::size_t s) const {
  const std::size_t window = windows.empty() ? 0 : windows[layer];
  if (causal && s > t) return false;
  if (window == 0) return true;
  if (chunked) return s / window == t / window;
  return causal ? s + window > t : 2 * (s > t ? s - t : t - s) <= window;
}

double Config::bias(std::size_t head, std::size_t t, std::size_t s) const {
  if (alibi_max_bias == 0) return 0;
  return alibi_slopes(n_heads, alibi_max_bias)[head] * (static_cast<double>(s) - static_cast<double>(t));
}

Floats multiply(const Floats& x, const Floats& w, std::size_t rows, std::size_t width) {
  const std::size_t out = w.size() / width;
  Floats y(rows * out);
  for (std::size_t t = 0; t < rows; ++t) {
    for (std::size_t o = 0; o < out; ++o) {
      // Several independent sums, as in real engines: a single sum would wait for each addition.
      std::array<float, 16> sums{};
      const float *a = &x[t * width], *b = &w[o * width];
      std::size_t i = 0;
      for (; i + sums.size() <= width; i += sums.size()) {
        for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += a[i + j] * b[i + j];
      }
      for (; i < width; ++i) sums[0] += a[i] * b[i];
      y[t * out + o] = std::accumulate(sums.begin(), sums.end(), 0.0f);
    }
  }
  return y;
}

Engine::Engine(const gguf::File& file, const Form& form) {
  const std::string arch(*file.get_string("general.architecture"));
  const auto number = [&](const char* key, std::size_t otherwise) {
    const auto found = file.get_uint(arch + "." + key);
    return found ? static_cast<std::size_t>(*found) : otherwise;
  };
  Config& c = config_;
  c.n_layers = number("block_count", 0);
  c.d = number("embedding_length", 0);
  c.n_heads = number("attention.head_count", 0);
  c.n_kv_heads = number("attention.head_count_kv", c.n_heads);
  c.head_dim = number("attention.key_length", c.d / c.n_heads);
  c.n_rot = number("rope.dimension_count", c.head_dim);
  c.gpt2 = arch == "gpt2";
  c.eps =
      file.get_float(arch + (c.gpt2 ? ".attention.layer_norm_epsilon" : ".attention.layer_norm_rms_epsilon")).value_or(0);
  c.theta = file.get_float(arch + ".rope.freq_base").value_or(10000);
  c.halves = arch != "llama";
  if (form) form(c);
  std::map<std::string, Matrix> weights;
  for (const gguf::Tensor& tensor : file.tensors()) {
    Matrix& m = weights[std::string(tensor.name)];
    m = {.data = Floats(tensor.n_elements()),
         .rows = tensor.n_rows(),
         .width = tensor.dims[0],
         .format = tensor.format,
         .raw = tensor.data};
    const quants::FormatInfo& format = quants::info(tensor.format);
    format.decode(tensor.data.data(), m.data.data(), m.data.size() / format.block_size);
  }
  for (std::size_t l = 0; c.gpt2 && l < c.n_layers; ++l) {
    for (const char* const kind : {"weight", "bias"}) {
      const Matrix all = weights.at(fmt::format("blk.{}.attn_qkv.{}", l, kind));
      for (std::size_t i = 0; i < 3; ++i) {
        Matrix part = all;
        part.data.assign(all.data.begin() + static_cast<std::ptrdiff_t>(i * all.data.size() / 3),
                         all.data.begin() + static_cast<std::ptrdiff_t>((i + 1) * all.data.size() / 3));
        (all.rows == 1 ? part.width : part.rows) /= 3;
        part.raw = all.raw.subspan(i * all.raw.size() / 3, all.raw.size() / 3);
        weights[fmt::format("blk.{}.attn_{}.{}", l, "qkv"[i], kind)] = std::move(part);
      }
    }
  }
  if (!weights.contains("output.weight")) weights["output.weight"] = weights["token_embd.weight"];
  weights_ = std::make_shared<const std::map<std::string, Matrix>>(std::move(weights));
}

Engine::Engine(const Engine& healthy, std::vector<Planted> planted)
    : config_(healthy.config_), weights_(healthy.weights_), healthy_(&healthy), planted_(std::move(planted)) {}

Floats Engine::value(const std::string& name, std::uint32_t step) const {
  const auto found = seen_.find({step, name});
  return found == seen_.end() ? Floats() : found->second;
}

Floats Engine::plain(const Op& op) const {
  const Config& c = op.config;
  const std::string& role = op.role;
  if (role == "token_embd" || role == "position_embd") {
    Floats y;
    for (const float id : op.x) {
      const auto row = op.w.data.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(id) * op.w.width);
      y.insert(y.end(), row, row + static_cast<std::ptrdiff_t>(op.w.width));
    }
    return y;
  }
  if (role.ends_with("_norm") && c.gpt2) {
    Floats y(op.x.size());
    const std::size_t n = op.w.data.size();
    for (std::size_t row = 0; row < y.size(); row += n) {
      double mean = 0, variance = 0;
      for (std::size_t i = 0; i < n; ++i) mean += op.x[row + i] / static_cast<double>(n);
      for (std::size_t i = 0; i < n; ++i)
        variance += (op.x[row + i] - mean) * (op.x[row + i] - mean) / static_cast<double>(n);
      for (std::size_t i = 0; i < n; ++i) {
        y[row + i] =
            static_cast<float>((op.x[row + i] - mean) / std::sqrt(variance + c.eps) * op.w.data[i] + op.bias.data[i]);
      }
    }
    return y;
  }
  if (role.ends_with("_norm")) {
    Floats y(op.x.size());
    const std::size_t n = op.w.data.size();
    for (std::size_t row = 0; row < y.size(); row += n) {
      double squares = 0;
      for (std::size_t i = 0; i < n; ++i) squares += double{op.x[row + i]} * op.x[row + i];
      const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + c.eps);
      for (std::size_t i = 0; i < n; ++i) y[row + i] = static_cast<float>(op.x[row + i] * scale * op.w.data[i]);
    }
    return y;
  }
  if (role.ends_with("_rope")) {
    Floats y = op.x;
    const std::size_t n_heads = y.size() / op.rows / c.head_dim;
    for (std::size_t h = 0; h < y.size() / c.head_dim; ++h) {
      for (std::size_t i = 0; i < c.n_rot / 2; ++i) {
        const double angle = static_cast<double>(op.position + h / n_heads) *
                             std::pow(c.theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.n_rot)) /
                             (c.factors.empty() ? 1.0 : double{c.factors[i]});
        float& a = y[h * c.head_dim + (c.halves ? i : 2 * i)];
        float& b = y[h * c.head_dim + (c.halves ? i + c.n_rot / 2 : 2 * i + 1)];
        const double x0 = a, x1 = b;
        a = static_cast<float>(x0 * std::cos(angle) - x1 * std::sin(angle));
        b = static_cast<float>(x0 * std::sin(angle) + x1 * std::cos(angle));
      }
    }
    return y;
  }
  if (role == "attn_ctx") {
    Floats y(op.x.size());
    const std::size_t kv_width = c.n_kv_heads * c.head_dim;
    for (std::size_t t = 0; t < op.rows; ++t) {
      for (std::size_t h = 0; h < c.n_heads; ++h) {
        const std::size_t n = op.position + op.rows, g = h / (c.n_heads / c.n_kv_heads);
        std::vector<double> p(n, -INFINITY);
        double largest = -INFINITY, sum = 0;
        for (std::size_t s = 0; s < n; ++s) {
          if (!c.sees(op.layer, op.position + t, s)) continue;
          p[s] = 0;
          for (std::size_t i = 0; i < c.head_dim; ++i) {
            p[s] += double{op.x[(t * c.n_heads + h) * c.head_dim + i]} * op.keys[s * kv_width + g * c.head_dim + i];
          }
          p[s] = p[s] / std::sqrt(static_cast<double>(c.head_dim)) + c.bias(h, op.position + t, s);
          largest = std::max(largest, p[s]);
        }
        for (double& v : p) sum += v = std::exp(v - largest);
        for (std::size_t i = 0; i < c.head_dim; ++i) {
          double mean = 0;
          for (std::size_t s = 0; s < n; ++s) mean += p[s] / sum * op.values[s * kv_width + g * c.head_dim + i];
          y[(t * c.n_heads + h) * c.head_dim + i] = static_cast<float>(mean);
        }
      }
    }
    return y;
  }
  if (role == "ffn_act" && c.gpt2) {
    Floats y = op.x;
    for (float& v : y) {
      v = static_cast<float>(0.5 * v * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v * v * v))));
    }
    return y;
  }
  if (role == "ffn_act") {
    Floats y = op.x;
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = y[i] / (1 + std::exp(-y[i])) * op.other[i];
    return y;
  }
  if (role == "attn_resid" || role == "output" || role == "embd") {
    Floats y = op.x;
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += op.other[i];
    return y;
  }
  Floats y = multiply(op.x, op.w.data, op.rows, op.w.width);
  for (std::size_t i = 0; !op.bias.data.empty() && i < y.size(); ++i) y[i] += op.bias.data[i % op.bias.data.size()];
  return y;
}

Floats Engine::op(Op op, const std::string& name) {
  op.config = config_;
  Floats y = healthy_ == nullptr || is_wrong_ ? plain(op) : healthy_->value(name, op.step);
  for (const Planted& p : planted_) {
    if (p.role != op.role || p.layer != op.layer || (op.step == 0 ? !p.prompt : !p.decode)) continue;
    Floats wrong = p.fault->make(*this, op);
    if (wrong.size() != y.size()) continue;  // the fault cannot be made here
    p.effect = std::max(p.effect, difference(wrong, y));
    is_wrong_ = is_wrong_ || wrong != y;
    y = std::move(wrong);
  }
  order_.emplace_back(name, std::pair(op.step, op.rows));
  return seen_[{op.step, name}] = y;
}

void Engine::run(const std::vector<std::int32_t>& tokens, std::size_t n_prompt, const std::filesystem::path& path,
                 std::uint32_t context) {
  tokens_ = tokens;
  plumb_trace trace;
  plumb_trace_create(&trace, path.c_str(), "a faulty engine", "test");
  plumb_trace_tokens(&trace, tokens.data(), tokens.size());
  if (context > 0) plumb_trace_set(&trace, "context", std::to_string(context).c_str());
  for (std::uint32_t step = 0; step <= tokens.size() - n_prompt; ++step) {
    const std::size_t first = step == 0 ? 0 : n_prompt + step - 1, rows = step == 0 ? n_prompt : 1;
    order_.clear();
    const auto make = [&](const std::string& role, std::size_t layer, const std::string& name, Floats x, Floats other = {},
                          const std::string& weight = "", std::size_t n_rows = 0) {
      Op next{.role = role, .layer = layer, .step = step, .position = first, .rows = n_rows == 0 ? rows : n_rows};
      next.x = std::move(x);
      next.other = std::move(other);
      if (!weight.empty()) next.w = this->weight(weight + ".weight");
      if (has_weight(weight + ".bias")) next.bias = this->weight(weight + ".bias");
      if (role == "attn_ctx")
        std::tie(next.keys, next.values) = cache_[config_.caches.empty() ? layer : config_.caches[layer]];
      return op(std::move(next), name);
    };
    Floats ids;
    for (std::size_t t = 0; t < rows; ++t) ids.push_back(static_cast<float>(tokens[first + t]));
    Floats x = make("token_embd", 0, "token_embd", ids, {}, "token_embd");
    if (config_.gpt2) {
      Floats positions(rows);
      std::iota(positions.begin(), positions.end(), static_cast<float>(first));
      x = make("embd", 0, "embd", x, make("position_embd", 0, "position_embd", positions, {}, "position_embd"));
    }
    for (std::size_t l = 0; l < config_.n_layers; ++l) {
      const std::string blk = fmt::format("blk.{}.", l);
      const auto of = [&](const std::string& role, Floats in, Floats other = {}, const std::string& weight = "") {
        return make(role, l, blk + role, std::move(in), std::move(other), weight.empty() ? "" : blk + weight);
      };
      Floats h = of("attn_norm", x, {}, "attn_norm");
      Floats q = of("attn_q", h, {}, "attn_q"), k = of("attn_k", h, {}, "attn_k");
      const Floats v = of("attn_v", h, {}, "attn_v");
      if (has_weight(blk + "attn_q_norm.weight")) {
        q = of("attn_q_norm", q, {}, "attn_q_norm");
        k = of("attn_k_norm", k, {}, "attn_k_norm");
      }
      if (!config_.gpt2) {
        q = of("attn_q_rope", q);
        k = of("attn_k_rope", k);
      }
      auto& [keys, values] = cache_[l];
      keys.insert(keys.end(), k.begin(), k.end());
      values.insert(values.end(), v.begin(), v.end());
      const Floats ctx = of("attn_ctx", q);
      x = of("attn_resid", x, of("attn_out", ctx, {}, "attn_output"));
      h = of("ffn_norm", x, {}, "ffn_norm");
      const Floats gate = config_.gpt2 ? Floats() : of("ffn_gate", h, {}, "ffn_gate"), up = of("ffn_up", h, {}, "ffn_up");
      const Floats act = config_.gpt2 ? of("ffn_act", up) : of("ffn_act", gate, up);
      x = of("output", x, of("ffn_down", act, {}, "ffn_down"));
    }
    const Floats h = make("output_norm", 0, "output_norm", x, {}, "output_norm");
    make("logits", 0, "logits", Floats(h.end() - static_cast<std::ptrdiff_t>(config_.d), h.end()), {}, "output", 1);
    for (const auto& [name, at] : order_) {
      const Floats& value = seen_[{step, name}];
      plumb_trace_add(&trace, step, name.c_str(), PLUMB_TRACE_F32, at.second, value.size() / at.second, value.data());
    }
  }
  EXPECT_TRUE(plumb_trace_finish(&trace)) << plumb_trace_error(&trace);
}

}  // namespace plumb::diagnose::planted
