#include "engine/selftest.h"

#include <algorithm>
#include <utility>

#include "engine/engine.h"
#include "gguf/file.h"
#include "gguf/writer.h"
#include "model/quantize.h"

namespace plumb::engine {

namespace {

constexpr std::uint32_t max_answer_tokens = 64;
// The checker executes GPU threads one by one and is slow: it is asked only the first inputs of a selection.
constexpr std::size_t checker_inputs = 2;

// n of the answers, spread evenly over the list and including the first.
std::vector<KnownAnswer> select(std::vector<KnownAnswer> answers, std::size_t n) {
  if (n == 0 || n >= answers.size()) return answers;
  std::vector<KnownAnswer> selected;
  for (std::size_t i = 0; i < n; ++i) selected.push_back(answers[i * answers.size() / n]);
  return selected;
}

Result<std::string> ask(Engine& engine, backends::KvCache& cache, std::string_view input) {
  cache.truncate(0);
  PLUMB_TRY(const auto tokens, engine.chat_tokens(conversation("", input)));
  GenerateOptions options;
  options.max_tokens = max_answer_tokens;
  options.sampler.temperature = 0;
  PLUMB_TRY(const Completion completion, engine.generate(cache, tokens, options));
  return completion.text;
}

std::vector<std::string> present_backends() {
  std::vector<std::string> names;
  for (const auto& entry : backends::all()) {
    if (entry.make()) names.emplace_back(entry.name);
  }
  return names;
}

}  // namespace

Result<std::vector<SelftestRow>> selftest(const SelftestSettings& settings, const OnRow& on_row) {
  const auto answers = select(canary_answers(), settings.n_inputs);
  const auto backend_names = settings.backends.empty() ? present_backends() : settings.backends;
  for (const std::string& backend : backend_names) {
    PLUMB_CHECK(backends::make(backend));
  }
  std::vector<model::FileType> types;
  for (const std::string& quant : settings.quants) {
    PLUMB_TRY(const model::FileType type, model::parse_file_type(quant));
    types.push_back(type);
  }
  if (settings.quants.empty()) {
    for (const model::FileTypeInfo& info : model::file_types()) types.push_back(info.type);
  }

  PLUMB_TRY(const gguf::File canary, gguf::File::from_memory(canary_bytes(), "canary"));
  std::vector<SelftestRow> rows;
  const auto inputs_for = [&](const std::string& backend) {
    return backend == "checker" && settings.n_inputs > checker_inputs ? std::min(checker_inputs, answers.size())
                                                                      : answers.size();
  };
  std::size_t total = 0;
  for (const std::string& backend : backend_names) total += types.size() * inputs_for(backend);
  for (const model::FileType type : types) {
    const std::string quant(model::name(type));
    PLUMB_TRY(const gguf::Writer writer, model::quantize(canary, type));
    PLUMB_TRY(const std::vector<std::byte> bytes, writer.to_memory());
    for (const std::string& backend : backend_names) {
      PLUMB_TRY(gguf::File file, gguf::File::from_memory(bytes, "canary in " + quant));
      EngineSettings engine_settings;
      engine_settings.backend = backend;
      PLUMB_TRY(const auto engine, Engine::load(std::move(file), engine_settings));
      PLUMB_TRY(const auto cache, engine->new_cache());
      for (const KnownAnswer& answer : std::span(answers).first(inputs_for(backend))) {
        const Result<std::string> actual = ask(*engine, *cache, answer.input);
        rows.push_back({backend, quant, std::string(answer.input), std::string(answer.expected),
                        actual ? *actual : "error: " + actual.error().message});
        if (on_row && !on_row(rows.back(), rows.size(), total)) return rows;
      }
    }
  }
  return rows;
}

}  // namespace plumb::engine
