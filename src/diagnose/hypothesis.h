// The catalogue of mistakes that engines make. A hypothesis names a mistake and computes an op's output with it. It is the
// cause if its output equals the suspect's and the right op's output does not. Each family has a file (catalogue/), and
// each hypothesis an entry in its family's table. To add one, add an entry, and a planted fault to the corpus.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "diagnose/replay.h"

namespace plumb::diagnose {

// Where a mistake is made: in a stage of the report, or in a part of an op.
enum class Kind : std::uint8_t {
  tokens,         // the way from the prompt to its tokens
  chat_template,  // the text that the prompt is put into
  sampling,       // the choice of a token
  op,             // what the op computes
  parameter,      // a hyper-parameter that the op is given
  weight,         // a weight as the op reads it
  cache,          // the cache as attention reads it
  buffer,         // the memory that the op reads or writes
};

// The meaning of a hypothesis that fits.
enum class Meaning : std::uint8_t {
  cause,
  // It only describes what was found, such as zeros. Several mistakes can have this result, so its confidence is never
  // high.
  description,
  // An arithmetic coarser than float32 has the same effect without a mistake.
  rounding,
  // The same for truncated operands, which make a product slightly smaller.
  cutting_off,
};

// A variant of a hypothesis for one op: "theta 500000 instead of 10000".
struct Candidate {
  std::string detail;  // empty: the hypothesis has no variants
  Mistake mistake;
  bool by_column = false;  // outputs do not depend on each other: Site::column_stride may be used
};

// An op at fault and the suspect's output. Hypotheses choose their variants and fit parameters from it.
struct Question {
  const plan::Op& op;  // it has an output
  std::size_t op_index;
  Replay& replay;
  std::span<const std::uint32_t> rows;  // rows at fault
  std::span<const float> found;         // [rows, width], the suspect's; empty where the op's own output is not in the trace
  std::span<const float> expected;      // [rows, width]

  [[nodiscard]] const plan::Plan& plan() const { return replay.plan(); }
  [[nodiscard]] RowSource rows_of(plan::WeightId weight) const {
    return backends::reference::rows_of(plan().weight(weight).tensor);
  }
  template <class T>
  [[nodiscard]] const T* as() const {
    return std::get_if<T>(&op);
  }
  // Whether the suspect does not show the op's own output. Every try then runs a part of the model, so only likely mistakes
  // are tried.
  [[nodiscard]] bool is_inner() const { return found.empty() && replay.suspect() != nullptr; }
  // Whether each faulty row has a found and an expected row.
  [[nodiscard]] bool has_both() const { return !found.empty() && found.size() == expected.size(); }
  // The op's output.
  [[nodiscard]] plan::ValueId out() const { return *plan::output(op); }
  [[nodiscard]] std::size_t width() const { return plan().value(out()).width; }
};

// The variants of a hypothesis that are possible for an op; none if the hypothesis does not apply.
using FindCandidates = std::vector<Candidate> (*)(const Question& question);

struct Hypothesis {
  // text: title, explanation and remedy, one line each; a text with other lines does not compile.
  consteval Hypothesis(std::string_view of_name, Kind of_kind, FindCandidates find, Meaning its_meaning,
                       std::string_view text)
      : name(of_name), kind(of_kind), candidates(find), meaning(its_meaning) {
    const std::size_t first = text.find('\n'), second = text.find('\n', first + 1);
    if (second == std::string_view::npos || text.find('\n', second + 1) != std::string_view::npos) throw "not three lines";
    title = text.substr(0, first);
    explanation = text.substr(first + 1, second - first - 1);
    remedy = text.substr(second + 1);
  }
  consteval Hypothesis(std::string_view of_name, Kind of_kind, FindCandidates find, std::string_view text)
      : Hypothesis(of_name, of_kind, find, Meaning::cause, text) {}
  // A hypothesis that is not about an op.
  consteval Hypothesis(std::string_view of_name, Kind of_kind, std::string_view text)
      : Hypothesis(of_name, of_kind, nullptr, text) {}

  std::string_view name;  // stable, for scripts: "rope-pairing"
  Kind kind;
  FindCandidates candidates;  // null: it is not about an op
  Meaning meaning;
  std::string_view title;        // "rotary embedding turns other pairs of components"
  std::string_view explanation;  // what goes wrong in such an engine, and how it shows
  std::string_view remedy;       // what to change
};

// The entry of a table by its name; a name that is not in the table does not compile.
consteval const Hypothesis& entry(std::span<const Hypothesis> entries, std::string_view name) {
  for (const Hypothesis& h : entries) {
    if (h.name == name) return h;
  }
  throw "no such entry";
}

// All hypotheses, family by family.
std::span<const Hypothesis> catalogue();

// The families. Those that are not about ops come first: they have no candidates, and the code that finds them names them.
namespace families {
std::span<const Hypothesis> tokens();      // prompt.cpp
std::span<const Hypothesis> parameters();  // parameters.cpp
std::span<const Hypothesis> run();         // own_run.cpp
std::span<const Hypothesis> sampling();    // sampling.cpp
std::span<const Hypothesis> embedding();
std::span<const Hypothesis> norm();
std::span<const Hypothesis> product();
std::span<const Hypothesis> logits();
std::span<const Hypothesis> quantization();
std::span<const Hypothesis> rope();
std::span<const Hypothesis> attention();
std::span<const Hypothesis> cache();
std::span<const Hypothesis> heads();
std::span<const Hypothesis> feed_forward();
std::span<const Hypothesis> scaling();
std::span<const Hypothesis> experts();
std::span<const Hypothesis> buffer();
std::span<const Hypothesis> precision();
}  // namespace families

// Collects the candidates of a hypothesis.
class Candidates {
 public:
  void add(std::string detail, Mistake mistake) { all_.push_back({std::move(detail), std::move(mistake)}); }
  // The op with other parameters.
  void changed(plan::Op op, std::string detail = "");
  // The op with another value of one parameter.
  template <class Op, class T>
  void with(Op op, T Op::*parameter, std::type_identity_t<T> value, const std::string& detail = "") {
    op.*parameter = std::move(value);
    changed(std::move(op), detail);
  }
  // The right op, whose output, [rows, width], is then changed.
  void afterwards(std::string detail, std::function<void(const Site& site, std::vector<float>& y)> change);
  // The right op, each element of whose output is then another: of(right), or of(row of the run, column, right).
  void with_each(std::string detail, std::function<float(float right)> of);
  void with_elements(std::string detail, std::function<float(std::uint32_t row, std::size_t column, float right)> of);
  // The right op, but some elements of the output are others, by row of the run and column.
  void with_values(std::string detail, std::map<std::pair<std::uint32_t, std::size_t>, float> values);
  // The right op, but column c of the output is the right column from[c], or, in every row of n, from(c).
  void with_columns(std::string detail, std::vector<std::size_t> from);
  template <class From>
  void with_columns(std::string detail, std::size_t n, From from) {
    std::vector<std::size_t> columns(n);
    for (std::size_t c = 0; c < n; ++c) columns[c] = from(c);
    with_columns(std::move(detail), std::move(columns));
  }
  // The same: column c is the right column c + by, wrapping around in a row of n.
  void with_shifted_columns(std::string detail, std::size_t n, std::int64_t by);
  // The op with other inputs: `change` sets members of its scene.
  void reading(std::string detail, std::function<void(const Site& site, Scene& scene)> change, bool by_column = true);
  // The op with one weight read in another way.
  void with_weight(std::string detail, plan::WeightId weight, RowSource rows);
  // The op with one weight whose rows are changed after they were read.
  void with_changed_weight(std::string detail, plan::WeightId weight, std::function<void(std::span<float> row)> change);
  // The op with another tensor for a weight, for each tensor of the plan that `fits`.
  void with_other_weights(const Question& q, plan::WeightId weight, const std::function<bool(const plan::Weight&)>& fits);
  // The op with another value, possibly changed, as one of its inputs.
  void with_input(std::string detail, plan::ValueId input, std::function<std::vector<float>(const Site& site)> value,
                  bool by_column = true);
  void with_changed_input(std::string detail, plan::ValueId input, std::function<void(std::vector<float>& x)> change);
  // The op with another value of the run in place of an input. The value has the same width, and is made before the op: in
  // its layer, in the layer before, or outside of layers. For ops outside of layers: in the last two layers, or the output
  // of any layer.
  void with_other_values(const Question& q, plan::ValueId input);

  // Adds the candidates so far again, with the mistake only in columns [first, last) of `width`.
  void also_in_columns(std::size_t first, std::size_t last, std::size_t width);

  [[nodiscard]] bool empty() const { return all_.empty(); }
  std::vector<Candidate> take() { return std::move(all_); }

 private:
  std::vector<Candidate> all_;
};

// The class of a pointer to a member.
template <class T, class Op>
Op class_of_member(T Op::*);
template <auto member>
using class_of = decltype(class_of_member(member));

// For Hypothesis::candidates: of<f> calls f(question, candidates), or f(question, part, candidates) if the op has such a
// part. `part` is an op of one kind, or a class whose in(question) finds it.
inline std::vector<Candidate> collected(const Question& q, void (*f)(const Question&, Candidates&)) {
  Candidates out;
  f(q, out);
  return out.take();
}
template <class Part>
std::vector<Candidate> collected(const Question& q, void (*f)(const Question&, const Part&, Candidates&)) {
  Candidates out;
  if constexpr (requires { Part::in(q); }) {
    if (const std::optional<Part> part = Part::in(q)) f(q, *part, out);
  } else if (const Part* op = q.as<Part>()) {
    f(q, *op, out);
  }
  return out.take();
}
template <auto f>
std::vector<Candidate> of(const Question& q) {
  return collected(q, +f);
}
// Only where the suspect shows the op's own output, or also has as many rows of it as are expected: hypotheses with many
// variants, or with variants that are fitted.
template <auto f>
std::vector<Candidate> of_shown(const Question& q) {
  return q.is_inner() ? std::vector<Candidate>() : of<f>(q);
}
template <auto f>
std::vector<Candidate> of_both(const Question& q) {
  return q.has_both() ? of<f>(q) : std::vector<Candidate>();
}
// Hypotheses of any family: an optional parameter is left out; another value of the run is an operand.
template <auto parameter>
void without(const Question&, const class_of<parameter>& op, Candidates& out) {
  if (op.*parameter) out.with(op, parameter, std::nullopt);
}
template <auto operand>
void other_operand(const Question& q, const class_of<operand>& op, Candidates& out) {
  out.with_other_values(q, op.*operand);
}

// The value of a parameter, between `low` and `high` (both positive), with which the op comes nearest to the suspect's
// output. None if the right op comes about as near.
std::optional<double> fitted(const Question& q, double low, double high, const std::function<plan::Op(double)>& op_with);
template <class Op>
std::optional<double> fitted(const Question& q, const Op& op, float Op::*parameter, double low, double high) {
  return fitted(q, low, high, [&](double value) {
    Op other = op;
    other.*parameter = static_cast<float>(value);
    return plan::Op(other);
  });
}

// The shifts that may turn the right first row into the found one, or the last, judged by its largest elements. Few, or
// none.
std::vector<std::int64_t> likely_shifts(const Question& question, bool of_last = false);

// Whether a guess at the op's output, which is made by changing the right one, is near the suspect's; true if the suspect's
// is not known. A guess is cheap, and saves computing the op for variants that do not fit.
bool resembles_changed(const Question& question, const std::function<void(std::vector<float>& y)>& change);

// Whether the infinite elements of each found row are the largest of the right one, with the right signs.
bool is_overflow(const Question& question);

// "attn_q" for "blk.3.attn_q"; other names are unchanged.
std::string_view role(std::string_view value);
// The layer in a value's name; none outside of layers.
std::optional<std::uint32_t> layer_of(std::string_view value);

}  // namespace plumb::diagnose
