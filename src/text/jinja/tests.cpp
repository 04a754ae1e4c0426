#include "text/jinja/tests.h"

#include <algorithm>

#include "text/jinja/call.h"
#include "text/jinja/compare.h"
#include "text/jinja/filters.h"
#include "text/jinja/iterate.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/jinja/strings.h"

namespace plumb::text::jinja {

namespace {

void no_arguments(Arguments& arguments) { const Parameters given("this test", arguments, {}); }

Value only_argument(Arguments& arguments) {
  const Parameters given("this test", arguments, {"other"}, 1);
  return given[0];
}

template <Kind... kinds>
bool is_kind(Runtime&, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return (subject.is(kinds) || ...);
}

template <int remainder>
bool has_parity(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  const Value rest = arithmetic(runtime, Operator::modulo, subject, Value::integer(2));
  return equal(runtime, rest, Value::integer(remainder));
}

bool divisibleby(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("divisibleby", arguments, {"num"}, 1);
  return equal(runtime, arithmetic(runtime, Operator::modulo, subject, given[0]), Value::integer(0));
}

bool defined(Runtime&, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return !subject.is_undefined();
}

template <bool wanted>
bool is_boolean_value(Runtime&, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return subject.is(Kind::boolean) && subject.as_boolean() == wanted;
}

bool iterable(Runtime&, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return is_iterable(subject);
}

bool lower(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return is_lower_text(runtime, str(runtime, subject));
}

bool upper(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return is_upper_text(runtime, str(runtime, subject));
}

bool escaped(Runtime&, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return subject.is_string() && subject.string().marked;
}

// Numbers and strings have no identity here: equal ones of the same type count as the same.
bool sameas(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Value other = only_argument(arguments);
  if (subject.kind() != other.kind()) return false;
  if (subject.is_number() || subject.is_string() || subject.is_none()) return equal(runtime, subject, other);
  return subject.object() == other.object();
}

bool is_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (!subject.is_string()) hash_of(runtime, subject);
  return subject.is_string() && find_filter(subject.text()) != nullptr;
}

bool is_test(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (!subject.is_string()) hash_of(runtime, subject);
  return subject.is_string() && find_test(subject.text()) != nullptr;
}

bool in(Runtime& runtime, const Value& subject, Arguments& arguments) {
  return contains(runtime, only_argument(arguments), subject);
}

bool eq(Runtime& runtime, const Value& subject, Arguments& arguments) {
  return equal(runtime, subject, only_argument(arguments));
}

bool ne(Runtime& runtime, const Value& subject, Arguments& arguments) {
  return !equal(runtime, subject, only_argument(arguments));
}

bool lt(Runtime& runtime, const Value& subject, Arguments& arguments) {
  return less(runtime, subject, only_argument(arguments));
}

bool le(Runtime& runtime, const Value& subject, Arguments& arguments) {
  return less_or_equal(runtime, subject, only_argument(arguments));
}

bool gt(Runtime& runtime, const Value& subject, Arguments& arguments) {
  return less(runtime, only_argument(arguments), subject, ">");
}

bool ge(Runtime& runtime, const Value& subject, Arguments& arguments) {
  return less_or_equal(runtime, only_argument(arguments), subject, ">=");
}

struct Entry {
  std::string_view name;
  Test test;
};

constexpr Entry tests[] = {
    {"!=", ne},
    {"<", lt},
    {"<=", le},
    {"==", eq},
    {">", gt},
    {">=", ge},
    {"boolean", is_kind<Kind::boolean>},
    {"callable", is_kind<Kind::callable, Kind::loop, Kind::undefined>},
    {"defined", defined},
    {"divisibleby", divisibleby},
    {"eq", eq},
    {"equalto", eq},
    {"escaped", escaped},
    {"even", has_parity<0>},
    {"false", is_boolean_value<false>},
    {"filter", is_filter},
    {"float", is_kind<Kind::real>},
    {"ge", ge},
    {"greaterthan", gt},
    {"gt", gt},
    {"in", in},
    {"integer", is_kind<Kind::integer, Kind::large>},
    {"iterable", iterable},
    {"le", le},
    {"lessthan", lt},
    {"lower", lower},
    {"lt", lt},
    {"mapping", is_kind<Kind::dict>},
    {"ne", ne},
    {"none", is_kind<Kind::none>},
    {"number", is_kind<Kind::boolean, Kind::integer, Kind::large, Kind::real>},
    {"odd", has_parity<1>},
    {"sameas", sameas},
    {"sequence", is_kind<Kind::undefined, Kind::string, Kind::list, Kind::tuple, Kind::dict, Kind::range>},
    {"string", is_kind<Kind::string>},
    {"test", is_test},
    {"true", is_boolean_value<true>},
    {"undefined", is_kind<Kind::undefined>},
    {"upper", upper},
};

}  // namespace

Test find_test(std::string_view name) {
  const auto* const found = std::ranges::find(tests, name, &Entry::name);
  return found == std::end(tests) ? nullptr : found->test;
}

void fail_test(std::string_view name) { raise("No test named {}.", quoted(name)); }

}  // namespace plumb::text::jinja
