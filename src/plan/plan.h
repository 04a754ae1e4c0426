// The vocabulary of ops, and nothing else. A Plan is a straight list of ops over named values: no control flow, and no
// hidden state but the KV cache. An architecture (src/model) emits one; backends (src/backends) run it; diagnosis
// watches its values by name. Each op states its operands with their meaning, so a swapped m, n, k has no place to hide.
//
// An op describes itself: it has a name, and the type of a field says what the field is:
//   ValueId   a value that the op reads
//   ResultId  the value that it writes
//   MatrixId  a weight that products and look-ups read in the file's format
//   VectorId  a weight that backends decode to float when they load
// A ValueId, MatrixId or VectorId may be optional. Any other field is a parameter. inputs(), output(), weights() and
// vectors() below follow from these types alone; backends decode the list that vectors() gives. To add an op: a struct
// here, a line in Op, a method of Builder. Code that runs or judges ops visits Op, and does not compile without the new op.
//
// A step feeds T tokens of one or more sequences. A token's position counts within its sequence, and a sequence attends to
// its own keys and values only. From outside, every value is a row-major float32 matrix [rows, width], where rows is T or
// the number of output rows; features are contiguous.
//
// Builder checks every op's shape rule when the op is added. Errors name the op, the value and the tensor.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"

namespace plumb::plan {

struct ValueId {
  std::uint32_t index = 0;
  friend bool operator==(ValueId, ValueId) = default;
};
// The value that an op writes.
struct ResultId : ValueId {};
struct WeightId {
  std::uint32_t index = 0;
  friend bool operator==(WeightId, WeightId) = default;
};
struct MatrixId : WeightId {};
struct VectorId : WeightId {};  // one vector, or one for each expert

// How many rows a value has in a step.
enum class Rows : std::uint8_t {
  tokens,   // T: one a token of the step
  outputs,  // one for each row whose logits were asked for
};

struct Value {
  std::string name;  // architecture.md's names: "blk.3.attn_q"
  Rows rows = Rows::tokens;
  std::uint64_t width = 0;
};

// A tensor of the file with the role it plays; the bytes stay in the file's mapping.
struct Weight {
  gguf::Tensor tensor;
  [[nodiscard]] std::uint64_t in() const { return tensor.dims[0]; }   // contiguous
  [[nodiscard]] std::uint64_t out() const { return tensor.dims[1]; }  // rows
  [[nodiscard]] std::uint64_t n_experts() const { return tensor.dims[2]; }
};

// What the rows of an embedding's table belong to.
enum class EmbedBy : std::uint8_t {
  token,
  position,
  segment,  // BERT's token types; every token is of the first segment, which is row 0
};

// out[t] = table[row(t)] * scale            table [vocab, d], [positions, d] or [segments, d]
struct Embed {
  static constexpr std::string_view name = "embed";
  MatrixId table;
  ResultId out;
  float scale = 1.0f;
  EmbedBy by = EmbedBy::token;

  // The table's row for a token at its position in the sequence.
  [[nodiscard]] std::uint64_t row(std::int32_t token, std::uint32_t position) const {
    if (by == EmbedBy::segment) return 0;
    return by == EmbedBy::token ? static_cast<std::uint64_t>(token) : position;
  }
};

enum class NormKind : std::uint8_t {
  rms,    // https://arxiv.org/abs/1910.07467
  layer,  // https://arxiv.org/abs/1607.06450
};

// out[t, g, i] = c[i] / sqrt(mean_i(c[:]^2) + eps) * weight[g, i] + bias[g, i]
// over groups of `group` values: the whole row (a norm of the residual stream) or one head (a q or k norm). In an RMS norm
// c is x[t, g, :]; in a layer norm c is x[t, g, :] minus its mean. Weight and bias are [group], the same for all groups, or
// [width]; without a weight its factor is 1.
struct Norm {
  static constexpr std::string_view name = "norm";
  ValueId x;
  std::optional<VectorId> weight;
  std::optional<VectorId> bias;
  ResultId out;
  float eps = 0.0f;
  NormKind kind = NormKind::rms;
  std::uint32_t group = 0;  // Builder takes 0 as the weight's length, or the row's where there is no weight
};

// out[r] = W x[r] + bias                                             weight [out, in], bias [out]
// Where out has Rows::outputs and x Rows::tokens, only the output rows of x are used.
struct Linear {
  static constexpr std::string_view name = "linear";
  ValueId x;
  MatrixId weight;
  std::optional<VectorId> bias;
  ResultId out;
};

// Which components of a head rotate together.
enum class RopePairing : std::uint8_t {
  adjacent,  // (2i, 2i+1): llama's GGUF files, whose Q and K rows are permuted for it
  halves,    // (i, i + n_rot/2): qwen2, qwen3 and the "NEOX" family
};

// Rotates the first n_rot components of every head of x by position * frequency[i]; the rest is copied.
// frequency[i] = theta^(-2i/n_rot) * position_scale / factor[i], i in [0, n_rot/2)
// LongRoPE (https://arxiv.org/abs/2402.13753): where the run's cache has more than original_context positions, long_factors
// take the place of factors, for all positions alike, as in llama.cpp. (transformers changes to them in the first pass over
// more tokens than that. A cached key cannot be rotated anew, so its earlier keys keep the other rotation.)
// YaRN (when set) blends interpolated and extrapolated angles: https://arxiv.org/abs/2309.00071
struct Yarn {
  float factor = 1.0f;         // context extension factor s
  float original_context = 0;  // tokens the model was trained on
  float beta_fast = 32.0f;
  float beta_slow = 1.0f;
  float extrapolation_mix = 1.0f;
  bool whole_limits = true;  // the ramp's limits are rounded outward to whole pairs; gpt-oss leaves them as they are
};
struct Rope {
  static constexpr std::string_view name = "rope";
  ValueId x;
  ResultId out;
  std::uint32_t head_dim = 0;
  std::uint32_t n_rot = 0;
  RopePairing pairing = RopePairing::adjacent;
  float theta = 0.0f;
  float position_scale = 1.0f;      // 1/factor of linear scaling
  float magnitude = 1.0f;           // multiplies cos and sin
  std::optional<VectorId> factors;  // rope_freqs.weight [n_rot/2] (Llama 3's scaling): divides the frequency
  std::optional<Yarn> yarn;
  std::optional<VectorId> long_factors;  // rope_factors_long.weight [n_rot/2], beside the short ones in `factors`
  std::uint32_t original_context = 0;    // with long_factors: tokens the model was first trained on
};

// Writes k and v of the step's tokens to the layer's cache at their positions.   k, v [T, n_kv_heads * head_dim]
// A layer's cache is written by one op.
struct KvWrite {
  static constexpr std::string_view name = "kv_write";
  ValueId k, v;
  std::uint32_t layer = 0;
};

enum class WindowKind : std::uint8_t {
  sliding,  // the last `window` positions, that of the token included
  chunked,  // the sequence is cut into parts of `window` positions, and a token sees its own part (Llama 4)
};

// ctx[t, h] = sum_s softmax_s(q[t, h] . K[s, kv(h)] * scale) V[s, kv(h)]
// with kv(h) = h * n_kv_heads / n_heads, over the cache of `layer`, to which KvWrite has added this step's tokens. Several
// ops may read one layer's cache. Below, t stands for the token's position.
//  - s <= t; or, where the op is not causal (encoders), all positions of the sequence, those of this step included. All
//    tokens of a text then come in one step, on an empty cache.
//  - window > 0 limits s to t - window < s (sliding), or to s / window = t / window (chunked). In an op that is not causal
//  a
//    window slides on both sides: |t - s| <= window / 2 (ModernBERT, https://arxiv.org/abs/2412.13663).
//  - soft_cap > 0 bounds scores before the softmax: score becomes soft_cap * tanh(score / soft_cap) (Gemma 2,
//    https://arxiv.org/abs/2408.00118).
//  - sinks [n_heads] adds exp(sinks[h]) to the softmax's sum, so that a head's weights may add up to less than 1 (gpt-oss,
//    https://arxiv.org/abs/2309.17453).
//  - alibi_max_bias > 0 adds -slope(h) * (t - s) to the scores, after the cap (ALiBi, https://arxiv.org/abs/2108.12409,
//    section 3). With n the largest power of two that is at most n_heads, slope(h) = 2^(-alibi_max_bias * (h + 1) / n) for
//    h < n, and 2^(-alibi_max_bias * (2 (h - n) + 1) / (2n)) for the others. The paper's alibi_max_bias is 8.
// The watched value .attn_probs is the softmax without the sink's share: [n_heads, T, S], as n_heads * T rows of S.
struct Attention {
  static constexpr std::string_view name = "attention";
  ValueId q;
  ResultId out;
  std::uint32_t layer = 0;
  std::uint32_t n_heads = 0;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;
  float scale = 0.0f;
  std::uint32_t window = 0;
  float soft_cap = 0.0f;
  std::optional<VectorId> sinks;
  WindowKind window_kind = WindowKind::sliding;
  bool causal = true;
  float alibi_max_bias = 0.0f;
};

enum class Activation : std::uint8_t {
  silu,  // x / (1 + exp(-alpha x))
  gelu_tanh,
  gelu_erf,
  relu,
  relu_squared,  // max(x, 0)^2: https://arxiv.org/abs/2109.08668
  sigmoid,
  tanh,
  identity,
  xielu,  // https://arxiv.org/abs/2411.13010, with the numbers of Xielu
};

// For x > 0: positive x^2 + beta x. Else: negative (exp(min(x, eps)) - 1 - x) + beta x.
struct Xielu {
  float positive = 0, negative = 0, beta = 0, eps = 0;
};

// out = activation(gate) * (up + up_offset), or activation(gate) alone. Where gate is narrower than up, each of its values
// is the factor of width(up) / width(gate) neighbours.
//  - limit > 0 replaces gate by min(gate, limit), and up by the nearest number in [-limit, limit], before all else. With
//    alpha = 1.702 and up_offset = 1 this is gpt-oss's feed-forward (https://github.com/openai/gpt-oss,
//    gpt_oss/torch/model.py, swiglu).
struct Activate {
  static constexpr std::string_view name = "activate";
  ValueId gate;
  std::optional<ValueId> up;
  ResultId out;
  Activation activation = Activation::silu;
  float limit = 0.0f;
  float alpha = 1.0f;  // of silu
  float up_offset = 0.0f;
  Xielu xielu;
};

// out = a + b
struct Add {
  static constexpr std::string_view name = "add";
  ValueId a, b;
  ResultId out;
};

// A factor that grows with a token's position: 1 + beta ln(1 + floor((position + offset) / length)).
// Llama 4 (offset 1) and Ministral 3 (offset 0) sharpen attention to long texts so.
struct Temperature {
  float beta = 0;
  float length = 1;
  float offset = 0;

  [[nodiscard]] double at(std::uint32_t position) const {
    return 1.0 + beta * std::log1p(std::floor((double{offset} + position) / length));
  }
};

// out[t, i] = x[t, first + i] * factor * weight[i] * temperature(position(t)), for as many values as `out` has
// The weight has one value, or as many as `out`.
struct Scale {
  static constexpr std::string_view name = "scale";
  ValueId x;
  std::optional<VectorId> weight;
  ResultId out;
  float factor = 1.0f;
  std::uint32_t first = 0;
  std::optional<Temperature> temperature;  // x has Rows::tokens
};

// out = cap * tanh(x / cap)
struct SoftCap {
  static constexpr std::string_view name = "soft_cap";
  ValueId x;
  ResultId out;
  float cap = 0.0f;
};

// Mixture of experts: a router, which is a Linear, gives each token one logit for each expert; TopK chooses experts;
// ExpertWeights gives each of them a factor; ExpertLinear multiplies by the chosen experts' matrices; ExpertSum adds up
// their results, each times its factor.

// How logits become the numbers by which TopK ranks experts. The order matters only together with a bias or groups.
enum class Score : std::uint8_t { logit, softmax, sigmoid };

inline constexpr std::uint32_t max_expert_groups = 64;

// out[t, :] = the indices of the k largest of score(x[t, :]) + bias, largest first, the lower index first among equals.
// Indices are floats, which are exact below 2^24. NaN counts as the smallest.
// With n_groups > 1 the experts are n_groups groups of neighbours, and only those of the n_groups_used best groups are
// chosen from. A group counts as much as its two best experts together (DeepSeek-V3, https://arxiv.org/abs/2412.19437).
struct TopK {
  static constexpr std::string_view name = "top_k";
  ValueId x;
  std::optional<VectorId> bias;  // [width of x]
  ResultId out;
  std::uint32_t k = 0;
  Score score = Score::logit;
  std::uint32_t n_groups = 1;
  std::uint32_t n_groups_used = 1;
};

enum class Gating : std::uint8_t {
  softmax,            // over all experts
  softmax_of_chosen,  // over the chosen experts: Mixtral, Qwen 3
  sigmoid,
  sigmoid_normalized,  // divided so that the chosen experts' add up to 1
};
// out[t, j] = scale * gating(logits[t, :])[experts[t, j]]
struct ExpertWeights {
  static constexpr std::string_view name = "expert_weights";
  ValueId logits;
  ValueId experts;
  ResultId out;
  Gating gating = Gating::softmax_of_chosen;
  float scale = 1.0f;
};

// out[t, j * n_out + o] = (W[e] x')[o] + bias[e, o]                   weight [n_experts, out, in], bias [n_experts, out]
// with e = experts[t, j]. x' is x[t]; where x is k times as wide as the weight's rows, x' is the j-th of the k parts of
// x[t].
struct ExpertLinear {
  static constexpr std::string_view name = "expert_linear";
  ValueId x;
  ValueId experts;
  MatrixId weight;
  std::optional<VectorId> bias;
  ResultId out;
};

// out[t, i] = sum_j weights[t, j] * x[t, j * width + i]
struct ExpertSum {
  static constexpr std::string_view name = "expert_sum";
  ValueId x;
  ValueId weights;
  ResultId out;
};

using Op = std::variant<Embed, Norm, Linear, Rope, KvWrite, Attention, Activate, Add, Scale, SoftCap, TopK, ExpertWeights,
                        ExpertLinear, ExpertSum>;

std::string_view name(const Op& op);
// The value that an op writes; none for KvWrite.
std::optional<ValueId> output(const Op& op);
// The values and weights that an op reads, in the order of its fields.
std::vector<ValueId> inputs(const Op& op);
std::vector<WeightId> weights(const Op& op);
// The op's weights that backends decode to float.
std::vector<VectorId> vectors(const Op& op);

// What a layer keeps of each position: keys and values of n_kv_heads heads. A layer that keeps nothing, such as one that
// reads an earlier layer's cache, has no heads.
struct LayerCache {
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;
  [[nodiscard]] std::uint64_t width() const { return std::uint64_t{n_kv_heads} * head_dim; }
  friend bool operator==(const LayerCache&, const LayerCache&) = default;
};

// What a cache for the plan keeps, for each layer of the model.
struct CacheShape {
  std::vector<LayerCache> layers;

  CacheShape() = default;
  explicit CacheShape(std::vector<LayerCache> by_layer) : layers(std::move(by_layer)) {}
  // Layers that keep the same.
  CacheShape(std::uint32_t n_layers, std::uint32_t n_kv_heads, std::uint32_t head_dim)
      : layers(n_layers, LayerCache{n_kv_heads, head_dim}) {}
  [[nodiscard]] std::uint32_t n_layers() const { return static_cast<std::uint32_t>(layers.size()); }
};

struct Plan {
  std::vector<Value> values;
  std::vector<Weight> weights;
  std::vector<Op> ops;
  CacheShape cache;
  ValueId logits;  // [outputs, vocab]
  std::uint32_t vocab = 0;
  std::uint32_t context = 0;  // tokens the model was made for

  [[nodiscard]] const Value& value(ValueId id) const { return values[id.index]; }
  [[nodiscard]] const Weight& weight(WeightId id) const { return weights[id.index]; }
  [[nodiscard]] std::optional<ValueId> find(std::string_view name) const;
};

// Builds a Plan. Each method appends an op and returns the op's output value. finish() returns the first broken shape rule
// as its error; the calls after the broken one do no harm, so an architecture needs no checks between its ops.
class Builder {
 public:
  explicit Builder(CacheShape cache);
  [[nodiscard]] const CacheShape& cache() const { return plan_.cache; }

  // A tensor as a weight of the plan. The same tensor gives the same weight again.
  MatrixId matrix(const gguf::Tensor& tensor) { return {weight(tensor)}; }
  VectorId vector(const gguf::Tensor& tensor) { return {weight(tensor)}; }

  // An op whose operands and parameters are set; `out` is made here.
  ValueId embed(std::string name, Embed op);
  ValueId norm(std::string name, Norm op);
  ValueId activate(std::string name, Activate op);
  ValueId rope(std::string name, ValueId x, Rope op);
  ValueId scale(std::string name, Scale op, std::uint64_t width);
  ValueId top_k(std::string name, TopK op);
  ValueId attention(std::string name, ValueId q, Attention op);

  ValueId embed(std::string name, MatrixId table, float scale = 1.0f) {
    return embed(std::move(name), Embed{.table = table, .scale = scale});
  }
  ValueId norm(std::string name, ValueId x, VectorId weight, float eps) {
    return norm(std::move(name), Norm{.x = x, .weight = weight, .eps = eps});
  }
  ValueId activate(std::string name, ValueId gate, ValueId up, Activation activation) {
    return activate(std::move(name), Activate{.gate = gate, .up = up, .activation = activation});
  }
  ValueId linear(std::string name, ValueId x, MatrixId weight, std::optional<VectorId> bias = {}, Rows rows = Rows::tokens);
  void kv_write(std::uint32_t layer, ValueId k, ValueId v);
  ValueId add(std::string name, ValueId a, ValueId b);
  ValueId scale(std::string name, ValueId x, float factor) {
    return scale(std::move(name), {.x = x, .factor = factor}, plan_.value(x).width);
  }
  ValueId soft_cap(std::string name, ValueId x, float cap);
  ValueId top_k(std::string name, ValueId x, std::uint32_t k) { return top_k(std::move(name), TopK{.x = x, .k = k}); }
  ValueId expert_weights(std::string name, ValueId logits, ValueId experts, Gating gating, float scale = 1.0f);
  ValueId expert_linear(std::string name, ValueId x, ValueId experts, MatrixId weight, std::optional<VectorId> bias = {});
  ValueId expert_sum(std::string name, ValueId x, ValueId weights);

  [[nodiscard]] std::uint64_t width(ValueId id) const { return plan_.value(id).width; }

  Result<Plan> finish(ValueId logits, std::uint32_t context);

 private:
  WeightId weight(const gguf::Tensor& tensor);
  ResultId make(std::string name, Rows rows, std::uint64_t width);
  template <class T>
  ValueId append(std::string name, Rows rows, std::uint64_t width, T op);
  // The op that writes a layer's cache; null: none so far.
  [[nodiscard]] const KvWrite* writer(std::uint32_t layer) const;
  // All inputs of the op.
  void expect_one_shape(const Op& op, std::string_view name);
  void expect(bool holds, std::string_view op, std::string_view name, std::string_view rule);
  // A weight, if there is one, that is a vector of n values; `what` is its role.
  void expect_vector(std::optional<VectorId> id, std::uint64_t n, std::string_view what, std::string_view op,
                     std::string_view name);

  Plan plan_;
  std::unordered_map<std::string, std::uint32_t> names_;
  std::optional<Error> error_;
};

}  // namespace plumb::plan
