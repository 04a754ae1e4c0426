#include "backends/reference/reference.h"

#include <span>
#include <string>
#include <utility>
#include <variant>

#include "backends/batch.h"
#include "backends/reference/ops.h"
#include "base/half.h"
#include "base/machine.h"

namespace plumb::backends {

namespace {

using plan::Plan;

constexpr std::uint32_t default_batch = 512;

class Cache final : public KvCache {
 public:
  // The shape's address names the executor: a cache keeps it alive.
  Cache(std::shared_ptr<const plan::CacheShape> shape, std::uint64_t pool, std::uint32_t capacity, KvType type)
      : KvCache(pool, capacity),
        type_(type),
        width_(std::uint64_t{shape->n_kv_heads} * shape->head_dim),
        keys_(shape->n_layers),
        values_(shape->n_layers),
        shape_(std::move(shape)) {}

  [[nodiscard]] bool belongs_to(const plan::CacheShape* shape) const { return shape_.get() == shape; }
  void filled(std::uint32_t n) { extend(n); }

  void write(std::uint32_t layer, std::uint32_t position, const float* k, const float* v) {
    store(keys_[layer], position, k);
    store(values_[layer], position, v);
  }
  [[nodiscard]] const float* key(std::uint32_t layer, std::uint32_t position) const {
    return keys_[layer].data() + position * width_;
  }
  [[nodiscard]] const float* value(std::uint32_t layer, std::uint32_t position) const {
    return values_[layer].data() + position * width_;
  }

 private:
  void store(std::vector<float>& rows, std::uint32_t position, const float* row) const {
    if (rows.size() < (position + 1) * width_) rows.resize((position + 1) * width_);
    for (std::uint64_t i = 0; i < width_; ++i) {
      rows[position * width_ + i] = type_ == KvType::f16 ? f16_to_f32(f32_to_f16(row[i])) : row[i];
    }
  }

  KvType type_;
  std::uint64_t width_;  // n_kv_heads * head_dim
  // [layer][position * width]; rounded to the cache's type, kept as float
  std::vector<std::vector<float>> keys_, values_;
  std::shared_ptr<const plan::CacheShape> shape_;
};

class ReferenceExecutor final : public Executor {
 public:
  ReferenceExecutor(std::shared_ptr<const Plan> plan, Substitute substitute, const LoadOptions& options)
      : plan_(std::move(plan)),
        cache_shape_(std::make_shared<const plan::CacheShape>(plan_->cache)),
        max_batch_(options.max_batch > 0 ? options.max_batch : default_batch),
        substitute_(std::move(substitute)),
        values_(plan_->values.size()) {
    scene_.plan = plan_.get();
    scene_.n_threads = options.n_threads > 0 ? options.n_threads : usable_cores();
    scene_.value = [this](plan::ValueId id) { return std::span<const float>(values_[id.index]); };
    scene_.weight = [this](plan::WeightId id) { return reference::rows_of(plan_->weight(id).tensor); };
    scene_.key = [this](std::uint32_t layer, std::uint64_t row, std::uint32_t position) {
      return cache(row).key(layer, position);
    };
    scene_.cached_value = [this](std::uint32_t layer, std::uint64_t row, std::uint32_t position) {
      return cache(row).value(layer, position);
    };
    scene_.cached = [this](std::uint64_t row) { return position(row) + 1; };
  }

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
    scene_.rows = batch_.rows;
    scene_.n_outputs = batch_.n_outputs;
    for (const plan::Op& op : plan_->ops) execute(op);
    for (std::size_t i = 0; i < steps.size(); ++i) caches_[i]->filled(static_cast<std::uint32_t>(steps[i].tokens.size()));
    return std::span<const float>(values_[plan_->logits.index]);
  }

 private:
  [[nodiscard]] std::uint32_t n_tokens() const { return batch_.n_rows(); }
  [[nodiscard]] std::uint64_t n_rows(plan::ValueId id) const {
    return plan_->value(id).rows == plan::Rows::tokens ? n_tokens() : batch_.n_outputs;
  }
  [[nodiscard]] std::uint32_t position(std::uint64_t row) const { return batch_.rows[row].position; }
  [[nodiscard]] Cache& cache(std::uint64_t row) const { return *caches_[batch_.rows[row].sequence]; }
  [[nodiscard]] const float* in(plan::ValueId id) const { return values_[id.index].data(); }
  void show(plan::ValueId id) {
    const plan::Value& value = plan_->value(id);
    if (substitute_) substitute_(value.name, n_rows(id), value.width, values_[id.index]);
    if (wants(value.name)) observer_(value.name, n_rows(id), value.width, values_[id.index]);
  }

  void execute(const plan::Op& op) {
    if (const auto* write = std::get_if<plan::KvWrite>(&op)) {
      const std::uint64_t width = plan_->value(write->k).width;
      for (std::uint32_t t = 0; t < n_tokens(); ++t) {
        cache(t).write(write->layer, position(t), in(write->k) + t * width, in(write->v) + t * width);
      }
      return;
    }
    const plan::ValueId out = *plan::output(op);
    const auto* attention = std::get_if<plan::Attention>(&op);
    const std::string probs_name = attention != nullptr ? "blk." + std::to_string(attention->layer) + ".attn_probs" : "";
    if (attention != nullptr && wants(probs_name)) {
      std::vector<float> probs;
      values_[out.index] =
          reference::attend(*attention, attention_rule(*attention, scene_), scene_, &probs, batch_.longest);
      observer_(probs_name, std::uint64_t{attention->n_heads} * n_tokens(), batch_.longest, probs);
    } else {
      values_[out.index] = reference::compute(op, scene_);
    }
    show(out);
  }

  std::shared_ptr<const Plan> plan_;
  std::shared_ptr<const plan::CacheShape> cache_shape_;
  std::uint32_t max_batch_;
  Substitute substitute_;
  std::vector<std::vector<float>> values_;  // by ValueId, as the current step left them
  std::uint64_t n_pools_ = 0;
  std::vector<Cache*> caches_;  // by sequence
  Batch batch_;
  reference::Scene scene_;
};

class ReferenceBackend final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "reference"; }
  [[nodiscard]] std::string description() const override { return "plain loops in double precision"; }
  [[nodiscard]] Result<std::unique_ptr<Executor>> load(std::shared_ptr<const Plan> plan,
                                                       const LoadOptions& options) override {
    return load_reference(std::move(plan), {}, options);
  }
};

}  // namespace

std::unique_ptr<Backend> make_reference() { return std::make_unique<ReferenceBackend>(); }

std::unique_ptr<Executor> load_reference(std::shared_ptr<const Plan> plan, Substitute substitute,
                                         const LoadOptions& options) {
  return std::make_unique<ReferenceExecutor>(std::move(plan), std::move(substitute), options);
}

}  // namespace plumb::backends
