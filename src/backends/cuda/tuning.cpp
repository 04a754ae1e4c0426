#include "backends/cuda/tuning.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "backends/cuda/kernels.h"
#include "backends/gpu/operations.h"

namespace plumb::backends::cuda {

namespace {

using gpu::Launches;
using gpu::StepContext;
using gpu::View;
using gpu::WeightView;
using plan::ValueId;

// Rows of fewer elements are left to the shared kernels, as are prompts of fewer tokens.
constexpr std::uint32_t least_prompt = gpu::most_vector_rows + 1;

class CudaTuning final : public Tuning {
 public:
  CudaTuning(gpu::Device& device, std::function<std::byte*(const View&)> address, std::unique_ptr<CublasLt> cublas)
      : device_(device), address_(std::move(address)), cublas_(std::move(cublas)) {}

  Result<bool> prepare(const StepContext& step) override {
    if (readers_.empty()) count_readers(step.plan());
    converted_.reset();
    rounded_.reset();
    halved_.reset();
    std::uint64_t widest = 0, largest_weight = 0;
    for (const plan::Op& op : step.plan().ops) {
      const auto* linear = std::get_if<plan::Linear>(&op);
      if (linear == nullptr) continue;
      const WeightView& w = step.weight(linear->weight);
      widest = std::max<std::uint64_t>(widest, w.n_in);
      if (by_halves(step, *linear) && w.format != quants::Format::f16) {
        largest_weight = std::max(largest_weight, std::uint64_t{w.n_in} * w.n_out * 2);
      }
    }
    bool moved = false;
    PLUMB_CHECK(reserve_few_rows(step, moved));
    std::uint64_t partial = 0;
    for (const plan::Op& op : step.plan().ops) {
      const auto* attention = std::get_if<plan::Attention>(&op);
      if (attention == nullptr || !decode_attention_takes(attention->head_dim)) continue;
      const std::uint32_t n_rows = n_decoded(step);
      partial = std::max(partial, gpu::attention_partial_bytes(*attention, n_rows, splits(step, *attention, n_rows)));
    }
    PLUMB_CHECK(grow(partial_, partial, moved));
    PLUMB_CHECK(grow(words_, rounded_words_bytes(static_cast<unsigned>(widest)), moved));
    PLUMB_CHECK(grow(scales_, rounded_scales_bytes(static_cast<unsigned>(widest)), moved));
    if (step.n_tokens() >= least_prompt && cublas_) {
      PLUMB_CHECK(grow(half_x_, widest * step.n_tokens() * 2, moved));
      PLUMB_CHECK(grow(half_w_, largest_weight, moved));
      PLUMB_CHECK(grow(range_, 256, moved));
    }
    return moved;
  }

  std::size_t emit(const StepContext& step, std::size_t op, Launches& to) override {
    return std::visit([&](const auto& o) { return emit_op(step, op, o, to); }, step.plan().ops[op]);
  }

 private:
  template <class Op>
  std::size_t emit_op(const StepContext&, std::size_t, const Op&, Launches&) {
    return 0;
  }

  std::size_t emit_op(const StepContext& step, std::size_t op, const plan::Norm& norm, Launches& to) {
    const WeightView& weight = step.weight(norm.weight);
    const auto width = static_cast<unsigned>(step.plan().value(norm.x).width);
    const std::uint32_t n_rows = step.n_rows(norm.out);
    if (n_rows > most_few_rows || weight.n_in != width || width % 32 != 0) return 0;
    std::vector<const plan::Linear*> linears;
    for (std::size_t i = op + 1; i < step.plan().ops.size(); ++i) {
      const auto* linear = std::get_if<plan::Linear>(&step.plan().ops[i]);
      if (linear == nullptr || linear->x != norm.out) break;
      linears.push_back(linear);
    }
    if (linears.empty()) return 0;
    const float* x = floats(step.value(norm.x));
    float* y = floats(step.value(norm.out));
    const float* w = floats(weight.view);
    const bool on_the_way = n_rows == 1 && readers_[norm.out.index] == linears.size() &&
                            std::none_of(linears.begin(), linears.end(), [&](const plan::Linear* linear) {
                              return takes_rounded(static_cast<unsigned>(step.weight(linear->weight).format));
                            });
    if (on_the_way) {
      norm_ = &norm;
    } else if (n_rows > 1) {
      const auto takes_all_rows = [&](const plan::Linear* linear) {
        return by_few_rows(step, *linear) && step.n_rows(linear->out) == n_rows;
      };
      if (!std::all_of(linears.begin(), linears.end(), takes_all_rows)) return 0;
      add(to, "norm_rows_to_half", [=, halves = halves(), eps = norm.eps](cudaStream_t stream) {
        return norm_rows_to_half(x, w, width, n_rows, eps, y, halves, stream);
      });
      halved_ = norm.out;
    } else {
      rounded_.reset();
      add(to, "norm_round", [=, rounded = rounded(), eps = norm.eps](cudaStream_t stream) {
        return norm_round(x, w, width, eps, y, rounded, stream);
      });
    }
    if (linears.size() == 2 && op + 3 < step.plan().ops.size()) {
      const auto* gated = std::get_if<plan::Activate>(&step.plan().ops[op + 3]);
      const bool same = step.weight(linears[0]->weight).format == step.weight(linears[1]->weight).format;
      if (gated != nullptr && gated->gate == linears[0]->out && gated->up == linears[1]->out && same &&
          readers_[gated->gate.index] == 1 && readers_[gated->up.index] == 1) {
        Products products = products_of(step, *linears[0]);
        products.product[0].y = floats(step.value(gated->out));
        products.product[1] = product_of(step, *linears[1]);
        products.n_products = 2;
        products.gated = true;
        products.activation = static_cast<unsigned>(gated->activation);
        add_products(to, step, *linears[0], products);
        norm_ = nullptr;
        return 4;
      }
    }
    // Weights of one format share a launch.
    std::vector<bool> done(linears.size());
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (done[i]) continue;
      Products products = products_of(step, *linears[i]);
      for (std::size_t j = i + 1; j < linears.size() && products.n_products < max_products; ++j) {
        if (done[j] || step.weight(linears[j]->weight).format != step.weight(linears[i]->weight).format) continue;
        products.product[products.n_products++] = product_of(step, *linears[j]);
        done[j] = true;
      }
      add_products(to, step, *linears[i], products);
    }
    norm_ = nullptr;
    return 1 + linears.size();
  }

  std::size_t emit_op(const StepContext& step, std::size_t op, const plan::Linear& linear, Launches& to) {
    const WeightView& w = step.weight(linear.weight);
    if (by_halves(step, linear)) {
      emit_product_of_halves(step, linear, to);
      return 1;
    }
    const std::uint32_t n_rows = step.n_rows(linear.out);
    const bool few = by_few_rows(step, linear);
    if (!few && (n_rows != 1 || w.n_in % 32 != 0)) return 0;
    Products products = products_of(step, linear);
    std::size_t covered = 1;
    if (op + 1 < step.plan().ops.size()) {
      const auto* sum = std::get_if<plan::Add>(&step.plan().ops[op + 1]);
      if (sum != nullptr && (sum->a == linear.out) != (sum->b == linear.out) && readers_[linear.out.index] == 1) {
        products.product[0].residual = floats(step.value(sum->a == linear.out ? sum->b : sum->a));
        products.product[0].y = floats(step.value(sum->out));
        covered = 2;
      }
    }
    const float* x = x_of(step, linear);
    if (few && halved_ != linear.x) {
      add(to, "rows_to_half",
          [=, n = w.n_in, halves = halves()](cudaStream_t stream) { return rows_to_half(x, n, n_rows, halves, stream); });
      halved_.reset();
      if (step.n_rows(linear.x) == n_rows) halved_ = linear.x;
    } else if (!few && takes_rounded(products.format) && rounded_ != linear.x) {
      add(to, "round_row",
          [=, n = w.n_in, rounded = rounded()](cudaStream_t stream) { return round_row(x, n, rounded, stream); });
    }
    rounded_.reset();
    add_products(to, step, linear, products);
    return covered;
  }

  std::size_t emit_op(const StepContext& step, std::size_t op, const plan::Rope& q, Launches& to) {
    const auto& ops = step.plan().ops;
    if (op + 2 >= ops.size()) return 0;
    const auto* k = std::get_if<plan::Rope>(&ops[op + 1]);
    const auto* write = std::get_if<plan::KvWrite>(&ops[op + 2]);
    if (k == nullptr || write == nullptr || write->k != k->out || readers_[k->out.index] != 1 ||
        k->head_dim != q.head_dim || k->n_rot != q.n_rot || k->pairing != q.pairing || q.head_dim % 2 != 0 ||
        step.plan().value(k->x).width != std::uint64_t{step.plan().cache.n_kv_heads} * q.head_dim) {
      return 0;
    }
    const gpu::CacheView cache = step.cache(write->layer);
    RopeWrite a;
    a.slots = numbers(step.row_places().slots);
    a.positions = numbers(step.row_places().positions);
    a.n_rows = step.n_tokens();
    a.q_turns = reinterpret_cast<const float4*>(address_(step.turns(op)));
    a.k_turns = reinterpret_cast<const float4*>(address_(step.turns(op + 1)));
    a.q = floats(step.value(q.x));
    a.k = floats(step.value(k->x));
    a.v = floats(step.value(write->v));
    a.q_out = floats(step.value(q.out));
    a.keys = address_(cache.keys);
    a.values = address_(cache.values);
    a.n_heads = static_cast<unsigned>(step.plan().value(q.x).width / q.head_dim);
    a.n_kv_heads = step.plan().cache.n_kv_heads;
    a.head_dim = q.head_dim;
    a.n_rot = q.n_rot;
    a.capacity = cache.capacity;
    a.halves = q.pairing == plan::RopePairing::halves;
    a.f16 = cache.type == KvType::f16;
    add(to, "rope_write", [a](cudaStream_t stream) { return rope_write(a, stream); });
    return 3;
  }

  // Long runs of a sequence's tokens go through tensor cores; the others one by one, those beside each other in one launch.
  std::size_t emit_op(const StepContext& step, std::size_t, const plan::Attention& op, Launches& to) {
    if (step.cache(op.layer).type != KvType::f16 || op.soft_cap > 0 || op.sinks) return 0;
    const auto takes = [&](const Run& run) {
      return is_prompt(run) ? prompt_attention_takes(op.head_dim) : decode_attention_takes(op.head_dim);
    };
    const std::vector<Run>& runs = step.batch().runs;
    if (!std::all_of(runs.begin(), runs.end(), takes)) return 0;
    for (auto run = runs.begin(); run != runs.end();) {
      Run rows = *run++;
      if (is_prompt(rows)) {
        PromptAttention a;
        fill(a, step, op, rows);
        a.y = row(step, op.out, rows.begin);
        add(to, "prompt_attention", [a](cudaStream_t stream) { return prompt_attention(a, stream); });
        continue;
      }
      for (; run != runs.end() && !is_prompt(*run); ++run) rows.end = run->end;
      DecodeAttention a;
      fill(a, step, op, rows);
      a.partial = floats(whole(partial_));
      a.n_splits = splits(step, op, n_decoded(step));
      a.y = row(step, op.out, rows.begin);
      if (step.n_tokens() == 1) {
        a.rounded = rounded();
        rounded_ = op.out;
      }
      add(to, "decode_attention", [a](cudaStream_t stream) { return decode_attention(a, stream); });
      add(to, "attention_merge_round", [a](cudaStream_t stream) { return attention_merge_round(a, stream); });
    }
    return 1;
  }

  static bool is_prompt(const Run& run) { return run.n() >= least_prompt; }
  // Rows that attention takes one by one, at most so many in a launch.
  static std::uint32_t n_decoded(const StepContext& step) {
    std::uint32_t n = 0;
    for (const Run& run : step.batch().runs) n += is_prompt(run) ? 0 : run.n();
    return n;
  }

  void fill(CacheAttention& a, const StepContext& step, const plan::Attention& op, const Run& rows) const {
    const gpu::CacheView cache = step.cache(op.layer);
    a.slots = numbers(step.row_places().slots) + rows.begin;
    a.positions = numbers(step.row_places().positions) + rows.begin;
    a.n_tokens = rows.n();
    a.q = row(step, op.q, rows.begin);
    a.keys = reinterpret_cast<const __half*>(address_(cache.keys));
    a.values = reinterpret_cast<const __half*>(address_(cache.values));
    a.n_heads = op.n_heads;
    a.n_kv_heads = op.n_kv_heads;
    a.head_dim = op.head_dim;
    a.capacity = cache.capacity;
    a.window = op.window;
    a.scale = op.scale;
  }

  // Parts of the cache: enough blocks to fill the GPU, but no part below 64 positions. It depends on the length through
  // gpu::attention_splits alone, so that one recording serves as many steps as the executor believes.
  [[nodiscard]] static std::uint32_t splits(const StepContext& step, const plan::Attention& op, std::uint32_t n_rows) {
    constexpr std::uint32_t wanted_blocks = 528;  // 4 for each multiprocessor of a large GPU
    const std::uint32_t blocks = n_rows * decode_attention_blocks(op.head_dim, op.n_heads, op.n_kv_heads);
    const std::uint32_t most = std::max(1u, wanted_blocks / std::max(1u, blocks));
    return std::min(most, 2 * gpu::attention_splits(op.n_heads, step.n_tokens(), step.batch().longest));
  }

  [[nodiscard]] const unsigned* numbers(const View& view) const {
    return reinterpret_cast<const unsigned*>(address_(view));
  }
  [[nodiscard]] float* row(const StepContext& step, ValueId value, std::uint32_t n) const {
    return floats(step.value(value)) + n * step.plan().value(value).width;
  }

  [[nodiscard]] static bool by_few_rows(const StepContext& step, const plan::Linear& linear) {
    const WeightView& w = step.weight(linear.weight);
    const std::uint32_t n_rows = step.n_rows(linear.out);
    return n_rows > 1 && n_rows <= most_few_rows && w.n_in % 32 == 0 && takes_few_rows(static_cast<unsigned>(w.format));
  }

  // Longer prompts go through half precision; F32 weights, whose users want float, and odd shapes do not.
  [[nodiscard]] bool by_halves(const StepContext& step, const plan::Linear& linear) const {
    const WeightView& w = step.weight(linear.weight);
    return cublas_ && !by_few_rows(step, linear) && step.n_rows(linear.out) >= least_prompt &&
           w.format != quants::Format::f32 && w.n_in % 32 == 0 && w.n_out % 8 == 0;
  }

  Result<void> reserve_few_rows(const StepContext& step, bool& moved) {
    std::uint64_t partial = 0, rows = 0;
    for (const plan::Op& op : step.plan().ops) {
      const auto* linear = std::get_if<plan::Linear>(&op);
      if (linear == nullptr || !by_few_rows(step, *linear)) continue;
      const std::uint32_t n_rows = step.n_rows(linear->out);
      rows = std::max<std::uint64_t>(rows, half_rows_bytes(n_rows, step.weight(linear->weight).n_in));
      // What runs in one launch: up to max_products like this one.
      Products products = products_of(step, *linear);
      for (unsigned n = 1; n <= max_products; ++n) {
        products.product[n - 1] = products.product[0];
        products.n_products = n;
        partial = std::max<std::uint64_t>(partial, few_rows_partial_bytes(products, n_rows));
      }
    }
    PLUMB_CHECK(grow(few_partial_, partial, moved));
    PLUMB_CHECK(grow(few_x_, rows, moved));
    return grow(few_scales_, rows > 0 ? most_few_rows * sizeof(float) : 0, moved);
  }
  [[nodiscard]] HalfRows halves() const {
    return {.halves = address_(whole(few_x_)), .scales = floats(whole(few_scales_))};
  }

  void emit_product_of_halves(const StepContext& step, const plan::Linear& linear, Launches& to) {
    const WeightView& w = step.weight(linear.weight);
    const std::uint32_t n_rows = step.n_rows(linear.out);
    const float* x = x_of(step, linear);
    std::byte* half_x = address_(whole(half_x_));
    auto* amax = reinterpret_cast<unsigned*>(address_(whole(range_)));
    auto* scale = reinterpret_cast<float*>(amax + 1);
    if (!converted_ || *converted_ != linear.x) {
      add(to, "activations_to_half", [=, n = static_cast<unsigned long>(n_rows) * w.n_in](cudaStream_t stream) {
        return activations_to_half(x, n, amax, scale, half_x, stream);
      });
      converted_ = linear.x;
    }
    const std::byte* weight = address_(w.view);
    if (w.format != quants::Format::f16) {
      std::byte* half_w = address_(whole(half_w_));
      const auto row_bytes = static_cast<unsigned>(quants::info(w.format).row_bytes(w.n_in));
      add(to, "weights_to_half",
          [=, n_in = w.n_in, n_out = w.n_out, format = static_cast<unsigned>(w.format)](cudaStream_t stream) {
            return weights_to_half(format, reinterpret_cast<const unsigned char*>(weight), n_in, n_out, row_bytes, half_w,
                                   stream);
          });
      weight = half_w;
    }
    float* y = floats(step.value(linear.out));
    to.push_back(native("cublasLt", [=, this, n_in = w.n_in, n_out = w.n_out](cudaStream_t stream) {
      return cublas_->multiply(weight, half_x, scale, y, n_in, n_out, n_rows, stream);
    }));
    if (linear.bias) {
      const float* bias = floats(step.weight(*linear.bias).view);
      add(to, "add_bias", [=, n_out = w.n_out](cudaStream_t stream) { return add_bias(y, bias, n_out, n_rows, stream); });
    }
  }

  [[nodiscard]] Product product_of(const StepContext& step, const plan::Linear& linear) const {
    const WeightView& w = step.weight(linear.weight);
    Product product;
    product.w = reinterpret_cast<const unsigned char*>(address_(w.view));
    product.bias = linear.bias ? floats(step.weight(*linear.bias).view) : nullptr;
    product.y = floats(step.value(linear.out));
    product.n_out = w.n_out;
    return product;
  }
  [[nodiscard]] Products products_of(const StepContext& step, const plan::Linear& linear) const {
    const WeightView& w = step.weight(linear.weight);
    Products products;
    products.product[0] = product_of(step, linear);
    products.n_products = 1;
    products.format = static_cast<unsigned>(w.format);
    products.n_in = w.n_in;
    products.row_bytes = static_cast<unsigned>(quants::info(w.format).row_bytes(w.n_in));
    if (norm_ != nullptr) {
      products.norm = floats(step.weight(norm_->weight).view);
      products.eps = norm_->eps;
    }
    return products;
  }
  // The rows of x that a Linear multiplies: the last ones.
  [[nodiscard]] const float* x_of(const StepContext& step, const plan::Linear& linear) const {
    return row(step, linear.x, step.n_rows(linear.x) - step.n_rows(linear.out));
  }
  // Products whose x is that of `linear`, rounded or halved by an earlier launch.
  void add_products(Launches& to, const StepContext& step, const plan::Linear& linear, const Products& products) const {
    const std::uint32_t n_rows = step.n_rows(linear.out);
    if (n_rows == 1) {
      const float* x = norm_ != nullptr ? floats(step.value(norm_->x)) : x_of(step, linear);
      add(to, "multiply", [=, rounded = rounded()](cudaStream_t stream) { return multiply(products, x, rounded, stream); });
      return;
    }
    const HalfRows x = halves();
    float* partial = floats(whole(few_partial_));
    add(to, "multiply_few", [=](cudaStream_t stream) { return multiply_few(products, x, n_rows, partial, stream); });
  }

  template <class Run>
  static gpu::Launch native(std::string_view name, Run run) {
    gpu::Launch launch;
    launch.native = std::make_shared<TunedLaunch>(name, std::move(run));
    return launch;
  }
  template <class Run>
  static void add(Launches& to, std::string_view name, Run run) {
    to.push_back(native(name, [run, name](cudaStream_t stream) { return check(run(stream), name); }));
  }

  // How often each value is read.
  void count_readers(const plan::Plan& plan) {
    readers_.assign(plan.values.size(), 0);
    for (const plan::Op& op : plan.ops) {
      for (const ValueId id : plan::inputs(op)) ++readers_[id.index];
    }
    ++readers_[plan.logits.index];
  }

  Result<void> grow(std::unique_ptr<gpu::Memory>& memory, std::uint64_t bytes, bool& moved) {
    if (bytes == 0 || (memory && memory->size() >= bytes)) return {};
    memory.reset();
    PLUMB_TRY(memory, device_.allocate(bytes, "working memory of tuned kernels"));
    moved = true;
    return {};
  }
  static View whole(const std::unique_ptr<gpu::Memory>& memory) {
    return memory ? View{memory.get(), 0, memory->size()} : View{};
  }
  [[nodiscard]] float* floats(const View& view) const { return reinterpret_cast<float*>(address_(view)); }
  [[nodiscard]] Rounded rounded() const {
    return {.words = reinterpret_cast<uint4*>(address_(whole(words_))),
            .scales = reinterpret_cast<float4*>(address_(whole(scales_)))};
  }

  gpu::Device& device_;
  std::function<std::byte*(const View&)> address_;
  std::unique_ptr<CublasLt> cublas_;
  std::vector<std::uint32_t> readers_;  // by ValueId
  std::unique_ptr<gpu::Memory> words_, scales_, half_x_, half_w_, range_, partial_, few_x_, few_scales_, few_partial_;
  const plan::Norm* norm_ = nullptr;  // that the Linears being emitted do on the way
  std::optional<ValueId> rounded_;       // the value that words_ and scales_ will hold there, for the op that follows
  std::optional<ValueId> halved_;        // the same of few_x_ and few_scales_
  std::optional<ValueId> converted_;     // what half_x_ will hold where the emitted launches end
};

}  // namespace

std::unique_ptr<Tuning> make_tuning(gpu::Device& device, std::function<std::byte*(const View&)> address,
                                    std::unique_ptr<CublasLt> cublas) {
  return std::make_unique<CudaTuning>(device, std::move(address), std::move(cublas));
}

}  // namespace plumb::backends::cuda
