// Models of a known shape with random weights, for measuring speed and memory without the real weights. The file is
// complete: it has a tokenizer of the right size and loads like the real one.
//
// Every matrix has weights of variance 1/in, so that activations stay near one. Matrices whose results are added to the
// residual stream are smaller by the square root of their number. A matrix is made of blocks drawn at random from a pool
// that is encoded once: its rows differ, and gigabytes take seconds. The same shape, type and seed give the same file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"
#include "gguf/writer.h"
#include "model/file_type.h"

namespace plumb::model {

struct Preset {
  // Llama 3's frequency scaling for long contexts.
  struct RopeFactors {
    double factor = 1;
    double low_frequency = 1;
    double high_frequency = 4;
    std::uint32_t original_context = 0;
  };

  // In place of the feed-forward of every block.
  struct Experts {
    std::uint32_t n = 0;
    std::uint32_t n_used = 0;  // for each token
    std::uint32_t d_ff = 0;    // of an expert
    bool biases = false;       // of the router and of the experts
  };
  struct Yarn {
    double factor = 1;
    std::uint32_t original_context = 0;
  };

  std::string_view name;
  std::string_view architecture;
  std::uint32_t n_layers = 0;
  std::uint32_t d_model = 0;
  std::uint32_t n_heads = 0;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t d_ff = 0;
  std::uint32_t vocab = 0;
  std::uint32_t context = 0;
  double rms_eps = 0;
  double theta = 0;
  bool tied_embeddings = false;
  std::optional<RopeFactors> rope_factors = std::nullopt;
  bool qkv_bias = false;
  bool head_norms = false;
  bool out_bias = false;     // of attn_output
  bool sinks = false;        // one for each head
  std::uint32_t window = 0;  // attention.sliding_window; 0: none
  std::optional<Experts> experts = std::nullopt;
  std::optional<Yarn> yarn = std::nullopt;
  std::string_view feed_forward_norm = "ffn_norm";  // the tensor of the norm before the feed-forward
};

std::span<const Preset> presets();

// Null when there is none of that name.
const Preset* find_preset(std::string_view name);

// Writes a model of that shape to `path`. Errors: a vocabulary too small for the tokenizer (600 tokens), and the writer's.
Result<void> synthesize(const Preset& preset, FileType type, std::uint64_t seed, const std::filesystem::path& path,
                        const gguf::Writer::Progress& progress = {});

}  // namespace plumb::model
