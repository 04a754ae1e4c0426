#include "plumb/plumb.h"

#include <filesystem>
#include <mutex>
#include <type_traits>
#include <utility>

#include "api/sampler_settings.h"
#include "engine/canary.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "store/model_store.h"

namespace plumb {

namespace {

template <class T>
T value_or_throw(Result<T> result) {
  if (!result) throw Exception(result.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

nlohmann::ordered_json json_of(const std::vector<Message>& messages) {
  auto list = nlohmann::ordered_json::array();
  for (const Message& message : messages) list.push_back({{"role", message.role}, {"content", message.content}});
  return list;
}

std::vector<Message> messages_of(const std::string& json) {
  std::vector<Message> messages;
  const auto list = nlohmann::ordered_json::parse(json, nullptr, false);
  if (!list.is_array()) throw Exception("the saved conversation's messages are not a list");
  for (const auto& message : list) {
    if (!message.is_object() || message.size() != 2 || !message.contains("role") || !message.contains("content") ||
        !message["role"].is_string() || !message["content"].is_string()) {
      throw Exception("a message of the saved conversation is not one of a role and a content");
    }
    messages.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
  }
  return messages;
}

engine::GenerateOptions options_of(const Settings& settings, const engine::SamplerSettings& defaults) {
  engine::GenerateOptions options{.sampler = defaults};
  engine::SamplerSettings& sampler = options.sampler;
  api::each_sampler_setting(sampler, settings, [](auto& to, const auto& from) {
    if (from) to = *from;
  });
  sampler.logit_bias = settings.logit_bias;
  sampler.seed = settings.seed ? *settings.seed : engine::random_seed();
  options.max_tokens = settings.max_tokens;
  options.stop = settings.stop;
  options.n_logprobs = settings.logprobs;
  return options;
}

gguf::File open_file(const std::string& model) {
  if (model == "canary") return value_or_throw(gguf::File::from_memory(engine::canary_bytes(), model));
  std::error_code ignored;
  if (std::filesystem::exists(model, ignored)) return value_or_throw(gguf::File::open(model));
  const auto kept = store::find_kept(model);
  if (kept) return value_or_throw(gguf::File::open(kept->files.front()));
  throw Exception("there is no file '" + model + "', and " + kept.error().message);
}

Answer answer_of(engine::Completion completion, std::uint64_t n_tokens, std::uint64_t seed) {
  Answer answer{.text = std::move(completion.text),
                .reason = static_cast<Reason>(completion.reason),
                .prompt_tokens = n_tokens - completion.tokens.size(),
                .read_tokens = completion.n_prompt,
                .prompt_seconds = completion.prompt_seconds,
                .answer_seconds = completion.decode_seconds,
                .seed = seed};
  for (engine::GeneratedToken& token : completion.tokens) {
    AnswerToken& copy =
        answer.tokens.emplace_back(AnswerToken{.id = token.id, .text = std::move(token.text), .logprob = token.logprob});
    for (const auto& [id, logprob] : token.top) copy.top.push_back({id, logprob});
  }
  return answer;
}

}  // namespace

std::string_view version() { return PLUMB_VERSION; }

std::string_view name(Reason reason) { return engine::name(static_cast<engine::StopReason>(reason)); }

struct Model::State {
  std::unique_ptr<engine::Engine> engine;
  engine::SamplerSettings sampling;  // of settings that are left empty
  std::mutex computing;              // held while the engine's executor or a cache is used
};

struct Conversation::State {
  State(std::shared_ptr<Model::State> of, engine::Session begun, std::vector<Message> said)
      : model(std::move(of)), session(std::move(begun)), messages(std::move(said)) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    const std::lock_guard lock(model->computing);
    const engine::Session gone = std::move(session);
  }

  std::shared_ptr<Model::State> model;  // outlives the session
  engine::Session session;
  std::vector<Message> messages;

  Answer answer(std::vector<Token> all, const Settings& settings, const OnText& on_text) {
    engine::GenerateOptions options = options_of(settings, model->sampling);
    const std::uint64_t seed = options.sampler.seed;
    auto completion = value_or_throw(session.answer(std::move(all), std::move(options), on_text));
    return answer_of(std::move(completion), session.tokens().size(), seed);
  }
  // tokens() and more.
  [[nodiscard]] std::vector<Token> with(std::span<const Token> more) const {
    std::vector<Token> all = session.tokens();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

Model::Model(std::shared_ptr<State> state) : state_(std::move(state)) {}

Model Model::open(const std::string& model, const ModelOptions& options) {
  gguf::File file = open_file(model);
  engine::EngineSettings settings;
  if (!options.backend.empty()) settings.backend = options.backend;
  settings.n_threads = options.threads;
  settings.context = options.ctx;
  if (!options.kv_type.empty()) settings.kv_type = value_or_throw(backends::kv_type(options.kv_type));
  if (!options.activations.empty()) settings.activations = value_or_throw(backends::activations(options.activations));
  settings.progress = options.on_progress;
  if (!options.template_variables.empty()) {
    auto variables = engine::parse_template_variables(options.template_variables);
    if (!variables) throw Exception("template_variables " + variables.error().message);
    settings.chat.variables = std::move(*variables);
  }
  auto state = std::make_shared<State>();
  for (const auto& setting : value_or_throw(engine::recommended_sampling(file))) {
    setting.apply(state->sampling, setting.value);
  }
  state->engine = value_or_throw(engine::Engine::load(std::move(file), settings));
  return Model(std::move(state));
}

Answer Model::ask(std::string_view prompt, const Settings& settings, const OnText& on_text) const {
  return conversation().say(prompt, settings, on_text);
}

Conversation Model::conversation(std::string_view system) const {
  const std::lock_guard lock(state_->computing);
  std::vector<Message> messages;
  if (!system.empty()) messages.push_back({"system", std::string(system)});
  auto session = value_or_throw(engine::Session::make(*state_->engine));
  return Conversation(std::make_unique<Conversation::State>(state_, std::move(session), std::move(messages)));
}

Conversation Model::restore(const std::string& path) const {
  const std::lock_guard lock(state_->computing);
  auto [session, note] = value_or_throw(engine::Session::restore(*state_->engine, path));
  std::vector<Message> messages = messages_of(note);
  return Conversation(std::make_unique<Conversation::State>(state_, std::move(session), std::move(messages)));
}

std::string Model::render(const std::vector<Message>& messages) const {
  return value_or_throw(state_->engine->chat_text(json_of(messages)));
}
std::vector<Token> Model::chat_tokens(const std::vector<Message>& messages) const {
  return value_or_throw(state_->engine->chat_tokens(json_of(messages)));
}
bool Model::has_template() const { return state_->engine->has_chat_template(); }

std::vector<Token> Model::tokenize(std::string_view text, bool no_bos) const {
  return value_or_throw(state_->engine->tokenizer().encode(text, {.add_special = !no_bos, .parse_special = true}));
}
std::string Model::detokenize(std::span<const Token> tokens) const {
  value_or_throw(state_->engine->tokenizer().check(tokens));
  return state_->engine->tokenizer().decode(tokens, true);
}
std::string Model::piece(Token token) const {
  const text::Tokenizer& tokenizer = state_->engine->tokenizer();
  value_or_throw(tokenizer.check(std::span(&token, 1)));
  return std::string(tokenizer.piece(token));
}

Settings Model::settings() const {
  Settings settings;
  api::each_sampler_setting(settings, state_->sampling, [](auto& to, const auto& from) { to = from; });
  return settings;
}
std::uint32_t Model::vocabulary() const { return state_->engine->model().plan()->vocab; }
std::uint32_t Model::ctx() const { return state_->engine->context(); }
std::string Model::backend() const { return std::string(state_->engine->backend().name()); }
std::string Model::description() const { return state_->engine->description(); }

Conversation::Conversation(std::unique_ptr<State> state) : state_(std::move(state)) {}
Conversation::Conversation(Conversation&&) noexcept = default;
Conversation& Conversation::operator=(Conversation&&) noexcept = default;
Conversation::~Conversation() = default;

Answer Conversation::say(std::string_view text, const Settings& settings, const OnText& on_text) {
  std::vector<Message> messages = state_->messages;
  messages.push_back({"user", std::string(text)});
  return answer(std::move(messages), settings, on_text);
}

Answer Conversation::answer(std::vector<Message> messages, const Settings& settings, const OnText& on_text) {
  const std::lock_guard lock(state_->model->computing);
  auto all = value_or_throw(state_->model->engine->chat_tokens(json_of(messages)));
  Answer answer = state_->answer(std::move(all), settings, on_text);
  messages.push_back({"assistant", answer.text});
  state_->messages = std::move(messages);
  return answer;
}

Model Conversation::model() const { return Model(state_->model); }

const std::vector<Message>& Conversation::messages() const { return state_->messages; }

Answer Conversation::complete(std::span<const Token> more, const Settings& settings, const OnText& on_text) {
  const std::lock_guard lock(state_->model->computing);
  Answer answer = state_->answer(state_->with(more), settings, on_text);
  state_->messages.clear();
  return answer;
}

std::vector<float> Conversation::logits(std::span<const Token> more) {
  const std::lock_guard lock(state_->model->computing);
  const auto logits = value_or_throw(state_->session.read(state_->with(more)));
  state_->messages.clear();
  return {logits.begin(), logits.end()};
}

const std::vector<Token>& Conversation::tokens() const { return state_->session.tokens(); }

void Conversation::rewind(std::size_t n) {
  const std::lock_guard lock(state_->model->computing);
  state_->session.rewind(n);
  state_->messages.clear();
}

Conversation Conversation::fork() const {
  const std::lock_guard lock(state_->model->computing);
  std::vector<Message> messages = state_->messages;
  auto session = value_or_throw(state_->session.fork());
  return Conversation(std::make_unique<State>(state_->model, std::move(session), std::move(messages)));
}

void Conversation::save(const std::string& path) const {
  const std::lock_guard lock(state_->model->computing);
  const std::string note = json_of(state_->messages).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  value_or_throw(state_->session.save(path, note));
}

}  // namespace plumb
