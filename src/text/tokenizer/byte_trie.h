// A set of strings, each with a token id. Finds all strings that a text has at a given place.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/tokenizer/hash.h"

namespace plumb::text {

class ByteTrie {
 public:
  void insert(std::string_view text, std::int32_t token) {
    std::uint32_t node = 0;
    for (const char c : text) {
      const std::uint64_t edge = key(node, c);
      if (const std::uint32_t* child = edges_.find(edge)) {
        node = *child;
      } else {
        edges_.insert(edge, static_cast<std::uint32_t>(tokens_.size()));
        node = static_cast<std::uint32_t>(tokens_.size());
        tokens_.push_back(none);
      }
    }
    tokens_[node] = token;
    if (!text.empty()) starts_[static_cast<unsigned char>(text[0])] = true;
  }

  // Calls visit(token, length) for every string of the set that text.substr(at) begins with, shortest first.
  template <class Visit>
  void for_each_prefix(std::string_view text, std::size_t at, const Visit& visit) const {
    if (!starts_[static_cast<unsigned char>(text[at])]) return;
    std::uint32_t node = 0;
    for (std::size_t end = at; end < text.size(); ++end) {
      const std::uint32_t* child = edges_.find(key(node, text[end]));
      if (child == nullptr) return;
      node = *child;
      if (tokens_[node] != none) visit(tokens_[node], end + 1 - at);
    }
  }

 private:
  static constexpr std::int32_t none = -1;
  static std::uint64_t key(std::uint32_t node, char c) {
    return static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(c);
  }

  IntegerMap<std::uint32_t> edges_;
  std::vector<std::int32_t> tokens_{none};  // by node; the root is node 0
  std::array<bool, 256> starts_{};
};

}  // namespace plumb::text
