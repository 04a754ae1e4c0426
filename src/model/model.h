// A language model as a GGUF file describes it: hyper-parameters, and the Plan that computes it.
//
// Parameters have one source, the file's metadata. A missing or odd key is an error that names it. Where the GGUF
// specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) allows a key to be absent, absence means what
// the specification says; keys.cpp cites it. Tensors are bound to roles by name, and must have the shape that follows from
// the hyper-parameters. A tensor of a block that no role uses is an error too: leaving it out would compute another model.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "plan/plan.h"

namespace plumb::model {

enum class RopeScaling : std::uint8_t { none, linear, yarn };

std::string_view name(RopeScaling scaling);

struct RopeParameters {
  plan::RopePairing pairing = plan::RopePairing::adjacent;
  std::uint32_t n_rot = 0;  // components of a head that rotate
  double theta = 0;         // frequency base
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;               // context extension; 1 without scaling
  double magnitude = 1;            // multiplies the rotated components
  std::optional<plan::Yarn> yarn;  // with RopeScaling::yarn
  bool frequency_factors = false;  // rope_freqs.weight divides the frequencies (Llama 3)

  // LongRoPE: rope_factors_long.weight and rope_factors_short.weight divide the frequencies.
  bool long_and_short = false;
  std::uint32_t original_context = 0;  // tokens up to which the short factors hold

  // The same without scaling.
  [[nodiscard]] RopeParameters unscaled() const { return {.pairing = pairing, .n_rot = n_rot, .theta = theta}; }
};

// A mixture of experts in place of the feed-forward.
struct ExpertParameters {
  std::uint32_t n_experts = 0;
  std::uint32_t n_used = 0;       // for each token
  std::uint32_t d_ff = 0;         // of an expert
  std::uint32_t d_ff_shared = 0;  // of the experts that every token passes, together; 0: none
  bool by_sigmoid = false;        // the router's scores are sigmoids; else a softmax
  bool normalized = true;         // the weights of a token's experts are brought to a sum of 1
  double scale = 1;               // of the weights
  std::uint32_t n_groups = 1;     // plan::TopK's
  std::uint32_t n_groups_used = 1;
};

// The numbers of one block, where blocks of a model differ.
struct LayerParameters {
  std::uint32_t n_heads = 0;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t d_ff = 0;
  std::uint32_t window = 0;  // sliding-window attention, in positions; 0: the block sees everything
  bool rotates = true;       // false: attention without rotary embedding ("NoPE")
  bool has_experts = false;
  std::optional<plan::Temperature> temperature = std::nullopt;  // multiplies q
  plan::Xielu xielu{};                                          // of Activation::xielu

  [[nodiscard]] std::uint32_t q_width() const { return n_heads * head_dim; }
  [[nodiscard]] std::uint32_t kv_width() const { return n_kv_heads * head_dim; }
};

struct HyperParameters {
  std::string architecture;  // general.architecture: "llama"
  std::string name;          // general.name; empty when the file has none
  std::uint32_t n_layers = 0;
  std::uint32_t d_model = 0;
  std::uint32_t n_heads = 0;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;  // of queries, keys and values
  std::uint32_t d_ff = 0;
  std::uint32_t vocab = 0;    // rows of logits
  std::uint32_t context = 0;  // tokens the model was made for
  std::uint32_t window = 0;   // sliding-window attention, in positions; 0: none
  plan::NormKind norm_kind = plan::NormKind::rms;
  bool norm_bias = false;   // every norm of the residual stream has a bias; without it, a layer norm may have one
  bool logit_bias = false;  // output.bias
  double norm_eps = 0;
  double attention_scale = 0;  // multiplies q . k
  plan::WindowKind window_kind = plan::WindowKind::sliding;
  double alibi_max_bias = 0;      // ALiBi's; 0: none
  double attention_soft_cap = 0;  // of scores; 0: none
  double embedding_scale = 1;
  double residual_scale = 1;  // multiplies what a block adds to the residual stream
  double logit_scale = 1;
  double logit_soft_cap = 0;  // 0: none
  RopeParameters rope;
  std::optional<RopeParameters> window_rope;  // of blocks with a window, where they turn differently
  std::optional<ExpertParameters> experts;
  std::uint32_t n_prediction_layers = 0;  // blocks after n_layers that predict further tokens (nextn), which are not run
  std::vector<LayerParameters> layers;    // by block
  bool parallel_blocks = false;           // attention and feed-forward read the same value, where files may differ in it
  bool tied_embeddings = false;           // no output.weight: token_embd.weight makes the logits

  [[nodiscard]] std::uint32_t q_width() const { return n_heads * head_dim; }
  [[nodiscard]] std::uint32_t kv_width() const { return n_kv_heads * head_dim; }
};

class Model {
 public:
  // Reads the hyper-parameters, binds the tensors and builds the Plan. The Model keeps the file mapped; its Plan does so
  // too, even without the Model.
  static Result<Model> load(gguf::File file);
  // The same for a plan that the caller has built from the file's tensors. The plan's weights must stay valid.
  static Model with_plan(gguf::File file, HyperParameters parameters, plan::Plan plan);

  [[nodiscard]] const HyperParameters& parameters() const { return state_->parameters; }
  [[nodiscard]] std::shared_ptr<const plan::Plan> plan() const { return {state_, &state_->plan}; }
  [[nodiscard]] const gguf::File& file() const { return state_->file; }
  // Tensors that the Plan does not read, in file order.
  [[nodiscard]] std::span<const std::string_view> unused_tensors() const { return state_->unused_tensors; }

 private:
  struct State {
    gguf::File file;
    HyperParameters parameters;
    plan::Plan plan;
    std::vector<std::string_view> unused_tensors;
    std::deque<std::string> names;  // the plan's weights view them
  };
  explicit Model(std::shared_ptr<const State> state) : state_(std::move(state)) {}

  std::shared_ptr<const State> state_;
};

// All reasons for which load() fails, as far as they can be told apart: every key that is wrong, and every tensor that is
// missing, has another shape or no role. A dimension that follows from a wrong key may be any. Empty: it does not fail.
std::vector<std::string> problems(const gguf::File& file);

// The architectures that load() knows, as general.architecture spells them.
std::vector<std::string_view> architecture_names();

}  // namespace plumb::model
