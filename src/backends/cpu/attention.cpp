#include "backends/cpu/stages.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace plumb::backends::cpu {

namespace {

// Steps of up to this many tokens split the blocks of the cache among threads.
constexpr std::uint32_t split_cache_up_to = 4;
// The query rows that attention of longer steps works on together.
constexpr std::uint32_t attention_rows = 96;

constexpr std::uint32_t block_size = kv_block;

bool splits_cache(const Batch& batch) { return batch.n_rows() <= split_cache_up_to && batch.runs.size() == 1; }

// The positions [first, end) that a row attends to. Both grow with the row's position.
struct Seen {
  std::uint32_t first, end;
};
Seen seen_by(const Batch& batch, const plan::Attention& op, std::uint32_t row) {
  const std::uint32_t position = batch.position(row);
  const std::uint32_t end = op.causal ? position + 1 : batch.length(row);
  if (op.window == 0) return {0, end};
  if (op.window_kind == plan::WindowKind::chunked) return {position / op.window * op.window, end};
  const std::uint32_t before = op.causal ? op.window - 1 : op.window / 2;
  return {position - std::min(position, before), op.causal ? end : std::min(end, position + op.window / 2 + 1)};
}
// The blocks of the cache [first, end) with positions that a row of the run attends to.
Seen blocks_seen_by(const Batch& batch, const plan::Attention& op, const Run& rows) {
  return {seen_by(batch, op, rows.begin).first / block_size, (seen_by(batch, op, rows.end - 1).end - 1) / block_size + 1};
}

float alibi_slope(const plan::Attention& op, std::uint32_t head) {
  const std::uint32_t n = std::bit_floor(op.n_heads);
  const double exponent = head < n ? (head + 1.0) / n : (2.0 * (head - n) + 1) / (2.0 * n);
  return static_cast<float>(std::exp2(-op.alibi_max_bias * exponent));
}

// Query heads [begin, end) that share a KV head.
struct Heads {
  std::uint32_t begin, end;
  [[nodiscard]] std::uint32_t n() const { return end - begin; }
};
Heads heads_of(const plan::Attention& op, std::uint32_t kv_head) {
  const auto begin = [&](std::uint64_t of) {
    return static_cast<std::uint32_t>((of * op.n_heads + op.n_kv_heads - 1) / op.n_kv_heads);
  };
  return {begin(kv_head), begin(std::uint64_t{kv_head} + 1)};
}
std::uint32_t most_shared_heads(const plan::Attention& op) { return (op.n_heads + op.n_kv_heads - 1) / op.n_kv_heads; }

// The most tokens of a tile. A tile has tokens of one sequence.
std::uint32_t tile_tokens(const plan::Attention& op) { return std::max(1u, attention_rows / most_shared_heads(op)); }
std::uint32_t n_tiles(const plan::Attention& op, const Run& run) {
  return (run.n() + tile_tokens(op) - 1) / tile_tokens(op);
}
std::uint32_t n_tiles(const plan::Attention& op, const Batch& batch) {
  std::uint32_t n = 0;
  for (const Run& run : batch.runs) n += n_tiles(op, run);
  return n;
}
Run tile(const plan::Attention& op, const Batch& batch, std::uint32_t index) {
  auto run = batch.runs.begin();
  for (std::uint32_t n = n_tiles(op, *run); index >= n; n = n_tiles(op, *run)) {
    index -= n;
    ++run;
  }
  const std::uint32_t begin = run->begin + index * tile_tokens(op);
  return {begin, std::min(begin + tile_tokens(op), run->end)};
}

// A head's result over a part of the cache, in the form of AttendBlock.
struct Partial {
  float* largest;
  float* total;
  float* context;
};

// The Partials of a step that splits the cache, [block][row][head]. All contexts come first, then all `largest` and
// `total`.
struct Partials {
  float* base;
  std::size_t n_blocks, n_rows, n_heads, stride;

  Partials(const Workspace& w, const plan::Attention& op)
      : base(reinterpret_cast<float*>(w.partials.get())),
        n_blocks((w.batch.longest + kv_block - 1) / kv_block),
        n_rows(w.batch.n_rows()),
        n_heads(op.n_heads),
        stride(head_stride(op.head_dim)) {}
  [[nodiscard]] std::size_t bytes() const { return n_blocks * n_rows * n_heads * (stride + 2) * sizeof(float); }
  [[nodiscard]] Partial at(std::size_t block, std::size_t row, std::size_t head) const {
    const std::size_t n = n_blocks * n_rows * n_heads;
    const std::size_t i = (block * n_rows + row) * n_heads + head;
    return {base + n * stride + i, base + n * stride + n + i, base + i * stride};
  }
};

// A thread's memory for some query rows. The kernel's scratch memory comes last.
struct Scratch {
  float* q;                // [rows][head_stride], scaled
  float* context;          // [rows][head_stride], of one block
  float* running_context;  // [rows][head_stride]
  float *largest, *total;  // [rows], of one block
  float *running_largest, *running_total;
  std::uint32_t *first, *last;
  float *slope, *distance;  // [rows], where the op has ALiBi
  std::uint8_t* kernel;

  static std::size_t bytes(std::size_t rows, std::size_t stride) {
    const std::size_t padded = (rows + 15) / 16 * 16;
    return (3 * padded * stride + 8 * padded + padded * kv_block + 2 * kv_block * stride) * sizeof(float);
  }
  Scratch(std::byte* base, std::size_t rows, std::size_t stride) {
    const std::size_t padded = (rows + 15) / 16 * 16;
    auto* next = reinterpret_cast<float*>(base);
    const auto take = [&](std::size_t n) { return std::exchange(next, next + n); };
    q = take(padded * stride);
    context = take(padded * stride);
    running_context = take(padded * stride);
    largest = take(padded);
    total = take(padded);
    running_largest = take(padded);
    running_total = take(padded);
    first = reinterpret_cast<std::uint32_t*>(take(padded));
    last = reinterpret_cast<std::uint32_t*>(take(padded));
    slope = take(padded);
    distance = take(padded);
    kernel = reinterpret_cast<std::uint8_t*>(next);
  }
};

// Writes a head's result over the whole cache to the op's output.
void finish_head(const Workspace& w, const plan::Attention& op, std::uint32_t head, const Partial& found, float* out) {
  float share = 1.0f / *found.total;
  if (op.sinks) {
    const float sink = w.vector(*op.sinks)[head];
    const float most = std::max(*found.largest, sink);
    share = std::exp(*found.largest - most) / (*found.total * std::exp(*found.largest - most) + std::exp(sink - most));
  }
  for (std::uint32_t d = 0; d < op.head_dim; ++d) out[d] = found.context[d] * share;
}

// The query rows of some tokens of one sequence and of the heads that share a KV head: [token][head].
class QueryRows {
 public:
  QueryRows(const Workspace& w, const plan::Attention& op, std::uint32_t kv_head, Run tokens, std::uint32_t thread)
      : w_(w),
        op_(op),
        kv_head_(kv_head),
        tokens_(tokens),
        heads_(heads_of(op, kv_head)),
        stride_(head_stride(op.head_dim)),
        cache_(w.cache(tokens.begin)),
        scratch_(w.scratch[thread].get(), std::size_t{tokens.n()} * heads_.n(), stride_) {
    float* q = scratch_.q;
    for_rows([&](std::uint32_t token, std::uint32_t head, std::size_t r) {
      if (op.alibi_max_bias > 0) scratch_.slope[r] = alibi_slope(op, head);
      const float* from = w.row(op.q, token) + std::size_t{head} * op.head_dim;
      for (std::uint32_t d = 0; d < op.head_dim; ++d) q[d] = from[d] * op.scale;
      std::fill(q + op.head_dim, q + stride_, 0.0f);
      q += stride_;
    });
  }

  // Keeps each row's result over one block, for Merge.
  void attend_block(std::uint32_t block) {
    run_block(block);
    const Partials partials(w_, op_);
    for_rows([&](std::uint32_t token, std::uint32_t head, std::size_t r) {
      const Partial out = partials.at(block, token, head);
      *out.largest = scratch_.largest[r];
      *out.total = scratch_.total[r];
      std::memcpy(out.context, scratch_.context + r * stride_, stride_ * sizeof(float));
    });
  }

  // Runs attention of the rows over all blocks that they see.
  void attend_all() {
    std::fill_n(scratch_.running_total, std::size_t{tokens_.n()} * heads_.n(), 0.0f);
    const auto running = [&](std::size_t r) {
      return Partial{scratch_.running_largest + r, scratch_.running_total + r, scratch_.running_context + r * stride_};
    };
    const Seen blocks = blocks_seen_by(w_.batch, op_, tokens_);
    for (std::uint32_t block = blocks.first; block < blocks.end; ++block) {
      run_block(block);
      for_rows([&](std::uint32_t, std::uint32_t, std::size_t r) {
        const Partial into = running(r);
        w_.kernels.merge(scratch_.largest[r], scratch_.total[r], scratch_.context + r * stride_, stride_, into.largest,
                         into.total, into.context);
      });
    }
    for_rows([&](std::uint32_t token, std::uint32_t head, std::size_t r) {
      finish_head(w_, op_, head, running(r), w_.row(op_.out, token) + std::size_t{head} * op_.head_dim);
    });
  }

 private:
  template <class Visit>
  void for_rows(const Visit& visit) const {
    std::size_t r = 0;
    for (std::uint32_t token = tokens_.begin; token < tokens_.end; ++token) {
      for (std::uint32_t head = heads_.begin; head < heads_.end; ++head) visit(token, head, r++);
    }
  }

  void run_block(std::uint32_t block) {
    const auto in_block = [&](std::uint32_t position) {
      return position < block * block_size ? 0 : std::min(position - block * block_size, block_size);
    };
    for_rows([&](std::uint32_t token, std::uint32_t, std::size_t r) {
      const Seen seen = seen_by(w_.batch, op_, token);
      scratch_.first[r] = in_block(seen.first);
      scratch_.last[r] = in_block(seen.end);
      if (op_.alibi_max_bias > 0) {
        scratch_.distance[r] = static_cast<float>(w_.batch.position(token)) - static_cast<float>(block * block_size);
      }
    });
    w_.kernels.attend({.q = scratch_.q,
                       .n_rows = std::size_t{tokens_.n()} * heads_.n(),
                       .head_stride = stride_,
                       .k = cache_.keys(block, op_.layer, kv_head_),
                       .v = cache_.values(block, op_.layer, kv_head_),
                       .f16 = cache_.f16(),
                       .first = scratch_.first,
                       .last = scratch_.last,
                       .largest = scratch_.largest,
                       .total = scratch_.total,
                       .context = scratch_.context,
                       .scratch = scratch_.kernel,
                       .soft_cap = op_.soft_cap,
                       .slope = op_.alibi_max_bias > 0 ? scratch_.slope : nullptr,
                       .distance = scratch_.distance});
  }

  const Workspace& w_;
  const plan::Attention& op_;
  std::uint32_t kv_head_;
  Run tokens_;
  Heads heads_;
  std::size_t stride_;
  const Cache& cache_;
  Scratch scratch_;
};

void load_key(const Cache& cache, const plan::Attention& op, std::uint32_t kv_head, std::uint32_t position,
              std::vector<float>& key) {
  const std::byte* row = cache.row({op.layer, kv_head, false}, position);
  quants::info(cache.f16() ? quants::Format::f16 : quants::Format::f32).decode(row, key.data(), key.size());
}

}  // namespace

std::uint32_t begin_stage(const Workspace& w, const AttentionStage& stage) {
  const auto& op = w.op<plan::Attention>(stage.op);
  if (!splits_cache(w.batch)) return op.n_kv_heads * n_tiles(op, w.batch);
  const Seen blocks = blocks_seen_by(w.batch, op, {0, w.batch.n_rows()});
  return op.n_kv_heads * (blocks.end - blocks.first);
}

void run_item(const Workspace& w, const AttentionStage& stage, std::uint32_t item, std::uint32_t thread) {
  const auto& op = w.op<plan::Attention>(stage.op);
  const std::uint32_t kv_head = item % op.n_kv_heads;
  item /= op.n_kv_heads;
  if (splits_cache(w.batch)) {
    const Run all{0, w.batch.n_rows()};
    QueryRows(w, op, kv_head, all, thread).attend_block(blocks_seen_by(w.batch, op, all).first + item);
  } else {
    // Late tokens see most of the cache, so they come first.
    QueryRows(w, op, kv_head, tile(op, w.batch, n_tiles(op, w.batch) - 1 - item), thread).attend_all();
  }
}

void run_row(const Workspace& w, const Merge& merge, std::uint32_t row) {
  if (!splits_cache(w.batch)) return;
  const auto& op = w.op<plan::Attention>(merge.op);
  const Partials partials(w, op);
  const Seen blocks = blocks_seen_by(w.batch, op, {row, row + 1});
  for (std::uint32_t head = 0; head < op.n_heads; ++head) {
    // Merges all partial results into that of the first visible block.
    const Partial into = partials.at(blocks.first, row, head);
    for (std::uint32_t block = blocks.first + 1; block < blocks.end; ++block) {
      const Partial part = partials.at(block, row, head);
      w.kernels.merge(*part.largest, *part.total, part.context, partials.stride, into.largest, into.total, into.context);
    }
    finish_head(w, op, head, into, w.row(op.out, row) + std::size_t{head} * op.head_dim);
  }
}

AttentionBytes attention_bytes(const Workspace& w) {
  AttentionBytes most;
  const bool splits = splits_cache(w.batch);
  for (const plan::Op& op : w.plan.ops) {
    const auto* attention = std::get_if<plan::Attention>(&op);
    if (attention == nullptr) continue;
    const std::uint32_t tokens = splits ? w.batch.n_rows() : std::min(w.batch.n_rows(), tile_tokens(*attention));
    const std::size_t rows = std::size_t{most_shared_heads(*attention)} * tokens;
    most.scratch = std::max(most.scratch, Scratch::bytes(rows, head_stride(attention->head_dim)));
    if (splits) most.partials = std::max(most.partials, Partials(w, *attention).bytes());
  }
  return most;
}

std::vector<float> attention_probs(const Workspace& w, const plan::Attention& op) {
  const std::size_t n_tokens = w.batch.n_rows(), n_positions = w.batch.longest;
  std::vector<float> probs(op.n_heads * n_tokens * n_positions, 0.0f);
  std::vector<float> key(op.head_dim);
  for (std::uint32_t head = 0; head < op.n_heads; ++head) {
    const auto kv_head = static_cast<std::uint32_t>(std::uint64_t{head} * op.n_kv_heads / op.n_heads);
    for (std::uint32_t token = 0; token < n_tokens; ++token) {
      const auto [first, end] = seen_by(w.batch, op, token);
      const float* q = w.row(op.q, token) + std::size_t{head} * op.head_dim;
      float* p = probs.data() + (head * n_tokens + token) * n_positions;
      float largest = -std::numeric_limits<float>::infinity();
      for (std::uint32_t s = first; s < end; ++s) {
        load_key(w.cache(token), op, kv_head, s, key);
        float score = 0;
        for (std::uint32_t d = 0; d < op.head_dim; ++d) score += q[d] * op.scale * key[d];
        if (op.soft_cap > 0) score = op.soft_cap * std::tanh(score / op.soft_cap);
        if (op.alibi_max_bias > 0) {
          score -= alibi_slope(op, head) * (static_cast<float>(w.batch.position(token)) - static_cast<float>(s));
        }
        p[s] = score;
        largest = std::max(largest, score);
      }
      if (op.sinks) largest = std::max(largest, w.vector(*op.sinks)[head]);
      float total = op.sinks ? std::exp(w.vector(*op.sinks)[head] - largest) : 0;
      for (std::uint32_t s = first; s < end; ++s) total += p[s] = std::exp(p[s] - largest);
      for (std::uint32_t s = first; s < end; ++s) p[s] /= total;
    }
  }
  return probs;
}

}  // namespace plumb::backends::cpu
