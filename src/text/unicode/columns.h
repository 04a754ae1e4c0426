// Text on a screen of fixed columns: what the eye takes for one character, how many columns it takes, and where rows end.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace plumb::text::unicode {

// The end of the grapheme cluster (Unicode Standard Annex 29) that begins at byte `begin` of well-formed text: an accent
// belongs to its letter, a line's end is one by itself.
std::size_t cluster_end(std::string_view text, std::size_t begin);
// The begin of the cluster that ends at byte `end`, above 0.
std::size_t cluster_begin(std::string_view text, std::size_t end);

// Columns of one cluster that is no tab: 0, 1, or 2 for wide characters.
std::size_t columns(std::string_view cluster);

// One row of the screen. A row that does not wrap ends before '\n', or with the text.
struct Row {
  std::size_t begin = 0, end = 0;  // bytes of the text
  std::size_t first = 0;           // the column where it begins
  std::size_t used = 0;            // the column where it ends; at most the screen's
  bool wraps = false;              // the next row goes on with the same line
};

// The rows of a well-formed text on a screen of `width` columns, as a terminal wraps them. The first line begins at column
// `first`, those after it at column `indent`, rows that go on at column 0. A tab goes to the next multiple of 8, and not
// over the right edge. Behind a full row at the end of the text there is an empty one, which is the cursor's place.
std::vector<Row> rows(std::string_view text, std::size_t width, std::size_t first, std::size_t indent);

// The column of byte `at`, which lies in this row.
std::size_t column(std::string_view text, const Row& row, std::size_t at);
// The byte of the row whose column is `target`, or the last one before it.
std::size_t byte_at(std::string_view text, const Row& row, std::size_t target);

// The columns that a cluster takes at this column of a screen without an edge.
std::size_t advance(std::string_view cluster, std::size_t at);

}  // namespace plumb::text::unicode
