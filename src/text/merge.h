// The merging that SentencePiece and byte-level BPE share: of all neighbouring symbols that may be merged, the pair that
// comes first (lowest order, then leftmost) becomes one symbol, until none may.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <queue>
#include <vector>

#include "text/tokenizer.h"

namespace plumb::text {

struct Symbol {
  std::uint32_t start;   // bytes from the start of the piece
  std::uint32_t length;  // bytes
  TokenId id;
};

// What two neighbours would become, and when: lower orders are merged first.
struct Merge {
  std::uint32_t order;
  TokenId id;
};

// Merges `symbols` in place. `find(left, right)` is the optional Merge of two neighbours; it must depend on them alone.
// Time n log n in the number of symbols.
class Merger {
 public:
  template <class Find>
  void run(std::vector<Symbol>& symbols, const Find& find) {
    if (symbols.size() < 2) return;
    if (symbols.size() <= few) {
      run_few(symbols, find);
    } else {
      run_many(symbols, find);
    }
  }

 private:
  static constexpr std::size_t few = 32;  // up to here, looking at all pairs is quicker than a queue
  static constexpr std::uint32_t never = ~std::uint32_t{0};

  struct Candidate {
    std::uint32_t order;
    std::uint32_t left;
    std::uint32_t length;  // of both together: another length means that one of them has been merged since
    TokenId id;
    bool operator<(const Candidate& other) const {  // the top of a std::priority_queue is its greatest
      return order != other.order ? order > other.order : left > other.left;
    }
  };

  template <class Find>
  void run_few(std::vector<Symbol>& symbols, const Find& find) {
    candidates_.clear();
    const auto candidate = [&](std::size_t i) {
      const std::optional<Merge> merge = find(symbols[i], symbols[i + 1]);
      return merge ? *merge : Merge{never, 0};
    };
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) candidates_.push_back(candidate(i));
    while (!candidates_.empty()) {
      const auto best = std::min_element(candidates_.begin(), candidates_.end(),
                                         [](const Merge& a, const Merge& b) { return a.order < b.order; });
      if (best->order == never) return;
      const auto left = static_cast<std::size_t>(best - candidates_.begin());
      symbols[left].length += symbols[left + 1].length;
      symbols[left].id = best->id;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(left) + 1);
      candidates_.erase(best);
      if (left < candidates_.size()) candidates_[left] = candidate(left);
      if (left > 0) candidates_[left - 1] = candidate(left - 1);
    }
  }

  template <class Find>
  void run_many(std::vector<Symbol>& symbols, const Find& find) {
    const auto count = static_cast<std::uint32_t>(symbols.size());
    next_.resize(count);
    previous_.resize(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      next_[i] = i + 1;
      previous_[i] = i - 1;  // wraps for the first, which is never asked
    }
    std::vector<Candidate> start;
    const auto candidate = [&](std::uint32_t left, std::uint32_t right) -> std::optional<Candidate> {
      const std::optional<Merge> merge = find(symbols[left], symbols[right]);
      if (!merge) return std::nullopt;
      return Candidate{merge->order, left, symbols[left].length + symbols[right].length, merge->id};
    };
    for (std::uint32_t i = 0; i + 1 < count; ++i)
      if (const auto c = candidate(i, i + 1)) start.push_back(*c);
    std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(start));
    while (!queue.empty()) {
      const Candidate top = queue.top();
      queue.pop();
      Symbol& left = symbols[top.left];
      const std::uint32_t right = next_[top.left];
      if (left.length == 0 || right == count || left.length + symbols[right].length != top.length) continue;
      left.length = top.length;
      left.id = top.id;
      symbols[right].length = 0;
      const std::uint32_t after = next_[right];
      next_[top.left] = after;
      if (after < count) {
        previous_[after] = top.left;
        if (const auto c = candidate(top.left, after)) queue.push(*c);
      }
      if (top.left > 0)
        if (const auto c = candidate(previous_[top.left], top.left)) queue.push(*c);
    }
    std::erase_if(symbols, [](const Symbol& symbol) { return symbol.length == 0; });
  }

  std::vector<Merge> candidates_;
  std::vector<std::uint32_t> next_, previous_;
};

}  // namespace plumb::text
