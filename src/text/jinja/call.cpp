#include "text/jinja/call.h"

#include <algorithm>

#include "text/jinja/compare.h"
#include "text/jinja/loop.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"

namespace plumb::text::jinja {

Parameters::Parameters(const char* function, Arguments& arguments, std::initializer_list<const char*> names,
                       std::size_t required)
    : function_(function) {
  if (arguments.positional.size() > names.size()) {
    raise("{}() takes at most {} argument{} ({} given)", function, names.size(), names.size() == 1 ? "" : "s",
          arguments.positional.size());
  }
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = std::move(arguments.positional[i]);
  for (auto& [key, value] : arguments.named) {
    const auto* const found = std::ranges::find_if(names, [&wanted = key](const char* name) { return wanted == name; });
    if (found == names.end() || key.empty())
      raise("{}() got an unexpected keyword argument {}", function, jinja::quoted(key));
    auto& slot = values_[static_cast<std::size_t>(found - names.begin())];
    if (slot) raise("{}() got multiple values for argument {}", function, jinja::quoted(key));
    slot = std::move(value);
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (!values_[i]) raise("{}() misses a required argument (number {})", function, i + 1);
  }
}

bool Parameters::flag(Runtime& runtime, std::size_t index, bool otherwise) const {
  return values_[index] ? truth(runtime, *values_[index]) : otherwise;
}

std::int64_t Parameters::integer(std::size_t index, std::int64_t otherwise) const {
  return values_[index] ? index_value(*values_[index], function_) : otherwise;
}

Value call(Runtime& runtime, const Value& callee, Arguments& arguments) {
  const DepthGuard guard(runtime);
  if (callee.is(Kind::callable)) return callee.callable().call(runtime, arguments);
  if (callee.is_undefined()) fail_undefined(callee);
  if (callee.is(Kind::loop)) {
    Loop& loop = callee.loop();
    if (!loop.recurse) raise("The loop must have the 'recursive' marker to be called recursively.");
    const Parameters given("loop", arguments, {"iterable"}, 1);
    return loop.recurse(runtime, given[0], loop.nesting() + 1);
  }
  raise("'{}' object is not callable", type_name(callee));
}

}  // namespace plumb::text::jinja
