#include "model/synth.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <numbers>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/random.h"
#include "quants/format.h"

namespace plumb::model {
namespace {

// Shapes from each model's config.json on https://huggingface.co: TinyLlama/TinyLlama-1.1B-Chat-v1.0,
// meta-llama/Llama-2-7b-hf, meta-llama/Llama-3.1-8B, meta-llama/Llama-3.2-1B, mistralai/Mistral-7B-v0.3,
// HuggingFaceTB/SmolLM2-{135M,360M,1.7B}, Qwen/Qwen2.5-{0.5B,7B}-Instruct, Qwen/Qwen3-{0.6B,4B,8B,30B-A3B},
// openai/gpt-oss-20b.
constexpr Preset::RopeFactors llama_31{.factor = 8, .original_context = 8192};
constexpr Preset::RopeFactors llama_32{.factor = 32, .original_context = 8192};
constexpr Preset with_qkv_bias(Preset preset) {
  preset.qkv_bias = true;
  return preset;
}
constexpr Preset with_head_norms(Preset preset) {
  preset.head_norms = true;
  return preset;
}
constexpr Preset with_experts(Preset preset, Preset::Experts experts) {
  preset.experts = experts;
  return preset;
}
constexpr Preset as_gpt_oss(Preset preset) {
  preset.qkv_bias = preset.out_bias = preset.sinks = true;
  preset.window = 128;
  preset.yarn = {.factor = 32, .original_context = 4096};
  preset.feed_forward_norm = "post_attention_norm";
  return preset;
}
constexpr std::array preset_table{
    // name, architecture, layers, d, heads, kv heads, head_dim, d_ff, vocab, context, eps, theta, tied
    Preset{"tinyllama-1.1b", "llama", 22, 2048, 32, 4, 64, 5632, 32000, 2048, 1e-5, 1e4, false},
    Preset{"llama-2-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32000, 4096, 1e-5, 1e4, false},
    Preset{"llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 1e-5, 5e5, false, llama_31},
    Preset{"llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 1e-5, 5e5, true, llama_32},
    Preset{"mistral-7b", "llama", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1e-5, 1e6, false},
    Preset{"smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, 1e-5, 1e5, true},
    Preset{"smollm2-360m", "llama", 32, 960, 15, 5, 64, 2560, 49152, 8192, 1e-5, 1e5, true},
    Preset{"smollm2-1.7b", "llama", 24, 2048, 32, 32, 64, 8192, 49152, 8192, 1e-5, 1.3e5, true},
    with_qkv_bias({"qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1e-6, 1e6, true}),
    with_qkv_bias({"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, 1e-6, 1e6, false}),
    with_head_norms({"qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1e-6, 1e6, true}),
    with_head_norms({"qwen3-4b", "qwen3", 36, 2560, 32, 8, 128, 9728, 151936, 40960, 1e-6, 1e6, true}),
    with_head_norms({"qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, 1e-6, 1e6, false}),
    with_experts(
        with_head_norms({"qwen3-30b-a3b", "qwen3moe", 48, 2048, 32, 4, 128, 6144, 151936, 40960, 1e-6, 1e6, false}),
        {.n = 128, .n_used = 8, .d_ff = 768}),
    with_experts(as_gpt_oss({"gpt-oss-20b", "gpt-oss", 24, 2880, 64, 8, 64, 2880, 201088, 131072, 1e-5, 1.5e5, false}),
                 {.n = 32, .n_used = 4, .d_ff = 2880, .biases = true}),
};

class Random {
 public:
  explicit Random(std::uint64_t seed) : seed_(seed) {}
  std::uint64_t next() { return splitmix64(seed_, draws_++); }
  // In (0, 1].
  double uniform() { return plumb::uniform(seed_, draws_++) + 0x1p-53; }
  // In [0, n), n at most 2^32: the bias is below n / 2^32.
  std::uint64_t below(std::uint64_t n) { return ((next() >> 32) * n) >> 32; }
  double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform()); }

 private:
  std::uint64_t seed_, draws_ = 0;
};

// Encoded runs of `run` random weights each. A matrix is made of runs drawn at random.
struct Pool {
  std::size_t run_bytes = 0;
  std::vector<std::byte> bytes;
};

class Pools {
 public:
  explicit Pools(std::uint64_t seed) : seed_(seed) {}

  // Runs of weights with that standard deviation. Their length divides `in`.
  Result<std::shared_ptr<const Pool>> get(quants::Format format, std::uint64_t in, double deviation) {
    constexpr std::uint64_t longest_run = 256;
    constexpr std::uint64_t pool_weights = 1u << 19;
    const std::uint64_t run = std::gcd(in, longest_run);
    std::shared_ptr<const Pool>& pool = pools_[{format, run, deviation}];
    if (pool) return pool;
    const quants::FormatInfo& info = quants::info(format);
    if (info.encode == nullptr) return fail("Plumb cannot write the tensor format {}", info.name);
    if (run % info.block_size != 0) return fail("rows of {} weights are no whole number of {} blocks", in, info.name);
    auto made = std::make_shared<Pool>();
    made->run_bytes = info.row_bytes(run);
    Random random(seed_ + pools_.size());
    std::vector<float> weights(pool_weights / run * run);
    for (float& weight : weights) weight = static_cast<float>(random.normal() * deviation);
    made->bytes.resize(info.row_bytes(weights.size()));
    info.encode(weights.data(), made->bytes.data(), weights.size() / info.block_size);
    pool = std::move(made);
    return pool;
  }

 private:
  std::uint64_t seed_;
  std::map<std::tuple<quants::Format, std::uint64_t, double>, std::shared_ptr<const Pool>> pools_;
};

void shuffle_into(std::span<std::byte> bytes, const Pool& pool, Random random) {
  const std::size_t runs = pool.bytes.size() / pool.run_bytes;
  for (std::size_t at = 0; at < bytes.size(); at += pool.run_bytes) {
    std::memcpy(bytes.data() + at, pool.bytes.data() + random.below(runs) * pool.run_bytes, pool.run_bytes);
  }
}

// A SentencePiece vocabulary: control tokens, bytes, printable ASCII, then all words over a-z by length, with and without a
// leading space. Every word is a shorter word plus a letter, so that merging can reach it. Earlier words merge first.
struct Vocabulary {
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<std::int32_t> types;

  void add(std::string piece, std::int32_t type) {
    scores.push_back(type == normal ? -static_cast<float>(pieces.size()) : 0.0f);
    pieces.push_back(std::move(piece));
    types.push_back(type);
  }

  // tokenizer.ggml.token_type
  static constexpr std::int32_t normal = 1, unknown = 2, control = 3, byte = 6;
  static constexpr std::uint32_t smallest = 600;
};

Vocabulary make_vocabulary(std::uint32_t size) {
  constexpr std::string_view space = "\u2581";
  constexpr int letters = 26;
  Vocabulary v;
  v.add("<unk>", Vocabulary::unknown);
  v.add("<s>", Vocabulary::control);
  v.add("</s>", Vocabulary::control);
  for (int b = 0; b < 256; ++b) v.add(fmt::format("<0x{:02X}>", b), Vocabulary::byte);
  v.add(std::string(space), Vocabulary::normal);
  for (char c = '!'; c <= '~'; ++c) v.add(std::string(1, c), Vocabulary::normal);
  std::vector<std::string> words{std::string(space)};
  for (int i = 0; i < letters; ++i) words.emplace_back(1, static_cast<char>('a' + i));
  while (v.pieces.size() < size) {
    std::vector<std::string> longer;
    for (const std::string& word : words) {
      for (int i = 0; i < letters && v.pieces.size() < size; ++i) {
        longer.push_back(word + static_cast<char>('a' + i));
        v.add(longer.back(), Vocabulary::normal);
      }
    }
    words = std::move(longer);
  }
  return v;
}

// Divisors of the rotary frequencies (https://github.com/meta-llama/llama-models, models/llama3/model.py). Components that
// turn less than low_frequency times in the original context slow down by `factor`; those that turn more than
// high_frequency times stay as they are; those in between get a blend of both.
std::vector<float> frequency_divisors(const Preset& p) {
  std::vector<float> divisors;
  for (std::uint32_t i = 0; i < p.head_dim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(p.theta, 2.0 * i / p.head_dim);
    const double turns = p.rope_factors->original_context / wavelength;
    const double mix = std::clamp(
        (turns - p.rope_factors->low_frequency) / (p.rope_factors->high_frequency - p.rope_factors->low_frequency), 0.0,
        1.0);
    divisors.push_back(static_cast<float>(1 / ((1 - mix) / p.rope_factors->factor + mix)));
  }
  return divisors;
}

// A tensor to write: a matrix [out, in] or matrices [n, out, in] of random weights, or vectors with their values.
struct Item {
  std::string name;
  std::vector<std::uint64_t> dims;  // as GGUF has them: {in, out, n}
  double deviation = 0;
  std::vector<float> values;  // of vectors; empty for matrices
};

class ItemList {
 public:
  explicit ItemList(std::uint64_t seed) : random_(seed) {}

  void matrix(std::string name, std::uint64_t out, std::uint64_t in, double deviation) {
    items_.push_back({std::move(name), {in, out}, deviation, {}});
  }
  void matrices(std::string name, std::uint64_t n, std::uint64_t out, std::uint64_t in, double deviation) {
    items_.push_back({std::move(name), {in, out, n}, deviation, {}});
  }
  void vector(std::string name, std::vector<float> values) {
    const std::uint64_t length = values.size();
    items_.push_back({std::move(name), {length}, 0, std::move(values)});
  }
  void vector(std::string name, std::uint64_t length, double mean, double deviation) {
    vector(std::move(name), random(length, mean, deviation));
  }
  void vectors(std::string name, std::uint64_t n, std::uint64_t length, double deviation) {
    items_.push_back({std::move(name), {length, n}, 0, random(n * length, 0, deviation)});
  }
  [[nodiscard]] const std::vector<Item>& items() const { return items_; }

 private:
  std::vector<float> random(std::uint64_t n, double mean, double deviation) {
    std::vector<float> values(n);
    for (float& value : values) value = static_cast<float>(mean + random_.normal() * deviation);
    return values;
  }

  std::vector<Item> items_;
  Random random_;
};

double spread(std::uint32_t in) { return 1 / std::sqrt(static_cast<double>(in)); }

// A block's feed-forward, or its experts. Names are those of `name`.
template <class Name>
void list_feed_forward(const Preset& p, const Name& name, double into_residual, ItemList& list) {
  if (!p.experts) {
    list.matrix(name("ffn_gate.weight"), p.d_ff, p.d_model, spread(p.d_model));
    list.matrix(name("ffn_up.weight"), p.d_ff, p.d_model, spread(p.d_model));
    list.matrix(name("ffn_down.weight"), p.d_model, p.d_ff, spread(p.d_ff) * into_residual);
    return;
  }
  const Preset::Experts& e = *p.experts;
  list.matrix(name("ffn_gate_inp.weight"), e.n, p.d_model, spread(p.d_model));
  list.matrices(name("ffn_gate_exps.weight"), e.n, e.d_ff, p.d_model, spread(p.d_model));
  list.matrices(name("ffn_up_exps.weight"), e.n, e.d_ff, p.d_model, spread(p.d_model));
  list.matrices(name("ffn_down_exps.weight"), e.n, p.d_model, e.d_ff, spread(e.d_ff) * into_residual);
  if (!e.biases) return;
  list.vector(name("ffn_gate_inp.bias"), e.n, 0, 0.1);
  list.vectors(name("ffn_gate_exps.bias"), e.n, e.d_ff, 0.1);
  list.vectors(name("ffn_up_exps.bias"), e.n, e.d_ff, 0.1);
  list.vectors(name("ffn_down_exps.bias"), e.n, p.d_model, 0.1 * into_residual);
}

ItemList list_items(const Preset& p, std::uint64_t seed) {
  ItemList list(seed);
  const double into_residual = 1 / std::sqrt(2.0 * p.n_layers);
  const std::uint32_t q_width = p.n_heads * p.head_dim;
  const std::uint32_t kv_width = p.n_kv_heads * p.head_dim;

  list.matrix("token_embd.weight", p.vocab, p.d_model, spread(p.d_model));
  for (std::uint32_t i = 0; i < p.n_layers; ++i) {
    const auto name = [i](std::string_view rest) { return fmt::format("blk.{}.{}", i, rest); };
    list.vector(name("attn_norm.weight"), p.d_model, 1, 0.1);
    list.matrix(name("attn_q.weight"), q_width, p.d_model, spread(p.d_model));
    list.matrix(name("attn_k.weight"), kv_width, p.d_model, spread(p.d_model));
    list.matrix(name("attn_v.weight"), kv_width, p.d_model, spread(p.d_model));
    if (p.qkv_bias) {
      list.vector(name("attn_q.bias"), q_width, 0, 0.1);
      list.vector(name("attn_k.bias"), kv_width, 0, 0.1);
      list.vector(name("attn_v.bias"), kv_width, 0, 0.1);
    }
    if (p.head_norms) {
      list.vector(name("attn_q_norm.weight"), p.head_dim, 1, 0.1);
      list.vector(name("attn_k_norm.weight"), p.head_dim, 1, 0.1);
    }
    list.matrix(name("attn_output.weight"), p.d_model, q_width, spread(q_width) * into_residual);
    if (p.out_bias) list.vector(name("attn_output.bias"), p.d_model, 0, 0.1 * into_residual);
    if (p.sinks) list.vector(name("attn_sinks.weight"), p.n_heads, 0, 1);
    list.vector(name(fmt::format("{}.weight", p.feed_forward_norm)), p.d_model, 1, 0.1);
    list_feed_forward(p, name, into_residual, list);
  }
  list.vector("output_norm.weight", p.d_model, 1, 0.1);
  if (p.rope_factors) list.vector("rope_freqs.weight", frequency_divisors(p));
  if (!p.tied_embeddings) list.matrix("output.weight", p.vocab, p.d_model, spread(p.d_model));
  return list;
}

// The format of each item in a file of that type.
Result<std::vector<quants::Format>> formats_of(const Preset& preset, const std::vector<Item>& items, FileType type) {
  std::vector<gguf::Tensor> tensors(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    tensors[i].name = items[i].name;
    tensors[i].format = quants::Format::f32;
    tensors[i].n_dims = static_cast<std::uint32_t>(items[i].dims.size());
    tensors[i].dims = {1, 1, 1, 1};
    std::ranges::copy(items[i].dims, tensors[i].dims.begin());
  }
  MixtureShape shape;
  shape.n_layers = preset.n_layers;
  if (preset.experts) shape.n_experts = preset.experts->n;
  shape.is_70b = preset.n_layers == 80 && preset.n_heads != preset.n_kv_heads;
  return choose_formats(tensors, shape, type, preset.name);
}

// Adds the tensors to the writer. It only views the vectors, which must outlive its last use. A matrix is made when it is
// written.
Result<void> add_tensors(const std::vector<Item>& items, std::span<const quants::Format> formats, std::uint64_t seed,
                         gguf::Writer& writer) {
  Random seeds(seed);
  Pools pools(seeds.next());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Item& item = items[i];
    if (!item.values.empty()) {
      writer.add_tensor(item.name, quants::Format::f32, item.dims, std::as_bytes(std::span(item.values)));
      continue;
    }
    PLUMB_TRY(auto pool, pools.get(formats[i], item.dims.front(), item.deviation));
    writer.add_tensor(item.name, formats[i], item.dims,
                      [pool = std::move(pool), random = Random(seeds.next())](std::span<std::byte> bytes) -> Result<void> {
                        shuffle_into(bytes, *pool, random);
                        return {};
                      });
  }
  return {};
}

// Sets the metadata. `name` and `vocabulary` are only viewed, and must outlive the writer's last use.
void set_metadata(const Preset& p, FileType type, std::string_view name, const Vocabulary& vocabulary,
                  std::span<const std::string_view> pieces, gguf::Writer& writer) {
  const auto key = [&](std::string_view rest) { return fmt::format("{}.{}", p.architecture, rest); };
  writer.set("general.architecture", p.architecture);
  writer.set("general.name", name);
  writer.set("general.file_type", static_cast<std::uint32_t>(type));
  writer.set("general.quantization_version", std::uint32_t{2});
  writer.set(key("block_count"), p.n_layers);
  writer.set(key("context_length"), p.context);
  writer.set(key("embedding_length"), p.d_model);
  writer.set(key("feed_forward_length"), p.d_ff);
  writer.set(key("attention.head_count"), p.n_heads);
  writer.set(key("attention.head_count_kv"), p.n_kv_heads);
  writer.set(key("attention.key_length"), p.head_dim);
  writer.set(key("attention.value_length"), p.head_dim);
  writer.set(key("attention.layer_norm_rms_epsilon"), static_cast<float>(p.rms_eps));
  writer.set(key("rope.freq_base"), static_cast<float>(p.theta));
  writer.set(key("rope.dimension_count"), p.head_dim);
  writer.set(key("vocab_size"), p.vocab);
  if (p.window > 0) writer.set(key("attention.sliding_window"), p.window);
  if (p.experts) {
    writer.set(key("expert_count"), p.experts->n);
    writer.set(key("expert_used_count"), p.experts->n_used);
    writer.set(key("expert_feed_forward_length"), p.experts->d_ff);
  }
  if (p.yarn) {
    writer.set(key("rope.scaling.type"), std::string_view("yarn"));
    writer.set(key("rope.scaling.factor"), static_cast<float>(p.yarn->factor));
    writer.set(key("rope.scaling.original_context_length"), p.yarn->original_context);
  }
  writer.set("tokenizer.ggml.model", std::string_view("llama"));
  writer.set("tokenizer.ggml.pre", std::string_view("default"));
  writer.set("tokenizer.ggml.tokens", gguf::array_of(pieces));
  writer.set("tokenizer.ggml.scores", gguf::array_of(vocabulary.scores));
  writer.set("tokenizer.ggml.token_type", gguf::array_of(vocabulary.types));
  writer.set("tokenizer.ggml.unknown_token_id", std::uint32_t{0});
  writer.set("tokenizer.ggml.bos_token_id", std::uint32_t{1});
  writer.set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
  writer.set("tokenizer.ggml.add_bos_token", true);
  writer.set("tokenizer.ggml.add_eos_token", false);
}

}  // namespace

std::span<const Preset> presets() { return preset_table; }

const Preset* find_preset(std::string_view name) {
  const auto* found =
      std::find_if(preset_table.begin(), preset_table.end(), [&](const Preset& preset) { return preset.name == name; });
  return found == preset_table.end() ? nullptr : found;
}

Result<void> synthesize(const Preset& preset, FileType type, std::uint64_t seed, const std::filesystem::path& path,
                        const gguf::Writer::Progress& progress) {
  if (preset.vocab < Vocabulary::smallest) {
    return fail("a vocabulary of {} tokens is too small to synthesize; {} is the least", preset.vocab,
                Vocabulary::smallest);
  }
  const std::string name = fmt::format("{} with random weights", preset.name);
  const Vocabulary vocabulary = make_vocabulary(preset.vocab);
  const std::vector<std::string_view> pieces(vocabulary.pieces.begin(), vocabulary.pieces.end());
  gguf::Writer writer;
  set_metadata(preset, type, name, vocabulary, pieces, writer);
  const ItemList list = list_items(preset, seed);
  PLUMB_TRY(const std::vector<quants::Format> formats, formats_of(preset, list.items(), type));
  PLUMB_CHECK(add_tensors(list.items(), formats, seed, writer));
  return writer.write(path, progress);
}

}  // namespace plumb::model
