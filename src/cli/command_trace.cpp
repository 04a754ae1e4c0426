#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

#include "backends/backend.h"
#include "base/printable.h"
#include "cli/command.h"
#include "diagnose/own_run.h"
#include "trace/trace.h"

namespace plumb::cli {

namespace {

struct TraceOptions {
  EngineArguments engine;
  PromptArguments prompt;
  std::string output;
  std::vector<std::string> values;
  std::uint32_t n_steps = 1;
};

// Without --values, everything but attention's weights (attn_probs), which grow with the square of the prompt.
bool is_wanted(const std::vector<std::string>& patterns, const std::string& name) {
  if (patterns.empty()) return !backends::is_probs_name(name);
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0; });
}

Result<int> run_trace(const TraceOptions& options) {
  PLUMB_TRY(const auto engine, options.engine.load());
  std::string asked;
  PLUMB_TRY(const auto prompt, options.prompt.read(*engine, options.engine.model, &asked));
  trace::Info info = trace_info(*engine, asked);
  PLUMB_TRY(info.model_sha256, sha256_of(engine->model().file()));
  catch_interrupts();
  PLUMB_TRY(const diagnose::Recorded recorded,
            diagnose::record(*engine, prompt, options.output, info,
                             {.n_steps = options.n_steps,
                              .wanted = [&](std::string_view name) { return is_wanted(options.values, std::string(name)); },
                              .interrupted = interrupted}));
  return print(fmt::format("{}: {} values, {} of {} prompt tokens and {} steps after them\n", printable(options.output),
                           recorded.n_values, format_bytes(recorded.n_bytes), prompt.size(), recorded.n_steps));
}

}  // namespace

Action setup_trace(CLI::App& app) {
  auto options = std::make_shared<TraceOptions>();
  options->engine.add(app);
  options->prompt.add(app);
  options->engine.chat.add_template(app);
  app.add_option("-o,--output", options->output, "The trace, a .safetensors file")->required();
  app.add_option("--values", options->values,
                 "Only values that match this pattern, such as 'blk.0.*'; may be repeated (default: all but *.attn_probs)");
  app.add_option("--steps", options->n_steps, "Greedy steps after the prompt, at most")->check(CLI::Range(0u, 4096u));
  return [options] { return run_trace(*options); };
}

}  // namespace plumb::cli
