// Buffers: mistakes in what an op writes to its output.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_buffer {
namespace {

// A share of a value's size, in squares, below which a difference is rounding.
constexpr double rounding = 1e-4;

// The right output of the row before the i-th faulty row; if that row is not at fault, the suspect's own.
std::span<const float> row_before(const Question& q, const Values& own, std::size_t i) {
  const std::size_t width = q.width();
  const std::uint32_t row = q.rows[i] == 0 ? 0 : q.rows[i] - 1;
  const auto at = std::find(q.rows.begin(), q.rows.end(), row);
  return at == q.rows.end() ? std::span(*own).subspan(row * width, width)
                            : q.expected.subspan(static_cast<std::size_t>(at - q.rows.begin()) * width, width);
}

// Whether all rows at fault are alone in their steps.
bool is_decode_only(const Question& q) {
  return std::all_of(q.rows.begin(), q.rows.end(), [&](std::uint32_t row) {
    const auto [begin, end] = q.replay.step_of(row);
    return end - begin == 1;
  });
}

void zero(const Question& q, Candidates& out) {
  if (std::any_of(q.found.begin(), q.found.end(), [](float v) { return v != 0; })) return;
  out.add("", [n = q.width()](const Site& site) { return std::vector<float>(site.rows.size() * n, 0.0f); });
}

// The value of this op in the step before, and the values of earlier ops of this step.
// At the embedding this is embedding-other-tokens: the rows of the step before are those of its tokens.
void stale(const Question& q, Candidates& out) {
  if (q.as<plan::Embed>() != nullptr) return;
  const plan::ValueId id = q.out();
  const std::uint32_t n_prompt = q.replay.n_prompt();
  // A buffer that only the prompt's pass has written: later steps read its first row, or its last.
  for (const bool last : {false, true}) {
    out.afterwards(last ? "the prompt's last row stays" : "the prompt's first row stays",
                   [id, left = last ? n_prompt - 1 : 0, n_prompt](const Site& site, std::vector<float>& y) {
                     const Values all = site.replay.value(id);
                     for (std::size_t i = 0; i < site.rows.size(); ++i) {
                       if (site.rows[i] >= n_prompt) copy_row(*all, left, y, i, y.size() / site.rows.size());
                     }
                   });
  }
  // A buffer that is read before it is written: it has the values of the step before. After the prompt these are the last
  // row's.
  const Values own = q.replay.value(id);
  const bool resembles_old = !q.is_inner() && resembles_changed(q, [&](std::vector<float>& y) {
    for (std::size_t i = 0; i < q.rows.size(); ++i) {
      if (q.rows[i] >= n_prompt) copy_row(row_before(q, own, i), 0, y, i, q.width());
    }
  });
  if (resembles_old) {
    out.add("of the step before", [n_prompt](const Site& site) {
      return site.compute_on([&](std::uint32_t row) { return std::int64_t{row} - (row < n_prompt ? 0 : 1); });
    });
  }
  const std::string_view name = q.plan().value(id).name;
  const auto layer = layer_of(name);
  for (std::uint32_t back = 1; layer && back <= 2 && back <= *layer; ++back) {
    const auto before = q.plan().find(fmt::format("blk.{}.{}", *layer - back, role(name)));
    if (before) {
      out.add(fmt::format("{} of this step", q.plan().value(*before).name),
              [before](const Site& site) { return site.value(*before); });
    }
  }
}

// Whether a later value follows from this one, as found. A rotation at position 0, and attention to one position, leave
// values unchanged, so equality is then no evidence.
bool follows_from_found(const Question& q, plan::ValueId id) {
  const std::size_t op = q.replay.producer(id);
  if (op <= q.op_index) return false;
  const Values known = q.replay.value(id);
  const std::vector<float> made = q.replay.compute(op);
  const std::vector<std::uint32_t> rows = q.replay.rows_of(op);
  const std::size_t width = q.plan().value(id).width;
  double error = 0, size = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (std::find(q.rows.begin(), q.rows.end(), rows[i]) == q.rows.end()) continue;
    const auto k = std::span(*known).subspan(rows[i] * width, width);
    error += squared_distance(k, std::span(made).subspan(i * width, width));
    size += squares(k);
  }
  return error < rounding * size;
}

// The values of the op's width that the suspect shows completely.
std::vector<plan::ValueId> alike(const Question& q) {
  std::vector<plan::ValueId> result;
  for (std::uint32_t i = 0; q.replay.suspect() != nullptr && i < q.plan().values.size(); ++i) {
    const plan::ValueId id{i};
    if (id != q.out() && q.plan().value(id).width == q.width() && q.replay.suspect()->knows_all(id)) result.push_back(id);
  }
  return result;
}

void aliased(const Question& q, Candidates& out) {
  // Only those that the suspect's output resembles: the search is over all values.
  const std::size_t width = q.width();
  for (const plan::ValueId id : alike(q)) {
    for (const std::uint32_t shift : {0, 1}) {
      const Values other = q.replay.value(id);
      double error = 0, size = 0;
      for (std::size_t r = 0; r < std::min<std::size_t>(q.rows.size(), 4); ++r) {
        if (q.rows[r] < shift) continue;
        const auto found = q.found.subspan(r * width, width);
        error += squared_distance(found, std::span(*other).subspan((q.rows[r] - shift) * width, width));
        size += squares(found);
      }
      if (size == 0 || !(error < rounding * size) || follows_from_found(q, id)) continue;
      out.add(fmt::format("{}{}", q.plan().value(id).name, shift == 0 ? "" : " of the row before"),
              [id, shift](const Site& site) { return site.value(id, shift); });
    }
  }
}

// An output to which something else was added: its old content, or another value.
void not_cleared(const Question& q, Candidates& out) {
  const std::size_t width = q.width();
  // Where an operand of a sum is added again, the mistake is residual-weighed.
  const std::vector<plan::ValueId> operands =
      q.as<plan::Add>() != nullptr ? plan::inputs(q.op) : std::vector<plan::ValueId>();
  const auto add = [&](plan::ValueId id, std::int64_t shift) {
    const Values other = q.replay.value(id);
    const bool fits = resembles_changed(q, [&](std::vector<float>& y) {
      for (std::size_t i = 0; i < y.size(); ++i) {
        const std::int64_t row = std::int64_t{q.rows[i / width]} - shift;
        if (row >= 0) y[i] += (*other)[static_cast<std::size_t>(row) * width + i % width];
      }
    });
    if (!fits) return;
    out.afterwards(fmt::format("{}{}", q.plan().value(id).name, shift == 0 ? "" : " of the row before"),
                   [id, shift](const Site& site, std::vector<float>& y) {
                     const std::vector<float> more = site.value(id, shift);
                     for (std::size_t i = 0; i < y.size(); ++i) y[i] += more[i];
                   });
  };
  // The row before, as it should be and as it was.
  const Values own = q.replay.value(q.out());
  const bool resembles_sum = resembles_changed(q, [&](std::vector<float>& y) {
    for (std::size_t r = 0; r < q.rows.size(); ++r) {
      const auto before = row_before(q, own, r);
      for (std::size_t i = 0; i < width; ++i) y[r * width + i] += before[i];
    }
  });
  if (resembles_sum) {
    out.afterwards("the row before", [](const Site& site, std::vector<float>& y) {
      const std::vector<float> before = site.compute_on([](std::uint32_t row) { return std::int64_t{row} - 1; });
      for (std::size_t i = 0; i < y.size(); ++i) y[i] += before[i];
    });
  }
  if (q.found.empty()) return;
  add(q.out(), 1);
  for (const plan::ValueId id : alike(q)) {
    const bool is_operand = std::find(operands.begin(), operands.end(), id) != operands.end();
    if (q.replay.producer(id) < q.op_index && !is_operand) add(id, 0);
  }
}

// A row that is alone in its step has no neighbour; there the mistake is buffer-stale.
void shifted_rows(const Question& q, Candidates& out) {
  if (is_decode_only(q)) return;
  for (const std::int64_t by : {1, -1}) {
    out.add(by > 0 ? "row r holds what belongs to row r - 1" : "row r holds what belongs to row r + 1",
            [by](const Site& site) { return site.compute_on([by](std::uint32_t row) { return std::int64_t{row} - by; }); });
  }
}

// At the embedding the mistake is embedding-other-tokens.
void other_rows(const Question& q, Candidates& out) {
  if (q.as<plan::Embed>() != nullptr || q.out() == q.plan().logits || is_decode_only(q) ||
      q.found.size() != q.expected.size())
    return;
  // The suspect's rows that are not at fault are right.
  const std::size_t width = q.width();
  const Values own = q.replay.value(q.out());
  std::map<std::uint32_t, std::span<const float>> right;
  for (std::size_t i = 0; i * width < q.expected.size(); ++i) right[q.rows[i]] = q.expected.subspan(i * width, width);
  const auto holds = [&](std::size_t i, std::uint32_t row) {
    const auto known = right.find(row);
    const auto other = known != right.end() ? known->second : std::span(*own).subspan(row * width, width);
    const auto found = q.found.subspan(i * width, width);
    const double most = rounding * squares(other);
    double error = 0;
    for (std::size_t c = 0; c < width && error <= most; ++c) error += std::pow(double{found[c]} - other[c], 2);
    return error <= most;
  };
  // from: gives the source row for a row of a step.
  const auto all_hold = [&](auto from) {
    for (std::size_t i = 0; i * width < q.found.size(); ++i) {
      if (!holds(i, from(q.replay.step_of(q.rows[i]), q.rows[i]))) return false;
    }
    return true;
  };
  const auto add = [&](const std::string& detail, auto from) {
    out.add(detail, [from](const Site& site) {
      return site.compute_on([&](std::uint32_t row) { return std::int64_t{from(site.replay.step_of(row), row)}; });
    });
  };
  const auto reversed = [](StepRows step, std::uint32_t row) { return step.begin + step.end - 1 - row; };
  const auto last = [](StepRows step, std::uint32_t) { return step.end - 1; };
  const auto first = [](StepRows step, std::uint32_t) { return step.begin; };
  // A shift of rows around the step's end is buffer-row-shifted.
  const auto before = [](StepRows step, std::uint32_t row) { return row > step.begin ? row - 1 : step.end - 1; };
  const auto after = [](StepRows step, std::uint32_t row) { return row + 1 < step.end ? row + 1 : step.begin; };
  if (!q.found.empty() && (all_hold(before) || all_hold(after))) return;
  if (all_hold(reversed)) add("they are in reverse", reversed);
  if (all_hold(last)) add("all are the step's last", last);
  if (all_hold(first)) add("all are the step's first", first);
  if (!out.empty() || q.found.empty()) return;
  std::map<std::uint32_t, std::uint32_t> held;
  for (std::size_t i = 0; i < q.rows.size(); ++i) {
    auto [row, end] = q.replay.step_of(q.rows[i]);
    while (row < end && !holds(i, row)) ++row;
    if (row == end) return;
    held[q.rows[i]] = row;
  }
  const auto& [row, of] = *held.begin();
  const bool two = held.size() == 2 && held.contains(of) && held.at(of) == row;
  add(two ? fmt::format("rows {} and {} are exchanged", row, of)
          : fmt::format("row {} is that of {}, and {} more", row, of, held.size() - 1),
      [held](StepRows, std::uint32_t r) {
        const auto found = held.find(r);
        return found == held.end() ? r : found->second;
      });
}

// For each tile of the found row, the tile of the right row that it equals. Empty if a tile equals none, or if all tiles
// are in place.
std::vector<std::size_t> tiles_held(std::span<const float> found, std::span<const float> expected, std::size_t size) {
  const std::size_t n = found.size() / size;
  std::vector<std::size_t> held;
  bool moved = false;
  const auto holds = [&](std::size_t to, std::size_t from) {
    const auto f = found.subspan(to * size, size), e = expected.subspan(from * size, size);
    if (squared_distance(f.first(4), e.first(4)) > squares(e.first(4))) return false;
    return squared_distance(f, e) < rounding * squares(e);
  };
  for (std::size_t to = 0; to < n; ++to) {
    std::size_t from = to;
    if (!holds(to, to)) {
      for (from = 0; from < n && !holds(to, from);) ++from;
      moved = true;
    }
    if (from == n) return {};
    held.push_back(from);
  }
  return moved ? held : std::vector<std::size_t>();
}

void other_columns(const Question& q, Candidates& out) {
  constexpr std::size_t most_tiles = 512;
  const std::size_t width = q.width();
  const auto add = [&](std::string detail, std::vector<std::size_t> from) {
    const bool fits = resembles_changed(q, [&](std::vector<float>& y) {
      for (std::size_t i = 0; i < y.size(); ++i) y[i] = q.expected[i / width * width + from[i % width]];
    });
    if (fits) out.with_columns(std::move(detail), std::move(from));
  };
  std::vector<std::size_t> reversed(width), apart(width), together(width);
  for (std::size_t c = 0; c < width; ++c) {
    reversed[c] = width - 1 - c;
    const std::size_t half = (width + 1) / 2;
    apart[c] = c < half ? 2 * c : 2 * (c - half) + 1;
    together[c] = c / 2 + (c % 2) * half;
  }
  add("they are in reverse", reversed);
  // Other hypotheses cover whole heads and their halves.
  if (!q.has_both()) return;
  if (width != 2 * q.replay.parameters().head_dim) {
    add("even ones first, then odd ones", apart);
    add("the halves are interleaved", together);
  }
  for (const std::size_t size : {256, 128, 64, 32, 16, 8}) {
    if (!out.empty() || width % size != 0 || width / size < 2 || width / size > most_tiles) continue;
    const std::vector<std::size_t> held = tiles_held(q.found.last(width), q.expected.last(width), size);
    if (held.empty()) continue;
    std::size_t n_moved = 0, first = held.size();
    std::vector<std::size_t> from(width);
    for (std::size_t t = 0; t < held.size(); ++t) {
      for (std::size_t i = 0; i < size; ++i) from[t * size + i] = held[t] * size + i;
      if (held[t] == t) continue;
      ++n_moved;
      first = std::min(first, t);
    }
    add(fmt::format("in tiles of {} columns tile {} is tile {}{}", size, first, held[first],
                    n_moved > 1 ? fmt::format(", and {} more are moved", n_moved - 1) : ""),
        from);
  }
}

// For logits the mistake is logits-index.
void shifted_columns(const Question& q, Candidates& out) {
  if (q.out() == q.plan().logits) return;
  std::vector<std::int64_t> shifts = {1, -1, 4, -4, 32, -32};
  for (const std::int64_t by : likely_shifts(q)) {
    if (std::find(shifts.begin(), shifts.end(), by) == shifts.end()) shifts.push_back(by);
  }
  for (const std::int64_t by : shifts) out.with_shifted_columns(fmt::format("by {:+d}", by), q.width(), -by);
}

// Rows of which only the first columns were written: the others are zero, or as in the step before.
void partly_written(const Question& q, Candidates& out) {
  if (q.found.empty() || q.rows.empty()) return;
  const std::size_t width = q.width();
  // Some rows of a step are zero, others are not.
  if (std::all_of(q.found.begin(), q.found.end(), [](float v) { return v == 0; })) {
    const std::set<std::uint32_t> zero_rows(q.rows.begin(), q.rows.end());
    const auto rows = q.replay.rows();
    const bool some_only = std::any_of(rows.begin(), rows.end(), [&](const auto& row) {
      return row.sequence == rows[q.rows[0]].sequence && !zero_rows.contains(row.position);
    });
    if (some_only) {
      out.with_elements(
          fmt::format("{} of the step's rows are zero, the first being row {}", zero_rows.size(), *zero_rows.begin()),
          [zero_rows](std::uint32_t row, std::size_t, float v) { return zero_rows.contains(row) ? 0 : v; });
    }
  }
  const auto tail = [&](auto same) {
    std::size_t from = width;
    for (; from > 0; --from) {
      for (std::size_t r = 0; r < q.rows.size(); ++r) {
        if (!same(r, from - 1)) return from;
      }
    }
    return from;
  };
  const std::size_t zeros = tail([&](std::size_t r, std::size_t c) { return q.found[r * width + c] == 0; });
  const auto add_zeros = [&](std::string detail, std::size_t from, std::size_t to) {
    out.with_elements(std::move(detail), [from, to](std::uint32_t, std::size_t column, float v) {
      return column >= from && column < to ? 0 : v;
    });
  };
  if (zeros > 0 && zeros < width) add_zeros(fmt::format("columns from {} of {} on are zero", zeros, width), zeros, width);
  // A block of zeros anywhere.
  std::size_t first = width, last = 0;
  for (std::size_t c = 0; c < width; ++c) {
    bool all = true;
    for (std::size_t r = 0; r < q.rows.size(); ++r) all = all && q.found[r * width + c] == 0;
    if (!all) continue;
    first = std::min(first, c);
    last = c + 1;
  }
  if (first < last && (last < width || zeros != first))
    add_zeros(fmt::format("columns {} to {} of {} are zero", first, last - 1, width), first, last);
  const Values all = q.replay.value(q.out());
  const std::size_t old = tail([&](std::size_t r, std::size_t c) {
    return q.rows[r] > 0 && q.found[r * width + c] == (*all)[(q.rows[r] - 1) * width + c];
  });
  if (old > 0 && old < width) {
    out.afterwards(fmt::format("columns from {} of {} on are those of the row before", old, width),
                   [old, width, id = q.out()](const Site& site, std::vector<float>& y) {
                     const std::vector<float> before = site.value(id, 1);
                     for (std::size_t i = 0; i < y.size(); ++i) {
                       if (i % width >= old) y[i] = before[i];
                     }
                   });
  }
  // A buffer of one row, which has the first or the last row of the prompt.
  if (!is_decode_only(q) || q.replay.rows().size() < 2) return;
  const std::uint32_t end = q.replay.n_prompt();
  for (const std::uint32_t left : {0u, end - 1}) {
    const auto before = [left, end](std::uint32_t row) { return row == end ? left : row - 1; };
    const std::size_t from = tail([&](std::size_t r, std::size_t c) {
      return q.rows[r] >= end && q.found[r * width + c] == (*all)[before(q.rows[r]) * width + c];
    });
    if (from == 0 || from >= width || from == old) continue;
    out.afterwards(fmt::format("columns from {} of {} on are those of the step before", from, width),
                   [from, width, end, before, id = q.out()](const Site& site, std::vector<float>& y) {
                     const Values known = site.replay.value(id);
                     for (std::size_t i = 0; i < y.size(); ++i) {
                       const std::uint32_t row = site.rows[i / width];
                       if (i % width >= from && row >= end) y[i] = (*known)[before(row) * width + i % width];
                     }
                   });
    return;
  }
}

void no_number(const Question& q, Candidates& out) {
  const bool none = std::all_of(q.found.begin(), q.found.end(), [](float v) { return std::isnan(v); });
  const bool all = std::all_of(q.expected.begin(), q.expected.end(), [](float v) { return std::isfinite(v); });
  if (!none || !all) return;
  out.add("all of it, from inputs that are", [n = q.width()](const Site& site) {
    return std::vector<float>(site.rows.size() * n, std::numeric_limits<float>::quiet_NaN());
  });
}

// Some elements are right. The others are NaN, infinite, or of a size that the op could not give: a few elements, some
// neighbouring columns, or whole rows. Overflow and filtering have a pattern, and hypotheses of their own.
void uninitialized(const Question& q, Candidates& out) {
  if (!q.has_both() || is_overflow(q)) return;
  const std::size_t width = q.width();
  double size = 0, right = 0, wrong = 0;
  for (const float v : q.expected) size = std::max(size, std::abs(double{v}));
  constexpr float denormal = std::numeric_limits<float>::min();
  std::map<std::pair<std::uint32_t, std::size_t>, float> wild;  // by row and column
  std::vector<std::size_t> of_column(width, 0), of_row(q.rows.size(), 0);
  std::size_t n = 0, n_low = 0;
  for (std::size_t i = 0; i < q.found.size(); ++i) {
    const float found = q.found[i];
    const bool is_denormal = found != 0 && std::abs(found) < denormal && std::abs(q.expected[i]) > 1e4f * denormal;
    if (std::isfinite(found) && std::abs(double{found}) <= 1e4 * size && !is_denormal) {
      right += std::pow(double{q.expected[i]}, 2);
      wrong += std::pow(double{found} - q.expected[i], 2);
      continue;
    }
    wild[{q.rows[i / width], i % width}] = found;
    ++of_column[i % width];
    ++of_row[i / width];
    ++n;
    n_low += found < -1e8f ? 1 : 0;
  }
  if (n == 0 || n == q.found.size() || wrong > 1e-4 * right) return;
  const auto n_columns = static_cast<std::size_t>(std::count(of_column.begin(), of_column.end(), q.rows.size()));
  const auto n_rows = static_cast<std::size_t>(std::count(of_row.begin(), of_row.end(), width));
  std::size_t first = 0, last = width;
  while (first < width && of_column[first] == 0) ++first;
  while (last > first && of_column[last - 1] == 0) --last;
  const bool is_run = n_columns == last - first && n == n_columns * q.rows.size();
  if (q.out() == q.plan().logits && n_low == n && !(is_run && last == width)) return;  // logits-filtered
  if (2 * n > q.found.size() && !is_run && n != n_rows * width) return;
  const std::string where = is_run ? fmt::format(", columns {} to {}", first, last - 1) : "";
  out.with_values(fmt::format("{} of {} elements{}", n, q.found.size(), where), std::move(wild));
}

constexpr Hypothesis table[] = {
    {"buffer-zero", Kind::buffer, of<zero>, Meaning::description, R"(the output is all zero
The kernel did not run, or wrote elsewhere; or what it reads is zero: weights or a cache that were never written.
check the launch, its grid and its output pointer, and what the op's weights and cache hold on the device)"},
    {"buffer-stale", Kind::buffer, of<stale>, R"(the output is an old value
The op was not run, or runs after its reader: the buffer still has what was there before.
order the op before its readers; check the barrier)"},
    {"buffer-aliased", Kind::buffer, of_both<aliased>, Meaning::description, R"(the output is another op's
Two values share memory while both are needed; or the op was left out and what it reads handed on.
check that the op runs, and give the values memory of their own)"},
    {"buffer-not-cleared", Kind::buffer, of_shown<not_cleared>, R"(the output is added to what was there
The product accumulates (beta is 1), or its sums start from what the buffer holds.
clear the output first, or write it without adding)"},
    {"buffer-row-shifted", Kind::buffer, of<shifted_rows>, R"(the output's rows are shifted
The row's offset is off by one row.
row r begins at r * width)"},
    {"buffer-rows-exchanged", Kind::buffer, of_shown<other_rows>, R"(the output's rows are in another order, or repeated
The row's index is that of another token of the step: counted from the end, or not at all.
row r belongs to the step's token r)"},
    {"buffer-columns-exchanged", Kind::buffer, of_shown<other_columns>,
     R"(the output's columns are in another order, or repeated
Tiles are written to each other's places, or the index within a row runs otherwise than its readers expect.
check where each block of threads writes)"},
    {"buffer-column-shifted", Kind::buffer, of<shifted_columns>, R"(the output's columns are shifted
The pointer to the row is off by some elements.
row r begins at r * width)"},
    {"buffer-partly-written", Kind::buffer, of<partly_written>, Meaning::description, R"(a part of the output is not written
The grid is rounded down: the last columns are covered by no thread. Or a part of what it reads is zero: the weights' last rows, a head of the cache.
round the grid up, and guard the last block; check that the weights are loaded whole)"},
    {"value-not-a-number", Kind::op, of_both<no_number>, Meaning::description,
     R"(the output is not a number, and its inputs are
A division of zero by zero, a difference of infinities, a root of a negative number; or memory that was filled with NaN to catch those that read it before it is written.
check divisors, and that the output is written)"},
    {"buffer-uninitialized", Kind::buffer, of<uninitialized>, Meaning::description,
     R"(parts of the output were never written
What is there is what memory held: the output's, or that of a row of weights which was never loaded.
write all of the output, or clear it, and check the weights of these columns)"},
};

}  // namespace
}  // namespace in_buffer

std::span<const Hypothesis> buffer() { return in_buffer::table; }

}  // namespace plumb::diagnose::families
