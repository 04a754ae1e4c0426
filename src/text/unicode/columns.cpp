#include "text/unicode/columns.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/unicode/utf8.h"

namespace plumb::text::unicode {

namespace {

constexpr std::size_t tab = 8;
constexpr char32_t emoji_style = 0xfe0f;  // makes the character before it a wide picture

}  // namespace

std::size_t cluster_end(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  char32_t last = next(text, end);
  utf8proc_int32_t state = 0;
  while (end < text.size()) {
    std::size_t after = end;
    const char32_t following = next(text, after);
    if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(last), static_cast<utf8proc_int32_t>(following),
                                         &state)) {
      break;
    }
    last = following;
    end = after;
  }
  return end;
}

std::size_t cluster_begin(std::string_view text, std::size_t end) {
  // Clusters are only found from their begin, and a line's begin is one.
  std::size_t begin = end;
  if (text[end - 1] != '\n') {
    const std::size_t newline = text.substr(0, end).rfind('\n');
    begin = newline == std::string_view::npos ? 0 : newline + 1;
    for (std::size_t after = cluster_end(text, begin); after < end; after = cluster_end(text, begin)) begin = after;
    return begin;
  }
  return end - 1;
}

std::size_t columns(std::string_view cluster) {
  std::size_t sum = 0;
  for (std::size_t at = 0; at < cluster.size();) {
    const char32_t c = next(cluster, at);
    sum += c == emoji_style ? 1 : static_cast<std::size_t>(utf8proc_charwidth(static_cast<utf8proc_int32_t>(c)));
  }
  return std::min<std::size_t>(sum, 2);
}

std::size_t advance(std::string_view cluster, std::size_t at) {
  return cluster == "\t" ? tab - at % tab : columns(cluster);
}

std::vector<Row> rows(std::string_view text, std::size_t width, std::size_t first, std::size_t indent) {
  width = std::max<std::size_t>(width, 2);
  std::vector<Row> rows{{.first = std::min(first, width - 1), .used = std::min(first, width - 1)}};
  const auto begin_row = [&](std::size_t at, std::size_t column) {
    rows.push_back({.begin = at, .end = at, .first = column, .used = column});
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = cluster_end(text, at);
    if (text[at] == '\n') {
      begin_row(end, std::min(indent, width - 1));
      at = end;
      continue;
    }
    const std::string_view cluster = text.substr(at, end - at);
    const bool is_tab = cluster == "\t";
    const std::size_t n = advance(cluster, rows.back().used);
    if (rows.back().used + (is_tab ? 1 : n) > width) {
      rows.back().wraps = true;
      begin_row(at, 0);
      continue;
    }
    rows.back().used = std::min(width, rows.back().used + n);
    rows.back().end = end;
    at = end;
  }
  if (rows.back().used == width) {
    rows.back().wraps = true;
    begin_row(text.size(), 0);
  }
  return rows;
}

std::size_t column(std::string_view text, const Row& row, std::size_t at) {
  std::size_t column = row.first;
  for (std::size_t i = row.begin; i < std::min(at, row.end);) {
    const std::size_t end = cluster_end(text, i);
    column = std::min(row.used, column + advance(text.substr(i, end - i), column));
    i = end;
  }
  return column;
}

std::size_t byte_at(std::string_view text, const Row& row, std::size_t target) {
  std::size_t column = row.first;
  std::size_t at = row.begin;
  while (at < row.end && column < target) {
    const std::size_t end = cluster_end(text, at);
    const std::size_t n = advance(text.substr(at, end - at), column);
    // The end of a row that wraps is the next one's begin.
    if (column + n > target || (row.wraps && end == row.end)) break;
    column += n;
    at = end;
  }
  return at;
}

}  // namespace plumb::text::unicode
