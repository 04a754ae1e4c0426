// A model ready to answer: file, hyper-parameters, tokenizer, chat template and an executor on one backend. Engine
// generates text with them, for `plumb run`, `chat`, `selftest` and the library alike.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/backend.h"
#include "base/result.h"
#include "engine/sampler.h"
#include "gguf/file.h"
#include "model/model.h"
#include "text/chat_template.h"
#include "text/tokenizer/tokenizer.h"

namespace plumb::engine {

// How conversations become text.
struct ChatSettings {
  std::optional<std::string> chat_template;  // in place of the file's
  nlohmann::ordered_json variables;          // of the template (text::ChatInput)
  // The text of control tokens ("<|im_end|>") in messages is plain text, except in those of the assistant, where the model
  // itself wrote it.
  bool plain_text = false;
};

struct EngineSettings {
  std::string backend = "auto";
  std::uint32_t n_threads = 0;  // 0: the cores this process may use
  std::uint32_t context = 0;    // positions of the KV cache; 0: the model's own, at most 4096
  backends::KvType kv_type = backends::KvType::f16;
  backends::Activations activations = backends::Activations::int16;
  bool shared_kernels = false;  // see backends::LoadOptions
  bool guard_zones = backends::LoadOptions{}.guard_zones;
  backends::LoadProgress progress;  // called at least at the start and at the end of loading
  ChatSettings chat;
};

// One token of a completion. Log-probabilities are natural logarithms of the softmax of the raw logits; sampling settings
// do not change them.
struct GeneratedToken {
  TokenId id = 0;
  std::string text;
  double logprob = 0;
  std::vector<TokenLogprob> top;  // the n most likely, most likely first
};

enum class StopReason : std::uint8_t { end_of_generation, stop_text, max_tokens, context_full, interrupted };

std::string_view name(StopReason reason);

struct GenerateOptions {
  std::uint32_t max_tokens = 0;  // 0: until the context is full
  SamplerSettings sampler;
  std::vector<std::string> stop;      // texts that end the answer and are not part of it
  std::uint32_t n_logprobs = 0;       // alternatives kept in GeneratedToken::top
  std::function<bool()> interrupted;  // asked between the batches of a prompt, and before each token
  std::span<const TokenId> earlier;   // the tokens in the cache, which penalties look back on as well
  bool goes_on = false;  // the prompt ends inside an answer, and the first token keeps the space before its word
};

struct Completion {
  std::string text;
  std::vector<GeneratedToken> tokens;
  StopReason reason = StopReason::max_tokens;
  std::uint64_t n_prompt = 0;  // prompt tokens that were run; those in the cache are not
  double prompt_seconds = 0;   // prefill
  double decode_seconds = 0;   // all steps after the prompt
};

// Variables of a chat template from a JSON object. Error: a text that is none, or one with messages.
Result<nlohmann::ordered_json> parse_template_variables(std::string_view text);

// The messages of one question: the system message, if any, and the user's.
nlohmann::ordered_json conversation(std::string_view system, std::string_view prompt);

// The tokens of a conversation, [{"role", "content"}, …]: the text that the template renders, its special tokens encoded as
// such. BOS comes first where the file asks for it and the template did not write it.
Result<std::vector<TokenId>> chat_tokens(const text::Tokenizer& tokenizer, const text::ChatTemplate& chat_template,
                                         const nlohmann::ordered_json& messages, const ChatSettings& settings = {});
// That text.
Result<std::string> chat_text(const text::Tokenizer& tokenizer, const text::ChatTemplate& chat_template,
                              const nlohmann::ordered_json& messages, const ChatSettings& settings = {});

// A setting of the sampler that a file recommends, under the name of the option that sets it ("temp").
struct RecommendedSetting {
  std::string_view option;
  std::string_view key;  // general.sampling.…, as llama.cpp names them
  double value = 0;
  void (*apply)(SamplerSettings& settings, double value) = nullptr;
};
// Those that a file has. Error: one is no number.
Result<std::vector<RecommendedSetting>> recommended_sampling(const gguf::File& file);
// A sentence that names the file's other keys of general.sampling; none: there are none, or they ask for nothing.
std::optional<std::string> unknown_sampling(const gguf::File& file);

// Positions whose keys and values fit, beside the weights, into three quarters of the memory that is free now. None: the
// system does not say what is free.
std::optional<std::uint64_t> positions_that_fit(const model::Model& model, backends::KvType type);

class Engine {
 public:
  // Errors: an unusable file, an unknown or absent backend.
  static Result<std::unique_ptr<Engine>> load(gguf::File file, const EngineSettings& settings);

  [[nodiscard]] const model::Model& model() const { return model_; }
  [[nodiscard]] const text::Tokenizer& tokenizer() const { return tokenizer_; }
  [[nodiscard]] backends::Executor& executor() { return *executor_; }
  [[nodiscard]] const backends::Backend& backend() const { return *backend_; }
  [[nodiscard]] std::uint32_t context() const { return context_; }
  // The backend as it runs: "AVX-512 VNNI, 2 threads".
  [[nodiscard]] std::string description() const { return backend_->description(executor_->n_threads()); }
  // What is odd about the file or the settings and keeps nothing from running: sentences, each about another thing.
  [[nodiscard]] std::vector<std::string> warnings() const;
  [[nodiscard]] const EngineSettings& settings() const { return settings_; }

  // The text of a conversation by the file's chat template or that of the settings, and its tokens. Error: there is none.
  [[nodiscard]] Result<std::string> chat_text(const nlohmann::ordered_json& messages) const;
  [[nodiscard]] Result<std::vector<TokenId>> chat_tokens(const nlohmann::ordered_json& messages) const;
  [[nodiscard]] bool has_chat_template() const { return chat_template_.has_value(); }
  // That template; empty: there is none.
  [[nodiscard]] std::string_view chat_template_text() const;
  // From now on conversations become text with these in place of ChatSettings::variables.
  void set_template_variables(nlohmann::ordered_json variables) { settings_.chat.variables = std::move(variables); }

  [[nodiscard]] Result<std::unique_ptr<backends::KvCache>> new_cache();
  // Caches of n sequences that may run together in one step.
  [[nodiscard]] Result<std::vector<std::unique_ptr<backends::KvCache>>> new_caches(std::uint32_t n);

  // Runs tokens through the model in batches, after those in the cache. Returns the logits of the last one, [vocab].
  // Errors: no tokens; more than the cache has room for, which is told before any is run; `interrupted` says so between
  // batches.
  Result<std::span<const float>> prefill(backends::KvCache& cache, std::span<const TokenId> tokens,
                                         const std::function<bool()>& interrupted = {});
  // Error: the cache has no room for a prompt of that many tokens. The message has both numbers, and the --ctx with which
  // the prompt and an answer of n_answer tokens (0: some) fit.
  static Result<void> check_room(const backends::KvCache& cache, std::size_t n_prompt, std::size_t n_answer);

  // Answers a prompt: prefill after the tokens in the cache, then one token at a time. `on_text` receives the answer's text
  // as soon as it is final (text that may begin a stop text is held back) and returns false to stop.
  using OnText = std::function<bool(std::string_view text)>;
  Result<Completion> generate(backends::KvCache& cache, std::span<const TokenId> prompt, const GenerateOptions& options,
                              const OnText& on_text = {});

 private:
  [[nodiscard]] Result<const text::ChatTemplate*> chat_template() const;
  Engine(model::Model model, text::Tokenizer tokenizer, EngineSettings settings)
      : model_(std::move(model)), tokenizer_(std::move(tokenizer)), settings_(std::move(settings)) {}

  model::Model model_;
  text::Tokenizer tokenizer_;
  std::optional<Result<text::ChatTemplate>> chat_template_;  // an unreadable template is an error only when it is used
  EngineSettings settings_;
  std::uint32_t context_ = 0;
  std::unique_ptr<backends::Backend> backend_;
  std::unique_ptr<backends::Executor> executor_;
};

}  // namespace plumb::engine
