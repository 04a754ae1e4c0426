#include "diagnose/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <string_view>

#include "base/printable.h"

namespace plumb::diagnose {

namespace {

// "0, 1, 2, 5" as "0-2, 5".
std::string ranges(const std::vector<std::uint32_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t end = i;
    while (end + 1 < numbers.size() && numbers[end + 1] == numbers[end] + 1) ++end;
    if (!text.empty()) text += ", ";
    text += end == i ? fmt::format("{}", numbers[i]) : fmt::format("{}-{}", numbers[i], numbers[end]);
    i = end + 1;
  }
  return text;
}

// Places with one line for each role: "attn_q_rope in layers 0-29".
std::vector<std::string> place_lines(const std::vector<Place>& places) {
  struct Line {
    std::vector<std::uint32_t> layers;
    std::set<std::uint32_t> steps;
    std::string detail;
    std::vector<std::string> region;
  };
  std::vector<std::pair<std::string, Line>> lines;
  for (const Place& place : places) {
    const std::string key(role(place.value));
    auto at = std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.first == key; });
    if (at == lines.end()) {
      lines.emplace_back(key, Line{});
      at = lines.end() - 1;
      at->second.region = place.region;
    }
    if (place.layer) at->second.layers.push_back(*place.layer);
    at->second.steps.insert(place.steps.begin(), place.steps.end());
  }
  std::vector<std::string> result;
  for (auto& [key, line] : lines) {
    std::sort(line.layers.begin(), line.layers.end());
    line.layers.erase(std::unique(line.layers.begin(), line.layers.end()), line.layers.end());
    std::string text = line.layers.size() == 1 ? fmt::format("blk.{}.{}", line.layers[0], key)
                       : line.layers.empty()   ? key
                                               : fmt::format("blk.{{{}}}.{}", ranges(line.layers), key);
    const std::vector<std::uint32_t> steps(line.steps.begin(), line.steps.end());
    const bool prompt = !steps.empty() && steps[0] == 0;
    text += prompt && steps.size() == 1 ? ", in the prompt's pass"
            : prompt ? fmt::format(", in the prompt's pass and steps {}", ranges({steps.begin() + 1, steps.end()}))
                     : fmt::format(", in steps {} after the prompt", ranges(steps));
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
    case Proof::Outcome::too_small_to_tell:
      return "the effect at the end of the run is too small to tell: " + figures;
    case Proof::Outcome::not_reproduced:
      return fmt::format("{} does not give what the engine gave: {}", so, figures);
  }
  return figures;
}

// Wraps and indents a text to lines of at most `width` characters. The text may come from a file or another engine.
std::string wrapped(std::string_view raw, std::size_t indent, std::size_t width = 110) {
  const std::string text = printable(raw);
  std::string result;
  std::size_t column = indent;
  std::size_t at = 0;
  while (at < text.size()) {
    std::size_t end = text.find(' ', at);
    if (end == std::string::npos) end = text.size();
    const std::string_view word = std::string_view(text).substr(at, end - at);
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
    if (report_.follows() && report_.n_untold() > 0) {
      out_ += fmt::format(
          "{} {} of {} checks span so many ops whose values the trace lacks that rounding\nalone may be as large as the "
          "value; a "
          "trace with more values can tell.\n  {}\n",
          bold(tinted("follows as far as the trace tells.", Outcome::unknown)), report_.n_untold(),
          report_.isolation.checks.size(), run);
      return;
    }
    if (report_.follows()) {
      out_ += fmt::format("{} Every op that the trace shows follows from its own inputs.\n  {}\n",
                          bold(tinted("follows.", Outcome::pass)), run);
      return;
    }
    out_ +=
        fmt::format("{} {}\n",
                    bold(tinted(report_.faults.size() == 1 ? "1 fault" : fmt::format("{} faults", report_.faults.size()),
                                Outcome::fail)),
                    run);
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
      double worst = 0;
      const Check* check = nullptr;
      std::set<std::size_t> arithmetics;
    };
    std::vector<std::pair<std::string, Row>> rows;
    for (std::size_t i = 0; i < report_.isolation.checks.size(); ++i) {
      const Check& check = report_.isolation.checks[i];
      const std::string key(role(report_.op_values[check.op]));
      auto at = std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.first == key; });
      if (at == rows.end()) at = rows.insert(rows.end(), {key, Row{}});
      Row& row = at->second;
      ++row.n;
      if (check.at_fault) ++row.n_faults;
      row.arithmetics.insert(report_.isolation.groups[report_.isolation.group_of[i]].own);
      if (row.check == nullptr || check.ratio > row.worst || std::isnan(check.ratio)) {
        row.worst = check.ratio;
        row.check = &check;
      }
    }
    out_ += "\nops (error / allowance: above 1 does not follow)\n";
    out_ += fmt::format("  {:<18}{:>7}{:>7}  {:<24}{:>10}{:>10}{:>10}  {}\n", "value", "checks", "faults", "worst at",
                        "error", "allowed", "ratio", "arithmetic");
    for (const auto& [key, row] : rows) {
      const Check& check = *row.check;
      const std::string ratio = std::isfinite(check.ratio) ? fmt::format("{:.3g}", check.ratio) : "no number";
      out_ += fmt::format("  {:<18}{:>7}{:>7}  {:<24}{:>10.2g}{:>10.2g}{:>10}  {}\n", key, row.n, row.n_faults,
                          fmt::format("{} step {}", report_.op_values[check.op], check.step), check.rms_error,
                          check.allowed_rms, ratio, arithmetics()[*row.arithmetics.rbegin()].name);
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

// Rounds to four digits, since most of a long prompt's report are such numbers.
double rounded(float x) { return std::isfinite(x) ? std::strtod(fmt::format("{:.4g}", x).c_str(), nullptr) : x; }

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
  return outcome == Outcome::pass ? "pass" : outcome == Outcome::fail ? "fail" : "unknown";
}

std::string_view name(Stage stage) {
  switch (stage) {
    case Stage::file:
      return "file";
    case Stage::tokens:
      return "tokens";
    case Stage::chat_template:
      return "template";
    case Stage::parameters:
      return "parameters";
    case Stage::weights:
      return "weights";
    case Stage::ops:
      return "ops";
    case Stage::buffers:
      return "buffers";
    case Stage::cache:
      return "cache";
    case Stage::sampling:
      return "sampling";
  }
  return "";
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
                             {"layer", place.layer ? OrderedJson(*place.layer) : OrderedJson(nullptr)},
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
    json["proof"] = {{"outcome", p.outcome == Proof::Outcome::reproduced          ? "reproduced"
                                 : p.outcome == Proof::Outcome::too_small_to_tell ? "too_small_to_tell"
                                                                                  : "not_reproduced"},
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
  for (std::size_t i = 0; i < report.isolation.checks.size(); ++i) {
    const Check& check = report.isolation.checks[i];
    const std::string& value = report.op_values[check.op];
    const auto layer = layer_of(value);
    json["ops"].push_back({{"value", value},
                           {"op", report.op_kinds[check.op]},
                           {"layer", layer ? OrderedJson(*layer) : OrderedJson(nullptr)},
                           {"step", check.step},
                           {"rows", check.n_rows},
                           {"size", number(check.rms_expected)},
                           {"error", number(check.rms_error)},
                           {"allowed", number(check.allowed_rms)},
                           {"ratio", number(check.ratio)},
                           {"largest_error", number(check.largest_error)},
                           {"not_finite", check.n_not_finite},
                           {"worst",
                            {{"row", check.worst.row},
                             {"column", check.worst.column},
                             {"expected", number(check.worst.expected)},
                             {"found", number(check.worst.found)}}},
                           {"group", report.isolation.group_of[i]},
                           {"tells", check.tells},
                           {"fault", check.at_fault},
                           {"histogram", check.histogram},
                           {"row_ratio", [&] {
                              OrderedJson rows = OrderedJson::array();
                              for (const float r : check.row_ratio) rows.push_back(number(rounded(r)));
                              return rows;
                            }()}});
  }
  return json;
}

}  // namespace plumb::diagnose
