#include "diagnose/suspect.h"

#include <algorithm>
#include <limits>

namespace plumb::diagnose {

namespace {

constexpr std::uint64_t most_padding = 1024;

// The value from which on engines may drop the rows that no logits need: the query of the first attention after the last
// write to a cache.
plan::ValueId first_that_may_drop_rows(const plan::Plan& plan) {
  plan::ValueId result{};
  bool is_first = false;
  for (const plan::Op& op : plan.ops) {
    is_first = is_first || std::holds_alternative<plan::KvWrite>(op);
    if (const auto* attention = std::get_if<plan::Attention>(&op); attention != nullptr && is_first) {
      result = attention->q;
      is_first = false;
    }
  }
  return result;
}

std::uint32_t prompt_length(const plan::Plan& plan, const trace::Trace& trace) {
  const plan::ValueId last = first_that_may_drop_rows(plan);
  std::uint64_t longest = 0, longest_whole = 0;
  for (const trace::Value& value : trace.values()) {
    if (value.step != 0) break;
    if (const auto id = plan.find(value.name); id && (value.width == plan.value(*id).width || *id == plan.logits)) {
      longest = std::max(longest, value.rows);
      if (id->index < last.index && value.rows > 1) longest_whole = std::max(longest_whole, value.rows);
    }
  }
  if (longest_whole > 0) return static_cast<std::uint32_t>(longest);
  const std::size_t n_tokens = trace.info().tokens.size();
  const std::uint32_t after = trace.n_steps() > 0 ? trace.n_steps() - 1 : 0;
  // A trace with only output rows has fewer rows than the prompt has tokens.
  return static_cast<std::uint32_t>(std::max<std::uint64_t>(longest, n_tokens > after ? n_tokens - after : 0));
}

}  // namespace

Result<Suspect> Suspect::bind(const plan::Plan& plan, const trace::Trace& trace, std::optional<std::uint32_t> n_prompt) {
  Suspect suspect;
  suspect.plan_ = &plan;
  suspect.trace_ = &trace;
  suspect.n_steps_ = std::max(1u, trace.n_steps());
  suspect.n_prompt_ = n_prompt ? *n_prompt : prompt_length(plan, trace);
  const trace::Info& info = trace.info();
  const std::size_t n_rows = suspect.n_prompt_ + std::size_t{suspect.n_steps_} - 1;
  if (info.tokens.empty())
    return fail("the trace has no tokens; metadata 'tokens' lists those of the prompt, then one a step");
  if (info.tokens.size() < n_rows) {
    return fail("the trace has values of {} prompt tokens and {} steps after them, and lists {} tokens", suspect.n_prompt_,
                suspect.n_steps_ - 1, info.tokens.size());
  }
  for (std::size_t i = 0; i < n_rows; ++i) {
    const std::int32_t token = info.tokens[i];
    if (token < 0 || static_cast<std::uint32_t>(token) >= plan.vocab) {
      return fail("token {} at place {} is outside the model's vocabulary of {}: the trace is of another model", token, i,
                  plan.vocab);
    }
    if (!info.positions.empty() && info.positions[i] != i) {
      return fail("the trace's token {} is at position {}; Plumb diagnoses one sequence whose positions count up from 0", i,
                  info.positions[i]);
    }
    suspect.rows_.push_back({.token = token,
                             .sequence = i < suspect.n_prompt_ ? 0 : static_cast<std::uint32_t>(i - suspect.n_prompt_ + 1),
                             .position = static_cast<std::uint32_t>(i)});
  }

  const plan::ValueId last_attention = first_that_may_drop_rows(plan);
  suspect.parts_.resize(plan.values.size());
  suspect.dtypes_.assign(plan.values.size(), trace::Dtype::f32);
  std::vector<std::uint64_t> n_known(plan.values.size(), 0);
  for (const trace::Value& value : trace.values()) {
    const auto id = plan.find(value.name);
    if (!id) {
      auto& unknown = suspect.unknown_names_;
      if (!backends::is_probs_name(value.name) && std::find(unknown.begin(), unknown.end(), value.name) == unknown.end()) {
        unknown.push_back(value.name);
      }
      continue;
    }
    const std::uint64_t width = plan.value(*id).width;
    const std::uint64_t most = suspect.end(value.step) - suspect.begin(value.step);
    // Engines may pad the vocabulary to a round number. Logits beyond the model's vocabulary are left out.
    const bool padded = *id == plan.logits && value.width > width && value.width < width + width / 4 + most_padding;
    if ((value.width != width && !padded) || value.rows > most) {
      const bool turned = value.rows == width && value.width <= most;
      return fail("'{}/{}' is [{}, {}]; the model makes it [{}, {}]{}", value.step, value.name, value.rows, value.width,
                  most, width,
                  turned ? " (features last)" : ": the trace is of another model, or the name stands for another value");
    }
    // A trace may have only the last row of a step.
    const bool may_drop = value.rows == 1 || id->index >= last_attention.index;
    if (value.rows < most && !may_drop) {
      return fail("'{}/{}' has {} rows for a step of {} tokens", value.step, value.name, value.rows, most);
    }
    suspect.parts_[id->index].push_back(&value);
    if (value.step == 0) suspect.most_rows_ = std::max(suspect.most_rows_, static_cast<std::uint32_t>(value.rows));
    n_known[id->index] += value.rows;
    suspect.dtypes_[id->index] = std::max(suspect.dtypes_[id->index], value.dtype);
    ++suspect.n_values_;
  }
  if (suspect.n_values_ == 0) {
    return fail(
        "none of the trace's names is a value of this model{}; docs/architecture.md lists them, such as blk.0.attn_q",
        suspect.unknown_names_.empty() ? "" : fmt::format(" ('{}')", suspect.unknown_names_.front().substr(0, 100)));
  }
  for (const std::uint64_t n : n_known) suspect.knows_all_.push_back(n == n_rows);
  return suspect;
}

std::vector<std::uint32_t> Suspect::other_lengths() const {
  if (most_rows_ == 0 || most_rows_ >= n_prompt_) return {};
  std::vector<std::uint32_t> lengths{most_rows_};
  for (std::uint32_t n = n_prompt_ - 1; n > most_rows_; --n) lengths.push_back(n);
  return lengths;
}

std::vector<std::uint32_t> Suspect::logit_rows() const {
  const auto logits = observe(plan_->logits);
  std::vector<std::uint32_t> rows;
  for (std::uint32_t r = 0; r < n_rows(); ++r) {
    if (logits ? logits->has[r] != 0 : end(step_of(r)) == r + 1) rows.push_back(r);
  }
  return rows;
}

std::uint32_t Suspect::known_rows(plan::ValueId id, std::uint32_t step) const {
  const auto& parts = parts_[id.index];
  const auto at = std::lower_bound(parts.begin(), parts.end(), step,
                                   [](const trace::Value* part, std::uint32_t s) { return part->step < s; });
  return at == parts.end() || (*at)->step != step ? 0 : static_cast<std::uint32_t>((*at)->rows);
}

std::optional<Observed> Suspect::observe(plan::ValueId id) const {
  if (!knows(id)) return std::nullopt;
  const plan::Value& value = plan_->value(id);
  Observed observed;
  observed.data.assign(n_rows() * value.width, std::numeric_limits<float>::quiet_NaN());
  observed.has.assign(n_rows(), 0);
  for (const trace::Value* part : parts_[id.index]) {
    const std::vector<float> data = part->floats();
    const std::uint64_t first = end(part->step) - part->rows;
    for (std::uint64_t row = 0; row < part->rows; ++row)
      std::copy_n(&data[row * part->width], value.width, &observed.data[(first + row) * value.width]);
    std::fill_n(observed.has.begin() + static_cast<std::ptrdiff_t>(first), part->rows, 1);
    observed.dtype = std::max(observed.dtype, part->dtype);
  }
  return observed;
}

}  // namespace plumb::diagnose
