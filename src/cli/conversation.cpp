#include "cli/conversation.h"

#include <algorithm>
#include <utility>

#include "cli/thinking.h"

namespace plumb::cli {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint32_t least_context = 4096;

std::string role_of(const Json& message) { return message.value("role", ""); }

}  // namespace

Result<std::unique_ptr<Conversation>> Conversation::begin(engine::Engine& engine, std::uint32_t context) {
  std::unique_ptr<Conversation> conversation(new Conversation(engine));
  if (context > 0) {
    PLUMB_CHECK(conversation->set_context(context));
    return conversation;
  }
  const std::uint32_t trained = engine.model().plan()->context;
  const std::uint32_t least = std::min(trained, least_context);
  const auto fit = engine::positions_that_fit(engine.model(), engine.settings().kv_type);
  auto positions = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(fit.value_or(least), least, trained));
  // A GPU's memory is known to be short only when it is asked for.
  for (;;) {
    const auto made = conversation->set_context(positions);
    if (made) return conversation;
    if (positions == least) return fail(made.error());
    positions = std::max(least, positions / 2);
  }
}

Result<void> Conversation::set_context(std::uint32_t positions) {
  PLUMB_TRY(session_, engine::Session::make(engine_, positions));
  return {};
}

void Conversation::clear() {
  const std::string text = system();
  messages_ = Json::array();
  set_system(text);
  session_->rewind(0);
}

std::string Conversation::system() const { return has_system() ? messages_[0].value("content", "") : std::string(); }

void Conversation::set_system(const std::string& text) {
  if (has_system()) messages_.erase(0);
  if (!text.empty()) messages_.insert(messages_.begin(), Json{{"role", "system"}, {"content", text}});
}

std::size_t Conversation::n_turns() const {
  return static_cast<std::size_t>(std::ranges::count(messages_, "user", role_of));
}

std::optional<std::string> Conversation::take_back() {
  for (std::size_t i = messages_.size(); i-- > 0;) {
    if (role_of(messages_[i]) != "user") continue;
    std::string text = messages_[i].value("content", "");
    while (messages_.size() > i) messages_.erase(messages_.size() - 1);
    return text;
  }
  return std::nullopt;
}

bool Conversation::drop_oldest() {
  if (n_turns() < 2) return false;
  const std::size_t first = has_system() ? 1 : 0;
  do {
    messages_.erase(first);
  } while (role_of(messages_[first]) != "user");
  return true;
}

Result<Conversation::Answer> Conversation::say(const std::string& message, const engine::GenerateOptions& options,
                                               const Events& events) {
  const Json before = messages_;
  messages_.push_back({{"role", "user"}, {"content", message}});
  auto said = answer(options, events);
  if (!said) messages_ = before;
  return said;
}

// The conversation's tokens, and behind them those of an answer that has begun.
Result<std::vector<text::TokenId>> Conversation::prompt(const engine::Completion& begun) const {
  PLUMB_TRY(auto tokens, engine_.chat_tokens(messages_));
  for (const auto& token : begun.tokens) tokens.push_back(token.id);
  return tokens;
}

// The prompt, behind which there is room for an answer of `wanted` tokens as far as old turns can be dropped.
Result<std::vector<text::TokenId>> Conversation::make_room(const engine::Completion& begun, std::uint32_t wanted,
                                                           const Events& events) {
  PLUMB_TRY(auto tokens, prompt(begun));
  if (tokens.size() + wanted <= context()) return tokens;
  const Json all = messages_;
  std::size_t n_dropped = 0;
  while (tokens.size() > context() / 2 && drop_oldest()) {
    ++n_dropped;
    PLUMB_TRY(tokens, prompt(begun));
  }
  if (tokens.size() >= context()) {
    messages_ = all;
    return tokens;
  }
  if (n_dropped > 0 && events.dropped) events.dropped(n_dropped);
  return tokens;
}

Result<Conversation::Answer> Conversation::answer(const engine::GenerateOptions& options, const Events& events) {
  Answer whole;
  engine::Completion& completion = whole.completion;
  bool opened = false;
  for (;;) {
    engine::GenerateOptions rest = options;
    if (options.max_tokens > 0) rest.max_tokens = options.max_tokens - static_cast<std::uint32_t>(completion.tokens.size());
    const std::uint32_t room = std::max(1u, context() / 4);
    const bool goes_on = !completion.tokens.empty();
    PLUMB_TRY(auto tokens, make_room(completion, rest.max_tokens == 0 ? room : std::min(room, rest.max_tokens), events));
    if (tokens.size() >= context()) {
      if (goes_on) break;
      return fail(
          "the message makes a prompt of {} tokens and the context has {} positions; shorten it, or make the context "
          "longer with --ctx or /set ctx",
          tokens.size(), context());
    }
    if (!goes_on) {
      opened = opens_thinking(engine_, tokens);
      if (events.begin) events.begin(opened);
    }
    rest.goes_on = goes_on;
    PLUMB_TRY(engine::Completion part, session_->answer(std::move(tokens), std::move(rest), events.text));
    if (part.reason == engine::StopReason::interrupted && part.tokens.empty() && !goes_on) {
      return fail("stopped before the answer began; the message is as if it had not been said");
    }

    completion.text += part.text;
    completion.reason = part.reason;
    completion.n_prompt += part.n_prompt;
    completion.prompt_seconds += part.prompt_seconds;
    completion.decode_seconds += part.decode_seconds;
    completion.tokens.insert(completion.tokens.end(), std::make_move_iterator(part.tokens.begin()),
                             std::make_move_iterator(part.tokens.end()));
    if (part.reason != engine::StopReason::context_full || n_turns() < 2) break;
  }
  SplitAnswer split = split_thinking(completion.text, opened);
  Json message{{"role", "assistant"}, {"content", std::move(split.text)}};
  if (!split.thinking.empty()) message["reasoning_content"] = split.thinking;
  messages_.push_back(std::move(message));
  whole.thinking = std::move(split.thinking);
  return whole;
}

}  // namespace plumb::cli
