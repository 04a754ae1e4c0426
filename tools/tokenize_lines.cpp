// Tokenizes many texts in one go, for tools/compare_tokenizers.py:
//
//     tokenize_lines MODEL ADD_SPECIAL PARSE_SPECIAL < texts
//
// reads one text a line, in hexadecimal, and prints its ids on one line. Build it by hand, against a build folder:
//
//     c++ -std=c++20 -O2 -Isrc tools/tokenize_lines.cpp -o tokenize_lines
//         build/src/text/tokenizer/libplumb_text_tokenizer.a build/src/text/unicode/libplumb_text_unicode.a
//         build/src/gguf/libplumb_gguf.a build/src/quants/libplumb_quants.a -lfmt -lpcre2-8
#include <charconv>
#include <iostream>
#include <string>

#include "text/tokenizer/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: tokenize_lines MODEL ADD_SPECIAL(0|1) PARSE_SPECIAL(0|1) < hexadecimal lines\n";
    return 2;
  }
  const auto file = plumb::gguf::File::open(argv[1]);
  const auto tokenizer = file ? plumb::text::Tokenizer::load(*file) : plumb::fail(plumb::Error(file.error()));
  if (!tokenizer) {
    std::cerr << tokenizer.error().message << '\n';
    return 2;
  }
  const plumb::text::EncodeOptions options{.add_special = argv[2][0] == '1', .parse_special = argv[3][0] == '1'};
  for (std::string line; std::getline(std::cin, line);) {
    std::string text;
    for (std::size_t i = 0; i + 1 < line.size(); i += 2) {
      unsigned byte = 0;
      std::from_chars(line.data() + i, line.data() + i + 2, byte, 16);
      text += static_cast<char>(byte);
    }
    const auto tokens = tokenizer->encode(text, options);
    if (!tokens) {
      std::cout << "error: " << tokens.error().message;
    } else {
      for (const plumb::text::TokenId token : *tokens) std::cout << token << ' ';
    }
    std::cout << '\n';
  }
  return 0;
}
