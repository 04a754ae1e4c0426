// A llama with the mistakes of the bug report that Plumb began with. It makes one of them, or all together, and writes a
// trace of the run. docs/seed-replay.md tells the story; scripts/seed-replay runs it.
//
//   seed_replay MODEL.gguf MISTAKE PROMPT OUT.safetensors
//   seed_replay --unit-test
//
// Plumb's modules read the file and tokenize the text; the model itself is computed here, with plain loops.
#include <fmt/format.h>
#include <plumb/trace.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/file.h"
#include "quants/format.h"
#include "text/chat_template.h"
#include "text/tokenizer/tokenizer.h"

namespace {

using Floats = std::vector<float>;
using plumb::fail;
using plumb::Result;

struct Mistakes {
  bool weights_in_out = false;    // matrices are taken as [in, out]; GGUF has [out, in]
  bool newline_as_space = false;  // '\n' becomes U+2581 before the text is encoded
  bool other_template = false;    // turns are marked as Llama 2 does, whatever the file says
  bool lm_head_index = false;     // logit i is the product with row i + 1
  bool residual_clamp = false;    // the residual stream is held between -10 and 10
  bool rope_pairing = false;      // components (i, i + d/2) turn together; the file's rows are ordered for (2i, 2i+1)
};

constexpr std::pair<std::string_view, bool Mistakes::*> by_name[] = {
    {"weights-in-out", &Mistakes::weights_in_out}, {"newline-as-space", &Mistakes::newline_as_space},
    {"template", &Mistakes::other_template},       {"lm-head-index", &Mistakes::lm_head_index},
    {"residual-clamp", &Mistakes::residual_clamp}, {"rope-pairing", &Mistakes::rope_pairing}};

// The report's kernel: c [m, n] = a [m, k] x b [k, n], all row-major. The kernel itself is right.
void matmul_f32(const float* a, const float* b, float* c, std::size_t m, std::size_t n, std::size_t k) {
  for (std::size_t row = 0; row < m; ++row) {
    for (std::size_t col = 0; col < n; ++col) {
      float value = 0;
      for (std::size_t i = 0; i < k; ++i) value += a[row * k + i] * b[i * n + col];
      c[row * n + col] = value;
    }
  }
}

// The report's test of the kernel. It passes on the faulty engine: b stands here in the layout that the kernel wants, so
// the test shows only that the kernel multiplies. It does not test whether the file's weights have that layout.
int unit_test() {
  const float a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 2, 3, 4, 5, 6}, expected[] = {22, 28, 49, 64};
  float c[4] = {};
  matmul_f32(a, b, c, 2, 2, 3);
  bool passed = true;
  for (std::size_t i = 0; i < 4; ++i) {
    passed = passed && c[i] == expected[i];
    std::printf("   C[%zu]: got %f, expected %f\n", i, static_cast<double>(c[i]), static_cast<double>(expected[i]));
  }
  std::printf("matmul test %s\n", passed ? "PASSED" : "FAILED");
  return passed ? 0 : 1;
}

struct Matrix {
  Floats data;  // as the file has it, [rows, width]
  std::size_t rows = 0, width = 0;
};

class Engine {
 public:
  static Result<Engine> load(const plumb::gguf::File& file, Mistakes mistakes) {
    Engine engine;
    engine.mistakes_ = mistakes;
    PLUMB_TRY(const auto architecture, file.get_string("general.architecture"));
    if (architecture != "llama") return fail("{}: the replay runs llamas only, not '{}'", file.label(), architecture);
    const auto number = [&](std::string_view key) { return file.get_uint(fmt::format("llama.{}", key)); };
    PLUMB_TRY(engine.n_layers_, number("block_count"));
    PLUMB_TRY(engine.n_heads_, number("attention.head_count"));
    PLUMB_TRY(engine.n_kv_heads_, number("attention.head_count_kv"));
    PLUMB_TRY(engine.eps_, file.get_float("llama.attention.layer_norm_rms_epsilon"));
    PLUMB_TRY(engine.theta_, file.get_float("llama.rope.freq_base"));
    for (const plumb::gguf::Tensor& tensor : file.tensors()) {
      Matrix& matrix = engine.weights_[std::string(tensor.name)];
      matrix = {.data = Floats(tensor.n_elements()), .rows = tensor.n_rows(), .width = tensor.dims[0]};
      const plumb::quants::FormatInfo& format = plumb::quants::info(tensor.format);
      format.decode(tensor.data.data(), matrix.data.data(), matrix.data.size() / format.block_size);
    }
    if (!engine.weights_.contains("output.weight")) {
      engine.weights_["output.weight"] = engine.weights_["token_embd.weight"];
    }
    engine.head_dim_ = engine.weights_["blk.0.attn_q.weight"].rows / engine.n_heads_;
    return engine;
  }

  // Runs a step and adds its values to the trace. Returns the most likely next token.
  std::int32_t step(plumb_trace& trace, std::uint32_t step, std::span<const std::int32_t> tokens, std::size_t position) {
    const auto add = [&](const std::string& name, const Floats& x) {
      const std::size_t rows = name == "logits" ? 1 : tokens.size();
      plumb_trace_add(&trace, step, name.c_str(), PLUMB_TRACE_F32, rows, x.size() / rows, x.data());
    };
    const Matrix& embedding = weights_["token_embd.weight"];
    Floats x;
    for (const std::int32_t token : tokens) {
      const auto row =
          embedding.data.begin() + static_cast<std::ptrdiff_t>(embedding.width * static_cast<std::size_t>(token));
      x.insert(x.end(), row, row + static_cast<std::ptrdiff_t>(embedding.width));
    }
    add("token_embd", x);
    for (std::size_t layer = 0; layer < n_layers_; ++layer) {
      const std::string blk = fmt::format("blk.{}.", layer);
      const auto product = [&](const std::string& weight, const std::string& value, const Floats& in) {
        Floats out = multiply(weights_[blk + weight + ".weight"], in);
        add(blk + value, out);
        return out;
      };
      Floats h = norm(weights_[blk + "attn_norm.weight"], x);
      add(blk + "attn_norm", h);
      Floats q = product("attn_q", "attn_q", h);
      Floats k = product("attn_k", "attn_k", h);
      const Floats v = product("attn_v", "attn_v", h);
      rotate(q, n_heads_, position);
      add(blk + "attn_q_rope", q);
      rotate(k, n_kv_heads_, position);
      add(blk + "attn_k_rope", k);
      auto& [keys, values] = cache_[layer];
      keys.insert(keys.end(), k.begin(), k.end());
      values.insert(values.end(), v.begin(), v.end());
      const Floats ctx = attend(q, keys, values, position);
      add(blk + "attn_ctx", ctx);
      add_to_residual(x, product("attn_output", "attn_out", ctx));
      add(blk + "attn_resid", x);
      h = norm(weights_[blk + "ffn_norm.weight"], x);
      add(blk + "ffn_norm", h);
      Floats act = product("ffn_gate", "ffn_gate", h);
      const Floats up = product("ffn_up", "ffn_up", h);
      for (std::size_t i = 0; i < act.size(); ++i) act[i] = act[i] / (1 + std::exp(-act[i])) * up[i];
      add(blk + "ffn_act", act);
      add_to_residual(x, product("ffn_down", "ffn_down", act));
      add(blk + "output", x);
    }
    const Floats h = norm(weights_["output_norm.weight"], x);
    add("output_norm", h);
    const Floats logits = lm_head(h);
    add("logits", logits);
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

 private:
  [[nodiscard]] Floats multiply(const Matrix& w, const Floats& x) const {
    const std::size_t m = x.size() / w.width;
    Floats y(m * w.rows);
    if (mistakes_.weights_in_out) {
      matmul_f32(x.data(), w.data.data(), y.data(), m, w.rows, w.width);  // as the report's project called it
      return y;
    }
    for (std::size_t row = 0; row < m; ++row) {
      for (std::size_t col = 0; col < w.rows; ++col) {
        float value = 0;
        for (std::size_t i = 0; i < w.width; ++i) value += x[row * w.width + i] * w.data[col * w.width + i];
        y[row * w.rows + col] = value;
      }
    }
    return y;
  }

  [[nodiscard]] Floats norm(const Matrix& w, const Floats& x) const {
    Floats y(x.size());
    for (std::size_t row = 0; row < x.size(); row += w.width) {
      float squares = 0;
      for (std::size_t i = 0; i < w.width; ++i) squares += x[row + i] * x[row + i];
      const float scale = 1 / std::sqrt(squares / static_cast<float>(w.width) + static_cast<float>(eps_));
      for (std::size_t i = 0; i < w.width; ++i) y[row + i] = x[row + i] * scale * w.data[i];
    }
    return y;
  }

  void rotate(Floats& x, std::size_t n_heads, std::size_t position) const {
    const std::size_t half = head_dim_ / 2;
    for (std::size_t head = 0; head < x.size() / head_dim_; ++head) {
      const auto at = static_cast<double>(position + head / n_heads);
      for (std::size_t i = 0; i < half; ++i) {
        const double angle = at * std::pow(theta_, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim_));
        const float c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
        float& a = x[head * head_dim_ + (mistakes_.rope_pairing ? i : 2 * i)];
        float& b = x[head * head_dim_ + (mistakes_.rope_pairing ? i + half : 2 * i + 1)];
        const float turned = a * c - b * s;
        b = a * s + b * c;
        a = turned;
      }
    }
  }

  [[nodiscard]] Floats attend(const Floats& q, const Floats& keys, const Floats& values, std::size_t position) const {
    Floats y(q.size());
    for (std::size_t head = 0; head < q.size() / head_dim_; ++head) {
      const std::size_t n = position + head / n_heads_ + 1, kv = head % n_heads_ / (n_heads_ / n_kv_heads_);
      Floats weights(n);
      const auto cached = [&](const Floats& of, std::size_t s, std::size_t i) {
        return of[(s * n_kv_heads_ + kv) * head_dim_ + i];
      };
      float largest = -INFINITY, sum = 0;
      for (std::size_t s = 0; s < n; ++s) {
        for (std::size_t i = 0; i < head_dim_; ++i) weights[s] += q[head * head_dim_ + i] * cached(keys, s, i);
        weights[s] /= std::sqrt(static_cast<float>(head_dim_));
        largest = std::max(largest, weights[s]);
      }
      for (float& w : weights) sum += w = std::exp(w - largest);
      for (std::size_t s = 0; s < n; ++s) {
        for (std::size_t i = 0; i < head_dim_; ++i) y[head * head_dim_ + i] += weights[s] / sum * cached(values, s, i);
      }
    }
    return y;
  }

  void add_to_residual(Floats& x, const Floats& branch) const {
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] += branch[i];
      if (mistakes_.residual_clamp) x[i] = std::clamp(x[i], -10.0f, 10.0f);
    }
  }

  // The logits of the last row.
  [[nodiscard]] Floats lm_head(const Floats& h) const {
    const Matrix& w = weights_.at("output.weight");
    Floats y(w.rows);
    for (std::size_t id = 0; id < w.rows; ++id) {
      const std::size_t row = mistakes_.lm_head_index ? (id + 1) % w.rows : id;
      for (std::size_t i = 0; i < w.width; ++i) y[id] += h[h.size() - w.width + i] * w.data[row * w.width + i];
    }
    return y;
  }

  Mistakes mistakes_;
  std::uint64_t n_layers_ = 0, n_heads_ = 0, n_kv_heads_ = 0, head_dim_ = 0;
  double eps_ = 0, theta_ = 0;
  std::map<std::string, Matrix> weights_;
  std::map<std::size_t, std::pair<Floats, Floats>> cache_;
};

Result<std::vector<std::int32_t>> tokens_of(const plumb::gguf::File& file, std::string text, const Mistakes& mistakes) {
  PLUMB_TRY(const auto tokenizer, plumb::text::Tokenizer::load(file));
  if (mistakes.other_template) {
    text = "[INST] " + text + " [/INST]";
  } else {
    PLUMB_TRY(const auto source, file.get_string("tokenizer.chat_template"));
    PLUMB_TRY(const auto chat_template, plumb::text::ChatTemplate::parse(source));
    const nlohmann::ordered_json messages = {{{"role", "user"}, {"content", text}}};
    PLUMB_TRY(text, plumb::text::render_chat(chat_template,
                                             {.messages = messages, .tools = {}, .bos_token = "<s>", .eos_token = "</s>"}));
  }
  if (mistakes.newline_as_space) {
    for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos;) text.replace(at, 1, "\xe2\x96\x81");
  }
  return tokenizer.encode(text, {.add_special = true, .parse_special = true});
}

Result<void> replay(const char* path, std::string_view mistake, const std::string& prompt, const char* out) {
  Mistakes mistakes;
  bool known = mistake == "none";
  for (const auto& [name, member] : by_name) {
    if (mistake != name && mistake != "all") continue;
    mistakes.*member = known = true;
  }
  if (!known) return fail("'{}' is none of the mistakes; scripts/seed-replay lists them", mistake);
  PLUMB_TRY(const auto file, plumb::gguf::File::open(path));
  PLUMB_TRY(auto engine, Engine::load(file, mistakes));
  PLUMB_TRY(std::vector<std::int32_t> tokens, tokens_of(file, prompt, mistakes));
  plumb_trace trace;
  plumb_trace_create(&trace, out, fmt::format("the seed's engine ({})", mistake).c_str(),
                     std::filesystem::path(path).filename().c_str());
  plumb_trace_prompt(&trace, prompt.data(), prompt.size());
  plumb_trace_tokens(&trace, tokens.data(), tokens.size());
  constexpr std::uint32_t n_steps = 3;
  std::size_t position = 0;
  for (std::uint32_t step = 0; step <= n_steps; ++step) {
    const std::int32_t next = engine.step(trace, step, tokens, position);
    position += tokens.size();
    tokens = {next};
    if (step < n_steps) plumb_trace_tokens(&trace, tokens.data(), 1);
    std::printf("%d%s", next, step < n_steps ? " " : "\n");
  }
  if (!plumb_trace_finish(&trace)) return fail("{}", plumb_trace_error(&trace));
  return {};
}

}  // namespace

int main(int n_arguments, char** arguments) {
  if (n_arguments == 2 && std::string_view(arguments[1]) == "--unit-test") return unit_test();
  if (n_arguments != 5) {
    std::fputs("usage: seed_replay MODEL.gguf MISTAKE PROMPT OUT.safetensors, or seed_replay --unit-test\n", stderr);
    return 2;
  }
  const auto done = replay(arguments[1], arguments[2], arguments[3], arguments[4]);
  if (!done) std::fprintf(stderr, "seed_replay: %s\n", done.error().message.c_str());
  return done ? 0 : 2;
}
