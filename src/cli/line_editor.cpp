#include "cli/line_editor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <tuple>

#include "base/new_file.h"
#include "base/printable.h"
#include "text/unicode/utf8.h"

namespace plumb::cli {

namespace {

using text::unicode::Row;

constexpr std::size_t history_length = 1000;
constexpr std::size_t history_bytes = 16u << 20;
constexpr std::size_t undo_length = 100;
constexpr std::size_t line_indent = 2;  // of the lines after the first

std::string cursor_up(std::size_t n) { return n == 0 ? "" : fmt::format("\x1b[{}A", n); }
std::string cursor_right(std::size_t n) { return n == 0 ? "" : fmt::format("\x1b[{}C", n); }

// A text of the history as a line of the file.
std::string as_line(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

bool is_word(std::string_view text, std::size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  return byte >= 0x80 || std::isalnum(byte) != 0 || byte == '_';
}

}  // namespace

History::History(std::string path) : path_(std::move(path)) {
  std::error_code ignored;
  if (path_.empty() || std::filesystem::file_size(path_, ignored) > history_bytes) return;
  std::ifstream file(path_);
  std::string line;
  while (std::getline(file, line)) {
    const auto text = nlohmann::json::parse(line, nullptr, false);
    if (text.is_string()) texts_.push_back(text.get<std::string>());
  }
  if (texts_.size() <= history_length) return;
  // The file is twice as long at most before it is written anew.
  const bool is_long = texts_.size() > 2 * history_length;
  texts_.erase(texts_.begin(), texts_.end() - history_length);
  if (!is_long) return;
  std::string lines;
  for (const std::string& text : texts_) lines += as_line(text);
  auto shorter = NewFile::create(path_);
  if (shorter && shorter->append(std::as_bytes(std::span(lines)))) static_cast<void>(shorter->finish());
}

void History::add(const std::string& text) {
  if (!enabled_ || text.empty() || (!texts_.empty() && texts_.back() == text)) return;
  texts_.push_back(text);
  if (path_.empty()) return;
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
  const int fd = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return;
  const std::string line = as_line(text);
  [[maybe_unused]] const ssize_t n = ::write(fd, line.data(), line.size());
  ::close(fd);
}

std::string LineEditor::prompt() const { return sought_ ? fmt::format("(search: {}) ", *sought_) : prompt_; }

std::vector<Row> LineEditor::rows() const {
  std::size_t first = 0;
  const std::string before = prompt();
  for (std::size_t at = 0; at < before.size();) {
    const std::size_t end = text::unicode::cluster_end(before, at);
    first += text::unicode::columns(std::string_view(before).substr(at, end - at));
    at = end;
  }
  return text::unicode::rows(text_, Keyboard::size().columns, first, line_indent);
}

std::size_t LineEditor::row_of(const std::vector<Row>& rows, std::size_t at) const {
  const auto after = std::ranges::upper_bound(rows, at, {}, &Row::begin);
  return static_cast<std::size_t>(after - rows.begin()) - 1;
}

// Draws the text and the cursor over what was drawn before. whole: all rows, though they may not fit.
void LineEditor::paint(bool whole) {
  const auto [height, width] = Keyboard::size();
  const auto all = rows();
  const std::size_t cursor_row = row_of(all, cursor_);
  std::size_t end = all.size();
  if (whole || all.size() <= height) {
    top_row_ = 0;
  } else {
    top_row_ = std::min({top_row_, cursor_row, all.size() - height});
    if (cursor_row >= top_row_ + height) top_row_ = cursor_row - height + 1;
    end = top_row_ + height;
  }
  top_begin_ = all[top_row_].begin;
  // The terminal wraps rows by itself, so that it can join them again when it becomes wider.
  std::string out = "\x1b[?25l\r" + cursor_up(drawn_row_);
  for (std::size_t i = top_row_; i < end; ++i) {
    const Row& row = all[i];
    const bool goes_on = i > 0 && all[i - 1].wraps;
    if (i > top_row_ && !goes_on) out += "\r\n";
    if (i == 0) out += prompt();
    if (i > 0 && !goes_on) out += std::string(row.first, ' ');
    if (i > top_row_ && goes_on && row.begin == row.end) out += " \r";  // to the next row, though there is no character
    std::size_t column = row.first;
    for (std::size_t at = row.begin; at < row.end;) {
      const std::size_t after = text::unicode::cluster_end(text_, at);
      const std::string_view cluster = std::string_view(text_).substr(at, after - at);
      const std::size_t n = std::min(text::unicode::advance(cluster, column), width - std::min(column, width));
      // A text of a file may have characters that would command the terminal.
      out += cluster == "\t"                 ? std::string(n, ' ')
             : printable(cluster) == cluster ? std::string(cluster)
                                             : std::string(n, '?');
      column += n;
      at = after;
    }
    // Behind a full row the cursor still stands on its last character.
    if (row.used < width) out += "\x1b[K";
  }
  if (all[end - 1].used < width) out += "\x1b[J";
  out += cursor_up(end - 1 - cursor_row) + "\r" +
         cursor_right(std::min(text::unicode::column(text_, all[cursor_row], cursor_), width - 1));
  out += "\x1b[?25h";
  drawn_row_ = cursor_row - top_row_;
  Keyboard::write(out);
}

// The terminal has wrapped the rows anew: the first that is shown is now further from the cursor, or nearer.
void LineEditor::on_resize() {
  const auto all = rows();
  const std::size_t n = row_of(all, cursor_) - std::min(row_of(all, cursor_), row_of(all, top_begin_));
  drawn_row_ = std::min(n, Keyboard::size().rows - 1);
  paint();
}

// Leaves the whole text on the screen, and goes to the row below it.
void LineEditor::finish() {
  sought_.reset();
  cursor_ = text_.size();
  paint(true);
  Keyboard::write("\r\n");
  drawn_row_ = 0;
}

void LineEditor::remember() {
  if (before_.size() >= undo_length) before_.erase(before_.begin());
  before_.emplace_back(text_, cursor_);
  typing_ = false;
}

void LineEditor::insert(std::string_view text) {
  text_.insert(cursor_, text);
  cursor_ += text.size();
}

void LineEditor::erase(std::size_t begin, std::size_t end, bool keep) {
  if (begin == end) return;
  remember();
  if (keep) erased_ = text_.substr(begin, end - begin);
  text_.erase(begin, end - begin);
  cursor_ = begin;
}

std::size_t LineEditor::word_begin() const {
  std::size_t at = cursor_;
  while (at > 0 && !is_word(text_, at - 1)) --at;
  while (at > 0 && is_word(text_, at - 1)) --at;
  return at;
}

std::size_t LineEditor::word_end() const {
  std::size_t at = cursor_;
  while (at < text_.size() && !is_word(text_, at)) ++at;
  while (at < text_.size() && is_word(text_, at)) ++at;
  return at;
}

std::size_t LineEditor::line_begin() const {
  const std::size_t newline = std::string_view(text_).substr(0, cursor_).rfind('\n');
  return newline == std::string_view::npos ? 0 : newline + 1;
}

std::size_t LineEditor::line_end() const { return std::min(text_.find('\n', cursor_), text_.size()); }

// Shows a text of the history.
void LineEditor::recall(std::size_t index) {
  if (recalled_ == history_.texts().size()) written_ = text_;
  recalled_ = index;
  text_ = index == history_.texts().size() ? written_ : history_.texts()[index];
  cursor_ = text_.size();
  before_.clear();
}

void LineEditor::move_row(bool up) {
  const auto all = rows();
  const std::size_t row = row_of(all, cursor_);
  if (up && row == 0) {
    if (recalled_ > 0) recall(recalled_ - 1);
  } else if (!up && row + 1 == all.size()) {
    if (recalled_ < history_.texts().size()) recall(recalled_ + 1);
  } else {
    cursor_ = text::unicode::byte_at(text_, all[up ? row - 1 : row + 1], text::unicode::column(text_, all[row], cursor_));
  }
}

// The next older text of the history with the sought words; where `further` is not set, the one that is shown counts too.
void LineEditor::search_further(bool further) {
  for (std::size_t i = recalled_ + (further ? 0 : 1); i-- > 0;) {
    if (i >= history_.texts().size() || history_.texts()[i].find(*sought_) == std::string::npos) continue;
    recall(i);
    cursor_ = history_.texts()[i].find(*sought_);
    return;
  }
}

// Whether the key was for the search. Other keys end it, and do what they always do.
bool LineEditor::on_search_key(const Press& press) {
  switch (press.key) {
    case Key::text:
      *sought_ += press.text;
      search_further(false);
      return true;
    case Key::erase_before:
      if (!sought_->empty()) sought_->erase(text::unicode::cluster_begin(*sought_, sought_->size()));
      return true;
    case Key::search:
      search_further(true);
      return true;
    case Key::interrupt:
    case Key::leave:
      sought_.reset();
      recall(history_.texts().size());
      return true;
    default:
      sought_.reset();
      return false;
  }
}

// Whether the text is complete. A backslash at the end is the sign for another line, and no part of the text.
bool LineEditor::on_enter() {
  if (cursor_ == text_.size() && text_.ends_with('\\')) {
    remember();
    text_.back() = '\n';
    return false;
  }
  if (!is_open || !is_open(text_)) return true;
  remember();
  insert("\n");
  return false;
}

void LineEditor::on_tab() {
  const auto found = complete ? complete(std::string_view(text_).substr(0, cursor_)) : std::nullopt;
  if (!found) {
    remember();
    insert("\t");
    return;
  }
  if (found->texts.empty()) return;
  std::string common = found->texts.front();
  for (const std::string& text : found->texts) {
    common.resize(static_cast<std::size_t>(std::ranges::mismatch(common, text).in1 - common.begin()));
  }
  if (common.size() > cursor_ - found->begin || found->texts.size() == 1) {
    remember();
    text_.replace(found->begin, cursor_ - found->begin, common);
    cursor_ = found->begin + common.size();
    return;
  }
  // No further: all of them, below the text.
  const std::size_t cursor = cursor_;
  finish();
  std::string list;
  for (const std::string& text : found->texts) list += (list.empty() ? "" : "  ") + text;
  Keyboard::write(list + "\r\n");
  cursor_ = cursor;
}

void LineEditor::edit(const Press& press) {
  const bool was_typing = std::exchange(typing_, false);
  switch (press.key) {
    case Key::text:
      if (!was_typing) remember();
      insert(press.text);
      typing_ = true;
      break;
    case Key::paste:
      remember();
      insert(press.text);
      break;
    case Key::newline:
      remember();
      insert("\n");
      break;
    case Key::tab:
      on_tab();
      break;
    case Key::left:
      if (cursor_ > 0) cursor_ = text::unicode::cluster_begin(text_, cursor_);
      break;
    case Key::right:
      if (cursor_ < text_.size()) cursor_ = text::unicode::cluster_end(text_, cursor_);
      break;
    case Key::up:
    case Key::down:
      move_row(press.key == Key::up);
      break;
    case Key::older:
      if (recalled_ > 0) recall(recalled_ - 1);
      break;
    case Key::newer:
      if (recalled_ < history_.texts().size()) recall(recalled_ + 1);
      break;
    case Key::home:
      cursor_ = line_begin();
      break;
    case Key::end:
      cursor_ = line_end();
      break;
    case Key::word_left:
      cursor_ = word_begin();
      break;
    case Key::word_right:
      cursor_ = word_end();
      break;
    case Key::erase_before:
      if (cursor_ > 0) erase(text::unicode::cluster_begin(text_, cursor_), cursor_, false);
      break;
    case Key::erase_at:
    case Key::erase_or_close:
      if (cursor_ < text_.size()) erase(cursor_, text::unicode::cluster_end(text_, cursor_), false);
      break;
    case Key::erase_word_before:
      erase(word_begin(), cursor_, true);
      break;
    case Key::erase_word_at:
      erase(cursor_, word_end(), true);
      break;
    case Key::erase_to_begin:
      erase(line_begin(), cursor_, true);
      break;
    case Key::erase_to_end:
      // At a line's end, the next line joins.
      erase(cursor_, std::max(line_end(), std::min(cursor_ + 1, text_.size())), true);
      break;
    case Key::put_back:
      remember();
      insert(erased_);
      break;
    case Key::exchange:
      if (cursor_ == text_.size() && cursor_ > 0) cursor_ = text::unicode::cluster_begin(text_, cursor_);
      if (cursor_ > 0 && cursor_ < text_.size()) {
        remember();
        const std::size_t begin = text::unicode::cluster_begin(text_, cursor_);
        const std::size_t end = text::unicode::cluster_end(text_, cursor_);
        std::rotate(text_.begin() + static_cast<std::ptrdiff_t>(begin),
                    text_.begin() + static_cast<std::ptrdiff_t>(cursor_), text_.begin() + static_cast<std::ptrdiff_t>(end));
        cursor_ = end;
      }
      break;
    case Key::undo:
      if (!before_.empty()) {
        std::tie(text_, cursor_) = before_.back();
        before_.pop_back();
      }
      break;
    case Key::search:
      sought_ = "";
      break;
    case Key::clear_screen:
      Keyboard::write("\x1b[H\x1b[2J");
      drawn_row_ = 0;
      break;
    case Key::suspend:
      finish();
      Keyboard::suspend();
      break;
    default:
      break;
  }
}

std::pair<LineEditor::End, std::string> LineEditor::read(std::string_view prompt, std::string initial) {
  prompt_ = prompt;
  text_ = std::move(initial);
  cursor_ = text_.size();
  before_.clear();
  typing_ = false;
  recalled_ = history_.texts().size();
  sought_.reset();
  drawn_row_ = top_row_ = top_begin_ = 0;
  paint();
  for (;;) {
    const Press press = keyboard_.next();
    if (press.key == Key::resized) {
      on_resize();
      continue;
    }
    const bool sought = sought_ && on_search_key(press);
    if (!sought) {
      const bool ends = press.key == Key::enter && on_enter();
      if (ends || press.key == Key::interrupt || press.key == Key::closed ||
          (press.key == Key::erase_or_close && text_.empty())) {
        finish();
        if (ends) {
          history_.add(text_);
          return {End::entered, text_};
        }
        return {press.key == Key::interrupt ? End::interrupted : End::closed, text_};
      }
      edit(press);
    }
    if (!keyboard_.has_next()) paint();
  }
}

}  // namespace plumb::cli
