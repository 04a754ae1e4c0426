// The embedding: other rows, another scale, another layout.
#include <algorithm>
#include <cmath>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

void add_embedding_faults(const Add& add) {
  add("the embedding scaled by sqrt(d)", {"token_embd"}, then([](Floats& y, std::size_t width, const Op&) {
        for (float& v : y) v *= std::sqrt(static_cast<float>(width));
      }),
      {"embedding-scale"});
  add("the embedding of the id before", {"token_embd"}, with([](const Engine&, Op& op) {
        for (float& id : op.x) id = id > 0 ? id - 1 : id;
      }),
      {"embedding-row-off-by-one"});
  add("the first token's embedding for all", {"token_embd"},
      with([](const Engine&, Op& op) { std::fill(op.x.begin(), op.x.end(), op.x[0]); }), {"embedding-one-token"});
  add("the embeddings one token late", {"token_embd"}, with([](const Engine& e, Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t)
          op.x[t] = static_cast<float>(e.tokens()[op.position + t == 0 ? 0 : op.position + t - 1]);
      }),
      {"embedding-other-tokens", "buffer-row-shifted"});
  add("the output's rows for the tokens", {"token_embd"},
      with([](const Engine& e, Op& op) { op.w = e.weight("output.weight"); }), {"embedding-other-table"});
  add("the table as [d, vocab]", {"token_embd"},
      [](const Engine&, const Op& op) {
        Floats y;
        for (const float id : op.x) {
          for (std::size_t i = 0; i < op.w.width; ++i) y.push_back(op.w.data[i * op.w.rows + static_cast<std::size_t>(id)]);
        }
        return y;
      },
      {"embedding-layout"});
  add("a norm behind the embedding", {"token_embd"}, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t) {
          double squares = op.config.eps * static_cast<double>(width);
          for (std::size_t i = 0; i < width; ++i) squares += double{y[t * width + i]} * y[t * width + i];
          for (std::size_t i = 0; i < width; ++i)
            y[t * width + i] /= static_cast<float>(std::sqrt(squares / static_cast<double>(width)));
        }
      }),
      {"embedding-normalized"});
}

}  // namespace plumb::diagnose::planted
