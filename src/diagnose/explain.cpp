#include "diagnose/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "diagnose/numbers.h"
#include "diagnose/proof.h"
#include "diagnose/search.h"

namespace plumb::diagnose {

namespace {

// An op at fault and its explanations, the best first; none if the cause is not known.
struct Explained {
  Evidence evidence;
  std::vector<Match> matches;

  [[nodiscard]] bool is_known() const { return !matches.empty(); }
};

class Explainer {
 public:
  Explainer(CheckedRun& run, const SearchLimits& limits) : run_(run), limits_(limits), search_(run, limits) {}

  Explanation explain() {
    mark_hidden_faults(run_, search_);
    const auto faulty = faulty_ops();
    std::size_t n_tried = 0;
    for (const auto& [op, checks] : faulty) {
      if (run_.progress) run_.progress("trying causes", n_tried++, faulty.size());
      const std::vector<std::size_t> left = left_by_earlier(op, checks);
      if (left.empty()) continue;
      Evidence evidence = evidence_of(run_, op, left, arithmetic_of(left.front()));
      std::vector<Match> matches = search_.matches(evidence);
      explained_.push_back({std::move(evidence), std::move(matches)});
    }
    merge();
    if (run_.progress) run_.progress("proving", 0, 1);
    if (!explained_.empty()) prove_all();
    try_alternatives();
    judge();
    for (Finding& finding : result_.findings) {
      if (search_.is_incomplete() && !finding.cause)
        finding.known.push_back(fmt::format(
            "not all causes were tried: the search stops after {:g} s; a trace with more values is searched faster",
            limits_.seconds));
    }
    return std::move(result_);
  }

 private:
  // The checks at fault, by op.
  [[nodiscard]] std::map<std::size_t, std::vector<std::size_t>> faulty_ops() const {
    std::map<std::size_t, std::vector<std::size_t>> result;
    for (std::size_t i = 0; i < run_.isolation.checks.size(); ++i) {
      if (run_.isolation.checks[i].at_fault) result[run_.isolation.checks[i].op].push_back(i);
    }
    return result;
  }

  // The arithmetic by which a check is judged.
  [[nodiscard]] std::size_t arithmetic_of(std::size_t check) const {
    return run_.isolation.groups[run_.isolation.checks[check].group].arithmetic;
  }

  // The checks of an op that are not consequences of earlier faults. Where the trace lacks steps, attention reads keys and
  // values that the reference computed for these steps, without the suspect's mistakes.
  std::vector<std::size_t> left_by_earlier(std::size_t op, const std::vector<std::size_t>& checks) {
    std::vector<std::uint32_t> steps(checks.size());
    std::transform(checks.begin(), checks.end(), steps.begin(),
                   [&](std::size_t check) { return run_.isolation.checks[check].step; });
    const std::vector<std::size_t> region = run_.replay.region(op, steps);
    std::vector<const Explained*> earlier;
    for (const Explained& e : explained_) {
      if (e.evidence.place.op != op && std::binary_search(region.begin(), region.end(), e.evidence.place.op))
        earlier.push_back(&e);
    }
    if (earlier.empty()) return checks;
    std::vector<std::size_t> left;
    if (std::all_of(earlier.begin(), earlier.end(), [](const Explained* e) { return e->is_known(); })) {
      Replay trial = run_.trial();
      for (const Explained* e : earlier) {
        for (Commit& commit : commits_of(run_, e->evidence, e->matches.front())) trial.commit(std::move(commit));
      }
      const Evidence evidence = evidence_of(run_, op, checks, arithmetic_of(checks.front()));
      const std::vector<float> y =
          scatter(trial.compute(op), evidence.width, run_.replay.rows_of(op), run_.suspect.n_rows());
      for (const std::size_t c : checks) {
        Check& check = run_.isolation.checks[c];
        const std::vector<std::uint32_t> rows = rows_of(check);
        check.misfit = evidence.ratio(rows, evidence.part(y, rows));
        if (check.misfit > 1) left.push_back(c);
      }
    }
    // A consequence of a fault without a known cause cannot be told from a fault of its own.
    for (const std::size_t c : checks) run_.isolation.checks[c].at_fault = std::count(left.begin(), left.end(), c) > 0;
    return left;
  }

  // Merges ops with the same cause into one finding.
  void merge() {
    result_.findings.clear();
    mistakes_.clear();
    std::map<std::string, std::size_t> by_cause;
    for (Explained& e : explained_) {
      Place& place = e.evidence.place;
      const std::string key = e.is_known() ? std::string(e.matches.front().cause.hypothesis->name)
                                           : "unknown at " + std::string(role(place.value));
      const auto [at, is_new] = by_cause.try_emplace(key, result_.findings.size());
      if (is_new) result_.findings.emplace_back();
      Finding& finding = result_.findings[at->second];
      if (e.is_known()) {
        const Match& best = e.matches.front();
        place.detail = best.cause.detail;
        place.residual = best.cause.residual;
        place.left = best.cause.ratio;
        is_new ? begin(finding, e.matches) : keep_common(finding, e.matches);
        for (Commit& commit : commits_of(run_, e.evidence, best)) mistakes_.push_back(std::move(commit));
      } else {
        if (is_new) finding.known = description(run_, e.evidence);
        mistakes_.push_back(suspects_own(run_, e.evidence));
      }
      finding.places.push_back(place);
    }
  }

  // Takes the best match as the cause; the alternatives are its other variants and one variant of each other hypothesis.
  static void begin(Finding& finding, const std::vector<Match>& matches) {
    finding.cause = matches.front().cause;
    std::set<const Hypothesis*> named{finding.cause->hypothesis};
    for (std::size_t i = 1; i < matches.size(); ++i) {
      const Cause& other = matches[i].cause;
      if (other.hypothesis == finding.cause->hypothesis || named.insert(other.hypothesis).second)
        finding.alternatives.push_back(other);
    }
  }

  // Drops alternatives that another place of the finding does not share.
  static void keep_common(Finding& finding, const std::vector<Match>& matches) {
    if (matches.size() == 1 && is_clear(matches.front())) return;  // others were not tried
    std::erase_if(finding.alternatives, [&](const Cause& cause) {
      return std::none_of(matches.begin(), matches.end(),
                          [&](const Match& m) { return m.cause.hypothesis == cause.hypothesis; });
    });
  }

  void prove_all() {
    const auto proof = prove(run_, mistakes_);
    if (!proof) return;
    result_.proof = proof;
    result_.proof->borrows =
        std::any_of(explained_.begin(), explained_.end(), [](const Explained& e) { return !e.is_known(); });
  }

  // If the run does not follow from the first cause, it may follow from another that fits the op as well.
  void try_alternatives() {
    constexpr std::size_t most_tried = 4;
    const auto is_refuted = [&] { return result_.proof && result_.proof->outcome == Proof::Outcome::not_reproduced; };
    if (!is_refuted() || result_.findings.size() != 1) return;
    std::vector<const Hypothesis*> others;
    for (const Cause& other : result_.findings.front().alternatives) {
      if (other.hypothesis != result_.findings.front().cause->hypothesis && others.size() < most_tried)
        others.push_back(other.hypothesis);
    }
    if (others.empty()) return;
    const std::optional<Proof> first_proof = result_.proof;
    const std::vector<Explained> as_ranked = explained_;
    for (const Hypothesis* const other : others) {
      explained_ = as_ranked;
      bool is_everywhere = true;
      for (Explained& e : explained_) {
        const auto found = std::find_if(e.matches.begin(), e.matches.end(),
                                        [&](const Match& match) { return match.cause.hypothesis == other; });
        is_everywhere = is_everywhere && found != e.matches.end();
        if (found != e.matches.end()) std::rotate(e.matches.begin(), found, found + 1);
      }
      if (!is_everywhere) continue;
      merge();
      prove_all();
      if (!is_refuted()) return;
    }
    explained_ = as_ranked;
    merge();
    result_.proof = first_proof;
  }

  void judge() {
    const bool proven = result_.proof && result_.proof->outcome != Proof::Outcome::not_reproduced;
    for (Finding& finding : result_.findings) {
      std::sort(finding.places.begin(), finding.places.end(), [](const Place& a, const Place& b) { return a.op < b.op; });
      if (!finding.cause) continue;
      const Hypothesis* const cause = finding.cause->hypothesis;
      const bool has_rival = std::any_of(finding.alternatives.begin(), finding.alternatives.end(),
                                         [&](const Cause& other) { return other.hypothesis != cause; });
      const bool near = finding.cause->residual <= 0.1;
      const bool explains = cause->meaning != Meaning::description;
      finding.confidence = !has_rival && proven && near && explains && finding.stands_alone() && finding.is_whole()
                               ? Confidence::high
                           : near && (proven || finding.is_whole()) ? Confidence::medium
                                                                    : Confidence::low;
    }
    std::sort(result_.findings.begin(), result_.findings.end(),
              [](const Finding& a, const Finding& b) { return a.places.front().op < b.places.front().op; });
  }

  CheckedRun& run_;
  const SearchLimits& limits_;
  Search search_;
  std::vector<Explained> explained_;
  std::vector<Commit> mistakes_;  // the reference makes them to prove the findings
  Explanation result_;
};

}  // namespace

std::string_view name(Confidence confidence) {
  return confidence == Confidence::high ? "high" : confidence == Confidence::medium ? "medium" : "low";
}

bool Finding::is_whole() const {
  constexpr double most_left = 4;  // not 1: the allowance was computed for the right op's numbers
  return std::all_of(places.begin(), places.end(), [](const Place& place) { return place.left <= most_left; });
}

bool Finding::stands_alone() const {
  return std::any_of(places.begin(), places.end(), [](const Place& place) { return place.region.size() == 1; });
}

Explanation explain(CheckedRun& run, const SearchLimits& limits) { return Explainer(run, limits).explain(); }

}  // namespace plumb::diagnose
