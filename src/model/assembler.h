// Binds a file's tensors to roles while a Plan is built. Every tensor is asked for by name with the shape that the
// hyper-parameters give it, written [out, in]: GGUF's dims are {in, out}. The first complaint is kept and returned by
// finish(), so that an architecture reads as the straight list of its operations.
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

// A weight and its bias: all of NAME.weight and NAME.bias, or the rows of them from `first` on, where several roles share a
// tensor of `of` rows.
struct Source {
  std::string name;
  std::uint64_t first = 0;
  std::uint64_t of = 0;  // 0: the tensor is of this role alone
};

class Assembler {
 public:
  // Both outlive this.
  Assembler(const gguf::File& file, const HyperParameters& parameters);

  [[nodiscard]] const HyperParameters& parameters() const { return p_; }
  // For an op that one architecture alone has.
  plan::Builder& builder() { return builder_; }
  // NAME.weight [out, in].
  plan::MatrixId matrix(const Source& source, std::uint64_t out, std::uint64_t in) {
    return builder_.matrix(bind(source, "weight", {out, in, false}));
  }
  // NAME.weight or NAME.bias [length].
  plan::VectorId vector(const Source& source, std::string_view kind, std::uint64_t length) {
    return builder_.vector(bind(source, kind, {1, length, true}));
  }

  // token_embd.weight [vocab, d_model] to the value `token_embd`.
  plan::ValueId embed();
  // NAME.weight [length] to the value NAME; a norm of the residual stream is d_model long.
  plan::ValueId norm(const std::string& name, plan::ValueId x) { return norm(name, x, p_.d_model); }
  plan::ValueId norm(const std::string& name, plan::ValueId x, std::uint64_t length);
  // A weight [out, in] and a bias [out] to the value `name`.
  plan::ValueId linear(const std::string& name, const Source& source, plan::ValueId x, std::uint64_t out, std::uint64_t in,
                       Bias bias = Bias::if_present);
  // Rotates heads as the hyper-parameters say, by rope_freqs.weight [n_rot/2] where the file has it.
  plan::ValueId rope(const std::string& name, plan::ValueId x);
  // Puts k and v in the layer's cache and attends to it, to the value `name`.
  plan::ValueId attend(const std::string& name, std::uint32_t layer, plan::ValueId q, plan::ValueId k, plan::ValueId v);
  plan::ValueId add(const std::string& name, plan::ValueId a, plan::ValueId b) { return builder_.add(name, a, b); }
  // By output.weight, or by token_embd.weight in a file without it (tied embeddings).
  plan::ValueId logits(plan::ValueId x);

  // What became of the file.
  struct Draft {
    plan::Plan plan;
    std::vector<std::string_view> unused_tensors;  // views of the file
    std::deque<std::string> names;                 // of the plan's weights that are rows of a tensor
  };
  Result<Draft> finish(plan::ValueId logits);

 private:
  // What a role asks of a tensor.
  struct Shape {
    std::uint64_t out;
    std::uint64_t in;
    bool vector;
  };
  void complain(std::string complaint);
  // The rows of `whole` from `first` on, which have that shape, under a name of their own: "blk.0.attn_qkv.weight[0:768]".
  gguf::Tensor rows(const gguf::Tensor& whole, std::uint64_t first, const Shape& shape);
  gguf::Tensor bind(const Source& source, std::string_view kind, const Shape& shape);

  const gguf::File& file_;
  const HyperParameters& p_;
  plan::Builder builder_;
  std::unordered_set<std::string_view> used_;  // views of the file
  std::deque<std::string> names_;              // which the plan's weights view
  std::optional<Error> error_;
};

}  // namespace plumb::model
