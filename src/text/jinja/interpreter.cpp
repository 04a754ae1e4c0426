#include "text/jinja/interpreter.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "text/jinja/access.h"
#include "text/jinja/call.h"
#include "text/jinja/compare.h"
#include "text/jinja/filters.h"
#include "text/jinja/globals.h"
#include "text/jinja/iterate.h"
#include "text/jinja/json.h"
#include "text/jinja/loop.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/jinja/tests.h"

namespace plumb::text::jinja {

namespace {

template <class... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <class... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

// The variables of one block. A block sees the variables of the blocks around it. A macro keeps the scope in which it was
// defined.
class Scope {
 public:
  explicit Scope(std::shared_ptr<Scope> parent) : parent_(std::move(parent)) {}

  void set(const std::string& name, Value value) { variables_.insert_or_assign(name, std::move(value)); }

  [[nodiscard]] const Value* find(const std::string& name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent_.get()) {
      if (const auto found = scope->variables_.find(name); found != scope->variables_.end()) return &found->second;
    }
    return nullptr;
  }

  void clear() { variables_.clear(); }

 private:
  std::shared_ptr<Scope> parent_;
  std::unordered_map<std::string, Value> variables_;
};

using ScopePtr = std::shared_ptr<Scope>;

enum class Flow : std::uint8_t { next, leave_loop, next_round };

class Interpreter {
 public:
  explicit Interpreter(Runtime& runtime) : runtime_(runtime) {}

  std::string run_template(const Body& body, const nlohmann::ordered_json& variables) {
    const auto scope = std::make_shared<Scope>(nullptr);
    for (const auto& [name, value] : variables.items()) scope->set(name, from_json(runtime_, value));
    TextBuilder out(runtime_.budget);
    root_ = std::make_shared<Scope>(scope);
    run(body, root_, out);
    return out.take();
  }

  Flow run(const Body& body, const ScopePtr& scope, TextBuilder& out) {
    const DepthGuard guard(runtime_);
    for (const auto& statement : body) {
      runtime_.budget.step();
      try {
        const Flow flow = std::visit([&](const auto& node) { return execute(node, scope, out); }, statement->node);
        if (out.view().size() > runtime_.budget.limits().max_output_bytes) {
          raise("the template makes more than {} bytes of text", runtime_.budget.limits().max_output_bytes);
        }
        if (flow != Flow::next) return flow;
      } catch (Failure& failure) {
        if (failure.line == 0) failure.line = statement->line;
        throw;
      }
    }
    return Flow::next;
  }

  Value evaluate(const ExpressionPtr& expression, const ScopePtr& scope) {
    const DepthGuard guard(runtime_);
    runtime_.budget.step();
    try {
      return std::visit([&](const auto& node) { return value_of(node, scope); }, expression->node);
    } catch (Failure& failure) {
      if (failure.line == 0) failure.line = expression->line;
      throw;
    }
  }

 private:
  static std::optional<Value> take_named(Runtime& runtime, Arguments& arguments, std::string_view wanted) {
    runtime.budget.step(arguments.named.size() / 8 + 1);
    const auto found = std::ranges::find(arguments.named, wanted, &std::pair<std::string, Value>::first);
    if (found == arguments.named.end()) return std::nullopt;
    Value value = std::move(found->second);
    arguments.named.erase(found);
    return value;
  }

  // Sets a macro's parameters, and the names that its body reads without declaring them.
  void bind(const std::string& macro, const Signature& signature, Arguments& arguments, const ScopePtr& scope) {
    const auto& [implicit, names, defaults] = signature;
    const std::size_t n = names.size();
    for (std::size_t i = 0; i < n; ++i) {
      if (i < arguments.positional.size()) {
        scope->set(names[i], arguments.positional[i]);
      } else if (auto named = take_named(runtime_, arguments, names[i])) {
        scope->set(names[i], std::move(*named));
      } else if (i + defaults.size() >= n) {
        scope->set(names[i], evaluate(defaults[i + defaults.size() - n], scope));
      } else {
        scope->set(names[i], runtime_.undefined(fmt::format("parameter {} was not provided", jinja::quoted(names[i]))));
      }
    }
    if (implicit.caller && std::ranges::find(names, "caller") == names.end()) {
      auto caller = take_named(runtime_, arguments, "caller");
      scope->set("caller", caller ? std::move(*caller) : runtime_.undefined("No caller defined"));
    }
    if (implicit.kwargs) {
      std::vector<Dict::Entry> rest;
      for (auto& [key, value] : arguments.named) rest.emplace_back(runtime_.string(key), std::move(value));
      scope->set("kwargs", runtime_.dict(std::move(rest)));
    } else if (!arguments.named.empty()) {
      raise("macro {} takes no keyword argument {}", jinja::quoted(macro), jinja::quoted(arguments.named.front().first));
    }
    if (implicit.varargs) {
      std::vector<Value> rest;
      for (std::size_t i = n; i < arguments.positional.size(); ++i) rest.push_back(arguments.positional[i]);
      scope->set("varargs", runtime_.tuple(std::move(rest)));
    } else if (arguments.positional.size() > n) {
      raise("macro {} takes not more than {} argument(s)", jinja::quoted(macro), n);
    }
  }

  // A macro, or the body of a call block, as a callable value. It keeps its scope, and the scope may contain it. The end of
  // the run empties the scope, which breaks the cycle.
  Value make_macro(const std::string& name, const Signature& signature, const Body& body, const ScopePtr& scope) {
    runtime_.budget.take(sizeof(Scope));
    runtime_.keep(scope, [scope = scope.get()] { scope->clear(); });
    return runtime_.callable("<Macro " + (name.empty() ? "anonymous" : jinja::quoted(name)) + ">", 0,
                             [this, name, &signature, &body, scope](Runtime&, Arguments& arguments) {
                               const auto inner = std::make_shared<Scope>(scope);
                               bind(name, signature, arguments, inner);
                               return rendered(body, inner);
                             });
  }

  void assign(const Target& target, Value value, const ScopePtr& scope) {
    if (target.tuple) {
      const auto items = to_vector(runtime_, value);
      if (items.size() < target.parts.size()) {
        raise("not enough values to unpack (expected {}, got {})", target.parts.size(), items.size());
      }
      if (items.size() > target.parts.size()) raise("too many values to unpack (expected {})", target.parts.size());
      for (std::size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i], scope);
      return;
    }
    if (target.attribute.empty()) {
      scope->set(target.name, std::move(value));
      return;
    }
    const Value* name_space = scope->find(target.name);
    if (name_space == nullptr || !name_space->is(Kind::name_space))
      raise("cannot assign attribute on non-namespace object");
    check_namespace_name(target.attribute);
    name_space->name_space().set(target.attribute, std::move(value));
  }

  Flow execute(const Text& text, const ScopePtr&, TextBuilder& out) {
    out.append(text.text);
    return Flow::next;
  }

  Flow execute(const Print& print, const ScopePtr& scope, TextBuilder& out) {
    out.append(str(runtime_, evaluate(print.value, scope)));
    return Flow::next;
  }

  Flow execute(const For& loop, const ScopePtr& scope, TextBuilder& out) {
    return run_loop(loop, evaluate(loop.iterable, scope), 0, scope, out);
  }

  Flow run_loop(const For& statement, const Value& iterable, std::int64_t depth, const ScopePtr& scope, TextBuilder& out) {
    const DepthGuard guard(runtime_);
    Value source = iterable;
    if (statement.condition) {
      // The condition is evaluated item by item, between iterations, so it sees the body's changes.
      auto next = [this, &statement, scope, items = iterate(runtime_, source)](Runtime& runtime) -> std::optional<Value> {
        while (auto item = items->next(runtime)) {
          runtime.budget.step();
          const auto filter_scope = std::make_shared<Scope>(scope);
          assign(statement.target, *item, filter_scope);
          if (truth(runtime, evaluate(statement.condition, filter_scope))) return item;
        }
        return std::nullopt;
      };
      source = runtime_.iterator(source.depth() + 1, std::move(next));
    }
    const auto loop = runtime_.make<Loop>(source, iterate(runtime_, source), depth);
    if (statement.recursive) {
      loop->recurse = [this, &statement, scope](Runtime& runtime, const Value& inner, std::int64_t depth0) {
        TextBuilder text(runtime.budget);
        run_loop(statement, inner, depth0, scope, text);
        return runtime.string(text.take());
      };
    }
    // As in Jinja, {% else %} also runs after a loop in which no iteration was completed.
    bool any = false;
    while (loop->advance(runtime_)) {
      runtime_.budget.step();
      const auto round = std::make_shared<Scope>(scope);
      round->set("loop", Value(Kind::loop, loop));
      assign(statement.target, loop->current(), round);
      const Flow flow = run(statement.body, round, out);
      if (flow == Flow::leave_loop) break;
      any = any || flow == Flow::next;
    }
    if (!any) return run(statement.otherwise, std::make_shared<Scope>(scope), out);
    return Flow::next;
  }

  Flow execute(const If& branch, const ScopePtr& scope, TextBuilder& out) {
    for (const auto& [condition, body] : branch.branches) {
      if (truth(runtime_, evaluate(condition, scope))) return run(body, scope, out);
    }
    return run(branch.otherwise, scope, out);
  }

  Flow execute(const Set& set, const ScopePtr& scope, TextBuilder&) {
    assign(set.target, evaluate(set.value, scope), scope);
    return Flow::next;
  }

  Value rendered(const Body& body, const ScopePtr& scope) {
    TextBuilder text(runtime_.budget);
    run(body, scope, text);
    return runtime_.string(text.take());
  }

  Value filtered(const ExpressionPtr& filter, const Value& text, const ScopePtr& scope) {
    const auto& call = std::get<FilterCall>(filter->node);
    const DepthGuard guard(runtime_);
    const Value subject = call.subject ? filtered(call.subject, text, scope) : text;
    return apply_filter(call, subject, scope);
  }

  Flow execute(const SetBlock& block, const ScopePtr& scope, TextBuilder&) {
    Value text = rendered(block.body, std::make_shared<Scope>(scope));
    assign(block.target, block.filter ? filtered(block.filter, text, scope) : std::move(text), scope);
    return Flow::next;
  }

  Flow execute(const Macro& macro, const ScopePtr& scope, TextBuilder&) {
    scope->set(macro.name, make_macro(macro.name, macro.signature, macro.body, scope));
    return Flow::next;
  }

  // Appends the result of a call block or filter block, which must be a string: it is not converted to one.
  static void append_string(TextBuilder& out, const Value& value) {
    if (!value.is_string()) raise("expected str instance, {} found", type_name(value));
    out.append(value.text());
  }

  Flow execute(const CallBlock& block, const ScopePtr& scope, TextBuilder& out) {
    const auto& call_node = std::get<Call>(block.call->node);
    const Value callee = evaluate(call_node.callee, scope);
    Arguments arguments = evaluate(call_node.arguments, scope);
    arguments.named.emplace_back("caller", make_macro("", block.signature, block.body, scope));
    append_string(out, call(runtime_, callee, arguments));
    return Flow::next;
  }

  Flow execute(const FilterBlock& block, const ScopePtr& scope, TextBuilder& out) {
    append_string(out, filtered(block.filter, rendered(block.body, std::make_shared<Scope>(scope)), scope));
    return Flow::next;
  }

  Flow execute(const With& with, const ScopePtr& scope, TextBuilder& out) {
    const auto inner = std::make_shared<Scope>(scope);
    for (const auto& [target, value] : with.variables) assign(target, evaluate(value, scope), inner);
    return run(with.body, inner, out);
  }

  // In Jinja the body is a macro without a name, so it has its own varargs and kwargs.
  Flow execute(const Generation& generation, const ScopePtr& scope, TextBuilder& out) {
    Arguments arguments;
    append_string(out, call(runtime_, make_macro("", generation.signature, generation.body, scope), arguments));
    return Flow::next;
  }

  Flow execute(const Jump& jump, const ScopePtr&, TextBuilder&) {
    return jump.is_continue ? Flow::next_round : Flow::leave_loop;
  }

  Value value_of(const Constant& constant, const ScopePtr&) {
    return std::visit(Overloaded{[](std::monostate) { return Value(); }, [](bool value) { return Value::boolean(value); },
                                 [](std::int64_t value) { return Value::integer(value); },
                                 [](double value) { return Value::real(value); },
                                 [&](const std::string& value) { return runtime_.string(value); }},
                      constant.value);
  }

  Value value_of(const Name& name, const ScopePtr& scope) {
    if (const Value* value = scope->find(name.name)) return *value;
    if (auto value = global(runtime_, name.name)) return *value;
    return runtime_.undefined(fmt::format("{} is undefined", jinja::quoted(name.name)));
  }

  std::vector<Value> evaluate(const std::vector<ExpressionPtr>& expressions, const ScopePtr& scope) {
    std::vector<Value> values;
    values.reserve(expressions.size());
    for (const auto& expression : expressions) values.push_back(evaluate(expression, scope));
    return values;
  }

  Value value_of(const ListOf& list, const ScopePtr& scope) {
    std::vector<Value> items = evaluate(list.items, scope);
    return list.tuple ? runtime_.tuple(std::move(items)) : runtime_.list(std::move(items));
  }

  Value value_of(const DictOf& dict, const ScopePtr& scope) {
    std::vector<Dict::Entry> entries;
    for (const auto& [key, value] : dict.items) {
      Value evaluated = evaluate(key, scope);
      entries.emplace_back(std::move(evaluated), evaluate(value, scope));
    }
    return runtime_.dict(std::move(entries));
  }

  Value value_of(const Attribute& node, const ScopePtr& scope) {
    return attribute(runtime_, evaluate(node.object, scope), node.name);
  }

  Value value_of(const Subscript& node, const ScopePtr& scope) {
    const Value object = evaluate(node.object, scope);
    return item(runtime_, object, evaluate(node.key, scope));
  }

  Value value_of(const Slice& node, const ScopePtr& scope) {
    const auto part = [&](const ExpressionPtr& expression) { return expression ? evaluate(expression, scope) : Value(); };
    const Value object = evaluate(node.object, scope);
    const Value start = part(node.start);
    const Value stop = part(node.stop);
    return slice(runtime_, object, start, stop, part(node.step));
  }

  Arguments evaluate(const CallArguments& node, const ScopePtr& scope) {
    Arguments arguments;
    arguments.positional = evaluate(node.positional, scope);
    for (const auto& [name, value] : node.named) {
      runtime_.budget.step(arguments.named.size() / 8 + 1);
      using Named = std::pair<std::string, Value>;
      const bool repeated = std::ranges::find(arguments.named, name, &Named::first) != arguments.named.end();
      if (repeated) raise("keyword argument repeated: {}", name);
      arguments.named.emplace_back(name, evaluate(value, scope));
    }
    if (node.spread) {
      for (Value& value : to_vector(runtime_, evaluate(node.spread, scope)))
        arguments.positional.push_back(std::move(value));
    }
    if (node.named_spread) {
      const Value named = evaluate(node.named_spread, scope);
      if (!named.is(Kind::dict)) raise("argument after ** must be a mapping, not {}", type_name(named));
      for (const auto& [key, value] : named.dict().entries) {
        if (!key.is_string()) raise("keywords must be strings");
        arguments.named.emplace_back(key.text(), value);
      }
    }
    return arguments;
  }

  Value value_of(const Call& node, const ScopePtr& scope) {
    const Value callee = evaluate(node.callee, scope);
    Arguments arguments = evaluate(node.arguments, scope);
    return call(runtime_, callee, arguments);
  }

  Value apply_filter(const FilterCall& node, const Value& subject, const ScopePtr& scope) {
    const Builtin& filter = find_filter(node.name);
    Arguments arguments = evaluate(node.arguments, scope);
    return invoke(runtime_, filter, subject, arguments);
  }

  Value value_of(const FilterCall& node, const ScopePtr& scope) {
    return apply_filter(node, evaluate(node.subject, scope), scope);
  }

  Value value_of(const TestCall& node, const ScopePtr& scope) {
    const Builtin& test = find_test(node.name);
    const Value subject = evaluate(node.subject, scope);
    Arguments arguments = evaluate(node.arguments, scope);
    return Value::boolean(invoke(runtime_, test, subject, arguments).as_boolean() != node.negated);
  }

  Value value_of(const Arithmetic& node, const ScopePtr& scope) {
    Value left = evaluate(node.first, scope);
    for (const auto& [op, operand] : node.rest) {
      const Value right = evaluate(operand, scope);
      left = arithmetic(runtime_, op, left, right);
    }
    return left;
  }

  Value value_of(const Concatenation& node, const ScopePtr& scope) {
    TextBuilder text(runtime_.budget);
    for (const auto& expression : node.items) text.append(str(runtime_, evaluate(expression, scope)));
    return runtime_.string(text.take());
  }

  Value value_of(const Compare& node, const ScopePtr& scope) {
    Value left = evaluate(node.first, scope);
    for (const auto& [comparison, operand] : node.rest) {
      Value right = evaluate(operand, scope);
      if (!compare(runtime_, comparison, left, right)) return Value::boolean(false);
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  Value value_of(const Logic& node, const ScopePtr& scope) {
    Value value;
    for (const auto& expression : node.items) {
      value = evaluate(expression, scope);
      if (truth(runtime_, value) != node.conjunction) return value;
    }
    return value;
  }

  Value value_of(const Unary& node, const ScopePtr& scope) {
    const Value operand = evaluate(node.operand, scope);
    if (node.kind == Unary::Kind::logical_not) return Value::boolean(!truth(runtime_, operand));
    if (operand.is_undefined()) fail_undefined(operand);
    return node.kind == Unary::Kind::negate ? negative(operand) : positive(operand);
  }

  Value value_of(const Conditional& node, const ScopePtr& scope) {
    if (truth(runtime_, evaluate(node.condition, scope))) return evaluate(node.then, scope);
    if (node.otherwise) return evaluate(node.otherwise, scope);
    return runtime_.undefined("the inline if-expression evaluated to false and no else section was defined.");
  }

  Runtime& runtime_;
  ScopePtr root_;
};

}  // namespace

std::string interpret(const Body& body, Runtime& runtime, const nlohmann::ordered_json& variables) {
  Interpreter interpreter(runtime);
  return interpreter.run_template(body, variables);
}

}  // namespace plumb::text::jinja
