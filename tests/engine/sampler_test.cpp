#include "engine/sampler.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

namespace plumb::engine {
namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

SamplerSettings plain() {
  SamplerSettings settings;
  settings.temperature = 1;
  settings.top_k = 0;
  settings.top_p = 1;
  settings.min_p = 0;
  return settings;
}

Sampler make(const SamplerSettings& settings, std::size_t vocab) {
  auto sampler = Sampler::make(settings, static_cast<std::uint32_t>(vocab));
  EXPECT_TRUE(sampler.has_value()) << sampler.error().message;
  return std::move(*sampler);
}

std::string error_of(const SamplerSettings& settings) {
  const auto valid = settings.validate();
  return valid ? "" : valid.error().message;
}

// The definition in sampler.h, step by step, as plain as possible. `sure` becomes false where rounding may decide what a
// filter keeps.
std::vector<Candidate> by_definition(const SamplerSettings& s, const std::vector<float>& logits,
                                     const std::vector<TokenId>& accepted, bool& sure) {
  const auto n = logits.size();
  std::vector<double> wide(logits.begin(), logits.end());
  for (const auto& [token, bias] : s.logit_bias) wide[static_cast<std::size_t>(token)] += bias;
  const std::size_t window =
      s.repeat_last_n < 0 ? accepted.size() : std::min<std::size_t>(accepted.size(), s.repeat_last_n);
  std::map<TokenId, int> counts;
  for (std::size_t i = accepted.size() - window; i < accepted.size(); ++i) ++counts[accepted[i]];
  for (const auto& [token, count] : counts) {
    double& x = wide[static_cast<std::size_t>(token)];
    x = x > 0 ? x / s.repeat_penalty : x * s.repeat_penalty;
    const double frequency = count * s.frequency_penalty;
    x -= frequency;
    x -= s.presence_penalty;
  }
  const std::vector<float> x(wide.begin(), wide.end());

  std::vector<TokenId> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return x[a] > x[b]; });
  while (x[order.back()] == -inf) order.pop_back();
  const double max = x[order[0]];
  if (s.temperature == 0) return {{order[0], 1.0}};
  if (s.top_k > 0 && order.size() > static_cast<std::size_t>(s.top_k)) order.resize(s.top_k);
  if (s.top_p < 1) {
    double total = 0;
    for (const TokenId t : order) total += std::exp(x[t] - max);
    double mass = 0;
    std::size_t kept = 0;
    while (kept < order.size()) {
      mass += std::exp(x[order[kept++]] - max) / total;
      if (std::abs(mass - s.top_p) < 1e-9) sure = false;
      if (mass >= s.top_p) break;
    }
    order.resize(kept);
  }
  if (s.min_p > 0) {
    std::erase_if(order, [&](TokenId t) { return x[t] - max < std::log(s.min_p); });
  }
  double sum = 0;
  std::vector<Candidate> candidates;
  for (const TokenId t : order) {
    candidates.push_back({t, std::exp((x[t] - max) / s.temperature)});
    sum += candidates.back().probability;
  }
  for (auto& candidate : candidates) candidate.probability /= sum;
  std::erase_if(candidates, [](const Candidate& candidate) { return candidate.probability == 0; });
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
  });
  return candidates;
}

// Logits with ties, wide and narrow spreads, and bans. At least one logit is finite.
std::vector<float> random_logits(std::size_t n) {
  const bool ties = *rc::gen::arbitrary<bool>();
  const int spread = *rc::gen::inRange(1, 30);
  std::vector<float> logits;
  for (std::size_t i = 0; i < n; ++i) {
    const int step = *rc::gen::inRange(-1000, 1001);
    const float value = static_cast<float>(spread) * static_cast<float>(step) / 1000.0f;
    logits.push_back(*rc::gen::inRange(0, 20) == 0 ? -inf : ties ? std::round(value) : value);
  }
  logits[*rc::gen::inRange<std::size_t>(0, n)] = 0.5f;
  return logits;
}

double tenths(int low, int high) { return *rc::gen::inRange(low, high + 1) / 10.0; }

SamplerSettings random_settings(std::size_t vocab) {
  SamplerSettings s;
  s.temperature = tenths(0, 30);
  s.top_k = *rc::gen::inRange(0, 2 * static_cast<int>(vocab));
  s.top_p = *rc::gen::inRange(0, 3) == 0 ? 1.0 : *rc::gen::inRange(0, 1001) / 1000.0;
  s.min_p = *rc::gen::inRange(0, 3) == 0 ? 0.0 : *rc::gen::inRange(0, 1001) / 1000.0;
  s.repeat_penalty = tenths(1, 30);
  s.repeat_last_n = *rc::gen::inRange(-1, 20);
  s.presence_penalty = tenths(-20, 20);
  s.frequency_penalty = tenths(-20, 20);
  for (int i = *rc::gen::inRange(0, 4); i > 0; --i) {
    s.logit_bias.emplace_back(*rc::gen::inRange(0, static_cast<int>(vocab)), static_cast<float>(tenths(-50, 50)));
  }
  s.seed = *rc::gen::arbitrary<std::uint64_t>();
  return s;
}

void expect_same(const std::vector<Candidate>& actual, const std::vector<Candidate>& expected) {
  RC_ASSERT(actual.size() == expected.size());
  std::map<TokenId, double> wanted;
  for (const auto& [id, probability] : expected) wanted[id] = probability;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    RC_ASSERT(wanted.count(actual[i].id) == 1u);
    RC_ASSERT(std::abs(actual[i].probability - wanted[actual[i].id]) < 1e-12);
    if (i > 0) RC_ASSERT(actual[i - 1].probability >= actual[i].probability);
  }
}

// The distribution of a sampler that has accepted some tokens, held to the definition.
auto held_distribution(Sampler& sampler, const SamplerSettings& settings, const std::vector<float>& logits) {
  const int vocab = static_cast<int>(logits.size());
  const auto accepted = *rc::gen::container<std::vector<TokenId>>(rc::gen::inRange(0, vocab));
  for (const TokenId token : accepted) sampler.accept(token);
  bool sure = true;
  const auto expected = by_definition(settings, logits, accepted, sure);
  RC_PRE(sure);
  auto distribution = sampler.distribution(logits);
  RC_ASSERT(distribution.has_value());
  expect_same(*distribution, expected);
  return *std::move(distribution);
}

RC_GTEST_PROP(Sampler, agrees_with_the_definition_for_all_settings_at_once, ()) {
  const auto vocab = *rc::gen::inRange<std::size_t>(1, 400);
  const auto logits = random_logits(vocab);
  const auto settings = random_settings(vocab);
  auto sampler = make(settings, vocab);
  const auto distribution = held_distribution(sampler, settings, logits);

  // The draw goes by cumulative weight in order of ids.
  auto by_id = distribution;
  std::sort(by_id.begin(), by_id.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  const double u = uniform(settings.seed, 0);
  double cumulative = 0;
  TokenId drawn = by_id.back().id;
  for (const auto& [id, probability] : by_id) {
    cumulative += probability;
    RC_PRE(std::abs(cumulative - u) > 1e-12);
    if (cumulative > u) {
      drawn = id;
      break;
    }
  }
  const auto sampled = sampler.sample(logits);
  RC_ASSERT(sampled.has_value());
  RC_ASSERT(*sampled == drawn);
}

// Tests one setting with all others off, so that a fault in one cannot hide behind another.
void check_alone(void (*change)(SamplerSettings&, int n)) {
  const int n = *rc::gen::inRange(1, 300);
  const auto logits = random_logits(static_cast<std::size_t>(n));
  auto settings = plain();
  change(settings, n);
  auto sampler = make(settings, logits.size());
  held_distribution(sampler, settings, logits);
}

RC_GTEST_PROP(Sampler, temperature_alone, ()) {
  check_alone([](SamplerSettings& s, int) { s.temperature = tenths(0, 50); });
}
RC_GTEST_PROP(Sampler, top_k_alone, ()) {
  check_alone([](SamplerSettings& s, int n) { s.top_k = *rc::gen::inRange(0, n + 3); });
}
RC_GTEST_PROP(Sampler, top_p_alone, ()) {
  check_alone([](SamplerSettings& s, int) { s.top_p = *rc::gen::inRange(0, 1001) / 1000.0; });
}
RC_GTEST_PROP(Sampler, min_p_alone, ()) {
  check_alone([](SamplerSettings& s, int) { s.min_p = *rc::gen::inRange(0, 1001) / 1000.0; });
}
RC_GTEST_PROP(Sampler, repeat_penalty_alone, ()) {
  check_alone([](SamplerSettings& s, int) { s.repeat_penalty = tenths(1, 40); });
}
RC_GTEST_PROP(Sampler, presence_penalty_alone, ()) {
  check_alone([](SamplerSettings& s, int) { s.presence_penalty = tenths(-40, 40); });
}
RC_GTEST_PROP(Sampler, frequency_penalty_alone, ()) {
  check_alone([](SamplerSettings& s, int) { s.frequency_penalty = tenths(-40, 40); });
}
RC_GTEST_PROP(Sampler, logit_bias_alone, ()) {
  check_alone([](SamplerSettings& s, int n) {
    s.logit_bias = {{*rc::gen::inRange(0, n), static_cast<float>(tenths(-90, 90))}};
  });
}

TEST(Sampler, greedy_takes_the_lowest_id_among_equals) {
  auto settings = SamplerSettings{};
  settings.temperature = 0;
  const std::vector<float> logits = {1, 7, 3, 7, -inf};
  auto sampler = make(settings, logits.size());
  EXPECT_EQ(*sampler.sample(logits), 1);
  EXPECT_EQ(sampler.draws(), 0u);
  const auto distribution = *sampler.distribution(logits);
  ASSERT_EQ(distribution.size(), 1u);
  EXPECT_EQ(distribution[0].id, 1);
  EXPECT_EQ(distribution[0].probability, 1.0);
}

TEST(Sampler, greedy_sees_bias_and_penalties) {
  auto settings = SamplerSettings{};
  settings.temperature = 0;
  settings.logit_bias = {{1, -inf}};
  settings.repeat_penalty = 2;
  const std::vector<float> logits = {2, 9, 3, 1.8f};
  auto sampler = make(settings, logits.size());
  EXPECT_EQ(*sampler.sample(logits), 2);
  sampler.accept(2);
  EXPECT_EQ(*sampler.sample(logits), 0);
  sampler.accept(0);
  EXPECT_EQ(*sampler.sample(logits), 3);
}

TEST(Sampler, filters_with_known_answers) {
  // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625.
  std::vector<float> logits;
  for (const double p : {0.5, 0.25, 0.125, 0.0625, 0.0625}) logits.push_back(static_cast<float>(std::log(p)));
  const auto kept = [&](auto change) {
    auto settings = plain();
    change(settings);
    return make(settings, logits.size()).distribution(logits)->size();
  };
  EXPECT_EQ(kept([](auto&) {}), 5u);
  EXPECT_EQ(kept([](auto& s) { s.top_k = 3; }), 3u);
  EXPECT_EQ(kept([](auto& s) { s.top_p = 0; }), 1u);
  EXPECT_EQ(kept([](auto& s) { s.top_p = 0.49; }), 1u);
  EXPECT_EQ(kept([](auto& s) { s.top_p = 0.51; }), 2u);
  EXPECT_EQ(kept([](auto& s) { s.top_p = 0.8; }), 3u);
  EXPECT_EQ(kept([](auto& s) { s.min_p = 0.51; }), 1u);
  EXPECT_EQ(kept([](auto& s) { s.min_p = 0.24; }), 3u);
  EXPECT_EQ(kept([](auto& s) { s.min_p = 1; }), 1u);
  // top-p's probabilities are those after top-k: 0.5 and 0.25 become 2/3 and 1/3.
  EXPECT_EQ(kept([](auto& s) { s.top_k = 2, s.top_p = 0.6; }), 1u);
  EXPECT_EQ(kept([](auto& s) { s.top_p = 0.6; }), 2u);
  // The filters use temperature 1, whatever the temperature setting is.
  EXPECT_EQ(kept([](auto& s) { s.top_p = 0.51, s.temperature = 100; }), 2u);
}

// Equal logits have the weight 1 each, so sums and limits are exact: the limit is reached exactly, and the lowest ids are
// kept.
TEST(Sampler, filters_on_exact_ties) {
  const auto kept = [](const std::vector<float>& logits, auto change) {
    auto settings = plain();
    change(settings);
    std::vector<TokenId> ids;
    const auto distribution = make(settings, logits.size()).distribution(logits);
    for (const Candidate& candidate : *distribution) ids.push_back(candidate.id);
    return ids;
  };
  for (const std::size_t n : {4U, 64U, 256U}) {
    for (const std::size_t quarters : {1U, 2U, 3U}) {
      std::vector<TokenId> lowest(n * quarters / 4);
      std::iota(lowest.begin(), lowest.end(), 0);
      const std::vector<float> equal(n, 1.5F);
      EXPECT_EQ(kept(equal, [&](auto& s) { s.top_p = 0.25 * static_cast<double>(quarters); }), lowest);
      EXPECT_EQ(kept(equal, [&](auto& s) { s.top_k = static_cast<std::int32_t>(lowest.size()); }), lowest);
      EXPECT_EQ(kept(equal, [&](auto& s) { s.top_k = static_cast<std::int32_t>(n) - 1, s.top_p = 1e-9; }),
                std::vector<TokenId>{0});
    }
    EXPECT_EQ(kept(std::vector<float>(n, 1.5F), [](auto& s) { s.min_p = 1; }).size(), n);
  }
  // Banned tokens between the equal ones have no weight.
  EXPECT_EQ(kept({-inf, 2, -inf, 2, 2, -inf, 2}, [](auto& s) { s.top_p = 0.5; }), (std::vector<TokenId>{1, 3}));
  EXPECT_EQ(kept({2, -inf, 2}, [](auto& s) { s.top_p = 0.5; }), std::vector<TokenId>{0});
}

TEST(Sampler, penalties_forget_what_left_the_window) {
  auto settings = plain();
  settings.temperature = 0;
  settings.repeat_last_n = 3;
  settings.frequency_penalty = 1;
  const std::vector<float> logits = {5, 2.5f, 0, 0, 0};
  auto sampler = make(settings, logits.size());
  for (const TokenId token : {0, 0, 0}) sampler.accept(token);
  EXPECT_EQ(*sampler.sample(logits), 1);  // 5 - 3 < 2.5
  sampler.accept(2);
  EXPECT_EQ(*sampler.sample(logits), 0);  // two of the three are left
  for (int i = 0; i < 2; ++i) {
    sampler.reset();
    EXPECT_EQ(*sampler.sample(logits), 0);
    for (const TokenId token : {0, 0, 0}) sampler.accept(token);
    EXPECT_EQ(*sampler.sample(logits), 1);
  }

  settings.repeat_last_n = 0;
  sampler = make(settings, logits.size());
  for (int i = 0; i < 100; ++i) sampler.accept(0);
  EXPECT_EQ(*sampler.sample(logits), 0);

  settings.repeat_last_n = -1;
  sampler = make(settings, logits.size());
  for (const TokenId token : {0, 0, 0}) sampler.accept(token);
  for (int i = 0; i < 1000; ++i) sampler.accept(2);
  EXPECT_EQ(*sampler.sample(logits), 1);
}

TEST(Sampler, tokens_outside_the_vocabulary_are_not_accepted) {
  auto settings = plain();
  settings.presence_penalty = 1;
  auto sampler = make(settings, 2);
  for (const TokenId token : {-1, 2, std::numeric_limits<TokenId>::max(), std::numeric_limits<TokenId>::min()})
    sampler.accept(token);
  const std::vector<float> logits = {1, 1};
  EXPECT_DOUBLE_EQ((*sampler.distribution(logits))[0].probability, 0.5);
}

TEST(Sampler, extreme_settings_stay_numbers) {
  const std::vector<float> logits = {3e38f, 1, 0, -1, -3e38f, -inf};
  for (const double penalty : {1e-300, 1e300}) {
    for (const double subtract : {-1e308, 0.0, 1e308}) {
      for (const double temperature : {1e-300, 1.0, 1e300}) {
        auto settings = plain();
        settings.repeat_penalty = penalty;
        settings.frequency_penalty = subtract;
        settings.presence_penalty = subtract;
        settings.temperature = temperature;
        settings.logit_bias = {{0, 3e38f}, {1, -3e38f}, {2, -inf}};
        auto sampler = make(settings, logits.size());
        for (const TokenId token : {0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5}) sampler.accept(token);
        const auto distribution = sampler.distribution(logits);
        ASSERT_TRUE(distribution.has_value()) << distribution.error().message;
        double sum = 0;
        for (const auto& [id, probability] : *distribution) {
          EXPECT_NE(id, 2);
          EXPECT_NE(id, 5);
          sum += probability;
        }
        EXPECT_NEAR(sum, 1, 1e-12);
      }
    }
  }
}

// Pearson's statistic of n draws against the probabilities of `expected`.
double chi_square(Sampler sampler, const std::vector<float>& logits, const std::vector<Candidate>& expected, int n) {
  std::map<TokenId, int> seen;
  for (int i = 0; i < n; ++i) ++seen[*sampler.sample(logits)];
  double statistic = 0;
  int total = 0;
  for (const auto& [id, probability] : expected) {
    const double wanted = probability * n;
    statistic += (seen[id] - wanted) * (seen[id] - wanted) / wanted;
    total += seen[id];
  }
  EXPECT_EQ(total, n) << "a token was drawn that has no probability";
  return statistic;
}

TEST(Sampler, draws_follow_the_distribution) {
  std::vector<float> logits(10);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i) * 2) * 1.5f;
  constexpr int n = 20'000;
  constexpr double bound = 27.88;  // 99.9% of the chi-square distribution with 9 degrees of freedom
  auto settings = plain();
  for (const double temperature : {0.5, 1.0, 2.0}) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      settings.temperature = temperature;
      settings.seed = seed;
      const auto sampler = make(settings, logits.size());
      EXPECT_LT(chi_square(sampler, logits, *sampler.distribution(logits), n), bound) << temperature << ' ' << seed;
      // The bound is tight enough to notice a temperature that is 10% higher.
      settings.temperature = temperature * 1.1;
      EXPECT_GT(chi_square(sampler, logits, *make(settings, logits.size()).distribution(logits), n), bound);
    }
  }
}

TEST(Sampler, draws_follow_the_distribution_through_all_filters) {
  std::vector<float> logits(1000);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 7919 % 1000) / 100.0f;
  auto settings = SamplerSettings{};
  settings.temperature = 1.5;
  settings.top_k = 20;
  settings.top_p = 0.9;
  settings.seed = 42;
  const auto sampler = make(settings, logits.size());
  const auto distribution = *sampler.distribution(logits);
  ASSERT_EQ(distribution.size(), 18u);
  EXPECT_LT(chi_square(sampler, logits, distribution, 20'000), 40.79);  // 99.9%, 17 degrees of freedom
}

TEST(Sampler, a_seed_reproduces_and_another_does_not) {
  const std::vector<float> logits(1000, 1.0f);
  const auto draw = [&](std::uint64_t seed) {
    auto settings = plain();
    settings.seed = seed;
    auto sampler = make(settings, logits.size());
    std::vector<TokenId> drawn;
    for (int i = 0; i < 5; ++i) drawn.push_back(*sampler.sample(logits));
    const auto copy = sampler;
    sampler.reset();
    EXPECT_EQ(*sampler.sample(logits), drawn[0]);
    EXPECT_EQ(copy.draws(), 5u);
    return drawn;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
  // floor(1000 * u) of SplitMix64: the same on every platform.
  EXPECT_EQ(draw(1234567), (std::vector<TokenId>{350, 173, 532, 249, 889}));
}

TEST(Sampler, generator_gives_the_published_numbers) {
  // First outputs for seed 1234567, as https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64 lists them.
  const std::uint64_t expected[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u,
                                    16408922859458223821u};
  for (std::uint64_t i = 0; i < 5; ++i) EXPECT_EQ(splitmix64(1234567, i), expected[i]);
  EXPECT_EQ(uniform(1234567, 0), static_cast<double>(6457827717110365317u >> 11) / 9007199254740992.0);
}

TEST(Sampler, unusable_logits_are_errors) {
  const auto message = [](std::vector<float> logits, double temperature, std::vector<std::pair<TokenId, float>> bias = {}) {
    auto settings = SamplerSettings{};
    settings.temperature = temperature;
    settings.logit_bias = std::move(bias);
    auto sampler = make(settings, 3);
    const auto token = sampler.sample(logits);
    EXPECT_EQ(sampler.draws(), token.has_value() ? 1u : 0u);
    EXPECT_EQ(sampler.distribution(logits).has_value(), token.has_value());
    return token ? "" : token.error().message;
  };
  for (const double temperature : {0.0, 1.0}) {
    EXPECT_NE(message({1, std::nanf(""), 2}, temperature).find("token 1 is NaN"), std::string::npos);
    EXPECT_NE(message({1, 2, inf}, temperature).find("token 2 is +infinity"), std::string::npos);
    EXPECT_NE(message({-inf, -inf, -inf}, temperature).find("all 3 logits"), std::string::npos);
    EXPECT_NE(message({-inf, 1, -inf}, temperature, {{1, -inf}}).find("bans every token"), std::string::npos);
    EXPECT_NE(message({1, 2}, temperature).find("2 logits for a vocabulary of 3"), std::string::npos);
  }
  EXPECT_EQ(message({-inf, 1, -inf}, 1), "");
}

TEST(SamplerSettings, errors_name_setting_value_and_range) {
  EXPECT_EQ(error_of({}), "");
  const auto expect = [](auto change, const std::vector<std::string>& words) {
    SamplerSettings settings;
    change(settings);
    const auto message = error_of(settings);
    for (const auto& word : words) EXPECT_NE(message.find(word), std::string::npos) << word << " in: " << message;
  };
  const double nan = std::nan("");
  expect([](auto& s) { s.temperature = -1; }, {"temperature is -1", "at least 0"});
  expect([&](auto& s) { s.temperature = nan; }, {"temperature is nan"});
  expect([](auto& s) { s.temperature = HUGE_VAL; }, {"temperature is inf"});
  expect([](auto& s) { s.top_k = -2; }, {"top_k is -2", "at least 0"});
  expect([](auto& s) { s.top_p = 1.5; }, {"top_p is 1.5", "from 0 to 1"});
  expect([&](auto& s) { s.top_p = nan; }, {"top_p is nan"});
  expect([](auto& s) { s.min_p = -0.5; }, {"min_p is -0.5", "from 0 to 1"});
  expect([](auto& s) { s.repeat_penalty = 0; }, {"repeat_penalty is 0", "above 0"});
  expect([](auto& s) { s.repeat_last_n = -2; }, {"repeat_last_n is -2", "at least -1"});
  expect([&](auto& s) { s.presence_penalty = nan; }, {"presence_penalty is nan", "finite"});
  expect([](auto& s) { s.frequency_penalty = HUGE_VAL; }, {"frequency_penalty is inf", "finite"});
  expect([](auto& s) { s.top_k = -1; }, {"top_k is -1"});
  for (const double infinite : {HUGE_VAL, -HUGE_VAL}) {
    expect([&](auto& s) { s.repeat_penalty = infinite; }, {"repeat_penalty is"});
    expect([&](auto& s) { s.presence_penalty = infinite; }, {"presence_penalty is"});
    expect([&](auto& s) { s.frequency_penalty = infinite; }, {"frequency_penalty is"});
  }
  expect([](auto& s) { s.logit_bias = {{3, inf}}; }, {"logit_bias of token 3 is inf", "-infinity to ban"});
}

TEST(SamplerSettings, a_bias_must_be_for_a_token_of_the_vocabulary) {
  for (const TokenId token : {-1, 10}) {
    SamplerSettings settings;
    settings.logit_bias = {{token, 1}};
    const auto sampler = Sampler::make(settings, 10);
    ASSERT_FALSE(sampler.has_value());
    EXPECT_NE(sampler.error().message.find("tokens 0 to 9"), std::string::npos) << sampler.error().message;
  }
  EXPECT_FALSE(Sampler::make({}, 0).has_value());
  EXPECT_TRUE(Sampler::make({}, 0x7fffffff).has_value());
  EXPECT_FALSE(Sampler::make({}, 0x80000000).has_value());
}

RC_GTEST_PROP(Logprobs, are_the_log_softmax_in_order, ()) {
  const auto vocab = *rc::gen::inRange<std::size_t>(1, 300);
  const auto logits = random_logits(vocab);
  const auto n = *rc::gen::inRange<std::size_t>(0, vocab + 2);
  const auto top = top_logprobs(logits, n);
  RC_ASSERT(top.has_value());
  long double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<long double>(x));
  std::vector<TokenId> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  std::erase_if(order, [&](TokenId t) { return logits[t] == -inf; });
  RC_ASSERT(top->size() == std::min(n, order.size()));
  for (std::size_t i = 0; i < top->size(); ++i) {
    RC_ASSERT((*top)[i].id == order[i]);
    RC_ASSERT(std::abs(static_cast<long double>((*top)[i].logprob) - (logits[order[i]] - std::log(sum))) < 1e-9L);
  }
}

TEST(Logprobs, refuse_unusable_logits) {
  EXPECT_FALSE(log_sum_exp(std::vector<float>{}).has_value());
  EXPECT_FALSE(log_sum_exp(std::vector<float>{-inf, -inf}).has_value());
  EXPECT_FALSE(top_logprobs(std::vector<float>{0, std::nanf("")}, 1).has_value());
  EXPECT_NEAR(*log_sum_exp(std::vector<float>{1e30f, 1e30f}), 1e30, 1e23);
}

}  // namespace
}  // namespace plumb::engine
