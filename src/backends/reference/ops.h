// What each op of a Plan means: one op at a time, from its inputs to its output, in plain loops that accumulate in double.
// The reference executor runs a Plan through these; diagnosis recomputes an engine's ops through them, and commits a
// suspected mistake by changing the op, or a part of the Scene that it reads.
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

// Decodes row `row` of a weight. Called from several threads at once.
using RowSource = std::function<void(std::uint64_t row, std::span<float> out)>;

// The rows as the file has them.
RowSource rows_of(const gguf::Tensor& tensor);

// What an op may read. `rows` are those of Rows::tokens values, those of Rows::outputs being the last n_outputs.
struct Scene {
  const plan::Plan* plan = nullptr;
  std::span<const Row> rows;
  std::uint64_t n_outputs = 0;
  std::uint32_t n_threads = 1;
  // Of a Linear every so many-th output alone is computed, the others being NaN: a sample of a product with many.
  std::uint32_t column_stride = 1;

  // A value's rows, row-major.
  std::function<std::span<const float>(plan::ValueId)> value;
  // A weight's rows of dims[0] components.
  std::function<RowSource(plan::WeightId)> weight;
  // The cached key or value of a position, [n_kv_heads * head_dim], as seen from a row; positions up to cached(row) - 1.
  std::function<const float*(std::uint32_t layer, std::uint64_t row, std::uint32_t position)> key, cached_value;
  // Positions that the cache of a row's sequence holds while the row's step runs, those of the step included.
  std::function<std::uint32_t(std::uint64_t row)> cached;

  [[nodiscard]] std::uint64_t n_rows(plan::ValueId id) const {
    return plan->value(id).rows == plan::Rows::tokens ? rows.size() : n_outputs;
  }
  // A weight of one row: a norm's, a bias.
  [[nodiscard]] std::vector<float> vector(plan::WeightId id) const;
};

// The op's output, [rows, width]; empty for KvWrite, whose work is the caller's.
std::vector<float> compute(const plan::Op& op, const Scene& scene);

// Errors in the inputs of a product, independent of each other with variance in[r, i], give its outputs the variance
// out[r, j] = sum_i W[j, i]^2 in[r, i].
struct Spread {
  const float* in = nullptr;  // [rows, n_in]
  float* out = nullptr;       // [rows, n_out]
};
// y[r, j] = sum_i W[j, i] x[r, i] + bias[j], the bias being optional. Where spreads are asked for, they are summed in
// float.
void linear(std::span<const float> x, std::uint64_t n_in, const RowSource& weight, std::uint64_t n_out,
            std::span<const float> bias, std::span<float> y, std::span<const Spread> spreads, std::uint32_t n_threads,
            std::uint32_t column_stride = 1);

double activate(plan::Activation activation, double x);

// Rotary angles of one position: pair i turns by (cosine[i], sine[i]), both of which carry the magnitude of YaRN.
struct Rotation {
  std::vector<double> cosine, sine;
};
// factors: of Rope::factors, or none.
Rotation rotation_at(const plan::Rope& rope, std::span<const float> factors, double position);
// One head.
void rotate(const plan::Rope& rope, const Rotation& rotation, const float* x, float* y);

// plan::Attention in its parts, each of which an engine can get wrong on its own.
struct AttentionRule {
  // The key's and value's head of a query head.
  std::function<std::uint32_t(std::uint32_t head)> kv_head;
  // Whether a row attends to a position; asked for positions below Scene::cached(row).
  std::function<bool(std::uint64_t row, std::uint32_t position)> sees;
  // Weights from scores, in place; those of positions that are not seen are -infinity.
  std::function<void(std::uint32_t head, std::span<double> scores)> weigh;
};
AttentionRule attention_rule(const plan::Attention& op, const Scene& scene);
// probs, when wanted: [n_heads * rows, n_positions].
std::vector<float> attend(const plan::Attention& op, const AttentionRule& rule, const Scene& scene,
                          std::vector<float>* probs = nullptr, std::uint64_t n_positions = 0);

// Calls part(begin, end) for parts of [0, n), on n_threads threads.
template <class Part>
void in_parts(std::uint64_t n, std::uint32_t n_threads, const Part& part) {
  const std::uint64_t n_parts = std::clamp<std::uint64_t>(n_threads, 1, std::max<std::uint64_t>(n, 1));
  std::vector<std::jthread> threads;
  for (std::uint64_t i = 1; i < n_parts; ++i) {
    threads.emplace_back([&part, n, n_parts, i] { part(n * i / n_parts, n * (i + 1) / n_parts); });
  }
  part(0, n / n_parts);
}

// An expert of n as TopK gives it. Who substitutes values may give anything.
std::uint64_t expert_index(float expert, std::uint64_t n);

}  // namespace plumb::backends::reference
