#include "backends/held.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <variant>

#include "backends/checker/checker.h"
#include "backends/cpu/cpu.h"
#include "backends/gpu/executor.h"
#include "base/half.h"
#include "diagnose/isolation.h"
#include "quants/format.h"

namespace plumb::backends {

namespace {

#if defined(PLUMB_SANITIZED)
constexpr double of_time = 0.05;
#else
constexpr double of_time = 1;
#endif
// Attention's weights are checked only in steps of few rows, and up to this many positions.
constexpr std::size_t few_rows = 9, few_positions = 600;

using diagnose::Arithmetic;

Way on_cpu(Isa isa, Activations activations) {
  // "AVX-512 VNNI, 2 threads": avx512vnni
  std::string name = "cpu_";
  for (const char c : make_cpu(isa)->description(0)) {
    if (c == ',') break;
    if (std::isalnum(static_cast<unsigned char>(c)) != 0)
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  const bool int8 = activations == Activations::int8;
  return {.name = name + (int8 ? "_int8" : ""),
          .make = [isa]() -> Result<std::unique_ptr<Backend>> { return make_cpu(isa); },
          .options = {.n_threads = 2, .activations = activations},
          .arithmetic = [int8](std::size_t) { return Arithmetic{.activations = int8 ? 1.0 : 128.0}; },
          .most_work = isa == Isa::scalar ? 5e8 : 8e9};
}

Way on_gpu(std::string_view name, std::function<Result<std::unique_ptr<Backend>>()> make, bool fused, double most_work) {
  // Tuned kernels round the activations of one token to 16 bits in blocks. With several tokens they round activations,
  // weights, queries and attention's weights to half.
  const auto tuned = [](std::size_t n_rows) {
    return n_rows == 1 ? Arithmetic{.activations = 128} : Arithmetic{.operand = diagnose::unit_f16, .activations = 128};
  };
  const auto shared = [](std::size_t) { return Arithmetic{}; };
  return {.name = std::string(name),
          .make = std::move(make),
          .options = {.n_threads = 2, .shared_kernels = !fused, .guard_zones = true},
          .arithmetic = fused ? std::function<Arithmetic(std::size_t)>(tuned) : shared,
          .fused = fused,
          .most_work = most_work,
          .takes_gigabytes = !name.starts_with("checker")};
}

std::vector<Way> make_ways() {
  const auto named = [](const char* name) { return [name] { return make(name); }; };
  std::vector<Way> ways{{.name = "reference",
                         .make = named("reference"),
                         .options = {.n_threads = 2},
                         .arithmetic = [](std::size_t) { return Arithmetic{}; },
                         .most_work = 1e8}};
  for (const Isa isa : cpu_isas()) {
    for (const auto activations : {Activations::int16, Activations::int8}) ways.push_back(on_cpu(isa, activations));
  }
  const auto tuned = []() -> Result<std::unique_ptr<Backend>> {
    return gpu::make_backend(
        "tuned", []() -> Result<std::unique_ptr<gpu::Device>> { return make_cuda_checker_device(); }, "");
  };
  ways.push_back(on_gpu("checker", named("checker"), false, 2.2e6));
  ways.push_back(on_gpu("checker_tuned", tuned, true, 3e6));
  ways.push_back(on_gpu("cuda", named("cuda"), false, 8e9));
  ways.push_back(on_gpu("cuda_tuned", named("cuda"), true, 8e9));
  ways.push_back(on_gpu("metal", named("metal"), false, 8e9));
  for (Way& way : ways) way.most_work *= of_time;
  return ways;
}

}  // namespace

const std::vector<Way>& ways() {
  static const std::vector<Way> all = make_ways();
  return all;
}

const Way& way(std::string_view name) {
  return *std::find_if(ways().begin(), ways().end(), [&](const Way& way) { return way.name == name; });
}

double work_of(const plan::Plan& plan, double n_rows, double n_before) {
  double work = 0;
  for (const plan::Op& op : plan.ops) {
    const auto out = plan::output(op);
    if (!out) continue;
    work += n_rows * static_cast<double>(plan.value(*out).width);
    if (const auto* attention = std::get_if<plan::Attention>(&op)) {
      const double all = attention->causal ? n_before + n_rows / 2 : n_rows;
      const double seen = attention->window > 0 ? attention->window : all;
      work += n_rows * static_cast<double>(plan.value(attention->q).width) * seen;
    }
    if (plan::inputs(op).empty()) continue;
    for (const plan::WeightId id : plan::weights(op)) {
      const gguf::Tensor& tensor = plan.weight(id).tensor;
      work += n_rows * static_cast<double>(std::max<std::uint64_t>(tensor.dims[0], 32) * tensor.dims[1]);
    }
  }
  return work;
}

Held::Held(std::shared_ptr<const plan::Plan> plan, const Way& way, KvType type, std::uint32_t capacity)
    : plan_(std::move(plan)),
      way_(way),
      type_(type),
      values_(plan_->values.size()),
      variances_(plan_->values.size()),
      keys_(plan_->cache.n_layers()),
      cached_values_(plan_->cache.n_layers()) {
  load(capacity);
}

void Held::load(std::uint32_t capacity) {
  auto backend = way_.make();
  ASSERT_TRUE(backend) << backend.error().message;
  LoadOptions options = way_.options;
  options.max_batch = capacity;
  auto executor = (*backend)->load(plan_, options);
  ASSERT_TRUE(executor) << executor.error().message;
  executor_ = std::move(*executor);
  executor_->poison_memory(true);
  auto cache = executor_->new_cache(capacity, type_);
  ASSERT_TRUE(cache) << cache.error().message;
  cache_ = std::move(*cache);
}

double Held::rms_of_quantized() const { return n_squares_ > 0 ? std::sqrt(squares_ / n_squares_) : 0; }

void Held::step(std::span<const TokenId> tokens, Outputs outputs, bool checked) {
  if (!cache_) return;  // the failure has been reported
  rows_.clear();
  for (const TokenId token : tokens) {
    rows_.push_back({.token = token, .position = cache_->length() + static_cast<std::uint32_t>(rows_.size())});
  }
  n_outputs_ = outputs == Outputs::all ? rows_.size() : 1;
  arithmetic_ = way_.arithmetic(rows_.size());
  if (way_.fused && type_ == KvType::f16) arithmetic_.cache = diagnose::unit_f16;
  seen_.clear();
  if (!way_.fused) {
    const bool probabilities = rows_.size() <= few_rows && rows_.back().position < few_positions;
    const auto wanted = [=](std::string_view name) { return probabilities || !is_probs_name(name); };
    executor_->watch(wanted, [&](std::string_view name, std::uint64_t, std::uint64_t, std::span<const float> data) {
      seen_.emplace(name, std::vector<float>(data.begin(), data.end()));
    });
  }
  const auto logits = executor_->run({cache_.get(), tokens, outputs});
  ASSERT_TRUE(logits) << logits.error().message;
  seen_[plan_->value(plan_->logits).name].assign(logits->begin(), logits->end());
  for (const plan::Op& op : plan_->ops) {
    if (const auto* kv_write = std::get_if<plan::KvWrite>(&op)) {
      write(*kv_write);
    } else {
      check(op, checked);
      if (testing::Test::HasFailure()) return;
    }
  }
}

reference::Scene Held::scene(std::size_t n_rows) const {
  reference::Scene scene;
  scene.plan = plan_.get();
  scene.rows = std::span(rows_).last(n_rows);
  scene.n_outputs = n_rows;
  scene.n_threads = 2;
  scene.capacity = cache_->capacity();
  scene.value = [this, n_rows](plan::ValueId id) {
    return std::span<const float>(values_[id.index]).last(n_rows * plan_->value(id).width);
  };
  scene.weight = [this](plan::WeightId id) { return reference::rows_of(plan_->weight(id).tensor); };
  scene.key = [this](std::uint32_t layer, std::uint64_t, std::uint32_t position) {
    return keys_[layer].data.data() + position * plan_->cache.layers[layer].width();
  };
  scene.cached_value = [this](std::uint32_t layer, std::uint64_t, std::uint32_t position) {
    return cached_values_[layer].data.data() + position * plan_->cache.layers[layer].width();
  };
  scene.cached = [this](std::uint64_t) { return rows_.back().position + 1; };
  return scene;
}

diagnose::InputError Held::error(plan::ValueId id, std::size_t n_rows) const {
  const std::vector<float>& all = variances_[id.index];
  return {.variance = all.empty() ? std::span<const float>() : std::span(all).last(n_rows * plan_->value(id).width)};
}

void Held::write(const plan::KvWrite& op) {
  const auto append = [&](Plane& plane, plan::ValueId id) {
    // A value that was seen is rounded to the cache's type. Values that were not seen may have been rounded differently.
    for (const float x : values_[id.index])
      plane.data.push_back(!way_.fused && type_ == KvType::f16 ? f16_to_f32(f32_to_f16(x)) : x);
    plane.variance.insert(plane.variance.end(), variances_[id.index].begin(), variances_[id.index].end());
  };
  append(keys_[op.layer], op.k);
  append(cached_values_[op.layer], op.v);
}

std::vector<float> Held::variance(const plan::Op& op, const reference::Scene& scene, std::span<const float> y,
                                  const diagnose::ProductSums& sums) const {
  const diagnose::InputErrors errors{.of = [&](plan::ValueId id) { return error(id, scene.rows.size()); },
                                     .of_cache =
                                         [&](std::uint32_t layer) {
                                           return std::pair(
                                               diagnose::InputError{.variance = keys_[layer].variance},
                                               diagnose::InputError{.variance = cached_values_[layer].variance});
                                         }};
  return diagnose::variance(op, scene, y, errors, sums, arithmetic_);
}

void Held::check(const plan::Op& op, bool checked) {
  const plan::ValueId out = *plan::output(op);
  const plan::Value& value = plan_->value(out);
  const auto seen = seen_.find(value.name);
  ASSERT_TRUE(way_.fused || seen != seen_.end()) << "no one showed " << value.name;
  if (!checked) {
    values_[out.index] = seen->second;
    return;
  }
  const reference::Scene scene = this->scene(value.rows == plan::Rows::tokens ? rows_.size() : n_outputs_);
  diagnose::ProductSums sums;
  const auto* linear = std::get_if<plan::Linear>(&op);
  std::vector<float> expected = linear != nullptr
                                    ? diagnose::product(*linear, scene, error(linear->x, scene.rows.size()).variance, sums)
                                    : reference::compute(op, scene);
  std::vector<float> variance = this->variance(op, scene, expected, sums);
  if (seen == seen_.end()) {
    values_[out.index] = std::move(expected);
    variances_[out.index] = std::move(variance);
    return;
  }
  const std::vector<float>& found = seen->second;
  ASSERT_EQ(found.size(), expected.size()) << value.name;
  compare(value.name, plan::name(op), found, expected, variance, value.width,
          way_.fused ? diagnose::of_regions * std::max(1U, plan_->cache.n_layers()) : 1.0);
  ++n_checked_;
  if (linear != nullptr && !sums.blocks.empty() && arithmetic_.activations > 0) {
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double difference = double{found[i]} - expected[i];
      if (variance[i] > 0 && std::isfinite(difference)) squares_ += difference * difference / variance[i];
      n_squares_ += variance[i] > 0 ? 1 : 0;
    }
  }
  values_[out.index] = found;
  if (const auto* attention = std::get_if<plan::Attention>(&op)) check_probabilities(*attention);
}

// Attention over values that are 1 at one position and 0 elsewhere gives the weight of that position, with the weight's
// variance. With a unit matrix as values it gives the weights of head_dim positions at a time.
void Held::check_probabilities(const plan::Attention& op) {
  const std::string name = probs_name(*plan_, op);
  const auto seen = seen_.find(name);
  if (seen == seen_.end() && (way_.fused || rows_.size() > few_rows || rows_.back().position >= few_positions)) return;
  ASSERT_NE(seen, seen_.end()) << "no one showed " << name;
  const std::size_t n_rows = rows_.size(), n_positions = rows_.back().position + std::size_t{1}, d = op.head_dim;
  ASSERT_EQ(seen->second.size(), op.n_heads * n_rows * n_positions) << name;
  std::vector<float> expected(seen->second.size()), variance(expected.size());
  const std::size_t width = op.n_kv_heads * d;
  std::vector<float> units(d * width, 0.0F);
  const std::vector<float> zeros(width, 0.0F);
  for (std::size_t i = 0; i < units.size(); ++i) units[i] = i / width == i % d ? 1.0F : 0.0F;
  for (std::size_t first = 0; first < n_positions; first += d) {
    reference::Scene scene = this->scene(n_rows);
    scene.cached_value = [&](std::uint32_t, std::uint64_t, std::uint32_t position) {
      return position >= first && position < first + d ? units.data() + (position - first) * width : zeros.data();
    };
    const std::vector<float> y = reference::compute(op, scene);
    const std::vector<float> of_y = this->variance(op, scene, y, {});
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t row = i / d / op.n_heads, head = i / d % op.n_heads, position = first + i % d;
      if (position >= n_positions) continue;
      expected[(head * n_rows + row) * n_positions + position] = y[i];
      variance[(head * n_rows + row) * n_positions + position] = of_y[i];
    }
  }
  compare(name, "attention", seen->second, expected, variance, n_positions, 1);
}

void Held::compare(std::string_view name, std::string_view op, std::span<const float> found,
                   std::span<const float> expected, std::span<const float> variance, std::size_t width, double factor) {
  const double ratio = diagnose::misfit({found, expected, variance, width}, factor);
  if (ratio <= 1) return;
  diagnose::Check worst;
  worst.n_rows = static_cast<std::uint32_t>(found.size() / width);
  diagnose::describe(worst, {found, expected, variance, width});
  ADD_FAILURE() << name << " (" << op << ") is off by " << ratio << " times what is allowed; worst in row "
                << worst.worst.row << " of " << worst.n_rows << " (positions " << rows_.front().position << " to "
                << rows_.back().position << "), column " << worst.worst.column << " of " << width << ": "
                << worst.worst.found << " for " << worst.worst.expected;
}

}  // namespace plumb::backends
