// Chat templates: the Jinja program that a model file carries (tokenizer.chat_template), run over a conversation.
//
// The interpreter has what chat templates use of Jinja2, set up as Hugging Face transformers does it
// (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loop controls, `generation` blocks, its `tojson`,
// `raise_exception`, `strftime_now`). What it lacks of Jinja2 is an error that names it. A template is untrusted input: steps,
// nesting, output and memory are bounded by TemplateLimits, and nothing it does reaches outside the interpreter. Errors name
// line and cause.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/jinja/limits.h"

namespace plumb::text {

class ChatTemplate {
 public:
  static Result<ChatTemplate> parse(std::string_view source, const TemplateLimits& limits = {});

  // Renders with the given variables (messages, tools, documents, add_generation_prompt, bos_token, eos_token, …):
  // ordered_json keeps the key order that `tojson` and loops show. `now` is what strftime_now sees.
  [[nodiscard]] Result<std::string> render(
      const nlohmann::ordered_json& variables,
      std::chrono::system_clock::time_point now = std::chrono::system_clock::now()) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// A conversation with what else a chat template may ask for.
struct ChatInput {
  nlohmann::ordered_json messages;  // [{"role", "content"}, …]
  nlohmann::ordered_json tools;     // a list; null: none
  bool add_generation_prompt = true;
  std::string bos_token, eos_token;  // their text; empty where the vocabulary has none
};

// Renders a conversation with the variables that transformers sets: messages, tools, documents (None),
// add_generation_prompt, bos_token and eos_token. As there, a message's reasoning is found under the names
// reasoning_content and thinking, whichever of these or `reasoning` it came with.
Result<std::string> render_chat(const ChatTemplate& chat_template, const ChatInput& input);

}  // namespace plumb::text
