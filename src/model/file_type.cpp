#include "model/file_type.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <numeric>
#include <optional>
#include <string>

namespace plumb::model {
namespace {

using quants::Format;

constexpr std::array type_table = {
    FileTypeInfo{FileType::f32, "F32", Format::f32},        FileTypeInfo{FileType::bf16, "BF16", Format::bf16},
    FileTypeInfo{FileType::f16, "F16", Format::f16},        FileTypeInfo{FileType::q8_0, "Q8_0", Format::q8_0},
    FileTypeInfo{FileType::q6_k, "Q6_K", Format::q6_k},     FileTypeInfo{FileType::q5_1, "Q5_1", Format::q5_1},
    FileTypeInfo{FileType::q5_k_m, "Q5_K_M", Format::q5_k}, FileTypeInfo{FileType::q5_k_s, "Q5_K_S", Format::q5_k},
    FileTypeInfo{FileType::q5_0, "Q5_0", Format::q5_0},     FileTypeInfo{FileType::q4_1, "Q4_1", Format::q4_1},
    FileTypeInfo{FileType::q4_k_m, "Q4_K_M", Format::q4_k}, FileTypeInfo{FileType::q4_k_s, "Q4_K_S", Format::q4_k},
    FileTypeInfo{FileType::q4_0, "Q4_0", Format::q4_0},
};

constexpr char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

// A tensor's role, as far as it matters for the choice of its format.
enum class Role { token_embd, output, attn_v, attn_k, attn_output, ffn_down, other };

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

Role role_of(std::string_view name) {
  if (name == "output.weight") return Role::output;
  if (name == "token_embd.weight") return Role::token_embd;
  // Q, K and V in one tensor, and the low-rank K and V, are as sensitive as V.
  for (const char* part : {"attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"}) {
    if (contains(name, part)) return Role::attn_v;
  }
  if (contains(name, "attn_k.weight")) return Role::attn_k;
  if (contains(name, "attn_output.weight")) return Role::attn_output;
  if (contains(name, "ffn_down")) return Role::ffn_down;
  return Role::other;
}

// Whether a tensor is quantized at all: matrices of weights are; norms, positions and expert routers are not.
bool is_quantizable(const gguf::Tensor& tensor) {
  const std::string_view name = tensor.name;
  const bool is_matrix = tensor.dims[1] > 1 || tensor.dims[2] > 1 || tensor.dims[3] > 1;
  if (!is_matrix || !name.ends_with("weight")) return false;
  if (name == "position_embd.weight" || name == "token_types.weight") return false;
  for (const char* part :
       {"_norm.weight", "ffn_gate_inp.weight", "attn_rel_b.weight", "ssm_conv1d", "shortconv.conv.weight"}) {
    if (contains(name, part)) return false;
  }
  return true;
}

// N of "blk.N.…".
std::optional<std::uint64_t> block_of(std::string_view name) {
  constexpr std::string_view prefix = "blk.";
  if (!name.starts_with(prefix)) return std::nullopt;
  std::uint64_t block = 0;
  const auto [end, error] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), block);
  if (error != std::errc{} || end == name.data() + name.size() || *end != '.') return std::nullopt;
  return block;
}

// The layers that a mixture (_M) gives more bits: the first and last eighth, and every third between.
bool is_favoured(std::uint64_t layer, std::uint64_t n_layers) {
  return layer < n_layers / 8 || layer >= 7 * n_layers / 8 || (layer - n_layers / 8) % 3 == 2;
}

Result<MixtureShape> read_shape(const gguf::File& in) {
  PLUMB_TRY(const std::string_view name, in.get_string("general.architecture"));
  const std::string architecture(name);
  MixtureShape shape;
  PLUMB_TRY(shape.n_layers, in.get_uint(architecture + ".block_count"));
  if (in.find(architecture + ".expert_count") != nullptr) {
    PLUMB_TRY(shape.n_experts, in.get_uint(architecture + ".expert_count"));
  }
  if (shape.n_layers == 80 && architecture == "qwen2") shape.is_70b = true;
  if (shape.n_layers == 80 && architecture == "llama") {
    PLUMB_TRY(const std::uint64_t n_heads, in.get_uint("llama.attention.head_count"));
    const bool grouped = in.find("llama.attention.head_count_kv") != nullptr;
    PLUMB_TRY(const std::uint64_t n_kv_heads, grouped ? in.get_uint("llama.attention.head_count_kv") : n_heads);
    shape.is_70b = n_kv_heads != n_heads;
  }
  return shape;
}

// A tensor's place among the tensors of its role, in the order of their blocks.
struct Place {
  std::uint64_t index = 0;
  std::uint64_t count = 0;
};

bool is_mixture(FileType type) { return type == FileType::q4_k_m || type == FileType::q5_k_m; }

Format choose_attn_v(FileType type, const MixtureShape& shape, Place place, Format usual) {
  if (shape.n_experts == 8) return Format::q8_0;  // small beside the experts
  if (is_mixture(type) && is_favoured(place.index, place.count)) return Format::q6_k;
  if (type == FileType::q4_k_s && place.index < 4) return Format::q5_k;
  if (shape.is_70b && usual == Format::q4_k) return Format::q5_k;
  return usual;
}

Format choose_ffn_down(FileType type, Place place, Format usual) {
  if (is_mixture(type) && is_favoured(place.index, place.count)) return Format::q6_k;
  if (type == FileType::q4_k_s && place.index < place.count / 8) return Format::q5_k;
  return usual;
}

// A format whose blocks fit rows of n weights.
Format fitting(Format format, std::uint64_t n) {
  const auto fits = [n](Format candidate) { return n % quants::info(candidate).block_size == 0; };
  if (fits(format)) return format;
  const auto smaller_blocks = [&] {
    switch (format) {
      case Format::q2_k:
      case Format::q3_k:
      case Format::iq4_xs:
        return Format::iq4_nl;
      case Format::q4_k:
        return Format::q5_0;
      case Format::q5_k:
        return Format::q5_1;
      case Format::q6_k:
        return Format::q8_0;
      case Format::tq2_0:
        return Format::q4_0;
      default:
        return Format::f16;
    }
  }();
  return fits(smaller_blocks) ? smaller_blocks : Format::f16;
}

// All values of general.file_type, as of llama.cpp's llama_ftype.
struct NamedType {
  std::uint64_t number;
  std::string_view name;
  std::optional<Format> format;  // of most tensors; none: one that Plumb does not read
};
constexpr std::array named_types = {
    NamedType{0, "F32", Format::f32},
    NamedType{1, "F16", Format::f16},
    NamedType{2, "Q4_0", Format::q4_0},
    NamedType{3, "Q4_1", Format::q4_1},
    NamedType{7, "Q8_0", Format::q8_0},
    NamedType{8, "Q5_0", Format::q5_0},
    NamedType{9, "Q5_1", Format::q5_1},
    NamedType{10, "Q2_K", Format::q2_k},
    NamedType{11, "Q3_K_S", Format::q3_k},
    NamedType{12, "Q3_K_M", Format::q3_k},
    NamedType{13, "Q3_K_L", Format::q3_k},
    NamedType{14, "Q4_K_S", Format::q4_k},
    NamedType{15, "Q4_K_M", Format::q4_k},
    NamedType{16, "Q5_K_S", Format::q5_k},
    NamedType{17, "Q5_K_M", Format::q5_k},
    NamedType{18, "Q6_K", Format::q6_k},
    NamedType{19, "IQ2_XXS", {}},
    NamedType{20, "IQ2_XS", {}},
    NamedType{21, "Q2_K_S", Format::q2_k},
    NamedType{22, "IQ3_XS", {}},
    NamedType{23, "IQ3_XXS", {}},
    NamedType{24, "IQ1_S", {}},
    NamedType{25, "IQ4_NL", Format::iq4_nl},
    NamedType{26, "IQ3_S", {}},
    NamedType{27, "IQ3_M", {}},
    NamedType{28, "IQ2_S", {}},
    NamedType{29, "IQ2_M", {}},
    NamedType{30, "IQ4_XS", Format::iq4_xs},
    NamedType{31, "IQ1_M", {}},
    NamedType{32, "BF16", Format::bf16},
    NamedType{36, "TQ1_0", {}},
    NamedType{37, "TQ2_0", Format::tq2_0},
    NamedType{38, "MXFP4", Format::mxfp4},
};

const NamedType* find_named(std::uint64_t number) {
  const auto* found =
      std::find_if(named_types.begin(), named_types.end(), [&](const NamedType& type) { return type.number == number; });
  return found == named_types.end() ? nullptr : found;
}

}  // namespace

std::span<const FileTypeInfo> file_types() { return type_table; }

const FileTypeInfo& info(FileType type) {
  return *std::find_if(type_table.begin(), type_table.end(),
                       [type](const FileTypeInfo& entry) { return entry.type == type; });
}

std::string_view name(FileType type) { return info(type).name; }

std::string_view file_type_name(std::uint64_t number) {
  const auto* found = find_named(number);
  return found == nullptr ? std::string_view() : found->name;
}

std::optional<std::string> file_type_contradiction(const gguf::File& file) {
  constexpr std::string_view key = "general.file_type";
  const auto number = file.get_uint(key);
  const NamedType* type = number ? find_named(*number) : nullptr;
  if (type == nullptr) return std::nullopt;
  std::map<Format, std::uint64_t> weights;  // of the blocks' matrices
  bool found = false;
  std::uint64_t n_floats = 0, n_quantized = 0;
  for (const gguf::Tensor& tensor : file.tensors()) {
    if (!is_quantizable(tensor) || !block_of(tensor.name)) continue;
    weights[tensor.format] += tensor.n_elements();
    found = found ||
            (type->format && (tensor.format == *type->format || tensor.format == fitting(*type->format, tensor.dims[0])));
    // Rows that no block fits stay floats in a quantized file.
    if (tensor.dims[0] % quants::info(Format::q8_0).block_size != 0) continue;
    (quants::info(tensor.format).block_size > 1 ? n_quantized : n_floats) += tensor.n_elements();
  }
  const bool is_quantized = !type->format || quants::info(*type->format).block_size > 1;
  if (weights.empty() || (found && (is_quantized ? n_floats <= n_quantized : n_quantized <= n_floats))) return std::nullopt;
  const auto most =
      std::max_element(weights.begin(), weights.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return fmt::format("{}: key '{}' says {}, but most weights are {}; the tensors count", file.label(), key, type->name,
                     quants::info(most->first).name);
}

Result<FileType> parse_file_type(std::string_view name) {
  std::string wanted(name);
  std::transform(wanted.begin(), wanted.end(), wanted.begin(), upper);
  if (wanted == "Q4_K" || wanted == "Q5_K") wanted += "_M";
  std::string known;
  for (const FileTypeInfo& entry : type_table) {
    if (entry.name == wanted) return entry.type;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  return fail("'{}' is not a quantization that Plumb writes; use one of {}", name, known);
}

Result<std::vector<Format>> choose_formats(const gguf::File& in, FileType type) {
  MixtureShape shape;
  if (quants::info(info(type).format).block_size > 1) {
    PLUMB_TRY(shape, read_shape(in));
  }
  return choose_formats(in.tensors(), shape, type, in.label());
}

Result<std::vector<Format>> choose_formats(std::span<const gguf::Tensor> tensors, const MixtureShape& shape, FileType type,
                                           std::string_view label) {
  const Format usual = info(type).format;
  std::vector<Format> formats;
  formats.reserve(tensors.size());
  for (const gguf::Tensor& tensor : tensors) formats.push_back(is_quantizable(tensor) ? usual : tensor.format);
  if (quants::info(usual).block_size == 1) return formats;

  const bool is_tied = std::none_of(tensors.begin(), tensors.end(),
                                    [](const gguf::Tensor& tensor) { return tensor.name == "output.weight"; });
  std::vector<std::size_t> by_block(tensors.size());
  std::iota(by_block.begin(), by_block.end(), 0);
  std::stable_sort(by_block.begin(), by_block.end(), [&tensors](std::size_t a, std::size_t b) {
    return block_of(tensors[a].name) < block_of(tensors[b].name);
  });
  const auto n_attn_v = static_cast<std::uint64_t>(std::count_if(
      tensors.begin(), tensors.end(), [](const gguf::Tensor& tensor) { return role_of(tensor.name) == Role::attn_v; }));
  Place attn_v{0, n_attn_v};
  Place ffn_down{0, shape.n_layers};
  for (const std::size_t i : by_block) {
    const gguf::Tensor& tensor = tensors[i];
    if (!is_quantizable(tensor)) continue;
    Format& format = formats[i];
    const Role role = role_of(tensor.name);
    if (role == Role::output || (role == Role::token_embd && is_tied)) {
      // Every error of this tensor shows in the logits.
      const bool fits = tensor.dims[0] % quants::info(usual).block_size == 0;
      format = usual == Format::q8_0 || !fits ? Format::q8_0 : Format::q6_k;
    } else if (role == Role::attn_v) {
      format = choose_attn_v(type, shape, attn_v, usual);
      ++attn_v.index;
    } else if (role == Role::attn_k && shape.n_experts == 8) {
      format = Format::q8_0;
    } else if (role == Role::attn_output && shape.n_experts == 8 && usual == Format::q4_k) {
      format = Format::q5_k;
    } else if (role == Role::ffn_down) {
      Place place = ffn_down;
      if (shape.n_experts > 1) {
        // A layer may have several of these tensors, so the place comes from the name.
        const std::optional<std::uint64_t> block = block_of(tensor.name);
        if (!block || *block >= shape.n_layers) {
          return fail("{}: tensor '{}' belongs to no block below the block count of {}; the file is damaged", label,
                      tensor.name, shape.n_layers);
        }
        place.index = *block;
      }
      format = choose_ffn_down(type, place, usual);
      ++ffn_down.index;
    }
    format = fitting(format, tensor.dims[0]);
  }
  return formats;
}

}  // namespace plumb::model
