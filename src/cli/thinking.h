// What a model thinks before it answers, told apart from the answer, and how both are shown.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "engine/engine.h"

namespace plumb::cli {

// Splits an answer that comes piece by piece. Thinking stands between <think> and </think> at the answer's begin; the tags,
// and the white space after them, are part of neither.
class ThinkingSplitter {
 public:
  // opened: the prompt ends with <think>, so that the answer begins with thinking.
  explicit ThinkingSplitter(bool opened) : state_(opened ? State::thinking : State::begin) {}

  using Take = std::function<void(std::string_view text, bool is_thinking)>;
  // Hands on what is certain to be the one or the other.
  void add(std::string_view text, const Take& take);
  // Hands on the rest.
  void end(const Take& take);

 private:
  enum class State : std::uint8_t { begin, thinking, behind, answer };
  State state_;
  std::string held_;
};

// Whether a prompt's tokens end with <think>.
bool opens_thinking(const engine::Engine& engine, std::span<const text::TokenId> prompt);

struct SplitAnswer {
  std::string thinking, text;
};
SplitAnswer split_thinking(std::string_view answer, bool opened);

// Prints an answer to stdout as it comes. A terminal gets it printable. Where it can be redrawn, the thinking is dim and
// folded: its last rows are shown while it lasts, and then how long it took. Elsewhere it stays as the model wrote it.
class AnswerPrinter {
 public:
  // hide: the thinking is not printed anywhere.
  AnswerPrinter(bool opened, bool hide);
  // Error: stdout is closed or full.
  Result<int> add(std::string_view text);
  // Ends the answer, and its last line.
  Result<int> end();

 private:
  using Clock = std::chrono::steady_clock;
  void take(std::string_view text, bool is_thinking);
  void draw();
  void fold();
  void put(std::string_view text);
  void write(std::string_view text);

  ThinkingSplitter splitter_;
  bool splits_;            // the thinking is folded or hidden
  bool folds_;             // it is folded
  std::string thought_;    // from the first row that is shown
  std::size_t drawn_ = 0;  // rows
  bool escapes_;           // stdout is a terminal
  std::string held_;       // the begin of a character that is not all there yet
  bool has_thought_ = false;
  Clock::time_point start_ = Clock::now();
  Result<int> printed_ = 0;
  char last_ = 0;
};

}  // namespace plumb::cli
