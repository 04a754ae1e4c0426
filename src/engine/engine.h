// A model ready to answer: file, hyper-parameters, tokenizer, chat template and an executor on one backend; and the
// generation of text with it. Engine is the part that `plumb run`, `chat`, `serve`, `selftest` and the library share.
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

struct EngineSettings {
  std::string backend = "auto";
  std::uint32_t n_threads = 0;  // 0: the cores this process may use
  std::uint32_t context = 0;    // positions of the KV cache; 0: the model's own, at most 4096
  backends::KvType kv_type = backends::KvType::f16;
  backends::Activations activations = backends::Activations::int16;
  bool shared_kernels = false;  // see backends::LoadOptions
  bool guard_zones = backends::LoadOptions{}.guard_zones;
};

// One token of a completion. Log-probabilities are natural logarithms of the softmax of the raw logits, before any
// sampling setting.
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
  std::vector<std::string> stop;  // texts that end the answer and are not part of it
  std::uint32_t n_logprobs = 0;   // alternatives kept in GeneratedToken::top
};

struct Completion {
  std::string text;
  std::vector<GeneratedToken> tokens;
  StopReason reason = StopReason::max_tokens;
  std::uint64_t n_prompt = 0;  // tokens that were run for the prompt
  double prompt_seconds = 0;   // prefill
  double decode_seconds = 0;   // all further steps
};

// A conversation of one question: [system,] user.
nlohmann::ordered_json conversation(std::string_view system, std::string_view prompt);

// The tokens of a conversation, [{"role", "content"}, …]: the template's text with the special tokens it writes out, and
// the BOS that the file asks for unless the template wrote it.
Result<std::vector<TokenId>> chat_tokens(const text::Tokenizer& tokenizer, const text::ChatTemplate& chat_template,
                                         const nlohmann::ordered_json& messages);

class Engine {
 public:
  // Errors: an unusable file, an unknown or absent backend.
  static Result<std::unique_ptr<Engine>> load(gguf::File file, const EngineSettings& settings);

  [[nodiscard]] const model::Model& model() const { return model_; }
  [[nodiscard]] const text::Tokenizer& tokenizer() const { return tokenizer_; }
  [[nodiscard]] backends::Executor& executor() { return *executor_; }
  [[nodiscard]] const backends::Backend& backend() const { return *backend_; }
  [[nodiscard]] std::uint32_t context() const { return context_; }
  [[nodiscard]] const EngineSettings& settings() const { return settings_; }

  // The tokens of a conversation through the file's chat template. A file without one is an error that says so.
  [[nodiscard]] Result<std::vector<TokenId>> chat_tokens(const nlohmann::ordered_json& messages) const;
  [[nodiscard]] bool has_chat_template() const { return chat_template_.has_value(); }

  [[nodiscard]] Result<std::unique_ptr<backends::KvCache>> new_cache();
  // Of n sequences that may run together.
  [[nodiscard]] Result<std::vector<std::unique_ptr<backends::KvCache>>> new_caches(std::uint32_t n);

  // Runs tokens through the model in batches, after what the cache holds, and returns the logits after the last one,
  // [vocab].
  Result<std::span<const float>> prefill(backends::KvCache& cache, std::span<const TokenId> tokens);

  // Answers a prompt: prefill after what the cache holds, then one token at a time. `on_text` receives the answer's text as
  // it becomes final (a text that may be the beginning of a stop text is held back) and returns false to stop.
  using OnText = std::function<bool(std::string_view text)>;
  Result<Completion> generate(backends::KvCache& cache, std::span<const TokenId> prompt, const GenerateOptions& options,
                              const OnText& on_text = {});

 private:
  Engine(model::Model model, text::Tokenizer tokenizer, EngineSettings settings)
      : model_(std::move(model)), tokenizer_(std::move(tokenizer)), settings_(std::move(settings)) {}

  model::Model model_;
  text::Tokenizer tokenizer_;
  std::optional<Result<text::ChatTemplate>>
      chat_template_;  // a template that cannot be read is an error only where one is used
  EngineSettings settings_;
  std::uint32_t context_ = 0;
  std::unique_ptr<backends::Backend> backend_;
  std::unique_ptr<backends::Executor> executor_;
};

}  // namespace plumb::engine
