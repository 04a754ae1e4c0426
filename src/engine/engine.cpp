#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/machine.h"
#include "model/file_type.h"

namespace plumb::engine {

namespace {

constexpr std::uint32_t default_context = 4096;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The length of the longest suffix of `text` that is a prefix of a stop text. This suffix must not be shown yet.
std::size_t held_back(std::string_view text, const std::vector<std::string>& stops) {
  std::size_t held = 0;
  for (const std::string& stop : stops) {
    for (std::size_t n = std::min(stop.size() - 1, text.size()); n > held; --n) {
      if (text.ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  return held;
}

// The text of a special token as a template variable; empty when the vocabulary has none.
std::string special_text(const text::Tokenizer& tokenizer, std::optional<TokenId> token) {
  return token ? std::string(tokenizer.piece(*token)) : std::string();
}

// The value of a setting that is a number: what F32 holds is read as the decimal number that is nearest to it, 0.95 and not
// 0.949999988.
std::optional<double> number_of(const gguf::Value& value) {
  return std::visit(
      [](const auto& held) -> std::optional<double> {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, float>) {
          return std::strtod(fmt::format("{}", held).c_str(), nullptr);
        } else if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
          return static_cast<double>(held);
        } else {
          return std::nullopt;
        }
      },
      value);
}

int to_int(double value) {
  if (std::isnan(value)) return std::numeric_limits<int>::min();
  return static_cast<int>(std::clamp<double>(value, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()));
}

constexpr std::string_view sampling_prefix = "general.sampling.";
constexpr RecommendedSetting known_sampling[] = {
    {"temp", "general.sampling.temp", 0, [](SamplerSettings& s, double value) { s.temperature = value; }},
    {"top-k", "general.sampling.top_k", 0, [](SamplerSettings& s, double value) { s.top_k = to_int(value); }},
    {"top-p", "general.sampling.top_p", 0, [](SamplerSettings& s, double value) { s.top_p = value; }},
    {"min-p", "general.sampling.min_p", 0, [](SamplerSettings& s, double value) { s.min_p = value; }},
    {"repeat-penalty", "general.sampling.penalty_repeat", 0,
     [](SamplerSettings& s, double value) { s.repeat_penalty = value; }},
    {"repeat-last-n", "general.sampling.penalty_last_n", 0,
     [](SamplerSettings& s, double value) { s.repeat_last_n = to_int(value); }},
};
// Samplers that Plumb does not have: where this key of theirs is 0, the file does not ask for them.
constexpr std::string_view switches[] = {"general.sampling.xtc_probability", "general.sampling.mirostat"};

// Whether a key belongs to a sampler that the file turns off.
bool is_turned_off(const gguf::File& file, std::string_view key) {
  return std::ranges::any_of(switches, [&](std::string_view on) {
    const gguf::Value* const value = file.find(on);
    return key.starts_with(on.substr(0, on.find('_', sampling_prefix.size()))) && value != nullptr &&
           number_of(*value) == 0.0;
  });
}

// A character that the messages do not have: one of Unicode's noncharacters, as UTF-8.
Result<std::string> unused_character(const nlohmann::ordered_json& messages) {
  const std::string text = messages.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  for (int last = 0x90; last <= 0xaf; ++last) {
    std::string character{'\xef', '\xb7', static_cast<char>(last)};
    if (text.find(character) == std::string::npos) return character;
  }
  return fail("the messages have all of the characters U+FDD0 to U+FDEF; leave one out");
}

// Puts the mark before the text of each control token in a message's content; a template carries it along.
void mark_control_tokens(const text::Tokenizer& tokenizer, const std::string& mark, nlohmann::ordered_json& message) {
  if (!message.is_object() || message.value("role", nlohmann::ordered_json()) == "assistant") return;
  const auto in_text = [&](nlohmann::ordered_json& value) {
    if (!value.is_string()) return;
    auto& text = value.get_ref<std::string&>();
    // From the last to the first, since an insertion moves what follows.
    for (auto places = tokenizer.control_tokens(text); !places.empty(); places.pop_back()) text.insert(places.back(), mark);
  };
  const auto content = message.find("content");
  if (content == message.end()) return;
  in_text(*content);
  if (!content->is_array()) return;
  for (auto& part : *content) {
    if (part.is_object() && part.contains("text")) in_text(part["text"]);
  }
}

// Takes the marks out of a text. Returns where they stood.
std::vector<std::size_t> take_marks(std::string& text, const std::string& mark) {
  std::vector<std::size_t> places;
  if (mark.empty()) return places;
  std::string without;
  std::size_t from = 0;
  for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, from)) {
    without.append(text, from, at - from);
    places.push_back(without.size());
    from = at + mark.size();
  }
  without.append(text, from);
  text = std::move(without);
  return places;
}

}  // namespace

std::string_view name(StopReason reason) {
  static constexpr std::string_view names[] = {"end of generation", "stop text", "token limit", "context full",
                                               "interrupted"};
  return names[static_cast<std::size_t>(reason)];
}

nlohmann::ordered_json conversation(std::string_view system, std::string_view prompt) {
  auto messages = nlohmann::ordered_json::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  return messages;
}

Result<nlohmann::ordered_json> parse_template_variables(std::string_view text) {
  auto given = nlohmann::ordered_json::parse(text, nullptr, false);
  if (given.is_object() && !given.contains("messages")) return given;
  return fail("'{}': expected a JSON object without messages, such as {{\"enable_thinking\":false}}", text);
}

Result<std::unique_ptr<Engine>> Engine::load(gguf::File file, const EngineSettings& settings) {
  PLUMB_TRY(text::Tokenizer tokenizer, text::Tokenizer::load(file));
  PLUMB_TRY(model::Model model, model::Model::load(std::move(file)));
  const plan::Plan& plan = *model.plan();
  if (tokenizer.size() > plan.vocab) {
    return fail("{}: the tokenizer has {} tokens and the model {} logits; the file's parts do not belong together",
                model.file().label(), tokenizer.size(), plan.vocab);
  }
  std::unique_ptr<Engine> engine(new Engine(std::move(model), std::move(tokenizer), settings));
  if (settings.chat.chat_template) {
    PLUMB_TRY(engine->chat_template_, text::ChatTemplate::parse(*settings.chat.chat_template));
  } else if (engine->model_.file().find("tokenizer.chat_template") != nullptr) {
    PLUMB_TRY(const std::string_view source, engine->model_.file().get_string("tokenizer.chat_template"));
    engine->chat_template_ = text::ChatTemplate::parse(source);
  }
  engine->context_ = settings.context > 0 ? settings.context : std::min(plan.context, default_context);
  PLUMB_TRY(engine->backend_, backends::make(settings.backend));
  const backends::LoadOptions options{.n_threads = settings.n_threads,
                                      .max_batch = 0,
                                      .activations = settings.activations,
                                      .shared_kernels = settings.shared_kernels,
                                      .guard_zones = settings.guard_zones,
                                      .progress = settings.progress};
  const std::uint64_t bytes = engine->model_.file().size_bytes();
  if (settings.progress && !settings.progress(0, bytes)) return fail("the loading was stopped");
  PLUMB_TRY(engine->executor_, engine->backend_->load(engine->model_.plan(), options));
  if (settings.progress && !settings.progress(bytes, bytes)) return fail("the loading was stopped");
  return engine;
}

Result<std::string> chat_text(const text::Tokenizer& tokenizer, const text::ChatTemplate& chat_template,
                              const nlohmann::ordered_json& messages, const ChatSettings& settings) {
  text::ChatInput input;
  input.messages = messages;
  input.variables = settings.variables;
  input.bos_token = special_text(tokenizer, tokenizer.special().bos);
  input.eos_token = special_text(tokenizer, tokenizer.special().eos);
  return text::render_chat(chat_template, input);
}

Result<std::vector<TokenId>> chat_tokens(const text::Tokenizer& tokenizer, const text::ChatTemplate& chat_template,
                                         const nlohmann::ordered_json& messages, const ChatSettings& settings) {
  std::string mark;
  nlohmann::ordered_json marked = messages;
  if (settings.plain_text) {
    PLUMB_TRY(mark, unused_character(messages));
    for (auto& message : marked) mark_control_tokens(tokenizer, mark, message);
  }
  PLUMB_TRY(std::string prompt, chat_text(tokenizer, chat_template, marked, settings));
  const std::vector<std::size_t> plain = take_marks(prompt, mark);
  const std::string bos = special_text(tokenizer, tokenizer.special().bos);
  const bool has_bos = !bos.empty() && prompt.starts_with(bos);
  return tokenizer.encode(prompt, {.add_special = !has_bos, .parse_special = true, .plain = plain});
}

Result<std::vector<RecommendedSetting>> recommended_sampling(const gguf::File& file) {
  std::vector<RecommendedSetting> found;
  for (const RecommendedSetting& setting : known_sampling) {
    const gguf::Value* value = file.find(setting.key);
    if (value == nullptr) continue;
    const auto number = number_of(*value);
    if (!number) return fail("{}: key '{}' must be a number", file.label(), setting.key);
    found.push_back(setting);
    found.back().value = *number;
  }
  return found;
}

std::optional<std::string> unknown_sampling(const gguf::File& file) {
  std::string names;
  for (const auto& [key, value] : file.metadata()) {
    const bool known = std::ranges::find(known_sampling, key, &RecommendedSetting::key) != std::end(known_sampling);
    if (!key.starts_with(sampling_prefix) || known || is_turned_off(file, key)) continue;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", key);
  }
  if (names.empty()) return std::nullopt;
  return fmt::format("the file recommends sampling that Plumb does not have, and answers are drawn without it: {}", names);
}

std::optional<std::uint64_t> positions_that_fit(const model::Model& model, backends::KvType type) {
  const std::uint64_t bytes = backends::position_bytes(model.plan()->cache, type);
  const std::uint64_t available = this_machine().available_bytes;
  const std::uint64_t weights = model.file().size_bytes();
  if (available == 0 || bytes == 0) return std::nullopt;
  return available > weights ? (available - weights) / 4 * 3 / bytes : 0;
}

Result<const text::ChatTemplate*> Engine::chat_template() const {
  if (!chat_template_) {
    return fail(
        "{}: the file has no chat template (tokenizer.chat_template); use --raw to give the model the text as it is",
        model_.file().label());
  }
  if (!*chat_template_) return fail("{}; use --raw to give the model the text as it is", chat_template_->error().message);
  return &**chat_template_;
}

std::string_view Engine::chat_template_text() const {
  if (settings_.chat.chat_template) return *settings_.chat.chat_template;
  return model_.file().get_string("tokenizer.chat_template").value_or(std::string_view());
}

Result<std::string> Engine::chat_text(const nlohmann::ordered_json& messages) const {
  PLUMB_TRY(const text::ChatTemplate* const chosen, chat_template());
  return engine::chat_text(tokenizer_, *chosen, messages, settings_.chat);
}

Result<std::vector<TokenId>> Engine::chat_tokens(const nlohmann::ordered_json& messages) const {
  PLUMB_TRY(const text::ChatTemplate* const chosen, chat_template());
  return engine::chat_tokens(tokenizer_, *chosen, messages, settings_.chat);
}

Result<std::unique_ptr<backends::KvCache>> Engine::new_cache() { return executor_->new_cache(context_, settings_.kv_type); }

Result<std::vector<std::unique_ptr<backends::KvCache>>> Engine::new_caches(std::uint32_t n) {
  return executor_->new_caches(n, context_, settings_.kv_type);
}

std::vector<std::string> Engine::warnings() const {
  std::vector<std::string> found = tokenizer_.warnings();
  if (auto contradiction = model::file_type_contradiction(model_.file())) found.push_back(std::move(*contradiction));
  const std::uint32_t trained = model_.plan()->context;
  if (context_ > trained) {
    found.push_back(
        fmt::format("the context of {} positions is longer than the {} that the model was made for; what it "
                    "writes beyond them may make no sense",
                    context_, trained));
  }
  return found;
}

Result<void> Engine::check_room(const backends::KvCache& cache, std::size_t n_prompt, std::size_t n_answer) {
  constexpr std::size_t some_answer = 256;
  const std::size_t n_free = cache.capacity() - cache.length();
  if (n_prompt <= n_free) return {};
  const std::size_t enough = cache.length() + n_prompt + (n_answer == 0 ? some_answer : n_answer);
  return fail("the prompt has {} tokens, and the context has room for {}{}; -c {} is enough for it and an answer", n_prompt,
              n_free, cache.length() == 0 ? "" : fmt::format(" of its {} positions", cache.capacity()), enough);
}

Result<std::span<const float>> Engine::prefill(backends::KvCache& cache, std::span<const TokenId> tokens,
                                               const std::function<bool()>& interrupted) {
  if (tokens.empty()) return fail("the prompt has no tokens");
  PLUMB_CHECK(check_room(cache, tokens.size(), 0));
  const std::uint32_t length = cache.length();
  Result<std::span<const float>> logits;
  while (!tokens.empty()) {
    if (interrupted && interrupted()) {
      cache.truncate(length);
      return fail("interrupted");
    }
    const std::size_t n = std::min<std::size_t>(tokens.size(), executor_->max_batch());
    logits = executor_->run({.cache = &cache, .tokens = tokens.first(n), .outputs = backends::Outputs::last});
    if (!logits) {
      cache.truncate(length);
      return logits;
    }
    tokens = tokens.subspan(n);
  }
  return logits;
}

Result<Completion> Engine::generate(backends::KvCache& cache, std::span<const TokenId> prompt,
                                    const GenerateOptions& options, const OnText& on_text) {
  for (const std::string& stop : options.stop) {
    if (stop.empty()) return fail("a stop text must not be empty");
  }
  PLUMB_CHECK(check_room(cache, prompt.size(), options.max_tokens));
  PLUMB_TRY(Sampler sampler, Sampler::make(options.sampler, model_.plan()->vocab));
  for (const TokenId token : options.earlier) sampler.accept(token);
  for (const TokenId token : prompt) sampler.accept(token);

  Completion completion;
  completion.n_prompt = prompt.size();
  auto start = Clock::now();
  const auto is_interrupted = [&] { return options.interrupted && options.interrupted(); };
  Result<std::span<const float>> prefilled = prefill(cache, prompt, options.interrupted);
  completion.prompt_seconds = seconds_since(start);
  if (!prefilled && is_interrupted()) {
    completion.n_prompt = 0;
    completion.reason = StopReason::interrupted;
    return completion;
  }
  PLUMB_TRY(std::span<const float> logits, std::move(prefilled));
  start = Clock::now();

  std::size_t shown = 0;
  const auto show = [&](std::size_t until) {
    if (until <= shown) return true;
    const std::string_view fresh = std::string_view(completion.text).substr(shown, until - shown);
    shown = until;
    return !on_text || on_text(fresh);
  };

  for (;;) {
    auto sampled = sampler.sample(logits);
    if (!sampled && settings_.kv_type == backends::KvType::f16 &&
        std::ranges::any_of(logits, [](float x) { return std::isnan(x); })) {
      return fail("{}. Keys or values beyond 65504 do not fit a cache in float16; --kv-type f32 holds them",
                  sampled.error().message);
    }
    PLUMB_TRY(const TokenId token, std::move(sampled));
    sampler.accept(token);
    GeneratedToken generated{.id = token, .text = tokenizer_.token_text(token)};
    if (options.n_logprobs > 0) {
      PLUMB_TRY(const double total, log_sum_exp(logits));
      generated.logprob = logits[static_cast<std::size_t>(token)] - total;
      PLUMB_TRY(generated.top, top_logprobs(logits, options.n_logprobs));
    }
    // A SentencePiece piece contains the space before its word; decoding the first token alone leaves that space out.
    if (completion.tokens.empty() && !options.goes_on) generated.text = tokenizer_.decode(std::span(&token, 1));
    completion.text += generated.text;
    completion.tokens.push_back(std::move(generated));
    if (tokenizer_.ends_generation(token)) {
      completion.reason = StopReason::end_of_generation;
      break;
    }
    std::size_t stop_at = std::string::npos;
    for (const std::string& stop : options.stop) {
      const std::size_t from = shown;
      stop_at = std::min(stop_at, completion.text.find(stop, from));
    }
    if (stop_at != std::string::npos) {
      completion.text.resize(stop_at);
      completion.reason = StopReason::stop_text;
      break;
    }
    if (!show(completion.text.size() - held_back(completion.text, options.stop)) || is_interrupted()) {
      completion.reason = StopReason::interrupted;
      break;
    }
    if (options.max_tokens > 0 && completion.tokens.size() >= options.max_tokens) {
      completion.reason = StopReason::max_tokens;
      break;
    }
    if (cache.length() >= cache.capacity()) {
      completion.reason = StopReason::context_full;
      break;
    }
    PLUMB_TRY(logits,
              executor_->run({.cache = &cache, .tokens = std::span(&token, 1), .outputs = backends::Outputs::last}));
  }
  completion.decode_seconds = seconds_since(start);
  show(completion.text.size());
  return completion;
}

}  // namespace plumb::engine
