// Memory: mistakes in what an op writes to its output.
#include <algorithm>
#include <limits>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

void add_buffer_faults(const Add& add) {
  add("nothing written", any, each([](float) { return 0.0f; }), {"buffer-zero"});
  add("the last columns not written", any, then([](Floats& y, std::size_t width, const Op&) {
        for (std::size_t i = 0; i < y.size(); ++i) y[i] = i % width >= width - width / 8 ? 0 : y[i];
      }),
      {"buffer-partly-written"});
  add("the last row not written", any, then([](Floats& y, std::size_t width, const Op& op) {
        if (op.rows > 1) std::fill(y.end() - static_cast<std::ptrdiff_t>(width), y.end(), 0.0f);
      }),
      {"buffer-partly-written"});
  add("a part that is no number", {"attn_v", "ffn_act"}, then([](Floats& y, std::size_t width, const Op&) {
        for (std::size_t i = 0; i < y.size(); ++i) {
          if (i % width < 5) y[i] = std::numeric_limits<float>::quiet_NaN();
        }
      }),
      {"buffer-uninitialized"});
  add("rows shifted by one", any, then([](Floats& y, std::size_t width, const Op&) {
        std::rotate(y.begin(), y.end() - static_cast<std::ptrdiff_t>(width), y.end());
      }),
      {"buffer-row-shifted", "embedding-other-tokens"});
  add("columns shifted by two", any, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t t = 0; t < op.rows; ++t) {
          const auto row = y.begin() + static_cast<std::ptrdiff_t>(t * width);
          std::rotate(row, row + 2, row + static_cast<std::ptrdiff_t>(width));
        }
      }),
      {"buffer-column-shifted"});
  add("the layer before's output", {"attn_v", "ffn_act", "attn_ctx", "ffn_norm"},
      [](const Engine& e, const Op& op) { return op.layer == 0 ? Floats() : e.value(blk(op.layer - 1, op.role), op.step); },
      {"buffer-stale"});
  add("the prompt's output in all later steps", {"attn_v", "ffn_act", "attn_ctx", "ffn_norm"},
      [](const Engine& e, const Op& op) {
        Floats y = e.value(blk(op.layer, op.role), 0);
        if (op.step == 0 || y.empty()) return Floats();
        y.resize(e.plain(op).size());
        return y;
      },
      {"buffer-stale"});
  add("another op's output", {"ffn_down", "attn_out"},
      [](const Engine& e, const Op& op) {
        return e.value(blk(op.layer, op.role == "ffn_down" ? "ffn_norm" : "attn_norm"), op.step);
      },
      {"buffer-aliased"});
  add("added to the step before's", {"attn_v", "ffn_down", "ffn_up"},
      [](const Engine& e, const Op& op) {
        Floats y = e.plain(op);
        const Floats before = op.step == 0 ? Floats() : e.value(blk(op.layer, op.role), op.step - 1);
        for (std::size_t i = 0; !before.empty() && i < y.size(); ++i) y[i] += before[before.size() - y.size() + i];
        return before.empty() ? before : y;
      },
      {"buffer-not-cleared"});
  add("up added to gate", {"ffn_up"},
      [](const Engine& e, const Op& op) {
        Floats y = e.plain(op);
        const Floats gate = e.value(blk(op.layer, "ffn_gate"), op.step);
        for (std::size_t i = 0; i < y.size(); ++i) y[i] += gate[i];
        return y;
      },
      {"buffer-not-cleared"});
  add("a step's output a step late", {"attn_v", "ffn_act", "attn_ctx", "ffn_norm"},
      [](const Engine& e, const Op& op) { return op.step == 2 ? e.value(blk(op.layer, op.role), 1) : Floats(); },
      {"buffer-stale"});
  add("the last columns left from the step before", {"ffn_act", "attn_ctx", "ffn_down"},
      [](const Engine& e, const Op& op) {
        if (op.step == 0) return Floats();
        Floats y = e.plain(op);
        const Floats before = e.value(blk(op.layer, op.role), op.step - 1);
        for (std::size_t i = y.size() - y.size() / 4; i < y.size(); ++i) y[i] = before[before.size() - y.size() + i];
        return y;
      },
      {"buffer-partly-written"});
  add("tokens counted from the end", {"attn_v", "ffn_act", "ffn_norm", "attn_ctx"},
      then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t t = 0; 2 * t < op.rows; ++t) {
          for (std::size_t i = 0; i < width; ++i) std::swap(y[t * width + i], y[(op.rows - 1 - t) * width + i]);
        }
      }),
      {"buffer-rows-exchanged"});
  add("two tokens exchanged", {"attn_v", "ffn_act", "ffn_norm"}, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t i = 0; op.rows > 3 && i < width; ++i) std::swap(y[width + i], y[3 * width + i]);
      }),
      {"buffer-rows-exchanged"});
  add("columns counted from the end", {"ffn_down", "ffn_act"}, then([](Floats& y, std::size_t width, const Op&) {
        for (auto row = y.begin(); row != y.end(); row += static_cast<std::ptrdiff_t>(width))
          std::reverse(row, row + static_cast<std::ptrdiff_t>(width));
      }),
      {"buffer-columns-exchanged"});
  add("a tile written twice", {"ffn_down", "ffn_act", "attn_out"}, then([](Floats& y, std::size_t width, const Op&) {
        for (std::size_t i = 0; i < y.size(); ++i) {
          if (i % width >= width - 16) y[i] = y[i - 16];
        }
      }),
      {"buffer-columns-exchanged"});
}

}  // namespace plumb::diagnose::planted
