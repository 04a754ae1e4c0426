#include "plumb/plumb.h"

#include "engine/canary.h"
#include "engine/engine.h"

namespace plumb {

namespace {

template <class T>
T value_or_throw(Result<T> result) {
  if (!result) throw Exception(result.error().message);
  return std::move(*result);
}

}  // namespace

struct Model::State {
  std::unique_ptr<engine::Engine> engine;
};

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::open(const std::string& path, const Options& options) {
  gguf::File file =
      value_or_throw(path == "canary" ? gguf::File::from_memory(engine::canary_bytes(), "canary") : gguf::File::open(path));
  auto state = std::make_unique<State>();
  engine::EngineSettings settings;
  settings.backend = options.backend;
  settings.n_threads = options.threads;
  settings.context = options.context;
  state->engine = value_or_throw(engine::Engine::load(std::move(file), settings));
  return Model(std::move(state));
}

std::string Model::ask(std::string_view prompt, const AskOptions& options,
                       const std::function<bool(std::string_view)>& on_text) {
  engine::Engine& engine = *state_->engine;
  engine::GenerateOptions generate;
  generate.max_tokens = options.max_tokens;
  generate.sampler.temperature = options.temperature;
  generate.sampler.seed = options.seed;
  auto tokens = value_or_throw(options.raw ? engine.tokenizer().encode(prompt)
                                           : engine.chat_tokens(engine::conversation(options.system, prompt)));
  auto cache = value_or_throw(engine.new_cache());
  return value_or_throw(engine.generate(*cache, tokens, generate, on_text)).text;
}

}  // namespace plumb
