// Reads an architecture's hyper-parameters from a file's metadata. Each complaint names the file, the key, its value and
// what was expected. Reading goes on after a complaint, with a stand-in for what is not known: 0 for a count, NaN for a
// number. So an architecture needs no checks between the keys, and all that is wrong is found in one go.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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
  std::uint32_t count(std::string_view key, std::uint32_t most);
  // The same for a key that the file may leave out. None: it does.
  std::optional<std::uint32_t> optional_count(std::string_view key, std::uint32_t most);
  // A required number in [least, most]. NaN and infinities are complaints.
  double number(std::string_view key, double least, double most);
  std::optional<double> optional_number(std::string_view key, double least, double most);
  // A required array of finite numbers, one for each block. The key has no prefix. After a complaint: zeros.
  std::vector<double> numbers_by_block(std::string_view key, std::uint32_t n_blocks);
  // A required key that is true or false.
  bool flag(std::string_view key);
  // None: the file leaves it out, or there is a complaint.
  std::optional<std::string_view> optional_string(std::string_view key);
  // What the file holds. None: there is a complaint.
  template <class T>
  std::optional<T> value(Result<T> held) {
    if (held) return std::move(*held);
    complain(std::move(held.error().message));
    return std::nullopt;
  }

  // keys.odd("rope.scaling.type", "is 'spiral'; expected none, linear or yarn")
  void odd(std::string_view key, std::string_view complaint);
  void complain(std::string complaint) { complaints_.push_back(std::move(complaint)); }
  [[nodiscard]] const std::vector<std::string>& complaints() const { return complaints_; }

 private:
  const gguf::File& file_;
  std::string_view architecture_;
  std::vector<std::string> complaints_;
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
// Whether attention and feed-forward stand side by side; read_decoder() reads it for architectures that heed it.
inline constexpr std::string_view parallel_key = "use_parallel_residual";
inline constexpr std::string_view layer_eps_key = "attention.layer_norm_epsilon";

// What a file's attention.sliding_window means.
enum class Windows : std::uint8_t {
  none,      // the architecture has no window: a file that states one is refused
  uniform,   // all blocks have it
  by_block,  // some blocks have it; the architecture says which
};

// What the keys of experts mean where they are absent.
struct ExpertConventions {
  bool by_sigmoid = false;
  bool normalized = true;
};

struct DecoderConventions {
  plan::NormKind norm_kind = plan::NormKind::rms;      // decides the key of the norms' eps
  bool norm_bias = false;                              // every norm has a bias
  std::optional<RopeConventions> rope = std::nullopt;  // none: heads do not rotate
  bool logit_bias = false;
  std::optional<ExpertConventions> experts = std::nullopt;  // none: the architecture has no experts
  Windows windows = Windows::none;
  // Keys that say what most architectures lack ("logit_scale"), and that this one's recipe heeds.
  std::vector<std::string_view> heeds = {};
};

// Takes the last nextn_predict_layers blocks out of the count of blocks that run.
void leave_out_prediction(Keys& keys, HyperParameters& p);

// Gives the window to the blocks for which attention.sliding_window_pattern, an array of booleans, is true; without the
// key, to all but every `period_if_absent`-th.
void read_window_pattern(Keys& keys, HyperParameters& p, std::uint32_t period_if_absent);

// Gives the window to all blocks but every `period`-th, which sees everything.
void alternate_windows(HyperParameters& p, std::uint32_t period);

// The hyper-parameters that decoders share.
HyperParameters read_decoder(Keys& keys, const DecoderConventions& conventions);

}  // namespace plumb::model
