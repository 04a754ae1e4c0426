#include <fmt/format.h>

#include "base/printable.h"
#include "cli/command.h"

namespace plumb::cli {

namespace {

struct TokenizeOptions {
  std::string model;
  bool yes = false;
  TextArguments text;
  bool no_bos = false;
  bool chat = false;
  TemplateArguments chat_template;
  std::vector<text::TokenId> decode;
  CLI::Option* decode_option = nullptr;
  bool json = false;
};

Result<std::vector<text::TokenId>> chat_tokens(const gguf::File& file, const text::Tokenizer& tokenizer,
                                               const std::string& text, const engine::ChatSettings& settings) {
  std::string_view source;
  if (settings.chat_template) {
    source = *settings.chat_template;
  } else {
    PLUMB_TRY(source, file.get_string("tokenizer.chat_template"));
  }
  PLUMB_TRY(const auto chat_template, text::ChatTemplate::parse(source));
  return engine::chat_tokens(tokenizer, chat_template, engine::conversation("", text), settings);
}

Result<int> run_tokenize(const TokenizeOptions& options) {
  PLUMB_TRY(const gguf::File file, open_model(options.model, options.yes));
  PLUMB_TRY(const text::Tokenizer tokenizer, text::Tokenizer::load(file));
  if (options.decode_option->count() > 0) {
    PLUMB_CHECK(tokenizer.check(options.decode));
    const std::string text = tokenizer.decode(options.decode, true);
    return options.json ? print_json({{"text", text}}) : print_foreign(text + "\n");
  }
  PLUMB_TRY(const std::string text, options.text.read());
  std::vector<text::TokenId> tokens;
  if (options.chat) {
    PLUMB_TRY(const engine::ChatSettings settings, options.chat_template.read());
    PLUMB_TRY(tokens, chat_tokens(file, tokenizer, text, settings));
  } else {
    PLUMB_TRY(tokens,
              tokenizer.encode(text, {.add_special = !options.no_bos, .parse_special = !options.chat_template.no_special}));
  }
  if (options.json) {
    Json document{{"tokens", tokens}, {"pieces", Json::array()}};
    for (const text::TokenId token : tokens) document["pieces"].push_back(tokenizer.piece(token));
    return print_json(document);
  }
  std::string lines;
  for (const text::TokenId token : tokens)
    lines += fmt::format("{:6}  {}\n", token, printable(tokenizer.piece(token), Lines::escape));
  return print(lines);
}

}  // namespace

Action setup_tokenize(CLI::App& app) {
  auto options = std::make_shared<TokenizeOptions>();
  add_model(app, options->model, options->yes, "MODEL",
            "A .gguf file (a vocabulary is enough), 'canary', a fetched model, or what to fetch (as in plumb run)");
  options->text.add(app);
  app.add_flag("--no-bos", options->no_bos, "No special token added at either end");
  app.add_flag("--chat", options->chat, "The text as a user's message, through the chat template");
  options->chat_template.add(app);
  options->decode_option = app.add_option("--decode", options->decode, "Token ids to turn into text, such as 1,2,3")
                               ->delimiter(',')
                               ->excludes(options->text.text_option)
                               ->excludes(options->text.file_option);
  app.add_flag("--json", options->json, "One JSON document: tokens and pieces");
  return [options] { return run_tokenize(*options); };
}

}  // namespace plumb::cli
