// The `loop` variable of one running {% for %}.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

class Loop : public Object {
 public:
  Loop(Budget& budget, Value iterable, std::shared_ptr<Iterator> source, std::int64_t depth0);

  bool advance(Runtime& runtime);  // to the next item; false at the end
  const Value& current() const { return current_; }
  std::int64_t index0() const { return index0_; }
  std::int64_t length(Runtime& runtime);
  std::int64_t nesting() const { return depth0_; }
  std::optional<Value> attribute(Runtime& runtime, const Value& self, std::string_view name);
  bool changed(Runtime& runtime, std::vector<Value> values);

  // Runs the loop's body over another iterable; set for recursive loops.
  std::function<Value(Runtime&, const Value& iterable, std::int64_t depth0)> recurse;

 private:
  bool peek(Runtime& runtime);

  Value iterable_;
  std::shared_ptr<Iterator> source_;
  std::int64_t depth0_;
  std::int64_t index0_ = -1;
  std::optional<std::int64_t> length_;
  Value current_;
  Value previous_;
  std::optional<Value> after_;
  std::optional<Value> last_changed_;
};

}  // namespace plumb::text::jinja
