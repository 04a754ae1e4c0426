// Rotary embedding: wrong pairs, frequencies, positions or direction.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_rope {
namespace {

using backends::reference::rotate;
using backends::reference::Rotation;
using backends::reference::rotation_at;
using backends::reference::Scene;

std::vector<float> factors_of(const plan::Rope& op, const Scene& scene) {
  return op.factors ? scene.vector(*op.factors) : std::vector<float>();
}

// Rotates every head by the angles that `angles` gives for its row and head.
void turned(
    Candidates& out, const plan::Rope& op, std::string detail,
    std::function<Rotation(const Site&, std::span<const float> factors, std::size_t row, std::size_t head)> angles) {
  out.add(std::move(detail), [op, angles = std::move(angles)](const Site& site) {
    const std::vector<float> factors = factors_of(op, site.scene);
    const auto x = site.scene.value(op.x);
    const std::size_t width = site.scene.plan->value(op.x).width;
    std::vector<float> y(x.size());
    for (std::size_t r = 0; r < site.rows.size(); ++r) {
      for (std::size_t h = 0; h < width / op.head_dim; ++h) {
        const std::size_t at = r * width + h * op.head_dim;
        rotate(op, angles(site, factors, r, h), x.data() + at, y.data() + at);
      }
    }
    return y;
  });
}

void at_position(Candidates& out, const plan::Rope& op, std::string detail,
                 std::function<double(const Site&, std::size_t row, std::size_t head)> position) {
  turned(out, op, std::move(detail),
         [op, position = std::move(position)](const Site& site, std::span<const float> factors, std::size_t row,
                                              std::size_t head) {
           return rotation_at(op, factors, position(site, row, head));
         });
}

double right_position(const Site& site, std::size_t row) { return site.scene.rows[row].position; }
StepRows step_of(const Site& site, std::size_t row) { return diagnose::step_of(site.replay.rows(), site.rows[row]); }

void pairing(const Question&, const plan::Rope& op, Candidates& out) {
  plan::Rope wrong = op;
  const bool adjacent = op.pairing == plan::RopePairing::adjacent;
  wrong.pairing = adjacent ? plan::RopePairing::halves : plan::RopePairing::adjacent;
  out.changed(wrong, adjacent ? "pairs (i, i + n_rot/2) instead of (2i, 2i + 1)"
                              : "pairs (2i, 2i + 1) instead of (i, i + n_rot/2)");
}

void theta(const Question& q, const plan::Rope& op, Candidates& out) {
  const auto add = [&](double base) {
    plan::Rope wrong = op;
    wrong.theta = static_cast<float>(base);
    if (std::abs(base / op.theta - 1) < 1e-6) return;
    out.changed(wrong, fmt::format("theta {:.6g} instead of {:.6g}", base, op.theta));
  };
  for (const double base : {1e3, 1e4, 2e4, 5e4, 1e5, 1.5e5, 1.6e5, 2.5e5, 5e5, 1e6, 5e6, 8e6, 1e7}) add(base);
  const auto with = [op](double base) {
    plan::Rope wrong = op;
    wrong.theta = static_cast<float>(base);
    return plan::Op(wrong);
  };
  if (const auto base = fitted(q, 2, 1e10, with)) add(*base);
}

void direction(const Question&, const plan::Rope& op, Candidates& out) {
  at_position(out, op, "", [](const Site& site, std::size_t row, std::size_t) { return -right_position(site, row); });
}

void offset(const Question& q, const plan::Rope& op, Candidates& out) {
  std::set<double> offsets;
  for (int by = 1; by <= 8; ++by) offsets.insert({static_cast<double>(by), -static_cast<double>(by)});
  offsets.insert(diagnose::step_of(q.replay.rows(), 0).end);
  for (const double by : offsets) {
    at_position(out, op, fmt::format("position {:+g}", by),
                [by](const Site& site, std::size_t row, std::size_t) { return right_position(site, row) + by; });
  }
}

void restarted(const Question&, const plan::Rope& op, Candidates& out) {
  at_position(out, op, "every step begins at position 0", [](const Site& site, std::size_t row, std::size_t) {
    return right_position(site, row) - step_of(site, row).begin;
  });
}

void frozen(const Question&, const plan::Rope& op, Candidates& out) {
  at_position(out, op, "all tokens of a step get the position of its first",
              [](const Site& site, std::size_t row, std::size_t) { return static_cast<double>(step_of(site, row).begin); });
  at_position(out, op, "all tokens of a step get the position after it",
              [](const Site& site, std::size_t row, std::size_t) { return step_of(site, row).end - 1.0; });
}

void skipped(const Question&, const plan::Rope& op, Candidates& out) {
  at_position(out, op, "", [](const Site&, std::size_t, std::size_t) { return 0.0; });
}

void twice(const Question&, const plan::Rope& op, Candidates& out) {
  at_position(out, op, "", [](const Site& site, std::size_t row, std::size_t) { return 2 * right_position(site, row); });
}

void scaling(const Question&, const plan::Rope& op, Candidates& out) {
  if (op.factors) {
    plan::Rope wrong = op;
    wrong.factors.reset();
    out.changed(wrong, "rope_freqs.weight is not used");
    turned(out, op, "frequencies are multiplied by rope_freqs.weight instead of divided",
           [op](const Site& site, std::span<const float> factors, std::size_t row, std::size_t) {
             std::vector<float> inverse(factors.begin(), factors.end());
             for (float& f : inverse) f = 1 / f;
             return rotation_at(op, inverse, right_position(site, row));
           });
  }
  if (op.yarn) {
    plan::Rope wrong = op;
    wrong.yarn.reset();
    out.changed(wrong, "YaRN is read as linear scaling");
    wrong.position_scale = 1;
    out.changed(wrong, "YaRN is not applied");
    wrong = op;
    wrong.yarn->attention_factor = 1;
    out.changed(wrong, "YaRN's magnitude is not applied");
    wrong = op;
    // The paper's values for llama models: https://arxiv.org/abs/2309.00071
    constexpr float usual_fast = 32, usual_slow = 1;
    wrong.yarn->beta_fast = usual_fast;
    wrong.yarn->beta_slow = usual_slow;
    if (op.yarn->beta_fast != usual_fast || op.yarn->beta_slow != usual_slow) {
      out.changed(wrong, fmt::format("YaRN's ramp is that of the betas {:g} and {:g} instead of {:g} and {:g}", usual_fast,
                                     usual_slow, op.yarn->beta_fast, op.yarn->beta_slow));
    }
    wrong = op;
    wrong.yarn->extrapolation_mix = 0;
    out.changed(wrong, "all frequencies are interpolated: YaRN's ramp is left out");
  }
  if (op.position_scale != 1 && !op.yarn) {
    plan::Rope wrong = op;
    wrong.position_scale = 1;
    out.changed(wrong, fmt::format("linear scaling by {:g} is not applied", 1 / op.position_scale));
    wrong.position_scale = 1 / op.position_scale;
    out.changed(wrong, "positions are multiplied by the scaling factor instead of divided");
  }
  if (op.position_scale == 1 && !op.yarn) {
    for (const float factor : {2.0f, 4.0f, 8.0f, 16.0f, 32.0f}) {
      plan::Rope wrong = op;
      wrong.position_scale = 1 / factor;
      out.changed(wrong, fmt::format("positions are divided by {:g}; the file asks for no scaling", factor));
    }
  }
}

void partial(const Question&, const plan::Rope& op, Candidates& out) {
  for (const std::uint32_t n : {op.head_dim / 4, op.head_dim / 2, op.head_dim * 3 / 4, op.head_dim, op.n_rot - 2}) {
    if (n == op.n_rot || n < 2 || n > op.head_dim || n % 2 != 0 || op.factors) continue;
    plan::Rope wrong = op;
    wrong.n_rot = n;
    out.changed(wrong, fmt::format("{} of {} components turn instead of {}", n, op.head_dim, op.n_rot));
  }
}

// theta^(-2i/n) with another n, or without the 2.
void exponent(const Question& q, const plan::Rope& op, Candidates& out) {
  if (op.yarn) return;
  const auto add = [&](double step, std::string detail, double first = 0) {
    turned(out, op, std::move(detail),
           [op, step, first](const Site& site, std::span<const float> factors, std::size_t row, std::size_t) {
             Rotation rotation;
             for (std::uint32_t i = 0; i < op.n_rot / 2; ++i) {
               double angle =
                   right_position(site, row) * std::pow(double{op.theta}, -step * (i + first)) * op.position_scale;
               if (!factors.empty()) angle /= factors[i];
               rotation.cosine.push_back(std::cos(angle));
               rotation.sine.push_back(std::sin(angle));
             }
             return rotation;
           });
  };
  const std::uint32_t d_model = q.replay.parameters().d_model;
  add(1.0 / op.n_rot, "theta^(-i/n_rot)");
  add(4.0 / op.n_rot, "theta^(-4i/n_rot)");
  add(2.0 / d_model, fmt::format("theta^(-2i/{}), the model's width instead of the head's", d_model));
  add(2.0 / op.n_rot, "theta^(-2(i + 1)/n_rot)", 1);
  add(2.0 / op.n_rot, "theta^(-(2i + 1)/n_rot)", 0.5);
  if (op.n_rot > 2) add(2.0 / (op.n_rot - 2), "theta^(-2i/(n_rot - 2))");
  if (op.head_dim != op.n_rot) add(2.0 / op.head_dim, "theta^(-2i/head_dim) instead of n_rot");
}

void exchanged(const Question&, const plan::Rope& op, Candidates& out) {
  turned(out, op, "", [op](const Site& site, std::span<const float> factors, std::size_t row, std::size_t) {
    Rotation rotation = rotation_at(op, factors, right_position(site, row));
    std::swap(rotation.cosine, rotation.sine);
    return rotation;
  });
}

void by_head(const Question&, const plan::Rope& op, Candidates& out) {
  at_position(out, op, "the head's index is taken for the position",
              [](const Site&, std::size_t, std::size_t head) { return static_cast<double>(head); });
  at_position(out, op, "the head's index is added to the position",
              [](const Site& site, std::size_t row, std::size_t head) {
                return right_position(site, row) + static_cast<double>(head);
              });
  at_position(out, op, "only the first head turns", [](const Site& site, std::size_t row, std::size_t head) {
    return head == 0 ? right_position(site, row) : 0.0;
  });
}

// The position by which each faulty row was rotated, if a position explains every row.
void other_positions(const Question& q, const plan::Rope& op, Candidates& out) {
  if (q.found.empty()) return;
  constexpr double most_left = 0.1;  // of the right position's error
  const Site at_fault(q.replay, q.op_index, {q.rows.begin(), q.rows.end()});
  const std::vector<float> factors = factors_of(op, at_fault.scene);
  const auto x = at_fault.scene.value(op.x);
  const std::size_t width = q.width();
  const std::size_t n_positions = 2 * q.replay.rows().size() + 16;
  std::map<std::uint32_t, double> positions;  // by row
  std::vector<float> y(op.head_dim);
  for (std::size_t r = 0; r < q.rows.size(); ++r) {
    double least = infinity, right = 0;
    for (std::size_t p = 0; p < n_positions; ++p) {
      const Rotation turn = rotation_at(op, factors, static_cast<double>(p));
      double error = 0;
      for (std::size_t head = r * width; head < (r + 1) * width; head += op.head_dim) {
        rotate(op, turn, x.data() + head, y.data());
        for (std::size_t i = 0; i < op.head_dim; ++i) error += std::pow(double{q.found[head + i]} - y[i], 2);
      }
      if (p == q.rows[r]) right = error;
      if (error < least) {
        least = error;
        positions[q.rows[r]] = static_cast<double>(p);
      }
    }
    if (!(least <= most_left * most_left * right)) return;
  }
  std::string list;
  std::size_t n = 0;
  for (const auto& [row, p] : positions) {
    if (++n > 4) break;
    list += fmt::format("{}position {} turns as {:g}", list.empty() ? "" : ", ", row, p);
  }
  if (positions.size() > 4) list += fmt::format(", and {} more", positions.size() - 4);
  at_position(out, op, list, [positions](const Site& site, std::size_t row, std::size_t) {
    const auto found = positions.find(site.rows[row]);
    return found == positions.end() ? right_position(site, row) : found->second;
  });
}

// Other values of the file's scaling parameters.
void other_scaling(const Question& q, const plan::Rope& op, Candidates& out) {
  const auto fit = [&](float right, std::string_view what, auto set) {
    const auto with = [&](double value) {
      plan::Rope wrong = op;
      set(wrong, static_cast<float>(value));
      return plan::Op(wrong);
    };
    if (const auto value = fitted(q, right / 100.0, right * 100.0, with))
      out.changed(with(*value), fmt::format("{} {:.4g} instead of {:.4g}", what, *value, right));
  };
  fit(op.position_scale, "positions are multiplied by", [](plan::Rope& rope, float value) { rope.position_scale = value; });
  if (op.yarn) {
    fit(op.yarn->attention_factor, "YaRN's magnitude is",
        [](plan::Rope& rope, float v) { rope.yarn->attention_factor = v; });
    fit(op.yarn->original_context, "YaRN's original context is",
        [](plan::Rope& rope, float v) { rope.yarn->original_context = v; });
    fit(op.yarn->beta_fast, "YaRN's beta_fast is", [](plan::Rope& rope, float v) { rope.yarn->beta_fast = v; });
    fit(op.yarn->beta_slow, "YaRN's beta_slow is", [](plan::Rope& rope, float v) { rope.yarn->beta_slow = v; });
  }
}

// The loop reads components that its first half has already overwritten.
void in_place(const Question&, const plan::Rope& op, Candidates& out) {
  out.add("", [op](const Site& site) {
    const std::vector<float> factors = factors_of(op, site.scene);
    const auto x = site.scene.value(op.x);
    const std::size_t width = site.scene.plan->value(op.x).width;
    std::vector<float> y(x.begin(), x.end());
    const bool adjacent = op.pairing == plan::RopePairing::adjacent;
    for (std::size_t r = 0; r < site.rows.size(); ++r) {
      const Rotation turn = rotation_at(op, factors, right_position(site, r));
      for (std::size_t head = r * width; head < (r + 1) * width; head += op.head_dim) {
        for (std::uint32_t i = 0; i < op.n_rot / 2; ++i) {
          float& a = y[head + (adjacent ? 2 * i : i)];
          float& b = y[head + (adjacent ? 2 * i + 1 : i + op.n_rot / 2)];
          a = static_cast<float>(a * turn.cosine[i] - b * turn.sine[i]);
          b = static_cast<float>(a * turn.sine[i] + b * turn.cosine[i]);
        }
      }
    }
    return y;
  });
}

constexpr Hypothesis table[] = {
    {"rope-pairing", Kind::parameter, of<pairing>, R"(rotary embedding turns other pairs of components
llama's GGUF files have the rows of Q and K in an order in which neighbours turn together; qwen's and most others turn component i with i + n_rot/2 (NEOX). The other order leaves short prompts almost right and falls apart as positions grow.
choose the pairing by general.architecture)"},
    // Stands before the hypothesis of another base, which is fitted: the base 10000^2 rotates the first half of the
    // components as if half of them rotated by 10000, and the others hardly.
    {"rope-partial", Kind::parameter, of<partial>, R"(another number of components turns
rope.dimension_count components of each head turn, the rest stay.
turn rope.dimension_count components)"},
    {"rope-theta", Kind::parameter, of<theta>, R"(rotary embedding uses another base
The base is the file's rope.freq_base (10000 where a llama file has none). A constant in the code fits one model only.
read rope.freq_base from the file)"},
    {"rope-direction", Kind::op, of<direction>, R"(rotary embedding turns backwards
The sign of the sine is wrong.
a' = a cos - b sin, b' = a sin + b cos)"},
    {"rope-position-offset", Kind::op, of<offset>, R"(rotary positions are off by a constant
Positions count from 0, the first token's. Queries and keys that are off alike hardly show it, those of a cached prefix do.
pass the token's index in its sequence as the position)"},
    {"rope-skipped", Kind::parameter, of<skipped>, R"(rotary embedding is not applied
The output is the input.
apply rotary embedding to q and k)"},
    {"rope-position-restarts", Kind::op, of<restarted>, R"(rotary positions start again with every step
The position is the index in the batch; the length of the cache is not added. The prompt is right, all that is written after it is not.
position = tokens in the cache + index in the step)"},
    {"rope-position-frozen", Kind::op, of<frozen>, R"(all tokens of a step get one position
The kernel reads the position once instead of by token.
use each token's own position)"},
    {"rope-twice", Kind::op, of<twice>, R"(rotary embedding is applied twice
The rotation is made before the cache and again when it is read, or the weights' kernel and the attention both make it.
rotate once)"},
    {"rope-scaling", Kind::parameter, of<scaling>, R"(the scaling of rotary frequencies is not the file's
rope.scaling.*, YaRN's parameters and rope_freqs.weight (Llama 3) change the frequencies for long contexts; without them text degrades with its length.
apply what rope.scaling.type and rope_freqs.weight say)"},
    {"rope-exponent", Kind::op, of<exponent>, R"(the frequencies' exponent is wrong
Pair i turns by position * theta^(-2i/n_rot). Other denominators or a missing 2 spread the frequencies wrongly.
theta^(-2i/n_rot) for i = 0 .. n_rot/2 - 1)"},
    {"rope-sine-cosine", Kind::op, of<exchanged>, R"(sine and cosine are exchanged
The table's halves are read the wrong way round.
a' = a cos - b sin, b' = a sin + b cos)"},
    {"rope-by-head", Kind::op, of<by_head>, R"(the rotation depends on the head
The kernel's thread index mixes head and position.
index the table by position and pair alone)"},
    {"rope-in-place", Kind::op, of<in_place>, R"(the second component is turned with the first one's new value
The rotation is made in place and a is overwritten before b is computed from it.
keep both old values until both new ones are computed)"},
    {"rope-scaling-other", Kind::parameter, of<other_scaling>, R"(rotary frequencies are scaled by another factor
rope.scaling.* say by how much, and for YaRN from which frequency on.
read rope.scaling.* from the file)"},
    {"rope-other-positions", Kind::op, of<other_positions>, R"(tokens are rotated by other tokens' positions
The table of positions is not the batch's: it is stuck, turned round, clamped, or another step's.
give each token its index in the sequence)"},
};

}  // namespace
}  // namespace in_rope

std::span<const Hypothesis> rope() { return in_rope::table; }

}  // namespace plumb::diagnose::families
