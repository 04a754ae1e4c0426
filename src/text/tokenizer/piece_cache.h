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
    if (slots_.empty() || piece.size() > max_piece) return false;
    const Slot& slot = slots_[locate(piece)];
    if (slot.length == 0) return false;
    const auto first = ids_.begin() + slot.first_id;
    out.insert(out.end(), first, first + slot.n_ids);
    return true;
  }

  // Remembers the ids of `piece`, whose bytes must live as long as the cache.
  void remember(std::string_view piece, std::span<const TokenId> ids) {
    if (piece.empty() || piece.size() > max_piece) return;
    if (size_ >= max_size) {
      size_ = 0;
      ids_.clear();
      slots_.clear();
    }
    if ((size_ + 1) * 2 > slots_.size()) grow();
    slots_[locate(piece)] = {piece.data(), static_cast<std::uint32_t>(piece.size()), static_cast<std::uint32_t>(ids.size()),
                             static_cast<std::uint32_t>(ids_.size())};
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ++size_;
  }

 private:
  static constexpr std::size_t max_size = 1u << 16;
  struct Slot {
    const char* text = nullptr;
    std::uint32_t length = 0;  // 0 when empty
    std::uint32_t n_ids = 0;
    std::uint32_t first_id = 0;
  };

  [[nodiscard]] std::size_t locate(std::string_view piece) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = hash_bytes(piece, seed_) & mask;
    while (slots_[at].length != 0 && std::string_view(slots_[at].text, slots_[at].length) != piece) at = (at + 1) & mask;
    return at;
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 64 : slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.length != 0) slots_[locate({slot.text, slot.length})] = slot;
  }

  std::uint64_t seed_ = random_seed();
  std::size_t size_ = 0;
  std::vector<Slot> slots_;
  std::vector<TokenId> ids_;
};

}  // namespace plumb::text
