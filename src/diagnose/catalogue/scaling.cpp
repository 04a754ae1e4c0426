// Multipliers: of embeddings, of what a block adds, of logits, of queries by their position; and parts of a row.
#include <fmt/format.h>

#include <cmath>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_scaling {
namespace {

void missing(const Question&, const plan::Scale& op, Candidates& out) {
  if (op.factor != 1) out.with(op, &plan::Scale::factor, 1, "the factor is left out");
  if (op.weight) out.with(op, &plan::Scale::weight, std::nullopt, "the file's number is left out");
}

void other_factor(const Question& q, const plan::Scale& op, Candidates& out) {
  if (op.factor == 1) return;
  const auto add = [&](double factor, const std::string& detail) {
    if (std::isfinite(factor)) out.with(op, &plan::Scale::factor, static_cast<float>(factor), detail);
  };
  add(1.0 / op.factor, "its inverse");
  add(std::pow(op.factor, 2), "its square");
  if (op.factor > 0) add(std::sqrt(op.factor), "its root");
  if (!q.has_both()) return;
  const double size = squares(q.expected);
  const double by = dot(q.found, q.expected) / size;
  if (size > 0) add(to_digits(op.factor * by, 4), fmt::format("{:.4g} instead of {:.4g}", op.factor * by, op.factor));
}

void temperature_missing(const Question&, const plan::Scale& op, Candidates& out) {
  if (op.temperature) out.with(op, &plan::Scale::temperature, std::nullopt);
}

void other_temperature(const Question&, const plan::Scale& op, Candidates& out) {
  if (!op.temperature) return;
  plan::Temperature wrong = *op.temperature;
  wrong.offset = 1 - wrong.offset;
  out.with(op, &plan::Scale::temperature, wrong, fmt::format("positions count from {}", wrong.offset));
  // A row of a run is the token at that position.
  out.with_elements("not in steps", [t = *op.temperature](std::uint32_t position, std::size_t, float right) {
    const double smooth = 1 + t.beta * std::log1p((double{t.offset} + position) / t.length);
    return static_cast<float>(right / t.at(position) * smooth);
  });
}

void other_part(const Question& q, const plan::Scale& op, Candidates& out) {
  const std::size_t all = q.plan().value(op.x).width, width = q.width();
  if (all == width) return;
  for (const std::int64_t by : {-static_cast<std::int64_t>(width), static_cast<std::int64_t>(width), std::int64_t{1}}) {
    const std::int64_t first = op.first + by;
    if (first < 0 || static_cast<std::size_t>(first) + width > all) continue;
    out.with(op, &plan::Scale::first, static_cast<std::uint32_t>(first), fmt::format("from value {} on", first));
  }
}

constexpr Hypothesis table[] = {
    {"scale-missing", Kind::parameter, of<missing>, R"(a multiplier is left out
Embeddings, what a block adds, or logits are multiplied by a number of the file or of the architecture (Gemma, Granite, Command R).
multiply by it)"},
    {"scale-other", Kind::parameter, of<other_factor>, R"(another multiplier is used
Some files hold the inverse (Granite's logits), and Gemma's embeddings are multiplied by the root of their length.
use the multiplier as the architecture means it)"},
    {"temperature-missing", Kind::parameter, of<temperature_missing>, R"(queries are not scaled by their position
The model sharpens attention as the text grows: right for the first positions, wrong later.
multiply the query by its position's temperature)"},
    {"temperature-other", Kind::parameter, of<other_temperature>, R"(queries are scaled by another position
The temperature rises in steps, and counts from the first or from the next position.
1 + beta ln(1 + floor((position + offset) / length)))"},
    {"part-of-row", Kind::op, of<other_part>, R"(another part of the row is used
A value that holds several parts, such as one for each layer, is read at the wrong offset.
begin at the part's own offset)"},
};

}  // namespace
}  // namespace in_scaling

std::span<const Hypothesis> scaling() { return in_scaling::table; }

}  // namespace plumb::diagnose::families
