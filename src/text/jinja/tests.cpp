#include "text/jinja/tests.h"

#include "text/jinja/compare.h"
#include "text/jinja/iterate.h"
#include "text/jinja/methods.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"

namespace plumb::text::jinja {

namespace {

template <Kind... kinds>
Value is_kind(Runtime&, const Value& subject, Parameters&) {
  return Value::boolean((subject.is(kinds) || ...));
}

bool leaves(Runtime& runtime, const Value& number, const Value& divisor, std::int64_t remainder) {
  return equal(runtime, arithmetic(runtime, Operator::modulo, number, divisor), Value::integer(remainder));
}

template <std::int64_t remainder>
Value has_parity(Runtime& runtime, const Value& subject, Parameters&) {
  return Value::boolean(leaves(runtime, subject, Value::integer(2), remainder));
}

Value divisibleby(Runtime& runtime, const Value& subject, Parameters& given) {
  return Value::boolean(leaves(runtime, subject, given[0], 0));
}

Value defined(Runtime&, const Value& subject, Parameters&) { return Value::boolean(!subject.is_undefined()); }

template <bool wanted>
Value is_boolean_value(Runtime&, const Value& subject, Parameters&) {
  return Value::boolean(subject.is(Kind::boolean) && subject.as_boolean() == wanted);
}

Value iterable(Runtime&, const Value& subject, Parameters&) { return Value::boolean(is_iterable(subject)); }

Value lower(Runtime& runtime, const Value& subject, Parameters&) {
  return call_method(runtime, runtime.string(str(runtime, subject)), "islower");
}

Value upper(Runtime& runtime, const Value& subject, Parameters&) {
  return call_method(runtime, runtime.string(str(runtime, subject)), "isupper");
}

Value escaped(Runtime&, const Value& subject, Parameters&) {
  return Value::boolean(subject.is_string() && subject.string().marked);
}

// Numbers and strings have no identity here: equal ones of the same type count as the same.
Value sameas(Runtime& runtime, const Value& subject, Parameters& given) {
  const Value& other = given[0];
  if (subject.kind() != other.kind()) return Value::boolean(false);
  const bool plain = subject.is_number() || subject.is_string() || subject.is_none();
  return Value::boolean(plain ? equal(runtime, subject, other) : subject.object() == other.object());
}

template <Comparison comparison>
Value compares(Runtime& runtime, const Value& subject, Parameters& given) {
  return Value::boolean(compare(runtime, comparison, subject, given[0]));
}

constexpr Builtin tests[] = {
    {"boolean", is_kind<Kind::boolean>},
    {"callable", is_kind<Kind::callable, Kind::loop, Kind::undefined>},
    {"defined", defined},
    {"divisibleby", divisibleby, {"num"}, 1},
    {"eq", compares<Comparison::equal>, {""}, 1},
    {"equalto", compares<Comparison::equal>, {""}, 1},
    {"==", compares<Comparison::equal>, {""}, 1},
    {"escaped", escaped},
    {"even", has_parity<0>},
    {"false", is_boolean_value<false>},
    {"float", is_kind<Kind::real>},
    {"ge", compares<Comparison::greater_or_equal>, {""}, 1},
    {">=", compares<Comparison::greater_or_equal>, {""}, 1},
    {"gt", compares<Comparison::greater>, {""}, 1},
    {"greaterthan", compares<Comparison::greater>, {""}, 1},
    {">", compares<Comparison::greater>, {""}, 1},
    {"in", compares<Comparison::in>, {""}, 1},
    {"integer", is_kind<Kind::integer, Kind::large>},
    {"iterable", iterable},
    {"le", compares<Comparison::less_or_equal>, {""}, 1},
    {"<=", compares<Comparison::less_or_equal>, {""}, 1},
    {"lower", lower},
    {"lt", compares<Comparison::less>, {""}, 1},
    {"lessthan", compares<Comparison::less>, {""}, 1},
    {"<", compares<Comparison::less>, {""}, 1},
    {"mapping", is_kind<Kind::dict>},
    {"ne", compares<Comparison::unequal>, {""}, 1},
    {"!=", compares<Comparison::unequal>, {""}, 1},
    {"none", is_kind<Kind::none>},
    {"number", is_kind<Kind::boolean, Kind::integer, Kind::large, Kind::real>},
    {"odd", has_parity<1>},
    {"sameas", sameas, {"other"}, 1},
    {"sequence", is_kind<Kind::undefined, Kind::string, Kind::list, Kind::tuple, Kind::dict, Kind::range>},
    {"string", is_kind<Kind::string>},
    {"true", is_boolean_value<true>},
    {"undefined", is_kind<Kind::undefined>},
    {"upper", upper},
};

}  // namespace

bool is_test(std::string_view name) { return find_builtin(tests, name) != nullptr || name == "filter" || name == "test"; }

const Builtin& find_test(std::string_view name) {
  if (const Builtin* found = find_builtin(tests, name)) return *found;
  if (!is_test(name)) raise("No test named {}.", quoted(name));
  raise("the test '{}' is not supported", name);
}

}  // namespace plumb::text::jinja
