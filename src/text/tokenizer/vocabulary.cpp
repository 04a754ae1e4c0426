#include "text/tokenizer/vocabulary.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/letter_case.h"

namespace plumb::text {

namespace {

// A special token's role: the keys that may name the token, and its usual pieces, for files without such a key.
struct Role {
  std::string_view key;
  std::string_view old_key;
  std::vector<std::string_view> pieces;
  bool ends_generation;
};

enum RoleIndex {
  role_eot,
  role_eom,
  role_fim_prefix,
  role_fim_suffix,
  role_fim_middle,
  role_fim_pad,
  role_fim_repo,
  role_fim_sep
};

const std::vector<Role>& roles() {
  static const std::vector<Role> all = {
      {"eot",
       "",
       {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>",
        "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>"},
       true},
      {"eom", "", {"<|eom_id|>"}, true},
      {"fim_pre",
       "prefix",
       {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
        "<|prefix|>"},
       false},
      {"fim_suf",
       "suffix",
       {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
        "<|suffix|>"},
       false},
      {"fim_mid",
       "middle",
       {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
        "<|middle|>"},
       false},
      {"fim_pad", "", {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}, true},
      {"fim_rep", "", {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}, true},
      {"fim_sep", "", {"<|file_sep|>"}, true},
  };
  return all;
}

constexpr auto end_pieces = std::to_array<std::string_view>({
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
});

std::string token_key(std::string_view role) { return fmt::format("tokenizer.ggml.{}_token_id", role); }

std::uint8_t attribute_of(std::int64_t type) {
  return type >= 1 && type <= 6 ? static_cast<std::uint8_t>(1u << (type - 1)) : std::uint8_t{0};
}

class Loader {
 public:
  Loader(const gguf::File& file, Model model, const Defaults& defaults) : file_(file), defaults_(defaults) {
    v_.model = model;
  }

  Result<Vocabulary> run() {
    PLUMB_CHECK(read_pieces());
    if (v_.model == Model::sentencepiece) PLUMB_CHECK(read_scores());
    PLUMB_CHECK(read_types());
    PLUMB_CHECK(read_special());
    PLUMB_CHECK(find_roles());
    collect_ends();
    set_stripping();
    for (std::uint32_t i = 0; i < v_.size(); ++i)
      if (v_.attributes[i] & (attribute_control | attribute_user_defined | attribute_unknown) && !v_.pieces[i].empty())
        v_.special_trie.insert(v_.pieces[i], static_cast<TokenId>(i));
    return std::move(v_);
  }

 private:
  Result<void> read_pieces() {
    constexpr std::string_view key = "tokenizer.ggml.tokens";
    PLUMB_TRY(const gguf::Array* tokens, file_.get_array(key, gguf::ValueType::string));
    if (tokens->count == 0) return fail("{}: {} is empty; a vocabulary needs at least one token", file_.label(), key);
    if (tokens->count > std::numeric_limits<std::int32_t>::max() / 2)
      return fail("{}: {} has {} tokens, more than token ids can number", file_.label(), key, tokens->count);
    v_.pieces = tokens->strings;
    v_.index = StringIndex(v_.pieces.size());
    const auto text_of = [this](std::uint32_t i) { return v_.pieces[i]; };
    for (std::uint32_t i = 0; i < v_.size(); ++i) {
      if (v_.pieces[i].empty()) continue;  // no text gives this id
      const std::uint32_t kept = v_.index.insert(v_.pieces[i], i, text_of);
      if (kept != i)
        return fail("{}: {} has '{}' twice, as {} and as {}; every token must be another string", file_.label(), key,
                    v_.pieces[i].substr(0, 40), kept, i);
      v_.longest = std::max(v_.longest, v_.pieces[i].size());
    }
    return {};
  }

  // Error: an array does not have one element for each token.
  template <class T>
  Result<std::vector<T>> per_token(std::string_view key, Result<std::vector<T>> read) const {
    if (read && read->size() != v_.pieces.size())
      return fail("{}: {} has {} elements, but tokenizer.ggml.tokens has {}; they must be as many", file_.label(), key,
                  read->size(), v_.pieces.size());
    return read;
  }

  Result<void> read_scores() {
    constexpr std::string_view key = "tokenizer.ggml.scores";
    PLUMB_TRY(const std::vector<double> scores, per_token(key, file_.get_numbers(key)));
    v_.scores.resize(v_.pieces.size());
    for (std::size_t i = 0; i < v_.scores.size(); ++i) {
      v_.scores[i] = static_cast<float>(scores[i]);
      if (std::isnan(v_.scores[i])) return fail("{}: {}[{}] is not a number", file_.label(), key, i);
    }
    return {};
  }

  Result<void> read_types() {
    constexpr std::string_view key = "tokenizer.ggml.token_type";
    v_.attributes.assign(v_.pieces.size(), attribute_normal);
    if (file_.find(key) == nullptr) return {};
    PLUMB_TRY(const std::vector<std::int64_t> types, per_token(key, file_.get_integers(key)));
    for (std::size_t i = 0; i < v_.attributes.size(); ++i) v_.attributes[i] = attribute_of(types[i]);
    return {};
  }

  // The token that a key names. An id outside the vocabulary is an error where the role is `used`; else it is as if the key
  // were missing, with a warning.
  Result<std::optional<TokenId>> id_of(const std::string& key, bool used) {
    const gguf::Value* value = file_.find(key);
    if (value == nullptr) return std::nullopt;
    const auto id = file_.get_uint(key);
    if (id && *id < v_.pieces.size()) return static_cast<TokenId>(*id);
    std::string complaint =
        id ? fmt::format("{}: {} is {}, but the vocabulary has only {} tokens", file_.label(), key, *id, v_.pieces.size())
           : id.error().message;
    if (used) return fail("{}; the file's tokenizer metadata are damaged", complaint);
    v_.warnings.push_back(std::move(complaint) + "; it is left out, since nothing here uses it");
    return std::nullopt;
  }

  // The token of a role's key. Without the key, the model's customary token, if the vocabulary is large enough to have it.
  Result<void> read_id(std::optional<TokenId>& id, std::string_view role, TokenId customary, bool used) {
    const std::string key = token_key(role);
    PLUMB_TRY(id, id_of(key, used));
    const bool named = file_.find(key) != nullptr;
    if (!named && customary >= 0 && static_cast<std::size_t>(customary) < v_.pieces.size()) id = customary;
    return {};
  }

  Result<void> read_special() {
    const bool spm = v_.model == Model::sentencepiece;
    const bool bert = v_.model == Model::wordpiece;
    SpecialTokens& s = v_.special;
    PLUMB_TRY(s.add_bos, bool_or(file_, "tokenizer.ggml.add_bos_token", defaults_.add_bos));
    PLUMB_TRY(s.add_eos, bool_or(file_, "tokenizer.ggml.add_eos_token", defaults_.add_eos));
    PLUMB_TRY(v_.add_space_prefix, bool_or(file_, "tokenizer.ggml.add_space_prefix", defaults_.add_space_prefix));
    if (defaults_.forces_bos) s.add_bos = true;
    if (bert) s.add_bos = true;
    PLUMB_CHECK(read_id(s.bos, "bos", spm ? 1 : bert ? 101 : -1, s.add_bos));
    PLUMB_CHECK(read_id(s.eos, "eos", spm ? 2 : -1, true));
    PLUMB_CHECK(read_id(s.unknown, "unknown", spm ? 0 : bert ? 100 : -1, spm || bert));
    PLUMB_CHECK(read_id(s.separator, "seperator", bert ? 102 : -1, bert));  // GGUF's spelling
    PLUMB_CHECK(read_id(s.padding, "padding", bert ? 0 : -1, false));
    for (const std::string_view unused : {"cls", "mask"}) PLUMB_CHECK(id_of(token_key(unused), false));
    if (s.add_bos && !s.bos)
      return fail("{}: a BOS token is to be added, but tokenizer.ggml.bos_token_id is missing", file_.label());
    if (s.add_eos && !s.eos)
      return fail("{}: tokenizer.ggml.add_eos_token is true, but tokenizer.ggml.eos_token_id is missing", file_.label());
    if (bert && !s.separator)
      return fail("{}: tokenizer.ggml.seperator_token_id is missing, and WordPiece ends a text with it", file_.label());
    return {};
  }

  std::uint8_t& attributes_of(TokenId token) { return v_.attributes[static_cast<std::size_t>(token)]; }

  void add_attribute(std::string_view piece, std::uint8_t attribute) {
    if (const auto token = v_.find(piece)) attributes_of(*token) |= attribute;
  }

  Result<void> find_roles() {
    std::array<std::optional<TokenId>, 8> ids;
    for (std::size_t role = 0; role < roles().size(); ++role) {
      const Role& r = roles()[role];
      PLUMB_TRY(ids[role], id_of(token_key(r.key), role == role_eot || role == role_eom));
      if (!ids[role] && !r.old_key.empty()) {
        PLUMB_TRY(ids[role], id_of(token_key(r.old_key), false));
      }
      for (std::size_t i = 0; i < r.pieces.size() && !ids[role]; ++i) {
        ids[role] = v_.find(r.pieces[i]);
        if (ids[role]) attributes_of(*ids[role]) |= attribute_control;
      }
      if (r.ends_generation && ids[role]) v_.end_of_generation.push_back(*ids[role]);
    }
    v_.special.eot = ids[role_eot];
    v_.special.eom = ids[role_eom];
    if (v_.special.eos) v_.end_of_generation.push_back(*v_.special.eos);
    return {};
  }

  void remove_end(TokenId token, std::uint8_t attribute) {
    std::erase(v_.end_of_generation, token);
    attributes_of(token) = attribute;
  }

  void collect_ends() {
    for (const std::string_view piece : end_pieces) {
      if (const auto token = v_.find(piece)) v_.end_of_generation.push_back(*token);
      add_attribute(piece, attribute_control);
    }
    for (const std::string_view piece : {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"})
      if (const auto token = v_.find(piece)) attributes_of(*token) = attribute_user_defined;

    // In the "harmony" format and in Solar's, <|end|> closes a message, but the answer continues.
    const auto has = [this](std::string_view piece) { return v_.find(piece).has_value(); };
    const bool has_call = has("<|call|>") || has("<|calls|>");
    if (const auto end = v_.find("<|end|>"); end && has_call && (has("<|return|>") || has("<|flush|>")))
      remove_end(*end, attribute_user_defined);
    if (const auto eos = v_.find("</s>"); eos && has("<|tool_response>")) remove_end(*eos, attribute_normal);

    std::sort(v_.end_of_generation.begin(), v_.end_of_generation.end());
    const auto last = std::unique(v_.end_of_generation.begin(), v_.end_of_generation.end());
    v_.end_of_generation.erase(last, v_.end_of_generation.end());
  }

  std::string text_of_key(std::string_view key) const {
    const auto text = file_.get_string(key);
    return text ? std::string(*text) : std::string();
  }

  // GGUF does not store the strip flags of added tokens, so models that need them are recognized by name.
  void set_stripping() {
    const auto contains = [](const std::string& text, std::string_view part) {
      return text.find(part) != std::string::npos;
    };
    const std::string pre = text_of_key("tokenizer.ggml.pre");
    const std::string architecture = text_of_key("general.architecture");
    const std::string name = in_small_letters(text_of_key("general.name"));

    if (contains(pre, "jina-v2-de") || contains(pre, "jina-v2-es") || contains(pre, "jina-v2-code") ||
        contains(architecture, "nomic-bert-moe") || contains(architecture, "jina-bert-v3")) {
      add_attribute("<mask>", attribute_lstrip);
    } else if (contains(name, "phi-3") || contains(name, "phi3")) {
      for (std::uint8_t& a : v_.attributes)
        if (a & (attribute_control | attribute_user_defined | attribute_unknown)) a |= attribute_rstrip;
      add_attribute("</s>", attribute_rstrip);
      for (const std::string_view piece : {"<unk>", "<s>", "<|endoftext|>"})
        if (const auto token = v_.find(piece)) attributes_of(*token) &= static_cast<std::uint8_t>(~attribute_rstrip);
    } else if (contains(name, "modern-bert")) {
      add_attribute("[MASK]", attribute_lstrip);
    }
  }

  const gguf::File& file_;
  const Defaults& defaults_;
  Vocabulary v_;
};

}  // namespace

std::string hex_piece(unsigned char byte) { return fmt::format("<0x{:02X}>", byte); }

std::optional<unsigned char> Vocabulary::hex_byte(TokenId token) const {
  const std::string_view text = piece(token);
  unsigned char value = 0;
  // Comparing with the byte's own piece leaves out lower case and all other spellings.
  std::from_chars(text.data() + std::min<std::size_t>(text.size(), 3), text.data() + text.size(), value, 16);
  return text == hex_piece(value) ? std::optional(value) : std::nullopt;
}

Result<std::optional<std::string_view>> optional_string(const gguf::File& file, std::string_view key) {
  if (file.find(key) == nullptr) return std::nullopt;
  PLUMB_TRY(const std::string_view text, file.get_string(key));
  return text;
}

Result<bool> bool_or(const gguf::File& file, std::string_view key, bool otherwise) {
  if (file.find(key) == nullptr) return otherwise;
  return file.get_bool(key);
}

Result<Vocabulary> load_vocabulary(const gguf::File& file, Model model, const Defaults& defaults) {
  return Loader(file, model, defaults).run();
}

}  // namespace plumb::text
