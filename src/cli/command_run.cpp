#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <charconv>

#include "cli/command.h"
#include "cli/spelling.h"
#include "cli/thinking.h"

namespace plumb::cli {

namespace {

struct RunOptions {
  EngineArguments engine;
  SamplerArguments sampler;
  PromptArguments prompt;
  std::vector<std::string> words;  // the prompt without -p
  bool interactive = false;
  bool escapes = false;
  std::int64_t max_tokens = 0;
  std::vector<std::string> stop;
  std::uint32_t n_logprobs = 0;
  bool json = false;
  bool hide_thinking = false;
};

Json token_json(const engine::Engine& engine, const engine::GeneratedToken& token, bool with_top) {
  Json json{{"id", token.id}, {"piece", engine.tokenizer().piece(token.id)}, {"text", token.text}};
  if (!with_top) return json;
  json["logprob"] = token.logprob;
  json["top"] = Json::array();
  for (const auto& other : token.top) {
    json["top"].push_back({{"id", other.id}, {"piece", engine.tokenizer().piece(other.id)}, {"logprob", other.logprob}});
  }
  return json;
}

// The text with \n \r \t \' \" \\ and \xHH as the characters that they stand for, as llama.cpp reads them; other
// backslashes stay.
std::string without_escapes(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    constexpr std::string_view letters = "nrt'\"\\", values = "\n\r\t'\"\\";
    const std::size_t known = text[i] == '\\' && i + 1 < text.size() ? letters.find(text[i + 1]) : std::string_view::npos;
    unsigned char byte = 0;
    if (known != std::string_view::npos) {
      plain += values[known];
      i += 1;
    } else if (text.substr(i).starts_with("\\x") && i + 4 <= text.size() &&
               std::from_chars(&text[i + 2], &text[i + 2] + 2, byte, 16).ptr == &text[i + 2] + 2) {
      plain += static_cast<char>(byte);
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// The prompt of -p, -f or the words after the model, with standard input behind it where that is a pipe or a file. None:
// there is neither.
Result<std::optional<std::string>> prompt_text(const RunOptions& options) {
  const TextArguments& given = options.prompt.text;
  std::optional<std::string> text;
  if (given.given()) {
    PLUMB_TRY(text, given.read());
  } else if (!options.words.empty()) {
    text = fmt::format("{}", fmt::join(options.words, " "));
  }
  if (text && options.escapes) text = without_escapes(*text);
  if (given.file == "-") return text;
  PLUMB_TRY(const std::optional<std::string> piped, piped_text());
  if (!piped) return text;
  if (!text) return piped;
  // One line goes on with the sentence; more begin on a line of their own.
  return *text + (piped->find('\n') == std::string::npos ? ' ' : '\n') + *piped;
}

double per_second(std::uint64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; }

Result<int> run_model(const RunOptions& options) {
  PLUMB_TRY(engine::SamplerSettings sampler, options.sampler.read());
  PLUMB_TRY(const std::uint32_t max_tokens, token_limit(options.max_tokens));
  std::optional<std::string> asked;
  if (options.prompt.tokens.empty()) {
    PLUMB_TRY(asked, prompt_text(options));
  }
  if (options.interactive || (options.prompt.tokens.empty() && !asked && !options.json && isatty(STDIN_FILENO) == 1)) {
    if (asked) return fail("a chat asks for each message; give no prompt with -i");
    return chat({options.engine, options.sampler, options.max_tokens, options.prompt.system, options.hide_thinking});
  }
  const std::uint64_t seed = sampler.seed;
  const engine::GenerateOptions generate{.max_tokens = max_tokens,
                                         .sampler = std::move(sampler),
                                         .stop = options.stop,
                                         .n_logprobs = options.n_logprobs,
                                         .interrupted = interrupted};
  PLUMB_TRY(const auto engine, options.engine.load());
  PLUMB_TRY(const auto prompt, options.prompt.encode(*engine, options.engine.model, asked));
  PLUMB_TRY(const auto cache, engine->new_cache());

  catch_interrupts();
  AnswerPrinter printer(opens_thinking(*engine, prompt), options.hide_thinking);
  Result<int> printed = 0;
  const auto on_text = [&](std::string_view text) {
    if (!options.json) printed = printer.add(text);
    return printed.has_value();
  };
  PLUMB_TRY(const engine::Completion completion, engine->generate(*cache, prompt, generate, on_text));
  PLUMB_CHECK(printed);

  const int exit_code = completion.reason == engine::StopReason::interrupted ? exit_interrupted : 0;
  const std::uint64_t n_decoded = completion.tokens.empty() ? 0 : completion.tokens.size() - 1;
  if (options.json) {
    Json document{{"model", options.engine.model},
                  {"backend", engine->backend().name()},
                  {"description", engine->description()},
                  {"threads", engine->executor().n_threads()},
                  {"text", completion.text}};
    document["prompt_tokens"] = prompt;
    document["tokens"] = Json::array();
    for (const auto& token : completion.tokens) {
      document["tokens"].push_back(token_json(*engine, token, options.n_logprobs > 0));
    }
    document["seed"] = seed;
    document["stop_reason"] = engine::name(completion.reason);
    document["timing"] = {{"prefill_seconds", completion.prompt_seconds},
                          {"decode_seconds", completion.decode_seconds},
                          {"prefill_tps", per_second(completion.n_prompt, completion.prompt_seconds)},
                          {"decode_tps", per_second(n_decoded, completion.decode_seconds)}};
    PLUMB_CHECK(print_json(document));
    return exit_code;
  }
  PLUMB_CHECK(printer.end());
  fmt::print(stderr, "{}: prompt {} tokens, {:.1f} tokens/s; answer {} tokens, {:.1f} tokens/s; seed {}; {}\n",
             engine->description(), completion.n_prompt, per_second(completion.n_prompt, completion.prompt_seconds),
             completion.tokens.size(), per_second(n_decoded, completion.decode_seconds), seed,
             engine::name(completion.reason));
  return exit_code;
}

}  // namespace

Action setup_run(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  options->engine.add(app);
  auto* const words =
      app.add_option("PROMPT", options->words, "The text, when there is no -p; several words are joined by spaces")
          ->expected(0, -1);
  options->prompt.add(app);
  for (CLI::Option* other :
       {options->prompt.text.text_option, options->prompt.text.file_option, app.get_option("--tokens")}) {
    words->excludes(other);
  }
  app.add_flag("-i,--interactive,--conversation", options->interactive, "A conversation, as plumb chat");
  app.add_flag("-e,--escape", options->escapes, "Read \\n, \\t, \\xHH and so on in the prompt as what they stand for");
  app.add_option("-n,--max-tokens,--predict,--n-predict", options->max_tokens,
                 "Tokens at most (0 or -1: until the model ends or the context is full)");
  options->sampler.add(app);
  app.add_option("-r,--stop,--reverse-prompt", options->stop, "End the answer before this text; may be repeated");
  app.add_option("--logprobs", options->n_logprobs, "With --json: the N most likely tokens at each place");
  app.add_flag("--json", options->json, "One JSON document");
  app.add_flag("--hide-thinking", options->hide_thinking, "Do not print what the model thinks before it answers");
  add_accepted(app);
  return [options] { return run_model(*options); };
}

}  // namespace plumb::cli
