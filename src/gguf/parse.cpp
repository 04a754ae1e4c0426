#include "gguf/parse.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

#include "gguf/kind.h"
#include "gguf/name_index.h"

namespace plumb::gguf {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF's numbers are read as they lie in the file");

constexpr std::uint64_t header_bytes = 24;         // magic, version, tensor count, metadata count
constexpr std::uint64_t min_tensor_bytes = 24;     // empty name, no dimensions, type, offset
constexpr std::uint64_t min_metadata_bytes = 13;   // empty key, type, one byte
constexpr std::uint64_t min_string_bytes = 8;      // length
constexpr std::uint64_t min_array_bytes = 12;      // element type, count
constexpr std::uint64_t max_first_reserve = 4096;  // items; beyond it a vector grows only as items are read

constexpr std::string_view cut_short = "the file is cut short or damaged: download it again";

// Reads forward through the bytes. Messages name its position as the byte offset.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  [[nodiscard]] std::uint64_t offset() const { return offset_; }
  [[nodiscard]] std::uint64_t remaining() const { return bytes_.size() - offset_; }

  // `what` completes the sentence "the file ends inside ...".
  template <class T>
  Result<T> number(std::string_view what) {
    PLUMB_TRY(const auto raw, take(sizeof(T), what));
    T value;
    std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }

  Result<std::span<const std::byte>> take(std::uint64_t n, std::string_view what) {
    if (n > remaining()) {
      return fail("the file ends inside {} at byte {}: {} bytes needed, {} left; {}", what, offset_, n, remaining(),
                  cut_short);
    }
    const auto taken = bytes_.subspan(offset_, n);
    offset_ += n;
    return taken;
  }

  Result<std::string_view> string(std::string_view what) {
    const std::uint64_t start = offset_;
    PLUMB_TRY(const auto length, number<std::uint64_t>(what));
    if (length > remaining()) {
      return fail("the length of {} at byte {} is {}, but only {} bytes follow; {}", what, start, length, remaining(),
                  cut_short);
    }
    PLUMB_TRY(const auto raw, take(length, what));
    return std::string_view(reinterpret_cast<const char*>(raw.data()), raw.size());
  }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t offset_ = 0;
};

Result<void> check_bool(std::span<const std::byte> raw, std::uint64_t offset) {
  for (std::size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] > std::byte{1}) {
      return fail("the bool at byte {} is {}; only 0 and 1 are allowed", offset + i, std::to_integer<int>(raw[i]));
    }
  }
  return {};
}

Result<ValueType> read_type(Cursor& cursor) {
  const std::uint64_t offset = cursor.offset();
  PLUMB_TRY(const auto id, cursor.number<std::uint32_t>("the value type"));
  if (id > static_cast<std::uint32_t>(ValueType::f64)) {
    return fail("the value type at byte {} is {}; GGUF knows 0 to 12", offset, id);
  }
  return static_cast<ValueType>(id);
}

// `index_left`: how many more strings and arrays the file's arrays may hold.
Result<Array> read_array(Cursor& cursor, int depth, std::uint64_t& index_left) {
  const std::uint64_t start = cursor.offset();
  if (depth > max_array_depth) return fail("the arrays at byte {} are nested deeper than {}", start, max_array_depth);
  Array array;
  PLUMB_TRY(array.element, read_type(cursor));
  const std::uint64_t count_offset = cursor.offset();
  PLUMB_TRY(array.count, cursor.number<std::uint64_t>("the array's count"));

  const bool is_string = array.element == ValueType::string;
  const bool is_array = array.element == ValueType::array;
  const std::uint64_t element_bytes = is_string  ? min_string_bytes
                                      : is_array ? min_array_bytes
                                                 : scalar_bytes(array.element);
  if (array.count > cursor.remaining() / element_bytes) {
    return fail("the array's count at byte {} is {}, but only {} bytes follow; {}", count_offset, array.count,
                cursor.remaining(), cut_short);
  }
  if (is_string || is_array) {
    if (array.count > index_left) {
      return fail("the array's count at byte {} is {}; the strings and arrays in arrays of a file may be {} at most",
                  count_offset, array.count, max_indexed);
    }
    index_left -= array.count;
  }
  if (is_string) {
    array.strings.reserve(std::min(array.count, max_first_reserve));
    for (std::uint64_t i = 0; i < array.count; ++i) {
      PLUMB_TRY(const auto string, cursor.string("an array's string"));
      array.strings.push_back(string);
    }
  } else if (is_array) {
    array.arrays.reserve(std::min(array.count, max_first_reserve));
    for (std::uint64_t i = 0; i < array.count; ++i) {
      PLUMB_TRY(auto inner, read_array(cursor, depth + 1, index_left));
      array.arrays.push_back(std::move(inner));
    }
  } else {
    const std::uint64_t offset = cursor.offset();
    PLUMB_TRY(array.raw, cursor.take(array.count * element_bytes, "an array"));
    if (array.element == ValueType::boolean) PLUMB_CHECK(check_bool(array.raw, offset));
  }
  return array;
}

Result<Value> read_value(Cursor& cursor, std::uint64_t& index_left) {
  PLUMB_TRY(const auto type, read_type(cursor));
  return std::visit(
      [&]<class T>(const T&) -> Result<Value> {
        if constexpr (std::is_same_v<T, std::string_view>) {
          return cursor.string("the string");
        } else if constexpr (std::is_same_v<T, Array>) {
          return read_array(cursor, 1, index_left);
        } else if constexpr (std::is_same_v<T, bool>) {
          const std::uint64_t offset = cursor.offset();
          PLUMB_TRY(const auto raw, cursor.take(1, "the value"));
          PLUMB_CHECK(check_bool(raw, offset));
          return Value(raw[0] == std::byte{1});
        } else {
          return cursor.number<T>("the value");
        }
      },
      empty_value(type));
}

// The names of GGUF's tensor types that Plumb does not decode, for messages.
// Source: enum ggml_type in https://github.com/ggml-org/ggml/blob/master/include/ggml.h
std::string_view foreign_format(std::uint32_t id) {
  static constexpr std::pair<std::uint32_t, std::string_view> names[] = {{4, "Q4_2, removed from GGUF"},
                                                                         {5, "Q4_3, removed from GGUF"},
                                                                         {9, "Q8_1"},
                                                                         {15, "Q8_K"},
                                                                         {16, "IQ2_XXS"},
                                                                         {17, "IQ2_XS"},
                                                                         {18, "IQ3_XXS"},
                                                                         {19, "IQ1_S"},
                                                                         {21, "IQ3_S"},
                                                                         {22, "IQ2_S"},
                                                                         {24, "I8"},
                                                                         {25, "I16"},
                                                                         {26, "I32"},
                                                                         {27, "I64"},
                                                                         {28, "F64"},
                                                                         {29, "IQ1_M"},
                                                                         {31, "Q4_0_4_4, removed from GGUF"},
                                                                         {32, "Q4_0_4_8, removed from GGUF"},
                                                                         {33, "Q4_0_8_8, removed from GGUF"},
                                                                         {34, "TQ1_0"},
                                                                         {36, "IQ4_NL_4_4, removed from GGUF"},
                                                                         {37, "IQ4_NL_4_8, removed from GGUF"},
                                                                         {38, "IQ4_NL_8_8, removed from GGUF"},
                                                                         {40, "NVFP4"},
                                                                         {41, "Q1_0"}};
  const auto* found =
      std::find_if(std::begin(names), std::end(names), [id](const auto& entry) { return entry.first == id; });
  return found != std::end(names) ? found->second : "a type that GGUF does not define";
}

std::string known_formats() {
  std::string names;
  for (const auto& format : quants::formats()) {
    if (!names.empty()) names += ", ";
    names += format.name;
  }
  return names;
}

struct Header {
  std::uint32_t version = 0;
  std::uint64_t n_tensors = 0;
  std::uint64_t n_metadata = 0;
};

Result<Header> read_header(Cursor& cursor, std::span<const std::byte> bytes, std::string_view label) {
  constexpr std::string_view magic = "GGUF";
  if (bytes.empty()) return fail("the file is empty (0 bytes); download or convert the model again");
  if (bytes.size() < magic.size() || std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
    const std::string_view start(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 4));
    return fail("the magic at byte 0 is {} instead of \"GGUF\": this is {}", in_quotes(start),
                describe_foreign(bytes, label));
  }
  PLUMB_TRY([[maybe_unused]] const auto skipped, cursor.take(magic.size(), "the magic"));
  Header header;
  PLUMB_TRY(header.version, cursor.number<std::uint32_t>("the header (version)"));
  if (header.version == 1) {
    return fail(
        "the version at byte 4 is 1, whose layout was given up in 2023; Plumb reads 2 and 3: convert the model again");
  }
  if (header.version != 0 && (header.version & 0xffffU) == 0) {
    return fail("the version at byte 4 is {:#010x}: this is a big-endian file; Plumb reads little-endian: convert it first",
                header.version);
  }
  if (header.version != 2 && header.version != 3) {
    return fail("the version at byte 4 is {}; Plumb reads 2 and 3", header.version);
  }
  PLUMB_TRY(header.n_tensors, cursor.number<std::uint64_t>("the header (tensor count)"));
  PLUMB_TRY(header.n_metadata, cursor.number<std::uint64_t>("the header (metadata count)"));
  const auto check_count = [&](std::string_view of, std::uint64_t n, std::uint64_t least_bytes,
                               std::uint64_t most) -> Result<void> {
    if (n > cursor.remaining() / least_bytes) {
      return fail("the {} is {}, but only {} bytes follow byte {}; {}", of, n, cursor.remaining(), header_bytes, cut_short);
    }
    if (n > most) return fail("the {} is {}; at most {} are allowed", of, n, most);
    return {};
  };
  PLUMB_CHECK(check_count("tensor count at byte 8", header.n_tensors, min_tensor_bytes, max_tensors));
  PLUMB_CHECK(check_count("metadata count at byte 16", header.n_metadata, min_metadata_bytes, max_metadata));
  return header;
}

// `offset` is where the key starts.
Result<std::uint64_t> check_alignment(const Value& value, std::uint64_t offset) {
  const auto alignment = exactly<std::uint64_t>(value);
  if (!alignment) {
    return fail("key \"general.alignment\" at byte {} is of type {}; it must be an integer above 0", offset,
                name(type_of(value)));
  }
  constexpr std::uint64_t most = std::uint64_t{1} << 31;
  if (*alignment < 8 || *alignment > most || !std::has_single_bit(*alignment)) {
    return fail("key \"general.alignment\" at byte {} is {}; it must be a power of two of at least 8, and below 2^32",
                offset, *alignment);
  }
  return *alignment;
}

Result<void> read_metadata(Cursor& cursor, std::uint64_t count, ParsedFile& parsed) {
  std::uint64_t index_left = max_indexed;
  std::vector<std::uint64_t> offsets;
  parsed.metadata.reserve(std::min(count, max_first_reserve));
  offsets.reserve(std::min(count, max_first_reserve));
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t offset = cursor.offset();
    auto key = cursor.string("a key");
    if (!key) return fail("metadata {} of {}: {}", i + 1, count, key.error().message);
    auto value = read_value(cursor, index_left);
    if (!value) return fail("key {} at byte {}: {}", in_quotes(*key), offset, value.error().message);
    if (*key == "general.alignment") {
      PLUMB_TRY(parsed.alignment, check_alignment(*value, offset));
    }
    parsed.metadata.emplace_back(*key, std::move(*value));
    offsets.push_back(offset);
  }
  const NameIndex index(parsed.metadata, [](const auto& entry) { return entry.first; });
  if (const auto twice = index.duplicate()) {
    return fail("key {} occurs twice, at byte {} and at byte {}", in_quotes(parsed.metadata[twice->first].first),
                offsets[twice->first], offsets[twice->second]);
  }
  return {};
}

// The rest of a tensor's directory entry, after its name. The file_offset is still relative to the data section.
Result<void> read_entry(Cursor& cursor, Tensor& tensor) {
  std::uint64_t offset = cursor.offset();
  PLUMB_TRY(const auto n_dims, cursor.number<std::uint32_t>("its number of dimensions"));
  if (n_dims > max_dims) {
    return fail("its number of dimensions at byte {} is {}; at most {} are allowed", offset, n_dims, max_dims);
  }
  tensor.n_dims = n_dims;
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < tensor.n_dims; ++i) {
    offset = cursor.offset();
    PLUMB_TRY(const auto dim, cursor.number<std::uint64_t>("its dimensions"));
    // Zeros are legal and do not count here, so that the other dimensions have bounds as well.
    if (dim > max_elements / elements) {
      return fail("with dimension {} at byte {}, {}, it would have more than 2^56 elements", i, offset, dim);
    }
    elements *= std::max<std::uint64_t>(dim, 1);
    tensor.dims[i] = dim;
  }

  offset = cursor.offset();
  PLUMB_TRY(const auto type_id, cursor.number<std::uint32_t>("its type"));
  const auto* format = quants::find(type_id);
  if (format == nullptr) {
    return fail("its type at byte {} is {} ({}); Plumb reads {}", offset, type_id, foreign_format(type_id),
                known_formats());
  }
  tensor.format = format->format;
  if (tensor.dims[0] % format->block_size != 0) {
    return fail("its rows of {} elements are no whole number of blocks of {} ({})", tensor.dims[0], format->block_size,
                format->name);
  }

  PLUMB_TRY(const auto relative, cursor.number<std::uint64_t>("its offset"));
  tensor.file_offset = relative;
  return {};
}

Result<Tensor> read_tensor(Cursor& cursor) {
  Tensor tensor{};
  const std::uint64_t start = cursor.offset();
  PLUMB_TRY(tensor.name, cursor.string("a tensor's name"));
  if (auto read = read_entry(cursor, tensor); !read) {
    return fail("tensor {} at byte {}: {}", in_quotes(tensor.name), start, read.error().message);
  }
  return tensor;
}

// Turns the tensors' relative offsets into offsets in the file, and sets their bytes.
Result<void> locate_tensors(std::span<const std::byte> bytes, std::uint64_t directory_end, ParsedFile& parsed) {
  if (parsed.tensors.empty()) return {};
  const std::uint64_t alignment = parsed.alignment;
  const std::uint64_t data_start = (directory_end + alignment - 1) / alignment * alignment;
  const std::uint64_t data_bytes = data_start < bytes.size() ? bytes.size() - data_start : 0;
  for (std::size_t i = 0; i < parsed.tensors.size(); ++i) {
    Tensor& tensor = parsed.tensors[i];
    const auto& format = quants::info(tensor.format);
    const std::uint64_t relative = tensor.file_offset;
    const std::uint64_t entry = parsed.entry_offsets[i];
    if (relative % alignment != 0) {
      return fail("tensor {} at byte {}: its offset {} is no multiple of the alignment {}", in_quotes(tensor.name), entry,
                  relative, alignment);
    }
    if (tensor.n_elements() == 0) {  // nothing to read, wherever it lies
      tensor.file_offset = data_start + relative;
      continue;
    }
    // The sizes are compared in blocks, because the product in bytes can overflow.
    const std::uint64_t n_blocks = tensor.n_elements() / format.block_size;
    if (relative > data_bytes || n_blocks > (data_bytes - relative) / format.block_bytes) {
      return fail(
          "tensor {} at byte {}: its {} blocks of {} bytes from offset {} of the data section (which starts at byte {}) do "
          "not fit in the file of {} bytes; {}",
          in_quotes(tensor.name), entry, n_blocks, format.block_bytes, relative, data_start, bytes.size(), cut_short);
    }
    tensor.file_offset = data_start + relative;
    tensor.data = bytes.subspan(tensor.file_offset, n_blocks * format.block_bytes);
  }

  std::vector<std::pair<std::uint64_t, std::size_t>> order;  // offsets, and the tensors' places in the directory
  for (std::size_t i = 0; i < parsed.tensors.size(); ++i) {
    if (!parsed.tensors[i].data.empty()) order.emplace_back(parsed.tensors[i].file_offset, i);
  }
  std::sort(order.begin(), order.end());
  for (std::size_t i = 1; i < order.size(); ++i) {
    const Tensor& before = parsed.tensors[order[i - 1].second];
    const Tensor& after = parsed.tensors[order[i].second];
    const std::uint64_t end = before.file_offset + before.data.size();
    if (end > after.file_offset) {
      return fail("tensor {} at byte {}: its data from byte {} overlaps tensor {}, which ends at byte {}",
                  in_quotes(after.name), parsed.entry_offsets[order[i].second], after.file_offset, in_quotes(before.name),
                  end);
    }
  }
  return {};
}

Result<ParsedFile> parse_unlabelled(std::span<const std::byte> bytes, std::string_view label) {
  Cursor cursor(bytes);
  PLUMB_TRY(const auto header, read_header(cursor, bytes, label));
  ParsedFile parsed;
  parsed.version = header.version;
  PLUMB_CHECK(read_metadata(cursor, header.n_metadata, parsed));

  parsed.tensors.reserve(std::min(header.n_tensors, max_first_reserve));
  parsed.entry_offsets.reserve(std::min(header.n_tensors, max_first_reserve));
  for (std::uint64_t i = 0; i < header.n_tensors; ++i) {
    const std::uint64_t offset = cursor.offset();
    auto tensor = read_tensor(cursor);
    if (!tensor) return fail("tensor {} of {}: {}", i + 1, header.n_tensors, tensor.error().message);
    parsed.tensors.push_back(*tensor);
    parsed.entry_offsets.push_back(offset);
  }
  const NameIndex index(parsed.tensors, [](const Tensor& tensor) { return tensor.name; });
  if (const auto twice = index.duplicate()) {
    return fail("tensor {} occurs twice, at byte {} and at byte {}", in_quotes(parsed.tensors[twice->first].name),
                parsed.entry_offsets[twice->first], parsed.entry_offsets[twice->second]);
  }
  PLUMB_CHECK(locate_tensors(bytes, cursor.offset(), parsed));
  return parsed;
}

}  // namespace

std::string in_quotes(std::string_view text) {
  constexpr std::size_t longest = 80;
  std::string out = "\"";
  for (const char c : text.substr(0, longest)) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c >= 0x20 && c < 0x7f) {
      out += c;
    } else {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  if (text.size() > longest) out += fmt::format("... ({} bytes)", text.size());
  return out + '"';
}

Result<ParsedFile> parse(std::span<const std::byte> bytes, const std::string& label) {
  auto parsed = parse_unlabelled(bytes, label);
  if (!parsed) return fail("{}: {}", label, parsed.error().message);
  return parsed;
}

}  // namespace plumb::gguf
