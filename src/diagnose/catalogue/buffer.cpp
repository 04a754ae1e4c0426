// Buffers: what an op left, or did not leave, in its output.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace in_buffer {
namespace {

bool has_output(const Question& q) { return plan::output(q.op).has_value(); }

// The op on other rows of the run than the site's; zero where there are none.
std::vector<float> on_rows(const Site& site, const std::function<std::int64_t(std::uint32_t row)>& from) {
  std::map<std::uint32_t, std::size_t> places;  // in the order of the run, each once
  std::vector<std::optional<std::uint32_t>> wanted;
  for (const std::uint32_t row : site.rows) {
    const std::int64_t other = from(row);
    const bool is_there = other >= 0 && other < static_cast<std::int64_t>(site.replay->rows().size());
    wanted.push_back(is_there ? std::optional(static_cast<std::uint32_t>(other)) : std::nullopt);
    if (is_there) places[*wanted.back()] = 0;
  }
  const std::size_t width = site.scene->plan->value(*plan::output(*site.op)).width;
  std::vector<float> y(site.rows.size() * width, 0.0f);
  if (places.empty()) return y;
  std::vector<std::uint32_t> rows;
  for (auto& [row, place] : places) {
    place = rows.size();
    rows.push_back(row);
  }
  View view(*site.replay, rows);
  view.prepare(*site.op);
  const std::vector<float> right = backends::reference::compute(*site.op, view.scene());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i]) continue;
    std::copy_n(right.begin() + static_cast<std::ptrdiff_t>(places[*wanted[i]] * width), width,
                y.begin() + static_cast<std::ptrdiff_t>(i * width));
  }
  return y;
}

// The first row of a row's step, and the one after its last.
std::pair<std::uint32_t, std::uint32_t> step_of(std::span<const backends::Row> rows, std::uint32_t row) {
  std::uint32_t begin = row, end = row + 1;
  while (begin > 0 && rows[begin - 1].sequence == rows[row].sequence) --begin;
  while (end < rows.size() && rows[end].sequence == rows[row].sequence) ++end;
  return {begin, end};
}

// The right output of the row before the i-th at fault; the suspect's own where that row is not at fault.
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
    const auto [begin, end] = step_of(q.replay.rows(), row);
    return end - begin == 1;
  });
}

std::vector<Candidate> zero(const Question& q) {
  if (!has_output(q) || std::any_of(q.found.begin(), q.found.end(), [](float v) { return v != 0; })) return {};
  return {{"", [n = q.width()](const Site& site) { return std::vector<float>(site.rows.size() * n, 0.0f); }}};
}

// The value of this op in the step before, and the values of earlier ops of this step.
// At the embedding this is embedding-other-tokens: the rows of the step before are those of its tokens.
std::vector<Candidate> stale(const Question& q) {
  if (!has_output(q) || q.as<plan::Embed>() != nullptr) return {};
  std::vector<Candidate> result;
  const plan::ValueId out = q.out();
  // A buffer that the prompt's pass filled and no later step wrote: its first row is read ever after, or its last.
  for (const bool last : {false, true}) {
    result.push_back({last ? "the prompt's last row stays" : "the prompt's first row stays",
                      [out, last, width = q.width()](const Site& site) {
                        std::vector<float> y = site.compute(*site.op);
                        const auto rows = site.replay->rows();
                        const Values all = site.replay->value(out);
                        std::size_t from = 0;
                        while (last && from + 1 < rows.size() && rows[from + 1].sequence == rows[0].sequence) ++from;
                        for (std::size_t i = 0; i < site.rows.size(); ++i) {
                          if (rows[site.rows[i]].sequence == rows[0].sequence) continue;
                          std::copy_n(all->begin() + static_cast<std::ptrdiff_t>(from * width), width,
                                      y.begin() + static_cast<std::ptrdiff_t>(i * width));
                        }
                        return y;
                      }});
  }
  // One that is read before it is written: what it is to hold now is there a step later. Of the prompt's rows the last.
  const Values own = q.replay.value(out);
  const bool resembles_old = !q.is_inner() && resembles_changed(q, [&](std::vector<float>& y) {
    for (std::size_t i = 0; i < q.rows.size(); ++i) {
      if (q.replay.rows()[q.rows[i]].sequence == q.replay.rows()[0].sequence) continue;
      const auto before = row_before(q, own, i);
      std::copy(before.begin(), before.end(), y.begin() + static_cast<std::ptrdiff_t>(i * before.size()));
    }
  });
  if (resembles_old) {
    result.push_back({"of the step before", [](const Site& site) {
                        const auto rows = site.replay->rows();
                        return on_rows(site, [&](std::uint32_t row) {
                          return std::int64_t{row} - (rows[row].sequence == rows[0].sequence ? 0 : 1);
                        });
                      }});
  }
  const std::string_view name = q.plan().value(out).name;
  const auto layer = layer_of(name);
  for (std::uint32_t back = 1; layer && back <= 2 && back <= *layer; ++back) {
    const auto before = q.plan().find(fmt::format("blk.{}.{}", *layer - back, role(name)));
    if (before) {
      result.push_back({fmt::format("{} of this step", q.plan().value(*before).name),
                        [id = *before](const Site& site) { return site.value(id); }});
    }
  }
  return result;
}

// Whether a later value is what its op makes of the one in question, as found: a rotation at position 0 and attention to
// one position leave values as they are, and to be equal says nothing then.
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
    for (std::size_t c = 0; c < width; ++c) {
      const double k = (*known)[rows[i] * width + c];
      error += std::pow(k - made[i * width + c], 2);
      size += k * k;
    }
  }
  return error < 1e-4 * size;
}

std::vector<Candidate> aliased(const Question& q) {
  if (!has_output(q) || q.found.empty()) return {};
  // Only those that the suspect's output resembles: the search is over all values.
  std::vector<Candidate> result;
  const std::size_t width = q.width();
  for (std::uint32_t i = 0; i < q.plan().values.size(); ++i) {
    const plan::ValueId id{i};
    if (id == q.out() || q.plan().value(id).width != width || q.replay.suspect() == nullptr ||
        !q.replay.suspect()->knows_all(id))
      continue;
    for (const std::int64_t shift : {0, 1}) {
      const Values other = q.replay.value(id);
      double error = 0, size = 0;
      for (std::size_t r = 0; r < std::min<std::size_t>(q.rows.size(), 4); ++r) {
        if (q.rows[r] < shift) continue;
        for (std::size_t c = 0; c < width; ++c) {
          const double f = q.found[r * width + c], o = (*other)[(q.rows[r] - static_cast<std::size_t>(shift)) * width + c];
          error += (f - o) * (f - o);
          size += f * f;
        }
      }
      if (size == 0 || !(error < 1e-4 * size) || follows_from_found(q, id)) continue;
      result.push_back({fmt::format("{}{}", q.plan().value(id).name, shift == 0 ? "" : " of the row before"),
                        [id, shift](const Site& site) { return site.value(id, shift); }});
    }
  }
  return result;
}

// What is in the output beyond what it should be: what it held before, or another value.
std::vector<Candidate> not_cleared(const Question& q) {
  if (q.is_inner()) return {};
  if (!has_output(q)) return {};
  std::vector<Candidate> result;
  const std::size_t width = q.width();
  // A sum's operand added again is residual-weighed.
  const std::vector<plan::ValueId> operands =
      q.as<plan::Add>() != nullptr ? plan::inputs(q.op) : std::vector<plan::ValueId>();
  const auto add = [&](plan::ValueId id, std::int64_t shift) {
    if (!q.found.empty()) {
      const Values other = q.replay.value(id);
      const bool fits = resembles_changed(q, [&](std::vector<float>& y) {
        for (std::size_t i = 0; i < y.size(); ++i) {
          const std::int64_t row = std::int64_t{q.rows[i / width]} - shift;
          if (row >= 0) y[i] += (*other)[static_cast<std::size_t>(row) * width + i % width];
        }
      });
      if (!fits) return;
    }
    result.push_back(afterwards(fmt::format("{}{}", q.plan().value(id).name, shift == 0 ? "" : " of the row before"),
                                [id, shift](const Site& site, std::vector<float>& y) {
                                  const std::vector<float> other = site.value(id, shift);
                                  for (std::size_t i = 0; i < y.size(); ++i) y[i] += other[i];
                                }));
  };
  // What the row before should have been, and what it was.
  const Values own = q.replay.value(q.out());
  const bool resembles_sum = resembles_changed(q, [&](std::vector<float>& y) {
    for (std::size_t r = 0; r < q.rows.size(); ++r) {
      const auto before = row_before(q, own, r);
      for (std::size_t i = 0; i < width; ++i) y[r * width + i] += before[i];
    }
  });
  if (resembles_sum) {
    result.push_back(afterwards("the row before", [](const Site& site, std::vector<float>& y) {
      const std::vector<float> before = on_rows(site, [](std::uint32_t row) { return std::int64_t{row} - 1; });
      for (std::size_t i = 0; i < y.size(); ++i) y[i] += before[i];
    }));
  }
  if (!q.found.empty()) add(q.out(), 1);
  for (std::uint32_t i = 0; !q.found.empty() && i < q.plan().values.size(); ++i) {
    const plan::ValueId id{i};
    if (id == q.out() || q.plan().value(id).width != width || q.replay.suspect() == nullptr ||
        !q.replay.suspect()->knows_all(id) || q.replay.producer(id) >= q.op_index ||
        std::find(operands.begin(), operands.end(), id) != operands.end())
      continue;
    add(id, 0);
  }
  return result;
}

// A row that is alone in its step has none beside it: there it is buffer-stale.
std::vector<Candidate> shifted_rows(const Question& q) {
  if (!has_output(q) || is_decode_only(q)) return {};
  std::vector<Candidate> result;
  for (const std::int64_t by : {1, -1}) {
    result.push_back(
        {by > 0 ? "row r holds what belongs to row r - 1" : "row r holds what belongs to row r + 1",
         [by](const Site& site) { return on_rows(site, [by](std::uint32_t row) { return std::int64_t{row} - by; }); }});
  }
  return result;
}

// At the embedding this is embedding-other-tokens.
std::vector<Candidate> other_rows(const Question& q) {
  if (q.is_inner()) return {};
  if (!has_output(q) || q.as<plan::Embed>() != nullptr || q.out() == q.plan().logits || is_decode_only(q) ||
      q.found.size() != q.expected.size())
    return {};
  // The suspect's rows that are not at fault are right.
  const std::size_t width = q.width();
  const Values own = q.replay.value(q.out());
  std::map<std::uint32_t, std::span<const float>> right;
  for (std::size_t i = 0; i * width < q.expected.size(); ++i) right[q.rows[i]] = q.expected.subspan(i * width, width);
  const auto holds = [&](std::size_t i, std::uint32_t row) {
    const auto known = right.find(row);
    const auto other = known != right.end() ? known->second : std::span(*own).subspan(row * width, width);
    const auto found = q.found.subspan(i * width, width);
    double error = 0, size = 0;
    for (const float v : other) size += double{v} * v;
    for (std::size_t c = 0; c < width && error <= 1e-4 * size; ++c) error += std::pow(double{found[c]} - other[c], 2);
    return error <= 1e-4 * size;
  };
  // from: the step's first row, its end, and the row.
  const auto all_hold = [&](auto from) {
    for (std::size_t i = 0; i * width < q.found.size(); ++i) {
      const auto [begin, end] = step_of(q.replay.rows(), q.rows[i]);
      if (!holds(i, from(begin, end, q.rows[i]))) return false;
    }
    return true;
  };
  std::vector<Candidate> result;
  const auto add = [&](std::string detail, auto from) {
    result.push_back({std::move(detail), [from](const Site& site) {
                        return on_rows(site, [&](std::uint32_t row) {
                          const auto [begin, end] = step_of(site.replay->rows(), row);
                          return std::int64_t{from(begin, end, row)};
                        });
                      }});
  };
  const auto reversed = [](std::uint32_t begin, std::uint32_t end, std::uint32_t row) { return begin + end - 1 - row; };
  const auto last = [](std::uint32_t, std::uint32_t end, std::uint32_t) { return end - 1; };
  const auto first = [](std::uint32_t begin, std::uint32_t, std::uint32_t) { return begin; };
  // Around the end; that is buffer-row-shifted.
  const auto before = [](std::uint32_t begin, std::uint32_t end, std::uint32_t row) {
    return row > begin ? row - 1 : end - 1;
  };
  const auto after = [](std::uint32_t begin, std::uint32_t end, std::uint32_t row) {
    return row + 1 < end ? row + 1 : begin;
  };
  if (!q.found.empty() && (all_hold(before) || all_hold(after))) return {};
  if (all_hold(reversed)) add("they are in reverse", reversed);
  if (all_hold(last)) add("all are the step's last", last);
  if (all_hold(first)) add("all are the step's first", first);
  if (!result.empty() || q.found.empty()) return result;
  std::map<std::uint32_t, std::uint32_t> held;
  for (std::size_t i = 0; i < q.rows.size(); ++i) {
    auto [row, end] = step_of(q.replay.rows(), q.rows[i]);
    while (row < end && !holds(i, row)) ++row;
    if (row == end) return {};
    held[q.rows[i]] = row;
  }
  const auto& [row, of] = *held.begin();
  const bool two = held.size() == 2 && held.contains(of) && held.at(of) == row;
  add(two ? fmt::format("rows {} and {} are exchanged", row, of)
          : fmt::format("row {} is that of {}, and {} more", row, of, held.size() - 1),
      [held](std::uint32_t, std::uint32_t, std::uint32_t r) {
        const auto found = held.find(r);
        return found == held.end() ? r : found->second;
      });
  return result;
}

// The output with column c being that of from[c].
Candidate of_columns(std::string detail, std::vector<std::size_t> from) {
  return afterwards(std::move(detail), [from = std::move(from)](const Site&, std::vector<float>& y) {
    const std::vector<float> right = y;
    const std::size_t n = from.size();
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = right[i / n * n + from[i % n]];
  });
}

// Which tile of the right row each tile of the found one is; empty where one is none, or all are in their places.
std::vector<std::size_t> tiles_held(std::span<const float> found, std::span<const float> expected, std::size_t size) {
  const std::size_t n = found.size() / size;
  std::vector<std::size_t> held;
  bool moved = false;
  const auto holds = [&](std::size_t to, std::size_t from) {
    double error = 0, square = 0;
    for (std::size_t i = 0; i < size; ++i) {
      error += std::pow(double{found[to * size + i]} - expected[from * size + i], 2);
      square += std::pow(double{expected[from * size + i]}, 2);
      if (i == 3 && error > square) return false;
    }
    return error < 1e-4 * square;
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

std::vector<Candidate> other_columns(const Question& q) {
  if (q.is_inner()) return {};
  if (!has_output(q)) return {};
  constexpr std::size_t most_tiles = 512;
  const std::size_t width = q.width();
  std::vector<Candidate> result;
  const auto add = [&](std::string detail, std::vector<std::size_t> from) {
    const bool fits = resembles_changed(q, [&](std::vector<float>& y) {
      for (std::size_t i = 0; i < y.size(); ++i) y[i] = q.expected[i / width * width + from[i % width]];
    });
    if (fits) result.push_back(of_columns(std::move(detail), std::move(from)));
  };
  std::vector<std::size_t> reversed(width), apart(width), together(width);
  for (std::size_t c = 0; c < width; ++c) {
    reversed[c] = width - 1 - c;
    const std::size_t half = (width + 1) / 2;
    apart[c] = c < half ? 2 * c : 2 * (c - half) + 1;
    together[c] = c / 2 + (c % 2) * half;
  }
  add("they are in reverse", reversed);
  // Whole heads and their halves are taken apart by hypotheses of their own.
  if (q.found.empty() || q.found.size() != q.expected.size()) return result;
  if (width != 2 * q.replay.parameters().head_dim) {
    add("even ones first, then odd ones", apart);
    add("the halves are interleaved", together);
  }
  for (const std::size_t size : {256, 128, 64, 32, 16, 8}) {
    if (!result.empty() || width % size != 0 || width / size < 2 || width / size > most_tiles) continue;
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
  return result;
}

// Of logits this is logits-index.
std::vector<Candidate> shifted_columns(const Question& q) {
  if (!has_output(q) || q.out() == q.plan().logits) return {};
  std::vector<Candidate> result;
  std::vector<std::int64_t> shifts = {1, -1, 4, -4, 32, -32};
  const std::size_t n = q.width();
  if (q.found.size() >= n && q.found.size() == q.expected.size()) {
    for (const std::int64_t by : likely_shifts(q.found.first(n), q.expected.first(n))) {
      if (std::find(shifts.begin(), shifts.end(), by) == shifts.end()) shifts.push_back(by);
    }
  }
  result.reserve(shifts.size());
  for (const std::int64_t by : shifts) {
    result.push_back(afterwards(
        fmt::format("by {:+d}", by), [by, n = static_cast<std::int64_t>(q.width())](const Site&, std::vector<float>& y) {
          const std::vector<float> right = y;
          for (std::int64_t i = 0; i < static_cast<std::int64_t>(y.size()); ++i) {
            y[static_cast<std::size_t>(i)] = right[static_cast<std::size_t>(i / n * n + ((i % n - by) % n + n) % n)];
          }
        }));
  }
  return result;
}

// The columns from which on the suspect's rows are all zero, or all as in the step before.
std::vector<Candidate> partly_written(const Question& q) {
  if (!has_output(q) || q.found.empty() || q.rows.empty()) return {};
  const std::size_t width = q.width();
  std::vector<Candidate> result;
  // Some rows of a step are zero and others are not.
  if (std::all_of(q.found.begin(), q.found.end(), [](float v) { return v == 0; })) {
    const std::set<std::uint32_t> zero_rows(q.rows.begin(), q.rows.end());
    const auto rows = q.replay.rows();
    const bool some_only = std::any_of(rows.begin(), rows.end(), [&](const auto& row) {
      return row.sequence == rows[q.rows[0]].sequence && !zero_rows.contains(row.position);
    });
    if (some_only) {
      result.push_back(afterwards(
          fmt::format("{} of the step's rows are zero, the first being row {}", zero_rows.size(), *zero_rows.begin()),
          [zero_rows, width](const Site& site, std::vector<float>& y) {
            for (std::size_t i = 0; i < y.size(); ++i) {
              if (zero_rows.contains(site.rows[i / width])) y[i] = 0;
            }
          }));
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
  if (zeros > 0 && zeros < width) {
    result.push_back(afterwards(fmt::format("columns from {} of {} on are zero", zeros, width),
                                [zeros, width](const Site&, std::vector<float>& y) {
                                  for (std::size_t i = 0; i < y.size(); ++i) {
                                    if (i % width >= zeros) y[i] = 0;
                                  }
                                }));
  }
  // A block of zeros anywhere.
  std::size_t first = width, last = 0;
  for (std::size_t c = 0; c < width; ++c) {
    bool all = true;
    for (std::size_t r = 0; r < q.rows.size(); ++r) all = all && q.found[r * width + c] == 0;
    if (!all) continue;
    first = std::min(first, c);
    last = c + 1;
  }
  if (first < last && (last < width || zeros != first)) {
    result.push_back(afterwards(fmt::format("columns {} to {} of {} are zero", first, last - 1, width),
                                [first, last, width](const Site&, std::vector<float>& y) {
                                  for (std::size_t i = 0; i < y.size(); ++i) {
                                    if (i % width >= first && i % width < last) y[i] = 0;
                                  }
                                }));
  }
  const Values all = q.replay.value(q.out());
  const std::size_t old = tail([&](std::size_t r, std::size_t c) {
    return q.rows[r] > 0 && q.found[r * width + c] == (*all)[(q.rows[r] - 1) * width + c];
  });
  if (old > 0 && old < width) {
    result.push_back({fmt::format("columns from {} of {} on are those of the row before", old, width),
                      [old, width, out = q.out()](const Site& site) {
                        std::vector<float> y = site.compute(*site.op);
                        const std::vector<float> before = site.value(out, 1);
                        for (std::size_t i = 0; i < y.size(); ++i) {
                          if (i % width >= old) y[i] = before[i];
                        }
                        return y;
                      }});
  }
  // The buffer of one row, of which the prompt's rows left the first or the last.
  const auto rows = q.replay.rows();
  if (is_decode_only(q) && rows.size() > 1) {
    const auto prompt = step_of(rows, 0);
    const std::uint32_t end = prompt.second;
    for (const std::uint32_t left : {prompt.first, end - 1}) {
      const auto before = [left, end](std::uint32_t row) { return row == end ? left : row - 1; };
      const std::size_t from = tail([&](std::size_t r, std::size_t c) {
        return q.rows[r] >= end && q.found[r * width + c] == (*all)[before(q.rows[r]) * width + c];
      });
      if (from == 0 || from >= width || from == old) continue;
      result.push_back({fmt::format("columns from {} of {} on are those of the step before", from, width),
                        [from, width, end, before, out = q.out()](const Site& site) {
                          std::vector<float> y = site.compute(*site.op);
                          const Values known = site.replay->value(out);
                          for (std::size_t i = 0; i < y.size(); ++i) {
                            const std::uint32_t row = site.rows[i / width];
                            if (i % width >= from && row >= end) y[i] = (*known)[before(row) * width + i % width];
                          }
                          return y;
                        }});
      break;
    }
  }
  return result;
}

std::vector<Candidate> no_number(const Question& q) {
  if (!has_output(q) || q.found.empty() || q.found.size() != q.expected.size()) return {};
  const bool none = std::all_of(q.found.begin(), q.found.end(), [](float v) { return std::isnan(v); });
  const bool all = std::all_of(q.expected.begin(), q.expected.end(), [](float v) { return std::isfinite(v); });
  if (!none || !all) return {};
  return {{"all of it, from inputs that are", [n = q.width()](const Site& site) {
             return std::vector<float>(site.rows.size() * n, std::numeric_limits<float>::quiet_NaN());
           }}};
}

// Some elements are as they should be and the others are not numbers, or of no size that the op could give: few of them, or
// whole columns in a run, or whole rows. What overflows or is filtered has a system, and hypotheses of its own.
std::vector<Candidate> uninitialized(const Question& q) {
  if (!has_output(q) || q.found.empty() || q.expected.size() != q.found.size() || is_overflow(q)) return {};
  const std::size_t width = q.width();
  double size = 0, right = 0, wrong = 0;
  for (const float v : q.expected) size = std::max(size, std::abs(double{v}));
  constexpr float denormal = std::numeric_limits<float>::min();
  std::vector<std::vector<bool>> wild(q.rows.size(), std::vector<bool>(width, false));
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
    wild[i / width][i % width] = true;
    ++of_column[i % width];
    ++of_row[i / width];
    ++n;
    n_low += found < -1e8f ? 1 : 0;
  }
  if (n == 0 || n == q.found.size() || wrong > 1e-4 * right) return {};
  const auto n_columns = static_cast<std::size_t>(std::count(of_column.begin(), of_column.end(), q.rows.size()));
  const auto n_rows = static_cast<std::size_t>(std::count(of_row.begin(), of_row.end(), width));
  std::size_t first = 0, last = width;
  while (first < width && of_column[first] == 0) ++first;
  while (last > first && of_column[last - 1] == 0) --last;
  const bool is_run = n_columns == last - first && n == n_columns * q.rows.size();
  if (q.out() == q.plan().logits && n_low == n && !(is_run && last == width)) return {};  // logits-filtered
  if (2 * n > q.found.size() && !is_run && n != n_rows * width) return {};
  std::vector<float> found(q.found.begin(), q.found.end());
  std::vector<std::uint32_t> rows(q.rows.begin(), q.rows.end());
  const std::string where = is_run ? fmt::format(", columns {} to {}", first, last - 1) : "";
  return {{fmt::format("{} of {} elements{}", n, q.found.size(), where), [wild, found, rows, width](const Site& site) {
             std::vector<float> y = site.compute(*site.op);
             for (std::size_t i = 0; i < y.size(); ++i) {
               const auto at = std::find(rows.begin(), rows.end(), site.rows[i / width]);
               if (at == rows.end()) continue;
               const auto r = static_cast<std::size_t>(at - rows.begin());
               if (wild[r][i % width]) y[i] = found[r * width + i % width];
             }
             return y;
           }}};
}

constexpr Hypothesis table[] = {
    {"buffer-zero", "the output is all zero",
     "The kernel did not run, or wrote elsewhere; or what it reads is zero: weights or a cache that were never written.",
     "check the launch, its grid and its output pointer, and what the op's weights and cache hold on the device", zero,
     true},
    {"buffer-stale", "the output is an old value",
     "The op was not run, or runs after its reader: the buffer still has what was there before.",
     "order the op before its readers; check the barrier", stale},
    {"buffer-aliased", "the output is another op's",
     "Two values share memory while both are needed; or the op was left out and what it reads handed on.",
     "check that the op runs, and give the values memory of their own", aliased, true},
    {"buffer-not-cleared", "the output is added to what was there",
     "The product accumulates (beta is 1), or its sums start from what the buffer holds.",
     "clear the output first, or write it without adding", not_cleared},
    {"buffer-row-shifted", "the output's rows are shifted", "The row's offset is off by one row.",
     "row r begins at r * width", shifted_rows},
    {"buffer-rows-exchanged", "the output's rows are in another order, or repeated",
     "The row's index is that of another token of the step: counted from the end, or not at all.",
     "row r belongs to the step's token r", other_rows},
    {"buffer-columns-exchanged", "the output's columns are in another order, or repeated",
     "Tiles are written to each other's places, or the index within a row runs otherwise than its readers expect.",
     "check where each block of threads writes", other_columns},
    {"buffer-column-shifted", "the output's columns are shifted", "The pointer to the row is off by some elements.",
     "row r begins at r * width", shifted_columns},
    {"buffer-partly-written", "a part of the output is not written",
     "The grid is rounded down: the last columns are covered by no thread. Or a part of what it reads is zero: the "
     "weights' "
     "last rows, a head of the cache.",
     "round the grid up, and guard the last block; check that the weights are loaded whole", partly_written, true},
    {"value-not-a-number", "the output is not a number, and its inputs are",
     "A division of zero by zero, a difference of infinities, a root of a negative number; or memory that was filled with "
     "NaN to catch those that read it before it is written.",
     "check divisors, and that the output is written", no_number, true},
    {"buffer-uninitialized", "parts of the output were never written",
     "What is there is what memory held: the output's, or that of a row of weights which was never loaded.",
     "write all of the output, or clear it, and check the weights of these columns", uninitialized, true},
};

}  // namespace
}  // namespace in_buffer

std::span<const Hypothesis> buffer() { return in_buffer::table; }

}  // namespace plumb::diagnose::families
