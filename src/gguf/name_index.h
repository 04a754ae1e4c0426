// Finds items by name, and finds duplicate names. It sorts instead of hashing: n log n for any names, where names chosen by
// an attacker could make a hash table quadratic.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace plumb::gguf {

class NameIndex {
 public:
  NameIndex() = default;

  // Entry i gets the name name_of(items[i]). The names' characters must not move.
  template <class Items, class NameOf>
  NameIndex(const Items& items, NameOf name_of) {
    entries_.reserve(items.size());
    for (const auto& item : items) entries_.emplace_back(name_of(item), entries_.size());
    std::sort(entries_.begin(), entries_.end());
  }

  [[nodiscard]] std::optional<std::size_t> find(std::string_view name) const {
    const auto entry = std::lower_bound(entries_.begin(), entries_.end(), Entry{name, 0});
    if (entry == entries_.end() || entry->first != name) return std::nullopt;
    return entry->second;
  }

  // The places of the two items that share a name: of several such pairs, the one whose second item comes first.
  [[nodiscard]] std::optional<std::pair<std::size_t, std::size_t>> duplicate() const {
    std::optional<std::pair<std::size_t, std::size_t>> found;
    for (std::size_t i = 1; i < entries_.size(); ++i) {
      if (entries_[i - 1].first != entries_[i].first) continue;
      if (!found || entries_[i].second < found->second) found = {entries_[i - 1].second, entries_[i].second};
    }
    return found;
  }

 private:
  using Entry = std::pair<std::string_view, std::size_t>;
  std::vector<Entry> entries_;
};

}  // namespace plumb::gguf
