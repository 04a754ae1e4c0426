// Any chat template over any conversation. The template stands before the first byte 0x1e. JSON follows: the messages, or
// an object of all variables; where it is neither, a fixed conversation is used. The result must be valid UTF-8 text, or an
// error that says where it comes from, within the limits. Limits must never change a text.
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "text/chat_template.h"
#include "text/unicode/utf8.h"

namespace {

using namespace plumb;
using Json = nlohmann::ordered_json;

constexpr char separator = '\x1e';
constexpr auto now = std::chrono::system_clock::time_point(std::chrono::seconds(1741961366));

void require(bool condition) {
  if (!condition) std::abort();
}

Json variables_of(std::string_view json) {
  static const Json usual = Json::parse(R"({
    "messages": [
      {"role": "system", "content": "You are  terse.\n"},
      {"role": "user", "content": "H\u00e4llo <b>w\u00f6rld</b> 'all' \"of\" you \ud83e\udd9c", "n": 3},
      {"role": "assistant", "content": null, "tool_calls": [
        {"id": "x1", "type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": [1.5, null, 9223372036854775807]}}}]},
      {"role": "tool", "content": [{"type": "text", "text": "part"}, {"type": "image"}]},
      {"role": "user", "content": ""}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "F.", "parameters": {
      "type": "object", "properties": {"a": {"type": "integer", "enum": [1, 2]}}, "required": ["a"]}}}],
    "documents": null, "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"})");
  Json given = Json::parse(json, nullptr, false);
  if (given.is_object()) return given;
  Json variables = usual;
  if (given.is_array()) variables["messages"] = std::move(given);
  return variables;
}

// Renders, and checks the result: a valid text, or a valid error and no text.
Result<std::string> run(std::string_view source, const Json& variables, const text::TemplateLimits& limits) {
  const auto parsed = text::ChatTemplate::parse(source, limits);
  auto rendered = parsed ? parsed->render(variables, now) : Result<std::string>(tl::unexpected(parsed.error()));
  if (rendered) {
    require(rendered->size() <= limits.max_output_bytes);
    require(text::unicode::repaired(*rendered) == *rendered);
  } else {
    require(rendered.error().message.starts_with("chat template"));
  }
  return rendered;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t end = bytes.find(separator);
  const std::string_view source = bytes.substr(0, end);
  const Json variables = variables_of(end == std::string_view::npos ? std::string_view() : bytes.substr(end + 1));

  const text::TemplateLimits small{.max_steps = 20'000,
                                   .max_depth = 60,
                                   .max_output_bytes = 64u << 10,
                                   .max_memory_bytes = 1u << 20,
                                   .max_source_bytes = 64u << 10};
  const auto within_small = run(source, variables, small);
  // The usual limits but for steps, ten million of which would take a minute under the sanitizers.
  if (within_small || size % 16 == 0) {
    const auto within_usual = run(source, variables, {.max_steps = 200'000});
    if (within_small) require(within_usual.has_value() && *within_usual == *within_small);
  }
  return 0;
}
