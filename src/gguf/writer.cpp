#include "gguf/writer.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "base/new_file.h"
#include "gguf/name_index.h"
#include "gguf/parse.h"

namespace plumb::gguf {
namespace {

constexpr std::uint32_t written_version = 3;
constexpr std::string_view key_alignment = "general.alignment";

class Bytes {
 public:
  template <class T>
  void number(T value) {
    append(std::as_bytes(std::span(&value, 1)));
  }
  void string(std::string_view text) {
    number(static_cast<std::uint64_t>(text.size()));
    append(std::as_bytes(std::span(text)));
  }
  void append(std::span<const std::byte> more) {
    bytes_.resize(bytes_.size() + more.size());
    std::copy(more.begin(), more.end(), bytes_.end() - static_cast<std::ptrdiff_t>(more.size()));
  }
  void pad(std::uint64_t alignment) { bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment); }
  std::vector<std::byte> release() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

Result<void> append_array(Bytes& out, const Array& array, int depth) {
  if (depth > max_array_depth) return fail("its arrays are nested deeper than {}", max_array_depth);
  out.number(static_cast<std::uint32_t>(array.element));
  out.number(array.count);
  const bool is_string = array.element == ValueType::string;
  const bool is_array = array.element == ValueType::array;
  const std::uint64_t held = is_string  ? array.strings.size()
                             : is_array ? array.arrays.size()
                                        : array.raw.size() / scalar_bytes(array.element);
  if (held != array.count || (!is_string && !is_array && array.raw.size() % scalar_bytes(array.element) != 0)) {
    return fail("its array of {} states {} elements, but holds {}", name(array.element), array.count, held);
  }
  for (const auto string : array.strings) out.string(string);
  for (const Array& inner : array.arrays) PLUMB_CHECK(append_array(out, inner, depth + 1));
  out.append(array.raw);
  return {};
}

Result<void> append_value(Bytes& out, const Value& value) {
  out.number(static_cast<std::uint32_t>(type_of(value)));
  return std::visit(
      [&](const auto& held) -> Result<void> {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, Array>) {
          return append_array(out, held, 1);
        } else if constexpr (std::is_same_v<T, std::string_view>) {
          out.string(held);
        } else {
          out.number(held);
        }
        return {};
      },
      value);
}

template <class T>
Array numbers(ValueType element, std::span<const T> values) {
  Array array;
  array.element = element;
  array.count = values.size();
  array.raw = std::as_bytes(values);
  return array;
}

}  // namespace

Array array_of(std::span<const std::string_view> strings) {
  Array array;
  array.element = ValueType::string;
  array.count = strings.size();
  array.strings.assign(strings.begin(), strings.end());
  return array;
}

Array array_of(std::span<const float> values) { return numbers(ValueType::f32, values); }
Array array_of(std::span<const std::int32_t> values) { return numbers(ValueType::i32, values); }

// The padded bytes before the data section, and where each tensor's bytes go.
struct Writer::Layout {
  std::vector<std::byte> head;
  std::vector<std::uint64_t> offsets;  // from the start of the data section
  std::vector<std::uint64_t> sizes;
  std::uint64_t data_bytes = 0;    // with padding, after the last tensor too
  std::uint64_t tensor_bytes = 0;  // without padding
};

void Writer::set(std::string key, Value value) {
  if (key == key_alignment) return;
  const auto same = std::find_if(metadata_.begin(), metadata_.end(), [&](const auto& entry) { return entry.first == key; });
  if (same != metadata_.end()) {
    same->second = std::move(value);
  } else {
    metadata_.emplace_back(std::move(key), std::move(value));
  }
}

void Writer::erase(std::string_view key) {
  std::erase_if(metadata_, [&](const auto& entry) { return entry.first == key; });
}

void Writer::add_tensor(std::string name, quants::Format format, std::span<const std::uint64_t> dims, Produce produce) {
  tensors_.push_back({std::move(name), format, {dims.begin(), dims.end()}, std::move(produce), {}});
}

void Writer::add_tensor(std::string name, quants::Format format, std::span<const std::uint64_t> dims,
                        std::span<const std::byte> bytes) {
  tensors_.push_back({std::move(name), format, {dims.begin(), dims.end()}, {}, bytes});
}

Result<Writer::Layout> Writer::layout() const {
  const NameIndex names(tensors_, [](const Item& item) { return std::string_view(item.name); });
  if (const auto twice = names.duplicate())
    return fail("tensor {} was added twice", in_quotes(tensors_[twice->first].name));

  Layout layout;
  Bytes head;
  head.append(std::as_bytes(std::span(std::string_view("GGUF"))));
  head.number(written_version);
  head.number(static_cast<std::uint64_t>(tensors_.size()));
  head.number(static_cast<std::uint64_t>(metadata_.size()));
  for (const auto& [key, value] : metadata_) {
    head.string(key);
    if (auto done = append_value(head, value); !done) return fail("key {}: {}", in_quotes(key), done.error().message);
  }
  for (const Item& item : tensors_) {
    const auto& format = quants::info(item.format);
    if (item.dims.size() > max_dims) {
      return fail("tensor {}: {} dimensions; at most {} are allowed", in_quotes(item.name), item.dims.size(), max_dims);
    }
    std::uint64_t elements = 1;  // without zeros
    bool empty = false;
    for (const auto dim : item.dims) {
      if (dim > max_elements / elements) return fail("tensor {}: the dimension {} is too large", in_quotes(item.name), dim);
      elements *= std::max<std::uint64_t>(dim, 1);
      empty = empty || dim == 0;
    }
    if (empty) elements = 0;
    const std::uint64_t row = item.dims.empty() ? 1 : item.dims[0];
    if (row % format.block_size != 0) {
      return fail("tensor {}: its rows of {} elements are no whole number of blocks of {} ({})", in_quotes(item.name), row,
                  format.block_size, format.name);
    }
    const std::uint64_t size = format.row_bytes(elements);
    if (!item.produce && item.bytes.size() != size) {
      return fail("tensor {}: {} bytes were given, but its dimensions and {} need {}", in_quotes(item.name),
                  item.bytes.size(), format.name, size);
    }
    head.string(item.name);
    head.number(static_cast<std::uint32_t>(item.dims.size()));
    for (const auto dim : item.dims) head.number(dim);
    head.number(static_cast<std::uint32_t>(item.format));
    head.number(layout.data_bytes);
    layout.offsets.push_back(layout.data_bytes);
    layout.sizes.push_back(size);
    layout.tensor_bytes += size;
    layout.data_bytes += (size + default_alignment - 1) / default_alignment * default_alignment;
  }
  head.pad(default_alignment);
  layout.head = head.release();
  return layout;
}

Result<void> Writer::write(const std::filesystem::path& path, const Progress& progress) const {
  auto written = write_unlabelled(path, progress);
  if (!written) return fail("{}: {}", path.string(), written.error().message);
  return {};
}

Result<void> Writer::write_unlabelled(const std::filesystem::path& path, const Progress& progress) const {
  constexpr std::size_t chunk_bytes = std::size_t{16} << 20;
  PLUMB_TRY(const auto plan, layout());
  PLUMB_TRY(auto file, NewFile::create(path));
  PLUMB_CHECK(file.append(plan.head));
  const std::array<std::byte, default_alignment> zeros{};
  std::vector<std::byte> produced;
  std::uint64_t done = 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Item& item = tensors_[i];
    std::span<const std::byte> bytes = item.bytes;
    if (item.produce) {
      produced.assign(plan.sizes[i], std::byte{0});
      if (auto made = item.produce(produced); !made)
        return fail("tensor {}: {}", in_quotes(item.name), made.error().message);
      bytes = produced;
    }
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(chunk_bytes, bytes.size()))) {
      const auto chunk = bytes.first(std::min(chunk_bytes, bytes.size()));
      PLUMB_CHECK(file.append(chunk));
      done += chunk.size();
      if (progress) progress(done, plan.tensor_bytes);
    }
    const std::uint64_t tail = plan.sizes[i] % default_alignment;
    if (tail != 0) PLUMB_CHECK(file.append(std::span(zeros).first(default_alignment - tail)));
  }
  return file.finish();
}

Result<std::vector<std::byte>> Writer::to_memory() const {
  PLUMB_TRY(auto plan, layout());
  std::vector<std::byte> out = std::move(plan.head);
  const std::size_t data_start = out.size();
  out.resize(data_start + plan.data_bytes);
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Item& item = tensors_[i];
    const auto place = std::span(out).subspan(data_start + plan.offsets[i], plan.sizes[i]);
    if (!item.produce) {
      std::copy(item.bytes.begin(), item.bytes.end(), place.begin());
    } else if (auto made = item.produce(place); !made) {
      return fail("tensor {}: {}", in_quotes(item.name), made.error().message);
    }
  }
  return out;
}

}  // namespace plumb::gguf
