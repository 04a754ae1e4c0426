// Compares the next-token distributions of two backends over greedy answers:
//
//   compare_backends MODEL PROMPTS [--backend cuda] [--against reference] [-n 64] [--part I/N] [--beside N]
//   [--shared-kernels]
//
// PROMPTS has one prompt a line ("\n" for a line break); each goes through the model's chat template. The first backend
// answers it with n greedy tokens, one step a token. The second backend then reads the same tokens in one pass. Printed for
// every prompt, and for all together:
//   - the mean and largest Kullback-Leibler divergence KL(against || backend), in nats, computed in double;
//   - the largest difference between two logits of one position;
//   - the number of positions whose most likely token differs, with the widest margin by which the second backend preferred
//     its own. A margin above twice the largest difference of logits at its position is a fault, since rounding of that
//     size cannot explain it: exit code 1.
// --part 0/4 takes every fourth prompt, so that several processes share the work. --beside 63 makes the first backend run
// 63 other sequences at the same time, one token each in every step: steps have 64 rows, and prompts run beside single
// tokens. The backend "cuda-on-checker" is the CUDA backend's tuned path, executed on the CPU by the checker.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "backends/checker/checker.h"
#include "backends/gpu/executor.h"
#include "engine/engine.h"

namespace {

using namespace plumb;

constexpr std::uint32_t context = 1024;

struct Position {
  double kl = 0, difference = 0, margin = 0;
  bool same = true;
};

// margin: a's logit of its own best token minus a's logit of b's best token.
Position compare(std::span<const float> a, std::span<const float> b) {
  const auto log_sum = [](std::span<const float> logits) {
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float x : logits) sum += std::exp(x - largest);
    return largest + std::log(sum);
  };
  const double norm_a = log_sum(a), norm_b = log_sum(b);
  Position position;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double log_p = a[i] - norm_a;
    position.kl += std::exp(log_p) * (log_p - (b[i] - norm_b));
    position.difference = std::max(position.difference, std::abs(double{a[i]} - b[i]));
  }
  const auto best_a = std::max_element(a.begin(), a.end()) - a.begin();
  const auto best_b = std::max_element(b.begin(), b.end()) - b.begin();
  position.same = best_a == best_b;
  position.margin = double{a[best_a]} - a[best_b];
  return position;
}

struct Summary {
  double kl_sum = 0, kl_largest = 0, difference = 0, margin = 0;
  std::size_t n = 0, n_other = 0, n_faults = 0;
  void add(const Position& p) {
    kl_sum += p.kl;
    kl_largest = std::max(kl_largest, p.kl);
    difference = std::max(difference, p.difference);
    ++n;
    if (p.same) return;
    ++n_other;
    margin = std::max(margin, p.margin);
    if (p.margin > 2 * p.difference) ++n_faults;
  }
  void add(const Summary& s) {
    kl_sum += s.kl_sum;
    kl_largest = std::max(kl_largest, s.kl_largest);
    difference = std::max(difference, s.difference);
    margin = std::max(margin, s.margin);
    n += s.n;
    n_other += s.n_other;
    n_faults += s.n_faults;
  }
  void print(const std::string& label) const {
    fmt::print(
        "{:<12} {:>5} positions  mean KL {:.3e}  largest {:.3e}  logits differ by {:.3e}  other token {} (margin {:.3e})\n",
        label, n, n > 0 ? kl_sum / static_cast<double>(n) : 0, kl_largest, difference, n_other, margin);
    std::fflush(stdout);
  }
};

struct Arguments {
  std::string model, prompts, backend = "cuda", against = "reference";
  std::size_t n = 64, part = 0, parts = 1, beside = 0;
  bool shared_kernels = false;
};

Result<Summary> ask(backends::Executor& executor, engine::Engine& against, const std::string& prompt,
                    const Arguments& arguments) {
  PLUMB_TRY(std::vector<engine::TokenId> tokens, against.chat_tokens(engine::conversation("", prompt)));
  const std::size_t n_prompt = tokens.size();
  const auto beside = static_cast<std::uint32_t>(arguments.beside);
  if (beside >= executor.max_batch()) return fail("--beside must be less than {}", executor.max_batch());
  PLUMB_TRY(const auto caches, executor.new_caches(1 + beside, context, backends::KvType::f16));
  // The measured sequence comes first; each of the others gets one token, a different one.
  const auto run_together = [&](std::span<const engine::TokenId> fed) {
    std::vector<backends::Step> steps{{.cache = caches[0].get(), .tokens = fed}};
    for (std::size_t i = 1; i < caches.size(); ++i) {
      const std::size_t which = (caches[i]->length() + 7 * i) % n_prompt;
      steps.push_back({.cache = caches[i].get(), .tokens = std::span(tokens).subspan(which, 1)});
    }
    return executor.run(steps);
  };
  const std::size_t n = arguments.n;
  std::vector<std::vector<float>> logits;
  std::span<const float> last;
  const std::uint64_t vocab = against.model().plan()->vocab;
  for (std::size_t done = 0; done < n_prompt;) {
    const std::size_t count = std::min<std::size_t>(n_prompt - done, executor.max_batch() - beside);
    PLUMB_TRY(last, run_together(std::span(tokens).subspan(done, count)));
    last = last.first(vocab);
    done += count;
  }
  for (;;) {
    logits.emplace_back(last.begin(), last.end());
    const auto best = static_cast<engine::TokenId>(std::max_element(last.begin(), last.end()) - last.begin());
    if (logits.size() == n || against.tokenizer().ends_generation(best)) break;
    tokens.push_back(best);
    const engine::TokenId token = best;
    PLUMB_TRY(last, run_together(std::span(&token, 1)));
    last = last.first(vocab);
  }
  PLUMB_TRY(const auto other_cache, against.new_cache());
  Summary summary;
  for (std::size_t done = 0; done < tokens.size();) {
    const std::size_t count = std::min<std::size_t>(tokens.size() - done, against.executor().max_batch());
    PLUMB_TRY(const std::span<const float> all, against.executor().run({.cache = other_cache.get(),
                                                                        .tokens = std::span(tokens).subspan(done, count),
                                                                        .outputs = backends::Outputs::all}));
    for (std::size_t i = 0; i < count; ++i) {
      if (done + i + 1 < n_prompt) continue;
      summary.add(compare(all.subspan(i * vocab, vocab), logits[done + i + 1 - n_prompt]));
    }
    done += count;
  }
  return summary;
}

Result<Arguments> parse(int argc, char** argv) {
  Arguments arguments;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--shared-kernels") {
      arguments.shared_kernels = true;
    } else if (flag.starts_with("-")) {
      if (i + 1 == argc) return fail("{} wants a value", flag);
      const std::string value = argv[++i];
      if (flag == "--backend") {
        arguments.backend = value;
      } else if (flag == "--against") {
        arguments.against = value;
      } else if (flag == "-n") {
        arguments.n = std::max(1, std::atoi(value.c_str()));
      } else if (flag == "--beside") {
        arguments.beside = static_cast<std::size_t>(std::max(0, std::atoi(value.c_str())));
      } else if (flag == "--part") {
        if (std::sscanf(value.c_str(), "%zu/%zu", &arguments.part, &arguments.parts) != 2 || arguments.parts == 0) {
          return fail("--part wants I/N, such as 0/4");
        }
      } else {
        return fail("{} is no option", flag);
      }
    } else {
      files.push_back(flag);
    }
  }
  if (files.size() != 2) return fail("usage: compare_backends MODEL PROMPTS [options]; see tools/compare_backends.cpp");
  arguments.model = files[0];
  arguments.prompts = files[1];
  return arguments;
}

Result<bool> run(int argc, char** argv) {
  PLUMB_TRY(const Arguments arguments, parse(argc, argv));
  const auto load = [&](const std::string& backend) -> Result<std::unique_ptr<engine::Engine>> {
    PLUMB_TRY(gguf::File file, gguf::File::open(arguments.model));
    engine::EngineSettings settings;
    settings.backend = backend;
    settings.context = context;
    settings.shared_kernels = arguments.shared_kernels;
    return engine::Engine::load(std::move(file), settings);
  };
  PLUMB_TRY(const auto against, load(arguments.against));
  std::unique_ptr<engine::Engine> engine;
  std::unique_ptr<backends::Executor> checked;
  if (arguments.backend == "cuda-on-checker") {
    PLUMB_TRY(checked, backends::gpu::load(against->model().plan(), backends::make_cuda_checker_device(), {}));
  } else {
    PLUMB_TRY(engine, load(arguments.backend));
  }
  backends::Executor& executor = checked ? *checked : engine->executor();
  std::ifstream lines(arguments.prompts);
  if (!lines) return fail("{} cannot be read", arguments.prompts);
  Summary total;
  std::size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || number++ % arguments.parts != arguments.part) continue;
    for (std::size_t at = 0; (at = line.find("\\n", at)) != std::string::npos;) line.replace(at, 2, "\n");
    PLUMB_TRY(const Summary summary, ask(executor, *against, line, arguments));
    summary.print(fmt::format("prompt {}", number));
    total.add(summary);
  }
  total.print("all");
  return total.n_faults == 0 && total.n > 0;
}

}  // namespace

int main(int argc, char** argv) {
  const plumb::Result<bool> well = run(argc, argv);
  if (!well) {
    fmt::print(stderr, "compare_backends: {}\n", well.error().message);
    return 2;
  }
  return *well ? 0 : 1;
}
