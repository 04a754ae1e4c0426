// Number formats and functions of the right result.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/half.h"
#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

namespace {

float bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }
float cut_to_bf16(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, 4);
  bits &= 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

}  // namespace

void add_precision_faults(const Add& add) {
  add("results truncated to bfloat16", {"attn_q", "ffn_down", "attn_ctx"}, each(cut_to_bf16), {"precision-truncated"});
  add("results rounded to bfloat16", {"attn_v", "ffn_up", "output"}, each(bf16), {"precision-rounded"});
  add("the weight kept in bfloat16", {"attn_k", "ffn_down"}, weights([](const Op& op) {
        Floats w = op.w.data;
        for (float& v : w) v = bf16(v);
        return w;
      }),
      {"weight-converted"});
  for (const float limit : {0.5f, 2.5f}) {
    add(fmt::format("results held at {}", limit), any, then([limit](Floats& y, std::size_t, const Op&) {
          for (float& v : y) v = std::clamp(v, -limit, limit);
        }),
        {"value-clamped", "activation-clamped"});
  }
  add("the sign lost", {"attn_q", "ffn_down"}, each([](float v) { return -v; }), {"value-negated"});
  add("scaled by 1.05", any, each([](float v) { return 1.05f * v; }),
      {"value-scaled", "embedding-scale", "residual-weighed"});
  add("0.1 added", {"attn_norm", "attn_v", "attn_ctx", "ffn_down"}, each([](float v) { return v + 0.1f; }),
      {"value-offset"});
  add("what is large overflows", {"attn_v", "ffn_down", "output"}, then([](Floats& y, std::size_t, const Op&) {
        float largest = 0;
        for (const float v : y) largest = std::max(largest, std::fabs(v));
        for (float& v : y) {
          if (std::fabs(v) > largest * 0.8f) v *= std::numeric_limits<float>::infinity();
        }
      }),
      {"precision-overflow"});
  add("no number at all", any, each([](float) { return std::numeric_limits<float>::quiet_NaN(); }), {"value-not-a-number"});
}

}  // namespace plumb::diagnose::planted
