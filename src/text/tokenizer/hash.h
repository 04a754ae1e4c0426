// Flat hash tables for vocabularies. Every table has a random seed of its own, so that no file and no text can be built to
// cause collisions.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <string_view>
#include <vector>

namespace plumb::text {

inline std::uint64_t random_seed() {
  std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}

// Multiply-and-fold, after wyhash (https://github.com/wangyi-fudan/wyhash).
inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

inline std::uint64_t hash_bytes(std::string_view bytes, std::uint64_t seed) {
  constexpr std::uint64_t odd = 0x9e3779b97f4a7c15u;
  std::uint64_t state = seed ^ (bytes.size() * odd);
  const char* at = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t chunk = 0;
  for (; left >= 8; at += 8, left -= 8) {
    std::memcpy(&chunk, at, 8);
    state = mix(state ^ chunk, odd ^ seed);
  }
  if (left > 0) {
    chunk = 0;
    std::memcpy(&chunk, at, left);
    state = mix(state ^ chunk, odd ^ seed);
  }
  return mix(state, odd);
}

// From a 64-bit key to a trivially copyable value. The key ~0 is reserved.
template <class Value>
class IntegerMap {
 public:
  explicit IntegerMap(std::size_t expected = 0) : seed_(random_seed() | 1) { resize(expected); }

  // Inserts a value; an existing one stays. Returns true if the key is new.
  bool insert(std::uint64_t key, const Value& value) {
    if ((size_ + 1) * 3 > slots_.size() * 2) resize(size_ * 2);
    Slot& slot = slots_[locate(key)];
    if (slot.key == key) return false;
    slot = {key, value};
    ++size_;
    return true;
  }

  [[nodiscard]] const Value* find(std::uint64_t key) const {
    const Slot& slot = slots_[locate(key)];
    return slot.key == key ? &slot.value : nullptr;
  }

 private:
  static constexpr std::uint64_t none = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = none;
    Value value{};
  };

  [[nodiscard]] std::size_t locate(std::uint64_t key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = mix(key ^ seed_, 0x9e3779b97f4a7c15u) & mask;
    while (slots_[at].key != key && slots_[at].key != none) at = (at + 1) & mask;
    return at;
  }

  void resize(std::size_t expected) {
    std::vector<Slot> old(std::bit_ceil(expected * 3 / 2 + 8));
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.key != none) slots_[locate(slot.key)] = slot;
  }

  std::uint64_t seed_;
  std::size_t size_ = 0;
  std::vector<Slot> slots_;
};

// Maps strings to their index in the caller's list; `text_of(index)` gives the string of an index. Most tokens are short,
// and are compared without reading the list.
class StringIndex {
 public:
  explicit StringIndex(std::size_t expected = 0) : seed_(random_seed()), slots_(std::bit_ceil(expected * 3 / 2 + 8)) {}

  template <class TextOf>
  [[nodiscard]] std::optional<std::uint32_t> find(std::string_view text, const TextOf& text_of) const {
    const Slot& slot = slots_[locate(text, hash_bytes(text, seed_), text_of)];
    if (slot.entry == 0) return std::nullopt;
    return slot.entry - 1;
  }

  // Inserts `text`. Returns its index: `index`, or an earlier one with the same text.
  template <class TextOf>
  std::uint32_t insert(std::string_view text, std::uint32_t index, const TextOf& text_of) {
    if ((size_ + 1) * 3 > slots_.size() * 2) grow(text_of);
    Slot& slot = slots_[locate(text, hash_bytes(text, seed_), text_of)];
    if (slot.entry != 0) return slot.entry - 1;
    slot = {head_of(text), static_cast<std::uint32_t>(text.size()), index + 1};
    ++size_;
    return index;
  }

 private:
  struct Slot {
    std::uint64_t head = 0;    // the first bytes of the text
    std::uint32_t length = 0;  // of the text, cut to 32 bits
    std::uint32_t entry = 0;   // index + 1; 0 when empty
  };

  static std::uint64_t head_of(std::string_view text) {
    std::uint64_t head = 0;
    std::memcpy(&head, text.data(), std::min(text.size(), sizeof head));
    return head;
  }

  template <class TextOf>
  [[nodiscard]] std::size_t locate(std::string_view text, std::uint64_t hash, const TextOf& text_of) const {
    const std::size_t mask = slots_.size() - 1;
    const std::uint64_t head = head_of(text);
    const auto length = static_cast<std::uint32_t>(text.size());
    const auto same = [&](const Slot& slot) {
      return slot.head == head && slot.length == length && (text.size() <= sizeof head || text_of(slot.entry - 1) == text);
    };
    std::size_t at = hash & mask;
    while (slots_[at].entry != 0 && !same(slots_[at])) at = (at + 1) & mask;
    return at;
  }

  template <class TextOf>
  void grow(const TextOf& text_of) {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.entry == 0) continue;
      const std::string_view text = text_of(slot.entry - 1);
      slots_[locate(text, hash_bytes(text, seed_), text_of)] = slot;
    }
  }

  std::uint64_t seed_;
  std::size_t size_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace plumb::text
