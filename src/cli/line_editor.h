// A line, or a text of several lines, typed on a terminal: editing, a history, completion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/keyboard.h"
#include "text/unicode/columns.h"

namespace plumb::cli {

// What was typed before, oldest first. Each text is appended to the file at once, so that nothing is lost and several
// programs may share it.
class History {
 public:
  // path: empty for none. A file that cannot be read or written is none.
  explicit History(std::string path);
  void add(const std::string& text);
  [[nodiscard]] const std::vector<std::string>& texts() const { return texts_; }
  void enable(bool on) { enabled_ = on; }

 private:
  std::string path_;
  std::vector<std::string> texts_;
  bool enabled_ = true;
};

// Texts that may stand in place of what is written from byte `begin` to the cursor.
struct Completions {
  std::size_t begin = 0;
  std::vector<std::string> texts;
};

class LineEditor {
 public:
  LineEditor(Keyboard& keyboard, History& history) : keyboard_(keyboard), history_(history) {}

  // Whether Enter begins another line in place of ending the text.
  std::function<bool(std::string_view text)> is_open;
  // For what is before the cursor. None: Tab is a character.
  std::function<std::optional<Completions>(std::string_view before)> complete;

  enum class End : std::uint8_t { entered, interrupted, closed };
  // Edits a text that is `initial` at first. Shows `prompt` before it.
  std::pair<End, std::string> read(std::string_view prompt, std::string initial);

 private:
  void paint(bool whole = false);
  void finish();
  void on_resize();
  void insert(std::string_view text);
  void erase(std::size_t begin, std::size_t end, bool keep);
  void remember();
  void move_row(bool up);
  void recall(std::size_t index);
  void search_further(bool older);
  bool on_search_key(const Press& press);
  bool on_enter();
  void on_tab();
  void edit(const Press& press);
  [[nodiscard]] std::size_t word_begin() const;
  [[nodiscard]] std::size_t word_end() const;
  [[nodiscard]] std::size_t line_begin() const;
  [[nodiscard]] std::size_t line_end() const;
  [[nodiscard]] std::string prompt() const;
  [[nodiscard]] std::vector<text::unicode::Row> rows() const;
  [[nodiscard]] std::size_t row_of(const std::vector<text::unicode::Row>& rows, std::size_t at) const;

  Keyboard& keyboard_;
  History& history_;
  std::string prompt_;
  std::string text_;
  std::size_t cursor_ = 0;                                   // byte in text_
  std::vector<std::pair<std::string, std::size_t>> before_;  // earlier texts and cursors, for undo
  bool typing_ = false;                                      // the last change was a typed character
  std::string erased_;                                       // what Ctrl-Y puts back
  std::size_t recalled_ = 0;                                 // index in the history; its size is the text being written
  std::string written_;                                      // that text, while another is shown
  std::optional<std::string> sought_;                        // while the history is searched
  std::size_t top_row_ = 0;                                  // the first row that is shown, where not all fit
  std::size_t top_begin_ = 0;                                // its first byte
  std::size_t drawn_row_ = 0;                                // the cursor's row on the screen, from the first that is shown
};

}  // namespace plumb::cli
