// Any bytes as a GGUF file. The result is either a message or a File. Of a File, every byte that it hands out may be read,
// every name is found, and the Writer can write it again.
#include <algorithm>
#include <cstdlib>
#include <variant>

#include "gguf/file.h"
#include "gguf/writer.h"

namespace {

using namespace plumb;

void require(bool condition) {
  if (!condition) std::abort();
}

// Volatile, so that the compiler keeps every read.
volatile std::uint64_t sink = 0;

void touch(std::span<const std::byte> bytes) {
  std::uint64_t sum = 0;
  for (const auto byte : bytes) sum += std::to_integer<std::uint64_t>(byte);
  sink = sink + sum;
}

void touch(std::string_view text) { touch(std::as_bytes(std::span(text))); }

void touch(const gguf::Array& array) {
  touch(array.raw);
  for (const auto string : array.strings) touch(string);
  for (const auto& inner : array.arrays) touch(inner);
  const bool is_string = array.element == gguf::ValueType::string;
  const bool is_array = array.element == gguf::ValueType::array;
  require(array.strings.size() == (is_string ? array.count : 0));
  require(array.arrays.size() == (is_array ? array.count : 0));
  require(array.raw.size() == array.count * gguf::scalar_bytes(array.element));
}

void look_up(const gguf::File& file, std::string_view key) {
  require(file.find(key) != nullptr);
  // A number may be read as numbers of several kinds, and never as text.
  const bool is_number =
      file.get_uint(key).has_value() || file.get_float(key).has_value() || file.get_bool(key).has_value();
  require(!(is_number && file.get_string(key).has_value()));
}

void write_again(const gguf::File& file) {
  gguf::Writer writer;
  for (const auto& [key, value] : file.metadata()) writer.set(std::string(key), value);
  for (const auto& tensor : file.tensors()) {
    writer.add_tensor(std::string(tensor.name), tensor.format, std::span(tensor.dims).first(tensor.n_dims), tensor.data);
  }
  const auto bytes = writer.to_memory();
  require(bytes.has_value());
  const auto copy = gguf::File::from_memory(*bytes, "copy");
  require(copy.has_value());
  require(copy->tensors().size() == file.tensors().size());
  for (std::size_t i = 0; i < file.tensors().size(); ++i) {
    const auto& a = file.tensors()[i];
    const auto& b = copy->tensors()[i];
    require(a.name == b.name && a.format == b.format && a.dims == b.dims && a.data.size() == b.data.size());
    require(std::ranges::equal(a.data, b.data));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = gguf::File::from_memory(bytes, "fuzz");
  if (!file) {
    require(file.error().message.starts_with("fuzz: "));
    return 0;
  }
  for (const auto& [key, value] : file->metadata()) {
    touch(key);
    if (const auto* array = std::get_if<gguf::Array>(&value)) touch(*array);
    if (const auto* string = std::get_if<std::string_view>(&value)) touch(*string);
    look_up(*file, key);
  }
  for (const auto& tensor : file->tensors()) {
    require(file->tensor(tensor.name) == &tensor);
    require(tensor.data.size() == tensor.n_rows() * quants::info(tensor.format).row_bytes(tensor.dims[0]));
    touch(tensor.data);
  }
  write_again(*file);
  return 0;
}
