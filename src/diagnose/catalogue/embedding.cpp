// The embedding's rows: which, and how scaled.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace {

// Embeds other tokens than the run's.
Candidate of_tokens(std::string detail, std::function<std::int64_t(const Site&, std::size_t row)> token) {
  return {std::move(detail), [token = std::move(token)](const Site& site) {
            std::vector<backends::Row> rows(site.scene->rows.begin(), site.scene->rows.end());
            const auto vocab = static_cast<std::int64_t>(site.scene->plan->vocab);
            for (std::size_t r = 0; r < rows.size(); ++r) {
              rows[r].token = static_cast<backends::TokenId>(std::clamp<std::int64_t>(token(site, r), 0, vocab - 1));
            }
            backends::reference::Scene scene = *site.scene;
            scene.rows = rows;
            return backends::reference::compute(*site.op, scene);
          }};
}

std::vector<Candidate> scale(const Question& q) {
  const auto* op = q.as<plan::Embed>();
  if (op == nullptr) return {};
  const float root = std::sqrt(static_cast<float>(q.width()));
  std::vector<Candidate> result;
  for (const float factor : {1.0f, root, 1 / root, root * root}) {
    if (std::abs(factor / op->scale - 1) < 1e-3f) continue;
    plan::Embed wrong = *op;
    wrong.scale = factor;
    result.push_back(changed(wrong, fmt::format("scaled by {:g} instead of {:g}", factor, op->scale)));
  }
  return result;
}

std::vector<Candidate> off_by_one(const Question& q) {
  if (q.as<plan::Embed>() == nullptr) return {};
  std::vector<Candidate> result;
  for (const int by : {1, -1}) {
    result.push_back(of_tokens(fmt::format("the row of token id {:+d}", by), [by](const Site& site, std::size_t row) {
      return std::int64_t{site.scene->rows[row].token} + by;
    }));
  }
  return result;
}

std::vector<Candidate> one_token(const Question& q) {
  if (q.as<plan::Embed>() == nullptr) return {};
  return {of_tokens("", [](const Site& site, std::size_t row) {
    const auto rows = site.replay->rows();
    const auto first =
        std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.sequence == site.scene->rows[row].sequence; });
    return std::int64_t{first->token};
  })};
}

// The tokens whose rows the suspect has, where every row is one of the table's.
std::vector<Candidate> other_tokens(const Question& q) {
  const auto* op = q.as<plan::Embed>();
  if (op == nullptr || q.found.empty()) return {};
  const std::size_t width = q.width();
  const auto rows_of_table = backends::reference::rows_of(q.plan().weight(op->table).tensor);
  std::vector<double> best(q.rows.size(), 1e-4);
  std::vector<std::int64_t> token(q.rows.size(), -1);
  std::vector<double> size(q.rows.size(), 0);
  for (std::size_t r = 0; r < q.rows.size(); ++r) {
    for (std::size_t i = 0; i < width; ++i) size[r] += std::pow(double{q.found[r * width + i]}, 2);
  }
  std::vector<float> of_token(width);
  for (std::uint32_t id = 0; id < q.plan().vocab; ++id) {
    rows_of_table(id, of_token);
    for (std::size_t r = 0; r < q.rows.size(); ++r) {
      const float* found = q.found.data() + r * width;
      // Most rows differ in their first components.
      double error = 0;
      for (std::size_t i = 0; i < width && error < best[r] * size[r]; ++i) {
        error += std::pow(double{found[i]} - of_token[i] * double{op->scale}, 2);
      }
      if (error >= best[r] * size[r]) continue;
      best[r] = error / std::max(size[r], 1e-30);
      token[r] = id;
    }
  }
  if (std::find(token.begin(), token.end(), -1) != token.end()) return {};
  std::map<std::uint32_t, std::int64_t> by_row;
  for (std::size_t r = 0; r < token.size(); ++r) by_row[q.rows[r]] = token[r];
  const auto first = q.replay.rows()[q.rows[0]];
  return {of_tokens(fmt::format("token {} where the trace's list has {}, at position {}{}", token[0], first.token,
                                first.position, token.size() > 1 ? fmt::format(", and {} more", token.size() - 1) : ""),
                    [by_row](const Site& site, std::size_t row) {
                      const auto found = by_row.find(site.rows[row]);
                      return found == by_row.end() ? std::int64_t{site.scene->rows[row].token} : found->second;
                    })};
}

constexpr Hypothesis table[] = {
    {"embedding-scale", "the embedding is scaled by another factor",
     "Gemma multiplies the embedding by sqrt(d_model); llama and qwen do not.",
     "scale the embedding as the architecture asks", scale},
    {"embedding-row-off-by-one", "the embedding's row is the next token's",
     "The table is read with an offset, or ids count from 1.", "row = token id", off_by_one},
    {"embedding-one-token", "all tokens of a step get the first one's row",
     "The kernel reads the id once instead of by row.", "index the ids by row", one_token},
    {"embedding-other-tokens", "other tokens were embedded than the trace lists",
     "The rows are the table's, and those of other ids: the tokenizer that ran is not the one that was reported, or ids "
     "were "
     "changed on the way to the device.",
     "compare the ids that reach the embedding with the tokenizer's", other_tokens},
};

}  // namespace

std::span<const Hypothesis> embedding() { return table; }

}  // namespace plumb::diagnose::families
