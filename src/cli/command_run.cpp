#include <fmt/format.h>

#include "cli/command.h"

namespace plumb::cli {

namespace {

struct RunOptions {
  EngineArguments engine;
  SamplerArguments sampler;
  PromptArguments prompt;
  std::uint32_t max_tokens = 0;
  std::vector<std::string> stop;
  std::uint32_t n_logprobs = 0;
  bool json = false;
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

double per_second(std::uint64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; }

Result<int> run_model(const RunOptions& options) {
  PLUMB_TRY(engine::SamplerSettings sampler, options.sampler.read());
  const engine::GenerateOptions generate{.max_tokens = options.max_tokens,
                                         .sampler = std::move(sampler),
                                         .stop = options.stop,
                                         .n_logprobs = options.n_logprobs};
  PLUMB_TRY(const auto engine, options.engine.load());
  PLUMB_TRY(const auto prompt, options.prompt.read(*engine, options.engine.model));
  PLUMB_TRY(const auto cache, engine->new_cache());

  catch_interrupts();
  Result<int> printed = 0;
  const auto on_text = [&](std::string_view text) {
    if (!options.json) printed = print(text);
    return printed && !interrupted();
  };
  PLUMB_TRY(const engine::Completion completion, engine->generate(*cache, prompt, generate, on_text));
  PLUMB_CHECK(printed);

  const std::uint64_t n_decoded = completion.tokens.empty() ? 0 : completion.tokens.size() - 1;
  if (options.json) {
    Json document{{"model", options.engine.model}, {"backend", engine->backend().name()}, {"text", completion.text}};
    document["prompt_tokens"] = prompt;
    document["tokens"] = Json::array();
    for (const auto& token : completion.tokens) {
      document["tokens"].push_back(token_json(*engine, token, options.n_logprobs > 0));
    }
    document["stop_reason"] = engine::name(completion.reason);
    document["timing"] = {{"prefill_seconds", completion.prompt_seconds},
                          {"decode_seconds", completion.decode_seconds},
                          {"prefill_tps", per_second(completion.n_prompt, completion.prompt_seconds)},
                          {"decode_tps", per_second(n_decoded, completion.decode_seconds)}};
    return print_json(document);
  }
  if (!completion.text.ends_with('\n')) PLUMB_CHECK(print("\n"));
  fmt::print(stderr, "{}: prompt {} tokens, {:.1f} tokens/s; answer {} tokens, {:.1f} tokens/s; {}\n",
             engine->backend().description(), completion.n_prompt,
             per_second(completion.n_prompt, completion.prompt_seconds), completion.tokens.size(),
             per_second(n_decoded, completion.decode_seconds), engine::name(completion.reason));
  return 0;
}

}  // namespace

Action setup_run(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  options->engine.add(app);
  options->prompt.add(app);
  app.add_option("-n,--max-tokens", options->max_tokens, "Tokens at most (0: until the model ends or the context is full)");
  options->sampler.add(app);
  app.add_option("--stop", options->stop, "End the answer before this text; may be repeated");
  app.add_option("--logprobs", options->n_logprobs, "With --json: the N most likely tokens at each place");
  app.add_flag("--json", options->json, "One JSON document");
  return [options] { return run_model(*options); };
}

}  // namespace plumb::cli
