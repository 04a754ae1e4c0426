// The definition of each op of a Plan: computes its output from its inputs, in plain loops that accumulate in double. The
// reference executor runs Plans with these functions. Diagnosis recomputes an engine's ops with them, and makes a suspected
// mistake by changing the op or a part of the Scene.
//
// Results are rounded to float once, when an op has finished.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backends/batch.h"
#include "plan/plan.h"

namespace plumb::backends::reference {

// Decodes row `row` of a weight. Several threads may call it at once.
using RowSource = std::function<void(std::uint64_t row, std::span<float> out)>;

// The tensor's rows as the file has them.
RowSource rows_of(const gguf::Tensor& tensor);

// What an op may read. Values of Rows::tokens have all `rows`, those of Rows::outputs the last n_outputs of them.
struct Scene {
  const plan::Plan* plan = nullptr;
  std::span<const Row> rows;
  std::uint64_t n_outputs = 0;
  std::uint32_t n_threads = 1;

  // A value's rows, row-major.
  std::function<std::span<const float>(plan::ValueId)> value;
  // A weight's rows, of dims[0] components each.
  std::function<RowSource(plan::WeightId)> weight;
  // The cached key or value, [n_kv_heads * head_dim], of a position below cached(row), for the sequence of a row.
  std::function<const float*(std::uint32_t layer, std::uint64_t row, std::uint32_t position)> key, cached_value;
  // The number of positions in the cache of a row's sequence during the row's step, the step's own included.
  std::function<std::uint32_t(std::uint64_t row)> cached;
  std::uint32_t capacity = 0;  // the most positions of the run's caches

  [[nodiscard]] std::uint64_t n_rows(plan::ValueId id) const {
    return plan->value(id).rows == plan::Rows::tokens ? rows.size() : n_outputs;
  }
  // A weight with one row, such as a norm's or a bias.
  [[nodiscard]] std::vector<float> vector(plan::WeightId id) const;
};

// The op's output, [rows, width]; empty for KvWrite, which the caller does.
std::vector<float> compute(const plan::Op& op, const Scene& scene);

// The op's activation of x, without its limit.
double activate(const plan::Activate& op, double x);

// The rotation of one position: pair i turns by (cosine[i], sine[i]), both multiplied by the magnitude.
struct Rotation {
  std::vector<double> cosine, sine;
};
// The factors that divide the Rope's frequencies in the scene, short or long; empty: none.
std::vector<float> rotary_factors(const plan::Rope& rope, const Scene& scene);
Rotation rotation_at(const plan::Rope& rope, std::span<const float> factors, double position);
// Rotates one head.
void rotate(const plan::Rope& rope, const Rotation& rotation, const float* x, float* y);

// The parts of plan::Attention that an engine can get wrong separately.
struct AttentionRule {
  // The key-value head of a query head.
  std::function<std::uint32_t(std::uint32_t head)> kv_head;
  // Whether a row attends to a position below Scene::cached(row).
  std::function<bool(std::uint64_t row, std::uint32_t position)> sees;
  // Added to a score; may be empty.
  std::function<double(std::uint64_t row, std::uint32_t head, std::uint32_t position)> bias;
  // Turns scores into weights, in place. Scores of positions that the row does not attend to are -infinity.
  std::function<void(std::uint32_t head, std::span<double> scores)> weigh;
};
AttentionRule attention_rule(const plan::Attention& op, const Scene& scene);
// The score that the rule weighs, from q . K.
double score_of(const plan::Attention& op, const AttentionRule& rule, double dot, std::uint64_t row, std::uint32_t head,
                std::uint32_t position);
// ALiBi's slope of a head.
double alibi_slope(const plan::Attention& op, std::uint32_t head);
// probs, when wanted: [n_heads * rows, n_positions].
std::vector<float> attend(const plan::Attention& op, const AttentionRule& rule, const Scene& scene,
                          std::vector<float>* probs = nullptr, std::uint64_t n_positions = 0);

// The index that a value of TopK stands for; 0 where it is no index below n, as values that are put in from outside may be.
std::uint64_t expert_index(float expert, std::uint64_t n);

}  // namespace plumb::backends::reference
