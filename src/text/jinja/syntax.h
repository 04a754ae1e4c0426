// The parsed template: a tree of expressions and statements.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja/compare.h"
#include "text/jinja/number.h"

namespace plumb::text::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr spread;        // *x
  ExpressionPtr named_spread;  // **x
};

struct Constant {
  std::variant<std::monostate, bool, std::int64_t, double, std::string> value;  // monostate: None
};
struct Name {
  std::string name;
};
struct ListOf {
  std::vector<ExpressionPtr> items;
  bool tuple = false;
};
struct DictOf {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
};
struct Attribute {
  ExpressionPtr object;
  std::string name;
};
struct Subscript {
  ExpressionPtr object, key;
};
struct Slice {
  ExpressionPtr object, start, stop, step;  // the last three may be null
};
struct Call {
  ExpressionPtr callee;
  CallArguments arguments;
};
struct FilterCall {
  ExpressionPtr subject;  // null: the text of a filter block
  std::string name;
  CallArguments arguments;
};
struct TestCall {
  ExpressionPtr subject;
  std::string name;
  CallArguments arguments;
  bool negated = false;
};
// first op second op third …, from left to right.
struct Arithmetic {
  ExpressionPtr first;
  std::vector<std::pair<Operator, ExpressionPtr>> rest;
};
struct Concatenation {
  std::vector<ExpressionPtr> items;
};
// a < b < c: every neighbouring pair holds.
struct Compare {
  ExpressionPtr first;
  std::vector<std::pair<Comparison, ExpressionPtr>> rest;
};
struct Logic {
  bool conjunction = false;  // and; else or
  std::vector<ExpressionPtr> items;
};
struct Unary {
  enum class Kind : std::uint8_t { negate, plus, logical_not } kind = Kind::negate;
  ExpressionPtr operand;
};
struct Conditional {
  ExpressionPtr condition, then, otherwise;  // otherwise may be null
};

struct Expression {
  std::uint32_t line = 0;
  std::variant<Constant, Name, ListOf, DictOf, Attribute, Subscript, Slice, Call, FilterCall, TestCall, Arithmetic,
               Concatenation, Compare, Logic, Unary, Conditional>
      node;
};

// The target of an assignment: a name, an attribute of a namespace, or several of them.
struct Target {
  std::string name;
  std::string attribute;  // of the namespace `name`; empty: the name itself
  std::vector<Target> parts;
  bool tuple = false;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

// Whether a body reads varargs, kwargs or caller, and so accepts arguments that its signature does not name.
struct ImplicitNames {
  bool varargs = false, kwargs = false, caller = false;
};

struct Signature {
  ImplicitNames implicit;
  std::vector<std::string> names;
  std::vector<ExpressionPtr> defaults;  // of the last defaults.size() names
};

struct Text {
  std::string text;
};
struct Print {
  ExpressionPtr value;
};
struct For {
  Target target;
  ExpressionPtr iterable, condition;  // condition may be null
  bool recursive = false;
  Body body, otherwise;
};
struct If {
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body otherwise;
};
struct Set {
  Target target;
  ExpressionPtr value;
};
struct SetBlock {
  Target target;
  ExpressionPtr filter;  // a FilterCall chain whose innermost subject is null; or null
  Body body;
};
struct Macro {
  std::string name;
  Signature signature;
  Body body;
};
struct CallBlock {
  Signature signature;
  ExpressionPtr call;  // a Call
  Body body;
};
struct FilterBlock {
  ExpressionPtr filter;
  Body body;
};
struct With {
  std::vector<std::pair<Target, ExpressionPtr>> variables;
  Body body;
};
// The assistant's text, rendered in place. (Training marks these parts.)
struct Generation {
  Signature signature;
  Body body;
};
struct Jump {
  bool is_continue = false;
};

struct Statement {
  std::uint32_t line = 0;
  std::variant<Text, Print, For, If, Set, SetBlock, Macro, CallBlock, FilterBlock, With, Generation, Jump> node;
};

}  // namespace plumb::text::jinja
