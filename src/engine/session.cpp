#include "engine/session.h"

#include <algorithm>
#include <boost/crc.hpp>
#include <type_traits>
#include <utility>

#include "gguf/writer.h"

namespace plumb::engine {

namespace {

constexpr std::string_view kind = "plumb-conversation";
constexpr std::string_view key_kind = "general.architecture", key_model = "conversation.model",
                           key_tokens = "conversation.tokens", key_note = "conversation.note",
                           key_sum = "conversation.checksum", tensor_name = "keys_and_values";

// CRC-64 of ECMA-182, reflected, as the xz format has it.
using Checksum = boost::crc_optimal<64, 0x42F0E1EBA9EA3693, ~std::uint64_t{0}, ~std::uint64_t{0}, true, true>;

void add(Checksum& sum, std::span<const std::byte> bytes) { sum.process_bytes(bytes.data(), bytes.size()); }
void add(Checksum& sum, std::string_view text) { add(sum, std::as_bytes(std::span(text))); }

// A number that differs between models: of their hyper-parameters, of the shapes of their tensors, and of the first bytes
// of each. The bytes of all tensors would have to be read from the disk.
std::uint64_t fingerprint(const gguf::File& file) {
  constexpr std::size_t sampled = 4096;
  Checksum sum;
  const auto architecture = file.get_string("general.architecture");
  for (const auto& [key, value] : file.metadata()) {
    if (!architecture || !key.starts_with(*architecture)) continue;
    add(sum, key);
    std::visit(
        [&](const auto& held) {
          using T = std::decay_t<decltype(held)>;
          if constexpr (std::is_same_v<T, gguf::Array>) {
            add(sum, held.raw);
          } else if constexpr (std::is_same_v<T, std::string_view>) {
            add(sum, held);
          } else {
            add(sum, std::as_bytes(std::span(&held, 1)));
          }
        },
        value);
  }
  for (const gguf::Tensor& tensor : file.tensors()) {
    add(sum, tensor.name);
    add(sum, std::as_bytes(std::span(&tensor.format, 1)));
    add(sum, std::as_bytes(std::span(tensor.dims)));
    add(sum, tensor.data.first(std::min(tensor.data.size(), sampled)));
  }
  return sum.checksum();
}

std::uint64_t checksum_of(std::span<const std::byte> tokens, std::string_view note, std::span<const std::byte> cached) {
  Checksum sum;
  add(sum, tokens);
  add(sum, note);
  add(sum, cached);
  return sum.checksum();
}

// Sets the length of a cache back when it goes, unless it is released.
class Restoring {
 public:
  Restoring(backends::KvCache& cache, std::uint32_t length) : cache_(&cache), length_(length) {}
  Restoring(const Restoring&) = delete;
  Restoring& operator=(const Restoring&) = delete;
  ~Restoring() {
    if (cache_ != nullptr) cache_->truncate(length_);
  }
  void release() { cache_ = nullptr; }

 private:
  backends::KvCache* cache_;
  std::uint32_t length_;
};

}  // namespace

Result<Session> Session::make(Engine& engine, std::uint32_t context) {
  PLUMB_TRY(auto cache, engine.executor().new_cache(context > 0 ? context : engine.context(), engine.settings().kv_type));
  return Session(engine, std::move(cache));
}

Result<std::span<const TokenId>> Session::cut_to(std::span<const TokenId> all) {
  if (all.empty()) return fail("there is nothing to answer: the conversation has no tokens");
  if (all.size() > cache_->capacity()) {
    return fail("the conversation is {} tokens long and the context has {} positions; ask for a longer one (ctx)",
                all.size(), cache_->capacity());
  }
  // At least one token must run, because its logits are needed.
  const std::size_t most = std::min<std::size_t>(cache_->length(), all.size() - 1);
  std::size_t common = 0;
  while (common < most && all[common] == tokens_[common]) ++common;
  cache_->truncate(static_cast<std::uint32_t>(common));
  return all.subspan(common);
}

Result<Completion> Session::answer(std::vector<TokenId> all, GenerateOptions options, const Engine::OnText& on_text) {
  PLUMB_TRY(const std::span<const TokenId> fresh, cut_to(all));
  Restoring restoring(*cache_, cache_->length());
  options.earlier = std::span(all).first(cache_->length());
  PLUMB_TRY(Completion completion, engine_->generate(*cache_, fresh, options, on_text));
  for (const GeneratedToken& token : completion.tokens) all.push_back(token.id);
  tokens_ = std::move(all);
  restoring.release();
  return completion;
}

Result<std::span<const float>> Session::read(std::vector<TokenId> all) {
  PLUMB_TRY(const std::span<const TokenId> fresh, cut_to(all));
  PLUMB_TRY(const std::span<const float> logits, engine_->prefill(*cache_, fresh));
  tokens_ = std::move(all);
  return logits;
}

void Session::rewind(std::size_t n) {
  tokens_.resize(std::min(n, tokens_.size()));
  cache_->truncate(static_cast<std::uint32_t>(tokens_.size()));
}

Result<Session> Session::fork() const {
  PLUMB_TRY(Session copy, make(*engine_));
  PLUMB_TRY(const std::vector<std::byte> cached, engine_->executor().read_cache(*cache_));
  PLUMB_CHECK(engine_->executor().fill_cache(*copy.cache_, cache_->length(), cached));
  copy.tokens_ = tokens_;
  return copy;
}

Result<void> Session::save(const std::filesystem::path& path, std::string_view note) const {
  PLUMB_TRY(const std::vector<std::byte> cached, engine_->executor().read_cache(*cache_));
  gguf::Writer writer;
  writer.set(std::string(key_kind), kind);
  writer.set(std::string(key_model), fingerprint(engine_->model().file()));
  writer.set(std::string(key_tokens), gguf::array_of(tokens_));
  writer.set(std::string(key_note), note);
  writer.set(std::string(key_sum), checksum_of(std::as_bytes(std::span(tokens_)), note, cached));
  if (!cached.empty()) {
    const auto format = backends::format_of(cache_->pool().type);
    const std::uint64_t of_position = cached.size() / cache_->length() / quants::info(format).row_bytes(1);
    const std::uint64_t dims[] = {of_position, cache_->length()};
    writer.add_tensor(std::string(tensor_name), format, dims, cached);
  }
  return writer.write(path);
}

Result<Session::Restored> Session::restore(Engine& engine, const std::filesystem::path& path) {
  PLUMB_TRY(const gguf::File file, gguf::File::open(path));
  const auto found = file.get_string(key_kind);
  if (!found || *found != kind) return fail("{}: this is no saved conversation", path.string());
  PLUMB_TRY(const std::uint64_t model, file.get_uint(key_model));
  if (model != fingerprint(engine.model().file())) {
    return fail("{}: the conversation was saved with another model than {}", path.string(), engine.model().file().label());
  }
  PLUMB_TRY(const gguf::Array* const tokens, file.get_array(key_tokens, gguf::ValueType::i32));
  PLUMB_TRY(const std::string_view note, file.get_string(key_note));
  PLUMB_TRY(const std::uint64_t sum, file.get_uint(key_sum));
  const gguf::Tensor* const tensor = file.tensor(tensor_name);
  const auto cached = tensor == nullptr ? std::span<const std::byte>() : tensor->data;
  if (sum != checksum_of(tokens->raw, note, cached)) {
    return fail("{}: the file is damaged: its checksum is not that of its content", path.string());
  }
  PLUMB_TRY(Session session, make(engine));
  if (tokens->count > session.cache_->capacity()) {
    return fail("{}: the conversation is {} tokens long and the context has {} positions; ask for a longer one (ctx)",
                path.string(), tokens->count, session.cache_->capacity());
  }
  for (std::uint64_t i = 0; i < tokens->count; ++i) {
    const auto token = tokens->at<TokenId>(i);
    if (token < 0 || static_cast<std::uint32_t>(token) >= engine.model().plan()->vocab) {
      return fail("{}: token {} is outside the model's vocabulary", path.string(), token);
    }
    session.tokens_.push_back(token);
  }
  const auto kept = backends::format_of(session.cache_->pool().type);
  if (tensor != nullptr && tensor->format == kept && tensor->dims[1] <= tokens->count) {
    PLUMB_CHECK(engine.executor().fill_cache(*session.cache_, static_cast<std::uint32_t>(tensor->dims[1]), cached));
  }
  return Restored{std::move(session), std::string(note)};
}

}  // namespace plumb::engine
