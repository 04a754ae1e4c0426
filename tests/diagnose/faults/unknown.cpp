// Faults that are in no catalogue.
#include <algorithm>
#include <cmath>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

void add_unknown_faults(const Add& add) {
  add("each row sorted", {"attn_v", "ffn_down"}, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t) {
          const auto row = y.begin() + static_cast<std::ptrdiff_t>(t * width);
          std::sort(row, row + static_cast<std::ptrdiff_t>(width));
        }
      }),
      {});
  add("a wave over the columns", {"attn_norm", "ffn_act", "attn_q"}, then([](Floats& y, std::size_t width, const Op&) {
        for (std::size_t i = 0; i < y.size(); ++i) y[i] *= 1 + 0.3f * std::sin(static_cast<float>(i % width) / 7);
      }),
      {});
  add("noise", {"attn_k", "output", "ffn_gate"}, then([](Floats& y, std::size_t, const Op&) {
        std::uint32_t state = 1;
        for (float& v : y) {
          state = state * 1664525u + 1013904223u;
          v *= 1 + 0.05f * (static_cast<float>(state >> 8) / 8388608.0f - 1);
        }
      }),
      {});
}

}  // namespace plumb::diagnose::planted
