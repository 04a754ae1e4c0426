#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cmath>

#include "base/printable.h"
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
  bool verbose = false;
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

Json sampler_json(const engine::SamplerSettings& settings) {
  Json json{{"temp", settings.temperature},
            {"top_k", settings.top_k},
            {"top_p", settings.top_p},
            {"min_p", settings.min_p},
            {"repeat_penalty", settings.repeat_penalty},
            {"repeat_last_n", settings.repeat_last_n},
            {"presence_penalty", settings.presence_penalty},
            {"frequency_penalty", settings.frequency_penalty},
            {"logit_bias", Json::array()}};
  for (const auto& [token, bias] : settings.logit_bias) {
    // JSON has no infinity.
    json["logit_bias"].push_back({{"id", token}, {"bias", std::isfinite(bias) ? Json(bias) : Json("-inf")}});
  }
  return json;
}

// Everything that the answer depends on besides the model, the prompt and the seed.
Json settings_json(const engine::Engine& engine, const engine::GenerateOptions& generate, const RunOptions& options) {
  const engine::EngineSettings& settings = engine.settings();
  Json json{{"sampler", sampler_json(generate.sampler)},
            {"max_tokens", generate.max_tokens},
            {"stop", generate.stop},
            {"ctx", engine.context()},
            {"threads", settings.n_threads},
            {"kv_type", backends::name(settings.kv_type)},
            {"activations", options.engine.activations},
            {"raw", options.prompt.raw || !engine.has_chat_template()},
            {"no_special", settings.chat.plain_text},
            {"template_variables", settings.chat.variables}};
  return json;
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
    return chat({options.engine, options.sampler, options.max_tokens, options.prompt.system, options.hide_thinking,
                 options.verbose});
  }
  engine::GenerateOptions generate{.max_tokens = max_tokens,
                                   .sampler = std::move(sampler),
                                   .stop = options.stop,
                                   .n_logprobs = options.n_logprobs,
                                   .interrupted = interrupted};
  const auto start = std::chrono::steady_clock::now();
  PLUMB_TRY(const auto engine, options.engine.load());
  const double load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  PLUMB_CHECK(options.sampler.take_recommended(engine->model().file(), generate.sampler));
  const std::uint64_t seed = generate.sampler.seed;
  if (options.verbose) {
    PLUMB_TRY(const std::string recommended, recommended_text(engine->model().file()));
    fmt::print(stderr, "the file recommends {}\nsettings {}\n", recommended.empty() ? "no sampling" : recommended,
               printable(settings_json(*engine, generate, options).dump()));
  }
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
    document["counts"] = {{"prompt_tokens", prompt.size()}, {"answer_tokens", completion.tokens.size()}};
    document["seed"] = seed;
    document["settings"] = settings_json(*engine, generate, options);
    document["stop_reason"] = engine::name(completion.reason);
    document["timing"] = {{"load_seconds", load_seconds},
                          {"prefill_seconds", completion.prompt_seconds},
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
  options->engine.chat.add(app);
  app.add_flag("-v,--verbose", options->verbose, "Say on standard error which settings the answer is made with");
  add_accepted(app);
  return [options] { return run_model(*options); };
}

}  // namespace plumb::cli
