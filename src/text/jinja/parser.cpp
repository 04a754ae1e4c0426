#include "text/jinja/parser.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <utility>

#include "text/jinja/filters.h"
#include "text/jinja/lexer.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/jinja/tests.h"

namespace plumb::text::jinja {

namespace {

std::string shown(const Token& token) {
  switch (token.kind) {
    case TokenKind::text:
      return "text";
    case TokenKind::variable_begin:
      return "'{{'";
    case TokenKind::variable_end:
      return "'}}'";
    case TokenKind::block_begin:
      return "'{%'";
    case TokenKind::block_end:
      return "'%}'";
    case TokenKind::string:
      return "a string";
    case TokenKind::end:
      return "the end of the template";
    default:
      return "'" + token.text + "'";
  }
}

class Parser {
 public:
  Parser(std::vector<Token> tokens, const TemplateLimits& limits) : tokens_(std::move(tokens)), limits_(limits) {}

  Body run() {
    Body body = parse_body({});
    if (here().kind != TokenKind::end) fail_here("unexpected " + shown(here()));
    if (!unknown_.empty()) throw Failure(unknown_.front());
    return body;
  }

 private:
  // Counts the recursion of a parsing function, whose depth is the template's nesting.
  class Depth {
   public:
    explicit Depth(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > parser_.limits_.max_depth) {
        parser_.fail_here(fmt::format("the template is nested more than {} levels deep", parser_.limits_.max_depth));
      }
    }
    ~Depth() { --parser_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Parser& parser_;
  };

  // Sets whether the parts that are parsed while it lives may stay unreached.
  class MayBeSkipped {
   public:
    MayBeSkipped(Parser& parser, bool on) : parser_(parser), before_(std::exchange(parser.may_be_skipped_, on)) {}
    ~MayBeSkipped() { parser_.may_be_skipped_ = before_; }
    MayBeSkipped(const MayBeSkipped&) = delete;
    MayBeSkipped& operator=(const MayBeSkipped&) = delete;

   private:
    Parser& parser_;
    bool before_;
  };

  // Jinja refuses a template that has a filter or test of an unknown name. Where the name stands in an `if` it waits until
  // the name is reached: the `if` may ask whether there is such a filter.
  void check_name(bool known, std::string_view kind, const std::string& name, std::uint32_t line) {
    if (!known && !may_be_skipped_) unknown_.push_back({fmt::format("No {} named {}.", kind, jinja::quoted(name)), line});
  }

  [[nodiscard]] const Token& here() const { return tokens_[at_]; }
  [[nodiscard]] const Token& after() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  [[noreturn]] void fail_here(std::string message) const { throw Failure{std::move(message), here().line}; }

  Token take() {
    Token token = here();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool skip_op(std::string_view op) {
    if (!here().is_op(op)) return false;
    take();
    return true;
  }
  bool skip_name(std::string_view name) {
    if (!here().is_name(name)) return false;
    take();
    return true;
  }
  void expect_op(std::string_view op) {
    if (!skip_op(op)) fail_here(fmt::format("expected '{}', got {}", op, shown(here())));
  }
  std::string expect_name() {
    if (here().kind != TokenKind::name) fail_here("expected a name, got " + shown(here()));
    return take().text;
  }
  void expect(TokenKind kind, std::string_view what) {
    if (here().kind != kind) fail_here(fmt::format("expected {}, got {}", what, shown(here())));
    take();
  }
  void end_block() { expect(TokenKind::block_end, "'%}'"); }
  // A tag that opens a body may end in a colon, as in Python.
  void open_body() {
    skip_op(":");
    end_block();
  }

  template <class Node>
  ExpressionPtr make(std::uint32_t line, Node node) {
    return std::make_unique<Expression>(Expression{line, std::move(node)});
  }
  template <class Node>
  static void add(Body& body, std::uint32_t line, Node node) {
    body.push_back(std::make_unique<Statement>(Statement{line, std::move(node)}));
  }

  // Parses items with commas between them, up to the closing bracket. A comma may follow the last one.
  template <class ParseItem>
  void parse_items(std::string_view close, const ParseItem& parse_item) {
    while (!here().is_op(close)) {
      parse_item();
      if (!skip_op(",")) break;
    }
    expect_op(close);
  }

  // Parses statements up to a block tag with one of these names. The name is then the current token.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    const Depth depth(*this);
    const std::uint32_t opened = tokens_[at_ > 0 ? at_ - 1 : 0].line;
    Body body;
    for (;;) {
      const Token token = here();
      switch (token.kind) {
        case TokenKind::text:
          add(body, token.line, Text{take().text});
          break;
        case TokenKind::variable_begin: {
          take();
          add(body, token.line, Print{expect_tuple()});
          expect(TokenKind::variable_end, "'}}'");
          break;
        }
        case TokenKind::block_begin: {
          take();
          if (here().kind != TokenKind::name) fail_here("expected the name of a tag, got " + shown(here()));
          if (std::find(ends.begin(), ends.end(), here().text) != ends.end()) return body;
          parse_statement(body);
          break;
        }
        default:
          if (ends.size() > 0) {
            const auto what = token.kind == TokenKind::end ? "the template ends" : "unexpected " + shown(token);
            fail_here(fmt::format("{}; '{}' is missing for what begins in line {}", what, *ends.begin(), opened));
          }
          return body;
      }
    }
  }

  // Parses a body and its end tag.
  Body parse_body_until(std::string_view end) {
    Body body = parse_body({end});
    take();
    end_block();
    return body;
  }

  // Parses the body of a macro or a call block. A loop around it does not count as the body's loop.
  Body parse_function_body(std::string_view end, Signature& signature) {
    const MayBeSkipped inside(*this, false);
    const std::uint32_t loops = std::exchange(loops_, 0);
    const ImplicitNames around = std::exchange(implicit_, {});
    Body body = parse_body_until(end);
    loops_ = loops;
    signature.implicit = implicit_;
    implicit_.varargs |= around.varargs;
    implicit_.kwargs |= around.kwargs;
    implicit_.caller |= around.caller;
    return body;
  }

  void parse_statement(Body& body) {
    const Token tag = take();
    const std::string& name = tag.text;
    if (name == "for") return parse_for(body, tag.line);
    if (name == "if") return parse_if(body, tag.line);
    if (name == "set") return parse_set(body, tag.line);
    if (name == "macro") {
      Macro macro{.name = expect_name(), .signature = parse_signature(), .body = {}};
      open_body();
      macro.body = parse_function_body("endmacro", macro.signature);
      return add(body, tag.line, std::move(macro));
    }
    if (name == "call") {
      CallBlock block;
      if (here().is_op("(")) block.signature = parse_signature();
      block.call = parse_expression();
      if (!std::holds_alternative<Call>(block.call->node)) throw Failure{"expected a call in the tag 'call'", tag.line};
      open_body();
      block.body = parse_function_body("endcall", block.signature);
      return add(body, tag.line, std::move(block));
    }
    if (name == "filter") {
      const MayBeSkipped inside(*this, false);
      FilterBlock block{.filter = parse_filters(nullptr, true), .body = {}};
      open_body();
      block.body = parse_body_until("endfilter");
      return add(body, tag.line, std::move(block));
    }
    if (name == "with") {
      With with;
      while (here().kind != TokenKind::block_end) {
        if (!with.variables.empty()) expect_op(",");
        Target target = parse_target(false);
        expect_op("=");
        with.variables.emplace_back(std::move(target), parse_expression());
      }
      open_body();
      const MayBeSkipped inside(*this, false);
      with.body = parse_body_until("endwith");
      return add(body, tag.line, std::move(with));
    }
    if (name == "generation") {
      open_body();
      Generation generation;
      generation.body = parse_function_body("endgeneration", generation.signature);
      return add(body, tag.line, std::move(generation));
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) throw Failure{fmt::format("'{}' outside of a loop", name), tag.line};
      end_block();
      return add(body, tag.line, Jump{name == "continue"});
    }
    for (const std::string_view other : {"extends", "include", "import", "from", "block", "autoescape", "print"}) {
      if (name == other) throw Failure{fmt::format("the tag '{}' is not supported", name), tag.line};
    }
    throw Failure{fmt::format("unknown tag '{}'", name), tag.line};
  }

  void parse_for(Body& body, std::uint32_t line) {
    For loop;
    loop.target = parse_target(false);
    if (!skip_name("in")) fail_here("expected 'in', got " + shown(here()));
    loop.iterable = expect_tuple(false, true);
    const MayBeSkipped inside(*this, false);
    if (skip_name("if")) loop.condition = parse_expression();
    loop.recursive = skip_name("recursive");
    open_body();
    ++loops_;
    loop.body = parse_body({"endfor", "else"});
    --loops_;
    if (take().text == "else") {
      open_body();
      loop.otherwise = parse_body({"endfor"});
      take();
    }
    end_block();
    add(body, line, std::move(loop));
  }

  void parse_if(Body& body, std::uint32_t line) {
    const MayBeSkipped inside(*this, true);
    If branch;
    for (;;) {
      ExpressionPtr condition = expect_tuple(false);
      open_body();
      branch.branches.emplace_back(std::move(condition), parse_body({"endif", "elif", "else"}));
      const std::string end = take().text;
      if (end == "elif") continue;
      if (end == "else") {
        open_body();
        branch.otherwise = parse_body({"endif"});
        take();
      }
      end_block();
      return add(body, line, std::move(branch));
    }
  }

  void parse_set(Body& body, std::uint32_t line) {
    Target target = parse_target(true);
    if (skip_op("=")) {
      ExpressionPtr value = expect_tuple();
      end_block();
      return add(body, line, Set{std::move(target), std::move(value)});
    }
    const MayBeSkipped inside(*this, false);
    SetBlock block{.target = std::move(target), .filter = nullptr, .body = {}};
    if (here().is_op("|")) block.filter = parse_filters(nullptr, false);
    open_body();
    block.body = parse_body_until("endset");
    add(body, line, std::move(block));
  }

  Signature parse_signature() {
    const MayBeSkipped inside(*this, false);
    Signature signature;
    expect_op("(");
    parse_items(")", [&] {
      signature.names.push_back(expect_name());
      if (skip_op("=")) {
        signature.defaults.push_back(parse_expression());
      } else if (!signature.defaults.empty()) {
        fail_here("a parameter without a default follows one with a default");
      }
    });
    return signature;
  }

  Target parse_single_target(bool with_namespace) {
    const Depth depth(*this);
    if (skip_op("(")) {
      Target target = parse_target(false);
      expect_op(")");
      return target;
    }
    Target target;
    target.name = expect_name();
    constexpr std::array<std::string_view, 6> constants{"true", "false", "none", "True", "False", "None"};
    if (std::find(constants.begin(), constants.end(), target.name) != constants.end()) {
      fail_here(fmt::format("can't assign to '{}'", target.name));
    }
    if (with_namespace && skip_op(".")) target.attribute = expect_name();
    return target;
  }

  Target parse_target(bool with_namespace) {
    Target target = parse_single_target(with_namespace);
    if (!here().is_op(",")) return target;
    Target several;
    several.tuple = true;
    several.parts.push_back(std::move(target));
    while (skip_op(",")) {
      if (here().kind != TokenKind::name && !here().is_op("(")) break;
      if (here().is_name("in")) break;
      several.parts.push_back(parse_single_target(with_namespace));
    }
    return several;
  }

  ExpressionPtr parse_expression() { return parse_conditional(); }

  [[nodiscard]] bool ends_tuple(bool of_loop) const {
    const Token& token = here();
    return token.kind == TokenKind::variable_end || token.kind == TokenKind::block_end || token.is_op(")") ||
           (of_loop && token.is_name("recursive"));
  }

  // Parses expressions with commas between them: a tuple. One expression without a comma is itself.
  ExpressionPtr parse_tuple(bool with_conditional = true, bool of_loop = false) {
    const std::uint32_t line = here().line;
    ListOf tuple{.items = {}, .tuple = true};
    bool has_comma = false;
    while (!ends_tuple(of_loop)) {
      tuple.items.push_back(with_conditional ? parse_conditional() : parse_or());
      if (!skip_op(",")) break;
      has_comma = true;
    }
    if (!has_comma && tuple.items.size() == 1) return std::move(tuple.items[0]);
    return make(line, std::move(tuple));
  }

  // The same without brackets around it, where at least one expression is needed.
  ExpressionPtr expect_tuple(bool with_conditional = true, bool of_loop = false) {
    if (ends_tuple(of_loop)) fail_here("expected an expression, got " + shown(here()));
    return parse_tuple(with_conditional, of_loop);
  }

  ExpressionPtr parse_conditional() {
    const Depth depth(*this);
    const std::uint32_t line = here().line;
    const std::size_t n_unknown = unknown_.size();
    ExpressionPtr value = parse_or();
    while (skip_name("if")) {
      unknown_.resize(n_unknown);
      const MayBeSkipped inside(*this, true);
      Conditional conditional{.condition = parse_or(), .then = std::move(value), .otherwise = nullptr};
      if (skip_name("else")) conditional.otherwise = parse_conditional();
      value = make(line, std::move(conditional));
    }
    return value;
  }

  template <class Next>
  ExpressionPtr parse_logic(std::string_view word, bool conjunction, const Next& next) {
    const std::uint32_t line = here().line;
    ExpressionPtr first = next();
    if (!here().is_name(word)) return first;
    Logic logic{.conjunction = conjunction, .items = {}};
    logic.items.push_back(std::move(first));
    while (skip_name(word)) logic.items.push_back(next());
    return make(line, std::move(logic));
  }

  ExpressionPtr parse_or() {
    return parse_logic("or", false, [this] { return parse_logic("and", true, [this] { return parse_not(); }); });
  }

  ExpressionPtr parse_not() {
    const Depth depth(*this);
    const std::uint32_t line = here().line;
    if (skip_name("not")) return make(line, Unary{Unary::Kind::logical_not, parse_not()});
    return parse_compare();
  }

  std::optional<Comparison> take_comparison() {
    constexpr std::array<std::pair<std::string_view, Comparison>, 6> operators{{{"==", Comparison::equal},
                                                                                {"!=", Comparison::unequal},
                                                                                {"<", Comparison::less},
                                                                                {"<=", Comparison::less_or_equal},
                                                                                {">", Comparison::greater},
                                                                                {">=", Comparison::greater_or_equal}}};
    for (const auto& [op, comparison] : operators) {
      if (skip_op(op)) return comparison;
    }
    if (skip_name("in")) return Comparison::in;
    if (here().is_name("not") && after().is_name("in")) {
      take();
      take();
      return Comparison::not_in;
    }
    return std::nullopt;
  }

  ExpressionPtr parse_compare() {
    const std::uint32_t line = here().line;
    Compare compare{.first = parse_sum(), .rest = {}};
    while (const auto comparison = take_comparison()) compare.rest.emplace_back(*comparison, parse_sum());
    if (compare.rest.empty()) return std::move(compare.first);
    return make(line, std::move(compare));
  }

  template <class Next>
  ExpressionPtr parse_arithmetic(std::initializer_list<std::pair<std::string_view, Operator>> operators, const Next& next) {
    const std::uint32_t line = here().line;
    Arithmetic chain{.first = next(), .rest = {}};
    for (;;) {
      const auto found =
          std::find_if(operators.begin(), operators.end(), [&](const auto& entry) { return here().is_op(entry.first); });
      if (found == operators.end()) break;
      take();
      chain.rest.emplace_back(found->second, next());
    }
    if (chain.rest.empty()) return std::move(chain.first);
    return make(line, std::move(chain));
  }

  ExpressionPtr parse_sum() {
    return parse_arithmetic({{"+", Operator::add}, {"-", Operator::subtract}}, [this] { return parse_concatenation(); });
  }

  ExpressionPtr parse_concatenation() {
    const std::uint32_t line = here().line;
    Concatenation chain;
    chain.items.push_back(parse_product());
    while (skip_op("~")) chain.items.push_back(parse_product());
    if (chain.items.size() == 1) return std::move(chain.items[0]);
    return make(line, std::move(chain));
  }

  ExpressionPtr parse_product() {
    return parse_arithmetic(
        {{"*", Operator::multiply}, {"/", Operator::divide}, {"//", Operator::floor_divide}, {"%", Operator::modulo}},
        [this] {
          return parse_arithmetic({{"**", Operator::power}}, [this] { return parse_unary(true); });
        });
  }

  ExpressionPtr parse_unary(bool with_filters) {
    const Depth depth(*this);
    const std::uint32_t line = here().line;
    ExpressionPtr value;
    if (skip_op("-")) {
      value = make(line, Unary{Unary::Kind::negate, parse_unary(false)});
    } else if (skip_op("+")) {
      value = make(line, Unary{Unary::Kind::plus, parse_unary(false)});
    } else {
      value = parse_primary();
    }
    value = parse_postfix(std::move(value));
    return with_filters ? parse_filters_and_tests(std::move(value)) : std::move(value);
  }

  ExpressionPtr parse_integer(const Token& token) {
    try {
      return make(token.line, Constant{jinja::parse_integer(token.text).value()});
    } catch (Failure& failure) {
      failure.line = token.line;
      throw;
    }
  }

  ExpressionPtr parse_primary() {
    const Token token = here();
    switch (token.kind) {
      case TokenKind::name: {
        take();
        if (token.text == "true" || token.text == "True") return make(token.line, Constant{true});
        if (token.text == "false" || token.text == "False") return make(token.line, Constant{false});
        if (token.text == "none" || token.text == "None") return make(token.line, Constant{});
        implicit_.varargs |= token.text == "varargs";
        implicit_.kwargs |= token.text == "kwargs";
        implicit_.caller |= token.text == "caller";
        return make(token.line, Name{token.text});
      }
      case TokenKind::string: {
        std::string text;
        while (here().kind == TokenKind::string) text += take().text;
        return make(token.line, Constant{std::move(text)});
      }
      case TokenKind::integer:
        take();
        return parse_integer(token);
      case TokenKind::real:
        take();
        return make(token.line, Constant{parse_real(token.text).value()});
      default:
        break;
    }
    if (skip_op("(")) {
      ExpressionPtr value = parse_tuple();
      expect_op(")");
      return value;
    }
    if (skip_op("[")) {
      ListOf list;
      parse_items("]", [&] { list.items.push_back(parse_expression()); });
      return make(token.line, std::move(list));
    }
    if (skip_op("{")) {
      DictOf dict;
      parse_items("}", [&] {
        ExpressionPtr key = parse_expression();
        expect_op(":");
        dict.items.emplace_back(std::move(key), parse_expression());
      });
      return make(token.line, std::move(dict));
    }
    fail_here("expected an expression, got " + shown(here()));
  }

  // Limits the length of a chain after a value, such as a.b.c: evaluating it recurses.
  void count_link(std::uint32_t& links) {
    if (++links > limits_.max_depth)
      fail_here(fmt::format("a chain of more than {} calls or subscripts", limits_.max_depth));
  }

  ExpressionPtr parse_postfix(ExpressionPtr value) {
    for (std::uint32_t links = 0;; count_link(links)) {
      const std::uint32_t line = here().line;
      if (skip_op(".")) {
        if (here().kind == TokenKind::integer) {
          ExpressionPtr key = parse_integer(take());
          value = make(line, Subscript{std::move(value), std::move(key)});
        } else {
          value = make(line, Attribute{std::move(value), expect_name()});
        }
      } else if (skip_op("[")) {
        value = parse_subscript(std::move(value), line);
      } else if (here().is_op("(")) {
        value = make(line, Call{std::move(value), parse_arguments()});
      } else {
        return value;
      }
    }
  }

  ExpressionPtr parse_subscript(ExpressionPtr object, std::uint32_t line) {
    ExpressionPtr start;
    if (!here().is_op(":")) start = parse_expression();
    if (!here().is_op(":")) {
      expect_op("]");
      return make(line, Subscript{std::move(object), std::move(start)});
    }
    Slice slice{.object = std::move(object), .start = std::move(start), .stop = nullptr, .step = nullptr};
    take();
    if (!here().is_op(":") && !here().is_op("]")) slice.stop = parse_expression();
    if (skip_op(":") && !here().is_op("]")) slice.step = parse_expression();
    expect_op("]");
    return make(line, std::move(slice));
  }

  CallArguments parse_arguments() {
    CallArguments arguments;
    expect_op("(");
    parse_items(")", [&] {
      const bool spread = arguments.spread || arguments.named_spread;
      if (skip_op("**")) {
        if (arguments.named_spread) fail_here("invalid syntax for function call expression");
        arguments.named_spread = parse_expression();
      } else if (skip_op("*")) {
        if (spread) fail_here("invalid syntax for function call expression");
        arguments.spread = parse_expression();
      } else if (here().kind == TokenKind::name && after().is_op("=")) {
        std::string name = take().text;
        take();
        arguments.named.emplace_back(std::move(name), parse_expression());
      } else {
        if (spread || !arguments.named.empty()) fail_here("invalid syntax for function call expression");
        arguments.positional.push_back(parse_expression());
      }
    });
    return arguments;
  }

  // Parses "|f(x)|g" after the subject. `inline_first`: the first filter has no '|' (a filter block).
  ExpressionPtr parse_filters(ExpressionPtr subject, bool inline_first) {
    for (std::uint32_t links = 0; inline_first || here().is_op("|"); count_link(links)) {
      if (!inline_first) take();
      inline_first = false;
      const std::uint32_t line = here().line;
      FilterCall filter{.subject = std::move(subject), .name = expect_name(), .arguments = {}};
      check_name(is_filter(filter.name), "filter", filter.name, line);
      if (here().is_op("(")) filter.arguments = parse_arguments();
      subject = make(line, std::move(filter));
    }
    return subject;
  }

  ExpressionPtr parse_filters_and_tests(ExpressionPtr value) {
    for (std::uint32_t links = 0;; count_link(links)) {
      if (here().is_op("|")) {
        value = parse_filters(std::move(value), false);
      } else if (here().is_name("is")) {
        value = parse_test(std::move(value));
      } else if (here().is_op("(")) {
        const std::uint32_t line = here().line;
        value = make(line, Call{std::move(value), parse_arguments()});
      } else {
        return value;
      }
    }
  }

  ExpressionPtr parse_test(ExpressionPtr subject) {
    const std::uint32_t line = take().line;
    const bool negated = skip_name("not");
    TestCall test{.subject = std::move(subject), .name = expect_name(), .arguments = {}, .negated = negated};
    check_name(is_test(test.name), "test", test.name, line);
    const Token& next = here();
    const bool is_word = next.kind == TokenKind::name;
    if (next.is_op("(")) {
      test.arguments = parse_arguments();
    } else if ((is_word && next.text != "else" && next.text != "or" && next.text != "and") ||
               next.kind == TokenKind::string || next.kind == TokenKind::integer || next.kind == TokenKind::real ||
               next.is_op("[") || next.is_op("{")) {
      if (next.is_name("is")) fail_here("You cannot chain multiple tests with is");
      test.arguments.positional.push_back(parse_postfix(parse_primary()));
    }
    return make(line, std::move(test));
  }

  std::vector<Token> tokens_;
  const TemplateLimits& limits_;
  std::size_t at_ = 0;
  std::uint32_t depth_ = 0;
  std::uint32_t loops_ = 0;
  bool may_be_skipped_ = false;   // what is parsed stands in an `if`
  std::vector<Failure> unknown_;  // filters and tests
  ImplicitNames implicit_;        // names that the macro's body has read so far
};

}  // namespace

Body parse(std::string_view source, const TemplateLimits& limits) { return Parser(tokenize(source), limits).run(); }

}  // namespace plumb::text::jinja
