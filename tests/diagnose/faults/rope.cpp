// Rotary embedding: pairs, frequencies, positions.
#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

namespace {

const Names rotations{"attn_q_rope", "attn_k_rope"};

// Rotation with parts that faults replace.
struct Rotation {
  std::function<double(std::size_t position, std::size_t t, std::size_t head, const Op& op)> at =
      [](std::size_t position, std::size_t, std::size_t, const Op&) { return static_cast<double>(position); };
  std::function<double(double i, double n, double theta)> frequency = [](double i, double n, double theta) {
    return std::pow(theta, -2 * i / n);
  };
  bool swapped = false, in_place = false;
};

Make rotation(Rotation r) {
  return [r = std::move(r)](const Engine&, const Op& op) {
    const Config& c = op.config;
    Floats y = op.x;
    const std::size_t n_heads = y.size() / op.rows / c.head_dim, half_rot = c.n_rot / 2;
    for (std::size_t t = 0; t < op.rows; ++t) {
      for (std::size_t h = 0; h < n_heads; ++h) {
        for (std::size_t i = 0; i < half_rot; ++i) {
          const double angle =
              r.at(op.position + t, t, h, op) * r.frequency(static_cast<double>(i), static_cast<double>(c.n_rot), c.theta);
          double cosine = std::cos(angle), sine = std::sin(angle);
          if (r.swapped) std::swap(cosine, sine);
          float* const head = &y[(t * n_heads + h) * c.head_dim];
          float& a = head[c.halves ? i : 2 * i];
          float& b = head[c.halves ? i + half_rot : 2 * i + 1];
          const double x0 = a, x1 = b;
          a = static_cast<float>(x0 * cosine - x1 * sine);
          b = static_cast<float>((r.in_place ? double{a} : x0) * sine + x1 * cosine);
        }
      }
    }
    return y;
  };
}

}  // namespace

void add_rope_faults(const Add& add) {
  add("the other pairing", rotations, with([](const Engine&, Op& op) { op.config.halves = !op.config.halves; }),
      {"rope-pairing"});
  for (const double theta : {5e5, 2e4, 1e3}) {
    add(fmt::format("a base of {}", theta), rotations, with([theta](const Engine&, Op& op) { op.config.theta = theta; }),
        {"rope-theta"});
  }
  const auto at = [](std::function<double(std::size_t, std::size_t, std::size_t, const Op&)> position) {
    Rotation r;
    r.at = std::move(position);
    return rotation(std::move(r));
  };
  add("turned backwards", rotations,
      at([](std::size_t p, std::size_t, std::size_t, const Op&) { return -static_cast<double>(p); }), {"rope-direction"});
  for (const int by : {1, 3}) {
    add(fmt::format("positions from {}", by), rotations,
        at([by](std::size_t p, std::size_t, std::size_t, const Op&) { return static_cast<double>(p) + by; }),
        {"rope-position-offset"});
  }
  add("positions from 0 in each step", rotations,
      at([](std::size_t, std::size_t t, std::size_t, const Op&) { return static_cast<double>(t); }),
      {"rope-position-restarts", "rope-skipped"});
  add("one position for all tokens of a step", rotations,
      at([](std::size_t, std::size_t, std::size_t, const Op& op) { return static_cast<double>(op.position); }),
      {"rope-position-frozen", "rope-skipped"});
  add("the head's number in the position", rotations,
      at([](std::size_t p, std::size_t, std::size_t h, const Op&) { return static_cast<double>(p + h); }),
      {"rope-by-head"});
  add("positions divided by 4", rotations,
      at([](std::size_t p, std::size_t, std::size_t, const Op&) { return static_cast<double>(p) / 4; }), {"rope-scaling"});
  add("not rotated", rotations, [](const Engine&, const Op& op) { return op.x; }, {"rope-skipped", "buffer-aliased"});
  add("rotated twice", rotations,
      [](const Engine& e, Op op) {
        op.x = e.plain(op);
        return e.plain(op);
      },
      {"rope-twice", "op-twice"});
  add("half of the components", rotations, with([](const Engine&, Op& op) { op.config.n_rot /= 2; }), {"rope-partial"});
  const auto frequency = [](double (*of)(double, double, double)) {
    Rotation r;
    r.frequency = of;
    return rotation(std::move(r));
  };
  // This equals a base of sqrt(theta).
  add("i/d for 2i/d", rotations, frequency([](double i, double n, double theta) { return std::pow(theta, -i / n); }),
      {"rope-exponent", "rope-theta"});
  add("(i+1) for i", rotations,
      frequency([](double i, double n, double theta) { return std::pow(theta, -2 * (i + 1) / n); }), {"rope-exponent"});
  {
    Rotation swapped, in_place;
    swapped.swapped = in_place.in_place = true;
    add("sine for cosine", rotations, rotation(swapped), {"rope-sine-cosine"});
    add("the second component from the first one's new value", rotations, rotation(in_place), {"rope-in-place"});
  }
}

}  // namespace plumb::diagnose::planted
