#include "backends/gpu/executor.h"

#include <algorithm>
#include <array>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "backends/arena.h"
#include "backends/gpu/operations.h"
#include "backends/rotary.h"
#include "quants/format.h"

namespace plumb::backends::gpu {

namespace {

using plan::Plan;
using plan::Rows;
using plan::ValueId;

constexpr std::uint64_t alignment = 256;
// Recordings kept at a time; a device may hold some MiB for each.
constexpr std::uint64_t most_recordings = 64;
constexpr std::uint64_t aligned(std::uint64_t n) { return (n + alignment - 1) / alignment * alignment; }

// Zones around values that nobody may write to, and what they hold.
constexpr std::size_t guard_bytes = alignment;
constexpr std::array<std::byte, guard_bytes> guard = [] {
  std::array<std::byte, guard_bytes> bytes{};
  for (std::byte& b : bytes) b = std::byte{0xa5};
  return bytes;
}();

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

// Keys and values of sequences that may run together, a slot each, and the launches that were recorded for them.
class Pool {
 public:
  // The shape's address names the executor: a pool keeps it alive.
  Pool(std::shared_ptr<const plan::CacheShape> shape, std::uint64_t id, std::uint32_t n_slots, std::uint32_t capacity,
       KvType type)
      : shape_(std::move(shape)), id_(id), n_slots_(n_slots), capacity_(capacity), type_(type) {}

  [[nodiscard]] bool belongs_to(const plan::CacheShape* shape) const { return shape_.get() == shape; }
  [[nodiscard]] std::uint64_t id() const { return id_; }

  Result<void> allocate(Device& device) {
    const std::uint64_t elements = std::uint64_t{n_slots_} * shape_->n_kv_heads * capacity_ * shape_->head_dim;
    const std::uint64_t plane = elements * (type_ == KvType::f16 ? 2 : 4);
    const std::uint64_t n_planes = std::uint64_t{2} * shape_->n_layers;
    const std::uint64_t stride = aligned(plane);
    if (device.isolates_values()) {
      for (std::uint64_t i = 0; i < n_planes; ++i) {
        PLUMB_TRY(auto memory, device.allocate(plane, "the KV cache"));
        planes_.push_back({memory.get(), 0, plane});
        memories_.push_back(std::move(memory));
      }
      return {};
    }
    PLUMB_TRY(auto memory, device.allocate(std::max<std::uint64_t>(1, stride * n_planes), "the KV cache"));
    for (std::uint64_t i = 0; i < n_planes; ++i) planes_.push_back({memory.get(), i * stride, plane});
    memories_.push_back(std::move(memory));
    return {};
  }
  [[nodiscard]] CacheView layer(std::uint32_t i) const {
    return {.keys = planes_[2 * i], .values = planes_[2 * i + 1], .type = type_, .capacity = capacity_};
  }

  [[nodiscard]] const std::vector<View>& planes() const { return planes_; }

  // A step of one token a sequence.
  struct Recording {
    std::uint32_t n_rows = 0;
    std::uint32_t n_splits = 0;
    std::uint64_t layout = 0;  // of the executor's memory
    std::uint64_t tag = 0;
    Launches launches;
  };
  std::vector<Recording> recordings;

 private:
  std::shared_ptr<const plan::CacheShape> shape_;
  std::uint64_t id_;
  std::uint32_t n_slots_, capacity_;
  KvType type_;
  std::vector<std::unique_ptr<Memory>> memories_;
  std::vector<View> planes_;
};

class Cache final : public KvCache {
 public:
  Cache(std::shared_ptr<Pool> pool, std::uint32_t slot, std::uint32_t capacity)
      : KvCache(pool->id(), capacity), pool_(std::move(pool)), slot_(slot) {}
  [[nodiscard]] Pool& shared() const { return *pool_; }
  [[nodiscard]] std::uint32_t slot() const { return slot_; }
  void filled(std::uint32_t n) { extend(n); }

 private:
  std::shared_ptr<Pool> pool_;
  std::uint32_t slot_;
};

// Where a value lies in the arena: `offset` bytes for each row of the step that is run.
struct Place {
  std::uint64_t offset = 0;
  std::uint64_t row_bytes = 0;
};

class GpuExecutor final : public Executor, private StepContext {
 public:
  GpuExecutor(std::shared_ptr<const Plan> plan, std::unique_ptr<Device> device, const LoadOptions& options)
      : plan_(std::move(plan)),
        cache_shape_(std::make_shared<const plan::CacheShape>(plan_->cache)),
        device_(std::move(device)),
        max_batch_(options.max_batch == 0 ? device_->preferred_batch() : options.max_batch),
        tuned_(!options.shared_kernels),
        guards_(options.guard_zones) {}

  Result<void> load() {
    for (const plan::Op& op : plan_->ops) PLUMB_CHECK(check(op));
    PLUMB_CHECK(upload_weights());
    PLUMB_CHECK(make_turns());
    place_values();
    return {};
  }

  [[nodiscard]] std::uint32_t max_batch() const override { return max_batch_; }
  [[nodiscard]] const Plan& plan() const override { return *plan_; }  // of Executor and of StepContext

  [[nodiscard]] Result<std::vector<std::unique_ptr<KvCache>>> new_caches(std::uint32_t n, std::uint32_t capacity,
                                                                         KvType type) override {
    const auto pool = std::make_shared<Pool>(cache_shape_, ++n_pools_, n, capacity, type);
    PLUMB_CHECK(pool->allocate(*device_));
    if (poisons_) {
      for (const View& plane : pool->planes()) PLUMB_CHECK(fill_with_poison(plane));
    }
    std::vector<std::unique_ptr<KvCache>> caches(n);
    for (std::uint32_t slot = 0; slot < n; ++slot) caches[slot] = std::make_unique<Cache>(pool, slot, capacity);
    return caches;
  }

  using Executor::run;
  Result<std::span<const float>> run(std::span<const Step> steps) override {
    caches_.clear();
    for (const Step& step : steps) {
      caches_.push_back(dynamic_cast<Cache*>(step.cache));
      if (caches_.back() == nullptr || !caches_.back()->shared().belongs_to(cache_shape_.get())) {
        return fail("the step's KV cache belongs to another executor");
      }
    }
    PLUMB_TRY(batch_, make_batch(*plan_, steps, max_batch_));
    pool_ = &caches_.front()->shared();
    n_tokens_ = batch_.n_rows();
    n_outputs_ = batch_.n_outputs;
    PLUMB_CHECK(reserve());
    PLUMB_CHECK(upload_rows());

    if (poisons_) PLUMB_CHECK(poison_values());
    if (isolates()) {
      for (std::size_t i = 0; i < plan_->values.size(); ++i) device_->forget(value({static_cast<std::uint32_t>(i)}));
    }
    if (guards_) PLUMB_CHECK(set_guards());
    if (observer_) {
      PLUMB_CHECK(run_op_by_op());
    } else if (n_tokens_ == steps.size()) {
      const Pool::Recording& recording = recorded();
      PLUMB_CHECK(device_->run(recording.launches, recording.tag));
    } else {
      Launches launches;
      emit_all(launches);
      PLUMB_CHECK(device_->run(launches, 0));
    }
    if (guards_) PLUMB_CHECK(check_guards());
    const View logits = value(plan_->logits);
    logits_.resize(logits.bytes / sizeof(float));
    PLUMB_CHECK(device_->download(logits, std::as_writable_bytes(std::span(logits_))));
    for (std::size_t i = 0; i < steps.size(); ++i) caches_[i]->filled(static_cast<std::uint32_t>(steps[i].tokens.size()));
    return std::span<const float>(logits_);
  }

 private:
  Result<void> check(const plan::Op& op) const {
    if (const auto* attention = std::get_if<plan::Attention>(&op)) {
      if (attention->head_dim > max_head_dim) {
        return fail("heads of {} elements are longer than the {} that GPU kernels take; use --backend cpu",
                    attention->head_dim, max_head_dim);
      }
    }
    return {};
  }

  Result<std::optional<std::vector<std::string>>> changed_weights() override {
    std::vector<std::string> changed;
    std::vector<std::byte> there;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      const std::span<const std::byte> right = source(i);
      there.resize(right.size());
      PLUMB_CHECK(device_->download(weights_[i].view, there));
      if (!std::equal(right.begin(), right.end(), there.begin())) changed.emplace_back(plan_->weights[i].tensor.name);
    }
    return std::optional(std::move(changed));
  }

  // What was uploaded of a weight.
  [[nodiscard]] std::span<const std::byte> source(std::size_t i) const {
    return decoded_[i].empty() ? plan_->weights[i].tensor.data.first(weights_[i].view.bytes) : bytes_of(decoded_[i]);
  }

  // Which of the plan's weights are read as float: norms, biases, factors, sinks. By WeightId.
  [[nodiscard]] std::vector<bool> vectors() const {
    std::vector<bool> is_vector(plan_->weights.size());
    for (const plan::Op& op : plan_->ops) {
      if (const auto* norm = std::get_if<plan::Norm>(&op)) is_vector[norm->weight.index] = true;
      if (const auto* linear = std::get_if<plan::Linear>(&op); linear && linear->bias)
        is_vector[linear->bias->index] = true;
      if (const auto* rope = std::get_if<plan::Rope>(&op); rope && rope->factors) is_vector[rope->factors->index] = true;
      if (const auto* experts = std::get_if<plan::ExpertLinear>(&op); experts && experts->bias)
        is_vector[experts->bias->index] = true;
      if (const auto* attention = std::get_if<plan::Attention>(&op); attention && attention->sinks)
        is_vector[attention->sinks->index] = true;
    }
    return is_vector;
  }

  Result<void> upload_weights() {
    const std::vector<bool> is_vector = vectors();
    decoded_.resize(plan_->weights.size());
    weights_.resize(plan_->weights.size());
    std::vector<std::span<const std::byte>> sources;
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < plan_->weights.size(); ++i) {
      const gguf::Tensor& tensor = plan_->weights[i].tensor;
      const quants::FormatInfo& format = quants::info(tensor.format);
      const std::uint64_t bytes = format.row_bytes(tensor.dims[0]) * tensor.n_rows();
      if (tensor.data.size() < bytes) {
        return fail("tensor '{}' has {} bytes; its shape needs {}", tensor.name, tensor.data.size(), bytes);
      }
      std::span<const std::byte> source = tensor.data.first(bytes);
      if (is_vector[i]) {
        decoded_[i].resize(tensor.n_elements());
        format.decode(tensor.data.data(), decoded_[i].data(), tensor.n_elements() / format.block_size);
        source = bytes_of(decoded_[i]);
      }
      weights_[i] = {.view = {nullptr, total, source.size()},
                     .format = is_vector[i] ? quants::Format::f32 : tensor.format,
                     .n_in = static_cast<std::uint32_t>(tensor.dims[0]),
                     .n_out = static_cast<std::uint32_t>(tensor.dims[1]),
                     .n_experts = static_cast<std::uint32_t>(tensor.dims[2])};
      sources.push_back(source);
      total += aligned(source.size());
    }
    if (!device_->isolates_values()) {
      PLUMB_TRY(auto memory, device_->allocate(total + alignment, "the weights"));
      for (WeightView& weight : weights_) weight.view.memory = memory.get();
      weight_memory_.push_back(std::move(memory));
    } else {
      for (WeightView& weight : weights_) {
        PLUMB_TRY(auto memory, device_->allocate(weight.view.bytes, "the weights"));
        weight.view = {memory.get(), 0, weight.view.bytes};
        weight_memory_.push_back(std::move(memory));
      }
    }
    for (std::size_t i = 0; i < sources.size(); ++i) PLUMB_CHECK(device_->upload(weights_[i].view, sources[i]));
    return {};
  }

  // The rotation of each pair of each Rope, as kernels/rope.h wants it.
  Result<void> make_turns() {
    turns_.resize(plan_->ops.size());
    std::vector<std::pair<Angles, View>> known;
    for (std::size_t i = 0; i < plan_->ops.size(); ++i) {
      const auto* op = std::get_if<plan::Rope>(&plan_->ops[i]);
      if (op == nullptr) continue;
      const std::vector<float>* factors = op->factors ? &decoded_[op->factors->index] : nullptr;
      if (factors != nullptr && factors->size() < op->n_rot / 2) {
        return fail("tensor '{}' has {} rotary factors; {} are needed", plan_->weight(*op->factors).tensor.name,
                    factors->size(), op->n_rot / 2);
      }
      const Angles angles = angles_for(*op, factors);
      const auto found = std::find_if(known.begin(), known.end(), [&](const auto& entry) {
        return entry.first.frequency == angles.frequency && entry.first.magnitude == angles.magnitude;
      });
      if (found != known.end()) {
        turns_[i] = found->second;
        continue;
      }
      std::vector<dialect::float4> turns;
      for (const double frequency : angles.frequency) {
        const double turn = frequency / (2 * std::numbers::pi);
        const auto high = static_cast<float>(turn);
        turns.push_back({high, static_cast<float>(turn - double{high}), angles.magnitude, 0});
      }
      const std::uint64_t bytes = turns.size() * sizeof(dialect::float4);
      PLUMB_TRY(auto memory, device_->allocate(std::max<std::uint64_t>(bytes, 1), "rotary angles"));
      turns_[i] = {memory.get(), 0, bytes};
      PLUMB_CHECK(device_->upload(turns_[i], bytes_of(turns)));
      weight_memory_.push_back(std::move(memory));
      known.emplace_back(angles, turns_[i]);
    }
    return {};
  }

  // Offsets by lifetime. Rows::outputs values are given room for as many rows as tokens ones: a step may ask for all.
  void place_values() {
    places_.resize(plan_->values.size());
    std::vector<std::size_t> last_use(plan_->values.size(), 0);
    for (std::size_t i = 0; i < plan_->ops.size(); ++i) {
      for (const ValueId id : plan::inputs(plan_->ops[i])) last_use[id.index] = i;
      if (const auto out = plan::output(plan_->ops[i])) last_use[out->index] = i;
    }
    last_use[plan_->logits.index] = plan_->ops.size();
    Arena arena;
    Arena logits;
    for (std::size_t i = 0; i < plan_->ops.size(); ++i) {
      if (const auto out = plan::output(plan_->ops[i])) {
        Place& place = places_[out->index];
        place.row_bytes = plan_->value(*out).width * sizeof(float);
        // Values of output rows only are apart: for most steps they have one row.
        Arena& in = plan_->value(*out).rows == Rows::outputs ? logits : arena;
        place.offset = in.take(aligned(place.row_bytes));
      }
      for (std::size_t v = 0; v < last_use.size(); ++v) {
        if (last_use[v] == i && places_[v].row_bytes > 0) {
          (plan_->values[v].rows == Rows::outputs ? logits : arena).release(places_[v].offset);
        }
      }
    }
    token_row_bytes_ = arena.peak();
    output_row_bytes_ = logits.peak();
  }

  [[nodiscard]] bool isolates() const { return guards_ || device_->isolates_values(); }

  // A value's zones: before it, and after what this step has of it.
  static std::array<View, 2> zones(const View& value) {
    return {View{value.memory, value.offset - guard_bytes, guard_bytes},
            View{value.memory, value.offset + value.bytes, guard_bytes}};
  }
  Result<void> set_guards() {
    for (std::size_t i = 0; i < plan_->values.size(); ++i) {
      for (const View& zone : zones(value({static_cast<std::uint32_t>(i)}))) PLUMB_CHECK(device_->upload(zone, guard));
    }
    return {};
  }
  Result<void> check_guards() {
    for (std::size_t i = 0; i < plan_->values.size(); ++i) {
      const auto around = zones(value({static_cast<std::uint32_t>(i)}));
      for (const bool after : {false, true}) {
        std::array<std::byte, guard_bytes> found{};
        PLUMB_CHECK(device_->download(around[after ? 1 : 0], found));
        const auto at = std::mismatch(found.begin(), found.end(), guard.begin()).first;
        if (at == found.end()) continue;
        const auto byte = static_cast<std::uint64_t>(at - found.begin());
        return fail("a kernel wrote {} bytes {} value '{}', which no op of the step owns: this is a defect of Plumb",
                    after ? byte : guard_bytes - byte, after ? "past the end of" : "before", plan_->values[i].name);
      }
    }
    return {};
  }

  Result<void> fill_with_poison(const View& view) {
    constexpr std::uint64_t most = 16u << 20;  // bytes at a time
    const std::vector<std::byte> bytes(std::min(most, view.bytes), poison);
    for (std::uint64_t at = 0; at < view.bytes; at += most) {
      const std::uint64_t n = std::min(most, view.bytes - at);
      PLUMB_CHECK(device_->upload({view.memory, view.offset + at, n}, std::span(bytes).first(n)));
    }
    device_->forget(view);
    return {};
  }
  Result<void> poison_values() {
    for (const auto* memory : {&token_arena_, &output_arena_, &partial_memory_}) {
      if (*memory) PLUMB_CHECK(fill_with_poison({memory->get(), 0, (*memory)->size()}));
    }
    for (const auto& memory : isolated_) PLUMB_CHECK(fill_with_poison({memory.get(), 0, memory->size()}));
    return {};
  }

  // Memory for a step of n_tokens_ with n_outputs_.
  Result<void> reserve() {
    if (n_tokens_ > rows_reserved_ || n_outputs_ > outputs_reserved_) {
      forget_recordings();
      const std::uint32_t rows = std::max(n_tokens_, rows_reserved_);
      const std::uint32_t outputs = std::max(n_outputs_, outputs_reserved_);
      rows_reserved_ = outputs_reserved_ = 0;
      if (isolates()) {
        isolated_.resize(plan_->values.size());
        for (std::size_t i = 0; i < isolated_.size(); ++i) {
          const std::uint64_t n = plan_->values[i].rows == Rows::tokens ? rows : outputs;
          const std::uint64_t bytes = n * plan_->values[i].width * sizeof(float) + (guards_ ? 2 * guard_bytes : 0);
          PLUMB_TRY(isolated_[i], device_->allocate(bytes, plan_->values[i].name));
        }
      } else {
        token_arena_.reset();
        output_arena_.reset();
        PLUMB_TRY(token_arena_, device_->allocate(std::max<std::uint64_t>(1, token_row_bytes_ * rows), "a step's values"));
        PLUMB_TRY(output_arena_, device_->allocate(std::max<std::uint64_t>(1, output_row_bytes_ * outputs), "logits"));
      }
      PLUMB_TRY(tokens_memory_, device_->allocate(rows * sizeof(TokenId), "a step's tokens"));
      PLUMB_TRY(slots_memory_, device_->allocate(rows * sizeof(std::uint32_t), "a step's slots"));
      PLUMB_TRY(positions_memory_, device_->allocate(rows * sizeof(std::uint32_t), "a step's positions"));
      rows_reserved_ = rows;
      outputs_reserved_ = outputs;
    }
    std::uint64_t partial = 0;
    for (const plan::Op& op : plan_->ops) {
      if (const auto* attention = std::get_if<plan::Attention>(&op)) {
        partial = std::max(partial, attention_partial_bytes(*attention, n_tokens_, splits(*attention)));
      }
    }
    if (partial > 0 && (!partial_memory_ || partial_memory_->size() < partial)) {
      forget_recordings();
      partial_memory_.reset();
      PLUMB_TRY(partial_memory_, device_->allocate(partial, "attention's partial results"));
    }
    if (tuned_) {
      PLUMB_TRY(const bool stale, device_->prepare(*this));
      if (stale) forget_recordings();
    }
    return {};
  }

  [[nodiscard]] std::uint32_t splits(const plan::Attention& op) const {
    return attention_splits(op.n_heads, n_tokens_, batch_.longest);
  }

  // Recordings made so far name memory that is about to go, or are too many.
  void forget_recordings() {
    device_->forget_recordings();
    layout_ += 1;
    n_recordings_ = 0;
  }

  Result<void> upload_rows() {
    std::vector<TokenId> tokens;
    std::vector<std::uint32_t> slots;
    std::vector<std::uint32_t> positions;
    for (const Row& row : batch_.rows) {
      tokens.push_back(row.token);
      slots.push_back(caches_[row.sequence]->slot());
      positions.push_back(row.position);
    }
    PLUMB_CHECK(device_->upload({tokens_memory_.get(), 0, n_tokens_ * sizeof(TokenId)}, bytes_of(tokens)));
    PLUMB_CHECK(device_->upload(row_places().slots, bytes_of(slots)));
    return device_->upload(row_places().positions, bytes_of(positions));
  }

  [[nodiscard]] const Batch& batch() const override { return batch_; }
  [[nodiscard]] RowPlaces row_places() const override {
    const std::uint64_t bytes = n_tokens_ * sizeof(std::uint32_t);
    return {.slots = {slots_memory_.get(), 0, bytes}, .positions = {positions_memory_.get(), 0, bytes}};
  }
  [[nodiscard]] const WeightView& weight(plan::WeightId id) const override { return weights_[id.index]; }
  [[nodiscard]] View turns(std::size_t op) const override { return turns_[op]; }
  [[nodiscard]] CacheView cache(std::uint32_t layer) const override { return pool_->layer(layer); }
  [[nodiscard]] std::uint32_t n_rows(ValueId id) const override {
    return plan_->value(id).rows == Rows::tokens ? n_tokens_ : n_outputs_;
  }
  [[nodiscard]] View value(ValueId id) const override {
    const plan::Value& v = plan_->value(id);
    const std::uint64_t bytes = n_rows(id) * v.width * sizeof(float);
    if (isolates()) return {isolated_[id.index].get(), guards_ ? guard_bytes : 0, bytes};
    const Place& place = places_[id.index];
    if (v.rows == Rows::tokens) return {token_arena_.get(), place.offset * n_tokens_, bytes};
    return {output_arena_.get(), place.offset * n_outputs_, bytes};
  }
  [[nodiscard]] std::uint32_t width(ValueId id) const { return static_cast<std::uint32_t>(plan_->value(id).width); }
  [[nodiscard]] View vector(plan::WeightId id) const { return weights_[id.index].view; }

  // Every op, by the device's own kernels where it has them.
  void emit_all(Launches& to) {
    for (std::size_t i = 0; i < plan_->ops.size();) {
      const std::size_t covered = tuned_ ? device_->emit(*this, i, to) : 0;
      if (covered == 0) emit(plan_->ops[i], to);
      i += std::max<std::size_t>(covered, 1);
    }
  }

  void emit(const plan::Op& op, Launches& to) {
    op_ = static_cast<std::size_t>(&op - plan_->ops.data());
    std::visit([&](const auto& o) { emit_op(o, to); }, op);
  }

  void emit_op(const plan::Embed& op, Launches& to) {
    embed(to, weights_[op.table.index], {tokens_memory_.get(), 0, n_tokens_ * sizeof(TokenId)}, n_tokens_, op.scale,
          value(op.out));
  }
  void emit_op(const plan::Norm& op, Launches& to) {
    const std::uint32_t group = weights_[op.weight.index].n_in;
    rms_norm(to, value(op.x), vector(op.weight), group, n_rows(op.x) * (width(op.x) / group), op.eps, value(op.out));
  }
  void emit_op(const plan::Linear& op, Launches& to) {
    View x = value(op.x);
    const std::uint32_t rows = n_rows(op.out);
    const std::uint64_t skipped = std::uint64_t{n_rows(op.x) - rows} * width(op.x) * sizeof(float);
    x.offset += skipped;
    x.bytes -= skipped;
    linear(to, weights_[op.weight.index], op.bias ? vector(*op.bias) : View{}, x, rows, value(op.out));
  }
  void emit_op(const plan::Rope& op, Launches& to) {
    rope(to, row_places().positions, turns_[op_], op, width(op.x), n_tokens_, value(op.x), value(op.out));
  }
  void emit_op(const plan::KvWrite& op, Launches& to) {
    kv_write(to, row_places(), value(op.k), value(op.v), width(op.k), plan_->cache.head_dim, n_tokens_,
             pool_->layer(op.layer));
  }
  void emit_op(const plan::Attention& op, Launches& to) {
    const std::uint32_t n_splits = splits(op);
    const View partial{partial_memory_.get(), 0, attention_partial_bytes(op, n_tokens_, n_splits)};
    attention(to, row_places(), op, n_tokens_, n_splits, value(op.q), pool_->layer(op.layer), sinks(op), partial,
              value(op.out));
  }
  [[nodiscard]] View sinks(const plan::Attention& op) const { return op.sinks ? vector(*op.sinks) : View{}; }
  void emit_op(const plan::Activate& op, Launches& to) {
    gated(to, value(op.gate), value(op.up), n_rows(op.out) * width(op.out), op.activation, value(op.out));
  }
  void emit_op(const plan::Add& op, Launches& to) {
    add(to, value(op.a), value(op.b), n_rows(op.out) * width(op.out), value(op.out));
  }
  void emit_op(const plan::SoftCap& op, Launches& to) {
    soft_cap(to, value(op.x), n_rows(op.out) * width(op.out), op.cap, value(op.out));
  }
  void emit_op(const plan::TopK& op, Launches& to) {
    top_k(to, value(op.x), width(op.x), n_rows(op.x), op.k, value(op.out));
  }
  void emit_op(const plan::ExpertWeights& op, Launches& to) {
    expert_weights(to, value(op.logits), width(op.logits), value(op.experts), width(op.experts), n_rows(op.out), op.gating,
                   op.scale, value(op.out));
  }
  void emit_op(const plan::ExpertLinear& op, Launches& to) {
    const WeightView& w = weights_[op.weight.index];
    const std::uint32_t k = width(op.experts);
    expert_linear(to, w, op.bias ? vector(*op.bias) : View{}, value(op.experts), value(op.x), width(op.x) == w.n_in ? k : 1,
                  n_rows(op.out) * k, value(op.out));
  }
  void emit_op(const plan::ExpertSum& op, Launches& to) {
    expert_sum(to, value(op.x), value(op.weights), width(op.out), width(op.weights), n_rows(op.out), value(op.out));
  }

  // The launches of a step of one token a sequence; those of an earlier step of the same shape serve again.
  const Pool::Recording& recorded() {
    std::uint32_t n_splits = 1;
    for (const plan::Op& op : plan_->ops) {
      if (const auto* attention = std::get_if<plan::Attention>(&op)) n_splits = std::max(n_splits, splits(*attention));
    }
    auto& recordings = pool_->recordings;
    const auto found = std::find_if(recordings.begin(), recordings.end(), [&](const Pool::Recording& known) {
      return known.layout == layout_ && known.n_rows == n_tokens_ && known.n_splits == n_splits;
    });
    if (found != recordings.end()) return *found;
    if (n_recordings_ >= most_recordings) forget_recordings();
    std::erase_if(recordings, [&](const Pool::Recording& old) { return old.layout != layout_; });
    Pool::Recording recording{
        .n_rows = n_tokens_, .n_splits = n_splits, .layout = layout_, .tag = ++n_tags_, .launches = {}};
    emit_all(recording.launches);
    ++n_recordings_;
    return recordings.emplace_back(std::move(recording));
  }

  Result<void> run_op_by_op() {
    for (const plan::Op& op : plan_->ops) {
      const auto out = plan::output(op);
      Launches launches;
      emit(op, launches);
      PLUMB_CHECK(device_->run(launches, 0));
      if (const auto* attention = std::get_if<plan::Attention>(&op)) PLUMB_CHECK(show_probs(*attention));
      if (out && wants(plan_->value(*out).name))
        PLUMB_CHECK(show(plan_->value(*out).name, n_rows(*out), width(*out), value(*out)));
    }
    return {};
  }
  Result<void> show(const std::string& name, std::uint64_t rows, std::uint64_t columns, const View& view) {
    std::vector<float> data(rows * columns);
    PLUMB_CHECK(device_->download(view, std::as_writable_bytes(std::span(data))));
    observer_(name, rows, columns, data);
    return {};
  }
  Result<void> show_probs(const plan::Attention& op) {
    const std::string name = "blk." + std::to_string(op.layer) + ".attn_probs";
    if (!wants(name)) return {};
    const std::uint64_t rows = std::uint64_t{op.n_heads} * n_tokens_;
    PLUMB_TRY(const auto memory, device_->allocate(rows * batch_.longest * sizeof(float), name));
    const View probs{memory.get(), 0, memory->size()};
    Launches launches;
    attention_probs(launches, row_places(), op, n_tokens_, batch_.longest, value(op.q), pool_->layer(op.layer), sinks(op),
                    probs);
    PLUMB_CHECK(device_->run(launches, 0));
    return show(name, rows, batch_.longest, probs);
  }

  std::shared_ptr<const Plan> plan_;
  std::shared_ptr<const plan::CacheShape> cache_shape_;
  std::unique_ptr<Device> device_;  // outlives all memory below
  std::uint32_t max_batch_;
  bool tuned_;
  bool guards_;
  std::vector<std::unique_ptr<Memory>> weight_memory_;
  std::vector<WeightView> weights_;          // by WeightId
  std::vector<std::vector<float>> decoded_;  // by WeightId: those of vectors()
  std::vector<View> turns_;                  // by op: of a Rope
  std::vector<Place> places_;                // by ValueId
  std::uint64_t token_row_bytes_ = 0, output_row_bytes_ = 0;
  std::uint32_t rows_reserved_ = 0, outputs_reserved_ = 0;
  std::unique_ptr<Memory> tokens_memory_, slots_memory_, positions_memory_, token_arena_, output_arena_, partial_memory_;
  std::vector<std::unique_ptr<Memory>> isolated_;  // by ValueId, where isolates()
  std::vector<float> logits_;
  std::uint64_t n_pools_ = 0;
  std::uint64_t layout_ = 0;        // how often the memory that recordings name has moved
  std::uint64_t n_recordings_ = 0;  // of this layout, in all pools
  std::uint64_t n_tags_ = 0;

  // The step that runs.
  std::vector<Cache*> caches_;  // by sequence
  Pool* pool_ = nullptr;        // of them all
  Batch batch_;
  std::uint32_t n_tokens_ = 0, n_outputs_ = 0;
  std::size_t op_ = 0;
};

class GpuBackend final : public Backend {
 public:
  GpuBackend(std::string_view name, std::function<Result<std::unique_ptr<Device>>()> make_device, std::string description)
      : name_(name), make_device_(std::move(make_device)), description_(std::move(description)) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::string description() const override { return description_; }
  [[nodiscard]] Result<std::unique_ptr<Executor>> load(std::shared_ptr<const Plan> plan,
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

Result<std::unique_ptr<Executor>> load(std::shared_ptr<const Plan> plan, std::unique_ptr<Device> device,
                                       const LoadOptions& options) {
  auto executor = std::make_unique<GpuExecutor>(std::move(plan), std::move(device), options);
  PLUMB_CHECK(executor->load());
  return executor;
}

}  // namespace plumb::backends::gpu
