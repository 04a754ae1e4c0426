// The embedding: wrong rows, or a wrong scale.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_embedding {
namespace {

std::int64_t row_of(const plan::Embed& op, const backends::Row& row) {
  return static_cast<std::int64_t>(op.row(row.token, row.position));
}

// The embedding with other rows of the table than those of the run's tokens or positions.
void of_rows(Candidates& out, const plan::Embed& op, std::string detail,
             std::function<std::int64_t(const Site&, std::size_t row)> index) {
  out.add(std::move(detail), [op, index = std::move(index)](const Site& site) {
    std::vector<backends::Row> rows(site.scene.rows.begin(), site.scene.rows.end());
    const auto n = static_cast<std::int64_t>(site.scene.plan->weight(op.table).out());
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const auto i = std::clamp<std::int64_t>(index(site, r), 0, n - 1);
      rows[r].token = static_cast<backends::TokenId>(i);
      rows[r].position = static_cast<std::uint32_t>(i);
    }
    Scene scene = site.scene;
    scene.rows = rows;
    return site.compute(site.op, scene);
  });
}

void scale(const Question& q, const plan::Embed& op, Candidates& out) {
  const float root = std::sqrt(static_cast<float>(q.width()));
  for (const float factor : {1.0f, root, 1 / root, root * root}) {
    if (std::abs(factor / op.scale - 1) < 1e-3f) continue;
    out.with(op, &plan::Embed::scale, factor, fmt::format("scaled by {:g} instead of {:g}", factor, op.scale));
  }
}

void off_by_one(const Question&, const plan::Embed& op, Candidates& out) {
  for (const int by : {1, -1}) {
    of_rows(out, op, fmt::format("the row of {} {:+d}", op.by == plan::EmbedBy::token ? "token id" : "position", by),
            [op, by](const Site& site, std::size_t row) { return row_of(op, site.scene.rows[row]) + by; });
  }
}
template <plan::EmbedBy by>
void off_by_one(const Question& q, const plan::Embed& op, Candidates& out) {
  if (op.by == by) off_by_one(q, op, out);
}

void one_row(const Question&, const plan::Embed& op, Candidates& out) {
  of_rows(out, op, "",
          [op](const Site& site, std::size_t row) { return row_of(op, site.replay.rows()[site.step(row).begin]); });
}

void of_step(const Question&, const plan::Embed& op, Candidates& out) {
  if (op.by != plan::EmbedBy::position) return;
  of_rows(out, op, "",
          [](const Site& site, std::size_t row) { return std::int64_t{site.rows[row]} - site.step(row).begin; });
}

void position_missing(const Question& q, const plan::Add& op, Candidates& out) {
  for (const plan::Op& other : q.plan().ops) {
    const auto* embed = std::get_if<plan::Embed>(&other);
    if (embed == nullptr || embed->by != plan::EmbedBy::position || embed->out != op.b) continue;
    out.add("", [op](const Site& site) { return site.value(op.a); });
  }
}

// The tokens or positions whose rows the suspect has, if each of its rows is a row of the table.
template <plan::EmbedBy by>
void other_rows(const Question& q, const plan::Embed& op, Candidates& out) {
  if (q.found.empty() || op.by != by) return;
  const std::size_t width = q.width();
  const auto rows_of_table = q.rows_of(op.table);
  std::vector<double> best(q.rows.size(), 1e-4);
  std::vector<std::int64_t> token(q.rows.size(), -1);
  std::vector<double> size;
  for (std::size_t r = 0; r < q.rows.size(); ++r) size.push_back(squares(q.found.subspan(r * width, width)));
  std::vector<float> of_token(width);
  for (std::uint32_t id = 0; id < q.plan().weight(op.table).out(); ++id) {
    rows_of_table(id, of_token);
    for (std::size_t r = 0; r < q.rows.size(); ++r) {
      const float* found = q.found.data() + r * width;
      // Most rows differ in their first components.
      double error = 0;
      for (std::size_t i = 0; i < width && error < best[r] * size[r]; ++i) {
        error += std::pow(double{found[i]} - of_token[i] * double{op.scale}, 2);
      }
      if (error >= best[r] * size[r]) continue;
      best[r] = error / std::max(size[r], 1e-30);
      token[r] = id;
    }
  }
  if (std::find(token.begin(), token.end(), -1) != token.end()) return;
  std::map<std::uint32_t, std::int64_t> by_row;
  for (std::size_t r = 0; r < token.size(); ++r) by_row[q.rows[r]] = token[r];
  const auto first = q.replay.rows()[q.rows[0]];
  std::string detail =
      by == plan::EmbedBy::token
          ? fmt::format("token {} where the trace's list has {}, at position {}", token[0], first.token, first.position)
          : fmt::format("position {} where the token's is {}", token[0], first.position);
  if (token.size() > 1) detail += fmt::format(", and {} more", token.size() - 1);
  of_rows(out, op, detail, [op, by_row](const Site& site, std::size_t row) {
    const auto found = by_row.find(site.rows[row]);
    return found == by_row.end() ? row_of(op, site.scene.rows[row]) : found->second;
  });
}

void other_table(const Question& q, const plan::Embed& op, Candidates& out) {
  const plan::Weight& own = q.plan().weight(op.table);
  out.with_other_weights(
      q, op.table, [&](const plan::Weight& w) { return w.in() == own.in() && w.out() == own.out() && w.n_experts() == 1; });
}

// The table read in another layout: component i of a token's row is number index(token, i) of the table.
void layout(const Question& q, const plan::Embed& op, Candidates& out) {
  const plan::Weight& own = q.plan().weight(op.table);
  const std::uint64_t width = own.in(), vocab = own.out();
  const auto rows = backends::reference::rows_of(own.tensor);
  const auto read = [&](const std::string& detail, auto index) {
    out.with_weight(detail, op.table, [rows, index, width, vocab](std::uint64_t token, std::span<float> numbers) {
      std::vector<float> row(width);
      std::uint64_t decoded = vocab;
      for (std::uint64_t i = 0; i < numbers.size(); ++i) {
        const std::uint64_t at = index(token, i) % (width * vocab);
        if (at / width != decoded) rows(decoded = at / width, row);
        numbers[i] = row[at % width];
      }
    });
  };
  read(fmt::format("[{}, {}] read as [{}, {}]", vocab, width, width, vocab),
       [vocab](std::uint64_t token, std::uint64_t i) { return i * vocab + token; });
  for (const std::uint64_t stride : {width / 2, 2 * width, width + 32, width - 32}) {
    if (stride == 0 || stride > 2 * width) continue;
    read(fmt::format("rows {} apart instead of {}", stride, width),
         [stride](std::uint64_t token, std::uint64_t i) { return token * stride + i; });
  }
}

void normalized(const Question& q, const plan::Embed&, Candidates& out) {
  float eps = 1e-5f;
  for (const plan::Op& op : q.plan().ops) {
    if (const auto* norm = std::get_if<plan::Norm>(&op); norm != nullptr && norm->x == q.out()) eps = norm->eps;
  }
  for (const bool by_length : {false, true}) {
    out.afterwards(by_length ? "divided by its length" : "divided by its root mean square",
                   [by_length, eps, n = q.width()](const Site&, std::vector<float>& y) {
                     for (std::size_t start = 0; start < y.size(); start += n) {
                       const double sum = squares(std::span(y).subspan(start, n));
                       const double s = 1 / std::sqrt(by_length ? sum : sum / static_cast<double>(n) + double{eps});
                       for (std::size_t i = 0; i < n; ++i) y[start + i] = static_cast<float>(y[start + i] * s);
                     }
                   });
  }
}

constexpr Hypothesis table[] = {
    {"embedding-scale", Kind::parameter, of<scale>, R"(the embedding is scaled by another factor
Gemma multiplies the embedding by sqrt(d_model); llama and qwen do not.
scale the embedding as the architecture asks)"},
    {"embedding-row-off-by-one", Kind::op, of<off_by_one<plan::EmbedBy::token>>, R"(the embedding's row is the next token's
The table is read with an offset, or ids count from 1.
row = token id)"},
    {"embedding-one-token", Kind::op, of<one_row>, R"(all tokens of a step get the first one's row
The kernel reads the id once instead of by row.
index the ids by row)"},
    {"embedding-other-tokens", Kind::op, of<other_rows<plan::EmbedBy::token>>,
     R"(other tokens were embedded than the trace lists
The rows are the table's, and those of other ids: the tokenizer that ran is not the one that was reported, or ids were changed on the way to the device.
compare the ids that reach the embedding with the tokenizer's)"},
    {"position-off-by-one", Kind::op, of<off_by_one<plan::EmbedBy::position>>, R"(the position's row is the next one's
Positions count from 1, or the token itself is counted among those before it.
position = tokens before this one in the sequence)"},
    {"position-of-step", Kind::op, of<of_step>, R"(positions count from the step's first token
Right for a prompt that is fed at once, wrong for every token after it.
add the number of cached tokens)"},
    {"position-other", Kind::op, of<other_rows<plan::EmbedBy::position>>, R"(other positions' rows were taken
The rows are the table's, and those of other positions than the tokens have.
position = tokens before this one in the sequence)"},
    {"position-missing", Kind::op, of<position_missing>, R"(the positions' embedding is not added
The model has no other way to tell the order of tokens.
add position_embd's row to token_embd's)"},
    {"embedding-other-table", Kind::op, of<other_table>, R"(the embedding's rows are another tensor's
output.weight has the same shape, and is another tensor where the file has both.
take the rows of token_embd.weight)"},
    {"embedding-layout", Kind::op, of_shown<layout>, R"(the embedding's table is read in another layout
GGUF stores a row of d_model numbers for each token, one behind the other.
component i of a token lies at token * d_model + i)"},
    {"embedding-normalized", Kind::op, of<normalized>, R"(the embedding is normalised
Some architectures have a norm behind the embedding; this file's has none before the first layer's.
pass the embedding on as it is)"},
};

}  // namespace
}  // namespace in_embedding

std::span<const Hypothesis> embedding() { return in_embedding::table; }

}  // namespace plumb::diagnose::families
