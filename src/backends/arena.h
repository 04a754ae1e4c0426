// Memory by lifetime: one allocation whose ranges are used again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace plumb::backends {

// Gives out byte ranges that overlap only where lifetimes do not.
class Arena {
 public:
  // The range is taken until release(). First fit.
  std::size_t take(std::size_t size) {
    std::size_t offset = 0;
    auto place = taken_.begin();
    for (; place != taken_.end() && place->begin - offset < size; ++place) offset = place->end;
    taken_.insert(place, Range{offset, offset + size});
    peak_ = std::max(peak_, offset + size);
    return offset;
  }
  void release(std::size_t offset) {
    std::erase_if(taken_, [&](const Range& range) { return range.begin == offset; });
  }
  [[nodiscard]] std::size_t peak() const { return peak_; }

 private:
  struct Range {
    std::size_t begin, end;
  };
  std::vector<Range> taken_;  // in order
  std::size_t peak_ = 0;
};

}  // namespace plumb::backends
