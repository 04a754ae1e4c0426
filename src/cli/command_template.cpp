#include <fmt/format.h>

#include <optional>

#include "cli/command.h"
#include "gguf/kind.h"

namespace plumb::cli {

namespace {

constexpr std::uint64_t max_json_bytes = 64u << 20;

struct TemplateOptions {
  std::string source;
  bool yes = false;
  std::string messages;
  std::string tools;
  bool no_generation_prompt = false;
  std::optional<std::string> bos, eos;
  TemplateArguments chat;
};

Result<Json> read_json_array(const std::string& path) {
  PLUMB_TRY(const std::string text, read_file(path, max_json_bytes));
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    return fail("{}: not valid JSON at byte {}", path, error.byte);
  }
  if (!json.is_array()) return fail("{}: the JSON must be a list", path);
  return json;
}

Result<int> run_template(const TemplateOptions& options) {
  text::ChatInput input;
  TemplateArguments arguments = options.chat;
  std::string label = options.source;
  const bool bare = options.source.ends_with(".jinja");
  if (bare && arguments.file.empty()) arguments.file = options.source;
  if (!arguments.file.empty()) label = arguments.file;
  PLUMB_TRY(engine::ChatSettings settings, arguments.read());
  input.variables = std::move(settings.variables);
  std::string source;
  if (!bare) {
    PLUMB_TRY(const gguf::File file, open_model(options.source, options.yes));
    PLUMB_CHECK(gguf::expect_model(file));
    // Some models have a template of its own for conversations with tools.
    constexpr std::string_view usual = "tokenizer.chat_template", with_tools = "tokenizer.chat_template.tool_use";
    const bool has_own = !options.tools.empty() && file.find(with_tools) != nullptr;
    if (!settings.chat_template) {
      PLUMB_TRY(source, file.get_string(has_own ? with_tools : usual));
    }
    PLUMB_TRY(const text::Tokenizer tokenizer, text::Tokenizer::load(file));
    const text::SpecialTokens& special = tokenizer.special();
    if (special.bos) input.bos_token = tokenizer.piece(*special.bos);
    if (special.eos) input.eos_token = tokenizer.piece(*special.eos);
  }
  if (options.bos) input.bos_token = *options.bos;
  if (options.eos) input.eos_token = *options.eos;
  PLUMB_TRY(input.messages, read_json_array(options.messages));
  if (!options.tools.empty()) {
    PLUMB_TRY(input.tools, read_json_array(options.tools));
  }
  input.add_generation_prompt = !options.no_generation_prompt;
  if (settings.chat_template) source = *settings.chat_template;
  auto chat_template = text::ChatTemplate::parse(source);
  if (!chat_template) return fail("{}: {}", label, chat_template.error().message);
  const auto prompt = text::render_chat(*chat_template, input);
  if (!prompt) return fail("{}: {}", label, prompt.error().message);
  return print_foreign(*prompt);
}

}  // namespace

Action setup_template(CLI::App& app) {
  auto options = std::make_shared<TemplateOptions>();
  add_model(app, options->source, options->yes, "MODEL_OR_FILE", "A model, or a bare template: FILE.jinja");
  app.add_option("--messages", options->messages, "JSON file with the list of messages ('-': standard input)")->required();
  app.add_option("--tools", options->tools, "JSON file with the list of tools");
  app.add_flag("--no-generation-prompt", options->no_generation_prompt, "Do not open the assistant's turn");
  options->chat.add_template(app);
  app.add_option("--bos", options->bos, "Text of the token that begins a sequence");
  app.add_option("--eos", options->eos, "Text of the token that ends one");
  return [options] { return run_template(*options); };
}

}  // namespace plumb::cli
