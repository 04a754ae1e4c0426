#include "diagnose/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <string_view>

#include "base/printable.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose {

namespace {

// "0, 1, 2, 5" as "0-2, 5".
std::string ranges(const std::set<std::uint32_t>& numbers) {
  std::string text;
  for (auto first = numbers.begin(); first != numbers.end();) {
    auto last = first, next = std::next(first);
    for (; next != numbers.end() && *next == *last + 1; ++next) last = next;
    if (!text.empty()) text += ", ";
    text += last == first ? fmt::format("{}", *first) : fmt::format("{}-{}", *first, *last);
    first = next;
  }
  return text;
}

// Places with one line for each role: "attn_q_rope in layers 0-29".
std::vector<std::string> place_lines(const std::vector<Place>& places) {
  struct Line {
    std::set<std::uint32_t> layers, steps;
    std::vector<std::string> region;
  };
  nlohmann::ordered_map<std::string, Line> lines;  // by role
  for (const Place& place : places) {
    Line& line = lines[std::string(role(place.value))];
    if (line.steps.empty()) line.region = place.region;
    if (place.layer) line.layers.insert(*place.layer);
    line.steps.insert(place.steps.begin(), place.steps.end());
  }
  std::vector<std::string> result;
  for (auto& [key, line] : lines) {
    std::string text = line.layers.empty()       ? key
                       : line.layers.size() == 1 ? fmt::format("blk.{}.{}", *line.layers.begin(), key)
                                                 : fmt::format("blk.{{{}}}.{}", ranges(line.layers), key);
    if (line.steps.erase(0) == 0) {
      text += fmt::format(", in steps {} after the prompt", ranges(line.steps));
    } else {
      text += ", in the prompt's pass";
      if (!line.steps.empty()) text += fmt::format(" and steps {}", ranges(line.steps));
    }
    if (line.region.size() > 1) {
      text += fmt::format(" (or one of the {} ops before it whose values the trace lacks: {}{})", line.region.size() - 1,
                          line.region.front(),
                          line.region.size() > 2 ? fmt::format(" … {}", line.region[line.region.size() - 2]) : "");
    }
    result.push_back(std::move(text));
  }
  return result;
}

std::string proof_sentence(const Proof& proof) {
  const std::string tokens = proof.n_tokens == 0
                                 ? ""
                                 : fmt::format("; the most likely token agrees in {} of {} places, {} without",
                                               proof.n_tokens_with, proof.n_tokens, proof.n_tokens_without);
  std::string figures = fmt::format("{} differs by {:.2g} of its size, {:.2g} without{}", proof.value, proof.error_with,
                                    proof.error_without, tokens);
  const std::string_view so =
      proof.borrows
          ? "the reference, making the mistakes that are named and with the engine's own values where a cause is not known,"
          : "the reference, making the same mistakes from the first token on,";
  switch (proof.outcome) {
    case Proof::Outcome::reproduced:
      return fmt::format("{} gives what the engine gave: {}", so, figures);
    case Proof::Outcome::not_reproduced:
      return fmt::format("{} does not give what the engine gave: {}", so, figures);
    case Proof::Outcome::too_small_to_tell:
      break;
  }
  return "the effect at the end of the run is too small to tell: " + figures;
}

// Wraps and indents a text to lines of at most `width` characters. The text may come from a file or another engine.
std::string wrapped(std::string_view raw, std::size_t indent, std::size_t width = 110) {
  std::string result;
  std::size_t column = indent;
  const std::string text = printable(raw);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (column > indent && column + word.size() + 1 > width) {
      result += '\n' + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      result += ' ';
      ++column;
    }
    result += word;
    column += word.size();
    at = end + 1;
  }
  return result;
}

class Text {
 public:
  Text(const Report& report, bool color) : report_(report), color_(color) {}

  std::string run() {
    verdict();
    for (std::size_t i = 0; i < report_.faults.size(); ++i) fault(i, report_.faults[i]);
    if (report_.proof) line("proof", proof_sentence(*report_.proof));
    stages();
    ops();
    return std::move(out_);
  }

 private:
  [[nodiscard]] std::string bold(std::string_view text) const {
    return color_ ? fmt::format("\x1b[1m{}\x1b[0m", text) : std::string(text);
  }
  [[nodiscard]] std::string tinted(std::string_view text, Outcome outcome) const {
    if (!color_) return std::string(text);
    return fmt::format("\x1b[{}m{}\x1b[0m", outcome == Outcome::pass ? 32 : outcome == Outcome::fail ? 31 : 33, text);
  }
  void line(std::string_view label, std::string_view text) {
    out_ += fmt::format("  {:<12}{}\n", label, wrapped(text, 14));
  }

  void verdict() {
    const std::string run =
        printable(fmt::format("{} of {}, {} prompt token{} and {} step{} after them",
                              report_.engine.empty() ? "the run" : report_.engine, report_.model, report_.n_prompt,
                              report_.n_prompt == 1 ? "" : "s", report_.n_steps, report_.n_steps == 1 ? "" : "s"));
    const auto write = [&](Outcome outcome, std::string_view verdict, std::string_view meaning) {
      out_ += fmt::format("{} {}{}\n", bold(tinted(verdict, outcome)), meaning, run);
    };
    const std::size_t n_faults = report_.faults.size(), n_untold = report_.n_untold();
    if (n_faults > 0) {
      write(Outcome::fail, n_faults == 1 ? "1 fault" : fmt::format("{} faults", n_faults), "");
    } else if (n_untold == 0) {
      write(Outcome::pass, "follows.", "Every op that the trace shows follows from its own inputs.\n  ");
    } else {
      write(
          Outcome::unknown, "follows as far as the trace tells.",
          fmt::format("{} of {} checks span so many ops whose values the trace lacks that rounding\nalone may be as large "
                      "as the value; a trace with more values can tell.\n  ",
                      n_untold, report_.isolation.checks.size()));
    }
  }

  void fault(std::size_t index, const Fault& fault) {
    const std::string title = fault.hypothesis == nullptr ? "unknown cause" : std::string(fault.hypothesis->title);
    out_ += fmt::format("\n{}. {}{}\n", index + 1, bold(title), printable(fault.detail.empty() ? "" : ": " + fault.detail));
    line("stage", name(fault.stage));
    for (const std::string& place : place_lines(fault.places)) line("op", place);
    if (fault.hypothesis != nullptr) {
      line("cause", fmt::format("{} (confidence {})", fault.hypothesis->name, name(fault.confidence)));
      line("why", fault.hypothesis->explanation);
      line("to change", fault.hypothesis->remedy);
    }
    if (!fault.evidence.empty()) line("evidence", fault.evidence);
    for (const std::string& known : fault.known) line("known", known);
    for (const Cause& other : fault.alternatives) {
      line("or",
           fmt::format("{}: {}{}{} fits as well; a longer prompt or another one may tell them apart",
                       other.hypothesis->name, other.hypothesis->title, other.detail.empty() ? "" : ": ", other.detail));
    }
  }

  void stages() {
    out_ += "\nstages\n";
    for (const StageResult& stage : report_.stages) {
      out_ += fmt::format("  {:<12}{} {}\n", name(stage.stage),
                          tinted(fmt::format("{:<8}", name(stage.outcome)), stage.outcome), wrapped(stage.evidence, 23));
    }
  }

  // One line for each role: the number of ops, their arithmetic, and the worst op.
  void ops() {
    if (report_.isolation.checks.empty()) return;
    struct Row {
      std::size_t n = 0, n_faults = 0;
      const Check* worst = nullptr;
      std::set<std::size_t> arithmetics;
    };
    nlohmann::ordered_map<std::string, Row> rows;  // by role
    for (const Check& check : report_.isolation.checks) {
      Row& row = rows[std::string(role(report_.op_values[check.op]))];
      ++row.n;
      if (check.at_fault) ++row.n_faults;
      row.arithmetics.insert(report_.isolation.groups[check.group].own);
      if (row.worst == nullptr || check.misfit > row.worst->misfit || std::isnan(check.misfit)) row.worst = &check;
    }
    out_ += "\nops (ratio: error / allowed; misfit: the same element by element, above 1 does not follow)\n";
    out_ += fmt::format("  {:<18}{:>7}{:>7}  {:<24}{:>9}{:>9}{:>10}{:>10}  {}\n", "value", "checks", "faults", "worst at",
                        "error", "allowed", "ratio", "misfit", "arithmetic");
    const auto figure = [](double x) { return std::isfinite(x) ? fmt::format("{:.3g}", x) : "no number"; };
    for (const auto& [key, row] : rows) {
      const Check& check = *row.worst;
      out_ += fmt::format("  {:<18}{:>7}{:>7}  {:<24}{:>9.2g}{:>9.2g}{:>10}{:>10}  {}\n", key, row.n, row.n_faults,
                          fmt::format("{} step {}", report_.op_values[check.op], check.step), check.rms_error,
                          check.allowed_rms, figure(check.ratio()), figure(check.misfit),
                          arithmetics()[*row.arithmetics.rbegin()].name);
    }
    if (!report_.unknown_names.empty()) {
      out_ += fmt::format("  {} names in the trace are no values of this model, such as '{}'\n",
                          report_.unknown_names.size(), printable(report_.unknown_names.front().substr(0, 80)));
    }
  }

  const Report& report_;
  bool color_;
  std::string out_;
};

// JSON has no infinity and no NaN: such a ratio becomes null.
nlohmann::ordered_json number(double x) {
  if (!std::isfinite(x)) return nullptr;
  return x;
}

std::string_view name(Proof::Outcome outcome) {
  constexpr std::string_view names[] = {"reproduced", "too_small_to_tell", "not_reproduced"};
  return names[static_cast<std::size_t>(outcome)];
}

nlohmann::ordered_json or_null(const std::optional<std::uint32_t>& x) {
  if (!x) return nullptr;
  return *x;
}

// Rounds to four digits, since most of a long prompt's report are such numbers.
double rounded(float x) { return std::isfinite(x) ? to_digits(x, 4) : x; }

nlohmann::ordered_json cause_json(const Hypothesis* hypothesis, const std::string& detail) {
  if (hypothesis == nullptr) return nullptr;
  return {{"name", hypothesis->name},
          {"title", hypothesis->title},
          {"detail", detail},
          {"explanation", hypothesis->explanation},
          {"remedy", hypothesis->remedy}};
}

}  // namespace

std::size_t Report::n_untold() const {
  return static_cast<std::size_t>(std::count_if(isolation.checks.begin(), isolation.checks.end(),
                                                [](const Check& check) { return !check.tells && !check.at_fault; }));
}

std::string_view name(Outcome outcome) {
  constexpr std::string_view names[] = {"pass", "fail", "unknown"};
  return names[static_cast<std::size_t>(outcome)];
}

std::string_view name(Stage stage) {
  constexpr std::string_view names[] = {"file", "tokens",  "template", "parameters", "weights",
                                        "ops",  "buffers", "cache",    "sampling"};
  return names[static_cast<std::size_t>(stage)];
}

std::string to_text(const Report& report, bool color) { return Text(report, color).run(); }

nlohmann::ordered_json to_json(const Report& report) {
  using OrderedJson = nlohmann::ordered_json;
  OrderedJson json;
  json["format"] = "plumb-diagnosis";
  json["version"] = 1;
  json["follows"] = report.follows();
  json["engine"] = report.engine;
  json["model"] = report.model;
  json["prompt"] = report.prompt;
  json["n_prompt"] = report.n_prompt;
  json["n_steps"] = report.n_steps;
  json["n_values"] = report.n_values;
  json["unknown_names"] = report.unknown_names;
  json["allowance_factor"] = report.allowance_factor;
  json["strict"] = report.strict;
  json["seconds"] = report.seconds;
  json["faults"] = OrderedJson::array();
  for (const Fault& fault : report.faults) {
    OrderedJson f;
    f["stage"] = name(fault.stage);
    f["cause"] = cause_json(fault.hypothesis, fault.detail);
    f["confidence"] = name(fault.confidence);
    f["evidence"] = fault.evidence;
    f["places"] = OrderedJson::array();
    for (const Place& place : fault.places) {
      f["places"].push_back({{"value", place.value},
                             {"op", report.op_kinds[place.op]},
                             {"layer", or_null(place.layer)},
                             {"steps", place.steps},
                             {"rows", place.rows},
                             {"region", place.region},
                             {"detail", place.detail},
                             {"residual", number(place.residual)}});
    }
    f["alternatives"] = OrderedJson::array();
    for (const Cause& other : fault.alternatives) {
      OrderedJson a = cause_json(other.hypothesis, other.detail);
      a["residual"] = number(other.residual);
      f["alternatives"].push_back(std::move(a));
    }
    f["known"] = fault.known;
    json["faults"].push_back(std::move(f));
  }
  json["proof"] = nullptr;
  if (report.proof) {
    const Proof& p = *report.proof;
    json["proof"] = {{"outcome", name(p.outcome)},
                     {"value", p.value},
                     {"error_with", number(p.error_with)},
                     {"error_without", number(p.error_without)},
                     {"n_tokens", p.n_tokens},
                     {"n_tokens_with", p.n_tokens_with},
                     {"n_tokens_without", p.n_tokens_without},
                     {"sentence", proof_sentence(p)}};
  }
  json["stages"] = OrderedJson::array();
  for (const StageResult& stage : report.stages) {
    json["stages"].push_back({{"name", name(stage.stage)}, {"outcome", name(stage.outcome)}, {"evidence", stage.evidence}});
  }
  json["arithmetics"] = OrderedJson::array();
  for (const Group& group : report.isolation.groups) {
    json["arithmetics"].push_back({{"op", group.kind},
                                   {"format", group.format},
                                   {"prompt", group.prompt},
                                   {"arithmetic", arithmetics()[group.own].name},
                                   {"checks", group.n_checks}});
  }
  json["values"] = OrderedJson::array();
  for (std::size_t i = 0; i < report.op_values.size(); ++i) {
    if (report.op_values[i] != report.op_kinds[i])
      json["values"].push_back({{"value", report.op_values[i]}, {"op", report.op_kinds[i]}});
  }
  json["ops"] = OrderedJson::array();
  for (const Check& check : report.isolation.checks) {
    const std::string& value = report.op_values[check.op];
    OrderedJson row_ratio = OrderedJson::array();
    for (const float r : check.row_ratio) row_ratio.push_back(number(rounded(r)));
    json["ops"].push_back({{"value", value},
                           {"op", report.op_kinds[check.op]},
                           {"layer", or_null(layer_of(value))},
                           {"step", check.step},
                           {"rows", check.n_rows},
                           {"size", number(check.rms_expected)},
                           {"error", number(check.rms_error)},
                           {"allowed", number(check.allowed_rms)},
                           {"ratio", number(check.ratio())},
                           {"misfit", number(check.misfit)},
                           {"largest_error", number(check.largest_error)},
                           {"not_finite", check.n_not_finite},
                           {"worst",
                            {{"row", check.worst.row},
                             {"column", check.worst.column},
                             {"expected", number(check.worst.expected)},
                             {"found", number(check.worst.found)}}},
                           {"group", check.group},
                           {"tells", check.tells},
                           {"fault", check.at_fault},
                           {"histogram", check.histogram},
                           {"row_ratio", std::move(row_ratio)}});
  }
  return json;
}

}  // namespace plumb::diagnose
