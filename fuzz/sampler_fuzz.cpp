// Any sampler settings, logits and accepted tokens, all from the input's bytes. The result must be an error, or tokens and
// probabilities that keep the promises of sampler.h.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "engine/sampler.h"

namespace {

using plumb::engine::TokenId;

// Reads values from the front of the bytes; zeros after the end.
class Bytes {
 public:
  explicit Bytes(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  template <class T>
  T take() {
    T value{};
    const std::size_t n = std::min(sizeof(T), bytes_.size());
    std::memcpy(&value, bytes_.data(), n);
    bytes_ = bytes_.subspan(n);
    return value;
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

// Half of the time a number near the setting's valid range, else any double.
double number(Bytes& bytes) {
  const auto kind = bytes.take<std::uint8_t>();
  if (kind < 128) return kind / 64.0;
  return bytes.take<double>();
}

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes({data, size});
  plumb::engine::SamplerSettings settings;
  settings.temperature = number(bytes);
  settings.top_k = bytes.take<std::int16_t>();
  settings.top_p = number(bytes);
  settings.min_p = number(bytes);
  settings.repeat_penalty = number(bytes);
  settings.repeat_last_n = bytes.take<std::int8_t>();
  settings.presence_penalty = number(bytes);
  settings.frequency_penalty = number(bytes);
  settings.seed = bytes.take<std::uint64_t>();
  for (int n = bytes.take<std::uint8_t>() % 8; n > 0; --n) {
    const auto token = bytes.take<std::int16_t>();
    settings.logit_bias.emplace_back(token, bytes.take<float>());
  }
  const std::uint32_t vocab = bytes.take<std::uint16_t>() % 2048;
  auto sampler = plumb::engine::Sampler::make(settings, vocab);
  if (!sampler) {
    require(!sampler.error().message.empty());
    return 0;
  }
  for (int n = bytes.take<std::uint8_t>(); n > 0; --n) sampler->accept(bytes.take<std::int16_t>());

  // The rest of the bytes, repeated: as floats, or as small numbers with many ties.
  const bool any_float = bytes.take<std::uint8_t>() % 2 == 0;
  std::vector<float> pattern;
  while (!bytes.empty())
    pattern.push_back(any_float ? bytes.take<float>() : static_cast<float>(bytes.take<std::int8_t>()) / 8);
  if (pattern.empty()) pattern.push_back(0);
  std::vector<float> logits(vocab);
  for (std::size_t t = 0; t < logits.size(); ++t) logits[t] = pattern[t % pattern.size()];

  const auto distribution = sampler->distribution(logits);
  const auto token = sampler->sample(logits);
  require(distribution.has_value() == token.has_value());
  if (!token) return 0;
  double sum = 0;
  double last = 1;
  bool drawn = false;
  for (const auto& [id, probability] : *distribution) {
    require(id >= 0 && static_cast<std::uint32_t>(id) < vocab);
    require(probability > 0 && probability <= last);
    last = probability;
    sum += probability;
    drawn = drawn || id == *token;
  }
  require(drawn);
  require(std::abs(sum - 1) < 1e-9);
  if (settings.top_k > 0) require(distribution->size() <= static_cast<std::size_t>(settings.top_k));

  const auto top = plumb::engine::top_logprobs(logits, 5);
  require(top.has_value() && !top->empty() && top->size() <= 5);
  for (const auto& [id, logprob] : *top) require(logprob <= 1e-6 && !std::isnan(logprob));
  return 0;
}
