// The catalogue of mistakes that engines make. A hypothesis names one and computes what an op gives where it is made; the
// one whose output is the suspect's, where the right op's is not, is the cause. One file a family (catalogue/*.cpp), one
// entry a hypothesis: to add one, add it to its family's table, and a planted fault to the corpus.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "diagnose/replay.h"

namespace plumb::diagnose {

// A variant of a hypothesis for one op: "theta 500000 instead of 10000".
struct Candidate {
  std::string detail;  // empty: the hypothesis has no variants
  Mistake mistake;
  bool by_column = false;  // an output needs no other output of the op: Scene::column_stride may be used
};

// The op at fault and what the suspect made of it, for hypotheses that fit a parameter to it.
struct Question {
  const plan::Op& op;
  std::size_t op_index;
  Replay& replay;
  std::span<const std::uint32_t> rows;  // rows at fault
  std::span<const float> found;         // [rows, width], the suspect's; empty where the op's own output is not in the trace
  std::span<const float> expected;      // [rows, width]

  [[nodiscard]] const plan::Plan& plan() const { return replay.plan(); }
  template <class T>
  [[nodiscard]] const T* as() const {
    return std::get_if<T>(&op);
  }
  // Whether the op lies between values that the suspect shows: every try there runs a part of the model anew, so that only
  // likely mistakes are tried.
  [[nodiscard]] bool is_inner() const { return found.empty() && replay.suspect() != nullptr; }
  // The value the op makes.
  [[nodiscard]] plan::ValueId out() const { return *plan::output(op); }
  [[nodiscard]] std::size_t width() const { return plan().value(out()).width; }
};

struct Hypothesis {
  std::string_view name;         // stable, for scripts: "rope-pairing"
  std::string_view title;        // "rotary embedding turns other pairs of components"
  std::string_view explanation;  // what goes wrong in an engine that has it, and how it shows
  std::string_view remedy;       // what to change
  // The variants that could be at work in an op; none where the hypothesis does not apply. Null: it is of no op.
  std::vector<Candidate> (*candidates)(const Question& question) = nullptr;
  // It says what was found, such as zeros, which more mistakes than one leave: its confidence is never high.
  bool only_describes = false;
};

// All of them, family by family.
std::span<const Hypothesis> catalogue();
// By name; null when there is none.
const Hypothesis* find_hypothesis(std::string_view name);

namespace families {
// Of the way from the prompt to its tokens (prompt.cpp), and of no op.
std::span<const Hypothesis> tokens();
// Of what an engine says of itself (parameters.cpp); likewise.
std::span<const Hypothesis> parameters();
// Of a run of Plumb itself as a whole (own_run.cpp); likewise.
std::span<const Hypothesis> run();
// Of the choice of a token from the logits (sampling.cpp); likewise.
std::span<const Hypothesis> sampling();
std::span<const Hypothesis> embedding();
std::span<const Hypothesis> norm();
std::span<const Hypothesis> product();
std::span<const Hypothesis> quantization();
std::span<const Hypothesis> rope();
std::span<const Hypothesis> attention();
std::span<const Hypothesis> feed_forward();
std::span<const Hypothesis> experts();
std::span<const Hypothesis> buffer();
std::span<const Hypothesis> precision();
}  // namespace families

// For candidates: the op with other parameters.
template <class T>
Candidate changed(T op, std::string detail = "") {
  return {std::move(detail), [op = plan::Op(std::move(op))](const Site& site) { return site.compute(op); }, true};
}

// The op as it should be, and then something done to its output, [rows, width].
Candidate afterwards(std::string detail, std::function<void(const Site& site, std::vector<float>& y)> change);

// The op with one weight read otherwise.
Candidate with_weight(std::string detail, plan::WeightId weight, backends::reference::RowSource rows);

// The op with one of its inputs being another value, whole or changed.
Candidate with_input(std::string detail, plan::ValueId input, std::function<std::vector<float>(const Site& site)> value);

// The op with another value of the run in place of an input: one of the same width that is made before the op, in its
// layer, the layer before or outside of layers. Of the ops outside of layers the last two layers are near, and the output
// of any.
std::vector<Candidate> with_other_values(const Question& q, plan::ValueId input);

// The value between `low` and `high`, both positive, of a parameter with which the op comes nearest to what was found,
// where that is much nearer than the right op comes.
std::optional<double> fitted(const Question& q, double low, double high, const std::function<plan::Op(double)>& op_with);

// By how much the right row may have been shifted to give the one found: where its largest elements went. Few, or none.
std::vector<std::int64_t> likely_shifts(std::span<const float> found, std::span<const float> expected);

// Whether a guess at the op's output, [rows, width], explains what was found: what costs nothing, where it is a function of
// the right output, and keeps what does not fit from being computed. Where nothing was found there is nothing to tell by.
bool resembles(const Question& question, std::span<const float> guess);
// The same, the guess being the right output changed.
template <class Change>
bool resembles_changed(const Question& question, Change change) {
  std::vector<float> guess(question.expected.begin(), question.expected.end());
  if (!question.found.empty()) change(guess);
  return resembles(question, guess);
}

// Whether what is infinite of the suspect's rows is so because it is larger than all that is not: row by row, with the
// signs that it should have.
bool is_overflow(const Question& question);

// "blk.3.attn_q" without "blk.3.": "attn_q"; other names as they are.
std::string_view role(std::string_view value);
// The layer in a name; none outside blocks.
std::optional<std::uint32_t> layer_of(std::string_view value);

}  // namespace plumb::diagnose
