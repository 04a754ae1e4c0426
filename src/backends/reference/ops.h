// The definition of each op of a Plan: computes its output from its inputs, in plain loops that accumulate in double. The
// reference executor runs Plans with these functions. Diagnosis recomputes an engine's ops with them, and makes a suspected
// mistake by changing the op or a part of the Scene.
//
// Results are rounded to float once, when an op has finished.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "backends/batch.h"
#include "plan/plan.h"

namespace plumb::backends::reference {

// Decodes row `row` of a weight. Several threads may call it at once.
using RowSource = std::function<void(std::uint64_t row, std::span<float> out)>;

// The tensor's rows as the file has them.
RowSource rows_of(const gguf::Tensor& tensor);

// The data that an op may read. `rows` counts the rows of Rows::tokens values; Rows::outputs values have the last n_outputs
// of them.
struct Scene {
  const plan::Plan* plan = nullptr;
  std::span<const Row> rows;
  std::uint64_t n_outputs = 0;
  std::uint32_t n_threads = 1;
  // A Linear computes only every column_stride-th output, as a sample of a large product; the others are NaN.
  std::uint32_t column_stride = 1;

  // A value's rows, row-major.
  std::function<std::span<const float>(plan::ValueId)> value;
  // A weight's rows, of dims[0] components each.
  std::function<RowSource(plan::WeightId)> weight;
  // The cached key or value, [n_kv_heads * head_dim], of a position below cached(row), for the sequence of a row.
  std::function<const float*(std::uint32_t layer, std::uint64_t row, std::uint32_t position)> key, cached_value;
  // The number of positions in the cache of a row's sequence during the row's step, the step's own included.
  std::function<std::uint32_t(std::uint64_t row)> cached;

  [[nodiscard]] std::uint64_t n_rows(plan::ValueId id) const {
    return plan->value(id).rows == plan::Rows::tokens ? rows.size() : n_outputs;
  }
  // A weight with one row, such as a norm's or a bias.
  [[nodiscard]] std::vector<float> vector(plan::WeightId id) const;
};

// The op's output, [rows, width]; empty for KvWrite, which the caller does.
std::vector<float> compute(const plan::Op& op, const Scene& scene);

// Errors in the inputs of a product, independent of each other with variance in[r, i], give its outputs the variance
// out[r, j] = sum_i W[j, i]^2 in[r, i].
struct Spread {
  const float* in = nullptr;  // [rows, n_in]
  float* out = nullptr;       // [rows, n_out]
};
// y[r, j] = sum_i W[j, i] x[r, i] + bias[j]. The bias is optional. Spreads, if wanted, are summed in float.
void linear(std::span<const float> x, std::uint64_t n_in, const RowSource& weight, std::uint64_t n_out,
            std::span<const float> bias, std::span<float> y, std::span<const Spread> spreads, std::uint32_t n_threads,
            std::uint32_t column_stride = 1);

double activate(plan::Activation activation, double x);

// The rotation of one position: pair i turns by (cosine[i], sine[i]), both multiplied by YaRN's magnitude.
struct Rotation {
  std::vector<double> cosine, sine;
};
// factors: the values of Rope::factors, or empty.
Rotation rotation_at(const plan::Rope& rope, std::span<const float> factors, double position);
// Rotates one head.
void rotate(const plan::Rope& rope, const Rotation& rotation, const float* x, float* y);

// The parts of plan::Attention that an engine can get wrong separately.
struct AttentionRule {
  // The key-value head of a query head.
  std::function<std::uint32_t(std::uint32_t head)> kv_head;
  // Whether a row attends to a position below Scene::cached(row).
  std::function<bool(std::uint64_t row, std::uint32_t position)> sees;
  // Turns scores into weights, in place. Scores of positions that the row does not attend to are -infinity.
  std::function<void(std::uint32_t head, std::span<double> scores)> weigh;
};
AttentionRule attention_rule(const plan::Attention& op, const Scene& scene);
// probs, when wanted: [n_heads * rows, n_positions].
std::vector<float> attend(const plan::Attention& op, const AttentionRule& rule, const Scene& scene,
                          std::vector<float>* probs = nullptr, std::uint64_t n_positions = 0);

// Splits [0, n) into parts and calls part(begin, end) for each, on n_threads threads.
template <class Part>
void in_parts(std::uint64_t n, std::uint32_t n_threads, const Part& part) {
  const std::uint64_t n_parts = std::clamp<std::uint64_t>(n_threads, 1, std::max<std::uint64_t>(n, 1));
  std::vector<std::jthread> threads;
  for (std::uint64_t i = 1; i < n_parts; ++i) {
    threads.emplace_back([&part, n, n_parts, i] { part(n * i / n_parts, n * (i + 1) / n_parts); });
  }
  part(0, n / n_parts);
}

// The index of one of n experts, from the float that TopK writes. Substituted values may be any float.
std::uint64_t expert_index(float expert, std::uint64_t n);

}  // namespace plumb::backends::reference
