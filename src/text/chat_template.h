// Chat templates: the Jinja program in a model file (tokenizer.chat_template), run over a conversation.
//
// The interpreter has the parts of Jinja2 that chat templates use, set up as in Hugging Face transformers
// (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loop controls, `generation` blocks, its `tojson`,
// `raise_exception`, `strftime_now`). Using any other part of Jinja2 is an error that names it. A template is untrusted
// input: TemplateLimits bounds steps, nesting, output and memory, and a template cannot reach outside the interpreter.
// Errors name line and cause.
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
  // ordered_json keeps the key order that `tojson` and loops show. `now` is the time for strftime_now.
  [[nodiscard]] Result<std::string> render(
      const nlohmann::ordered_json& variables,
      std::chrono::system_clock::time_point now = std::chrono::system_clock::now()) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// A conversation, and the other variables of a chat template.
struct ChatInput {
  nlohmann::ordered_json messages;  // [{"role", "content"}, …]
  nlohmann::ordered_json tools;     // a list; null: none
  bool add_generation_prompt = true;
  std::string bos_token, eos_token;  // their text; empty where the vocabulary has none
  nlohmann::ordered_json variables;  // more of them, an object or null; they win over all but messages
};

// Renders a conversation with the variables that transformers sets: messages, tools, documents (None),
// add_generation_prompt, bos_token and eos_token. As in transformers, a message's reasoning, given as `reasoning`,
// `reasoning_content` or `thinking`, is available under the names reasoning_content and thinking.
Result<std::string> render_chat(const ChatTemplate& chat_template, const ChatInput& input);

}  // namespace plumb::text
