#include "gguf/file.h"

#include <charconv>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "gguf/mapping.h"
#include "gguf/name_index.h"
#include "gguf/parse.h"

namespace plumb::gguf {
namespace {

constexpr std::string_view key_split_no = "split.no";
constexpr std::string_view key_split_count = "split.count";
constexpr std::string_view key_split_tensors = "split.tensors.count";

std::optional<std::uint64_t> five_digits(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.size() != 5 || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The value, or that of an array whose elements are all equal; none for an array without such a value.
std::optional<Value> single(const Value& value) {
  const auto* array = std::get_if<Array>(&value);
  if (array == nullptr) return value;
  if (array->count == 0 || scalar_bytes(array->element) == 0) return std::nullopt;
  const std::size_t width = scalar_bytes(array->element);
  // All are equal if each equals the next one.
  if (std::memcmp(array->raw.data(), array->raw.data() + width, array->raw.size() - width) != 0) return std::nullopt;
  return element_of(*array, 0);
}

template <class T>
std::optional<T> single_as(const Value& value) {
  const std::optional<Value> one = single(value);
  return one ? exactly<T>(*one) : std::nullopt;
}

std::string shown(const Value& value) {
  return std::visit(
      [&](const auto& held) -> std::string {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, Array>) {
          return fmt::format("array of {} {}", held.count, name(held.element));
        } else if constexpr (std::is_same_v<T, std::string_view>) {
          return fmt::format("string {}", in_quotes(held));
        } else {
          return fmt::format("{} {}", name(type_of(value)), held);
        }
      },
      value);
}

// The value of a split.* key in one shard; 0 when absent.
Result<std::uint64_t> split_value(const ParsedFile& parsed, const std::string& label, std::string_view key) {
  for (const auto& [name, value] : parsed.metadata) {
    if (name != key) continue;
    if (const auto number = exactly<std::uint64_t>(value)) return *number;
    return fail("{}: key {} must be a non-negative integer, but is {}", label, in_quotes(key), shown(value));
  }
  return 0;
}

}  // namespace

struct File::State {
  std::string label;
  ParsedFile parsed;  // the first file's, with the tensors of all files
  std::uint64_t size_bytes = 0;
  std::vector<Mapping> mappings;
  std::uint32_t n_shards = 1;
  NameIndex metadata_index;
  NameIndex tensor_index;

  void index() {
    metadata_index = NameIndex(parsed.metadata, [](const auto& entry) { return entry.first; });
    tensor_index = NameIndex(parsed.tensors, [](const Tensor& tensor) { return tensor.name; });
  }

  // Maps shards 2 to n. The first is mapped already.
  Result<void> add_other_shards(const std::filesystem::path& folder, const ShardName& set, std::uint64_t n_tensors) {
    std::vector<Tensor>& tensors = parsed.tensors;
    for (std::uint64_t number = 2; number <= set.count; ++number) {
      const auto path = folder / shard_filename(set, number);
      const std::string shard_label = path.string();
      auto mapping = Mapping::open(path);
      if (!mapping) {
        return fail("{} (needed because {} is the first of {} files)", mapping.error().message, label, set.count);
      }
      PLUMB_TRY(auto other, parse(mapping->bytes(), shard_label));
      PLUMB_TRY(const auto no, split_value(other, shard_label, key_split_no));
      PLUMB_TRY(const auto count, split_value(other, shard_label, key_split_count));
      PLUMB_TRY(const auto total, split_value(other, shard_label, key_split_tensors));
      if (no != number - 1 || count != set.count || total != n_tensors) {
        return fail(
            "{}: does not belong to the set of {}: split.no is {} instead of {}, split.count {} instead of {}, "
            "split.tensors.count {} instead of {}; fetch the whole set again",
            shard_label, label, no, number - 1, count, set.count, total, n_tensors);
      }
      for (Tensor& tensor : other.tensors) {
        tensor.shard = static_cast<std::uint32_t>(number - 1);
        tensors.push_back(tensor);
      }
      size_bytes += mapping->bytes().size();
      mappings.push_back(std::move(*mapping));
    }
    if (tensors.size() != n_tensors) {
      return fail("{}: split.tensors.count is {}, but the {} files hold {} tensors; fetch the whole set again", label,
                  n_tensors, set.count, tensors.size());
    }
    n_shards = static_cast<std::uint32_t>(set.count);
    const NameIndex names(tensors, [](const Tensor& tensor) { return tensor.name; });
    if (const auto twice = names.duplicate()) {
      const Tensor& first = tensors[twice->first];
      const Tensor& second = tensors[twice->second];
      return fail("{}: tensor {} occurs twice, with data at byte {} of file {} and at byte {} of file {} of the set", label,
                  in_quotes(first.name), first.file_offset, first.shard + 1, second.file_offset, second.shard + 1);
    }
    return {};
  }
};

std::optional<ShardName> shard_name(std::string_view filename) {
  constexpr std::string_view pattern = "-00001-of-00001.gguf";
  if (filename.size() < pattern.size()) return std::nullopt;
  const auto tail = filename.substr(filename.size() - pattern.size());
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf") return std::nullopt;
  const auto number = five_digits(tail.substr(1, 5));
  const auto count = five_digits(tail.substr(10, 5));
  if (!number || !count || *number == 0 || *number > *count) return std::nullopt;
  return ShardName{std::string(filename.substr(0, filename.size() - pattern.size())), *number, *count};
}

std::string shard_filename(const ShardName& set, std::uint64_t number) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", set.prefix, number, set.count);
}

Result<File> File::open(const std::filesystem::path& path) {
  auto state = std::make_shared<State>();
  state->label = path.string();
  PLUMB_TRY(auto mapping, Mapping::open(path));
  PLUMB_TRY(auto parsed, parse(mapping.bytes(), state->label));
  PLUMB_TRY(const auto no, split_value(parsed, state->label, key_split_no));
  PLUMB_TRY(const auto count, split_value(parsed, state->label, key_split_count));
  PLUMB_TRY(const auto n_tensors, split_value(parsed, state->label, key_split_tensors));
  const auto named = shard_name(path.filename().string());

  if (count > 1) {
    if (!named || named->count != count || named->number != no + 1) {
      return fail(
          "{}: is file {} of a split set of {} (split.no, split.count), but is not named so; name the set "
          "<name>-{:05}-of-{:05}.gguf and so on, and open the first",
          state->label, no + 1, count, no + 1, count);
    }
    if (no != 0) {
      const std::filesystem::path first = path.parent_path() / shard_filename(*named, 1);
      std::error_code ignored;
      const bool is_there = std::filesystem::exists(first, ignored);
      return fail(
          "{}: is file {} of {} of a split set; {} {}", state->label, no + 1, count,
          is_there ? "open the first," : "fetch the whole set and open the first, which is not here:", first.string());
    }
  } else if (named && named->count > 1) {
    return fail(
        "{}: is named as file {} of {} of a split set, but its split.count does not say so; rename it if it is whole",
        state->label, named->number, named->count);
  }

  state->size_bytes = mapping.bytes().size();
  state->mappings.push_back(std::move(mapping));
  state->parsed = std::move(parsed);
  if (count > 1) PLUMB_CHECK(state->add_other_shards(path.parent_path(), *named, n_tensors));
  state->index();
  return File(std::move(state));
}

Result<File> File::from_memory(std::span<const std::byte> bytes, std::string label) {
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % 8 != 0) {
    return fail("{}: its bytes must start at an address that is a multiple of 8", label);
  }
  auto state = std::make_shared<State>();
  state->label = std::move(label);
  PLUMB_TRY(auto parsed, parse(bytes, state->label));
  PLUMB_TRY(const auto count, split_value(parsed, state->label, key_split_count));
  if (count > 1) {
    return fail("{}: is one of a split set of {} files (split.count), which can only be opened by path", state->label,
                count);
  }
  state->size_bytes = bytes.size();
  state->parsed = std::move(parsed);
  state->index();
  return File(std::move(state));
}

std::uint32_t File::version() const { return state_->parsed.version; }
std::uint64_t File::alignment() const { return state_->parsed.alignment; }
const std::string& File::label() const { return state_->label; }
std::uint64_t File::size_bytes() const { return state_->size_bytes; }
std::uint32_t File::n_shards() const { return state_->n_shards; }

std::span<const std::pair<std::string_view, Value>> File::metadata() const { return state_->parsed.metadata; }

const Value* File::find(std::string_view key) const {
  const auto place = state_->metadata_index.find(key);
  return place ? &state_->parsed.metadata[*place].second : nullptr;
}

Result<const Value*> File::require(std::string_view key) const {
  if (const Value* value = find(key)) return value;
  return fail("{}: the key {} is missing", label(), in_quotes(key));
}

Result<std::uint64_t> File::get_uint(std::string_view key) const {
  PLUMB_TRY(const Value* value, require(key));
  if (const auto number = single_as<std::uint64_t>(*value)) return *number;
  return fail("{}: key {} must be a non-negative integer, but is {}", label(), in_quotes(key), shown(*value));
}

Result<double> File::get_float(std::string_view key) const {
  PLUMB_TRY(const Value* value, require(key));
  if (const auto number = single_as<double>(*value)) return *number;
  return fail("{}: key {} must be a number, but is {}", label(), in_quotes(key), shown(*value));
}

Result<bool> File::get_bool(std::string_view key) const {
  PLUMB_TRY(const Value* value, require(key));
  if (const auto flag = single_as<bool>(*value)) return *flag;
  return fail("{}: key {} must be a bool, but is {}", label(), in_quotes(key), shown(*value));
}

Result<std::string_view> File::get_string(std::string_view key) const {
  PLUMB_TRY(const Value* value, require(key));
  if (const auto* string = std::get_if<std::string_view>(value)) return *string;
  return fail("{}: key {} must be a string, but is {}", label(), in_quotes(key), shown(*value));
}

Result<const Array*> File::get_array(std::string_view key, ValueType element) const {
  PLUMB_TRY(const Value* value, require(key));
  const auto* array = std::get_if<Array>(value);
  if (array == nullptr || array->element != element) {
    return fail("{}: key {} must be an array of {}, but is {}", label(), in_quotes(key), name(element), shown(*value));
  }
  return array;
}

template <class T>
Result<std::vector<T>> File::get_all(std::string_view key, std::string_view what) const {
  PLUMB_TRY(const Value* value, require(key));
  const auto* array = std::get_if<Array>(value);
  if (array == nullptr || scalar_bytes(array->element) == 0) {
    return fail("{}: key {} must be an array of {}, but is {}", label(), in_quotes(key), what, shown(*value));
  }
  std::vector<T> numbers;
  numbers.reserve(array->count);
  for (std::uint64_t i = 0; i < array->count; ++i) {
    const Value element = element_of(*array, i);
    const auto number = exactly<T>(element);
    if (!number) {
      return fail("{}: key {} must be an array of {}, but its element {} is {}", label(), in_quotes(key), what, i,
                  shown(element));
    }
    numbers.push_back(*number);
  }
  return numbers;
}

Result<std::vector<std::int64_t>> File::get_integers(std::string_view key) const {
  return get_all<std::int64_t>(key, "integers");
}

Result<std::vector<double>> File::get_numbers(std::string_view key) const { return get_all<double>(key, "numbers"); }

std::span<const Tensor> File::tensors() const { return state_->parsed.tensors; }

const Tensor* File::tensor(std::string_view name) const {
  const auto place = state_->tensor_index.find(name);
  return place ? &state_->parsed.tensors[*place] : nullptr;
}

}  // namespace plumb::gguf
