// The keyboard of a terminal. Keys come one at a time and unseen, pasted text comes whole, and what is typed while nobody
// reads waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

namespace plumb::cli {

enum class Key : std::uint8_t {
  text,   // typed or pasted characters
  paste,  // several lines, or characters that would be keys
  enter,
  newline,
  tab,
  left,
  right,
  up,
  down,
  home,
  end,
  word_left,
  word_right,
  erase_before,
  erase_at,
  erase_word_before,
  erase_word_at,
  erase_to_begin,
  erase_to_end,
  put_back,
  exchange,
  undo,
  search,
  older,
  newer,
  clear_screen,
  leave,           // Escape
  interrupt,       // Ctrl-C, or SIGINT
  suspend,         // Ctrl-Z
  erase_or_close,  // Ctrl-D
  resized,
  closed,  // there is no terminal any more
  none,
};

struct Press {
  Key key = Key::none;
  std::string text;  // of text and paste: well-formed UTF-8, '\n' and '\t' the only control characters
};

// There can be only one. Until it is destroyed, or a signal ends the program, the terminal shows no typed characters.
class Keyboard {
 public:
  // Null where stdin or stderr is no terminal, or one that cannot be redrawn.
  static std::unique_ptr<Keyboard> open();
  ~Keyboard();
  Keyboard(const Keyboard&) = delete;
  Keyboard& operator=(const Keyboard&) = delete;

  // While keys are read, Ctrl-C and Ctrl-Z are keys, so that none is lost. Else they are signals.
  void read_keys(bool on);
  // Waits for a key.
  Press next();
  // Whether next() would return at once.
  [[nodiscard]] bool has_next();
  // Gives the terminal back, stops the program as Ctrl-Z does, and takes the terminal when it goes on.
  static void suspend();

  struct Size {
    std::size_t rows = 24, columns = 80;
  };
  static Size size();
  // Writes to the terminal.
  static void write(std::string_view text);

 private:
  Keyboard() = default;
  // A byte, or one of these.
  static constexpr int timeout = -1, gone = -2, was_resized = -3, was_interrupted = -4;
  int byte(int timeout_ms);
  void fill(int timeout_ms);
  Press character(char first);
  Press sequence();
  Press control_sequence();
  Press paste();

  std::deque<char> bytes_;
  std::deque<int> events_;  // was_resized, was_interrupted, gone
};

}  // namespace plumb::cli
