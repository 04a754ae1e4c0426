// Rotary embedding: wrong pairs, frequencies, positions or direction.
#include <fmt/format.h>

#include <cmath>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_rope {
namespace {

using backends::reference::rotary_factors;
using backends::reference::rotate;
using backends::reference::Rotation;
using backends::reference::rotation_at;

// A head of a row that is to be rotated.
struct Head {
  const Site& site;
  std::span<const float> factors;
  std::size_t row = 0, index = 0;

  [[nodiscard]] double position() const { return site.scene.rows[row].position; }
  [[nodiscard]] StepRows step() const { return site.step(row); }
};

// Rotates every head by the angles that are given for it.
void turned(Candidates& out, const plan::Rope& op, std::string detail, std::function<Rotation(const Head&)> angles) {
  out.add(std::move(detail), [op, angles = std::move(angles)](const Site& site) {
    const std::vector<float> factors = rotary_factors(op, site.scene);
    const auto x = site.scene.value(op.x);
    const std::size_t width = site.scene.plan->value(op.x).width;
    std::vector<float> y(x.size());
    for (std::size_t at = 0; at < y.size(); at += op.head_dim)
      rotate(op, angles({site, factors, at / width, at % width / op.head_dim}), &x[at], &y[at]);
    return y;
  });
}

void at_position(Candidates& out, const plan::Rope& op, std::string detail, std::function<double(const Head&)> position) {
  turned(out, op, std::move(detail),
         [op, position = std::move(position)](const Head& head) { return rotation_at(op, head.factors, position(head)); });
}
template <auto position>
void at(const Question&, const plan::Rope& op, Candidates& out) {
  at_position(out, op, "", position);
}

void pairing(const Question&, const plan::Rope& op, Candidates& out) {
  const bool adjacent = op.pairing == plan::RopePairing::adjacent;
  out.with(op, &plan::Rope::pairing, adjacent ? plan::RopePairing::halves : plan::RopePairing::adjacent,
           adjacent ? "pairs (i, i + n_rot/2) instead of (2i, 2i + 1)" : "pairs (2i, 2i + 1) instead of (i, i + n_rot/2)");
}

void theta(const Question& q, const plan::Rope& op, Candidates& out) {
  const auto add = [&](double base) {
    if (std::abs(base / op.theta - 1) < 1e-6) return;
    out.with(op, &plan::Rope::theta, static_cast<float>(base),
             fmt::format("theta {:.6g} instead of {:.6g}", base, op.theta));
  };
  for (const double base : {1e3, 1e4, 2e4, 5e4, 1e5, 1.5e5, 1.6e5, 2.5e5, 5e5, 1e6, 5e6, 8e6, 1e7}) add(base);
  if (const auto base = fitted(q, op, &plan::Rope::theta, 2, 1e10)) add(*base);
}

void offset(const Question& q, const plan::Rope& op, Candidates& out) {
  std::set<double> offsets;
  for (int by = 1; by <= 8; ++by) offsets.insert({static_cast<double>(by), -static_cast<double>(by)});
  offsets.insert(q.replay.n_prompt());
  for (const double by : offsets) {
    at_position(out, op, fmt::format("position {:+g}", by), [by](const Head& head) { return head.position() + by; });
  }
}

void restarted(const Question&, const plan::Rope& op, Candidates& out) {
  at_position(out, op, "every step begins at position 0",
              [](const Head& head) { return head.position() - head.step().begin; });
}

void frozen(const Question&, const plan::Rope& op, Candidates& out) {
  at_position(out, op, "all tokens of a step get the position of its first",
              [](const Head& head) { return head.step().begin; });
  at_position(out, op, "all tokens of a step get the position after it",
              [](const Head& head) { return head.step().end - 1.0; });
}

void scaling(const Question& q, const plan::Rope& op, Candidates& out) {
  const auto changed = [&](std::string detail, auto change) {
    plan::Rope wrong = op;
    change(wrong);
    out.changed(wrong, std::move(detail));
  };
  if (op.factors) {
    const std::string_view tensor = q.plan().weight(*op.factors).tensor.name;
    changed(fmt::format("{} is not used", tensor), [](plan::Rope& wrong) {
      wrong.factors.reset();
      wrong.long_factors.reset();
    });
    turned(out, op, fmt::format("frequencies are multiplied by {} instead of divided", tensor), [op](const Head& head) {
      std::vector<float> inverse(head.factors.begin(), head.factors.end());
      for (float& f : inverse) f = 1 / f;
      return rotation_at(op, inverse, head.position());
    });
  }
  if (op.magnitude != 1)
    out.with(op, &plan::Rope::magnitude, 1.0f, fmt::format("the magnitude, {:g}, is not applied", op.magnitude));
  if (op.yarn) {
    changed("YaRN is read as linear scaling", [](plan::Rope& wrong) {
      wrong.yarn.reset();
      wrong.magnitude = 1;
    });
    changed("YaRN is not applied", [](plan::Rope& wrong) {
      wrong.yarn.reset();
      wrong.position_scale = wrong.magnitude = 1;
    });
    // The paper's values for llama models: https://arxiv.org/abs/2309.00071
    constexpr float usual_fast = 32, usual_slow = 1;
    if (op.yarn->beta_fast != usual_fast || op.yarn->beta_slow != usual_slow) {
      changed(fmt::format("YaRN's ramp is that of the betas {:g} and {:g} instead of {:g} and {:g}", usual_fast, usual_slow,
                          op.yarn->beta_fast, op.yarn->beta_slow),
              [](plan::Rope& wrong) {
                wrong.yarn->beta_fast = usual_fast;
                wrong.yarn->beta_slow = usual_slow;
              });
    }
    changed("all frequencies are interpolated: YaRN's ramp is left out",
            [](plan::Rope& wrong) { wrong.yarn->extrapolation_mix = 0; });
    return;
  }
  const auto scaled = [&](float by, const std::string& detail) { out.with(op, &plan::Rope::position_scale, by, detail); };
  if (op.position_scale != 1) {
    scaled(1, fmt::format("linear scaling by {:g} is not applied", 1 / op.position_scale));
    scaled(1 / op.position_scale, "positions are multiplied by the scaling factor instead of divided");
    return;
  }
  for (const float factor : {2.0f, 4.0f, 8.0f, 16.0f, 32.0f})
    scaled(1 / factor, fmt::format("positions are divided by {:g}; the file asks for no scaling", factor));
}

// The short factors for the long ones, or the reverse, whichever the run should have.
void other_factors(const Question& q, const plan::Rope& op, Candidates& out) {
  if (!op.long_factors) return;
  const bool is_long = q.replay.capacity() > op.original_context;
  const auto name = [&](plan::VectorId id) { return q.plan().weight(id).tensor.name; };
  turned(out, op,
         fmt::format("{} in place of {}", name(is_long ? *op.factors : *op.long_factors),
                     name(is_long ? *op.long_factors : *op.factors)),
         [op, is_long](const Head& head) {
           const std::vector<float> other = head.site.scene.vector(is_long ? *op.factors : *op.long_factors);
           return rotation_at(op, other, head.position());
         });
}

void partial(const Question&, const plan::Rope& op, Candidates& out) {
  for (const std::uint32_t n : {op.head_dim / 4, op.head_dim / 2, op.head_dim * 3 / 4, op.head_dim, op.n_rot - 2}) {
    if (n == op.n_rot || n < 2 || n > op.head_dim || n % 2 != 0 || op.factors) continue;
    out.with(op, &plan::Rope::n_rot, n, fmt::format("{} of {} components turn instead of {}", n, op.head_dim, op.n_rot));
  }
}

// theta^(-2i/n) with another n, or without the 2.
void exponent(const Question& q, const plan::Rope& op, Candidates& out) {
  if (op.yarn) return;
  const auto add = [&](double step, std::string detail, double first = 0) {
    turned(out, op, std::move(detail), [op, step, first](const Head& head) {
      Rotation rotation;
      for (std::uint32_t i = 0; i < op.n_rot / 2; ++i) {
        double angle = head.position() * std::pow(double{op.theta}, -step * (i + first)) * op.position_scale;
        if (!head.factors.empty()) angle /= head.factors[i];
        rotation.cosine.push_back(std::cos(angle) * op.magnitude);
        rotation.sine.push_back(std::sin(angle) * op.magnitude);
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
  turned(out, op, "", [op](const Head& head) {
    Rotation rotation = rotation_at(op, head.factors, head.position());
    std::swap(rotation.cosine, rotation.sine);
    return rotation;
  });
}

void by_head(const Question&, const plan::Rope& op, Candidates& out) {
  const auto index = [](const Head& head) { return static_cast<double>(head.index); };
  at_position(out, op, "the head's index is taken for the position", index);
  at_position(out, op, "the head's index is added to the position",
              [index](const Head& head) { return head.position() + index(head); });
  at_position(out, op, "only the first head turns", [](const Head& head) { return head.index == 0 ? head.position() : 0; });
}

// The position by which each faulty row was rotated, if a position explains every row.
void other_positions(const Question& q, const plan::Rope& op, Candidates& out) {
  constexpr double most_left = 0.1;  // of the right position's error
  const Site at_fault(q.replay, q.op_index, {q.rows.begin(), q.rows.end()});
  const std::vector<float> factors = rotary_factors(op, at_fault.scene);
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
  std::size_t n_listed = 0;
  for (const auto& [row, p] : positions) {
    if (++n_listed > 4) break;
    list += fmt::format("{}position {} turns as {:g}", list.empty() ? "" : ", ", row, p);
  }
  if (positions.size() > 4) list += fmt::format(", and {} more", positions.size() - 4);
  at_position(out, op, list, [positions](const Head& head) {
    const auto found = positions.find(head.site.rows[head.row]);
    return found == positions.end() ? head.position() : found->second;
  });
}

// Other values of the file's scaling parameters.
void other_scaling(const Question& q, const plan::Rope& op, Candidates& out) {
  // part: the member of a Rope.
  const auto fit = [&](std::string_view what, auto part) {
    const float right = part(op);
    const auto with = [&](double value) {
      plan::Rope wrong = op;
      part(wrong) = static_cast<float>(value);
      return plan::Op(wrong);
    };
    if (const auto value = fitted(q, right / 100.0, right * 100.0, with))
      out.changed(with(*value), fmt::format("{} {:.4g} instead of {:.4g}", what, *value, right));
  };
  fit(
      "positions are multiplied by", [](auto& rope) -> auto& { return rope.position_scale; });
  if (op.yarn || op.magnitude != 1)
    fit(
        "the magnitude is", [](auto& rope) -> auto& { return rope.magnitude; });
  if (!op.yarn) return;
  fit(
      "YaRN's original context is", [](auto& rope) -> auto& { return rope.yarn->original_context; });
  fit(
      "YaRN's beta_fast is", [](auto& rope) -> auto& { return rope.yarn->beta_fast; });
  fit(
      "YaRN's beta_slow is", [](auto& rope) -> auto& { return rope.yarn->beta_slow; });
}

// The loop reads components that its first half has already overwritten.
void in_place(const Question&, const plan::Rope& op, Candidates& out) {
  out.add("", [op](const Site& site) {
    const std::vector<float> factors = rotary_factors(op, site.scene);
    const auto x = site.scene.value(op.x);
    const std::size_t width = site.scene.plan->value(op.x).width;
    std::vector<float> y(x.begin(), x.end());
    const bool adjacent = op.pairing == plan::RopePairing::adjacent;
    for (std::size_t r = 0; r < site.rows.size(); ++r) {
      const Rotation turn = rotation_at(op, factors, site.scene.rows[r].position);
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
    {"rope-direction", Kind::op, of<at<[](const Head& head) { return -head.position(); }>>,
     R"(rotary embedding turns backwards
The sign of the sine is wrong.
a' = a cos - b sin, b' = a sin + b cos)"},
    {"rope-position-offset", Kind::op, of<offset>, R"(rotary positions are off by a constant
Positions count from 0, the first token's. Queries and keys that are off alike hardly show it, those of a cached prefix do.
pass the token's index in its sequence as the position)"},
    {"rope-skipped", Kind::parameter, of<at<[](const Head&) { return 0.0; }>>,
     R"(rotary embedding is not applied
The output is the input.
apply rotary embedding to q and k)"},
    {"rope-position-restarts", Kind::op, of<restarted>, R"(rotary positions start again with every step
The position is the index in the batch; the length of the cache is not added. The prompt is right, all that is written after it is not.
position = tokens in the cache + index in the step)"},
    {"rope-position-frozen", Kind::op, of<frozen>, R"(all tokens of a step get one position
The kernel reads the position once instead of by token.
use each token's own position)"},
    {"rope-twice", Kind::op, of<at<[](const Head& head) { return 2 * head.position(); }>>,
     R"(rotary embedding is applied twice
The rotation is made before the cache and again when it is read, or the weights' kernel and the attention both make it.
rotate once)"},
    {"rope-scaling", Kind::parameter, of<scaling>, R"(the scaling of rotary frequencies is not the file's
rope.scaling.*, YaRN's parameters and rope_freqs.weight (Llama 3) change the frequencies for long contexts; without them text degrades with its length.
apply what rope.scaling.type and rope_freqs.weight say)"},
    {"rope-other-factors", Kind::parameter, of<other_factors>, R"(the factors are those of the other context length
LongRoPE has short factors for caches of up to rope.scaling.original_context_length positions and long ones for larger caches. The choice is made once, for all positions.
choose the factors by the size of the context that the run is given)"},
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
    {"rope-other-positions", Kind::op, of_both<other_positions>, R"(tokens are rotated by other tokens' positions
The table of positions is not the batch's: it is stuck, turned round, clamped, or another step's.
give each token its index in the sequence)"},
};

}  // namespace
}  // namespace in_rope

std::span<const Hypothesis> rope() { return in_rope::table; }

}  // namespace plumb::diagnose::families
