// The cache that attention reads: whose keys and values it has, and which of them attention sees.
#include <fmt/format.h>

#include <algorithm>

#include "diagnose/catalogue/attention.h"

namespace plumb::diagnose::families {

namespace in_cache {
namespace {

using backends::reference::AttentionRule;

// The part of the cache with the mistake.
enum class Part : std::uint8_t { both, keys, values };
constexpr std::pair<Part, std::string_view> parts[] = {
    {Part::both, "keys and values"}, {Part::keys, "keys"}, {Part::values, "values"}};

// A slot of the cache as a row reads it.
struct Slot {
  const Site& site;
  std::uint64_t row = 0;
  std::uint32_t s = 0;

  [[nodiscard]] StepRows step() const { return site.step(row); }
  [[nodiscard]] std::uint32_t n_prompt() const { return site.replay.n_prompt(); }
  [[nodiscard]] std::uint32_t cached() const { return site.scene.cached(row); }
};

// The position whose key and value are found in a slot; negative: none, the slot is zero.
using PositionIn = std::function<std::int64_t(const Slot& slot)>;

Scene with_positions(const Site& site, const plan::Attention& op, Part part, const PositionIn& at) {
  Scene scene = site.scene;
  const auto zero = std::make_shared<const std::vector<float>>(op.n_kv_heads * op.head_dim, 0.0f);
  const auto moved = [&](auto right) {
    return [right, at, zero, &site](std::uint32_t layer, std::uint64_t row, std::uint32_t s) {
      const std::int64_t from = at({site, row, s});
      return from < 0 ? zero->data() : right(layer, row, static_cast<std::uint32_t>(from));
    };
  };
  if (part != Part::values) scene.key = moved(site.scene.key);
  if (part != Part::keys) scene.cached_value = moved(site.scene.cached_value);
  return scene;
}
void add_moved(Candidates& out, const plan::Attention& op, std::string detail, Part part, PositionIn at) {
  out.add(std::move(detail), [op, part, at = std::move(at)](const Site& site) {
    return site.compute(op, with_positions(site, op, part, at));
  });
}
// Attention that sees a slot only if it is kept.
void add_seen(Candidates& out, const plan::Attention& op, std::string detail, std::function<bool(const Slot&)> keep) {
  with_rule(out, op, std::move(detail), [keep = std::move(keep)](const Site& site, AttentionRule& rule) {
    rule.sees = [right = rule.sees, keep, &site](std::uint64_t row, std::uint32_t s) {
      return right(row, s) && keep({site, row, s});
    };
  });
}

// The layers whose cache could be read in place of the right one: the layer before and the first, or, where the op's own
// layer keeps nothing, any before it. Only earlier ones: while the prompt runs, a later layer's keys and values do not
// exist yet.
std::vector<std::uint32_t> other_caches(const Question& q, const plan::Attention& op) {
  const std::vector<plan::LayerCache>& kept = q.plan().cache.layers;
  const std::uint32_t own = layer_of(q.plan().value(q.out()).name).value_or(op.layer);
  std::vector<std::uint32_t> layers;
  for (std::uint32_t layer = std::max(own, op.layer + 1); layer-- > 0;) {
    const bool fits = q.replay.has_cache(layer) && kept[layer] == kept[op.layer];
    if (layer != op.layer && fits) layers.push_back(layer);
  }
  if (own == op.layer && layers.size() > 2) layers = {layers.front(), layers.back()};
  return layers;
}

void other_layer(const Question& q, const plan::Attention& op, Candidates& out) {
  for (const std::uint32_t layer : other_caches(q, op)) {
    for (const auto& [part, name] : parts) {
      out.reading(fmt::format("{} of layer {}", name, layer), [layer, part = part](const Site& site, Scene& scene) {
        const plan::KvWrite& write = site.replay.kv_write(layer);
        if (part != Part::values) scene.key = rows_of_value(site, write.k);
        if (part != Part::keys) scene.cached_value = rows_of_value(site, write.v);
      });
    }
  }
}

void position(const Question&, const plan::Attention& op, Candidates& out) {
  for (const bool around : {false, true}) {
    for (const int by : {1, -1}) {
      for (const auto& [part, name] : parts) {
        add_moved(out, op,
                  fmt::format("{} of position s {:+d} at s{}", name, by, around ? ", the last one's at the other end" : ""),
                  part, [by, around](const Slot& slot) {
                    const std::int64_t n = around ? slot.step().end : slot.cached();
                    const std::int64_t at = around ? (std::int64_t{slot.s} + by + n) % n : std::int64_t{slot.s} + by;
                    return at < n ? at : -1;
                  });
      }
    }
  }
}

void lost(const Question& q, const plan::Attention& op, Candidates& out) {
  const auto seen = [&](std::string detail, auto keep) { add_seen(out, op, std::move(detail), keep); };
  seen("a step sees its own tokens only", [](const Slot& slot) { return slot.s >= slot.step().begin; });
  seen("steps after the prompt see the prompt and themselves only",
       [](const Slot& slot) { return slot.s < slot.n_prompt() || slot.s >= slot.step().begin; });
  // Mistakes in the steps after the prompt.
  const auto seen_later = [&](std::string detail, bool (*keep)(std::uint32_t n, std::uint32_t s)) {
    seen(std::move(detail), [keep](const Slot& slot) { return slot.step().begin == 0 || keep(slot.n_prompt(), slot.s); });
  };
  seen_later("steps after the prompt see the prompt only", [](std::uint32_t n, std::uint32_t s) { return s < n; });
  seen_later("steps after the prompt do not see the prompt", [](std::uint32_t n, std::uint32_t s) { return s >= n; });
  seen("the first position is never seen", [](const Slot& slot) { return slot.s > 0; });
  seen_later("the prompt's last position is never seen after it",
             [](std::uint32_t n, std::uint32_t s) { return s + 1 != n; });
  for (std::uint32_t batch = 2; batch < q.replay.rows().size(); batch *= 2) {
    seen(fmt::format("a part of {} tokens sees nothing of the parts before it", batch),
         [batch](const Slot& slot) { return slot.s / batch == slot.site.scene.rows[slot.row].position / batch; });
  }
}

// A step after the prompt writes to a wrong slot.
void slot(const Question& q, const plan::Attention& op, Candidates& out) {
  const std::uint32_t n = q.replay.n_prompt();
  // at: gives the slot for a row after the prompt, from the number of cached positions, its own included.
  const auto add = [&](std::string detail, std::function<std::int64_t(std::uint32_t s, std::uint32_t cached)> at) {
    add_moved(out, op, std::move(detail), Part::both, [n, at = std::move(at)](const Slot& slot) {
      return slot.cached() > n ? at(slot.s, slot.cached()) : std::int64_t{slot.s};
    });
  };
  add("a step after the prompt writes one slot early, over the token before it",
      [n](std::uint32_t s, std::uint32_t cached) -> std::int64_t {
        if (s + 1 < n) return s;
        return s + 1 < cached ? std::int64_t{s} + 1 : -1;
      });
  out.add("a step after the prompt writes one slot early, and its last slot is not read", [op, n](const Site& site) {
    const auto is_early = [&](std::uint64_t row) { return site.scene.cached(row) > n; };
    const Scene scene = with_positions(site, op, Part::both, [&](const Slot& slot) -> std::int64_t {
      return is_early(slot.row) && slot.s + 2 == slot.cached() ? slot.s + 1 : slot.s;
    });
    AttentionRule rule = attention_rule(op, scene);
    rule.sees = [&, right = rule.sees](std::uint64_t row, std::uint32_t s) {
      return right(row, s) && (!is_early(row) || s + 1 < site.scene.cached(row));
    };
    return backends::reference::attend(op, rule, scene);
  });
  add("all steps after the prompt write the same slot", [n](std::uint32_t s, std::uint32_t cached) -> std::int64_t {
    if (s < n) return s;
    return s == n ? std::int64_t{cached} - 1 : -1;
  });
  add("steps after the prompt write from slot 0 again", [n](std::uint32_t s, std::uint32_t cached) -> std::int64_t {
    return s < cached - n ? std::int64_t{s} + n : s < n ? std::int64_t{s} : -1;
  });
  add("a step after the prompt does not write the cache",
      [n](std::uint32_t s, std::uint32_t) -> std::int64_t { return s >= n ? -1 : std::int64_t{s}; });
  add("each step after the prompt writes slot 0, too",
      [](std::uint32_t s, std::uint32_t cached) -> std::int64_t { return s == 0 ? cached - 1 : s; });
  add("the prompt's last token was overwritten by the one after it",
      [n](std::uint32_t s, std::uint32_t) -> std::int64_t { return s + 1 == n ? n : s; });
}

// One position of the cache that is empty, or has another position's key and value.
void one_slot(const Question& q, const plan::Attention& op, Candidates& out) {
  constexpr std::size_t most_positions = 96;  // the search is over all of them
  if (q.found.empty() || q.replay.rows().size() > most_positions) return;
  // Rows before the slot do not see it; the last faulty row sees all slots that matter.
  const std::int64_t last = q.rows.empty() ? std::int64_t(q.replay.rows().size()) : std::int64_t{q.rows.back()};
  for (std::int64_t slot = 0; slot <= last; ++slot) {
    for (const std::int64_t from : std::set<std::int64_t>{-1, 0, slot - 1, slot + 1}) {
      if (from < -1 || from == slot || from > last) continue;
      add_moved(out, op,
                from < 0 ? fmt::format("slot {} is zero", slot) : fmt::format("slot {} holds position {}", slot, from),
                Part::both, [slot, from](const Slot& at) {
                  return at.s != slot ? std::int64_t{at.s} : from < at.cached() ? from : -1;
                });
    }
    add_seen(out, op, fmt::format("slot {} is not seen", slot),
             [slot](const Slot& at) { return at.s != slot || at.s == at.site.scene.rows[at.row].position; });
  }
}

constexpr Hypothesis table[] = {
    {"cache-other-layer", Kind::cache, of<other_layer>, R"(attention reads another layer's cache
The layer's offset into the cache is off, or, where layers share an earlier layer's cache, it is not the one that they share.
index the cache by the layer that wrote it)"},
    {"cache-position", Kind::cache, of<position>, R"(cached keys lie at other positions
The slot that is read is off by one from the slot that is written.
read and write slot = position)"},
    {"cache-lost", Kind::cache, of<lost>, R"(cached positions are not seen
The cache is cleared, or its length not passed on, between steps or between the parts of a long prompt.
carry the cache's length from step to step)"},
    {"cache-slot", Kind::cache, of<slot>, R"(steps after the prompt write the wrong slot
The write index does not follow the number of tokens.
write at slot = position)"},
    {"cache-one-slot", Kind::cache, of<one_slot>, R"(one position of the cache is not what was written
It was overwritten, never written, or is skipped: its neighbours are right.
look at what else writes at this position's offset)"},
};

}  // namespace
}  // namespace in_cache

std::span<const Hypothesis> cache() { return in_cache::table; }

}  // namespace plumb::diagnose::families
