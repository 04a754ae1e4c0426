#include "cli/keyboard.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>

#include "base/terminal.h"
#include "text/unicode/utf8.h"

namespace plumb::cli {

namespace {

constexpr int escape_ms = 50;  // a terminal sends the bytes of one key together
constexpr std::size_t max_paste_bytes = 16u << 20;
constexpr std::string_view paste_end = "\x1b[201~";
constexpr std::string_view report_pastes = "\x1b[?2004h", report_no_pastes = "\x1b[?2004l";
constexpr char ctrl_c = '\x03', escape_key = '\x1b', rubout = '\x7f';

// What signal handlers need. They only make calls that signal-safety(7) allows.
termios terminal_before;  // the terminal as it was
termios terminal_now;     // as it is now
std::array<int, 2> event_pipe;
constexpr std::array ending{SIGTERM, SIGHUP, SIGQUIT, SIGBUS};
std::array<struct sigaction, ending.size()> before_ending;

void tell_terminal(std::string_view text) {
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
}

void give_terminal_back() {
  tell_terminal(report_no_pastes);
  ::tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
}

void take_terminal() {
  ::tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_now);
  tell_terminal(report_pastes);
}

void on_event(int signal) {
  const int error = errno;
  const char event = signal == SIGINT ? 'i' : 'r';
  [[maybe_unused]] const ssize_t n = ::write(event_pipe[1], &event, 1);
  errno = error;
}

// Goes on with what the signal did before there was a keyboard.
void on_end(int signal, siginfo_t* info, void* context) {
  give_terminal_back();
  for (std::size_t i = 0; i < ending.size(); ++i) {
    if (ending[i] != signal) continue;
    const struct sigaction& before = before_ending[i];
    if ((before.sa_flags & SA_SIGINFO) != 0) {
      before.sa_sigaction(signal, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
      before.sa_handler(signal);
    }
    ::sigaction(signal, &before, nullptr);
    ::raise(signal);
  }
}

void on_stop(int signal) {
  const int error = errno;
  give_terminal_back();
  struct sigaction here {};
  struct sigaction stop {};
  stop.sa_handler = SIG_DFL;
  ::sigaction(signal, &stop, &here);
  sigset_t blocked;
  sigset_t only;
  ::sigemptyset(&only);
  ::sigaddset(&only, signal);
  ::raise(signal);
  ::pthread_sigmask(SIG_UNBLOCK, &only, &blocked);  // here the program stops
  ::pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
  ::sigaction(signal, &here, nullptr);
  take_terminal();
  errno = error;
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  ::sigaction(signal, &action, nullptr);
}

// Pasted or typed bytes as text: lines end in '\n', and no other control character is left but tabs.
std::string cleaned(std::string_view bytes) {
  const std::string text = text::unicode::repaired(bytes);
  std::string clean;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = text::unicode::next(text, at);
    if (c == '\r') {
      if (at == text.size() || text[at] != '\n') clean += '\n';
    } else if (c == '\n' || c == '\t' || (c >= 0x20 && (c < 0x7f || c >= 0xa0))) {
      clean.append(text, begin, at - begin);
    }
  }
  return clean;
}

Key control_key(char byte) {
  switch (byte) {
    case '\r':
    case '\n':
      return Key::enter;
    case '\t':
      return Key::tab;
    case rubout:
      return Key::erase_before;
    case escape_key:
      return Key::leave;
    case 0x1f:  // Ctrl-_ and Ctrl-/
      return Key::undo;
    default:
      break;
  }
  switch (byte + '@') {
    case 'A':
      return Key::home;
    case 'B':
      return Key::left;
    case 'C':
      return Key::interrupt;
    case 'D':
      return Key::erase_or_close;
    case 'E':
      return Key::end;
    case 'F':
      return Key::right;
    case 'G':
      return Key::leave;
    case 'H':
      return Key::erase_before;
    case 'K':
      return Key::erase_to_end;
    case 'L':
      return Key::clear_screen;
    case 'N':
      return Key::newer;
    case 'P':
      return Key::older;
    case 'R':
      return Key::search;
    case 'T':
      return Key::exchange;
    case 'U':
      return Key::erase_to_begin;
    case 'W':
      return Key::erase_word_before;
    case 'Y':
      return Key::put_back;
    case 'Z':
      return Key::suspend;
    default:
      return Key::none;
  }
}

// The key of ESC [ … final, or ESC O final.
Key function_key(std::string_view parameters, char final) {
  // ";3" and ";5" are Alt and Ctrl.
  const bool by_word = parameters.ends_with(";3") || parameters.ends_with(";5");
  switch (final) {
    case 'A':
      return Key::up;
    case 'B':
      return Key::down;
    case 'C':
      return by_word ? Key::word_right : Key::right;
    case 'D':
      return by_word ? Key::word_left : Key::left;
    case 'H':
      return Key::home;
    case 'F':
      return Key::end;
    case 'u':  // Enter with Shift, Alt or Ctrl, where terminals tell them apart
      return parameters.starts_with("13;") ? Key::newline : Key::none;
    case '~':
      if (parameters == "1" || parameters == "7") return Key::home;
      if (parameters == "4" || parameters == "8") return Key::end;
      if (parameters == "3") return Key::erase_at;
      if (parameters.starts_with("3;")) return Key::erase_word_at;
      if (parameters.starts_with("27;") && parameters.ends_with(";13")) return Key::newline;
      return Key::none;
    default:
      return Key::none;
  }
}

}  // namespace

std::unique_ptr<Keyboard> Keyboard::open() {
  if (::isatty(STDIN_FILENO) != 1 || !can_redraw(STDERR_FILENO) || ::tcgetattr(STDIN_FILENO, &terminal_before) != 0)
    return nullptr;
  if (::pipe2(event_pipe.data(), O_CLOEXEC | O_NONBLOCK) != 0) return nullptr;
  terminal_now = terminal_before;
  terminal_now.c_iflag &= ~static_cast<tcflag_t>(BRKINT | ICRNL | IGNCR | INLCR | ISTRIP | IXON);
  terminal_now.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ECHONL | IEXTEN);
  terminal_now.c_lflag |= ISIG | NOFLSH;  // Ctrl-C forgets nothing that was typed
  terminal_now.c_cc[VMIN] = 1;
  terminal_now.c_cc[VTIME] = 0;
  for (std::size_t i = 0; i < ending.size(); ++i) {
    ::sigaction(ending[i], nullptr, &before_ending[i]);
    if ((before_ending[i].sa_flags & SA_SIGINFO) == 0 && before_ending[i].sa_handler == SIG_IGN) continue;
    struct sigaction action {};
    action.sa_sigaction = on_end;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(ending[i], &action, nullptr);
  }
  handle(SIGWINCH, on_event);
  handle(SIGTSTP, on_stop);
  take_terminal();
  return std::unique_ptr<Keyboard>(new Keyboard);
}

Keyboard::~Keyboard() {
  give_terminal_back();
  for (std::size_t i = 0; i < ending.size(); ++i) ::sigaction(ending[i], &before_ending[i], nullptr);
  handle(SIGWINCH, SIG_DFL);
  handle(SIGTSTP, SIG_DFL);
  for (const int fd : event_pipe) ::close(fd);
}

void Keyboard::read_keys(bool on) {
  static struct sigaction before;
  if (on) {
    struct sigaction action {};
    action.sa_handler = on_event;
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGINT, &action, &before);
    terminal_now.c_lflag &= ~static_cast<tcflag_t>(ISIG);
  } else {
    terminal_now.c_lflag |= ISIG;
  }
  ::tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_now);
  if (on) return;
  ::sigaction(SIGINT, &before, nullptr);
  // A Ctrl-C that came as a key meanwhile is meant for what follows.
  std::size_t n = 0;
  do {
    n = bytes_.size();
    fill(0);
  } while (bytes_.size() > n);
  const auto last = std::find(bytes_.rbegin(), bytes_.rend(), ctrl_c);
  if (last == bytes_.rend()) return;
  bytes_.erase(bytes_.begin(), last.base());
  ::raise(SIGINT);
}

void Keyboard::suspend() { ::raise(SIGTSTP); }

Keyboard::Size Keyboard::size() {
  Size size;
  winsize window{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0) {
    if (window.ws_row > 0) size.rows = window.ws_row;
    if (window.ws_col > 0) size.columns = window.ws_col;
  }
  return size;
}

void Keyboard::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
    if (n < 0 && errno != EINTR) return;
    if (n > 0) text.remove_prefix(static_cast<std::size_t>(n));
  }
}

// Waits for bytes or event_pipe, and takes all that are there.
void Keyboard::fill(int timeout_ms) {
  std::array<pollfd, 2> files{{{STDIN_FILENO, POLLIN, 0}, {event_pipe[0], POLLIN, 0}}};
  if (::poll(files.data(), files.size(), timeout_ms) <= 0) return;
  std::array<char, 4096> buffer;
  if (files[1].revents != 0) {
    const ssize_t n = ::read(event_pipe[0], buffer.data(), buffer.size());
    for (ssize_t i = 0; i < n; ++i) {
      const int event = buffer[static_cast<std::size_t>(i)] == 'i' ? was_interrupted : was_resized;
      if (events_.empty() || events_.back() != event) events_.push_back(event);
    }
  }
  if (files[0].revents != 0) {
    const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (n > 0) bytes_.insert(bytes_.end(), buffer.begin(), buffer.begin() + n);
    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) events_.push_back(gone);
  }
}

bool Keyboard::has_next() {
  if (bytes_.empty() && events_.empty()) fill(0);
  return !bytes_.empty() || !events_.empty();
}

int Keyboard::byte(int timeout_ms) {
  if (bytes_.empty()) fill(timeout_ms);
  if (bytes_.empty()) return timeout;
  const char byte = bytes_.front();
  bytes_.pop_front();
  return static_cast<unsigned char>(byte);
}

Press Keyboard::next() {
  while (bytes_.empty() && events_.empty()) fill(-1);
  if (!events_.empty() && (bytes_.empty() || events_.front() != gone)) {
    const int event = events_.front();
    if (event == gone) return {Key::closed, {}};
    events_.pop_front();
    return {event == was_interrupted ? Key::interrupt : Key::resized, {}};
  }
  const char first = static_cast<char>(byte(0));
  if (first == escape_key) return sequence();
  if (static_cast<unsigned char>(first) < 0x20 || first == rubout) return {control_key(first), {}};
  return character(first);
}

// A character, and those that are there already.
Press Keyboard::character(char first) {
  std::string text(1, first);
  const auto more_of_it = [&] {
    const auto lead = static_cast<unsigned char>(text[0]);
    return text.size() < (lead < 0xc0 ? 1U : lead < 0xe0 ? 2U : lead < 0xf0 ? 3U : 4U);
  };
  while (more_of_it()) {
    const int following = byte(escape_ms);
    if (following < 0) break;
    text += static_cast<char>(following);
  }
  return {Key::text, cleaned(text)};
}

Press Keyboard::sequence() {
  const int second = byte(escape_ms);
  switch (second) {
    case '[':
      return control_sequence();
    case 'O':
      return {function_key({}, static_cast<char>(byte(escape_ms))), {}};
    case '\r':
    case '\n':
      return {Key::newline, {}};
    case 'b':
      return {Key::word_left, {}};
    case 'f':
      return {Key::word_right, {}};
    case 'd':
      return {Key::erase_word_at, {}};
    case rubout:
    case '\b':
      return {Key::erase_word_before, {}};
    default:
      return {second < 0 ? Key::leave : Key::none, {}};
  }
}

Press Keyboard::control_sequence() {
  constexpr std::size_t longest = 32;
  std::string parameters;
  for (;;) {
    const int c = byte(escape_ms);
    if (c < 0 || parameters.size() > longest) return {Key::none, {}};
    if (c >= 0x40 && c <= 0x7e) {
      if (c == '~' && parameters == "200") return paste();
      return {function_key(parameters, static_cast<char>(c)), {}};
    }
    parameters += static_cast<char>(c);
  }
}

Press Keyboard::paste() {
  std::string text;
  while (!text.ends_with(paste_end)) {
    const int c = byte(-1);
    if (c < 0) {
      if (!events_.empty() && events_.back() == gone) return {Key::closed, {}};
      continue;
    }
    // What is too long loses its middle, so that the end is still seen.
    if (text.size() >= max_paste_bytes) text.erase(max_paste_bytes - paste_end.size(), 1);
    text += static_cast<char>(c);
  }
  text.resize(text.size() - paste_end.size());
  return {Key::paste, cleaned(text)};
}

}  // namespace plumb::cli
