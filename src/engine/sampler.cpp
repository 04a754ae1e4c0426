#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace plumb::engine {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// The largest logit. Errors: a logit is NaN or +infinity; all are -infinity.
Result<float> checked_max(std::span<const float> logits) {
  float max = -infinity;
  bool good = true;
  for (const float x : logits) {
    good = good && x < infinity;
    max = x > max ? x : max;
  }
  if (!good) {
    const auto bad = std::find_if(logits.begin(), logits.end(), [](float x) { return !(x < infinity); });
    return fail("the logit of token {} is {}: the model's output is broken; `plumb diagnose` finds where it breaks",
                bad - logits.begin(), std::isnan(*bad) ? "NaN" : "+infinity");
  }
  if (max == -infinity) return fail("no token can be drawn: all {} logits are -infinity", logits.size());
  return max;
}

double in_float_range(double x) {
  constexpr double largest = std::numeric_limits<float>::max();
  return std::clamp(x, -largest, largest);
}

double distance(float logit, float max) { return static_cast<double>(logit) - static_cast<double>(max); }

}  // namespace

std::uint64_t random_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

Result<void> SamplerSettings::validate() const {
  const auto fraction = [](double value) { return value >= 0 && value <= 1; };
  struct Rule {
    bool holds;
    std::string_view name;
    double value;
    std::string_view rule;
  };
  const Rule rules[] = {
      {std::isfinite(temperature) && temperature >= 0, "temperature", temperature,
       "a finite number of at least 0 (0 always takes the likeliest token)"},
      {top_k >= 0, "top_k", static_cast<double>(top_k), "at least 0 (0 keeps all tokens)"},
      {fraction(top_p), "top_p", top_p, "from 0 to 1 (1 keeps all tokens)"},
      {fraction(min_p), "min_p", min_p, "from 0 to 1 (0 keeps all tokens)"},
      {std::isfinite(repeat_penalty) && repeat_penalty > 0, "repeat_penalty", repeat_penalty,
       "a finite number above 0 (1 turns it off)"},
      {repeat_last_n >= -1, "repeat_last_n", static_cast<double>(repeat_last_n),
       "at least -1 (0 looks at no token, -1 at all)"},
      {std::isfinite(presence_penalty), "presence_penalty", presence_penalty, "a finite number (0 turns it off)"},
      {std::isfinite(frequency_penalty), "frequency_penalty", frequency_penalty, "a finite number (0 turns it off)"},
  };
  for (const auto& [holds, name, value, rule] : rules) {
    if (!holds) return fail("{} is {}: it must be {}", name, value, rule);
  }
  for (const auto& [token, bias] : logit_bias) {
    if (!(bias < infinity)) {
      return fail("logit_bias of token {} is {}: it must be a finite number, or -infinity to ban the token", token, bias);
    }
  }
  return {};
}

Sampler::Sampler(SamplerSettings settings, std::uint32_t vocab) : settings_(std::move(settings)), vocab_(vocab) {}

Result<Sampler> Sampler::make(SamplerSettings settings, std::uint32_t vocab) {
  if (vocab == 0 || vocab > static_cast<std::uint32_t>(std::numeric_limits<TokenId>::max())) {
    return fail("a sampler for a vocabulary of {} tokens: there must be at least 1 and fewer than 2^31", vocab);
  }
  PLUMB_CHECK(settings.validate());
  for (const auto& [token, bias] : settings.logit_bias) {
    if (token < 0 || static_cast<std::uint32_t>(token) >= vocab) {
      return fail("logit_bias names token {}: the vocabulary has tokens 0 to {}", token, vocab - 1);
    }
  }
  return Sampler(std::move(settings), vocab);
}

bool Sampler::penalizes() const {
  return settings_.repeat_last_n != 0 &&
         (settings_.repeat_penalty != 1 || settings_.presence_penalty != 0 || settings_.frequency_penalty != 0);
}

void Sampler::accept(TokenId token) {
  if (!penalizes() || token < 0 || static_cast<std::uint32_t>(token) >= vocab_) return;
  ++counts_[token];
  if (settings_.repeat_last_n < 0) return;
  window_.push_back(token);
  if (window_.size() <= static_cast<std::size_t>(settings_.repeat_last_n)) return;
  const auto oldest = counts_.find(window_.front());
  if (--oldest->second == 0) counts_.erase(oldest);
  window_.pop_front();
}

void Sampler::reset() {
  window_.clear();
  counts_.clear();
  draws_ = 0;
}

// Steps 1 and 2. Returns `logits` itself when there is nothing to change.
Result<std::span<const float>> Sampler::adjust(std::span<const float> logits, std::vector<float>& adjusted) const {
  if (settings_.logit_bias.empty() && counts_.empty()) return logits;
  std::unordered_map<TokenId, double> changed;
  for (const auto& [token, bias] : settings_.logit_bias) {
    changed.try_emplace(token, logits[static_cast<std::size_t>(token)]).first->second += static_cast<double>(bias);
  }
  for (const auto& [token, count] : counts_) {
    double& x = changed.try_emplace(token, logits[static_cast<std::size_t>(token)]).first->second;
    if (std::isinf(x)) continue;
    x = in_float_range(x > 0 ? x / settings_.repeat_penalty : x * settings_.repeat_penalty);
    // Two statements, so that no compiler fuses the product into the sum: the result is the same on every platform.
    const double frequency = static_cast<double>(count) * settings_.frequency_penalty;
    x -= frequency;
    x -= settings_.presence_penalty;
    x = in_float_range(x);
  }
  adjusted.assign(logits.begin(), logits.end());
  for (const auto& [token, x] : changed) {
    adjusted[static_cast<std::size_t>(token)] = std::isinf(x) ? -infinity : static_cast<float>(in_float_range(x));
  }
  return adjusted;
}

bool Sampler::ranks_before(const Ranked& a, const Ranked& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The first k tokens of the ranking, in order; fewer where fewer are above -infinity. Reads the values once and keeps at
// most about 2k of them, so that a small k costs little more than one comparison per token.
void Sampler::rank(std::span<const float> values, std::size_t k, std::vector<Ranked>& top) {
  top.clear();
  k = std::min(k, values.size());
  if (k == 0) return;
  const auto prune = [&] {
    std::nth_element(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(k) - 1, top.end(), ranks_before);
    top.resize(k);
  };
  const std::size_t room = std::max<std::size_t>(2 * k, 64);
  float threshold = -infinity;
  for (std::size_t t = 0; t < values.size(); ++t) {
    // A later value equal to the threshold has a higher id, so it ranks behind the k that are kept.
    if (!(values[t] > threshold)) continue;
    top.push_back({values[t], static_cast<TokenId>(t)});
    if (top.size() < room) continue;
    prune();
    threshold = top.back().logit;
  }
  if (top.size() > k) prune();
  std::sort(top.begin(), top.end(), ranks_before);
}

// Steps 1 to 7: fills scratch.kept, in order of ids, and the weights beside it; returns the sum of weights.
Result<double> Sampler::weigh(std::span<const float> logits, Scratch& scratch) const {
  if (logits.size() != vocab_)
    return fail("the sampler was given {} logits for a vocabulary of {} tokens", logits.size(), vocab_);
  PLUMB_TRY(float max, checked_max(logits));
  PLUMB_TRY(const std::span<const float> x, adjust(logits, scratch.adjusted));
  if (x.data() != logits.data()) {
    max = *std::max_element(x.begin(), x.end());
    if (max == -infinity) return fail("no token can be drawn: logit_bias bans every token that the model allows");
  }
  auto& kept = scratch.kept;
  if (settings_.temperature == 0) {
    kept.assign(1, {max, static_cast<TokenId>(std::find(x.begin(), x.end(), max) - x.begin())});
    scratch.weights.assign(1, 1.0);
    return 1.0;
  }

  const double floor = std::log(settings_.min_p);
  const auto likely_enough = [&](const Ranked& token) { return distance(token.logit, max) >= floor; };
  const auto by_id = [](const Ranked& a, const Ranked& b) { return a.id < b.id; };
  double total = 0;        // sum of the weights that top-k keeps, at temperature 1
  std::size_t ranked = 0;  // the first `ranked` of `kept` are in order of rank
  if (settings_.top_k > 0 && static_cast<std::size_t>(settings_.top_k) < x.size()) {
    rank(x, static_cast<std::size_t>(settings_.top_k), kept);
    for (const Ranked& token : kept) total += std::exp(distance(token.logit, max));
    // Every filter keeps a prefix of the ranking, so filters may be applied in any order as long as top-p's total is right.
    kept.erase(std::find_if_not(kept.begin(), kept.end(), likely_enough), kept.end());
    ranked = kept.size();
  } else {
    kept.clear();
    for (std::size_t t = 0; t < x.size(); ++t) {
      if (x[t] == -infinity) continue;
      if (settings_.top_p < 1) total += std::exp(distance(x[t], max));
      const Ranked token{x[t], static_cast<TokenId>(t)};
      if (likely_enough(token)) kept.push_back(token);
    }
  }

  if (settings_.top_p < 1) {
    double mass = 0;
    std::size_t n = 0;
    while (n < kept.size()) {
      if (n == ranked) {
        // Ranks the next stretch, twice as long as all before it.
        const std::size_t end = std::min(kept.size(), std::max<std::size_t>(64, 3 * ranked));
        const auto at = [&](std::size_t i) { return kept.begin() + static_cast<std::ptrdiff_t>(i); };
        if (end < kept.size()) std::nth_element(at(ranked), at(end), kept.end(), ranks_before);
        std::sort(at(ranked), at(end), ranks_before);
        ranked = end;
      }
      mass += std::exp(distance(kept[n++].logit, max));
      if (mass >= settings_.top_p * total) break;
    }
    kept.resize(n);
  }
  if (ranked > 0) std::sort(kept.begin(), kept.end(), by_id);

  scratch.weights.clear();
  double sum = 0;
  for (const Ranked& token : kept) {
    scratch.weights.push_back(std::exp(distance(token.logit, max) / settings_.temperature));
    sum += scratch.weights.back();
  }
  return sum;
}

Result<TokenId> Sampler::sample(std::span<const float> logits) {
  PLUMB_TRY(const double sum, weigh(logits, scratch_));
  const auto& [adjusted, kept, weights] = scratch_;
  if (settings_.temperature == 0) return kept.front().id;
  const double target = uniform(settings_.seed, draws_++) * sum;
  double cumulative = 0;
  TokenId drawn = kept.front().id;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (weights[i] == 0) continue;
    cumulative += weights[i];
    drawn = kept[i].id;
    if (cumulative > target) break;
  }
  return drawn;
}

Result<std::vector<Candidate>> Sampler::distribution(std::span<const float> logits) const {
  Scratch scratch;
  PLUMB_TRY(const double sum, weigh(logits, scratch));
  std::vector<Candidate> candidates;
  candidates.reserve(scratch.kept.size());
  for (std::size_t i = 0; i < scratch.kept.size(); ++i) {
    if (scratch.weights[i] > 0) candidates.push_back({scratch.kept[i].id, scratch.weights[i] / sum});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.probability > b.probability; });
  return candidates;
}

Result<double> log_sum_exp(std::span<const float> logits) {
  PLUMB_TRY(const float max, checked_max(logits));
  double sum = 0;
  for (const float x : logits) sum += std::exp(distance(x, max));
  return static_cast<double>(max) + std::log(sum);
}

Result<std::vector<TokenLogprob>> top_logprobs(std::span<const float> logits, std::size_t n) {
  PLUMB_TRY(const double lse, log_sum_exp(logits));
  std::vector<Sampler::Ranked> top;
  Sampler::rank(logits, n, top);
  std::vector<TokenLogprob> logprobs;
  logprobs.reserve(top.size());
  for (const auto& token : top) logprobs.push_back({token.id, static_cast<double>(token.logit) - lse});
  return logprobs;
}

}  // namespace plumb::engine
