// Ops with answers that are known without a computer, or that come from another formula, on every backend and on the
// reference. All other tests compare with the reference; these find an error of the reference itself.
#include <gtest/gtest.h>

#include <cmath>

#include "backends/held.h"
#include "backends/maker.h"
#include "gguf/file.h"
#include "gguf/writer.h"

namespace plumb::backends {
namespace {

using plan::ValueId;

struct Golden {
  std::string name;
  std::function<ValueId(Maker&)> op;  // named "op"
  std::vector<double> expected;       // of all tokens
  std::uint32_t n_tokens = 1;
  plan::CacheShape cache{};
  std::uint32_t first = 0;  // earlier tokens, whose results are not checked
};

// An input whose row t is that of token t.
ValueId in(Maker& m, std::vector<float> rows) {
  const auto width = static_cast<std::uint32_t>(rows.size() / m.vocab);
  return m.in(width, std::move(rows));
}

std::vector<double> circle(std::initializer_list<double> angles, double radius = 1) {
  std::vector<double> points;
  for (const double angle : angles) points.insert(points.end(), {radius * std::cos(angle), radius * std::sin(angle)});
  return points;
}
constexpr double ln2 = 0.69314718055994530942;

Golden rotation(std::string name, plan::Rope rope, std::vector<float> x, std::vector<double> expected,
                std::uint32_t first) {
  rope.head_dim = static_cast<std::uint32_t>(x.size());
  return {.name = std::move(name),
          .op = [=](Maker& m) { return m.builder.rope("op", in(m, x), rope); },
          .expected = std::move(expected),
          .first = first};
}

// The turn at position 3 of a cache of 4 positions.
Golden longrope(std::string name, std::uint32_t original_context, std::vector<double> expected) {
  return {.name = std::move(name),
          .op =
              [=](Maker& m) {
                plan::Rope rope{.head_dim = 4, .n_rot = 4, .theta = 10000, .original_context = original_context};
                rope.factors = m.vector_of({2, 3});
                rope.long_factors = m.vector_of({8, 10});
                return m.builder.rope("op", in(m, {1, 0, 1, 0}), rope);
              },
          .expected = std::move(expected),
          .first = 3};
}

// Heads have one element, and q times the scale is 1, so scores are the keys. Values are 1, 10, 100, …
Golden attention(std::string name, std::vector<float> keys, std::vector<double> expected, std::uint32_t window = 0,
                 float soft_cap = 0, std::optional<float> sink = {}) {
  const auto n = static_cast<std::uint32_t>(keys.size());
  return {.name = std::move(name),
          .op =
              [=](Maker& m) {
                std::vector<float> values{1};
                while (values.size() < n) values.push_back(10 * values.back());
                const ValueId q = in(m, std::vector<float>(n, 2.0F));
                m.builder.kv_write(0, in(m, keys), in(m, values));
                plan::Attention op{.n_heads = 1, .n_kv_heads = 1, .head_dim = 1, .scale = 0.5F, .window = window};
                op.soft_cap = soft_cap;
                if (sink) op.sinks = m.vector_of({*sink});
                return m.builder.attention("op", q, op);
              },
          .expected = std::move(expected),
          .n_tokens = n,
          .cache = {1, 1, 1}};
}

// The same, where the op has other fields. Each head has the same queries and keys.
Golden attention(std::string name, plan::Attention op, std::uint32_t n, std::vector<double> expected) {
  op.n_kv_heads = 1;
  op.head_dim = 1;
  op.scale = 0.5F;
  return {.name = std::move(name),
          .op =
              [=](Maker& m) {
                std::vector<float> values{1};
                while (values.size() < n) values.push_back(10 * values.back());
                const ValueId q = in(m, std::vector<float>(std::size_t{n} * op.n_heads, 2.0F));
                m.builder.kv_write(0, in(m, std::vector<float>(n, 0.0F)), in(m, values));
                return m.builder.attention("op", q, op);
              },
          .expected = std::move(expected),
          .n_tokens = n,
          .cache = {1, 1, 1}};
}

// The mean of 1, 10, 100, … where the weight of a position falls by e^-slope with every step back.
double biased_mean(std::uint32_t n, double slope) {
  double sum = 0, total = 0;
  for (std::uint32_t s = 0; s < n; ++s) {
    const double weight = std::exp(-slope * (n - 1 - s));
    sum += weight * std::pow(10, s);
    total += weight;
  }
  return sum / total;
}

Golden activation(std::string name, plan::Activation kind, std::vector<float> gate, std::vector<double> expected) {
  return {.name = std::move(name),
          .op =
              [=](Maker& m) {
                return m.builder.activate("op", in(m, gate), in(m, std::vector<float>(gate.size(), -2.0F)), kind);
              },
          .expected = std::move(expected)};
}

Golden gating(std::string name, plan::Gating kind, std::vector<double> expected) {
  return {.name = std::move(name),
          .op =
              [=](Maker& m) {
                const auto logits = in(m, {0, static_cast<float>(ln2), static_cast<float>(2 * ln2)});
                return m.builder.expert_weights("op", logits, in(m, {2, 0}), kind, 3);
              },
          .expected = std::move(expected)};
}

std::vector<Golden> goldens() {
  using plan::RopePairing;
  const plan::Rope two_pairs{.n_rot = 4, .theta = 10000};
  plan::Rope halves = two_pairs, scaled = two_pairs, yarn{.n_rot = 8, .theta = 10000, .position_scale = 0.25F};
  halves.pairing = RopePairing::halves;
  scaled.position_scale = 0.25F;
  // YaRN's frequencies by its authors' code, for pairs before, inside and after the ramp.
  yarn.magnitude = 1.25F;
  yarn.yarn = plan::Yarn{.factor = 4, .original_context = 64};
  plan::Rope long_yarn = yarn;
  long_yarn.yarn->original_context = 8192;
  const std::vector<float> pairs{1, 0, 1, 0, 1, 0, 1, 0};
  const double r = 1 / std::sqrt(13.0);
  const float q1 = 0, q2 = static_cast<float>(ln2);
  const auto capped = [](double x) { return std::exp(std::tanh(x)); };
  return {
      {.name = "Embedding",
       .op =
           [](Maker& m) {
             return m.builder.embed("op", m.matrix_of({1, 2, -3, 4, 5, 6}, {3, 2}), 3);
           },
       .expected = {3, 6, -9, 12, 15, 18},
       .n_tokens = 2},
      {.name = "Norm",
       .op =
           [](Maker& m) {
             return m.builder.norm("op", in(m, {3, 4, -4, 3}), m.vector_of({1, 2}), 0.5F);
           },
       .expected = {3 * r, 8 * r, -4 * r, 6 * r}},
      {.name = "Product",
       .op =
           [](Maker& m) {
             return m.builder.linear("op", in(m, {1, 2, 3, 4}), m.matrix_of({1, 10, 100, 1000, 5, 6}, {2, 3}),
                                     m.vector_of({7, 8, 9}));
           },
       .expected = {28, 2108, 26, 50, 4308, 48},
       .n_tokens = 2},
      rotation(
          "TurnOfNeighbours", two_pairs, {1, 0, 0, 1, 7, 8},
          [] {
            auto turned = circle({3, 0.03});
            return std::vector<double>{turned[0], turned[1], -turned[3], turned[2], 7, 8};
          }(),
          3),
      rotation("TurnOfHalves", halves, {1, 1, 0, 0, 7, 8}, {std::cos(3), std::cos(0.03), std::sin(3), std::sin(0.03), 7, 8},
               3),
      // A float holds no angle of 300.01: it is 300.0099945.
      rotation("LateTurn", halves, {1, 1, 0, 0, 7, 8},
               {std::cos(30001), std::cos(300.01), std::sin(30001), std::sin(300.01), 7, 8}, 30001),
      longrope("ShortFactors", 4, circle({1.5, 0.01})),
      longrope("LongFactors", 3, circle({0.375, 0.003})),
      rotation("ScaledTurn", scaled, {1, 0, 1, 0}, circle({0.75, 0.0075}), 3),
      rotation("Yarn", yarn, pairs, circle({100, 6.25, 0.25, 0.025}, 1.25), 100),
      rotation("YarnOfALongContext", long_yarn, pairs, circle({100, 10, 0.75, 0.05}, 1.25), 100),
      attention("Average", {0, 0, 0}, {1, 5.5, 37}),
      attention("Softmax", {q1, q2, q1}, {1, (1 + 2 * 10) / 3.0, (1 + 20 + 100) / 4.0}),
      attention("Window", {0, 0, 0, 0}, {1, 5.5, 55, 550}, 2),
      attention("PartsOfTheSequence", {.n_heads = 1, .window = 2, .window_kind = plan::WindowKind::chunked}, 5,
                {1, 5.5, 100, 550, 10000}),
      attention("BothSides", {.n_heads = 1, .causal = false}, 3, {37, 37, 37}),
      attention("WindowOnBothSides", {.n_heads = 1, .window = 2, .causal = false}, 4, {5.5, 37, 370, 550}),
      attention("OddWindowOnBothSides", {.n_heads = 1, .window = 3, .causal = false}, 4, {5.5, 37, 370, 550}),
      attention("WindowOfItself", {.n_heads = 1, .window = 1, .causal = false}, 3, {1, 10, 100}),
      attention("Alibi", {.n_heads = 2, .alibi_max_bias = 8}, 3,
                {1, 1, biased_mean(2, 0x1p-4), biased_mean(2, 0x1p-8), biased_mean(3, 0x1p-4), biased_mean(3, 0x1p-8)}),
      // The authors' code for 3 heads: the slopes of 2 heads, then every other one of 4.
      attention("AlibiOfThreeHeads", {.n_heads = 3, .alibi_max_bias = 8}, 2,
                {1, 1, 1, biased_mean(2, 0x1p-4), biased_mean(2, 0x1p-8), biased_mean(2, 0x1p-2)}),
      attention("AlibiOfSixHeads", {.n_heads = 6, .alibi_max_bias = 4}, 2,
                {1, 1, 1, 1, 1, 1, biased_mean(2, 0x1p-1), biased_mean(2, 0x1p-2), biased_mean(2, 0x1p-3),
                 biased_mean(2, 0x1p-4), biased_mean(2, std::exp2(-0.5)), biased_mean(2, std::exp2(-1.5))}),
      attention("Sink", {0, 0, 0}, {1 / 2.0, 11 / 3.0, 111 / 4.0}, 0, 0, 0.0F),
      attention("Cap", {0, 1}, {1, (1 + 10 * capped(1)) / (1 + capped(1))}, 0, 1),
      // Heads 0 and 1 have the first key's values, 2 and 3 the second's.
      {.name = "HeadsThatShareKeys",
       .op =
           [](Maker& m) {
             m.builder.kv_write(0, in(m, {0, 0}), in(m, {5, 7}));
             return m.builder.attention("op", in(m, {1, 2, 3, 4}),
                                        {.n_heads = 4, .n_kv_heads = 2, .head_dim = 1, .scale = 1});
           },
       .expected = {5, 5, 7, 7},
       .cache = {1, 2, 1}},
      activation("Silu", plan::Activation::silu, {0, static_cast<float>(std::log(3)), -100}, {0, -1.5 * std::log(3), 0}),
      activation("GeluErf", plan::Activation::gelu_erf, {0, 1, -1}, {0, -2 * 0.8413447460685429, 2 * 0.15865525393145705}),
      activation("GeluTanh", plan::Activation::gelu_tanh, {0, 1, -1},
                 {0, -2 * 0.8411919906082768, 2 * 0.15880800939172324}),
      activation("Relu", plan::Activation::relu, {0, 3, -3}, {0, -6, 0}),
      activation("ReluSquared", plan::Activation::relu_squared, {0, 3, -3}, {0, -18, 0}),
      activation("Sigmoid", plan::Activation::sigmoid, {0, static_cast<float>(std::log(3)), -100}, {-1, -1.5, 0}),
      activation("Tanh", plan::Activation::tanh, {0, static_cast<float>(ln2), -100}, {0, -1.2, 2}),
      activation("Identity", plan::Activation::identity, {0, 3, -4}, {0, -6, 8}),
      // For -ln 2: 3 (1/2 - 1 + ln 2) - 5 ln 2.
      {.name = "Xielu",
       .op =
           [](Maker& m) {
             return m.builder.activate("op", {.gate = in(m, {2, static_cast<float>(-ln2), 0}),
                                              .activation = plan::Activation::xielu,
                                              .xielu = {.positive = 7, .negative = 3, .beta = 5, .eps = -1e-6F}});
           },
       .expected = {38, -1.5 - 2 * ln2, 0}},
      // Gates of 5 and -9 are cut to 4 and stay, factors of -9 and 3 to -4 and stay.
      {.name = "LimitedSwiglu",
       .op =
           [](Maker& m) {
             return m.builder.activate(
                 "op", {.gate = in(m, {5, -9}), .up = in(m, {-9, 3}), .limit = 4, .alpha = 2, .up_offset = 1});
           },
       .expected = {-12 / (1 + std::exp(-8)), -36 / (1 + std::exp(18))}},
      {.name = "OneGateForTwo",
       .op =
           [](Maker& m) {
             return m.builder.activate("op", in(m, {3, -1}), in(m, {1, 2, 3, 4}), plan::Activation::identity);
           },
       .expected = {3, 6, -3, -4}},
      {.name = "NormWithoutWeight",
       .op =
           [](Maker& m) {
             return m.builder.norm("op", {.x = in(m, {3, 4, -4, 3}), .eps = 0.5F, .group = 2});
           },
       .expected = {3 * r, 4 * r, -4 * r, 3 * r}},
      {.name = "NormWithAWeightForTheRow",
       .op =
           [](Maker& m) {
             return m.builder.norm(
                 "op", {.x = in(m, {3, 4, -4, 3}), .weight = m.vector_of({1, 2, 3, 4}), .eps = 0.5F, .group = 2});
           },
       .expected = {3 * r, 8 * r, -12 * r, 12 * r}},
      {.name = "PartScaled",
       .op =
           [](Maker& m) {
             return m.builder.scale("op",
                                    {.x = in(m, {1, 2, 3, 4}), .weight = m.vector_of({5, 7}), .factor = -2, .first = 1}, 2);
           },
       .expected = {-20, -42}},
      {.name = "Temperature",
       .op =
           [](Maker& m) {
             const plan::Temperature temperature{.beta = 2, .length = 4, .offset = 1};
             return m.builder.scale("op", {.x = in(m, std::vector<float>(6, 1.0F)), .temperature = temperature}, 1);
           },
       .expected = {1, 1 + 2 * ln2, 1 + 2 * ln2, 1 + 2 * ln2, 1 + 2 * ln2, 1 + 2 * std::log(3)},
       .n_tokens = 6,
       .first = 2},
      {.name = "Segment",
       .op =
           [](Maker& m) {
             return m.builder.embed("op", {.table = m.matrix_of({7, 8, 9, 10}, {2, 2}), .by = plan::EmbedBy::segment});
           },
       .expected = {7, 8, 7, 8},
       .n_tokens = 2},
      {.name = "Sum",
       .op =
           [](Maker& m) {
             return m.builder.add("op", in(m, {1, 2}), in(m, {10, -2}));
           },
       .expected = {11, 0}},
      {.name = "CapOfValues",
       .op =
           [](Maker& m) {
             return m.builder.soft_cap("op", in(m, {0, 1, -1e6F}), 2);
           },
       .expected = {0, 2 * std::tanh(0.5), -2}},
      {.name = "Largest",
       .op =
           [](Maker& m) {
             return m.builder.top_k("op", in(m, {1, 3, 3, NAN, -HUGE_VALF, 2}), 6);
           },
       .expected = {1, 2, 5, 0, 3, 4}},
      {.name = "LargestWithBias",
       .op =
           [](Maker& m) {
             return m.builder.top_k("op", {.x = in(m, {9, 1, 2, 0}),
                                           .bias = m.vector_of({0, 0.5F, 0.25F, 2}),
                                           .k = 2,
                                           .score = plan::Score::sigmoid});
           },
       .expected = {3, 1}},
      // The groups count 9, 8 and 10; the largest of all is in none of the best two.
      {.name = "LargestOfTheBestGroups",
       .op =
           [](Maker& m) {
             return m.builder.top_k("op", {.x = in(m, {5, 4, 7, 1, 5, 5}), .k = 3, .n_groups = 3, .n_groups_used = 2});
           },
       .expected = {0, 4, 5}},
      gating("GatingByAll", plan::Gating::softmax, {12 / 7.0, 3 / 7.0}),
      gating("GatingByTheChosen", plan::Gating::softmax_of_chosen, {12 / 5.0, 3 / 5.0}),
      gating("GatingBySigmoids", plan::Gating::sigmoid, {2.4, 1.5}),
      gating("GatingByShares", plan::Gating::sigmoid_normalized, {3 * 0.8 / 1.3, 3 * 0.5 / 1.3}),
      {.name = "Experts",
       .op =
           [](Maker& m) {
             const auto weight = m.matrix_of({1, 2, 3, 4, 10, 20, 30, 40}, {2, 2, 2});
             const auto bias = m.vector_of({5, 6, 7, 8}, {2, 2});
             return m.builder.expert_linear("op", in(m, {1, 100}), in(m, {1, 0}), weight, bias);
           },
       .expected = {2017, 4038, 206, 409}},
      {.name = "ExpertsOnParts",
       .op =
           [](Maker& m) {
             const auto weight = m.matrix_of({1, 2, 3, 4, 10, 20, 30, 40}, {2, 2, 2});
             return m.builder.expert_linear("op", in(m, {1, 100, 2, 1}), in(m, {1, 0}), weight);
           },
       .expected = {2010, 4030, 4, 10}},
      {.name = "SumOfExperts",
       .op =
           [](Maker& m) {
             return m.builder.expert_sum("op", in(m, {1, 2, 10, 20}), in(m, {3, -1}));
           },
       .expected = {-7, -14}}};
}

class OpGoldens : public testing::TestWithParam<std::string> {};

TEST_P(OpGoldens, AreWhatIsKnown) {
  const Way& way = backends::way(GetParam());
  auto backend = way.make();
  if (!backend) GTEST_SKIP() << backend.error().message;
  for (const Golden& golden : goldens()) {
    SCOPED_TRACE(golden.name);
    Maker maker(golden.cache, golden.n_tokens);
    golden.op(maker);
    const auto executor = std::move(*(*backend)->load(maker.finish({}), way.options));
    const auto cache = std::move(*executor->new_cache(golden.first + golden.n_tokens, KvType::f32));
    while (cache->length() < golden.first) {
      const std::uint32_t n = std::min(golden.first - cache->length(), 256U);
      ASSERT_TRUE(executor->run({cache.get(), std::vector<TokenId>(n), Outputs::last}));
    }
    std::vector<float> found;
    executor->watch([](std::string_view name) { return name == "op"; },
                    [&](std::string_view, std::uint64_t, std::uint64_t, std::span<const float> data) {
                      found.assign(data.begin(), data.end());
                    });
    std::vector<TokenId> tokens;
    while (tokens.size() < golden.n_tokens) tokens.push_back(static_cast<TokenId>(tokens.size()));
    const auto ran = executor->run({cache.get(), tokens, Outputs::last});
    ASSERT_TRUE(ran) << ran.error().message;
    ASSERT_EQ(found.size(), golden.expected.size());
    double largest = 0;
    for (const double x : golden.expected) largest = std::max(largest, std::abs(x));
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], golden.expected[i], 1e-6 * largest) << i;
  }
}

// The product that the faulty engine's own test passed (docs/seed-replay.md): [1 2 3; 4 5 6] [1 2; 3 4; 5 6]. A GGUF file
// has the second factor as a weight with 2 rows of 3, transposed from its form on paper. An engine that reads the bytes as
// [in, out] computes another product, although a test of its kernel in its own layout passes.
TEST_P(OpGoldens, TheSeedsProductThroughTheLoader) {
  const Way& way = backends::way(GetParam());
  auto backend = way.make();
  if (!backend) GTEST_SKIP() << backend.error().message;
  // The weight as the file has it, and the same bytes as [in, out], which give another product: so the test can fail.
  for (const auto& [stored, product] :
       {std::pair<std::vector<float>, std::vector<float>>{{1, 3, 5, 2, 4, 6}, {22, 28, 49, 64}},
        {{1, 5, 4, 3, 2, 6}, {23, 25, 53, 58}}}) {
    const std::array<std::uint64_t, 2> dims{3, 2};
    gguf::Writer writer;
    writer.add_tensor("weight", quants::Format::f32, dims, std::as_bytes(std::span(stored)));
    const auto bytes = writer.to_memory();
    ASSERT_TRUE(bytes) << bytes.error().message;
    const auto file = gguf::File::from_memory(*bytes, "a product");
    ASSERT_TRUE(file) << file.error().message;
    Maker m({}, 2);
    const auto weight = m.builder.matrix(*file->tensor("weight"));
    const auto plan = m.finish_at(m.builder.linear("op", in(m, {1, 2, 3, 4, 5, 6}), weight, {}, plan::Rows::outputs));
    const auto executor = std::move(*(*backend)->load(plan, way.options));
    const auto cache = std::move(*executor->new_cache(2, KvType::f32));
    const auto logits = executor->run({cache.get(), std::vector<TokenId>{0, 1}, Outputs::all});
    ASSERT_TRUE(logits) << logits.error().message;
    EXPECT_EQ(std::vector<float>(logits->begin(), logits->end()), product);
  }
}

std::vector<std::string> watched_ways() {
  std::vector<std::string> names;
  for (const Way& way : ways()) {
    if (!way.fused) names.push_back(way.name);
  }
  return names;
}
INSTANTIATE_TEST_SUITE_P(Ways, OpGoldens, testing::ValuesIn(watched_ways()),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace plumb::backends
