// The logits: shifted, of another row, or changed by a sampler.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

void add_logits_faults(const Add& add) {
  for (const int by : {1, 2, 7}) {
    add(fmt::format("logits shifted by {}", by), {"logits"},
        then([by](Floats& y, std::size_t, const Op&) { std::rotate(y.begin(), y.begin() + by, y.end()); }),
        {"logits-index"});
  }
  add("logits of the first token", {"logits"}, with([](const Engine& e, Op& op) {
        const Floats all = e.value("output_norm", op.step);
        op.x.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(op.w.width));
      }),
      {"logits-other-row"});
  const Names head{"logits"};
  add("probabilities for logits", head, then([](Floats& y, std::size_t, const Op&) {
        double sum = 0;
        for (const float v : y) sum += std::exp(double{v});
        for (float& v : y) v = static_cast<float>(std::exp(double{v}) / sum);
      }),
      {"logits-postprocessed"});
  add("logits capped at 7", head, each([](float v) { return 7 * std::tanh(v / 7); }), {"logits-postprocessed"});
  add("a penalty for what was said", head,
      [](const Engine& e, const Op& op) {
        Floats y = e.plain(op);
        const std::size_t n = op.position + e.value("token_embd", op.step).size() / e.config().d;
        std::set<std::int32_t> said(e.tokens().begin(), e.tokens().begin() + static_cast<std::ptrdiff_t>(n));
        for (const std::int32_t id : said) {
          float& v = y[static_cast<std::size_t>(id)];
          v = v < 0 ? v * 1.2f : v / 1.2f;
        }
        return y;
      },
      {"logits-postprocessed"});
  add("all but the ten largest logits gone", head, then([](Floats& y, std::size_t, const Op&) {
        Floats by_size = y;
        std::sort(by_size.begin(), by_size.end());
        const float tenth = by_size[by_size.size() - 10];
        for (float& v : y) v = v < tenth ? -std::numeric_limits<float>::infinity() : v;
      }),
      {"logits-filtered"});
  add("three ids forbidden", head, then([](Floats& y, std::size_t, const Op&) {
        for (const std::size_t id : {0u, 3u, 7u}) y[id] = -1e9f;
      }),
      {"logits-filtered"});
}

}  // namespace plumb::diagnose::planted
