// Splits a template into text, tags and the tokens inside tags. It applies Jinja's whitespace control, with trim_blocks and
// lstrip_blocks set as in transformers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace plumb::text::jinja {

enum class TokenKind : std::uint8_t {
  text,            // between tags
  variable_begin,  // {{
  variable_end,
  block_begin,  // {%
  block_end,
  name,
  string,  // escapes resolved
  integer,
  real,
  op,   // operators and punctuation
  end,  // of the template
};

struct Token {
  TokenKind kind = TokenKind::end;
  std::string text;
  std::uint32_t line = 0;

  [[nodiscard]] bool is_op(std::string_view wanted) const { return kind == TokenKind::op && text == wanted; }
  [[nodiscard]] bool is_name(std::string_view wanted) const { return kind == TokenKind::name && text == wanted; }
};

// Throws Failure (budget.h). The last token is `end`.
std::vector<Token> tokenize(std::string_view source);

}  // namespace plumb::text::jinja
