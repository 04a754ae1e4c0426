#include "backends/gpu/executor.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "backends/gpu/operations.h"
#include "backends/gpu/step.h"
#include "backends/step.h"

namespace plumb::backends::gpu {

namespace {

// The most recordings to keep; each may take some MiB on the device.
constexpr std::uint64_t most_recordings = 64;

class GpuExecutor final : public PlanExecutor {
 public:
  GpuExecutor(std::shared_ptr<const plan::Plan> of, std::unique_ptr<Device> device, const LoadOptions& options)
      : PlanExecutor(std::move(of), options.max_batch == 0 ? device->preferred_batch() : options.max_batch),
        device_(std::move(device)),
        tuned_(!options.shared_kernels),
        weights_(plan()),
        memory_(*device_, plan(), batch(), options.guard_zones),
        step_(plan(), batch(), weights_, memory_) {}

  Result<void> load(const LoadProgress& progress) { return weights_.upload(*device_, progress); }

  Result<std::optional<std::vector<std::string>>> changed_weights() override {
    PLUMB_TRY(auto changed, weights_.changed(*device_));
    return std::optional(std::move(changed));
  }

 private:
  Result<std::vector<std::unique_ptr<KvCache>>> make_caches(const CachePool& shared) override {
    const auto pool = std::make_shared<Pool>(shared);
    PLUMB_CHECK(pool->allocate(*device_));
    if (poisons_) {
      for (const View& plane : pool->memory.views) PLUMB_CHECK(fill_with_poison(*device_, plane));
    }
    return caches_of<KvCache>(pool);
  }
  Result<void> read_head(const KvCache& cache, const CachedHead& head, std::span<std::byte> rows) override {
    return device_->download(rows_of(cache, head, rows.size()), rows);
  }
  Result<void> fill_head(KvCache& cache, const CachedHead& head, std::span<const std::byte> rows) override {
    return device_->upload(rows_of(cache, head, rows.size()), rows);
  }
  // The first rows of a head, whose rows lie one after the other; `bytes` long.
  [[nodiscard]] View rows_of(const KvCache& cache, const CachedHead& head, std::uint64_t bytes) const {
    const CacheView layer = static_cast<const Pool&>(cache.pool()).layer(head.layer);
    const View& plane = head.values ? layer.values : layer.keys;
    const std::uint64_t of_layer = plan().cache.layers[head.layer].n_kv_heads;
    const std::uint64_t n_heads = cache.pool().n_caches * of_layer;
    const std::uint64_t index = cache.slot() * of_layer + head.head;
    return {plane.memory, plane.offset + index * (plane.bytes / n_heads), bytes};
  }

  Result<std::span<const float>> run_batch() override {
    PLUMB_TRY(const bool moved, memory_.reserve(partial_bytes(step_)));
    if (moved) forget_recordings();
    if (tuned_) {
      PLUMB_TRY(const bool stale, device_->prepare(step_));
      if (stale) forget_recordings();
    }
    PLUMB_CHECK(memory_.begin(poisons_));
    if (observer_) {
      PLUMB_CHECK(run_op_by_op());
    } else if (batch().n_rows() == batch().caches.size()) {
      const Pool::Recording& recording = recorded();
      PLUMB_CHECK(device_->run(recording.launches, recording.tag));
    } else {
      PLUMB_CHECK(device_->run(emit_all(), 0));
    }
    PLUMB_CHECK(memory_.check_guards());
    return download(step_.value(plan().logits), data_);
  }

  Result<std::span<const float>> download(const View& view, std::vector<float>& to) {
    to.resize(view.bytes / sizeof(float));
    PLUMB_CHECK(device_->download(view, std::as_writable_bytes(std::span(to))));
    return std::span<const float>(to);
  }

  // The launches of all ops; the device's tuned kernels where it has them.
  [[nodiscard]] Launches emit_all() const {
    Launches launches;
    for (std::size_t i = 0; i < plan().ops.size();) {
      const std::size_t covered = tuned_ ? device_->emit(step_, i, launches) : 0;
      if (covered == 0) emit(step_, i, launches);
      i += std::max<std::size_t>(covered, 1);
    }
    return launches;
  }

  // The launches of a step with one token for each sequence. A recording of an earlier step of the same shape is reused.
  const Pool::Recording& recorded() {
    const std::uint32_t n_rows = batch().n_rows(), n_splits = most_splits(step_);
    auto& recordings = pool_of(batch()).recordings;
    const auto found = std::find_if(recordings.begin(), recordings.end(), [&](const Pool::Recording& known) {
      return known.layout == layout_ && known.n_rows == n_rows && known.n_splits == n_splits;
    });
    if (found != recordings.end()) return *found;
    if (n_recordings_ >= most_recordings) forget_recordings();
    std::erase_if(recordings, [&](const Pool::Recording& old) { return old.layout != layout_; });
    ++n_recordings_;
    return recordings.emplace_back(Pool::Recording{
        .n_rows = n_rows, .n_splits = n_splits, .layout = layout_, .tag = ++n_tags_, .launches = emit_all()});
  }

  // Drops all recordings: they use memory that has been freed, or there are too many.
  void forget_recordings() {
    device_->forget_recordings();
    layout_ += 1;
    n_recordings_ = 0;
  }

  Result<void> run_op_by_op() {
    for (std::size_t i = 0; i < plan().ops.size(); ++i) {
      const plan::Op& op = plan().ops[i];
      Launches launches;
      emit(step_, i, launches);
      PLUMB_CHECK(device_->run(launches, 0));
      if (const auto* attention = std::get_if<plan::Attention>(&op); attention != nullptr && wants_probs(*attention)) {
        PLUMB_CHECK(run_probs(*attention));
      }
      if (const auto out = plan::output(op); out && wants(*out)) {
        PLUMB_TRY(const auto data, download(step_.value(*out), data_));
        show(*out, data);
      }
    }
    return {};
  }
  Result<void> run_probs(const plan::Attention& op) {
    const std::uint64_t bytes = std::uint64_t{op.n_heads} * batch().n_rows() * batch().longest * sizeof(float);
    PLUMB_TRY(const auto memory, device_->allocate(bytes, probs_name(plan(), op)));
    const View probs{memory.get(), 0, bytes};
    Launches launches;
    emit_probs(step_, op, probs, launches);
    PLUMB_CHECK(device_->run(launches, 0));
    PLUMB_TRY(const auto data, download(probs, data_));
    show_probs(op, data);
    return {};
  }

  std::unique_ptr<Device> device_;  // outlives all memory below
  bool tuned_;
  Weights weights_;
  StepMemory memory_;
  StepContext step_;
  std::vector<float> data_;         // the last download
  std::uint64_t layout_ = 0;        // counts how often the memory used by recordings has moved
  std::uint64_t n_recordings_ = 0;  // with this layout, in all pools
  std::uint64_t n_tags_ = 0;
};

class GpuBackend final : public Backend {
 public:
  GpuBackend(std::string_view name, std::function<Result<std::unique_ptr<Device>>()> make_device, std::string description)
      : name_(name), make_device_(std::move(make_device)), description_(std::move(description)) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::string description(std::uint32_t) const override { return description_; }
  [[nodiscard]] Result<std::unique_ptr<Executor>> load(std::shared_ptr<const plan::Plan> plan,
                                                       const LoadOptions& options) override {
    PLUMB_TRY(auto device, make_device_());
    return gpu::load(std::move(plan), std::move(device), options);
  }

 private:
  std::string_view name_;
  std::function<Result<std::unique_ptr<Device>>()> make_device_;
  std::string description_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(std::string_view name, std::function<Result<std::unique_ptr<Device>>()> make_device,
                                      std::string description) {
  return std::make_unique<GpuBackend>(name, std::move(make_device), std::move(description));
}

Result<std::unique_ptr<Executor>> load(std::shared_ptr<const plan::Plan> plan, std::unique_ptr<Device> device,
                                       const LoadOptions& options) {
  PLUMB_CHECK(check_tensors(*plan));
  PLUMB_CHECK(check_shapes(*plan));
  auto executor = std::make_unique<GpuExecutor>(std::move(plan), std::move(device), options);
  PLUMB_CHECK(executor->load(options.progress));
  return executor;
}

}  // namespace plumb::backends::gpu
