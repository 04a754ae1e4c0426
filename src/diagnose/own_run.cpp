#include "diagnose/own_run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "base/at_signal.h"
#include "base/half.h"
#include "base/machine.h"
#include "base/system_error.h"
#include "diagnose/numbers.h"
#include "diagnose/replay.h"

namespace plumb::diagnose {

namespace {

using text::TokenId;

constexpr Hypothesis run_table[] = {
    {"weight-changed-on-device", Kind::weight, R"(weights on the device are not the file's
What was uploaded, read back, differs: a wrong offset, or a write past another buffer.
check the upload's offsets and sizes)"},
    {"run-not-deterministic", Kind::buffer, R"(the same run gives other bits
Memory that was never written, or a race: the result depends on what was there before.
run the kernels under the checker)"},
    {"cache-differs-from-prefill", Kind::cache, R"(steps after the prompt differ from the prompt's pass
The same tokens in one pass and one by one must give the same logits, but for rounding.
compare what attention reads of the cache with what was written)"},
    {"fused-run-differs", Kind::op, R"(the run differs when nobody watches
Fused kernels run then, and the unfused ones that were checked do not.
check the fused kernels against the ops they stand for)"},
};

TokenId most_likely(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// |a - b| / |b|, as root mean squares.
double distance(std::span<const float> a, std::span<const float> b) {
  return std::sqrt(squared_distance(a, b) / std::max(squares(b), 1e-60));
}

float to_half(float v) { return f16_to_f32(f32_to_f16(v)); }

std::vector<float> to_halves(std::span<const float> values) {
  std::vector<float> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), to_half);
  return result;
}

// A product or an attention with operands rounded to float16, as in kernels for matrix units (docs/kernels.md).
std::vector<float> from_halves(const Site& site) {
  Scene scene = site.scene;
  std::map<std::uint32_t, std::vector<float>> rounded;
  scene.value = [&](plan::ValueId id) -> std::span<const float> {
    auto& values = rounded[id.index];
    if (values.empty()) values = to_halves(site.scene.value(id));
    return values;
  };
  scene.weight = [&](plan::WeightId id) -> RowSource {
    return [rows = site.scene.weight(id)](std::uint64_t row, std::span<float> out) {
      rows(row, out);
      std::transform(out.begin(), out.end(), out.begin(), to_half);
    };
  };
  std::map<const float*, std::vector<float>> cached;  // by the row's address
  const auto of_cache = [&](auto right, std::size_t width) {
    return [&cached, right, width](std::uint32_t layer, std::uint64_t row, std::uint32_t position) -> const float* {
      const float* at = right(layer, row, position);
      auto& values = cached[at];
      if (values.empty()) values = to_halves({at, width});
      return values.data();
    };
  };
  if (const auto* attention = std::get_if<plan::Attention>(&site.op)) {
    const plan::KvWrite& write = site.replay.kv_write(attention->layer);
    scene.n_threads = 1;  // `cached` is filled while rows are read
    scene.key = of_cache(site.scene.key, scene.plan->value(write.k).width);
    scene.cached_value = of_cache(site.scene.cached_value, scene.plan->value(write.v).width);
  }
  return site.compute(site.op, scene);
}

// A file in a new folder to which nobody else may write. Both are deleted with this object.
class TemporaryFile {
 public:
  static Result<TemporaryFile> create() {
    std::error_code error;
    std::string folder = (std::filesystem::temp_directory_path(error) / "plumb-XXXXXX").string();
    if (error) return fail("no folder for temporary files: {}; TMPDIR names one", error.message());
    if (::mkdtemp(folder.data()) == nullptr)
      return fail("{}: cannot make a temporary folder: {}", folder, system_reason(errno));
    return TemporaryFile(std::move(folder));
  }
  ~TemporaryFile() {
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }
  TemporaryFile(TemporaryFile&& other) noexcept
      : folder_(std::exchange(other.folder_, {})),
        removed_folder_(std::move(other.removed_folder_)),
        removed_file_(std::move(other.removed_file_)) {}
  TemporaryFile& operator=(TemporaryFile&&) = delete;
  [[nodiscard]] std::filesystem::path path() const { return folder_ / "run.safetensors"; }

 private:
  explicit TemporaryFile(std::filesystem::path folder)
      : folder_(std::move(folder)), removed_folder_(folder_.native()), removed_file_(path().native()) {}
  std::filesystem::path folder_;
  RemovedAtSignal removed_folder_, removed_file_;
};

class OwnRun {
 public:
  OwnRun(engine::Engine& engine, const trace::Trace& trace, const Settings& settings, Report& report)
      : engine_(engine), plan_(*engine.model().plan()), trace_(trace), settings_(settings), report_(report) {}

  Result<void> run() {
    tokens_ = trace_.info().tokens;
    n_prompt_ = report_.n_prompt;
    stage(Stage::file) = {Stage::file, Outcome::pass, "the run was made from this file"};
    auto next = [&, n_done = 0u]() mutable {
      constexpr std::uint32_t n_parts = 4;
      if (settings_.progress) settings_.progress("running it again", n_done++, n_parts);
    };
    next();
    PLUMB_CHECK(weights());
    PLUMB_TRY(first_, as_it_is());
    next();
    engine_.executor().poison_memory(true);
    auto poisoned = as_it_is();
    engine_.executor().poison_memory(false);
    PLUMB_TRY(const std::vector<float> second, std::move(poisoned));
    buffers(second);
    // The distance of the recorded run, all of whose ops follow, shows how much rounding alone may do.
    if (!report_.follows()) return {};
    next();
    reference();
    next();
    unwatched();
    return cache();
  }

 private:
  StageResult& stage(Stage which) {
    return *std::find_if(report_.stages.begin(), report_.stages.end(),
                         [&](const StageResult& s) { return s.stage == which; });
  }
  void fault(Stage which, const Hypothesis& cause, std::string detail, std::string evidence) {
    stage(which) = {which, Outcome::fail, evidence};
    report_.faults.push_back({.stage = which,
                              .hypothesis = &cause,
                              .detail = std::move(detail),
                              .confidence = Confidence::high,
                              .evidence = std::move(evidence)});
  }

  Result<void> weights() {
    PLUMB_TRY(const auto changed, engine_.executor().changed_weights());
    if (!changed) {
      stage(Stage::weights).evidence += "; the backend reads the file's own bytes";
    } else if (changed->empty()) {
      stage(Stage::weights) = {
          Stage::weights, Outcome::pass,
          fmt::format("all {} weights on the device, read back, are the file's", plan_.weights.size())};
    } else {
      fault(Stage::weights, entry(run_table, "weight-changed-on-device"),
            fmt::format("{}{}", changed->front(),
                        changed->size() > 1 ? fmt::format(" and {} more", changed->size() - 1) : ""),
            fmt::format("{} of {} weights, read back, are not the file's", changed->size(), plan_.weights.size()));
    }
    return {};
  }

  // The logits of every step, [n_steps + 1, vocab], with no values watched.
  Result<std::vector<float>> as_it_is() {
    engine_.executor().unwatch();
    PLUMB_TRY(const auto cache, engine_.new_cache());
    std::vector<float> all;
    for (std::size_t at = 0; at < tokens_.size();) {
      const std::size_t n = at == 0 ? n_prompt_ : 1;
      PLUMB_TRY(const std::span<const float> logits, engine_.prefill(*cache, std::span(tokens_).subspan(at, n)));
      all.insert(all.end(), logits.begin(), logits.end());
      at += n;
    }
    return all;
  }

  void buffers(const std::vector<float>& second) {
    const auto differ = std::mismatch(first_.begin(), first_.end(), second.begin(),
                                      [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); });
    if (differ.first == first_.end()) {
      stage(Stage::buffers) = {Stage::buffers, Outcome::pass,
                               "the run, made again in memory full of NaN, gives the same bits"};
      return;
    }
    const auto at = static_cast<std::size_t>(differ.first - first_.begin());
    fault(Stage::buffers, entry(run_table, "run-not-deterministic"), "",
          fmt::format("logit {} after step {} is {:.9g} in one run and {:.9g} in another whose memory was full of NaN",
                      at % plan_.vocab, at / plan_.vocab, *differ.first, *differ.second));
  }

  // The reference's logits after every step; in_halves: with operands rounded to float16.
  std::vector<float> replayed(bool in_halves) {
    std::vector<backends::Row> rows;
    for (std::uint32_t i = 0; i < tokens_.size(); ++i) {
      rows.push_back({.token = tokens_[i], .sequence = i < n_prompt_ ? 0 : i - n_prompt_ + 1, .position = i});
    }
    std::vector<std::uint32_t> logit_rows(tokens_.size() - n_prompt_ + 1);
    std::iota(logit_rows.begin(), logit_rows.end(), n_prompt_ - 1);
    Replay replay(engine_.model(), rows, nullptr, logit_rows,
                  settings_.n_threads > 0 ? settings_.n_threads : usable_cores());
    for (std::size_t op = 0; in_halves && op < plan_.ops.size(); ++op) {
      if (std::holds_alternative<plan::Linear>(plan_.ops[op]) || std::holds_alternative<plan::Attention>(plan_.ops[op]))
        replay.commit({.op = op, .rows = {}, .mistake = from_halves});
    }
    const Values all = replay.value(plan_.logits);
    return {all->begin() + static_cast<std::ptrdiff_t>(n_prompt_ - 1) * plan_.vocab, all->end()};
  }

  void reference() {
    right_ = replayed(false);
    std::vector<float> recorded;
    for (std::uint32_t step = 0; step <= report_.n_steps; ++step) {
      const trace::Value* value = trace_.find(step, plan_.value(plan_.logits).name);
      if (value == nullptr) return;
      const std::vector<float> data = value->floats();
      recorded.insert(recorded.end(), data.end() - static_cast<std::ptrdiff_t>(plan_.vocab), data.end());
    }
    recorded_ = distance(recorded, right_);
  }
  // Whether logits may be this far from the reference's. Watched ops run one by one and round little. Fast kernels round
  // operands to halves; the noise floor is the effect of this rounding on the reference.
  bool is_allowed(double d) {
    if (d <= settings_.allowance.factor * (3 * recorded_ + 1e-5)) return true;
    if (!in_halves_) in_halves_ = distance(replayed(true), right_);
    return d <= settings_.allowance.factor * 3 * std::hypot(recorded_, *in_halves_);
  }
  [[nodiscard]] std::string noise() const {
    return in_halves_ ? fmt::format(" (operands of float16 alone make {:.2g})", *in_halves_) : "";
  }

  void unwatched() {
    const double d = distance(first_, right_);
    const bool allowed = is_allowed(d);
    const std::string figures = fmt::format(
        "its logits are {:.2g} from the reference's, those of the run that was recorded {:.2g}{}", d, recorded_, noise());
    if (!allowed) {
      fault(Stage::ops, entry(run_table, "fused-run-differs"), "", "without anybody watching, " + figures);
    } else {
      stage(Stage::ops).evidence += "; as it runs unwatched, " + figures;
    }
  }

  Result<void> cache() {
    if (tokens_.size() == n_prompt_ || tokens_.size() > engine_.executor().max_batch()) return {};
    PLUMB_TRY(const auto cache, engine_.new_cache());
    PLUMB_TRY(const std::span<const float> logits,
              engine_.executor().run({.cache = cache.get(), .tokens = tokens_, .outputs = backends::Outputs::all}));
    const auto part = logits.subspan((n_prompt_ - 1) * plan_.vocab);
    const double d = distance(part, right_);
    const bool allowed = is_allowed(d);
    const std::string figures =
        fmt::format("the same tokens in one pass: logits {:.2g} from the reference's, step by step {:.2g}{}", d,
                    distance(first_, right_), noise());
    if (!allowed) {
      fault(Stage::cache, entry(run_table, "cache-differs-from-prefill"), "", figures);
    } else {
      stage(Stage::cache).evidence += "; " + figures;
    }
    return {};
  }

  engine::Engine& engine_;
  const plan::Plan& plan_;
  const trace::Trace& trace_;
  const Settings& settings_;
  Report& report_;
  std::vector<TokenId> tokens_;
  std::uint32_t n_prompt_ = 0;
  std::vector<float> first_, right_;  // the engine's logits, and the reference's
  double recorded_ = 0;               // distance between the recorded run and the reference
  std::optional<double> in_halves_;   // distance between the reference with float16 operands and the reference
};

}  // namespace

std::span<const Hypothesis> families::run() { return run_table; }

Result<Recorded> record(engine::Engine& engine, std::span<const TokenId> prompt, const std::filesystem::path& path,
                        trace::Info info, const RecordOptions& options) {
  backends::Executor& executor = engine.executor();
  if (prompt.empty()) return fail("the prompt has no tokens");
  info.tokens.assign(prompt.begin(), prompt.end());
  const auto wanted = [&](std::string_view name) {
    return options.wanted ? options.wanted(name) : !backends::is_probs_name(name);
  };
  const plan::Plan& plan = *engine.model().plan();
  std::size_t a_step = 0, n_probs = 0;  // values
  for (const plan::Value& value : plan.values) a_step += wanted(value.name) ? 1 : 0;
  for (const plan::Op& op : plan.ops) {
    const auto* attention = std::get_if<plan::Attention>(&op);
    if (attention != nullptr && wanted(backends::probs_name(plan, *attention))) ++n_probs;
  }
  a_step += n_probs;
  if (prompt.size() > executor.max_batch() && n_probs > 0) {
    return fail("attention weights can be traced of prompts that one pass takes, of {} tokens at most; this one has {}",
                executor.max_batch(), prompt.size());
  }
  if (a_step == 0) return fail("no value of the run is wanted; docs/architecture.md has the names, such as blk.0.attn_q");
  PLUMB_TRY(auto writer, trace::Writer::create(path, info, a_step * (1 + std::size_t{options.n_steps})));

  Recorded recorded;
  Result<void> written;
  std::size_t first = 0, n = 0;  // the prompt's rows that this pass computes
  const auto add = [&](std::string_view name, std::uint64_t rows, std::uint64_t width,
                       std::span<const float> data) -> Result<void> {
    const bool is_prompt = recorded.n_steps == 0;
    if (is_prompt && rows == n && (first == 0 || writer.has(0, name))) {
      if (first == 0) ++recorded.n_values;
      recorded.n_bytes += data.size_bytes();
      return writer.add_part(0, name, prompt.size(), width, first, data);
    }
    // A value that a pass computes only for its last rows is recorded only in the prompt's last pass.
    if (is_prompt && first + n < prompt.size()) return {};
    ++recorded.n_values;
    recorded.n_bytes += data.size_bytes();
    return writer.add(recorded.n_steps, name, rows, width, data);
  };
  executor.watch(wanted, [&](std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<const float> data) {
    if (written) written = add(name, rows, width, data);
  });
  const auto run = [&]() -> Result<void> {
    PLUMB_TRY(const auto cache, engine.new_cache());
    info.context = cache->capacity();
    PLUMB_CHECK(engine::Engine::check_room(*cache, prompt.size(), std::max<std::uint32_t>(1, options.n_steps)));
    std::span<const float> logits;
    for (; first < prompt.size() && written; first += n) {
      if (options.interrupted && options.interrupted()) return fail("interrupted; nothing was written");
      n = std::min<std::size_t>(prompt.size() - first, executor.max_batch());
      PLUMB_TRY(logits, executor.run({.cache = cache.get(), .tokens = prompt.subspan(first, n)}));
    }
    while (recorded.n_steps < options.n_steps && written) {
      const TokenId token = most_likely(logits);
      if (engine.tokenizer().ends_generation(token) || cache->length() == cache->capacity()) break;
      if (options.interrupted && options.interrupted()) return fail("interrupted; nothing was written");
      info.tokens.push_back(token);
      ++recorded.n_steps;
      PLUMB_TRY(logits, executor.run({.cache = cache.get(), .tokens = std::span(&token, 1)}));
    }
    return written;
  };
  const Result<void> result = run();
  executor.unwatch();
  PLUMB_CHECK(result);
  PLUMB_CHECK(writer.finish(info));
  return recorded;
}

Result<Report> diagnose_engine(engine::Engine& engine, std::span<const TokenId> prompt, trace::Info info,
                               const RecordOptions& options, const Settings& settings) {
  PLUMB_TRY(const TemporaryFile file, TemporaryFile::create());
  RecordOptions recording = options;
  recording.interrupted = [&, n_passes = 0u]() mutable {
    if (settings.progress) settings.progress("recording the run, pass", ++n_passes, 0);
    return options.interrupted && options.interrupted();
  };
  PLUMB_CHECK(record(engine, prompt, file.path(), std::move(info), recording));
  PLUMB_TRY(const trace::Trace trace, trace::Trace::open(file.path()));
  PLUMB_TRY(Report report, diagnose_trace(engine.model(), trace, settings));
  PLUMB_CHECK(OwnRun(engine, trace, settings, report).run());
  return report;
}

}  // namespace plumb::diagnose
