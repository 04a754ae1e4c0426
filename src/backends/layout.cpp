#include "backends/layout.h"

#include <algorithm>
#include <numeric>

namespace plumb::backends {

namespace {

// Assigns ranges of memory. Two ranges overlap only if their lifetimes do not.
class Arena {
 public:
  explicit Arena(std::size_t alignment) : alignment_(alignment) {}

  // The first gap of `size` bytes that is free from step `begin` on. Calls must be in the order of `begin`.
  std::size_t take(std::size_t size, std::uint32_t begin, std::uint32_t end) {
    std::erase_if(taken_, [&](const Range& range) { return range.last_step < begin; });
    size = (size + alignment_ - 1) / alignment_ * alignment_;
    std::size_t offset = 0;
    auto place = taken_.begin();
    for (; place != taken_.end() && place->begin - offset < size; ++place) offset = place->end;
    taken_.insert(place, Range{offset, offset + size, end});
    peak_ = std::max(peak_, offset + size);
    return offset;
  }
  [[nodiscard]] std::size_t peak() const { return peak_; }

 private:
  struct Range {
    std::size_t begin, end;
    std::uint32_t last_step;
  };
  std::size_t alignment_;
  std::vector<Range> taken_;  // in order
  std::size_t peak_ = 0;
};

}  // namespace

Layout lay_out(std::span<const Lifetime> lifetimes, std::size_t alignment) {
  std::vector<std::size_t> order(lifetimes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return lifetimes[a].begin < lifetimes[b].begin; });
  Arena tokens(alignment), outputs(alignment);
  Layout layout;
  layout.places.resize(lifetimes.size());
  for (const std::size_t i : order) {
    const Lifetime& life = lifetimes[i];
    Arena& arena = life.rows == plan::Rows::tokens ? tokens : outputs;
    layout.places[i] = {life.rows, arena.take(life.bytes, life.begin, life.end)};
  }
  layout.token_bytes = tokens.peak();
  layout.output_bytes = outputs.peak();
  return layout;
}

}  // namespace plumb::backends
