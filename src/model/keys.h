// Reads an architecture's hyper-parameters from a file's metadata. Every error names the file, the key, its value and what
// was expected.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "gguf/file.h"
#include "model/model.h"

namespace plumb::model {

class Keys {
 public:
  // `architecture` is the prefix of the keys. It and `file` must outlive the Keys.
  Keys(const gguf::File& file, std::string_view architecture) : file_(file), architecture_(architecture) {}

  [[nodiscard]] const gguf::File& file() const { return file_; }
  [[nodiscard]] std::string_view architecture() const { return architecture_; }

  // "block_count" to "llama.block_count"
  [[nodiscard]] std::string full(std::string_view key) const;
  [[nodiscard]] bool has(std::string_view key) const;
  [[nodiscard]] bool has_tensor(std::string_view name) const { return file_.tensor(name) != nullptr; }

  // A required count in [1, most]; an array of equal values, one for each block, is such a count.
  [[nodiscard]] Result<std::uint32_t> count(std::string_view key, std::uint32_t most) const;
  // The same for a key that the file may leave out.
  [[nodiscard]] Result<std::optional<std::uint32_t>> optional_count(std::string_view key, std::uint32_t most) const;
  // A required number in [least, most]. NaN and infinities are errors.
  [[nodiscard]] Result<double> number(std::string_view key, double least, double most) const;
  [[nodiscard]] Result<std::optional<double>> optional_number(std::string_view key, double least, double most) const;
  [[nodiscard]] Result<std::optional<std::string_view>> optional_string(std::string_view key) const;

  // `return keys.odd("rope.scaling.type", "is 'spiral'; expected none, linear or yarn")`
  [[nodiscard]] tl::unexpected<Error> odd(std::string_view key, std::string_view complaint) const;

 private:
  const gguf::File& file_;
  std::string_view architecture_;
};

// An architecture's conventions about keys that its files leave out.
struct RopeConventions {
  plan::RopePairing pairing = plan::RopePairing::adjacent;
  std::optional<double> theta_if_absent = std::nullopt;  // none: rope.freq_base is required
  bool n_rot_is_head_dim_if_absent = false;              // false: rope.dimension_count is required
};
// The whole head rotates, in pairs (i, i + head_dim/2). Converters write no rope.dimension_count for such architectures,
// for instance Qwen's (https://github.com/huggingface/transformers, models/qwen2 and models/qwen3).
inline constexpr RopeConventions whole_heads_in_halves{.pairing = plan::RopePairing::halves,
                                                       .n_rot_is_head_dim_if_absent = true};
inline constexpr std::string_view rms_eps_key = "attention.layer_norm_rms_epsilon";
struct DecoderConventions {
  std::string_view norm_eps = rms_eps_key;             // the key of the norms' eps
  std::optional<RopeConventions> rope = std::nullopt;  // none: heads do not rotate
  bool uniform_window = false;                         // attention.sliding_window applies to all layers alike
};

// The hyper-parameters that decoders share.
Result<HyperParameters> read_decoder(const Keys& keys, const DecoderConventions& conventions);

}  // namespace plumb::model
