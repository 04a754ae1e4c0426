// Remembers the ids of pieces while one text is encoded, since words repeat. Its size is bounded, and it lives for one
// call.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer/hash.h"
#include "text/tokenizer/tokenizer.h"

namespace plumb::text {

class PieceCache {
 public:
  static constexpr std::size_t max_piece = 48;  // bytes; longer pieces seldom repeat

  // Appends the ids of `piece` to `out`, if they are known.
  bool append(std::string_view piece, std::vector<TokenId>& out) const {
    if (piece.size() > max_piece) return false;
    const auto known = index_.find(piece, [this](std::uint32_t i) { return entries_[i].piece; });
    if (!known) return false;
    const auto first = ids_.begin() + entries_[*known].first_id;
    out.insert(out.end(), first, first + entries_[*known].n_ids);
    return true;
  }

  // Remembers the ids of `piece`, whose bytes must live as long as the cache.
  void remember(std::string_view piece, std::span<const TokenId> ids) {
    if (piece.empty() || piece.size() > max_piece) return;
    if (entries_.size() >= max_size) *this = PieceCache();
    index_.insert(piece, static_cast<std::uint32_t>(entries_.size()),
                  [this](std::uint32_t i) { return entries_[i].piece; });
    entries_.push_back({piece, static_cast<std::uint32_t>(ids_.size()), static_cast<std::uint32_t>(ids.size())});
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }

 private:
  static constexpr std::size_t max_size = 1u << 16;
  struct Entry {
    std::string_view piece;
    std::uint32_t first_id;
    std::uint32_t n_ids;
  };

  StringIndex index_;
  std::vector<Entry> entries_;
  std::vector<TokenId> ids_;
};

}  // namespace plumb::text
