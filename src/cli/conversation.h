// A conversation with a model: its messages, and the engine's session that has read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/session.h"

namespace plumb::cli {

class Conversation {
 public:
  // context: positions; 0: as many as the model was made for and memory allows. Error: no memory.
  static Result<std::unique_ptr<Conversation>> begin(engine::Engine& engine, std::uint32_t context);

  struct Events {
    std::function<void(bool opens_thinking)> begin;   // before the first text
    std::function<bool(std::string_view text)> text;  // false stops the answer
    std::function<void(std::size_t turns)> dropped;   // that many of the oldest turns are forgotten
  };
  struct Answer {
    engine::Completion completion;
    std::string thinking;
  };
  // Adds the user's message and the model's answer. Where the context is full the oldest turns are dropped until the rest
  // takes at most half of it; the system message and this message stay. On error the message is as if it had not been said.
  Result<Answer> say(const std::string& message, const engine::GenerateOptions& options, const Events& events);

  // Removes the last message of the user and its answer, and returns the message. None: nothing was said.
  std::optional<std::string> take_back();
  // Forgets all but the system message.
  void clear();
  // Empty: no system message.
  void set_system(const std::string& text);
  [[nodiscard]] std::string system() const;
  // [{"role", "content", …}, …], with the system message first, if there is one.
  [[nodiscard]] const nlohmann::ordered_json& messages() const { return messages_; }
  void set_messages(nlohmann::ordered_json messages) { messages_ = std::move(messages); }
  [[nodiscard]] std::size_t n_turns() const;

  [[nodiscard]] std::uint32_t used() const { return session_->used(); }  // positions of the context
  [[nodiscard]] std::uint32_t context() const { return session_->context(); }
  // Makes a context of another length. Error: no memory; the old one stays.
  Result<void> set_context(std::uint32_t positions);

 private:
  explicit Conversation(engine::Engine& engine) : engine_(engine) {}
  Result<Answer> answer(const engine::GenerateOptions& options, const Events& events);
  Result<std::vector<text::TokenId>> prompt(const engine::Completion& begun) const;
  Result<std::vector<text::TokenId>> make_room(const engine::Completion& begun, std::uint32_t wanted, const Events& events);
  bool drop_oldest();
  [[nodiscard]] bool has_system() const { return !messages_.empty() && messages_[0].value("role", "") == "system"; }

  engine::Engine& engine_;
  std::optional<engine::Session> session_;  // set_context() makes it, before begin() returns
  nlohmann::ordered_json messages_ = nlohmann::ordered_json::array();
};

}  // namespace plumb::cli
