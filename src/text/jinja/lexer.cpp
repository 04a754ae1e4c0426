#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "text/jinja/budget.h"
#include "text/jinja/show.h"
#include "text/jinja/strings.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

bool starts_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Turns all line ends into '\n', and drops one at the end of the text.
std::string normalized(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      text += '\n';
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const std::size_t tag = find_tag();
      const std::string_view text = std::string_view(source_).substr(at_, tag - at_);
      if (tag == source_.size()) {
        add_text(text);
        at_ = tag;
        break;
      }
      const char kind = source_[tag + 1];
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      add_text(before_tag(text, sign, kind != '{'));
      line_ += static_cast<std::uint32_t>(std::count(text.begin(), text.end(), '\n'));
      at_ = tag + 2 + (sign == '-' || sign == '+' ? 1 : 0);
      if (kind == '#') {
        skip_comment();
      } else if (kind == '%' && skip_raw_word("raw")) {
        raw_block();
      } else {
        tag_tokens(kind == '{');
      }
    }
    tokens_.push_back({TokenKind::end, "", line_});
    return std::move(tokens_);
  }

 private:
  [[nodiscard]] bool at(std::string_view wanted) const { return std::string_view(source_).substr(at_).starts_with(wanted); }

  [[nodiscard]] std::size_t find_tag() const {
    for (std::size_t i = source_.find('{', at_); i != std::string::npos; i = source_.find('{', i + 1)) {
      if (i + 1 < source_.size() && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) return i;
    }
    return source_.size();
  }

  // The text before a tag, without the white space that the tag's sign or lstrip_blocks removes.
  [[nodiscard]] std::string_view before_tag(std::string_view text, char sign, bool lstrip) const {
    if (sign == '-') return stripped(text, Side::right);
    if (sign == '+' || !lstrip) return text;
    const std::size_t line_start = text.rfind('\n') + 1;
    const std::string_view indent = text.substr(line_start);
    if ((line_start > 0 || line_starting_) && trimmed(indent).empty()) return text.substr(0, line_start);
    return text;
  }

  void add_text(std::string_view text) {
    if (!text.empty()) tokens_.push_back({TokenKind::text, std::string(text), line_});
  }

  void advance(std::size_t n) {
    line_ += static_cast<std::uint32_t>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                                   source_.begin() + static_cast<std::ptrdiff_t>(at_ + n), '\n'));
    at_ += n;
  }

  void skip_spaces() {
    const std::string_view rest = std::string_view(source_).substr(at_);
    advance(rest.size() - stripped(rest, Side::left).size());
  }

  // Reads the closing delimiter, with its sign and the white space that it removes. Returns false if it is not here.
  bool close(std::string_view delimiter, bool trim) {
    if (at("-") && std::string_view(source_).substr(at_ + 1).starts_with(delimiter)) {
      advance(1 + delimiter.size());
      skip_spaces();
    } else if (trim && at("+") && std::string_view(source_).substr(at_ + 1).starts_with(delimiter)) {
      advance(1 + delimiter.size());
    } else if (at(delimiter)) {
      advance(delimiter.size());
      if (trim && at("\n")) advance(1);
    } else {
      return false;
    }
    line_starting_ = source_[at_ - 1] == '\n';
    return true;
  }

  void skip_comment() {
    const std::uint32_t first_line = line_;
    while (at_ < source_.size()) {
      if (close("#}", true)) return;
      advance(1);
    }
    throw Failure{"a comment is not closed: '#}' is missing", first_line};
  }

  // After "{%": skips the word ("raw" or "endraw") if it is alone in its tag.
  bool skip_raw_word(std::string_view word) {
    const std::size_t start = at_;
    const std::uint32_t start_line = line_;
    skip_spaces();
    if (at(word)) {
      advance(word.size());
      skip_spaces();
      if (close("%}", word == "endraw")) return true;
    }
    at_ = start;
    line_ = start_line;
    return false;
  }

  void raw_block() {
    const std::uint32_t first_line = line_;
    line_starting_ = false;
    const std::size_t start = at_;
    while (at_ < source_.size()) {
      if (!at("{%")) {
        advance(1);
        continue;
      }
      const std::size_t end = at_;
      advance(2);
      const char sign = at_ < source_.size() ? source_[at_] : '\0';
      if (sign == '-' || sign == '+') advance(1);
      if (!skip_raw_word("endraw")) continue;
      const bool starting = std::exchange(line_starting_, false);
      const std::string_view text = before_tag(std::string_view(source_).substr(start, end - start), sign, true);
      line_starting_ = starting;
      if (!text.empty()) tokens_.push_back({TokenKind::text, std::string(text), first_line});
      return;
    }
    throw Failure{"a raw block is not closed: '{% endraw %}' is missing", first_line};
  }

  void tag_tokens(bool variable) {
    const std::uint32_t first_line = line_;
    tokens_.push_back({variable ? TokenKind::variable_begin : TokenKind::block_begin, "", line_});
    std::string open;  // brackets that are not closed
    for (;;) {
      skip_spaces();
      if (at_ >= source_.size()) throw Failure{"a tag is not closed", first_line};
      const std::uint32_t line = line_;
      if (open.empty() && close(variable ? "}}" : "%}", !variable)) {
        tokens_.push_back({variable ? TokenKind::variable_end : TokenKind::block_end, "", line});
        return;
      }
      const char c = source_[at_];
      if (is_digit(c)) {
        number();
      } else if (starts_name(c)) {
        name();
      } else if (c == '\'' || c == '"') {
        string();
      } else {
        punctuation(open);
      }
    }
  }

  void name() {
    std::size_t n = 1;
    while (at_ + n < source_.size() && (starts_name(source_[at_ + n]) || is_digit(source_[at_ + n]))) ++n;
    push(TokenKind::name, n);
  }

  void push(TokenKind kind, std::size_t n) {
    tokens_.push_back({kind, source_.substr(at_, n), line_});
    advance(n);
  }

  // The number of digits from `from` on.
  [[nodiscard]] std::size_t digits(std::size_t from) const {
    std::size_t n = 0;
    while (from + n < source_.size() && is_digit(source_[from + n])) ++n;
    return n;
  }

  void number() {
    TokenKind kind = TokenKind::integer;
    std::size_t n = digits(at_);
    if (!follows_dot()) {
      if (source_.substr(at_ + n, 1) == "." && digits(at_ + n + 1) > 0) {
        kind = TokenKind::real;
        n += 1 + digits(at_ + n + 1);
      }
      if (at_ + n < source_.size() && (source_[at_ + n] | 0x20) == 'e') {
        const bool sign = source_.substr(at_ + n + 1, 1) == "+" || source_.substr(at_ + n + 1, 1) == "-";
        const std::size_t exponent = digits(at_ + n + 1 + (sign ? 1 : 0));
        if (exponent > 0) {
          kind = TokenKind::real;
          n += 1 + (sign ? 1 : 0) + exponent;
        }
      }
    }
    push(kind, n);
    const char after = at_ < source_.size() ? source_[at_] : '\0';
    if (after == '_' || (tokens_.back().text == "0" && std::string_view("xXoObB").find(after) != std::string_view::npos)) {
      throw Failure{"numbers with underscores or in another base than 10 are not supported", line_};
    }
  }

  // "a.0.1" is two subscripts and no number with a fraction.
  [[nodiscard]] bool follows_dot() const { return at_ > 0 && source_[at_ - 1] == '.'; }

  void string() {
    const char quote = source_[at_];
    const std::uint32_t first_line = line_;
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) throw Failure{"a string is not closed", first_line};
    tokens_.push_back({TokenKind::string, unescaped(std::string_view(source_).substr(at_ + 1, end - at_ - 1)), first_line});
    advance(end + 1 - at_);
  }

  // Python's string escapes.
  [[nodiscard]] std::string unescaped(std::string_view text) const {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 == text.size()) {
        result += text[i];
        continue;
      }
      const char c = text[++i];
      constexpr std::string_view letters = "abfnrtv\\'\"";
      constexpr std::string_view meanings = "\a\b\f\n\r\t\v\\'\"";
      if (const std::size_t known = letters.find(c); known != std::string_view::npos) {
        result += meanings[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const std::size_t width = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append_code_point(result, text.substr(i + 1, width), width);
        i += width;
      } else if (c == 'N' || is_digit(c)) {
        throw Failure{fmt::format("the escape '\\{}' is not supported; write the character itself", c), line_};
      } else if (c != '\n') {
        result += '\\';
        result += c;
      }
    }
    return result;
  }

  void append_code_point(std::string& out, std::string_view spelled, std::size_t width) const {
    std::uint32_t code = 0;
    const char* const past = spelled.data() + spelled.size();
    const auto [end, error] = std::from_chars(spelled.data(), past, code, 16);
    if (spelled.size() != width || end != past) throw Failure{"a string has a truncated escape", line_};
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) code = 0xfffd;
    unicode::append(out, code);
  }

  void punctuation(std::string& open) {
    constexpr std::array<std::string_view, 27> operators{"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                         "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                         ">",  "<",  "=",  ".",  ":",  "|",  ",", ";", "!"};
    for (const std::string_view candidate : operators) {
      if (!at(candidate)) continue;
      const char c = candidate[0];
      if (candidate == "!") break;
      if (c == '(' || c == '[' || c == '{') {
        open += c == '(' ? ')' : c == '[' ? ']' : '}';
      } else if (c == ')' || c == ']' || c == '}') {
        if (open.empty()) throw Failure{fmt::format("unexpected '{}'", c), line_};
        if (open.back() != c) throw Failure{fmt::format("unexpected '{}', expected '{}'", c, open.back()), line_};
        open.pop_back();
      }
      push(TokenKind::op, candidate.size());
      return;
    }
    throw Failure{fmt::format("unexpected char {}", jinja::quoted(source_.substr(at_, unicode::width(source_[at_])))),
                  line_};
  }

  std::string source_;
  std::size_t at_ = 0;
  std::uint32_t line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(normalized(source)).run(); }

}  // namespace plumb::text::jinja
