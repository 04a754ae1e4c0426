#include "backends/backend.h"

namespace plumb::backends {

Result<void> check_step(const plan::Plan& plan, const Step& step) {
  if (step.tokens.empty()) return fail("a step needs at least one token");
  for (std::size_t i = 0; i < step.tokens.size(); ++i) {
    const TokenId token = step.tokens[i];
    if (token < 0 || static_cast<std::uint32_t>(token) >= plan.vocab) {
      return fail("token {} at place {} is outside the vocabulary of {} tokens", token, i, plan.vocab);
    }
  }
  const std::uint32_t room = step.cache->capacity() - step.cache->length();
  if (step.tokens.size() > room) {
    return fail("{} tokens do not fit in the KV cache: {} of {} positions are free; ask for a longer context",
                step.tokens.size(), room, step.cache->capacity());
  }
  return {};
}

}  // namespace plumb::backends
