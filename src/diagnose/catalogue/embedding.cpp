// The embedding's rows: which, and how scaled.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace in_embedding {
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

std::vector<Candidate> other_table(const Question& q) {
  const auto* op = q.as<plan::Embed>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const plan::Weight& own = q.plan().weight(op->table);
  for (std::uint32_t i = 0; i < q.plan().weights.size(); ++i) {
    const plan::Weight& other = q.plan().weights[i];
    if (i == op->table.index || other.in() != own.in() || other.out() != own.out() || other.n_experts() != 1) continue;
    result.push_back(with_weight(fmt::format("{} instead of {}", other.tensor.name, own.tensor.name), op->table,
                                 backends::reference::rows_of(other.tensor)));
  }
  return result;
}

// The table's numbers read from other places: component i of a token's row is number index(token, i) of the table.
std::vector<Candidate> layout(const Question& q) {
  if (q.is_inner()) return {};
  const auto* op = q.as<plan::Embed>();
  if (op == nullptr) return {};
  const plan::Weight& own = q.plan().weight(op->table);
  const std::uint64_t width = own.in(), vocab = own.out();
  const auto rows = backends::reference::rows_of(own.tensor);
  const auto read = [&](std::string detail, auto index) {
    return with_weight(std::move(detail), op->table,
                       [rows, index, width, vocab](std::uint64_t token, std::span<float> out) {
                         std::vector<float> row(width);
                         std::uint64_t decoded = vocab;
                         for (std::uint64_t i = 0; i < out.size(); ++i) {
                           const std::uint64_t at = index(token, i) % (width * vocab);
                           if (at / width != decoded) rows(decoded = at / width, row);
                           out[i] = row[at % width];
                         }
                       });
  };
  std::vector<Candidate> result;
  result.push_back(read(fmt::format("[{}, {}] read as [{}, {}]", vocab, width, width, vocab),
                        [vocab](std::uint64_t token, std::uint64_t i) { return i * vocab + token; }));
  for (const std::uint64_t stride : {width / 2, 2 * width, width + 32, width - 32}) {
    if (stride == 0 || stride > 2 * width) continue;
    result.push_back(read(fmt::format("rows {} apart instead of {}", stride, width),
                          [stride](std::uint64_t token, std::uint64_t i) { return token * stride + i; }));
  }
  return result;
}

std::vector<Candidate> normalized(const Question& q) {
  if (q.as<plan::Embed>() == nullptr) return {};
  float eps = 1e-5f;
  for (const plan::Op& op : q.plan().ops) {
    if (const auto* norm = std::get_if<plan::Norm>(&op); norm != nullptr && norm->x == q.out()) eps = norm->eps;
  }
  std::vector<Candidate> result;
  for (const bool by_length : {false, true}) {
    result.push_back(afterwards(by_length ? "divided by its length" : "divided by its root mean square",
                                [by_length, eps, n = q.width()](const Site&, std::vector<float>& y) {
                                  for (std::size_t start = 0; start < y.size(); start += n) {
                                    double sum = 0;
                                    for (std::size_t i = 0; i < n; ++i) sum += double{y[start + i]} * y[start + i];
                                    const double s =
                                        1 / std::sqrt(by_length ? sum : sum / static_cast<double>(n) + double{eps});
                                    for (std::size_t i = 0; i < n; ++i) y[start + i] = static_cast<float>(y[start + i] * s);
                                  }
                                }));
  }
  return result;
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
    {"embedding-other-table", "the embedding's rows are another tensor's",
     "output.weight has the same shape, and is another tensor where the file has both.",
     "take the rows of token_embd.weight", other_table},
    {"embedding-layout", "the embedding's table is read in another layout",
     "GGUF stores a row of d_model numbers for each token, one behind the other.",
     "component i of a token lies at token * d_model + i", layout},
    {"embedding-normalized", "the embedding is normalised",
     "Some architectures have a norm behind the embedding; this file's has none before the first layer's.",
     "pass the embedding on as it is", normalized},
};

}  // namespace
}  // namespace in_embedding

std::span<const Hypothesis> embedding() { return in_embedding::table; }

}  // namespace plumb::diagnose::families
