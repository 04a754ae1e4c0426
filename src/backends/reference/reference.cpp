#include "backends/reference/reference.h"

#include <algorithm>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "backends/reference/ops.h"
#include "backends/step.h"
#include "base/half.h"
#include "base/machine.h"

namespace plumb::backends {

namespace {

using plan::Plan;

// Keys and values, rounded to the pool's type and stored as float.
class Cache final : public KvCache {
 public:
  Cache(std::shared_ptr<CachePool> pool, std::uint32_t slot) : KvCache(std::move(pool), slot) {
    keys_.resize(this->pool().shape->n_layers());
    values_.resize(keys_.size());
  }

  void write(std::uint32_t layer, std::uint32_t position, const float* k, const float* v) {
    store(keys_[layer], layer, position, k);
    store(values_[layer], layer, position, v);
  }
  [[nodiscard]] const float* key(std::uint32_t layer, std::uint32_t position) const {
    return keys_[layer].data() + position * of(layer).width();
  }
  [[nodiscard]] const float* value(std::uint32_t layer, std::uint32_t position) const {
    return values_[layer].data() + position * of(layer).width();
  }

  // A head's rows, [rows, head_dim] of the pool's type.
  void read(const CachedHead& head, std::span<std::byte> rows) const {
    const std::size_t head_dim = of(head.layer).head_dim, row_bytes = format().row_bytes(head_dim);
    const std::vector<float>& from = (head.values ? values_ : keys_)[head.layer];
    for (std::size_t i = 0; i * row_bytes < rows.size(); ++i) {
      format().encode(&from[at(i, head)], rows.data() + i * row_bytes, head_dim);
    }
  }
  void fill(const CachedHead& head, std::span<const std::byte> rows) {
    const std::size_t head_dim = of(head.layer).head_dim, row_bytes = format().row_bytes(head_dim);
    std::vector<float>& to = (head.values ? values_ : keys_)[head.layer];
    to.resize(std::max<std::size_t>(to.size(), rows.size() / row_bytes * of(head.layer).width()));
    for (std::size_t i = 0; i * row_bytes < rows.size(); ++i) {
      format().decode(rows.data() + i * row_bytes, &to[at(i, head)], head_dim);
    }
  }

 private:
  [[nodiscard]] const quants::FormatInfo& format() const { return quants::info(format_of(pool().type)); }
  [[nodiscard]] const plan::LayerCache& of(std::uint32_t layer) const { return pool().shape->layers[layer]; }
  [[nodiscard]] std::size_t at(std::size_t position, const CachedHead& head) const {
    return position * of(head.layer).width() + std::size_t{head.head} * of(head.layer).head_dim;
  }
  void store(std::vector<float>& rows, std::uint32_t layer, std::uint32_t position, const float* row) const {
    const std::uint64_t width = of(layer).width();
    if (rows.size() < (position + 1) * width) rows.resize((position + 1) * width);
    for (std::uint64_t i = 0; i < width; ++i) {
      rows[position * width + i] = pool().type == KvType::f16 ? f16_to_f32(f32_to_f16(row[i])) : row[i];
    }
  }

  std::vector<std::vector<float>> keys_, values_;  // [layer][position * width]
};

class ReferenceExecutor final : public PlanExecutor {
 public:
  ReferenceExecutor(std::shared_ptr<const Plan> plan, Substitute substitute, const LoadOptions& options)
      : PlanExecutor(std::move(plan), options.max_batch),
        substitute_(std::move(substitute)),
        values_(this->plan().values.size()) {
    scene_.plan = &this->plan();
    scene_.n_threads = options.n_threads > 0 ? options.n_threads : usable_cores();
    scene_.value = [this](plan::ValueId id) { return std::span<const float>(values_[id.index]); };
    scene_.weight = [this](plan::WeightId id) { return reference::rows_of(this->plan().weight(id).tensor); };
    scene_.key = [this](std::uint32_t layer, std::uint64_t row, std::uint32_t position) {
      return cache(row).key(layer, position);
    };
    scene_.cached_value = [this](std::uint32_t layer, std::uint64_t row, std::uint32_t position) {
      return cache(row).value(layer, position);
    };
    scene_.cached = [this](std::uint64_t row) { return batch().length(row); };
  }

  [[nodiscard]] std::uint32_t n_threads() const override { return scene_.n_threads; }

 private:
  Result<std::vector<std::unique_ptr<KvCache>>> make_caches(const CachePool& pool) override {
    return caches_of<Cache>(std::make_shared<CachePool>(pool));
  }
  Result<void> read_head(const KvCache& cache, const CachedHead& head, std::span<std::byte> rows) override {
    static_cast<const Cache&>(cache).read(head, rows);
    return {};
  }
  Result<void> fill_head(KvCache& cache, const CachedHead& head, std::span<const std::byte> rows) override {
    static_cast<Cache&>(cache).fill(head, rows);
    return {};
  }

  Result<std::span<const float>> run_batch() override {
    scene_.rows = batch().rows;
    scene_.n_outputs = batch().n_outputs;
    scene_.capacity = batch().caches.front()->capacity();
    for (const plan::Op& op : plan().ops) {
      if (const auto* write = std::get_if<plan::KvWrite>(&op)) {
        write_cache(*write);
      } else {
        execute(op, *plan::output(op));
      }
    }
    return std::span<const float>(values_[plan().logits.index]);
  }

  [[nodiscard]] Cache& cache(std::uint64_t row) const { return static_cast<Cache&>(batch().cache(row)); }

  void write_cache(const plan::KvWrite& op) {
    const std::uint64_t width = plan().value(op.k).width;
    for (std::uint32_t t = 0; t < batch().n_rows(); ++t) {
      cache(t).write(op.layer, batch().position(t), values_[op.k.index].data() + t * width,
                     values_[op.v.index].data() + t * width);
    }
  }

  void execute(const plan::Op& op, plan::ValueId out) {
    std::vector<float>& value = values_[out.index];
    const auto* attention = std::get_if<plan::Attention>(&op);
    if (attention != nullptr && wants_probs(*attention)) {
      std::vector<float> probs;
      value = reference::attend(*attention, attention_rule(*attention, scene_), scene_, &probs, batch().longest);
      show_probs(*attention, probs);
    } else {
      value = reference::compute(op, scene_);
    }
    if (substitute_) substitute_(plan().value(out).name, n_rows(out), plan().value(out).width, value);
    if (wants(out)) show(out, value);
  }

  Substitute substitute_;
  std::vector<std::vector<float>> values_;  // by ValueId, of the current step
  reference::Scene scene_;
};

class ReferenceBackend final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "reference"; }
  [[nodiscard]] std::string description(std::uint32_t) const override { return "plain loops in double precision"; }
  [[nodiscard]] Result<std::unique_ptr<Executor>> load(std::shared_ptr<const Plan> plan,
                                                       const LoadOptions& options) override {
    PLUMB_CHECK(check_tensors(*plan));
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
