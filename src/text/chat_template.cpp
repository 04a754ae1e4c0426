#include "text/chat_template.h"

#include <new>
#include <utility>

#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"
#include "text/unicode/utf8.h"

namespace plumb::text {

namespace {

tl::unexpected<Error> as_error(const jinja::Failure& failure) {
  if (failure.line == 0) return fail("chat template: {}", failure.message);
  return fail("chat template, line {}: {}", failure.line, failure.message);
}

}  // namespace

struct ChatTemplate::State {
  TemplateLimits limits;
  jinja::Body body;
};

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, const TemplateLimits& limits) {
  if (source.size() > limits.max_source_bytes) {
    return fail("chat template: {} bytes long, at most {} are accepted", source.size(), limits.max_source_bytes);
  }
  try {
    auto state = std::make_shared<State>();
    state->limits = limits;
    state->body = jinja::parse(unicode::repaired(source), limits);
    ChatTemplate parsed;
    parsed.state_ = std::move(state);
    return parsed;
  } catch (const jinja::Failure& failure) {
    return as_error(failure);
  } catch (const std::bad_alloc&) {
    return fail("chat template: not enough memory to read it");
  }
}

Result<std::string> ChatTemplate::render(const nlohmann::ordered_json& variables,
                                         std::chrono::system_clock::time_point now) const {
  try {
    jinja::Runtime runtime(state_->limits, now);
    return jinja::interpret(state_->body, runtime, variables);
  } catch (const jinja::Failure& failure) {
    return as_error(failure);
  } catch (const std::bad_alloc&) {
    return fail("chat template: not enough memory to run it");
  }
}

namespace {

// A message's reasoning is the first of these names that is not null. It is then also under thinking and reasoning_content,
// as in transformers' _alias_reasoning_fields.
nlohmann::ordered_json with_reasoning_names(const nlohmann::ordered_json& messages) {
  if (!messages.is_array()) return messages;
  auto result = nlohmann::ordered_json::array();
  for (const auto& message : messages) {
    nlohmann::ordered_json reasoning;
    if (message.is_object()) {
      for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
        if (reasoning.is_null()) reasoning = message.value(name, nlohmann::ordered_json());
      }
    }
    if (reasoning.is_null()) {
      result.push_back(message);
      continue;
    }
    nlohmann::ordered_json named{{"thinking", reasoning}};
    named.update(message);
    named["reasoning_content"] = reasoning;
    result.push_back(std::move(named));
  }
  return result;
}

}  // namespace

Result<std::string> render_chat(const ChatTemplate& chat_template, const ChatInput& input) {
  nlohmann::ordered_json variables{{"tools", input.tools},
                                   {"documents", nullptr},
                                   {"add_generation_prompt", input.add_generation_prompt},
                                   {"bos_token", input.bos_token},
                                   {"eos_token", input.eos_token}};
  if (input.variables.is_object()) variables.update(input.variables);
  variables["messages"] = with_reasoning_names(input.messages);
  return chat_template.render(variables);
}

}  // namespace plumb::text
