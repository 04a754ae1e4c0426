#include "diagnose/diagnose.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <utility>

#include "base/machine.h"
#include "diagnose/parameters.h"
#include "diagnose/sampling.h"
#include "text/chat_template.h"
#include "text/tokenizer/tokenizer.h"

namespace plumb::diagnose {

namespace {

// A trace may have at least this many tokens, even if the model's context is shorter.
constexpr std::uint32_t least_context = 4096;

// The time to try other lengths of the prompt than the most likely one.
constexpr std::chrono::seconds most_for_lengths{5};

// The outcome of a stage of which it is known whether it fails or passes; neither: unknown.
Outcome outcome_of(bool fails, bool passes) { return fails ? Outcome::fail : passes ? Outcome::pass : Outcome::unknown; }

class Diagnosis {
 public:
  Diagnosis(const model::Model& model, const trace::Trace& trace, const Settings& settings)
      : model_(model), plan_(*model.plan()), trace_(trace), settings_(settings) {}

  Result<Report> run() {
    const auto start = std::chrono::steady_clock::now();
    const trace::Info& info = trace_.info();
    if (!info.model_sha256.empty() && !settings_.file_sha256.empty() && info.model_sha256 != settings_.file_sha256) {
      return fail(
          "the trace was made from another file ({}, SHA-256 {}…), not from this one ({}…); give the file it was made from",
          info.model, info.model_sha256.substr(0, 12), settings_.file_sha256.substr(0, 12));
    }
    PLUMB_TRY(Suspect suspect, Suspect::bind(plan_, trace_));
    // Missing values are computed, and attention's time grows with the square of the tokens.
    const std::uint32_t most_rows = std::max(model_.parameters().context, least_context);
    if (suspect.n_rows() > most_rows) {
      return fail("the trace is of {} tokens; a diagnosis takes at most {}, the model's context being {}", suspect.n_rows(),
                  most_rows, model_.parameters().context);
    }
    PLUMB_TRY(const std::unique_ptr<CheckedRun> checked, check_ops(std::move(suspect)));
    const Suspect& run = checked->suspect;
    describe(run);
    const bool is_compared = !info.model_sha256.empty() && !settings_.file_sha256.empty();
    stage(Stage::file, outcome_of(false, is_compared),
          is_compared ? fmt::format("the trace is of this file (SHA-256 {}…)", settings_.file_sha256.substr(0, 12))
                      : "the trace does not say from which bytes it was made");
    PLUMB_CHECK(tokens(run));
    const Explanation explanation = explain(*checked, settings_.limits);
    report_.isolation = std::move(checked->isolation);
    report_.proof = explanation.proof;
    op_faults(explanation);
    parameters();
    ops_stages(run);
    sampling(run);
    report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(report_);
  }

 private:
  // Tries the lengths that the prompt may have. Returns the run with the first length by which no op is at fault, or else
  // with the one by which the fewest are.
  [[nodiscard]] Result<std::unique_ptr<CheckedRun>> check_ops(Suspect suspect) const {
    const auto checked = [&](Suspect of) {
      const std::uint32_t n_threads = settings_.n_threads > 0 ? settings_.n_threads : usable_cores();
      return std::make_unique<CheckedRun>(model_, std::move(of), settings_.allowance, n_threads, settings_.progress);
    };
    const auto n_faults = [](const CheckedRun& run) {
      const std::vector<Check>& checks = run.isolation.checks;
      return std::count_if(checks.begin(), checks.end(), [](const Check& check) { return check.at_fault; });
    };
    const std::vector<std::uint32_t> lengths = suspect.other_lengths();
    const auto end = std::chrono::steady_clock::now() + most_for_lengths;
    std::unique_ptr<CheckedRun> best = checked(std::move(suspect));
    for (const std::uint32_t length : lengths) {
      if (n_faults(*best) == 0 || std::chrono::steady_clock::now() > end) break;
      PLUMB_TRY(Suspect other, Suspect::bind(plan_, trace_, length));
      std::unique_ptr<CheckedRun> run = checked(std::move(other));
      if (n_faults(*run) < n_faults(*best)) best = std::move(run);
    }
    return best;
  }

  void describe(const Suspect& suspect) {
    report_.engine = trace_.info().engine;
    report_.model = trace_.info().model.empty() ? model_.file().label() : trace_.info().model;
    report_.prompt = trace_.info().prompt;
    report_.n_prompt = suspect.end(0);
    report_.n_steps = suspect.n_steps() - 1;
    report_.n_values = suspect.n_values();
    report_.unknown_names = suspect.unknown_names();
    report_.allowance_factor = settings_.allowance.factor;
    report_.strict = settings_.allowance.strict;
    for (const plan::Op& op : plan_.ops) {
      const auto out = plan::output(op);
      report_.op_values.push_back(out ? plan_.value(*out).name : std::string(plan::name(op)));
      report_.op_kinds.emplace_back(plan::name(op));
    }
  }

  void stage(Stage stage, Outcome outcome, std::string evidence) {
    report_.stages.push_back({stage, outcome, std::move(evidence)});
  }

  Result<void> tokens(const Suspect& suspect) {
    const auto unknown = [&](const std::string& why) {
      for (const Stage which : {Stage::tokens, Stage::chat_template}) stage(which, Outcome::unknown, why);
    };
    std::vector<text::TokenId> tokens;
    for (std::uint32_t r = 0; r < suspect.end(0); ++r) tokens.push_back(suspect.rows()[r].token);
    const auto tokenizer = text::Tokenizer::load(model_.file());
    if (!settings_.tokens.empty()) {
      const TokenCheck check =
          check_ids(tokenizer ? tokenizer->special() : text::SpecialTokens(), tokens, settings_.tokens);
      stage(Stage::tokens, outcome_of(!check.follows, true), check.evidence);
      stage(Stage::chat_template, Outcome::unknown, "token ids were given, no text");
      token_faults(check, !check.follows, "with this mistake those given are the run's exactly");
      return {};
    }
    std::optional<Prompt> prompt = settings_.prompt;
    if (!prompt && !trace_.info().prompt.empty())
      prompt = Prompt{.text = trace_.info().prompt, .system = {}, .form = Prompt::Form::either};
    if (!prompt) {
      unknown("the trace does not say what its prompt was; -p gives it");
      return {};
    }
    if (!tokenizer) {
      unknown(tokenizer.error().message);
      return {};
    }
    prompt->variables = settings_.chat.variables;
    const auto of_file = model_.file().get_string("tokenizer.chat_template");
    const std::optional<std::string> source = settings_.chat.chat_template ? settings_.chat.chat_template
                                              : of_file                    ? std::optional<std::string>(*of_file)
                                                                           : std::nullopt;
    std::optional<text::ChatTemplate> chat_template;
    if (source) {
      if (auto parsed = text::ChatTemplate::parse(*source)) chat_template = std::move(*parsed);
    }
    PLUMB_TRY(const TokenCheck check, check_tokens(*tokenizer, chat_template, tokens, *prompt));
    const auto is_of_template = [](const BrokenRule& r) { return r.hypothesis->kind == Kind::chat_template; };
    const bool template_broken = std::any_of(check.broken.begin(), check.broken.end(), is_of_template);
    const bool tokens_broken =
        check.broken.size() > (template_broken ? 1u : 0u) || (!check.follows && check.broken.empty() && !check.spells);
    stage(Stage::tokens, outcome_of(tokens_broken, !check.spells),
          tokens_broken || check.follows || check.spells
              ? check.evidence
              : "the tokens are those of the text that the engine's template made");
    stage(Stage::chat_template, outcome_of(template_broken, check.follows),
          template_broken       ? check.evidence
          : check.used_template ? "the prompt is what the chat template makes"
          : check.follows       ? "the prompt went to the model as it is written"
          : check.spells        ? check.evidence
                                : "the tokens differ before it can be told");
    token_faults(check, tokens_broken, "with this mistake the file's tokenizer gives the run's tokens exactly");
    return {};
  }

  void token_faults(const TokenCheck& check, bool tokens_broken, std::string_view proof) {
    for (const BrokenRule& rule : check.broken) {
      report_.faults.push_back(
          {.stage = rule.hypothesis->kind == Kind::chat_template ? Stage::chat_template : Stage::tokens,
           .hypothesis = rule.hypothesis,
           .detail = rule.detail,
           .confidence = Confidence::high,
           .evidence = fmt::format("{}; {}", check.evidence, proof)});
    }
    if (tokens_broken && check.broken.empty()) {
      report_.faults.push_back({.stage = Stage::tokens, .confidence = Confidence::medium, .evidence = check.evidence});
    }
  }

  // The parameters stage: the hyper-parameters that the engine reports, and those that its ops show.
  void parameters() {
    const DeclaredParameters declared = compare(trace_.info().parameters, model_);
    std::vector<std::string> shown = declared.differ;
    for (const Fault& fault : report_.faults) {
      if (is_of(fault, Kind::parameter))
        shown.push_back(fmt::format("{}: {}", fault.places.front().value, fault.hypothesis->name));
    }
    std::size_t n_checked = 0;
    bool all = true;
    for (const Check& check : report_.isolation.checks) {
      const plan::Op& op = plan_.ops[check.op];
      if (!std::holds_alternative<plan::Norm>(op) && !std::holds_alternative<plan::Rope>(op) &&
          !std::holds_alternative<plan::Attention>(op))
        continue;
      if (check.tells) ++n_checked;
      all = all && check.tells && !check.at_fault;
    }
    std::string evidence = !shown.empty() ? fmt::format("{}", fmt::join(shown, "; "))
                           : trace_.info().parameters.empty()
                               ? "the engine does not state them"
                               : fmt::format("{} that the engine states are the file's", declared.agree.size());
    const bool all_follow = n_checked > 0 && all;
    if (shown.empty() && all_follow)
      evidence += "; norms, rotations and attentions follow with the file's eps, base, heads, scale and window";
    if (!declared.unknown.empty()) evidence += fmt::format("; not compared: {}", fmt::join(declared.unknown, ", "));
    stage(Stage::parameters, outcome_of(!shown.empty(), all_follow), evidence);
    if (declared.differ.empty()) return;
    const bool seen = shown.size() > declared.differ.size();
    report_.faults.insert(
        std::find_if(report_.faults.begin(), report_.faults.end(), [](const Fault& f) { return f.stage >= Stage::ops; }),
        {.stage = Stage::parameters,
         .hypothesis = &families::parameters().front(),
         .detail = fmt::format("{}", fmt::join(declared.differ, "; ")),
         .confidence = seen ? Confidence::high : Confidence::medium,
         .evidence = seen ? "the engine says so, and its ops show it"
                          : "the engine says so; its ops, as far as the trace shows them, do not"});
  }

  void op_faults(const Explanation& explanation) {
    for (const Finding& finding : explanation.findings) {
      Fault fault;
      fault.stage = Stage::ops;
      if (finding.cause) {
        fault.hypothesis = finding.cause->hypothesis;
        fault.detail = finding.cause->detail;
        if (finding.cause->op != finding.places.front().value)
          fault.detail += fmt::format("{}in {}", fault.detail.empty() ? "" : ", ", finding.cause->op);
      }
      fault.confidence = finding.confidence;
      fault.places = finding.places;
      fault.alternatives = finding.alternatives;
      fault.known = finding.known;
      if (finding.cause && !finding.is_whole())
        fault.known.emplace_back("the cause leaves more than rounding does: there is something else, too");
      if (finding.cause && !finding.stands_alone())
        fault.known.emplace_back(
            "the trace lacks values in between: a mistake in another of these ops could come to the same");
      const Check& check = report_.isolation.checks[finding.places.front().checks.front()];
      fault.evidence = fmt::format("{}: error {:.3g} where {:.2g} is allowed, {:.3g} being its size",
                                   finding.places.front().value, check.rms_error, check.allowed_rms, check.rms_expected);
      if (check.rms_error <= check.allowed_rms && check.n_not_finite == 0)
        fault.evidence += "; single elements are further off than any may be";
      if (check.n_not_finite > 0)
        fault.evidence += fmt::format("; {} elements are not finite and should be", check.n_not_finite);
      fault.evidence += fmt::format("; at row {}, column {} it is {:.6g} where {:.6g} belongs", check.worst.row,
                                    check.worst.column, check.worst.found, check.worst.expected);
      if (finding.cause)
        fault.evidence += fmt::format("; the mistake explains all but {:.2g} of the error", finding.cause->residual);
      report_.faults.push_back(std::move(fault));
    }
  }

  [[nodiscard]] static bool is_of(const Fault& fault, Kind kind) {
    return fault.hypothesis != nullptr && fault.hypothesis->kind == kind;
  }
  [[nodiscard]] bool has_fault_of(Kind kind) const {
    return std::any_of(report_.faults.begin(), report_.faults.end(), [&](const Fault& f) { return is_of(f, kind); });
  }

  void ops_stages(const Suspect& suspect) {
    std::set<std::size_t> ops, faulty, products, faulty_products;
    std::size_t decode_attention = 0, faulty_decode_attention = 0;
    for (const Check& check : report_.isolation.checks) {
      ops.insert(check.op);
      if (check.at_fault) faulty.insert(check.op);
      if (std::holds_alternative<plan::Linear>(plan_.ops[check.op]) && check.tells) {
        products.insert(check.op);
        if (check.at_fault) faulty_products.insert(check.op);
      }
      if (std::holds_alternative<plan::Attention>(plan_.ops[check.op]) && check.step > 0 && check.tells) {
        ++decode_attention;
        if (check.at_fault) ++faulty_decode_attention;
      }
    }
    const bool weights_named = has_fault_of(Kind::weight);
    stage(Stage::weights, outcome_of(weights_named, !products.empty() && faulty_products.empty()),
          weights_named      ? "a weight is not read as the file has it"
          : products.empty() ? "the trace shows no product"
          : faulty_products.empty()
              ? fmt::format("{} products follow from the file's weights", products.size())
              : fmt::format("{} of {} products do not follow, and nothing shows that it is their weights",
                            faulty_products.size(), products.size()));
    std::size_t n_outputs = 0;
    for (const plan::Op& op : plan_.ops) n_outputs += plan::output(op) ? 1 : 0;
    const std::size_t n_untold = report_.n_untold();
    stage(Stage::ops, outcome_of(!faulty.empty(), n_untold == 0),
          fmt::format("{} of {} ops were recomputed from their own inputs{}; {} do{} not follow", ops.size(), n_outputs,
                      ops.size() < n_outputs ? " (the others as part of those, where the trace lacks values)" : "",
                      faulty.size(), faulty.size() == 1 ? "es" : "") +
              (n_untold == 0 ? ""
                             : fmt::format("; {} of {} checks span so many ops that rounding may be as large as the value",
                                           n_untold, report_.isolation.checks.size())));
    const bool buffers = has_fault_of(Kind::buffer);
    stage(Stage::buffers, outcome_of(buffers, false),
          buffers ? "an op's output is not what it wrote"
                  : "a trace does not show memory; --backend diagnoses a backend of Plumb in memory full of NaN too");
    stage(Stage::cache, outcome_of(has_fault_of(Kind::cache) || faulty_decode_attention > 0, decode_attention > 0),
          decode_attention == 0 ? "the trace shows no attention after the prompt's pass"
          : faulty_decode_attention == 0
              ? fmt::format("attention after the prompt's pass follows from the keys and values of all {} steps before and "
                            "their own",
                            suspect.n_steps())
              : fmt::format("{} of {} attentions after the prompt's pass do not follow from the keys and values written",
                            faulty_decode_attention, decode_attention));
  }

  void sampling(const Suspect& suspect) {
    SamplingCheck check = check_sampling(suspect);
    report_.stages.push_back(check.stage);
    if (check.broken == nullptr) return;
    report_.faults.push_back({.stage = Stage::sampling,
                              .hypothesis = check.broken,
                              .detail = std::move(check.detail),
                              .confidence = Confidence::high,
                              .evidence = std::move(check.stage.evidence)});
  }

  const model::Model& model_;
  const plan::Plan& plan_;
  const trace::Trace& trace_;
  const Settings& settings_;
  Report report_;
};

}  // namespace

Result<Report> diagnose_trace(const model::Model& model, const trace::Trace& trace, const Settings& settings) {
  return Diagnosis(model, trace, settings).run();
}

}  // namespace plumb::diagnose
