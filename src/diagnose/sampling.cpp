#include "diagnose/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

namespace plumb::diagnose {

namespace {

constexpr Hypothesis sampling_table[] = {
    {"sampling-least-likely", Kind::sampling, R"(the least likely token is chosen
The comparison of the search is turned round, or logits are negated before it.
choose the largest logit: argmax over the vocabulary)"},
    {"sampling-shifted", Kind::sampling, R"(the token chosen lies beside the most likely one
The index that the search gives is off: it counts from 1, or the logits begin some places further on.
let index i of the logits be token i)"},
    {"sampling-other-row", Kind::sampling, R"(the token is chosen from another row's logits
The prompt's pass gives a row of logits a token; the next token follows from the last of them.
take the logits of the last row)"},
    {"sampling-stale", Kind::sampling, R"(the token is chosen from the logits of the step before
The search reads the logits before they are written, or their copy on the host is not brought up to date.
wait for the step to end before its logits are read)"},
};

// A token chosen after a row whose logits the trace has.
struct Choice {
  std::uint32_t step = 0, row = 0;
  std::size_t token = 0;
  std::span<const float> logits;

  [[nodiscard]] bool is_best() const { return logits[token] == *std::max_element(logits.begin(), logits.end()); }
};

std::size_t best_of(std::span<const float> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

class Sampling {
 public:
  explicit Sampling(const Suspect& suspect)
      : suspect_(suspect), vocab_(suspect.plan().vocab), logits_(suspect.observe(suspect.plan().logits)) {
    if (!logits_) return;
    for (std::uint32_t step = 0; step + 1 < suspect.n_steps(); ++step) {
      const std::uint32_t row = suspect.end(step) - 1;
      const auto values = logits(row);
      const bool finite = std::all_of(values.begin(), values.end(), [](float v) { return !std::isnan(v); });
      if (values.empty() || !finite) continue;
      choices_.push_back({step, row, static_cast<std::size_t>(suspect.rows()[row + 1].token), values});
    }
  }

  SamplingCheck check() {
    if (choices_.empty())
      return {.stage = {Stage::sampling, Outcome::unknown, "the trace shows no logits that a token was chosen from"}};
    const auto is_best = [](const Choice& c) { return c.is_best(); };
    const auto n = choices_.size();
    const auto greedy = static_cast<std::size_t>(std::count_if(choices_.begin(), choices_.end(), is_best));
    if (greedy == n) {
      return {.stage = {Stage::sampling, Outcome::pass, fmt::format("all {} tokens chosen are the most likely ones", n)}};
    }
    const Choice& first = *std::find_if_not(choices_.begin(), choices_.end(), is_best);
    const auto rank =
        std::count_if(first.logits.begin(), first.logits.end(), [&](float v) { return v > first.logits[first.token]; });
    const std::string evidence = fmt::format(
        "{} of {} tokens chosen are the most likely ones; after row {} token {} was chosen, which {} others beat", greedy,
        n, first.row, first.token, rank);
    SamplingCheck result{
        .stage = {Stage::sampling, Outcome::unknown, evidence + ": right if the engine samples, or was given its tokens"}};
    explain(result, first, greedy);
    if (result.broken != nullptr) {
      result.stage = {
          Stage::sampling, Outcome::fail,
          fmt::format("{}; {}{}{}", evidence, result.broken->title, result.detail.empty() ? "" : ": ", result.detail)};
    }
    return result;
  }

 private:
  [[nodiscard]] std::span<const float> logits(std::uint32_t row) const {
    if (logits_->has[row] == 0) return {};
    return std::span(logits_->data).subspan(row * vocab_, vocab_);
  }

  void explain(SamplingCheck& result, const Choice& first, std::size_t greedy) const {
    const auto n = choices_.size();
    const auto all = [&](const std::function<bool(const Choice&)>& holds) {
      return is_no_chance(n - 1) && std::all_of(choices_.begin(), choices_.end(), holds);
    };
    if (all([](const Choice& c) { return c.logits[c.token] == *std::min_element(c.logits.begin(), c.logits.end()); })) {
      result.broken = &entry(sampling_table, "sampling-least-likely");
      return;
    }
    const auto size = static_cast<std::int64_t>(vocab_);
    const auto by = [&](const Choice& c) {
      return static_cast<std::int64_t>(c.token) - static_cast<std::int64_t>(best_of(c.logits));
    };
    if (std::abs(by(first)) <= most_shift &&
        all([&](const Choice& c) { return (by(c) - by(first)) % size == 0 && !c.is_best(); })) {
      result.broken = &entry(sampling_table, "sampling-shifted");
      result.detail = fmt::format("the most likely token's id {:+d}", by(first));
      return;
    }
    // The first token has no step before it. Equal choices in all steps would fit without being stale.
    const auto is_stale = [&](const Choice& c) {
      const std::uint32_t before = c.step == 0 ? c.row : suspect_.end(c.step - 1) - 1;
      const auto values = logits(before);
      return c.step == 0 || (!values.empty() && best_of(values) == c.token);
    };
    const auto n_others = static_cast<std::size_t>(
        std::count_if(choices_.begin(), choices_.end(), [&](const Choice& c) { return c.step > 0 && !c.is_best(); }));
    if (is_no_chance(n_others) && all(is_stale)) {
      result.broken = &entry(sampling_table, "sampling-stale");
      return;
    }
    // A single choice is no evidence: the later ones must show that the engine takes the most likely token.
    if (first.step != 0 || greedy + 1 != n || !is_no_chance(greedy)) return;
    for (std::uint32_t row = 0; row < first.row; ++row) {
      const auto values = logits(row);
      if (values.empty() || best_of(values) != first.token) continue;
      result.broken = &entry(sampling_table, "sampling-other-row");
      result.detail = fmt::format("row {} of {}", row, first.row + 1);
      return;
    }
  }

  // Whether this many tokens would fit a rule by chance in less than one of ten thousand runs.
  [[nodiscard]] bool is_no_chance(std::size_t n) const {
    return static_cast<double>(n) * std::log10(static_cast<double>(vocab_)) >= 4;
  }

  static constexpr std::int64_t most_shift = 3;

  const Suspect& suspect_;
  const std::size_t vocab_;
  std::optional<Observed> logits_;
  std::vector<Choice> choices_;
};

}  // namespace

std::span<const Hypothesis> families::sampling() { return sampling_table; }

SamplingCheck check_sampling(const Suspect& suspect) { return Sampling(suspect).check(); }

}  // namespace plumb::diagnose
