// Binds a file's tensors to roles while a Plan is built. Every tensor is asked for by name with the shape that the
// hyper-parameters give it, written [out, in]: GGUF's dims are {in, out}. The first complaint is kept and returned by
// finish(), so that an architecture reads as the straight list of its operations.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "model/architecture.h"
#include "model/model.h"
#include "plan/plan.h"

namespace plumb::model {

enum class Bias : std::uint8_t {
  required,
  if_present,
};

class Assembler {
 public:
  // Both outlive this.
  Assembler(const gguf::File& file, const HyperParameters& parameters);

  // False once a complaint is kept: a loop over layers can stop.
  [[nodiscard]] bool ok() const { return !error_; }
  [[nodiscard]] bool has(std::string_view tensor) const { return file_.tensor(tensor) != nullptr; }

  // token_embd.weight [vocab, d_model] to the value `token_embd`.
  plan::ValueId embed();
  // NAME.weight [length] to the value NAME.
  plan::ValueId norm(const std::string& name, plan::ValueId x, std::uint64_t length);
  // TENSOR.weight [out, in], TENSOR.bias [out] to the value `name`.
  plan::ValueId linear(const std::string& name, const std::string& tensor, plan::ValueId x, std::uint64_t out,
                       std::uint64_t in, Bias bias = Bias::if_present);
  // Rotates heads as the hyper-parameters say, by rope_freqs.weight [n_rot/2] where the file has it.
  plan::ValueId rope(const std::string& name, plan::ValueId x);
  // Puts k and v in the layer's cache and attends to it, to the value `name`.
  plan::ValueId attend(const std::string& name, std::uint32_t layer, plan::ValueId q, plan::ValueId k, plan::ValueId v);
  plan::ValueId add(const std::string& name, plan::ValueId a, plan::ValueId b) { return builder_.add(name, a, b); }
  // The block's ffn_norm, ffn_gate, ffn_up, ffn_act and ffn_down, and `blk.N.output` = x + ffn_down.
  plan::ValueId gated_feed_forward(std::uint32_t layer, plan::ValueId x, plan::Activation activation);
  // output_norm and logits; without output.weight, token_embd.weight is both (tied embeddings).
  plan::ValueId logits(plan::ValueId x);

  Result<Draft> finish(plan::ValueId logits);

 private:
  plan::WeightId bind(const std::string& name, std::uint64_t out, std::uint64_t in, bool vector);
  plan::WeightId matrix(const std::string& name, std::uint64_t out, std::uint64_t in) { return bind(name, out, in, false); }
  plan::WeightId vector(const std::string& name, std::uint64_t length) { return bind(name, 1, length, true); }

  const gguf::File& file_;
  const HyperParameters& p_;
  plan::Builder builder_;
  std::unordered_set<std::string_view> used_;  // views of the file
  std::optional<Error> error_;
};

// "blk.3.attn_q"
std::string block(std::uint32_t layer, std::string_view value);

}  // namespace plumb::model
