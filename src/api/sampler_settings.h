// The sampler's settings have the same names in plumb/plumb.h, plumb/plumb_c.h and the engine. This is the list of them.
#pragma once

namespace plumb::api {

// Calls visit with each setting of `one` and the same setting of `other`.
template <class One, class Other, class Visit>
void each_sampler_setting(One& one, Other& other, const Visit& visit) {
  visit(one.temperature, other.temperature);
  visit(one.top_k, other.top_k);
  visit(one.top_p, other.top_p);
  visit(one.min_p, other.min_p);
  visit(one.repeat_penalty, other.repeat_penalty);
  visit(one.repeat_last_n, other.repeat_last_n);
  visit(one.presence_penalty, other.presence_penalty);
  visit(one.frequency_penalty, other.frequency_penalty);
}

}  // namespace plumb::api
