#include "backends/batch.h"

#include <algorithm>
#include <unordered_set>
#include <variant>

namespace plumb::backends {

namespace {

Result<void> check_step(const plan::Plan& plan, const Step& step) {
  if (step.tokens.empty()) return fail("a step needs at least one token");
  for (std::size_t i = 0; i < step.tokens.size(); ++i) {
    const TokenId token = step.tokens[i];
    if (token < 0 || static_cast<std::uint32_t>(token) >= plan.vocab) {
      return fail("token {} at place {} is outside the vocabulary of {} tokens", token, i, plan.vocab);
    }
  }
  const std::uint32_t room = step.cache->capacity() - step.cache->length();
  if (step.tokens.size() > room) {
    return fail("{} tokens do not fit in the KV cache: {} of {} positions are free; ask for a longer context",
                step.tokens.size(), room, step.cache->capacity());
  }
  if (step.cache->length() > 0 && sees_later_tokens(plan)) {
    return fail("the model reads a text as a whole, and {} tokens of it have been read; its tokens come in one step",
                step.cache->length());
  }
  return {};
}

// That each embedding's table has the rows that it is asked for.
Result<void> check_tables(const plan::Plan& plan, const std::vector<Row>& rows) {
  for (const plan::Op& op : plan.ops) {
    const auto* embed = std::get_if<plan::Embed>(&op);
    if (embed == nullptr) continue;
    const plan::Weight& table = plan.weight(embed->table);
    for (const Row& row : rows) {
      const std::uint64_t index = embed->row(row.token, row.position);
      if (index < table.out()) continue;
      return fail("token {} at position {} asks for row {} of tensor '{}', which has {}", row.token, row.position, index,
                  table.tensor.name, table.out());
    }
  }
  return {};
}

std::vector<Run> runs_of(const std::vector<Row>& rows) {
  std::vector<Run> runs;
  for (std::uint32_t i = 0; i < rows.size(); ++i) {
    const bool follows = i > 0 && rows[i].sequence == rows[i - 1].sequence && rows[i].position == rows[i - 1].position + 1;
    if (!follows) runs.push_back({.begin = i, .end = i});
    runs.back().end = i + 1;
  }
  return runs;
}

}  // namespace

bool sees_later_tokens(const plan::Plan& plan) {
  return std::any_of(plan.ops.begin(), plan.ops.end(), [](const plan::Op& op) {
    const auto* attention = std::get_if<plan::Attention>(&op);
    return attention != nullptr && !attention->causal;
  });
}

Result<Batch> make_batch(const plan::Plan& plan, std::span<const Step> steps, std::uint32_t max_rows) {
  if (steps.empty()) return fail("a step needs at least one sequence");
  Batch batch;
  std::size_t n_rows = 0;
  std::unordered_set<const KvCache*> seen;
  for (const Step& step : steps) {
    PLUMB_CHECK(check_step(plan, step));
    if (&step.cache->pool() != &steps.front().cache->pool()) {
      return fail("sequences that run together need KV caches that were made together");
    }
    if (!seen.insert(step.cache).second) return fail("two sequences of a step have the same KV cache");
    batch.caches.push_back(step.cache);
    n_rows += step.tokens.size();
    batch.lengths.push_back(step.cache->length() + static_cast<std::uint32_t>(step.tokens.size()));
    batch.longest = std::max(batch.longest, batch.lengths.back());
  }
  if (n_rows > max_rows) {
    return fail("a step of {} tokens is longer than the {} that the executor was loaded for", n_rows, max_rows);
  }
  std::vector<Row> outputs;
  for (std::uint32_t s = 0; s < steps.size(); ++s) {
    const Step& step = steps[s];
    const std::size_t first_output = step.outputs == Outputs::all ? 0 : step.tokens.size() - 1;
    for (std::size_t i = 0; i < step.tokens.size(); ++i) {
      (i < first_output ? batch.rows : outputs)
          .push_back({step.tokens[i], s, step.cache->length() + static_cast<std::uint32_t>(i)});
    }
  }
  batch.n_outputs = static_cast<std::uint32_t>(outputs.size());
  batch.rows.insert(batch.rows.end(), outputs.begin(), outputs.end());
  PLUMB_CHECK(check_tables(plan, batch.rows));
  batch.runs = runs_of(batch.rows);
  return batch;
}

}  // namespace plumb::backends
