#include "cli/thinking.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/printable.h"
#include "base/terminal.h"
#include "cli/command.h"
#include "cli/keyboard.h"
#include "text/unicode/columns.h"
#include "text/unicode/utf8.h"

namespace plumb::cli {

namespace {

constexpr std::string_view think_begin = "<think>", think_end = "</think>";
constexpr std::string_view blanks = " \t\r\n";
constexpr std::size_t folded_rows = 5;

std::string_view without_space_before(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of(blanks), text.size()));
}

std::string_view without_space_behind(std::string_view text) { return text.substr(0, text.find_last_not_of(blanks) + 1); }

// The bytes at the end that begin a character and are not all of it.
std::size_t unfinished(std::string_view text) {
  for (std::size_t n = 1; n <= std::min<std::size_t>(3, text.size()); ++n) {
    const auto byte = static_cast<unsigned char>(text[text.size() - n]);
    if ((byte & 0xc0u) != 0x80u) return byte >= 0xc0 && text::unicode::width(static_cast<char>(byte)) > n ? n : 0;
  }
  return 0;
}

}  // namespace

void ThinkingSplitter::add(std::string_view text, const Take& take) {
  held_ += text;
  if (state_ == State::begin) {
    const std::string_view seen = without_space_before(held_);
    if (seen.size() < think_begin.size() && think_begin.starts_with(seen)) return;
    state_ = seen.starts_with(think_begin) ? State::thinking : State::answer;
    if (state_ == State::thinking) held_ = seen.substr(think_begin.size());
  }
  if (state_ == State::thinking) {
    const std::size_t end = held_.find(think_end);
    // What may become the think_end tag waits.
    std::size_t certain = std::min(end, held_.size());
    for (std::size_t n = std::min(think_end.size() - 1, held_.size()); end == std::string::npos && n > 0; --n) {
      if (!held_.ends_with(think_end.substr(0, n))) continue;
      certain = held_.size() - n;
      break;
    }
    if (certain > 0) take(std::string_view(held_).substr(0, certain), true);
    held_.erase(0, end == std::string::npos ? certain : end + think_end.size());
    if (end != std::string::npos) state_ = State::behind;
  }
  if (state_ == State::behind) {
    held_ = without_space_before(held_);
    if (!held_.empty()) state_ = State::answer;
  }
  if (state_ == State::answer && !held_.empty()) {
    take(held_, false);
    held_.clear();
  }
}

void ThinkingSplitter::end(const Take& take) {
  if (!held_.empty()) take(held_, state_ == State::thinking);
  held_.clear();
}

bool opens_thinking(const engine::Engine& engine, std::span<const text::TokenId> prompt) {
  constexpr std::size_t longest = 8;  // tokens of the tag and the line's end behind it
  const std::string end = engine.tokenizer().decode(prompt.last(std::min(longest, prompt.size())), true);
  return without_space_behind(end).ends_with(think_begin);
}

SplitAnswer split_thinking(std::string_view answer, bool opened) {
  SplitAnswer split;
  const auto take = [&](std::string_view text, bool is_thinking) { (is_thinking ? split.thinking : split.text) += text; };
  ThinkingSplitter splitter(opened);
  splitter.add(answer, take);
  splitter.end(take);
  split.thinking = without_space_behind(without_space_before(split.thinking));
  return split;
}

AnswerPrinter::AnswerPrinter(bool opened, bool hide)
    : splitter_(opened),
      splits_(hide || can_redraw(STDOUT_FILENO)),
      folds_(!hide && can_redraw(STDOUT_FILENO)),
      escapes_(::isatty(STDOUT_FILENO) == 1) {}

void AnswerPrinter::put(std::string_view text) {
  if (!escapes_) return write(text);
  held_ += text;
  const std::size_t n = held_.size() - unfinished(held_);
  write(printable(std::string_view(held_).substr(0, n)));
  held_.erase(0, n);
}

void AnswerPrinter::write(std::string_view text) {
  if (text.empty() || !printed_) return;
  last_ = text.back();
  printed_ = print(text);
}

void AnswerPrinter::take(std::string_view text, bool is_thinking) {
  if (!is_thinking) {
    fold();
    put(text);
  } else if (folds_) {
    has_thought_ = true;
    thought_ += text;
    if (thought_.find_first_not_of(blanks) != std::string::npos && unfinished(thought_) == 0) draw();
  }
}

// Draws the last rows of the thinking over those that are there.
void AnswerPrinter::draw() {
  const std::size_t width = std::max<std::size_t>(Keyboard::size().columns, 5) - 3;
  std::string text = text::unicode::repaired(without_space_before(thought_));
  std::ranges::replace(text, '\t', ' ');
  text = printable(text);
  auto rows = text::unicode::rows(text, width, 0, 0);
  if (rows.size() > folded_rows) {
    rows.erase(rows.begin(), rows.end() - folded_rows);
    thought_ = text.substr(rows.front().begin);
  }
  const bool dim = can_color(STDOUT_FILENO);
  std::string out = "\r";
  if (drawn_ > 1) out += fmt::format("\x1b[{}A", drawn_ - 1);
  if (dim) out += "\x1b[2m";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    out += i > 0 ? "\r\n" : "";
    out += "  " + text.substr(rows[i].begin, rows[i].end - rows[i].begin) + "\x1b[K";
  }
  out += "\x1b[J";
  if (dim) out += "\x1b[22m";
  drawn_ = rows.size();
  if (printed_) printed_ = print(out);
}

// Puts one line in place of the thinking.
void AnswerPrinter::fold() {
  if (!std::exchange(has_thought_, false)) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const bool dim = can_color(STDOUT_FILENO);
  std::string out = "\r";
  if (drawn_ > 1) out += fmt::format("\x1b[{}A", drawn_ - 1);
  out += fmt::format("\x1b[J{}(thought for {:.1f} s){}\r\n", dim ? "\x1b[2m" : "", seconds, dim ? "\x1b[22m" : "");
  if (printed_) printed_ = print(out);
}

Result<int> AnswerPrinter::add(std::string_view text) {
  if (!splits_) {
    put(text);
  } else {
    splitter_.add(text, [&](std::string_view piece, bool is_thinking) { take(piece, is_thinking); });
  }
  return printed_;
}

Result<int> AnswerPrinter::end() {
  splitter_.end([&](std::string_view piece, bool is_thinking) { take(piece, is_thinking); });
  fold();
  write(printable(std::exchange(held_, {})));
  if (last_ != '\n') write("\n");
  return printed_;
}

}  // namespace plumb::cli
