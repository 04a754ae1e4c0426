// From logits to the next token.
//
// Definition. Let x be the logits, one for each token of the vocabulary. The steps run in the order of llama.cpp's default
// chain (logit bias, penalties, top-k, top-p, min-p, temperature, draw):
//
//  1. Bias:         x[t] += logit_bias of t, for every entry. A bias of -infinity bans a token.
//  2. Penalties:    for every token t that occurs c > 0 times among the last repeat_last_n accepted tokens,
//                     x[t] = x[t] > 0 ? x[t] / repeat_penalty : x[t] * repeat_penalty      (Keskar et al. 2019, CTRL;
//                     the multiplication for logits <= 0 makes it a penalty there too),
//                     x[t] = x[t] - c * frequency_penalty - presence_penalty               (OpenAI's definition).
//                   Steps 1 and 2 compute in double, clamp each result to float's finite range, and round once to float.
//                   A token at -infinity stays there.
//  3. Temperature 0 ends here: the token with the largest x wins, the lowest id among equals.
//     Otherwise tokens are ranked by x, larger first, equals by lower id; tokens at -infinity are excluded. Each filter
//     keeps a prefix of that ranking, never an empty one:
//  4. top-k:        the first top_k tokens; 0 keeps all.
//  5. top-p:        the shortest prefix whose probability is at least top_p, under the softmax over the tokens that top-k
//                   kept (at temperature 1); 1 keeps all, 0 keeps one.
//  6. min-p:        the tokens t with x[t] - max(x) >= ln(min_p): at least min_p times as likely as the likeliest; 0 keeps
//                   all.
//  7. Temperature:  each remaining token has the weight w[t] = exp((x[t] - max(x)) / temperature).
//  8. Draw:         with u in [0, 1) from the generator below, the first token t, in order of ids, whose cumulative
//                   weight exceeds u * (sum of all weights). The order is by id, not by rank: two nearly equal logits may
//                   swap ranks between backends, and the draw stays the same.
//
// The generator is that of base/random.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/result.h"

namespace plumb::engine {

using TokenId = std::int32_t;

struct SamplerSettings {
  double temperature = 0.8;                           // finite, >= 0; 0 is greedy
  int top_k = 40;                                     // >= 0; 0: off
  double top_p = 0.95;                                // 0 .. 1; 1: off
  double min_p = 0.05;                                // 0 .. 1; 0: off
  double repeat_penalty = 1.0;                        // finite, > 0; 1: off
  int repeat_last_n = 64;                             // >= -1; tokens the three penalties look back on; 0: none, -1: all
  double presence_penalty = 0.0;                      // finite; 0: off
  double frequency_penalty = 0.0;                     // finite; 0: off
  std::vector<std::pair<TokenId, float>> logit_bias;  // finite or -infinity; entries of one token add up
  std::uint64_t seed = 0;

  // An error names the setting, its value and the range it may have.
  [[nodiscard]] Result<void> validate() const;
};

// Another seed each time.
std::uint64_t random_seed();

// A token that may be drawn, and its probability.
struct Candidate {
  TokenId id = 0;
  double probability = 0;
};

struct TokenLogprob {
  TokenId id = 0;
  double logprob = 0;  // natural logarithm
};

// The sampler of one sequence. A copy continues on its own with the same draws.
class Sampler {
 public:
  // Errors: settings that do not validate, no vocabulary, a bias for a token outside it.
  static Result<Sampler> make(SamplerSettings settings, std::uint32_t vocab);

  // The next token for these logits, [vocab]. Does not accept it. Errors: another number of logits, a logit that is NaN
  // or +infinity, no token that may be drawn. On error no draw is used up.
  Result<TokenId> sample(std::span<const float> logits);

  // Adds a token, of the prompt or of the answer, to those that the penalties count.
  void accept(TokenId token);

  // The distribution that sample() draws from: probabilities after all filters, summing to 1, larger first, equals by lower
  // id.
  [[nodiscard]] Result<std::vector<Candidate>> distribution(std::span<const float> logits) const;

  // Forgets the accepted tokens and starts the generator anew.
  void reset();

  [[nodiscard]] const SamplerSettings& settings() const { return settings_; }
  [[nodiscard]] std::uint64_t draws() const { return draws_; }  // numbers taken from the generator

 private:
  struct Ranked {
    float logit;
    TokenId id;
  };
  // Working memory of one call, kept between calls.
  struct Scratch {
    std::vector<float> adjusted;
    std::vector<Ranked> kept;
    std::vector<double> weights;
  };

  Sampler(SamplerSettings settings, std::uint32_t vocab);
  [[nodiscard]] bool penalizes() const;
  [[nodiscard]] Result<std::span<const float>> adjust(std::span<const float> logits, std::vector<float>& adjusted) const;
  Result<double> weigh(std::span<const float> logits, Scratch& scratch) const;
  static void rank(std::span<const float> values, std::size_t k, std::vector<Ranked>& top);
  static bool ranks_before(const Ranked& a, const Ranked& b);
  friend Result<std::vector<TokenLogprob>> top_logprobs(std::span<const float> logits, std::size_t n);

  SamplerSettings settings_;
  std::uint32_t vocab_ = 0;
  std::uint64_t draws_ = 0;
  std::deque<TokenId> window_;  // empty when the window is unbounded
  std::unordered_map<TokenId, std::uint32_t> counts_;
  Scratch scratch_;
};

// ln(sum of exp(x)). A raw logit minus this number is its log-probability. Errors as for sample().
Result<double> log_sum_exp(std::span<const float> logits);

// The n most likely tokens under the softmax of the raw logits (no setting applied), larger first, equals by lower id.
// Tokens at -infinity are left out, so there may be fewer.
Result<std::vector<TokenLogprob>> top_logprobs(std::span<const float> logits, std::size_t n);

}  // namespace plumb::engine
