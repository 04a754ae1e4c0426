// The tokens of one sequence, and a KV cache that holds the first of them: what an Engine has read and answered. Reading
// begins where the new tokens differ from those in the cache, so each turn of a conversation reads only what is new.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"

namespace plumb::engine {

class Session {
 public:
  // `engine` must outlive the session. context: positions; 0: the engine's. Error: no memory.
  static Result<Session> make(Engine& engine, std::uint32_t context = 0);
  // A session that save() wrote, and the note that it was given. Errors: another kind of file, a damaged one, one of
  // another model, more tokens than the context has. Where the engine keeps keys and values in another type than the
  // file's, all tokens are read again when they are needed.
  struct Restored;
  static Result<Restored> restore(Engine& engine, const std::filesystem::path& path);

  // Makes `all` the session's tokens, and answers them. tokens() then ends with the answer's. Errors: no tokens; more than
  // the context has; those of Engine::generate. After an error, and where on_text throws, tokens() is as before.
  Result<Completion> answer(std::vector<TokenId> all, GenerateOptions options, const Engine::OnText& on_text = {});
  // Makes `all` the session's tokens. Returns the logits of what follows, [vocab], valid until the engine's next run.
  Result<std::span<const float>> read(std::vector<TokenId> all);
  // Forgets the tokens from number n on.
  void rewind(std::size_t n);

  [[nodiscard]] const std::vector<TokenId>& tokens() const { return tokens_; }
  [[nodiscard]] std::uint32_t used() const { return cache_->length(); }  // positions of the context
  [[nodiscard]] std::uint32_t context() const { return cache_->capacity(); }
  [[nodiscard]] Result<Session> fork() const;
  // Writes tokens, keys and values, and a note, as a GGUF file.
  [[nodiscard]] Result<void> save(const std::filesystem::path& path, std::string_view note) const;

 private:
  Session(Engine& engine, std::unique_ptr<backends::KvCache> cache) : engine_(&engine), cache_(std::move(cache)) {}
  // Cuts the cache to what it has in common with `all`, and returns the rest, which is never empty.
  Result<std::span<const TokenId>> cut_to(std::span<const TokenId> all);

  Engine* engine_;
  std::unique_ptr<backends::KvCache> cache_;  // of the first tokens of tokens_, or of all
  std::vector<TokenId> tokens_;
};

struct Session::Restored {
  Session session;
  std::string note;
};

}  // namespace plumb::engine
