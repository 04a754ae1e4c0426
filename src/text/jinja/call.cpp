#include "text/jinja/call.h"

#include <algorithm>

#include "text/jinja/compare.h"
#include "text/jinja/loop.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"

namespace plumb::text::jinja {

const Builtin* find_builtin(std::span<const Builtin> table, std::string_view name) {
  const auto found = std::ranges::find(table, name, &Builtin::name);
  return found == table.end() ? nullptr : &*found;
}

Value invoke(Runtime& runtime, const Builtin& builtin, const Value& subject, Arguments& arguments) {
  Parameters given(builtin, arguments);
  return builtin.function(runtime, subject, given);
}

Parameters::Parameters(const Builtin& function, Arguments& arguments) : function_(function), arguments_(arguments) {
  const auto end = std::ranges::find(function.parameters, nullptr);
  const std::span names(function.parameters.begin(), end);
  if (!names.empty() && names[0] == std::string_view("*")) return;
  if (arguments.positional.size() > names.size()) {
    raise("{}() takes at most {} argument{} ({} given)", function.name, names.size(), names.size() == 1 ? "" : "s",
          arguments.positional.size());
  }
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = std::move(arguments.positional[i]);
  for (auto& [key, value] : arguments.named) {
    const auto found = std::ranges::find_if(names, [&wanted = key](const char* name) { return wanted == name; });
    if (found == names.end() || key.empty()) {
      raise("{}() got an unexpected keyword argument {}", function.name, jinja::quoted(key));
    }
    auto& slot = values_[static_cast<std::size_t>(found - names.begin())];
    if (slot) raise("{}() got multiple values for argument {}", function.name, jinja::quoted(key));
    slot = std::move(value);
  }
  for (std::size_t i = 0; i < function.required; ++i) {
    if (!values_[i]) raise("{}() misses a required argument (number {})", function.name, i + 1);
  }
}

bool Parameters::flag(Runtime& runtime, std::size_t index, bool otherwise) const {
  return values_[index] ? truth(runtime, *values_[index]) : otherwise;
}

std::int64_t Parameters::integer(std::size_t index, std::int64_t otherwise) const {
  return values_[index] ? index_value(*values_[index], function_.name) : otherwise;
}

const std::string& Parameters::text(std::size_t index) const {
  const Value& value = *values_[index];
  if (!value.is_string()) raise("{}() argument {} must be str, not {}", function_.name, index + 1, type_name(value));
  return value.text();
}

Value call(Runtime& runtime, const Value& callee, Arguments& arguments) {
  const DepthGuard guard(runtime);
  if (callee.is(Kind::callable)) return callee.callable().call(runtime, arguments);
  if (callee.is_undefined()) fail_undefined(callee);
  if (callee.is(Kind::loop)) {
    constexpr static Builtin loop_call{"loop", nullptr, {"iterable"}, 1};
    Loop& loop = callee.loop();
    if (!loop.recurse) raise("The loop must have the 'recursive' marker to be called recursively.");
    return loop.recurse(runtime, Parameters(loop_call, arguments)[0], loop.nesting() + 1);
  }
  raise("'{}' object is not callable", type_name(callee));
}

}  // namespace plumb::text::jinja
