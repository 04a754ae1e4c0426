#include "diagnose/proof.h"

#include <algorithm>
#include <cmath>

#include "diagnose/numbers.h"

namespace plumb::diagnose {

namespace {

// The largest relative difference between logits of one model in two arithmetics.
constexpr double most_apart = 0.15;

// The last value that the suspect shows, in the order of the ops.
std::optional<plan::ValueId> last_value(const Suspect& suspect) {
  std::optional<plan::ValueId> last;
  for (const plan::Op& op : suspect.plan().ops) {
    if (const auto out = plan::output(op); out && suspect.knows(*out)) last = out;
  }
  return last;
}

// The number of rows in which both have their largest element at the same place.
std::size_t n_alike(std::span<const float> a, std::span<const float> b, std::size_t width) {
  std::size_t n = 0;
  for (std::size_t start = 0; start < a.size(); start += width) {
    const auto largest = [&](std::span<const float> m) {
      const auto row = m.subspan(start, width);
      return std::max_element(row.begin(), row.end()) - row.begin();
    };
    n += largest(a) == largest(b) ? 1 : 0;
  }
  return n;
}

}  // namespace

std::vector<Commit> commits_of(const CheckedRun& run, const Evidence& evidence, const Match& match) {
  const auto observed = run.suspect.observe(*plan::output(run.suspect.plan().ops[evidence.place.op]));
  std::vector<bool> rows(run.suspect.n_rows(), false);
  for (std::uint32_t row = 0; row < rows.size(); ++row) rows[row] = observed->has[row] == 0;
  for (const std::uint32_t row : evidence.place.rows) rows[row] = true;
  for (const std::uint32_t row : evidence.healthy) rows[row] = rows[row] || match.explains_healthy;
  std::vector<Commit> commits;
  for (const auto& [op, mistake] : match.mistakes) commits.push_back({.op = op, .rows = rows, .mistake = mistake});
  return commits;
}

Commit suspects_own(const CheckedRun& run, const Evidence& evidence) {
  std::vector<bool> rows(run.suspect.n_rows(), false);
  for (const std::uint32_t row : evidence.place.rows) rows[row] = true;
  const auto found = [all = evidence.found, width = evidence.width](const Site& site) {
    return gather(all, width, site.rows);
  };
  return {.op = evidence.place.op, .rows = rows, .mistake = found};
}

std::optional<Proof> prove(const CheckedRun& run, std::span<const Commit> mistakes) {
  const plan::Plan& plan = run.suspect.plan();
  const auto last = last_value(run.suspect);
  if (!last) return std::nullopt;
  const auto observed = run.suspect.observe(*last);
  std::vector<std::uint32_t> rows;
  for (std::uint32_t r = 0; r < run.suspect.n_rows(); ++r) {
    if (observed->has[r] != 0) rows.push_back(r);
  }
  const std::size_t width = plan.value(*last).width;
  const std::vector<float> found = gather(observed->data, width, rows);
  const auto n_finite = std::count_if(found.begin(), found.end(), [](float v) { return std::isfinite(v); });
  if (2 * static_cast<std::size_t>(n_finite) < found.size()) return std::nullopt;
  Replay replay = run.without_suspect();
  const std::vector<float> without = gather(*replay.value(*last), width, rows);
  for (const Commit& commit : mistakes) replay.commit(commit);
  const std::vector<float> with = gather(*replay.value(*last), width, rows);
  Proof proof;
  proof.value = plan.value(*last).name;
  const double size = std::max(rms(found), 1e-30);
  proof.error_with = rms_difference(found, with) / size;
  proof.error_without = rms_difference(found, without) / size;
  if (*last == plan.logits) {
    proof.n_tokens = rows.size();
    proof.n_tokens_with = n_alike(found, with, width);
    proof.n_tokens_without = n_alike(found, without, width);
  }
  const bool tokens = proof.n_tokens_with >= proof.n_tokens_without;
  if (proof.error_with <= 0.25 * proof.error_without && proof.error_with <= most_apart && tokens) {
    proof.outcome = Proof::Outcome::reproduced;
  } else if (proof.error_without <= most_apart || (proof.error_with <= most_apart && tokens)) {
    proof.outcome = Proof::Outcome::too_small_to_tell;
  }
  return proof;
}

}  // namespace plumb::diagnose
