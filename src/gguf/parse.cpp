#include "gguf/parse.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

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
      return fail("the file ends inside {} at byte {}: {} bytes needed, {} left", what, offset_, n, remaining());
    }
    const auto taken = bytes_.subspan(offset_, n);
    offset_ += n;
    return taken;
  }

  Result<std::string_view> string(std::string_view what) {
    const std::uint64_t start = offset_;
    PLUMB_TRY(const auto length, number<std::uint64_t>(what));
    if (length > remaining()) {
      return fail("the length of {} at byte {} is {}, but only {} bytes follow", what, start, length, remaining());
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
    return fail("the array's count at byte {} is {}, but only {} bytes follow", count_offset, array.count,
                cursor.remaining());
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

template <class T>
Result<Value> read_number(Cursor& cursor) {
  PLUMB_TRY(const auto value, cursor.number<T>("the value"));
  return Value(value);
}

Result<Value> read_value(Cursor& cursor, std::uint64_t& index_left) {
  PLUMB_TRY(const auto type, read_type(cursor));
  switch (type) {
    case ValueType::u8:
      return read_number<std::uint8_t>(cursor);
    case ValueType::i8:
      return read_number<std::int8_t>(cursor);
    case ValueType::u16:
      return read_number<std::uint16_t>(cursor);
    case ValueType::i16:
      return read_number<std::int16_t>(cursor);
    case ValueType::u32:
      return read_number<std::uint32_t>(cursor);
    case ValueType::i32:
      return read_number<std::int32_t>(cursor);
    case ValueType::f32:
      return read_number<float>(cursor);
    case ValueType::u64:
      return read_number<std::uint64_t>(cursor);
    case ValueType::i64:
      return read_number<std::int64_t>(cursor);
    case ValueType::f64:
      return read_number<double>(cursor);
    case ValueType::boolean: {
      const std::uint64_t offset = cursor.offset();
      PLUMB_TRY(const auto raw, cursor.take(1, "the value"));
      PLUMB_CHECK(check_bool(raw, offset));
      return Value(raw[0] == std::byte{1});
    }
    case ValueType::string: {
      PLUMB_TRY(const auto string, cursor.string("the string"));
      return Value(string);
    }
    case ValueType::array: {
      PLUMB_TRY(auto array, read_array(cursor, 1, index_left));
      return Value(std::move(array));
    }
  }
  return fail("unknown value type");
}

// The names of GGUF's tensor types that Plumb does not decode, for messages.
// Source: enum ggml_type in https://github.com/ggml-org/ggml/blob/master/include/ggml.h
std::string_view foreign_format(std::uint32_t id) {
  switch (id) {
    case 4:
      return "Q4_2, removed from GGUF";
    case 5:
      return "Q4_3, removed from GGUF";
    case 9:
      return "Q8_1";
    case 15:
      return "Q8_K";
    case 16:
      return "IQ2_XXS";
    case 17:
      return "IQ2_XS";
    case 18:
      return "IQ3_XXS";
    case 19:
      return "IQ1_S";
    case 21:
      return "IQ3_S";
    case 22:
      return "IQ2_S";
    case 24:
      return "I8";
    case 25:
      return "I16";
    case 26:
      return "I32";
    case 27:
      return "I64";
    case 28:
      return "F64";
    case 29:
      return "IQ1_M";
    case 31:
      return "Q4_0_4_4, removed from GGUF";
    case 32:
      return "Q4_0_4_8, removed from GGUF";
    case 33:
      return "Q4_0_8_8, removed from GGUF";
    case 34:
      return "TQ1_0";
    case 36:
      return "IQ4_NL_4_4, removed from GGUF";
    case 37:
      return "IQ4_NL_4_8, removed from GGUF";
    case 38:
      return "IQ4_NL_8_8, removed from GGUF";
    case 40:
      return "NVFP4";
    case 41:
      return "Q1_0";
    default:
      return "a type that GGUF does not define";
  }
}

std::string known_formats() {
  std::string names;
  for (const auto& format : quants::formats()) {
    if (!names.empty()) names += ", ";
    names += format.name;
  }
  return names;
}

std::string other_magic(std::span<const std::byte> bytes) {
  const std::string_view start(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 16));
  if (start.starts_with("FUGG")) return "a big-endian GGUF file; convert it to little-endian first";
  if (start.starts_with("lmgg") || start.starts_with("fmgg") || start.starts_with("tjgg") || start.starts_with("algg")) {
    return "a file of GGML's older formats; convert the original model to GGUF again";
  }
  if (start.starts_with("PK\x03\x04"))
    return "a zip archive (perhaps a PyTorch checkpoint); convert the model to GGUF first";
  if (start.size() > 8 && start[8] == '{') return "perhaps a safetensors file; convert the model to GGUF first";
  if (start.starts_with("version https://") || start.starts_with("version http")) {
    return "a Git LFS pointer; fetch the file it stands for";
  }
  if (start.starts_with("<")) return "perhaps a web page saved by a failed download; download the model again";
  return "no GGUF file";
}

struct Header {
  std::uint32_t version = 0;
  std::uint64_t n_tensors = 0;
  std::uint64_t n_metadata = 0;
};

Result<Header> read_header(Cursor& cursor, std::span<const std::byte> bytes) {
  constexpr std::string_view magic = "GGUF";
  if (bytes.empty()) return fail("the file is empty (0 bytes); download or convert the model again");
  if (bytes.size() < magic.size() || std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
    const std::string_view start(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 4));
    return fail("the magic at byte 0 is {} instead of \"GGUF\": this is {}", in_quotes(start), other_magic(bytes));
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
  if (header.n_tensors > cursor.remaining() / min_tensor_bytes) {
    return fail("the tensor count at byte 8 is {}, but only {} bytes follow byte {}", header.n_tensors, cursor.remaining(),
                header_bytes);
  }
  if (header.n_tensors > max_tensors) {
    return fail("the tensor count at byte 8 is {}; at most {} are allowed", header.n_tensors, max_tensors);
  }
  if (header.n_metadata > cursor.remaining() / min_metadata_bytes) {
    return fail("the metadata count at byte 16 is {}, but only {} bytes follow byte {}", header.n_metadata,
                cursor.remaining(), header_bytes);
  }
  if (header.n_metadata > max_metadata) {
    return fail("the metadata count at byte 16 is {}; at most {} are allowed", header.n_metadata, max_metadata);
  }
  return header;
}

// `offset` is where the key starts.
Result<std::uint64_t> check_alignment(const Value& value, std::uint64_t offset) {
  const auto* alignment = std::get_if<std::uint32_t>(&value);
  if (alignment == nullptr) {
    return fail("key \"general.alignment\" at byte {} is of type {} instead of u32", offset, name(type_of(value)));
  }
  if (*alignment < 8 || !std::has_single_bit(*alignment)) {
    return fail("key \"general.alignment\" at byte {} is {}; it must be a power of two of at least 8", offset, *alignment);
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

// One entry of the tensor directory. Its file_offset is still relative to the data section.
Result<Tensor> read_tensor(Cursor& cursor) {
  Tensor tensor{};
  const std::uint64_t start = cursor.offset();
  PLUMB_TRY(tensor.name, cursor.string("a tensor's name"));
  const auto in_tensor = [&](const Error& error) {
    return fail("tensor {} at byte {}: {}", in_quotes(tensor.name), start, error.message);
  };

  std::uint64_t offset = cursor.offset();
  auto n_dims = cursor.number<std::uint32_t>("its number of dimensions");
  if (!n_dims) return in_tensor(n_dims.error());
  if (*n_dims > max_dims) {
    return in_tensor(
        {fmt::format("its number of dimensions at byte {} is {}; at most {} are allowed", offset, *n_dims, max_dims)});
  }
  tensor.n_dims = *n_dims;
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < tensor.n_dims; ++i) {
    offset = cursor.offset();
    auto dim = cursor.number<std::uint64_t>("its dimensions");
    if (!dim) return in_tensor(dim.error());
    if (*dim == 0) return in_tensor({fmt::format("dimension {} at byte {} is 0", i, offset)});
    constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (*dim > most / elements) {
      return in_tensor(
          {fmt::format("with dimension {} at byte {}, {}, it would have more than 2^63 elements", i, offset, *dim)});
    }
    elements *= *dim;
    tensor.dims[i] = *dim;
  }

  offset = cursor.offset();
  auto type_id = cursor.number<std::uint32_t>("its type");
  if (!type_id) return in_tensor(type_id.error());
  const auto* format = quants::find(*type_id);
  if (format == nullptr) {
    return in_tensor({fmt::format("its type at byte {} is {} ({}); Plumb reads {}", offset, *type_id,
                                  foreign_format(*type_id), known_formats())});
  }
  tensor.format = format->format;
  if (tensor.dims[0] % format->block_size != 0) {
    return in_tensor({fmt::format("its rows of {} elements are no whole number of blocks of {} ({})", tensor.dims[0],
                                  format->block_size, format->name)});
  }

  auto relative = cursor.number<std::uint64_t>("its offset");
  if (!relative) return in_tensor(relative.error());
  tensor.file_offset = *relative;
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
    // The sizes are compared in blocks, because the product in bytes can overflow.
    const std::uint64_t n_blocks = tensor.n_elements() / format.block_size;
    if (relative > data_bytes || n_blocks > (data_bytes - relative) / format.block_bytes) {
      return fail(
          "tensor {} at byte {}: its {} blocks of {} bytes from offset {} of the data section (which starts at byte {}) do "
          "not fit in the file of {} bytes; the file is cut short or damaged: download it again",
          in_quotes(tensor.name), entry, n_blocks, format.block_bytes, relative, data_start, bytes.size());
    }
    tensor.file_offset = data_start + relative;
    tensor.data = bytes.subspan(tensor.file_offset, n_blocks * format.block_bytes);
  }

  std::vector<std::size_t> order(parsed.tensors.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(parsed.tensors[a].file_offset, a) < std::pair(parsed.tensors[b].file_offset, b);
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const Tensor& before = parsed.tensors[order[i - 1]];
    const Tensor& after = parsed.tensors[order[i]];
    const std::uint64_t end = before.file_offset + before.data.size();
    if (end > after.file_offset) {
      return fail("tensor {} at byte {}: its data from byte {} overlaps tensor {}, which ends at byte {}",
                  in_quotes(after.name), parsed.entry_offsets[order[i]], after.file_offset, in_quotes(before.name), end);
    }
  }
  return {};
}

Result<ParsedFile> parse_unlabelled(std::span<const std::byte> bytes) {
  Cursor cursor(bytes);
  PLUMB_TRY(const auto header, read_header(cursor, bytes));
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
  auto parsed = parse_unlabelled(bytes);
  if (!parsed) return fail("{}: {}", label, parsed.error().message);
  return parsed;
}

}  // namespace plumb::gguf
