// The merging of SentencePiece and byte-level BPE: of all pairs of neighbours that may be merged, the first one (lowest
// order, then leftmost) becomes one symbol, until no pair may be merged.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <utility>
#include <vector>

#include "text/tokenizer/hash.h"
#include "text/tokenizer/tokenizer.h"

namespace plumb::text {

struct Symbol {
  std::uint32_t start;   // bytes from the start of the piece
  std::uint32_t length;  // bytes
  TokenId id;
};

// The result of merging two neighbours, and its order: lower orders are merged first.
struct Merge {
  std::uint32_t order;
  TokenId id;
};

// Merges `symbols` in place. `find(left, right)` is the optional Merge of two neighbours, and must depend only on them.
// Time n log n in the number of symbols.
class Merger {
 public:
  template <class Find>
  void run(std::vector<Symbol>& symbols, const Find& find) {
    if (symbols.size() < 2) return;
    if (symbols.size() <= few) {
      run_few(symbols, find);
    } else if (symbols.size() <= many) {
      run_queue<Heap>(symbols, find);
    } else {
      run_queue<Buckets>(symbols, find);
    }
  }

 private:
  static constexpr std::size_t few = 32;     // up to here, testing all pairs is faster than a queue
  static constexpr std::size_t many = 4096;  // from here on, one heap would not fit the cache
  static constexpr std::uint32_t never = ~std::uint32_t{0};

  struct Candidate {
    std::uint32_t left;
    std::uint32_t length;  // of both symbols; if it has changed, one of them has been merged since
    TokenId id;
    bool operator>(const Candidate& other) const { return left > other.left; }
  };

  // The candidates of one order. A long text has few orders and many candidates. Most candidates are known before the first
  // is taken; they are sorted once. Only later ones need a heap.
  class Bucket {
   public:
    void push(const Candidate& candidate) {
      if (!taking_) {
        early_.push_back(candidate);
      } else {
        late_.push_back(candidate);
        std::push_heap(late_.begin(), late_.end(), std::greater<>());
      }
    }

    Candidate take() {
      if (!taking_) {
        const auto by_left = [](const Candidate& a, const Candidate& b) { return b > a; };
        if (!std::is_sorted(early_.begin(), early_.end(), by_left)) std::sort(early_.begin(), early_.end(), by_left);
        taking_ = true;
      }
      if (late_.empty() || (taken_ < early_.size() && late_.front() > early_[taken_])) return early_[taken_++];
      std::pop_heap(late_.begin(), late_.end(), std::greater<>());
      const Candidate candidate = late_.back();
      late_.pop_back();
      return candidate;
    }

    [[nodiscard]] bool empty() const { return taken_ == early_.size() && late_.empty(); }

   private:
    std::vector<Candidate> early_, late_;
    std::size_t taken_ = 0;
    bool taking_ = false;
  };

  // All candidates in one heap, taken by order and then from the left.
  class Heap {
   public:
    void push(std::uint32_t order, const Candidate& candidate) { heap_.push({order, candidate}); }

    std::optional<Candidate> take() {
      if (heap_.empty()) return std::nullopt;
      const Candidate candidate = heap_.top().second;
      heap_.pop();
      return candidate;
    }

   private:
    using Item = std::pair<std::uint32_t, Candidate>;
    struct Later {
      bool operator()(const Item& a, const Item& b) const {
        return a.first != b.first ? a.first > b.first : a.second > b.second;
      }
    };
    std::priority_queue<Item, std::vector<Item>, Later> heap_;
  };

  // All candidates, in a bucket for each order.
  class Buckets {
   public:
    void push(std::uint32_t order, const Candidate& candidate) {
      const auto number = static_cast<std::uint32_t>(buckets_.size());
      std::uint32_t at = number;
      if (order == last_order_) {
        at = last_bucket_;
      } else if (!numbers_.insert(order, number)) {
        at = *numbers_.find(order);
      }
      if (at == number) buckets_.emplace_back();
      if (buckets_[at].empty()) orders_.push({order, at});
      buckets_[at].push(candidate);
      last_order_ = order;
      last_bucket_ = at;
    }

    std::optional<Candidate> take() {
      if (orders_.empty()) return std::nullopt;
      Bucket& bucket = buckets_[orders_.top().second];
      const Candidate candidate = bucket.take();
      if (bucket.empty()) orders_.pop();
      return candidate;
    }

   private:
    using Order = std::pair<std::uint32_t, std::uint32_t>;  // and its bucket
    std::vector<Bucket> buckets_;
    IntegerMap<std::uint32_t> numbers_;
    std::priority_queue<Order, std::vector<Order>, std::greater<>> orders_;  // of the buckets that are not empty
    std::uint32_t last_order_ = never;
    std::uint32_t last_bucket_ = 0;
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

  template <class Queue, class Find>
  void run_queue(std::vector<Symbol>& symbols, const Find& find) {
    const auto count = static_cast<std::uint32_t>(symbols.size());
    next_.resize(count);
    previous_.resize(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      next_[i] = i + 1;
      previous_[i] = i - 1;  // wraps for the first, whose entry is never read
    }
    Queue queue;
    const auto consider = [&](std::uint32_t left, std::uint32_t right) {
      if (const std::optional<Merge> merge = find(symbols[left], symbols[right]))
        queue.push(merge->order, {left, symbols[left].length + symbols[right].length, merge->id});
    };
    for (std::uint32_t i = 0; i + 1 < count; ++i) consider(i, i + 1);
    while (const std::optional<Candidate> top = queue.take()) {
      Symbol& left = symbols[top->left];
      const std::uint32_t right = next_[top->left];
      if (left.length == 0 || right == count || left.length + symbols[right].length != top->length) continue;
      left.length = top->length;
      left.id = top->id;
      symbols[right].length = 0;
      const std::uint32_t after = next_[right];
      next_[top->left] = after;
      if (top->left > 0) consider(previous_[top->left], top->left);
      if (after < count) {
        previous_[after] = top->left;
        consider(top->left, after);
      }
    }
    std::erase_if(symbols, [](const Symbol& symbol) { return symbol.length == 0; });
  }

  std::vector<Merge> candidates_;
  std::vector<std::uint32_t> next_, previous_;
};

}  // namespace plumb::text
