#include "plumb/plumb_c.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "api/sampler_settings.h"
#include "plumb/plumb.h"

// NOLINTBEGIN(cppcoreguidelines-owning-memory,cppcoreguidelines-no-malloc): C's callers own what they get through plain
// pointers.
struct plumb_model {
  plumb::Model model;
  std::string backend, description;
};

struct plumb_conversation {
  plumb::Conversation conversation;
  std::vector<plumb_message> messages;  // what plumb_messages() showed last
};

namespace {

// What a plumb_answer points into; the answer itself is its base, so that plumb_answer_free() finds the rest.
struct OwnedAnswer : plumb_answer {
  plumb::Answer answer;
  std::vector<plumb_answer_token> shown;
  std::vector<std::vector<plumb_alternative>> alternatives;
};

std::string& last_error() {
  thread_local std::string error;
  return error;
}

void keep_error(const char* what) noexcept {
  try {
    last_error() = what;
  } catch (const std::bad_alloc&) {
    last_error().clear();
  }
}

// What `work` returns; where it throws, the sentence is kept and the result is NULL or false.
template <class Work>
auto guarded(const Work& work) noexcept -> std::invoke_result_t<Work> {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    keep_error("there is not enough memory");
  } catch (const std::exception& error) {
    keep_error(error.what());
  } catch (...) {
    keep_error("an unknown exception");
  }
  return {};
}

// A copy for plumb_free(), with a zero behind it.
template <class T>
T* copy_of(const T* from, std::size_t n) {
  auto* const copy = static_cast<T*>(std::calloc(n + 1, sizeof(T)));
  if (copy == nullptr) throw std::bad_alloc();
  std::copy_n(from, n, copy);
  return copy;
}

// A caller's struct as this version knows it: members that the caller does not know have their defaults.
template <class T>
T as_known(const T& given, T defaults) {
  if (given.size < sizeof(given.size)) throw plumb::Exception("a struct has no size; fill it in with its _init function");
  std::memcpy(&defaults, &given, std::min(given.size, sizeof(T)));
  return defaults;
}

std::vector<plumb::Message> messages_of(const plumb_message* messages, std::size_t n) {
  std::vector<plumb::Message> list;
  for (std::size_t i = 0; i < n; ++i) list.push_back({messages[i].role, messages[i].content});
  return list;
}

plumb_settings defaults_of(const plumb::Model& model) {
  const plumb::Settings known = model.settings();
  plumb_settings settings{};
  settings.size = sizeof(settings);
  plumb::api::each_sampler_setting(settings, known, [](auto& to, const auto& from) { to = *from; });
  settings.random_seed = true;
  settings.max_tokens = known.max_tokens;
  settings.logprobs = known.logprobs;
  return settings;
}

plumb::Settings settings_of(const plumb_settings* given, const plumb::Model& model) {
  if (given == nullptr) return {};
  const plumb_settings from = as_known(*given, defaults_of(model));
  plumb::Settings settings{.max_tokens = from.max_tokens, .logprobs = from.logprobs};
  plumb::api::each_sampler_setting(settings, from, [](auto& to, const auto& value) { to = value; });
  if (!from.random_seed) settings.seed = from.seed;
  for (std::size_t i = 0; i < from.n_logit_bias; ++i) {
    settings.logit_bias.emplace_back(from.logit_bias[i].token, from.logit_bias[i].bias);
  }
  for (std::size_t i = 0; i < from.n_stop; ++i) settings.stop.emplace_back(from.stop[i]);
  return settings;
}

plumb::OnText callback(plumb_on_text on_text, void* user) {
  if (on_text == nullptr) return {};
  return [=](std::string_view text) { return on_text(user, std::string(text).c_str(), text.size()); };
}

const plumb_answer* owned(plumb::Answer answer) {
  auto result = std::make_unique<OwnedAnswer>();
  result->answer = std::move(answer);
  const plumb::Answer& from = result->answer;
  for (const plumb::AnswerToken& token : from.tokens) {
    auto& top = result->alternatives.emplace_back();
    for (const auto& [id, logprob] : token.top) top.push_back({id, logprob});
    result->shown.push_back({token.id, token.text.c_str(), token.text.size(), token.logprob, top.data(), top.size()});
  }
  static_cast<plumb_answer&>(*result) = {.text = from.text.c_str(),
                                         .text_size = from.text.size(),
                                         .tokens = result->shown.data(),
                                         .n_tokens = result->shown.size(),
                                         .reason = static_cast<plumb_reason>(from.reason),
                                         .prompt_tokens = from.prompt_tokens,
                                         .read_tokens = from.read_tokens,
                                         .prompt_seconds = from.prompt_seconds,
                                         .answer_seconds = from.answer_seconds,
                                         .seed = from.seed};
  return result.release();
}

plumb_conversation* owned(plumb::Conversation conversation) { return new plumb_conversation{std::move(conversation), {}}; }

}  // namespace

const char* plumb_version(void) { return plumb::version().data(); }
const char* plumb_error(void) { return last_error().c_str(); }
void plumb_free(void* memory) { std::free(memory); }

void plumb_model_options_init(plumb_model_options* options, size_t size) {
  std::memset(options, 0, size);
  options->size = size;
}

plumb_model* plumb_model_open(const char* model, const plumb_model_options* options) {
  return guarded([&] {
    plumb_model_options from{};
    if (options != nullptr) from = as_known(*options, from);
    plumb::ModelOptions settings{.threads = from.threads, .ctx = from.ctx};
    if (from.backend != nullptr) settings.backend = from.backend;
    if (from.kv_type != nullptr) settings.kv_type = from.kv_type;
    if (from.activations != nullptr) settings.activations = from.activations;
    if (from.template_variables != nullptr) settings.template_variables = from.template_variables;
    if (from.on_progress != nullptr) {
      settings.on_progress = [from](std::uint64_t done, std::uint64_t total) {
        return from.on_progress(from.user, done, total);
      };
    }
    plumb::Model opened = plumb::Model::open(model, settings);
    std::string backend = opened.backend(), description = opened.description();
    return new plumb_model{std::move(opened), std::move(backend), std::move(description)};
  });
}

void plumb_model_free(plumb_model* model) { delete model; }

uint32_t plumb_vocabulary(const plumb_model* model) { return model->model.vocabulary(); }
uint32_t plumb_ctx(const plumb_model* model) { return model->model.ctx(); }
bool plumb_has_template(const plumb_model* model) { return model->model.has_template(); }
const char* plumb_backend(const plumb_model* model) { return model->backend.c_str(); }
const char* plumb_description(const plumb_model* model) { return model->description.c_str(); }

plumb_token* plumb_tokenize(const plumb_model* model, const char* text, bool no_bos, size_t* n_tokens) {
  return guarded([&] {
    const std::vector<plumb::Token> tokens = model->model.tokenize(text, no_bos);
    *n_tokens = tokens.size();
    return copy_of(tokens.data(), tokens.size());
  });
}

char* plumb_detokenize(const plumb_model* model, const plumb_token* tokens, size_t n_tokens, size_t* size) {
  return guarded([&] {
    const std::string text = model->model.detokenize({tokens, n_tokens});
    if (size != nullptr) *size = text.size();
    return copy_of(text.data(), text.size());
  });
}

char* plumb_render(const plumb_model* model, const plumb_message* messages, size_t n_messages) {
  return guarded([&] {
    const std::string text = model->model.render(messages_of(messages, n_messages));
    return copy_of(text.data(), text.size());
  });
}

plumb_token* plumb_chat_tokens(const plumb_model* model, const plumb_message* messages, size_t n_messages,
                               size_t* n_tokens) {
  return guarded([&] {
    const std::vector<plumb::Token> tokens = model->model.chat_tokens(messages_of(messages, n_messages));
    *n_tokens = tokens.size();
    return copy_of(tokens.data(), tokens.size());
  });
}

void plumb_settings_init(plumb_settings* settings, size_t size, const plumb_model* model) {
  const plumb_settings defaults = defaults_of(model->model);
  std::memset(settings, 0, size);
  std::memcpy(settings, &defaults, std::min(size, sizeof(defaults)));
  settings->size = size;
}

const char* plumb_reason_name(plumb_reason reason) { return plumb::name(static_cast<plumb::Reason>(reason)).data(); }

void plumb_answer_free(const plumb_answer* answer) { delete static_cast<const OwnedAnswer*>(answer); }

plumb_conversation* plumb_conversation_new(const plumb_model* model, const char* system) {
  return guarded([&] { return owned(model->model.conversation(system == nullptr ? "" : system)); });
}

void plumb_conversation_free(plumb_conversation* conversation) { delete conversation; }

const plumb_answer* plumb_say(plumb_conversation* conversation, const char* text, const plumb_settings* settings,
                              plumb_on_text on_text, void* user) {
  return guarded([&] {
    plumb::Conversation& talk = conversation->conversation;
    return owned(talk.say(text, settings_of(settings, talk.model()), callback(on_text, user)));
  });
}

const plumb_answer* plumb_answer_messages(plumb_conversation* conversation, const plumb_message* messages,
                                          size_t n_messages, const plumb_settings* settings, plumb_on_text on_text,
                                          void* user) {
  return guarded([&] {
    plumb::Conversation& talk = conversation->conversation;
    return owned(
        talk.answer(messages_of(messages, n_messages), settings_of(settings, talk.model()), callback(on_text, user)));
  });
}

const plumb_answer* plumb_complete(plumb_conversation* conversation, const plumb_token* more, size_t n_more,
                                   const plumb_settings* settings, plumb_on_text on_text, void* user) {
  return guarded([&] {
    plumb::Conversation& talk = conversation->conversation;
    return owned(talk.complete({more, n_more}, settings_of(settings, talk.model()), callback(on_text, user)));
  });
}

bool plumb_logits(plumb_conversation* conversation, const plumb_token* more, size_t n_more, float* logits) {
  return guarded([&] {
    const std::vector<float> row = conversation->conversation.logits({more, n_more});
    std::copy(row.begin(), row.end(), logits);
    return true;
  });
}

const plumb_token* plumb_tokens(const plumb_conversation* conversation, size_t* n_tokens) {
  const std::vector<plumb::Token>& tokens = conversation->conversation.tokens();
  *n_tokens = tokens.size();
  return tokens.empty() ? nullptr : tokens.data();
}

const plumb_message* plumb_messages(plumb_conversation* conversation, size_t* n_messages) {
  return guarded([&]() -> const plumb_message* {
    std::vector<plumb_message>& shown = conversation->messages;
    shown.clear();
    for (const plumb::Message& message : conversation->conversation.messages()) {
      shown.push_back({message.role.c_str(), message.content.c_str()});
    }
    *n_messages = shown.size();
    return shown.empty() ? nullptr : shown.data();
  });
}

bool plumb_rewind(plumb_conversation* conversation, size_t n) {
  return guarded([&] {
    conversation->conversation.rewind(n);
    return true;
  });
}

plumb_conversation* plumb_fork(const plumb_conversation* conversation) {
  return guarded([&] { return owned(conversation->conversation.fork()); });
}

bool plumb_save(const plumb_conversation* conversation, const char* path) {
  return guarded([&] {
    conversation->conversation.save(path);
    return true;
  });
}

plumb_conversation* plumb_restore(const plumb_model* model, const char* path) {
  return guarded([&] { return owned(model->model.restore(path)); });
}
// NOLINTEND(cppcoreguidelines-owning-memory,cppcoreguidelines-no-malloc)
