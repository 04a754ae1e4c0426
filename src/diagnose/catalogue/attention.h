// Shared by the families of attention and of its cache.
#pragma once

#include <string>
#include <utility>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

// Attention with a part of its rule changed.
inline void with_rule(Candidates& out, const plan::Attention& op, std::string detail,
                      std::function<void(const Site&, backends::reference::AttentionRule&)> change) {
  out.add(std::move(detail), [op, change = std::move(change)](const Site& site) {
    backends::reference::AttentionRule rule = attention_rule(op, site.scene);
    change(site, rule);
    return backends::reference::attend(op, rule, site.scene);
  });
}

// A Scene's key or cached_value: the rows of a value of the run.
inline auto rows_of_value(const Site& site, plan::ValueId id) {
  return [values = site.replay.value(id), width = site.scene.plan->value(id).width](
             std::uint32_t, std::uint64_t, std::uint32_t s) { return values->data() + s * width; };
}

}  // namespace plumb::diagnose::families
