// Writes GGUF bytes field by field, independently of the Writer, and remembers the place of every field, so that a test can
// damage exactly one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/value.h"

namespace plumb::gguf::test {

class RawFile {
 public:
  std::vector<std::byte> bytes;
  std::map<std::string, std::size_t> at;  // byte offset of each field, by the name given to it when it was written

  template <class T>
  RawFile& number(const std::string& field, T value) {
    at[field] = bytes.size();
    const auto raw = std::as_bytes(std::span(&value, 1));
    bytes.insert(bytes.end(), raw.begin(), raw.end());
    return *this;
  }

  RawFile& text(std::string_view text) {
    const auto raw = std::as_bytes(std::span(text));
    bytes.insert(bytes.end(), raw.begin(), raw.end());
    return *this;
  }

  RawFile& string(const std::string& field, std::string_view value) {
    number(field, std::uint64_t{value.size()});
    return text(value);
  }

  RawFile& type(const std::string& field, ValueType value) { return number(field, static_cast<std::uint32_t>(value)); }

  RawFile& header(std::uint32_t version, std::uint64_t n_tensors, std::uint64_t n_metadata) {
    text("GGUF");
    number("version", version);
    number("tensor count", n_tensors);
    return number("metadata count", n_metadata);
  }

  template <class T>
  RawFile& key(const std::string& name, ValueType value_type, T value) {
    string(name, name);
    type(name + ".type", value_type);
    return number(name + ".value", value);
  }

  RawFile& key(const std::string& name, std::string_view value) {
    string(name, name);
    type(name + ".type", ValueType::string);
    return string(name + ".value", value);
  }

  RawFile& tensor(const std::string& name, const std::vector<std::uint64_t>& dims, std::uint32_t type_id,
                  std::uint64_t offset) {
    string(name, name);
    number(name + ".n_dims", static_cast<std::uint32_t>(dims.size()));
    for (std::size_t i = 0; i < dims.size(); ++i) number(name + ".dim" + std::to_string(i), dims[i]);
    number(name + ".format", type_id);
    return number(name + ".offset", offset);
  }

  // Pads to the alignment and appends n bytes 0, 1, 2, ...
  RawFile& data(std::size_t n, std::size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    at["data"] = bytes.size();
    for (std::size_t i = 0; i < n; ++i) bytes.push_back(static_cast<std::byte>(i));
    return *this;
  }

  template <class T>
  RawFile& overwrite(const std::string& field, T value) {
    std::memcpy(bytes.data() + at.at(field), &value, sizeof(T));
    return *this;
  }
};

// A small valid file with something of everything. It has two tensors, "w" (F32, 4 x 2, 32 bytes) and "q" (Q8_0, 32 x 2, 68
// bytes); with the padding between them, 132 bytes of data.
inline RawFile sample() {
  RawFile file;
  file.header(3, 2, 7);
  file.key("general.architecture", "test");
  file.key("general.alignment", ValueType::u32, std::uint32_t{32});
  file.key("flag", ValueType::boolean, std::uint8_t{1});
  file.string("names", "names").type("names.type", ValueType::array).type("names.element", ValueType::string);
  file.number("names.count", std::uint64_t{2}).string("names.0", "zero").string("names.1", "one");
  file.string("nested", "nested").type("nested.type", ValueType::array).type("nested.element", ValueType::array);
  file.number("nested.count", std::uint64_t{1}).type("nested.0.element", ValueType::u16);
  file.number("nested.0.count", std::uint64_t{2});
  file.number("nested.0.0", std::uint16_t{7}).number("nested.0.1", std::uint16_t{8});
  file.string("flags", "flags").type("flags.type", ValueType::array).type("flags.element", ValueType::boolean);
  file.number("flags.count", std::uint64_t{2});
  file.number("flags.0", std::uint8_t{0}).number("flags.1", std::uint8_t{1});
  file.key("last", ValueType::u64, std::uint64_t{1} << 40);
  file.tensor("w", {4, 2}, 0, 0);
  file.tensor("q", {32, 2}, 8, 64);
  file.data(132);
  return file;
}

}  // namespace plumb::gguf::test
