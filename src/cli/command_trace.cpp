#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/sha256.h"
#include "engine/canary.h"
#include "gguf/mapping.h"
#include "trace/trace.h"

namespace plumb::cli {

namespace {

struct TraceOptions {
  EngineArguments engine;
  PromptArguments prompt;
  std::string output;
  std::vector<std::string> values;
  std::uint32_t n_steps = 1;
};

// Without --values everything but the attention's probabilities, which grow with the square of the prompt.
bool is_wanted(const std::vector<std::string>& patterns, const std::string& name) {
  if (patterns.empty()) return !name.ends_with(".attn_probs");
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0; });
}

// Of the one file a model is in; unknown, and empty, for one in several.
Result<std::string> sha256_of(const gguf::File& file) {
  Sha256 hash;
  if (file.label() == "canary") {
    hash.update(engine::canary_bytes());
    return hash.hex();
  }
  PLUMB_TRY(const gguf::Mapping mapping, gguf::Mapping::open(file.label()));
  if (mapping.bytes().size() != file.size_bytes()) return std::string();
  hash.update(mapping.bytes());
  return hash.hex();
}

text::TokenId most_likely(std::span<const float> logits) {
  return static_cast<text::TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

Result<int> run_trace(const TraceOptions& options) {
  PLUMB_TRY(const auto engine, options.engine.load());
  backends::Executor& executor = engine->executor();
  PLUMB_TRY(const auto prompt, options.prompt.read(*engine, options.engine.model));
  if (prompt.empty()) return fail("the prompt has no tokens");
  if (prompt.size() > executor.max_batch()) {
    return fail("a prompt of {} tokens is longer than the {} that one pass of this backend takes; use a shorter one",
                prompt.size(), executor.max_batch());
  }
  const gguf::File& file = engine->model().file();
  PLUMB_TRY(const std::string sha256, sha256_of(file));
  trace::Info info{.engine = fmt::format("plumb {} ({})", PLUMB_VERSION, engine->backend().name()),
                   .model = std::filesystem::path(file.label()).filename().string(),
                   .model_sha256 = sha256,
                   .prompt = options.prompt.tokens.empty() ? engine->tokenizer().decode(prompt, true) : "",
                   .tokens = prompt,
                   .positions = {}};
  const auto& plan = *engine->model().plan();
  const std::size_t a_step = plan.values.size() + plan.cache.n_layers;
  PLUMB_TRY(auto writer, trace::Writer::create(options.output, info, a_step * (1 + std::size_t{options.n_steps})));

  std::uint32_t step = 0;
  std::size_t n_values = 0;
  std::uint64_t n_bytes = 0;
  Result<void> written;
  executor.watch([&](std::string_view name) { return is_wanted(options.values, std::string(name)); },
                 [&](std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<const float> data) {
                   if (written) written = writer.add(step, name, rows, width, data);
                   ++n_values;
                   n_bytes += data.size_bytes();
                 });
  catch_interrupts();
  PLUMB_TRY(const auto cache, engine->new_cache());
  PLUMB_TRY(std::span<const float> logits, executor.run({.cache = cache.get(), .tokens = prompt}));
  while (step < options.n_steps && written) {
    const text::TokenId token = most_likely(logits);
    if (engine->tokenizer().ends_generation(token) || cache->length() == cache->capacity()) break;
    if (interrupted()) return fail("interrupted; nothing was written");
    info.tokens.push_back(token);
    ++step;
    PLUMB_TRY(logits, executor.run({.cache = cache.get(), .tokens = std::span(&token, 1)}));
  }
  PLUMB_CHECK(written);
  if (n_values == 0)
    return fail("no value of the run matches --values; docs/architecture.md has the names, such as blk.0.attn_q");
  PLUMB_CHECK(writer.finish(info));
  PLUMB_CHECK(print(fmt::format("{}: {} values, {} of {} prompt tokens and {} steps after them\n", options.output, n_values,
                                format_bytes(n_bytes), prompt.size(), step)));
  return 0;
}

}  // namespace

Action setup_trace(CLI::App& app) {
  auto options = std::make_shared<TraceOptions>();
  options->engine.add(app);
  options->prompt.add(app);
  app.add_option("-o,--output", options->output, "The trace, a .safetensors file")->required();
  app.add_option("--values", options->values,
                 "Only values that match this pattern, such as 'blk.0.*'; may be repeated (default: all but *.attn_probs)");
  app.add_option("--steps", options->n_steps, "Greedy steps after the prompt, at most")
      ->check(CLI::Range(0u, 4096u))
      ->capture_default_str();
  return [options] { return run_trace(*options); };
}

}  // namespace plumb::cli
