#include "trace/trace.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/half.h"
#include "base/letter_case.h"

namespace plumb::trace {

namespace {

using Json = nlohmann::json;

constexpr std::uint64_t length_bytes = 8;
// Enough for about 400,000 values, which take half a gigabyte as JSON objects. The safetensors project's own limit is
// 100 MB.
constexpr std::uint64_t most_header_bytes = std::uint64_t{64} << 20;
constexpr std::uint32_t most_steps = 1'000'000;
constexpr int most_depth = 4;  // header, entry, shape, number
constexpr std::string_view metadata_key = "__metadata__";

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;
  std::uint64_t bytes;
};
constexpr std::array<DtypeInfo, 3> dtypes{{{Dtype::f32, "F32", 4}, {Dtype::f16, "F16", 2}, {Dtype::bf16, "BF16", 2}}};

const DtypeInfo& info_of(Dtype dtype) { return dtypes[static_cast<std::size_t>(dtype)]; }

// Whether lists and objects are nested at most most_depth deep. (The JSON parser's own callback for this takes quadratic
// time.)
bool is_shallow(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && (c == '{' || c == '[')) {
      if (++depth > most_depth) return false;
    } else if (!in_string && (c == '}' || c == ']')) {
      --depth;
    }
  }
  return true;
}

// A discarded value where the text is no JSON or is nested too deep.
Json parse_json(std::string_view text) {
  return is_shallow(text) ? Json::parse(text, nullptr, false) : Json(Json::value_t::discarded);
}

std::string key_of(std::uint32_t step, std::string_view name) { return std::to_string(step) + "/" + std::string(name); }

// A JSON list of integers that fit T, from a metadata string.
template <class T>
Result<std::vector<T>> list_of(std::string_view key, const std::string& text) {
  const Json list = parse_json(text);
  if (!list.is_array()) return fail("metadata '{}' is no JSON list", key);
  std::vector<T> values;
  for (const Json& item : list) {
    if (!item.is_number_integer() || item.get<std::int64_t>() < 0 ||
        item.get<std::int64_t>() > std::numeric_limits<T>::max()) {
      return fail("metadata '{}', item {}: {} is no whole number from 0 to {}", key, values.size(),
                  item.dump().substr(0, 40), std::numeric_limits<T>::max());
    }
    values.push_back(item.get<T>());
  }
  return values;
}

Result<Info> read_info(const Json& header) {
  const auto metadata = header.find(metadata_key);
  if (metadata == header.end() || !metadata->is_object()) {
    return fail("the header has no {}: it is no trace of Plumb's format", metadata_key);
  }
  const auto text = [&](const char* key) -> std::string {
    const auto found = metadata->find(key);
    return found != metadata->end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (text("format") != "plumb-trace") return fail("metadata 'format' is '{}'; a trace's is 'plumb-trace'", text("format"));
  if (text("version") != "1") return fail("metadata 'version' is '{}'; this Plumb reads version 1", text("version"));
  Info info{.engine = text("engine"),
            .model = text("model"),
            .model_sha256 = in_small_letters(text("model_sha256")),
            .prompt = text("prompt")};
  PLUMB_TRY(info.tokens, list_of<std::int32_t>("tokens", text("tokens")));
  if (metadata->contains("positions")) {
    PLUMB_TRY(info.positions, list_of<std::uint32_t>("positions", text("positions")));
    if (info.positions.size() != info.tokens.size()) {
      return fail("metadata 'positions' has {} items, 'tokens' {}", info.positions.size(), info.tokens.size());
    }
  }
  if (metadata->contains("context")) {
    PLUMB_TRY(const std::vector<std::uint32_t> context, list_of<std::uint32_t>("context", "[" + text("context") + "]"));
    if (context.size() != 1) return fail("metadata 'context' is no number");
    info.context = context.front();
  }
  if (metadata->contains("parameters")) {
    const Json parameters = parse_json(text("parameters"));
    if (!parameters.is_object()) return fail("metadata 'parameters' is no JSON object");
    for (const auto& [key, value] : parameters.items()) {
      if (value.is_structured()) return fail("metadata 'parameters': {} is a list or an object", key.substr(0, 200));
      info.parameters.push_back({key, value.dump(-1, ' ', false, Json::error_handler_t::replace)});
    }
  }
  return info;
}

Result<Value> read_value(const std::string& key, const Json& entry, std::span<const std::byte> data) {
  const std::size_t slash = key.find('/');
  Value value;
  const auto [end, error] = std::from_chars(key.data(), key.data() + std::min(slash, key.size()), value.step);
  if (slash == std::string::npos || slash == 0 || error != std::errc() || end != key.data() + slash ||
      value.step >= most_steps) {
    return fail("'{}' does not begin with a step below {} and '/', such as '0/blk.0.attn_q'", key.substr(0, 200),
                most_steps);
  }
  value.name = key.substr(slash + 1);
  const auto label = [&] { return key.substr(0, 200); };
  const Json none;
  const auto field = [&](const char* name) -> const Json& {
    return entry.is_object() && entry.contains(name) ? entry[name] : none;
  };
  const Json &type = field("dtype"), &shape = field("shape"), &offsets = field("data_offsets");
  if (!type.is_string() || !shape.is_array() || !offsets.is_array() || offsets.size() != 2) {
    return fail("'{}' lacks a dtype, a shape or data_offsets", label());
  }
  const auto dtype = std::find_if(dtypes.begin(), dtypes.end(),
                                  [&](const DtypeInfo& d) { return d.name == type.get_ref<const std::string&>(); });
  if (dtype == dtypes.end()) {
    return fail("'{}' is of type {}; a trace has F32, F16 or BF16", label(), type.dump().substr(0, 40));
  }
  value.dtype = dtype->dtype;
  const auto natural = [](const Json& number) {
    return number.is_number_unsigned() ? std::optional(number.get<std::uint64_t>()) : std::nullopt;
  };
  value.rows = value.width = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const auto dim = natural(shape[i]);
    if (!dim) return fail("'{}' has a shape that is not of whole numbers", label());
    std::uint64_t& side = i + 1 == shape.size() ? value.width : value.rows;
    if (__builtin_mul_overflow(side, *dim, &side)) return fail("'{}' has a shape of too many elements", label());
  }
  const auto first = natural(offsets[0]), last = natural(offsets[1]);
  if (!first || !last || *first > *last || *last > data.size()) {
    return fail("'{}': data_offsets {} lie outside the {} bytes of values; the file may be cut short", label(),
                offsets.dump().substr(0, 60), data.size());
  }
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(value.rows, value.width, &bytes) || __builtin_mul_overflow(bytes, dtype->bytes, &bytes) ||
      bytes != *last - *first) {
    return fail("'{}' has {} bytes; {} x {} of {} have another size", label(), *last - *first, value.rows, value.width,
                dtype->name);
  }
  value.bytes = data.subspan(*first, bytes);
  return value;
}

std::string header_of(const Info& info, const Json& entries) {
  Json header;
  Json& metadata = header[std::string(metadata_key)];
  metadata = {{"format", "plumb-trace"}, {"version", "1"},        {"engine", info.engine},
              {"model", info.model},     {"prompt", info.prompt}, {"tokens", Json(info.tokens).dump()}};
  if (!info.model_sha256.empty()) metadata["model_sha256"] = info.model_sha256;
  if (!info.positions.empty()) metadata["positions"] = Json(info.positions).dump();
  if (info.context > 0) metadata["context"] = std::to_string(info.context);
  if (!info.parameters.empty()) {
    Json parameters = Json::object();
    for (const Parameter& parameter : info.parameters) parameters[parameter.name] = parse_json(parameter.value);
    metadata["parameters"] = parameters.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  header.update(entries);
  return header.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string_view name(Dtype dtype) { return info_of(dtype).name; }

std::vector<float> Value::floats() const {
  std::vector<float> result(rows * width);
  if (dtype == Dtype::f32) {
    std::memcpy(result.data(), bytes.data(), bytes.size());
    return result;
  }
  for (std::size_t i = 0; i < result.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    result[i] = dtype == Dtype::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }
  return result;
}

Result<Trace> Trace::open(const std::filesystem::path& path) {
  PLUMB_TRY(gguf::Mapping file, gguf::Mapping::open(path));
  Result<Trace> trace = parse(file.bytes());
  if (!trace) return fail("{}: {}", path.string(), trace.error().message);
  trace->file_ = std::move(file);
  return trace;
}

Result<Trace> Trace::parse(std::span<const std::byte> bytes) {
  Trace trace;
  std::uint64_t length = 0;
  const std::string_view start(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 4));
  if (start == "GGUF") return fail("this is a GGUF file, as models are, and no trace; plumb trace makes one");
  if (bytes.size() < length_bytes) return fail("{} bytes are no safetensors file", bytes.size());
  std::memcpy(&length, bytes.data(), length_bytes);
  if (length > most_header_bytes || length > bytes.size() - length_bytes) {
    return fail("a header of {} bytes in a file of {}: no safetensors file, or one that is cut short", length,
                bytes.size());
  }
  const Json header = parse_json({reinterpret_cast<const char*>(bytes.data()) + length_bytes, length});
  if (!header.is_object()) return fail("the header is no JSON object");
  PLUMB_TRY(trace.info_, read_info(header));
  const std::span<const std::byte> data = bytes.subspan(length_bytes + length);
  for (const auto& [key, entry] : header.items()) {
    if (key == metadata_key) continue;
    PLUMB_TRY(Value value, read_value(key, entry, data));
    trace.values_.push_back(std::move(value));
  }
  std::stable_sort(trace.values_.begin(), trace.values_.end(), [](const Value& a, const Value& b) {
    return std::pair(a.step, a.bytes.data()) < std::pair(b.step, b.bytes.data());
  });
  PLUMB_CHECK(trace.check_overlaps());
  return trace;
}

// Values that share bytes come from a faulty trace writer, and would look like faulty values of the engine.
Result<void> Trace::check_overlaps() const {
  std::vector<const Value*> in_order;
  for (const Value& value : values_) {
    if (!value.bytes.empty()) in_order.push_back(&value);
  }
  std::sort(in_order.begin(), in_order.end(),
            [](const Value* a, const Value* b) { return a->bytes.data() < b->bytes.data(); });
  for (std::size_t i = 1; i < in_order.size(); ++i) {
    const Value &a = *in_order[i - 1], &b = *in_order[i];
    if (a.bytes.data() + a.bytes.size() > b.bytes.data())
      return fail("the bytes of '{}/{}' and '{}/{}' overlap: data_offsets are wrong", a.step, a.name, b.step, b.name);
  }
  return {};
}

const Value* Trace::find(std::uint32_t step, std::string_view name) const {
  const auto first = std::lower_bound(values_.begin(), values_.end(), step,
                                      [](const Value& value, std::uint32_t s) { return value.step < s; });
  const auto found =
      std::find_if(first, values_.end(), [&](const Value& value) { return value.step != step || value.name == name; });
  return found == values_.end() || found->step != step ? nullptr : &*found;
}

std::uint32_t Trace::n_steps() const { return values_.empty() ? 0 : values_.back().step + 1; }

Result<Writer> Writer::create(const std::filesystem::path& path, const Info& info, std::size_t max_values) {
  // A value's key, dtype, shape and offsets take less than 300 bytes, its token less than 12.
  const std::uint64_t least = length_bytes + header_of(info, Json::object()).size() + 320 * std::uint64_t{max_values};
  if (least > most_header_bytes) {
    return fail("{}: {} values are more than a trace may hold; trace fewer steps or fewer values", path.string(),
                max_values);
  }
  PLUMB_TRY(NewFile file, NewFile::create(path));
  const std::uint64_t room = (least / 64 + 1) * 64 - length_bytes;  // so that values begin at a multiple of 64 bytes
  const std::vector<std::byte> blank(length_bytes + room, std::byte{' '});
  PLUMB_CHECK(file.append(blank));
  return Writer(std::move(file), room);
}

Result<void> Writer::add(std::uint32_t step, std::string_view name, std::uint64_t rows, std::uint64_t width,
                         std::span<const float> data) {
  if (data.size() != rows * width) return fail("{} has {} values; {} x {} were promised", name, data.size(), rows, width);
  PLUMB_CHECK(file_.append(std::as_bytes(data)));
  enter(step, name, rows, width);
  return {};
}

const Writer::Entry& Writer::enter(std::uint32_t step, std::string_view name, std::uint64_t rows, std::uint64_t width) {
  const std::uint64_t begin = n_bytes_;
  n_bytes_ += rows * width * sizeof(float);
  return entries_.emplace_back(
      Entry{.key = key_of(step, name), .rows = rows, .width = width, .begin = begin, .end = n_bytes_});
}

const Writer::Entry* Writer::find(std::uint32_t step, std::string_view name) const {
  const std::string key = key_of(step, name);
  const auto found = std::find_if(entries_.rbegin(), entries_.rend(), [&](const Entry& e) { return e.key == key; });
  return found == entries_.rend() ? nullptr : &*found;
}

Result<void> Writer::add_part(std::uint32_t step, std::string_view name, std::uint64_t rows, std::uint64_t width,
                              std::uint64_t first_row, std::span<const float> data) {
  const Entry* entry = find(step, name);
  if (entry == nullptr) {
    PLUMB_CHECK(file_.extend(rows * width * sizeof(float)));
    entry = &enter(step, name, rows, width);
  }
  if (entry->rows != rows || entry->width != width || first_row * width + data.size() > rows * width)
    return fail("{}: {} values from row {} on do not fit into {} x {}", name, data.size(), first_row, entry->rows,
                entry->width);
  return file_.write_at(length_bytes + header_room_ + entry->begin + first_row * width * sizeof(float),
                        std::as_bytes(data));
}

Result<void> Writer::finish(const Info& info) {
  Json entries = Json::object();
  for (const Entry& entry : entries_) {
    entries[entry.key] = {
        {"dtype", "F32"}, {"shape", {entry.rows, entry.width}}, {"data_offsets", {entry.begin, entry.end}}};
  }
  std::string header = header_of(info, entries);
  if (header.size() > header_room_) return fail("a header of {} bytes is longer than was promised", header.size());
  header.resize(header_room_, ' ');  // the format allows trailing spaces
  std::array<std::byte, length_bytes> length{};
  std::memcpy(length.data(), &header_room_, length_bytes);
  PLUMB_CHECK(file_.write_at(0, length));
  PLUMB_CHECK(file_.write_at(length_bytes, std::as_bytes(std::span(header))));
  return file_.finish();
}

}  // namespace plumb::trace
