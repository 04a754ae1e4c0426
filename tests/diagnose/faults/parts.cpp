#include "diagnose/faults/parts.h"

#include <fmt/format.h>

#include <utility>

namespace plumb::diagnose::planted {

const Names products{"attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down"};
const Names any{"token_embd", "attn_norm", "attn_v", "attn_k_rope", "attn_ctx", "attn_resid", "ffn_act", "ffn_down"};

Make each(float (*change)(float)) {
  return [change](const Engine& engine, const Op& op) {
    Floats y = engine.plain(op);
    for (float& v : y) v = change(v);
    return y;
  };
}

Make then(std::function<void(Floats& y, std::size_t width, const Op& op)> change) {
  return [change = std::move(change)](const Engine& engine, const Op& op) {
    Floats y = engine.plain(op);
    change(y, y.size() / op.rows, op);
    return y;
  };
}

Make with(std::function<void(const Engine&, Op&)> change) {
  return [change = std::move(change)](const Engine& engine, Op op) {
    change(engine, op);
    return engine.plain(op);
  };
}

Make weights(std::function<Floats(const Op&)> read) {
  return [read = std::move(read)](const Engine& engine, Op op) {
    Floats w = read(op);
    if (w.size() != op.w.data.size()) return Floats();
    op.w.data = std::move(w);
    return engine.plain(op);
  };
}

std::string blk(std::size_t layer, std::string_view rest) { return fmt::format("blk.{}.{}", layer, rest); }

const std::vector<Plant>& faults() {
  static const std::vector<Plant> all = [] {
    std::vector<Plant> result;
    for (const auto family : {add_embedding_faults, add_norm_faults, add_logits_faults, add_product_faults,
                              add_quantization_faults, add_rope_faults, add_attention_faults, add_feed_forward_faults,
                              add_precision_faults, add_buffer_faults, add_unknown_faults}) {
      family([&](std::string name, Names roles, Make make, Causes causes) {
        result.push_back({std::move(name), std::move(roles), std::move(make), std::move(causes)});
      });
    }
    return result;
  }();
  return all;
}

}  // namespace plumb::diagnose::planted
