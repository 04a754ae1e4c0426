#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "base/printable.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/spelling.h"

namespace plumb::cli {

namespace {

using Clock = std::chrono::steady_clock;

struct BenchOptions {
  EngineArguments engine;
  std::uint32_t n_prompt = 512;
  std::uint32_t n_decode = 128;
  std::uint32_t repetitions = 5;
  std::uint32_t depth = 0;
  std::uint32_t streams = 1;
  bool json = false;
};

struct Rates {
  std::uint32_t tokens = 0;   // in each stream
  std::uint32_t streams = 1;  // sequences that run together
  std::vector<double> tps;

  [[nodiscard]] double median() const {
    std::vector<double> sorted = tps;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t n = sorted.size();
    return n == 0 ? 0 : (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
  }
  [[nodiscard]] double min() const { return tps.empty() ? 0 : *std::min_element(tps.begin(), tps.end()); }
  [[nodiscard]] double max() const { return tps.empty() ? 0 : *std::max_element(tps.begin(), tps.end()); }
  [[nodiscard]] Json json() const {
    return {{"tokens", tokens}, {"tps_median", median()}, {"tps_min", min()}, {"tps_max", max()}};
  }
};

// Weight bytes that one decoded token reads: every matrix once, of experts those that it chooses, and one row of the
// embedding table.
std::uint64_t bytes_per_token(const plan::Plan& plan) {
  std::uint64_t bytes = 0;
  for (const plan::Op& op : plan.ops) {
    for (const plan::WeightId id : plan::weights(op)) {
      const gguf::Tensor& tensor = plan.weight(id).tensor;
      if (std::holds_alternative<plan::Embed>(op)) {
        bytes += tensor.data.size() / tensor.n_rows();
      } else if (const auto* experts = std::get_if<plan::ExpertLinear>(&op)) {
        const std::uint64_t n_experts = plan.weight(experts->weight).n_experts();
        bytes += tensor.data.size() / n_experts * plan.value(experts->experts).width;
      } else {
        bytes += tensor.data.size();
      }
    }
  }
  return bytes;
}

// n different tokens, the same in every run. The work does not depend on which tokens they are.
std::vector<text::TokenId> some_tokens(std::uint32_t n, std::uint32_t vocab) {
  std::vector<text::TokenId> tokens(n);
  for (std::uint32_t i = 0; i < n; ++i) tokens[i] = static_cast<text::TokenId>((i * 7919u + 13u) % vocab);
  return tokens;
}

Result<int> run_bench(BenchOptions options) {
  const std::uint32_t needed = options.depth + std::max(options.n_prompt, options.n_decode) + 1;
  if (options.engine.settings.context == 0) options.engine.settings.context = needed;
  const auto load_start = Clock::now();
  PLUMB_TRY(const auto engine, options.engine.load());
  const double load_seconds = std::chrono::duration<double>(Clock::now() - load_start).count();
  if (options.streams > engine->executor().max_batch()) {
    return fail("--streams {} is more than the {} tokens that a step can have", options.streams,
                engine->executor().max_batch());
  }
  PLUMB_TRY(const auto caches, engine->new_caches(options.streams));
  if (needed > engine->context())
    return fail("--ctx {} is too short for this: at least {} positions", engine->context(), needed);
  const std::uint32_t vocab = engine->model().plan()->vocab;
  const auto tokens = some_tokens(std::max(options.n_prompt, options.depth), vocab);

  catch_interrupts();
  std::optional<Progress> progress("bench");
  Rates prefill{.tokens = options.n_prompt, .streams = 1};
  Rates decode{.tokens = options.n_decode, .streams = options.streams};
  for (const auto& cache : caches) {
    if (options.depth > 0) PLUMB_CHECK(engine->prefill(*cache, std::span(tokens).first(options.depth)));
  }
  // Repetition 0 is not measured: it warms up pages, caches and threads.
  for (std::uint32_t repetition = 0; repetition <= options.repetitions; ++repetition) {
    const auto timed = [&](Rates& rates, auto&& work) -> Result<void> {
      if (rates.tokens == 0) return {};
      for (const auto& cache : caches) cache->truncate(options.depth);
      const auto start = Clock::now();
      PLUMB_CHECK(work());
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (repetition > 0) rates.tps.push_back(rates.tokens * rates.streams / seconds);
      return {};
    };
    const Result<void> prefilled = timed(prefill, [&]() -> Result<void> {
      PLUMB_CHECK(engine->prefill(*caches.front(), std::span(tokens).first(options.n_prompt)));
      return {};
    });
    PLUMB_CHECK(prefilled);
    const Result<void> decoded = timed(decode, [&]() -> Result<void> {
      for (std::uint32_t i = 0; i < options.n_decode; ++i) {
        const text::TokenId token = static_cast<text::TokenId>((i * 104729u + 7u) % vocab);
        std::vector<backends::Step> steps;
        for (const auto& cache : caches) steps.push_back({.cache = cache.get(), .tokens = std::span(&token, 1)});
        PLUMB_CHECK(engine->executor().run(steps));
        if (interrupted()) return fail("interrupted");
      }
      return {};
    });
    PLUMB_CHECK(decoded);
    progress->update(repetition + 1, options.repetitions + 1);
    if (interrupted()) return fail("interrupted");
  }

  progress.reset();

  const std::uint64_t bytes = bytes_per_token(*engine->model().plan());
  // The streams of a step share one reading of the weights.
  const double bandwidth = static_cast<double>(bytes) * decode.median() / options.streams / 1e9;
  if (options.json) {
    return print_json({{"model", options.engine.model},
                       {"backend", engine->backend().name()},
                       {"description", engine->description()},
                       {"threads", engine->executor().n_threads()},
                       {"load_seconds", load_seconds},
                       {"depth", options.depth},
                       {"streams", options.streams},
                       {"prefill", prefill.json()},
                       {"decode", decode.json()},
                       {"bytes_per_token", bytes},
                       {"bandwidth_gbs", bandwidth}});
  }
  const auto line = [](std::string_view label, const Rates& rates) {
    return fmt::format("{:<8} {:>5} tokens  {:>9.1f} tokens/s  ({:.1f} to {:.1f})\n", label, rates.tokens, rates.median(),
                       rates.min(), rates.max());
  };
  PLUMB_CHECK(print(
      fmt::format("{} on {}\nload     {:.3f} s\n", printable(options.engine.model), engine->description(), load_seconds)));
  PLUMB_CHECK(print(line("prefill", prefill) + line("decode", decode)));
  if (options.streams > 1) PLUMB_CHECK(print(fmt::format("streams  {}, decoded together\n", options.streams)));
  return print(fmt::format("weights  {} a step, {:.1f} GB/s while decoding\n", format_bytes(bytes), bandwidth));
}

}  // namespace

Action setup_bench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  options->engine.add(app);
  app.add_option("-p,--prompt-tokens", options->n_prompt, "Tokens of the prompt (0: no prefill)")
      ->check(CLI::Range(0u, 1u << 20));
  app.add_option("-n,--decode-tokens", options->n_decode, "Tokens to decode (0: no decode)")
      ->check(CLI::Range(0u, 1u << 20));
  app.add_option("-r,--repetitions", options->repetitions, "Times each is measured")->check(CLI::Range(1u, 1000u));
  app.add_option("-d,--depth", options->depth, "Positions in the cache before each")->check(CLI::Range(0u, 1u << 20));
  app.add_option("-s,--streams", options->streams, "Sequences to decode together")->check(CLI::Range(1u, 4096u));
  app.add_flag("--json", options->json, "One JSON document");
  add_accepted(app);
  return [options] { return run_bench(*options); };
}

}  // namespace plumb::cli
