// Binds a file's tensors to roles while a Plan is built. Every tensor is looked up by name and must have the shape that
// follows from the hyper-parameters. Shapes are written [out, in]; GGUF's dims are {in, out}. A hyper-parameter of 0 is not
// known, and neither is a dimension that follows from it: any fits. finish() returns the first complaint as its error, so
// an architecture needs no checks between its ops.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "model/model.h"
#include "plan/plan.h"

namespace plumb::model {

enum class Bias : std::uint8_t {
  required,
  if_present,
};

// A weight and its bias: all of NAME.weight and NAME.bias; or, where several roles share a tensor of `of` rows, its rows
// from `first` on.
struct Source {
  std::string name;
  std::uint64_t first = 0;
  std::uint64_t of = 0;  // 0: no other role shares the tensor
};

class Assembler {
 public:
  // Both must outlive the Assembler.
  Assembler(const gguf::File& file, const HyperParameters& parameters);

  [[nodiscard]] const HyperParameters& parameters() const { return p_; }
  [[nodiscard]] bool has(std::string_view tensor) const { return file_.tensor(tensor) != nullptr; }
  // For ops that only one architecture has.
  plan::Builder& builder() { return builder_; }
  // NAME.weight [out, in].
  plan::MatrixId matrix(const Source& source, std::uint64_t out, std::uint64_t in) {
    return builder_.matrix(bind(source, "weight", {out, in, false}));
  }
  // NAME.weight [n_experts, out, in].
  plan::MatrixId experts(const std::string& name, std::uint64_t n_experts, std::uint64_t out, std::uint64_t in) {
    return builder_.matrix(bind({name}, "weight", {out, in, false, n_experts}));
  }
  // NAME.bias [n_experts, out], a vector for each expert.
  plan::VectorId expert_biases(const std::string& name, std::uint64_t n_experts, std::uint64_t out) {
    return builder_.vector(bind({name}, "bias", {n_experts, out, false}));
  }
  // NAME.weight or NAME.bias [length].
  plan::VectorId vector(const Source& source, std::string_view kind, std::uint64_t length) {
    return builder_.vector(bind(source, kind, {1, length, true}));
  }

  // The value `token_embd`: rows of token_embd.weight [vocab, d_model].
  // Where the model scales embeddings: the value `embd`, that times the scale.
  plan::ValueId embed();
  // The value NAME: x normalized with SOURCE.weight [length] and SOURCE.bias [length], in groups of `length` values. For
  // groups with weights of their own the file has [length] for each group.
  plan::ValueId norm(const std::string& name, const std::string& source, plan::ValueId x, std::uint64_t length,
                     Bias bias = Bias::if_present);
  // A norm of the residual stream.
  plan::ValueId norm(const std::string& name, const std::string& source, plan::ValueId x) {
    return norm(name, source, x, p_.d_model, p_.norm_bias ? Bias::required : Bias::if_present);
  }
  plan::ValueId norm(const std::string& name, plan::ValueId x) { return norm(name, name, x); }
  // The value `name`: x times the weight [out, in], plus the bias [out].
  plan::ValueId linear(const std::string& name, const Source& source, plan::ValueId x, std::uint64_t out, std::uint64_t in,
                       Bias bias = Bias::if_present);
  // Rotates a layer's heads as the hyper-parameters say, with rope_freqs.weight [n_rot/2] where the file has it.
  plan::ValueId rope(const std::string& name, std::uint32_t layer, plan::ValueId x);
  // The value `name`: adds k and v to the layer's cache, then attends to the cache with q.
  plan::ValueId attend(const std::string& name, std::uint32_t layer, plan::ValueId q, plan::ValueId k, plan::ValueId v,
                       std::optional<plan::VectorId> sinks = {});
  // The value `name`: what a block adds to the residual stream, times the model's factor for it.
  plan::ValueId add_branch(const std::string& name, plan::ValueId x, plan::ValueId branch, const std::string& scaled);
  plan::ValueId add(const std::string& name, plan::ValueId a, plan::ValueId b) { return builder_.add(name, a, b); }
  // x times output.weight; in a file without it (tied embeddings), x times token_embd.weight. Scaled and capped where the
  // model does so; the value `logits_raw` is what they were before.
  plan::ValueId logits(plan::ValueId x);

  // The result: the plan, and what the file has besides.
  struct Draft {
    plan::Plan plan;
    std::vector<std::string_view> unused_tensors;  // views of the file
    std::deque<std::string> names;                 // names of weights that are some rows of a tensor
  };
  Result<Draft> finish(plan::ValueId logits);
  // After finish(): every complaint, of which finish() returned the first.
  [[nodiscard]] const std::vector<std::string>& complaints() const { return complaints_; }

 private:
  // The shape that a role needs.
  struct Shape {
    std::uint64_t out;
    std::uint64_t in;
    bool vector;
    std::uint64_t n_experts = 1;
    [[nodiscard]] std::uint32_t n_dims() const { return vector ? 1 : n_experts != 1 ? 3 : 2; }
  };
  void complain(std::string complaint);
  // Whether the tensor belongs to a block that only predicts further tokens.
  [[nodiscard]] bool of_prediction(std::string_view name) const;
  // The rows of `whole` from `first` on, in this shape. They get a name of their own: "blk.0.attn_qkv.weight[0:768]".
  gguf::Tensor rows(const gguf::Tensor& whole, std::uint64_t first, const Shape& shape);
  gguf::Tensor bind(const Source& source, std::string_view kind, const Shape& shape);
  // A norm's weight or bias.
  plan::VectorId norm_vector(const std::string& source, std::string_view kind, std::uint64_t n_groups,
                             std::uint64_t length);

  const gguf::File& file_;
  const HyperParameters& p_;
  plan::Builder builder_;
  std::unordered_set<std::string_view> used_;  // views of the file
  std::deque<std::string> names_;              // the plan's weights view them
  std::vector<std::string> complaints_;
};

}  // namespace plumb::model
