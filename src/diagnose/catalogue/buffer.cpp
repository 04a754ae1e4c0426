// Buffers: what an op left, or did not leave, in its output.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace {

bool has_output(const Question& q) { return plan::output(q.op).has_value(); }

// The op on the rows `shift` before the site's; zero where there are none.
std::vector<float> on_shifted_rows(const Site& site, std::int64_t shift) {
  std::vector<std::uint32_t> rows;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < site.rows.size(); ++i) {
    const std::int64_t from = std::int64_t{site.rows[i]} - shift;
    if (from < 0 || from >= static_cast<std::int64_t>(site.replay->rows().size())) continue;
    rows.push_back(static_cast<std::uint32_t>(from));
    places.push_back(i);
  }
  const std::size_t width = site.scene->plan->value(*plan::output(*site.op)).width;
  std::vector<float> y(site.rows.size() * width, 0.0f);
  if (rows.empty()) return y;
  View view(*site.replay, rows);
  view.prepare(*site.op);
  const std::vector<float> right = backends::reference::compute(*site.op, view.scene());
  for (std::size_t i = 0; i < places.size(); ++i) {
    std::copy_n(right.begin() + static_cast<std::ptrdiff_t>(i * width), width,
                y.begin() + static_cast<std::ptrdiff_t>(places[i] * width));
  }
  return y;
}

std::vector<Candidate> zero(const Question& q) {
  if (!has_output(q)) return {};
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

// Whether a later value is what its op makes of the one in question, as found: a rotation at position 0 and attention to one
// position leave values as they are, and to be equal says nothing then.
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

std::vector<Candidate> shifted_rows(const Question& q) {
  if (!has_output(q)) return {};
  std::vector<Candidate> result;
  for (const std::int64_t by : {1, -1}) {
    result.push_back({by > 0 ? "row r holds what belongs to row r - 1" : "row r holds what belongs to row r + 1",
                      [by](const Site& site) { return on_shifted_rows(site, by); }});
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
  return result;
}

// Some elements are as they should be and the others are not numbers, or of no size that the op could give.
std::vector<Candidate> uninitialized(const Question& q) {
  if (!has_output(q) || q.found.empty() || q.expected.empty()) return {};
  const std::size_t width = q.width();
  double size = 0;
  for (const float v : q.expected) size = std::max(size, std::abs(double{v}));
  std::vector<std::vector<bool>> wild(q.rows.size(), std::vector<bool>(width, false));
  std::size_t n = 0;
  for (std::size_t i = 0; i < q.found.size(); ++i) {
    if (std::isfinite(q.found[i]) && std::abs(double{q.found[i]}) <= 1e4 * size) continue;
    wild[i / width][i % width] = true;
    ++n;
  }
  if (n == 0 || n == q.found.size()) return {};
  std::vector<float> found(q.found.begin(), q.found.end());
  std::vector<std::uint32_t> rows(q.rows.begin(), q.rows.end());
  return {{fmt::format("{} of {} elements", n, q.found.size()), [wild, found, rows, width](const Site& site) {
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
    {"buffer-zero", "the output is all zero", "The kernel did not run, or wrote elsewhere.",
     "check the launch, its grid and its output pointer", zero},
    {"buffer-stale", "the output is an old value",
     "The op was not run, or runs after its reader: the buffer still has what was there before.",
     "order the op before its readers; check the barrier", stale},
    {"buffer-aliased", "the output is another op's", "Two values share memory while both are needed.",
     "give the values memory of their own, or order the ops", aliased},
    {"buffer-row-shifted", "the output's rows are shifted", "The row's offset is off by one row.",
     "row r begins at r * width", shifted_rows},
    {"buffer-column-shifted", "the output's columns are shifted", "The pointer to the row is off by some elements.",
     "row r begins at r * width", shifted_columns},
    {"buffer-partly-written", "a part of the output is not written",
     "The grid is rounded down: the last columns are covered by no thread.", "round the grid up, and guard the last block",
     partly_written},
    {"buffer-uninitialized", "parts of the output were never written",
     "What is there is what the memory held: no number that the op gives.", "write all of the output, or clear it",
     uninitialized},
};

}  // namespace

std::span<const Hypothesis> buffer() { return table; }

}  // namespace plumb::diagnose::families
