#include "backends/cpu/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "backends/batch.h"
#include "backends/cpu/cache.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/pool.h"
#include "backends/cpu/schedule.h"
#include "base/machine.h"

namespace plumb::backends::cpu {

namespace {

using plan::Plan;
using plan::Rows;
using plan::ValueId;

// Steps of one sequence and up to so many tokens split attention over the cache's blocks (Merge adds them up); others over
// tokens.
constexpr std::uint32_t split_cache_up_to = 4;
// Query rows that attention of longer steps works on together.
constexpr std::uint32_t attention_rows = 96;
// Items that a weight is cut into for each thread, so that threads end together, and the least bytes of one: each begins
// with a wait for memory that nothing has prefetched.
constexpr std::size_t items_a_thread = 8;
constexpr std::size_t least_item_bytes = std::size_t{64} << 10;
constexpr std::uint32_t default_batch = 512;
constexpr std::uint32_t most_threads = 1024;

constexpr int planes(Activations activations) { return activations == Activations::int8 ? 1 : 2; }

// Rows that a thread takes through a row stage at a time; up to so many are not worth sharing.
constexpr std::uint32_t row_chunk = 4;

struct Scratch {
  AlignedBytes bytes;
  std::size_t size = 0;
};

Result<void> grow(Scratch& scratch, std::size_t size, std::string_view what) {
  if (scratch.size >= size) return {};
  scratch.bytes.reset();
  scratch.size = 0;
  scratch.bytes = allocate_aligned(size);
  if (!scratch.bytes) return fail("no memory for {} bytes of {}; use a smaller batch or a shorter context", size, what);
  scratch.size = size;
  return {};
}

// The norms, biases, factors and sinks that the plan's ops use, as float, by WeightId.
Result<std::vector<std::vector<float>>> decode_vectors(const Plan& plan) {
  std::vector<std::vector<float>> vectors(plan.weights.size());
  const auto decode = [&](plan::WeightId id) -> Result<void> {
    const gguf::Tensor& tensor = plan.weight(id).tensor;
    const quants::FormatInfo& format = quants::info(tensor.format);
    const std::uint64_t n = tensor.n_elements();  // of one vector, or of one for each expert
    if (tensor.data.size() < format.row_bytes(n)) {
      return fail("tensor '{}' has {} bytes; its shape needs {}", tensor.name, tensor.data.size(), format.row_bytes(n));
    }
    vectors[id.index].resize(n);
    format.decode(tensor.data.data(), vectors[id.index].data(), n / format.block_size);
    return {};
  };
  for (const plan::Op& op : plan.ops) {
    if (const auto* norm = std::get_if<plan::Norm>(&op)) PLUMB_CHECK(decode(norm->weight));
    if (const auto* linear = std::get_if<plan::Linear>(&op); linear && linear->bias) PLUMB_CHECK(decode(*linear->bias));
    if (const auto* linear = std::get_if<plan::ExpertLinear>(&op); linear && linear->bias)
      PLUMB_CHECK(decode(*linear->bias));
    if (const auto* attention = std::get_if<plan::Attention>(&op); attention && attention->sinks)
      PLUMB_CHECK(decode(*attention->sinks));
    if (const auto* rope = std::get_if<plan::Rope>(&op); rope && rope->factors) PLUMB_CHECK(decode(*rope->factors));
  }
  return vectors;
}

class CpuExecutor final : public Executor, private Program {
 public:
  CpuExecutor(std::shared_ptr<const Plan> plan, const LoadOptions& options, Isa isa, Schedule schedule,
              std::vector<std::vector<float>> vectors)
      : plan_(std::move(plan)),
        kernels_(kernels(isa)),
        planes_(planes(options.activations)),
        rounded_(kernels_.rounded[planes_ - 1]),
        schedule_(std::move(schedule)),
        vectors_(std::move(vectors)),
        max_batch_(options.max_batch == 0 ? default_batch : options.max_batch),
        cache_shape_(std::make_shared<CacheShape>(CacheShape{plan_->cache, padded_head(plan_->cache.head_dim)})),
        pool_(options.n_threads == 0 ? usable_cores() : options.n_threads, usable_cores()),
        scratch_(pool_.n_threads()) {}

  [[nodiscard]] const Plan& plan() const override { return *plan_; }
  [[nodiscard]] std::uint32_t max_batch() const override { return max_batch_; }

  [[nodiscard]] Result<std::vector<std::unique_ptr<KvCache>>> new_caches(std::uint32_t n, std::uint32_t capacity,
                                                                         KvType type) override {
    ++n_pools_;
    std::vector<std::unique_ptr<KvCache>> caches(n);
    for (auto& cache : caches) cache = std::make_unique<Cache>(cache_shape_, n_pools_, capacity, type);
    return caches;
  }

  using Executor::run;
  Result<std::span<const float>> run(std::span<const Step> steps) override {
    caches_.clear();
    for (const Step& step : steps) {
      caches_.push_back(dynamic_cast<Cache*>(step.cache));
      if (caches_.back() == nullptr || !caches_.back()->belongs_to(cache_shape_.get())) {
        return fail("the step's KV cache belongs to another executor");
      }
    }
    PLUMB_TRY(batch_, make_batch(*plan_, steps, max_batch_));
    n_tokens_ = batch_.n_rows();
    n_outputs_ = batch_.n_outputs;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      PLUMB_CHECK(caches_[i]->reserve(caches_[i]->length() + static_cast<std::uint32_t>(steps[i].tokens.size()), poisons_));
    }
    PLUMB_CHECK(prepare_memory());
    if (poisons_) {
      for (const Scratch* s : {&token_arena_, &output_arena_, &partials_}) std::fill_n(s->bytes.get(), s->size, poison);
    }
    const std::uint32_t n = n_stages();
    if (!observer_) {
      pool_.run(*this, 0, n);
    } else {
      for (std::uint32_t stage = 0; stage < n; ++stage) {
        pool_.run(*this, stage, stage + 1);
        show(stage);
      }
    }
    for (std::size_t i = 0; i < steps.size(); ++i) caches_[i]->filled(static_cast<std::uint32_t>(steps[i].tokens.size()));
    return std::span<const float>(value(plan_->logits), std::size_t{n_outputs_} * plan_->value(plan_->logits).width);
  }

 private:
  static std::size_t padded_head(std::size_t n) { return (n + head_multiple - 1) / head_multiple * head_multiple; }

  [[nodiscard]] std::uint32_t n_rows(Rows rows) const { return rows == Rows::tokens ? n_tokens_ : n_outputs_; }
  [[nodiscard]] std::byte* at(const Place& place) const {
    const Scratch& arena = place.arena == Rows::tokens ? token_arena_ : output_arena_;
    return arena.bytes.get() + place.offset * n_rows(place.arena);
  }
  [[nodiscard]] float* value(ValueId id) const { return reinterpret_cast<float*>(at(schedule_.values[id.index])); }
  [[nodiscard]] float* row_of(ValueId id, std::uint32_t row) const { return value(id) + row * plan_->value(id).width; }
  [[nodiscard]] const Angles& angles_of(std::uint32_t op) const { return schedule_.angles[schedule_.angles_of[op]]; }
  [[nodiscard]] std::size_t head_stride() const { return cache_shape_->head_stride; }
  [[nodiscard]] std::uint32_t first_block(const plan::Attention& op, std::uint32_t position) const {
    return op.window > 0 && position + 1 > op.window ? (position + 1 - op.window) / static_cast<std::uint32_t>(kv_block)
                                                     : 0;
  }
  [[nodiscard]] bool splits_cache() const { return n_tokens_ <= split_cache_up_to && batch_.runs.size() == 1; }
  [[nodiscard]] std::uint32_t position(std::uint32_t row) const { return batch_.rows[row].position; }
  [[nodiscard]] Cache& cache(std::uint32_t row) const { return *caches_[batch_.rows[row].sequence]; }
  // Query heads that share a KV head: [begin, end).
  static std::uint32_t heads_begin(const plan::Attention& op, std::uint32_t kv_head) {
    return static_cast<std::uint32_t>((std::uint64_t{kv_head} * op.n_heads + op.n_kv_heads - 1) / op.n_kv_heads);
  }
  static std::uint32_t most_shared_heads(const plan::Attention& op) {
    return (op.n_heads + op.n_kv_heads - 1) / op.n_kv_heads;
  }
  static std::uint32_t tile_tokens(const plan::Attention& op) {
    return std::max(1u, attention_rows / most_shared_heads(op));
  }

  // Buffers for this step; they only ever grow.
  Result<void> prepare_memory() {
    PLUMB_CHECK(grow(token_arena_, schedule_.token_bytes * n_tokens_, "working memory"));
    PLUMB_CHECK(grow(output_arena_, schedule_.output_bytes * n_outputs_, "working memory"));
    angles_.resize(schedule_.angles.size());
    for (std::size_t i = 0; i < angles_.size(); ++i) {
      const std::size_t n = std::size_t{n_tokens_} * schedule_.angles[i].n_rot;
      if (angles_[i].size() < n) angles_[i].resize(n);
    }
    std::size_t scratch = kernels_.scratch_bytes;
    std::size_t partials = 0;
    for (const plan::Op& op : plan_->ops) {
      const auto* attention = std::get_if<plan::Attention>(&op);
      if (attention == nullptr) continue;
      const std::size_t rows = std::size_t{most_shared_heads(*attention)} *
                               (splits_cache() ? n_tokens_ : std::min(n_tokens_, tile_tokens(*attention)));
      scratch = std::max(scratch, AttentionScratch::bytes(rows, head_stride()));
      if (splits_cache()) {
        const std::size_t n_blocks = (batch_.longest + kv_block - 1) / kv_block;
        partials = std::max(partials, n_blocks * n_tokens_ * attention->n_heads * (head_stride() + 2) * sizeof(float));
      }
    }
    PLUMB_CHECK(grow(partials_, partials, "attention memory"));
    for (Scratch& own : scratch_) PLUMB_CHECK(grow(own, scratch, "working memory"));
    return {};
  }

  // Program

  [[nodiscard]] std::uint32_t n_stages() const override { return static_cast<std::uint32_t>(schedule_.stages.size()); }
  std::uint32_t begin(std::uint32_t stage) override {
    return std::visit([&](const auto& s) { return begin_stage(s); }, schedule_.stages[stage]);
  }
  void run(std::uint32_t stage, std::uint32_t item, std::uint32_t thread) override {
    std::visit([&](const auto& s) { run_item(s, item, thread); }, schedule_.stages[stage]);
  }

  // Row stages

  std::uint32_t begin_stage(const RowStage& stage) {
    const std::uint32_t n = n_rows(stage.rows);
    if (n > row_chunk) return (n + row_chunk - 1) / row_chunk;
    run_rows(stage, 0, n);
    return 0;
  }
  void run_item(const RowStage& stage, std::uint32_t item, std::uint32_t) {
    run_rows(stage, item * row_chunk, std::min((item + 1) * row_chunk, n_rows(stage.rows)));
  }
  void run_rows(const RowStage& stage, std::uint32_t begin, std::uint32_t end) {
    for (const RowOp& op : stage.ops) {
      for (std::uint32_t row = begin; row < end; ++row) {
        std::visit([&](const auto& o) { run_row(o, row); }, op);
      }
    }
  }

  void run_row(const Quantize& op, std::uint32_t row) {
    const std::uint64_t width = plan_->value(op.x).width;
    const std::uint32_t skipped = plan_->value(op.x).rows == op.rows ? 0 : n_tokens_ - n_outputs_;
    const float* x = row_of(op.x, row + skipped);
    const Sign sign = !op.alone && n_rows(op.rows) >= kernels_.packs_from ? Sign::biased : Sign::plain;
    const std::uint64_t part = width / op.n_parts;
    const std::size_t bytes = operand_bytes(op.kind, part, planes_);
    std::byte* out = at(schedule_.buffers[op.buffer]) + std::size_t{row} * op.n_parts * bytes;
    for (std::uint32_t i = 0; i < op.n_parts; ++i) {
      (op.kind == Operand::x128 ? rounded_.round_128 : rounded_.round_256)(x + i * part, part, out + i * bytes, sign);
    }
  }

  void run_row(const Turn& op, std::uint32_t row) {
    const Angles& angles = schedule_.angles[op.angles];
    const std::size_t pairs = angles.frequency.size();
    float* out = angles_[op.angles].data() + std::size_t{row} * angles.n_rot;
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle = position(row) * angles.frequency[i];
      out[i] = static_cast<float>(std::cos(angle) * double{angles.magnitude});
      out[pairs + i] = static_cast<float>(std::sin(angle) * double{angles.magnitude});
    }
  }

  void run_row(const Merge& merge, std::uint32_t row) {
    if (!splits_cache()) return;
    const auto& op = std::get<plan::Attention>(plan_->ops[merge.op]);
    const std::uint32_t position = this->position(row);
    float* out = row_of(op.out, row);
    for (std::uint32_t head = 0; head < op.n_heads; ++head) {
      // The first visible block's partial result takes in the others.
      const std::uint32_t first = first_block(op, position);
      const Partial into = partial(op, first, row, head);
      for (std::uint32_t block = first + 1; block <= position / kv_block; ++block) {
        const Partial part = partial(op, block, row, head);
        kernels_.merge(*part.largest, *part.total, part.context, head_stride(), into.largest, into.total, into.context);
      }
      finish_head(op, head, *into.largest, *into.total, into.context, out + head * op.head_dim);
    }
  }

  void finish_head(const plan::Attention& op, std::uint32_t head, float largest, float total, const float* context,
                   float* out) const {
    float share = 1.0f / total;
    if (op.sinks) {
      const float sink = vectors_[op.sinks->index][head];
      const float most = std::max(largest, sink);
      share = std::exp(largest - most) / (total * std::exp(largest - most) + std::exp(sink - most));
    }
    for (std::uint32_t d = 0; d < op.head_dim; ++d) out[d] = context[d] * share;
  }

  void run_row(const PlanOp& op, std::uint32_t row) {
    std::visit([&](const auto& o) { run_plan_op(o, op.op, row); }, plan_->ops[op.op]);
  }

  void run_plan_op(const plan::Embed& op, std::uint32_t, std::uint32_t row) {
    const gguf::Tensor& table = plan_->weight(op.table).tensor;
    const quants::FormatInfo& format = quants::info(table.format);
    const std::uint64_t width = plan_->value(op.out).width;
    float* out = row_of(op.out, row);
    format.decode(table.data.data() + static_cast<std::size_t>(batch_.rows[row].token) * format.row_bytes(width), out,
                  width / format.block_size);
    if (op.scale != 1.0f) std::for_each(out, out + width, [&](float& x) { x *= op.scale; });
  }

  void run_plan_op(const plan::Norm& op, std::uint32_t, std::uint32_t row) {
    const std::vector<float>& weight = vectors_[op.weight.index];
    const std::uint64_t width = plan_->value(op.x).width;
    for (std::uint64_t start = 0; start < width; start += weight.size()) {
      kernels_.rms_norm(row_of(op.x, row) + start, weight.data(), op.eps, weight.size(), row_of(op.out, row) + start);
    }
  }

  void run_plan_op(const plan::Rope& op, std::uint32_t index, std::uint32_t row) {
    const auto rotate = op.pairing == plan::RopePairing::adjacent ? kernels_.rope_adjacent : kernels_.rope_halves;
    const float* cos_sin = angles_[schedule_.angles_of[index]].data() + std::size_t{row} * op.n_rot;
    const std::uint64_t width = plan_->value(op.x).width;
    for (std::uint64_t head = 0; head < width; head += op.head_dim) {
      rotate(row_of(op.x, row) + head, cos_sin, op.n_rot, op.head_dim, row_of(op.out, row) + head);
    }
  }

  void run_plan_op(const plan::KvWrite& op, std::uint32_t, std::uint32_t row) {
    const Cache& cache = this->cache(row);
    const std::uint32_t position = this->position(row);
    for (std::uint32_t head = 0; head < plan_->cache.n_kv_heads; ++head) {
      const std::size_t from = std::size_t{head} * plan_->cache.head_dim;
      const std::size_t to = position % kv_block * cache.row_bytes();
      store_head(cache, row_of(op.k, row) + from, cache.keys(position / kv_block, op.layer, head) + to);
      store_head(cache, row_of(op.v, row) + from, cache.values(position / kv_block, op.layer, head) + to);
    }
  }
  void store_head(const Cache& cache, const float* from, std::byte* to) const {
    const std::size_t n = plan_->cache.head_dim;
    std::size_t written = n * sizeof(float);
    if (cache.f16()) {
      kernels_.to_f16(from, n, reinterpret_cast<std::uint16_t*>(to));
      written = n * sizeof(std::uint16_t);
    } else {
      std::memcpy(to, from, written);
    }
    std::memset(to + written, 0, cache.row_bytes() - written);
  }

  void run_plan_op(const plan::Activate& op, std::uint32_t, std::uint32_t row) {
    const auto kernel = kernels_.gated[static_cast<std::size_t>(op.activation)];
    kernel(row_of(op.gate, row), row_of(op.up, row), plan_->value(op.out).width, row_of(op.out, row));
  }
  void run_plan_op(const plan::Add& op, std::uint32_t, std::uint32_t row) {
    kernels_.add(row_of(op.a, row), row_of(op.b, row), plan_->value(op.out).width, row_of(op.out, row));
  }
  void run_plan_op(const plan::SoftCap& op, std::uint32_t, std::uint32_t row) {
    const float* x = row_of(op.x, row);
    float* out = row_of(op.out, row);
    for (std::uint64_t i = 0; i < plan_->value(op.x).width; ++i) out[i] = op.cap * std::tanh(x[i] / op.cap);
  }
  void run_plan_op(const plan::TopK& op, std::uint32_t, std::uint32_t row) {
    const float* x = row_of(op.x, row);
    const auto width = static_cast<std::uint32_t>(plan_->value(op.x).width);
    float* out = row_of(op.out, row);
    // The best that comes after the one before, in the order of plan::TopK.
    const auto rank = [&](std::uint32_t i) { return std::isnan(x[i]) ? -std::numeric_limits<float>::infinity() : x[i]; };
    const auto before = [&](std::uint32_t a, std::uint32_t b) {
      return rank(a) > rank(b) || (rank(a) == rank(b) && a < b);
    };
    for (std::uint32_t j = 0; j < op.k; ++j) {
      std::uint32_t best = width;
      for (std::uint32_t i = 0; i < width; ++i) {
        if (j > 0 && !before(static_cast<std::uint32_t>(out[j - 1]), i)) continue;
        if (best == width || before(i, best)) best = i;
      }
      out[j] = static_cast<float>(best);
    }
  }
  void run_plan_op(const plan::ExpertWeights& op, std::uint32_t, std::uint32_t row) {
    const float* logits = row_of(op.logits, row);
    const float* experts = row_of(op.experts, row);
    float* out = row_of(op.out, row);
    const std::uint64_t n = plan_->value(op.logits).width, k = plan_->value(op.experts).width;
    const bool softmax = op.gating == plan::Gating::softmax || op.gating == plan::Gating::softmax_of_chosen;
    const float largest = *std::max_element(logits, logits + n);
    const auto gate = [&](float x) { return softmax ? std::exp(x - largest) : 1 / (1 + std::exp(-x)); };
    for (std::uint64_t j = 0; j < k; ++j) out[j] = gate(logits[expert_of(experts[j])]);
    float total = 1;
    if (op.gating == plan::Gating::softmax) {
      total = std::accumulate(logits, logits + n, 0.0f, [&](float sum, float x) { return sum + gate(x); });
    } else if (op.gating != plan::Gating::sigmoid) {
      total = std::accumulate(out, out + k, 0.0f);
    }
    for (std::uint64_t j = 0; j < k; ++j) out[j] *= op.scale / total;
  }
  void run_plan_op(const plan::ExpertSum& op, std::uint32_t, std::uint32_t row) {
    const float* weights = row_of(op.weights, row);
    const float* x = row_of(op.x, row);
    float* out = row_of(op.out, row);
    const std::uint64_t k = plan_->value(op.weights).width, width = plan_->value(op.out).width;
    std::fill(out, out + width, 0.0f);
    for (std::uint64_t j = 0; j < k; ++j) {
      for (std::uint64_t i = 0; i < width; ++i) out[i] += weights[j] * x[j * width + i];
    }
  }
  static std::uint64_t expert_of(float expert) { return static_cast<std::uint64_t>(expert); }

  // These have stages of their own.
  void run_plan_op(const plan::Linear&, std::uint32_t, std::uint32_t) {}
  void run_plan_op(const plan::ExpertLinear&, std::uint32_t, std::uint32_t) {}
  void run_plan_op(const plan::Attention&, std::uint32_t, std::uint32_t) {}

  // Linear stages

  // Rows of the weight that are one item.
  [[nodiscard]] std::uint64_t rows_of_item(const plan::Weight& weight, std::uint32_t n_rows_of_x) const {
    if (n_rows_of_x >= std::min<std::size_t>(kernels_.packs_from, 8)) return kernels_.row_tile;
    const std::uint64_t row_bytes = quants::info(weight.tensor.format).row_bytes(weight.in());
    const std::uint64_t wanted =
        std::max<std::uint64_t>(weight.out() / (items_a_thread * pool_.n_threads()), least_item_bytes / row_bytes);
    return std::max<std::uint64_t>(wanted / 16 * 16, 16);
  }
  [[nodiscard]] std::uint32_t items_of(const LinearStage::Part& part) const {
    const auto& op = std::get<plan::Linear>(plan_->ops[part.op]);
    const plan::Weight& weight = plan_->weight(op.weight);
    const std::uint64_t rows = rows_of_item(weight, n_rows(plan_->value(op.out).rows));
    return static_cast<std::uint32_t>((weight.out() + rows - 1) / rows);
  }
  std::uint32_t begin_stage(const LinearStage& stage) {
    std::uint32_t n = 0;
    for (const LinearStage::Part& part : stage.parts) n += items_of(part);
    return n;
  }
  void run_item(const LinearStage& stage, std::uint32_t item, std::uint32_t thread) {
    auto part = stage.parts.begin();
    for (std::uint32_t n = items_of(*part); item >= n; n = items_of(*part)) {
      item -= n;
      ++part;
    }
    const auto& op = std::get<plan::Linear>(plan_->ops[part->op]);
    const plan::Weight& weight = plan_->weight(op.weight);
    const plan::Value& out = plan_->value(op.out);
    const Operand kind = operand(part->format);
    const std::uint64_t rows = rows_of_item(weight, n_rows(out.rows));
    Dot dot;
    dot.weights = reinterpret_cast<const std::uint8_t*>(weight.tensor.data.data());
    dot.row_bytes = quants::info(weight.tensor.format).row_bytes(weight.in());
    dot.n_in = weight.in();
    dot.x_stride = operand_bytes(kind, weight.in(), planes_);
    if (kind == Operand::f32) {
      const std::uint32_t skipped = plan_->value(op.x).rows == out.rows ? 0 : n_tokens_ - n_outputs_;
      dot.x = row_of(op.x, skipped);
    } else {
      dot.x = at(schedule_.buffers[part->buffer]);
    }
    dot.n_tokens = n_rows(out.rows);
    dot.y = value(op.out);
    dot.y_stride = out.width;
    dot.row_begin = item * rows;
    dot.row_end = std::min(dot.row_begin + rows, weight.out());
    dot.scratch = reinterpret_cast<std::uint8_t*>(scratch_[thread].bytes.get());
    rounded_.dot[static_cast<std::size_t>(part->format)](dot);
    if (!op.bias) return;
    const float* bias = vectors_[op.bias->index].data() + dot.row_begin;
    for (std::size_t t = 0; t < dot.n_tokens; ++t) {
      float* y = dot.y + t * dot.y_stride + dot.row_begin;
      kernels_.add(y, bias, dot.row_end - dot.row_begin, y);
    }
  }

  // Expert stages: an item is some rows of one expert's weight, for one token.

  [[nodiscard]] std::uint32_t chunks_of(const plan::Weight& weight) const {
    const std::uint64_t rows = rows_of_item(weight, 1);
    return static_cast<std::uint32_t>((weight.out() + rows - 1) / rows);
  }
  std::uint32_t begin_stage(const ExpertStage& stage) {
    const auto& op = std::get<plan::ExpertLinear>(plan_->ops[stage.part.op]);
    const auto n_experts = static_cast<std::uint32_t>(plan_->value(op.experts).width);
    return n_rows(plan_->value(op.out).rows) * n_experts * chunks_of(plan_->weight(op.weight));
  }
  void run_item(const ExpertStage& stage, std::uint32_t item, std::uint32_t thread) {
    const auto& op = std::get<plan::ExpertLinear>(plan_->ops[stage.part.op]);
    const plan::Weight& weight = plan_->weight(op.weight);
    const std::uint32_t n_chunks = chunks_of(weight);
    const auto k = static_cast<std::uint32_t>(plan_->value(op.experts).width);
    const std::uint32_t row = item / n_chunks / k, slot = item / n_chunks % k;
    const std::uint64_t expert = expert_of(row_of(op.experts, row)[slot]);
    const std::uint64_t n_parts = plan_->value(op.x).width / weight.in();
    const std::uint64_t part = n_parts > 1 ? slot : 0;
    const Operand kind = operand(stage.part.format);
    Dot dot;
    dot.row_bytes = quants::info(weight.tensor.format).row_bytes(weight.in());
    dot.weights = reinterpret_cast<const std::uint8_t*>(weight.tensor.data.data()) + expert * weight.out() * dot.row_bytes;
    dot.n_in = weight.in();
    dot.x_stride = operand_bytes(kind, weight.in(), planes_);
    if (kind == Operand::f32) {
      dot.x = row_of(op.x, row) + part * weight.in();
    } else {
      dot.x = at(schedule_.buffers[stage.part.buffer]) + (row * n_parts + part) * dot.x_stride;
    }
    dot.n_tokens = 1;
    dot.y = row_of(op.out, row) + slot * weight.out();
    dot.y_stride = weight.out();
    dot.row_begin = item % n_chunks * rows_of_item(weight, 1);
    dot.row_end = std::min(dot.row_begin + rows_of_item(weight, 1), weight.out());
    dot.scratch = reinterpret_cast<std::uint8_t*>(scratch_[thread].bytes.get());
    rounded_.dot[static_cast<std::size_t>(stage.part.format)](dot);
    if (!op.bias) return;
    const float* bias = vectors_[op.bias->index].data() + expert * weight.out() + dot.row_begin;
    kernels_.add(dot.y + dot.row_begin, bias, dot.row_end - dot.row_begin, dot.y + dot.row_begin);
  }

  // Attention

  // A head's result over one block of the cache, as AttendBlock leaves it.
  struct Partial {
    float* largest;
    float* total;
    float* context;
  };
  // Partials of a step that splits the cache: [block][row][head], the contexts after all largests and totals.
  [[nodiscard]] Partial partial(const plan::Attention& op, std::uint32_t block, std::uint32_t row,
                                std::uint32_t head) const {
    auto* base = reinterpret_cast<float*>(partials_.bytes.get());
    const std::size_t n_blocks = (batch_.longest + kv_block - 1) / kv_block;
    const std::size_t n = n_blocks * n_tokens_ * op.n_heads;
    const std::size_t i = (std::size_t{block} * n_tokens_ + row) * op.n_heads + head;
    return {base + n * head_stride() + i, base + n * head_stride() + n + i, base + i * head_stride()};
  }

  // A thread's memory for the attention of some query rows; the kernel's own comes last.
  struct AttentionScratch {
    float* q;                // [rows][head_stride], scaled
    float* context;          // [rows][head_stride], of one block
    float* running_context;  // [rows][head_stride]
    float *largest, *total;  // [rows], of one block
    float *running_largest, *running_total;
    std::uint32_t *first, *last;
    std::uint8_t* kernel;

    static std::size_t bytes(std::size_t rows, std::size_t stride) {
      const std::size_t padded = (rows + 15) / 16 * 16;
      return (3 * padded * stride + 6 * padded + padded * kv_block + 2 * kv_block * stride) * sizeof(float);
    }
    AttentionScratch(std::byte* base, std::size_t rows, std::size_t stride) {
      const std::size_t padded = (rows + 15) / 16 * 16;
      auto* next = reinterpret_cast<float*>(base);
      const auto take = [&](std::size_t n) { return std::exchange(next, next + n); };
      q = take(padded * stride);
      context = take(padded * stride);
      running_context = take(padded * stride);
      largest = take(padded);
      total = take(padded);
      running_largest = take(padded);
      running_total = take(padded);
      first = reinterpret_cast<std::uint32_t*>(take(padded));
      last = reinterpret_cast<std::uint32_t*>(take(padded));
      kernel = reinterpret_cast<std::uint8_t*>(next);
    }
  };

  std::uint32_t begin_stage(const AttentionStage& stage) {
    const auto& op = std::get<plan::Attention>(plan_->ops[stage.op]);
    return op.n_kv_heads * (splits_cache() ? n_visible_blocks(op) : n_tiles(op));
  }
  // Blocks that any token of a step of one sequence sees.
  [[nodiscard]] std::uint32_t n_visible_blocks(const plan::Attention& op) const {
    return (batch_.longest - 1) / static_cast<std::uint32_t>(kv_block) + 1 - first_block(op, position(0));
  }
  // Tiles: up to tile_tokens tokens of a sequence.
  static std::uint32_t tiles_of(const plan::Attention& op, const Run& run) {
    return (run.n() + tile_tokens(op) - 1) / tile_tokens(op);
  }
  [[nodiscard]] std::uint32_t n_tiles(const plan::Attention& op) const {
    std::uint32_t n = 0;
    for (const Run& run : batch_.runs) n += tiles_of(op, run);
    return n;
  }
  [[nodiscard]] Run tile(const plan::Attention& op, std::uint32_t index) const {
    auto run = batch_.runs.begin();
    for (std::uint32_t n = tiles_of(op, *run); index >= n; n = tiles_of(op, *run)) {
      index -= n;
      ++run;
    }
    const std::uint32_t begin = run->begin + index * tile_tokens(op);
    return {begin, std::min(begin + tile_tokens(op), run->end)};
  }

  void run_item(const AttentionStage& stage, std::uint32_t item, std::uint32_t thread) {
    const auto& op = std::get<plan::Attention>(plan_->ops[stage.op]);
    const std::uint32_t kv_head = item % op.n_kv_heads;
    if (splits_cache()) {
      attend_split(op, kv_head, first_block(op, position(0)) + item / op.n_kv_heads, thread);
    } else {
      // Late tokens see most of the cache: begin with them.
      attend_tokens(op, kv_head, tile(op, n_tiles(op) - 1 - item / op.n_kv_heads), thread);
    }
  }

  // Query rows of `kv_head`'s heads for tokens begin .. end, and what they see of each block.
  AttendBlock attention_job(const plan::Attention& op, std::uint32_t kv_head, std::uint32_t begin, std::uint32_t end,
                            const AttentionScratch& scratch) const {
    const std::uint32_t head_begin = heads_begin(op, kv_head);
    const std::uint32_t n_heads = heads_begin(op, kv_head + 1) - head_begin;
    float* q = scratch.q;
    for (std::uint32_t token = begin; token < end; ++token) {
      for (std::uint32_t head = head_begin; head < head_begin + n_heads; ++head, q += head_stride()) {
        const float* from = row_of(op.q, token) + std::size_t{head} * op.head_dim;
        for (std::uint32_t d = 0; d < op.head_dim; ++d) q[d] = from[d] * op.scale;
        std::fill(q + op.head_dim, q + head_stride(), 0.0f);
      }
    }
    AttendBlock job{};
    job.q = scratch.q;
    job.n_rows = std::size_t{end - begin} * n_heads;
    job.head_stride = head_stride();
    job.f16 = cache(begin).f16();
    job.first = scratch.first;
    job.last = scratch.last;
    job.largest = scratch.largest;
    job.total = scratch.total;
    job.context = scratch.context;
    job.scratch = scratch.kernel;
    job.soft_cap = op.soft_cap;
    return job;
  }
  void run_block(const plan::Attention& op, AttendBlock& job, std::uint32_t kv_head, std::uint32_t block,
                 std::uint32_t begin, std::uint32_t end, const AttentionScratch& scratch) const {
    const std::uint32_t n_heads = heads_begin(op, kv_head + 1) - heads_begin(op, kv_head);
    const std::uint32_t block_start = block * static_cast<std::uint32_t>(kv_block);
    const auto in_block = [&](std::uint32_t position) {
      return position < block_start ? 0 : std::min(position - block_start, static_cast<std::uint32_t>(kv_block));
    };
    std::uint32_t r = 0;
    for (std::uint32_t position = this->position(begin); position <= this->position(end - 1); ++position) {
      for (std::uint32_t h = 0; h < n_heads; ++h, ++r) {
        scratch.first[r] = op.window > 0 && position + 1 > op.window ? in_block(position + 1 - op.window) : 0;
        scratch.last[r] = in_block(position + 1);
      }
    }
    job.k = cache(begin).keys(block, op.layer, kv_head);
    job.v = cache(begin).values(block, op.layer, kv_head);
    kernels_.attend(job);
  }

  void attend_split(const plan::Attention& op, std::uint32_t kv_head, std::uint32_t block, std::uint32_t thread) {
    const std::uint32_t head_begin = heads_begin(op, kv_head);
    const std::size_t n_heads = heads_begin(op, kv_head + 1) - head_begin;
    const AttentionScratch scratch(scratch_[thread].bytes.get(), n_heads * n_tokens_, head_stride());
    AttendBlock job = attention_job(op, kv_head, 0, n_tokens_, scratch);
    run_block(op, job, kv_head, block, 0, n_tokens_, scratch);
    for (std::uint32_t row = 0; row < n_tokens_; ++row) {
      for (std::uint32_t h = 0; h < n_heads; ++h) {
        const std::size_t r = row * n_heads + h;
        const Partial out = partial(op, block, row, head_begin + h);
        *out.largest = job.largest[r];
        *out.total = job.total[r];
        std::memcpy(out.context, job.context + r * head_stride(), head_stride() * sizeof(float));
      }
    }
  }

  void attend_tokens(const plan::Attention& op, std::uint32_t kv_head, Run tile, std::uint32_t thread) {
    const std::uint32_t begin = tile.begin, end = tile.end;
    const std::uint32_t head_begin = heads_begin(op, kv_head);
    const std::uint32_t n_heads = heads_begin(op, kv_head + 1) - head_begin;
    const AttentionScratch scratch(scratch_[thread].bytes.get(), std::size_t{n_heads} * (end - begin), head_stride());
    AttendBlock job = attention_job(op, kv_head, begin, end, scratch);
    std::fill(scratch.running_total, scratch.running_total + job.n_rows, 0.0f);
    const std::uint32_t last = position(end - 1) / static_cast<std::uint32_t>(kv_block);
    for (std::uint32_t block = first_block(op, position(begin)); block <= last; ++block) {
      run_block(op, job, kv_head, block, begin, end, scratch);
      for (std::size_t r = 0; r < job.n_rows; ++r) {
        kernels_.merge(job.largest[r], job.total[r], job.context + r * head_stride(), head_stride(),
                       scratch.running_largest + r, scratch.running_total + r, scratch.running_context + r * head_stride());
      }
    }
    std::size_t r = 0;
    for (std::uint32_t token = begin; token < end; ++token) {
      for (std::uint32_t head = head_begin; head < head_begin + n_heads; ++head, ++r) {
        finish_head(op, head, scratch.running_largest[r], scratch.running_total[r],
                    scratch.running_context + r * head_stride(), row_of(op.out, token) + std::size_t{head} * op.head_dim);
      }
    }
  }

  // Watching

  void show(std::uint32_t stage) {
    for (std::uint32_t i = 0; i < plan_->ops.size(); ++i) {
      if (schedule_.stage_of[i] != stage) continue;
      if (const auto* attention = std::get_if<plan::Attention>(&plan_->ops[i])) show_probabilities(*attention);
      const auto out = plan::output(plan_->ops[i]);
      if (!out) continue;
      const plan::Value& shown = plan_->value(*out);
      if (!wants(shown.name)) continue;
      const std::uint64_t rows = n_rows(shown.rows);
      observer_(shown.name, rows, shown.width, std::span<const float>(value(*out), rows * shown.width));
    }
  }

  // The softmax weights, from the same queries and keys as the attention that ran.
  void show_probabilities(const plan::Attention& op) {
    const std::string name = fmt::format("blk.{}.attn_probs", op.layer);
    if (!wants(name)) return;
    const std::size_t n_positions = batch_.longest;
    std::vector<float> probabilities(std::size_t{op.n_heads} * n_tokens_ * n_positions, 0.0f);
    std::vector<float> key(op.head_dim);
    for (std::uint32_t head = 0; head < op.n_heads; ++head) {
      const std::uint32_t kv_head = static_cast<std::uint32_t>(std::uint64_t{head} * op.n_kv_heads / op.n_heads);
      for (std::uint32_t token = 0; token < n_tokens_; ++token) {
        const std::uint32_t position = this->position(token);
        const std::uint32_t first = op.window > 0 && position + 1 > op.window ? position + 1 - op.window : 0;
        const float* q = row_of(op.q, token) + std::size_t{head} * op.head_dim;
        float* p = probabilities.data() + (std::size_t{head} * n_tokens_ + token) * n_positions;
        float largest = -std::numeric_limits<float>::infinity();
        for (std::uint32_t s = first; s <= position; ++s) {
          load_key(cache(token), op, kv_head, s, key);
          float score = 0;
          for (std::uint32_t d = 0; d < op.head_dim; ++d) score += q[d] * op.scale * key[d];
          if (op.soft_cap > 0) score = op.soft_cap * std::tanh(score / op.soft_cap);
          p[s] = score;
          largest = std::max(largest, score);
        }
        if (op.sinks) largest = std::max(largest, vectors_[op.sinks->index][head]);
        float total = op.sinks ? std::exp(vectors_[op.sinks->index][head] - largest) : 0;
        for (std::uint32_t s = first; s <= position; ++s) total += p[s] = std::exp(p[s] - largest);
        for (std::uint32_t s = first; s <= position; ++s) p[s] /= total;
      }
    }
    observer_(name, std::uint64_t{op.n_heads} * n_tokens_, n_positions, probabilities);
  }
  static void load_key(const Cache& cache, const plan::Attention& op, std::uint32_t kv_head, std::uint32_t position,
                       std::vector<float>& key) {
    const std::byte* row = cache.keys(position / kv_block, op.layer, kv_head) + position % kv_block * cache.row_bytes();
    if (cache.f16()) {
      quants::info(quants::Format::f16).decode(row, key.data(), key.size());
    } else {
      std::memcpy(key.data(), row, key.size() * sizeof(float));
    }
  }

  std::shared_ptr<const Plan> plan_;
  const KernelTable& kernels_;
  int planes_;
  const KernelTable::Rounded& rounded_;
  Schedule schedule_;
  std::vector<std::vector<float>> vectors_;  // decode_vectors, by WeightId
  std::uint32_t max_batch_;
  std::shared_ptr<const CacheShape> cache_shape_;
  std::uint64_t n_pools_ = 0;

  // The step that runs.
  std::vector<Cache*> caches_;  // by sequence
  Batch batch_;
  std::uint32_t n_tokens_ = 0;
  std::uint32_t n_outputs_ = 0;

  Scratch token_arena_, output_arena_, partials_;
  std::vector<std::vector<float>> angles_;  // by index of Schedule::angles: [T][n_rot]
  Pool pool_;                               // its threads use what is above
  std::vector<Scratch> scratch_;            // by thread
};

}  // namespace

Result<std::unique_ptr<Executor>> make_executor(std::shared_ptr<const Plan> plan, const LoadOptions& options, Isa isa) {
  if (options.n_threads > most_threads) {
    return fail("{} threads are more than the {} that the cpu backend uses; ask for fewer", options.n_threads,
                most_threads);
  }
  PLUMB_TRY(auto vectors, decode_vectors(*plan));
  PLUMB_TRY(auto schedule, make_schedule(*plan, vectors, planes(options.activations)));
  try {
    return std::make_unique<CpuExecutor>(std::move(plan), options, isa, std::move(schedule), std::move(vectors));
  } catch (const std::system_error& error) {
    return fail("cannot start {} threads ({}); ask for fewer", options.n_threads, error.what());
  }
}

}  // namespace plumb::backends::cpu
