#include "backends/cuda/tuning.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "backends/cuda/fusion.h"
#include "backends/cuda/kernels.h"
#include "backends/gpu/operations.h"

namespace plumb::backends::cuda {

namespace {

using gpu::Launches;
using gpu::StepContext;
using gpu::View;
using gpu::WeightView;
using plan::ValueId;

class CudaTuning final : public Tuning {
 public:
  CudaTuning(gpu::Device& device, std::function<std::byte*(const View&)> address, std::unique_ptr<CublasLt> cublas)
      : device_(device), address_(std::move(address)), cublas_(std::move(cublas)) {}

  // Allocates memory for the intermediate values of the step's fusions.
  Result<bool> prepare(const StepContext& step) override {
    if (readers_.empty()) count_readers(step.plan());
    std::uint64_t widest = 0, half_weight = 0, half_x = 0, few_x = 0, few_partial = 0, partial = 0;
    for (const plan::Op& op : step.plan().ops) {
      if (const auto* linear = std::get_if<plan::Linear>(&op)) {
        const WeightView& w = step.weight(linear->weight);
        const std::uint32_t n_rows = step.n_rows(linear->out);
        widest = std::max<std::uint64_t>(widest, w.n_in);
        if (by_few_rows(step, *linear)) {
          few_x = std::max<std::uint64_t>(few_x, half_rows_bytes(n_rows, w.n_in));
          // A launch may have up to max_products products of this size.
          Products products = products_of(step, {linear});
          for (unsigned n = 1; n <= max_products; ++n) {
            products.product[n - 1] = products.product[0];
            products.n_products = n;
            few_partial = std::max<std::uint64_t>(few_partial, few_rows_partial_bytes(products, n_rows));
          }
        } else if (by_halves(fusion_input(step), *linear)) {
          half_x = std::max(half_x, std::uint64_t{n_rows} * w.n_in * 2);
          if (w.format != quants::Format::f16) half_weight = std::max(half_weight, std::uint64_t{w.n_in} * w.n_out * 2);
        }
      } else if (const auto* attention = std::get_if<plan::Attention>(&op);
                 attention != nullptr && decode_attention_takes(attention->head_dim)) {
        const std::uint32_t n_rows = n_decoded(step);
        partial = std::max(partial, gpu::attention_partial_bytes(*attention, n_rows, splits(step, *attention, n_rows)));
      }
    }
    bool moved = false;
    PLUMB_CHECK(grow(few_partial_, few_partial, moved));
    PLUMB_CHECK(grow(few_x_, few_x, moved));
    PLUMB_CHECK(grow(few_scales_, few_x > 0 ? most_few_rows * sizeof(float) : 0, moved));
    PLUMB_CHECK(grow(partial_, partial, moved));
    PLUMB_CHECK(grow(words_, rounded_words_bytes(static_cast<unsigned>(widest)), moved));
    PLUMB_CHECK(grow(scales_, rounded_scales_bytes(static_cast<unsigned>(widest)), moved));
    PLUMB_CHECK(grow(half_x_, half_x, moved));
    PLUMB_CHECK(grow(half_w_, half_weight, moved));
    PLUMB_CHECK(grow(range_, half_x > 0 ? 256 : 0, moved));
    return moved;
  }

  std::size_t emit(const StepContext& step, std::size_t op, Launches& to) override {
    const Fusion fusion = fuse(fusion_input(step), op);
    std::visit([&](const auto& what) { emit_fused(step, op, what, to); }, fusion.what);
    return fusion.n_ops;
  }

 private:
  void emit_fused(const StepContext&, std::size_t, std::monostate, Launches&) const {}

  void emit_fused(const StepContext& step, std::size_t, const FusedLinears& fused, Launches& to) const {
    const plan::Linear& first = *fused.launches[0][0];
    if (!fused.is_there) emit_input(step, fused, to);
    if (fused.input == FusedLinears::Input::halves) {
      emit_product_of_halves(step, first, to);
      return;
    }
    const std::uint32_t n_rows = step.n_rows(first.out);
    for (const auto& linears : fused.launches) {
      Products products = products_of(step, linears);
      const float* x = x_of(step, first);
      if (fused.norm != nullptr && fused.input == FusedLinears::Input::floats) {
        products.norm = floats(step.weight(*fused.norm->weight).view);
        products.eps = fused.norm->eps;
        x = floats(step.value(fused.norm->x));
      }
      if (fused.activate != nullptr) {
        products.product[0].y = floats(step.value(fused.activate->out));
        products.gated = true;
        products.activation = static_cast<unsigned>(fused.activate->activation);
      }
      if (const plan::Add* sum = fused.residual; sum != nullptr) {
        products.product[0].residual = floats(step.value(sum->a == first.out ? sum->b : sum->a));
        products.product[0].y = floats(step.value(sum->out));
      }
      if (n_rows == 1) {
        add(to, "multiply",
            [=, rounded = rounded()](cudaStream_t stream) { return multiply(products, x, rounded, stream); });
      } else {
        add(to, "multiply_few", [=, halves = halves(), partial = floats(whole(few_partial_))](cudaStream_t stream) {
          return multiply_few(products, halves, n_rows, partial, stream);
        });
      }
    }
  }

  // Converts x to the form that the products take.
  void emit_input(const StepContext& step, const FusedLinears& fused, Launches& to) const {
    const plan::Linear& linear = *fused.launches[0][0];
    const unsigned n = step.weight(linear.weight).n_in;
    const std::uint32_t n_rows = step.n_rows(linear.out);
    if (fused.input == FusedLinears::Input::floats) return;
    const plan::Norm* norm = fused.norm;
    const float* x = norm != nullptr ? floats(step.value(norm->x)) : x_of(step, linear);
    const float* weight = norm != nullptr ? floats(step.weight(*norm->weight).view) : nullptr;
    float* y = norm != nullptr ? floats(step.value(norm->out)) : nullptr;
    const float eps = norm != nullptr ? norm->eps : 0;
    if (fused.input == FusedLinears::Input::halves) {
      const auto n_all = static_cast<unsigned long>(n_rows) * n;
      add(to, "activations_to_half", [=, range = range(), half_x = address_(whole(half_x_))](cudaStream_t stream) {
        return activations_to_half(x, n_all, range.amax, range.scale, half_x, stream);
      });
    } else if (fused.input == FusedLinears::Input::few) {
      add(to, norm != nullptr ? "norm_rows_to_half" : "rows_to_half", [=, halves = halves()](cudaStream_t stream) {
        return rows_to_half(x, weight, n, n_rows, eps, y, halves, stream);
      });
    } else {
      add(to, norm != nullptr ? "norm_round" : "round_row",
          [=, rounded = rounded()](cudaStream_t stream) { return round_row(x, weight, n, eps, y, rounded, stream); });
    }
  }

  void emit_product_of_halves(const StepContext& step, const plan::Linear& linear, Launches& to) const {
    const WeightView& w = step.weight(linear.weight);
    const std::uint32_t n_rows = step.n_rows(linear.out);
    const std::byte* weight = address_(w.view);
    if (w.format != quants::Format::f16) {
      std::byte* half_w = address_(whole(half_w_));
      add(to, "weights_to_half",
          [=, n_in = w.n_in, n_out = w.n_out, bytes = row_bytes(w),
           format = static_cast<unsigned>(w.format)](cudaStream_t stream) {
            return weights_to_half(format, reinterpret_cast<const unsigned char*>(weight), n_in, n_out, bytes, half_w,
                                   stream);
          });
      weight = half_w;
    }
    float* y = floats(step.value(linear.out));
    to.push_back(native("cublasLt", [=, this, half_x = address_(whole(half_x_)), scale = range().scale, n_in = w.n_in,
                                     n_out = w.n_out](cudaStream_t stream) {
      return cublas_->multiply(weight, half_x, scale, y, n_in, n_out, n_rows, stream);
    }));
    if (linear.bias) {
      const float* bias = floats(step.weight(*linear.bias).view);
      add(to, "add_bias", [=, n_out = w.n_out](cudaStream_t stream) { return add_bias(y, bias, n_out, n_rows, stream); });
    }
  }

  void emit_fused(const StepContext& step, std::size_t op, const FusedRotation& fused, Launches& to) const {
    const plan::Rope& q = *fused.q;
    const gpu::CacheView cache = step.cache(fused.write->layer);
    RopeWrite a;
    a.slots = numbers(step.row_places().slots);
    a.positions = numbers(step.row_places().positions);
    a.n_rows = step.n_tokens();
    a.q_turns = reinterpret_cast<const float4*>(address_(step.turns(op)));
    a.k_turns = reinterpret_cast<const float4*>(address_(step.turns(op + 1)));
    a.q = floats(step.value(q.x));
    a.k = floats(step.value(fused.k->x));
    a.v = floats(step.value(fused.write->v));
    a.q_out = floats(step.value(q.out));
    a.keys = address_(cache.keys);
    a.values = address_(cache.values);
    a.n_heads = static_cast<unsigned>(step.plan().value(q.x).width / q.head_dim);
    a.n_kv_heads = step.plan().cache.layers[fused.write->layer].n_kv_heads;
    a.head_dim = q.head_dim;
    a.n_rot = q.n_rot;
    a.capacity = cache.capacity;
    a.halves = q.pairing == plan::RopePairing::halves;
    a.f16 = cache.type == KvType::f16;
    add(to, "rope_write", [a](cudaStream_t stream) { return rope_write(a, stream); });
  }

  void emit_fused(const StepContext& step, std::size_t, const FusedAttention& fused, Launches& to) const {
    const plan::Attention& op = *fused.op;
    for (const auto& [rows, prompt] : fused.parts) {
      if (prompt) {
        CacheAttention a;
        fill(a, step, op, rows);
        add(to, "prompt_attention", [a](cudaStream_t stream) { return prompt_attention(a, stream); });
        continue;
      }
      DecodeAttention a;
      fill(a, step, op, rows);
      a.partial = floats(whole(partial_));
      a.n_splits = splits(step, op, n_decoded(step));
      if (fused.rounds) a.rounded = rounded();
      add(to, "decode_attention", [a](cudaStream_t stream) { return decode_attention(a, stream); });
      add(to, "attention_merge_round", [a](cudaStream_t stream) { return attention_merge_round(a, stream); });
    }
  }

  // The number of rows that attention takes one by one.
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
    a.y = row(step, op.out, rows.begin);
  }

  // The number of parts of the cache: enough blocks to fill the GPU, but no part below 64 positions. It depends on the
  // cache's length only through gpu::attention_splits, so that a recording stays valid for the steps for which the executor
  // reuses it.
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

  [[nodiscard]] HalfRows halves() const {
    return {.halves = address_(whole(few_x_)), .scales = floats(whole(few_scales_))};
  }
  // The amax and scale of activations_to_half.
  struct RangeOfX {
    unsigned* amax;
    float* scale;
  };
  [[nodiscard]] RangeOfX range() const {
    auto* amax = reinterpret_cast<unsigned*>(address_(whole(range_)));
    return {amax, reinterpret_cast<float*>(amax + 1)};
  }

  static unsigned row_bytes(const WeightView& w) { return static_cast<unsigned>(quants::info(w.format).row_bytes(w.n_in)); }
  // The Products of Linears with one format and the same x.
  [[nodiscard]] Products products_of(const StepContext& step, const std::vector<const plan::Linear*>& linears) const {
    Products products;
    const WeightView& first = step.weight(linears[0]->weight);
    products.format = static_cast<unsigned>(first.format);
    products.n_in = first.n_in;
    products.row_bytes = row_bytes(first);
    for (const plan::Linear* linear : linears) {
      const WeightView& w = step.weight(linear->weight);
      Product& product = products.product[products.n_products++];
      product.w = reinterpret_cast<const unsigned char*>(address_(w.view));
      product.bias = linear->bias ? floats(step.weight(*linear->bias).view) : nullptr;
      product.y = floats(step.value(linear->out));
      product.n_out = w.n_out;
    }
    return products;
  }
  // The rows of x that a Linear multiplies, which are the last ones.
  [[nodiscard]] const float* x_of(const StepContext& step, const plan::Linear& linear) const {
    return row(step, linear.x, step.n_rows(linear.x) - step.n_rows(linear.out));
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

  [[nodiscard]] FusionInput fusion_input(const StepContext& step) const {
    return {.step = step, .readers = readers_, .has_cublas = cublas_ != nullptr};
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
};

}  // namespace

std::unique_ptr<Tuning> make_tuning(gpu::Device& device, std::function<std::byte*(const View&)> address,
                                    std::unique_ptr<CublasLt> cublas) {
  return std::make_unique<CudaTuning>(device, std::move(address), std::move(cublas));
}

}  // namespace plumb::backends::cuda
