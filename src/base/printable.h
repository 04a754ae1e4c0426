// Makes text from files and other engines safe to show on a terminal.
#pragma once

#include <string>
#include <string_view>

namespace plumb {

enum class Lines { keep, escape };

// Writes out what could deceive a reader or command the terminal: control characters ("\x1b"), the C1 set and, with
// Lines::escape, '\n' and '\t' included; marks that reorder text ("\u202e"); separators of lines and paragraphs; bytes that
// are no UTF-8 ("\xff").
std::string printable(std::string_view text, Lines lines = Lines::keep);

}  // namespace plumb
