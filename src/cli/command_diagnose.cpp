#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <span>

#include "base/new_file.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "cli/command.h"
#include "diagnose/diagnose.h"
#include "diagnose/own_run.h"
#include "trace/trace.h"

namespace plumb::cli {

namespace {

struct DiagnoseOptions {
  EngineArguments engine;
  PromptArguments prompt;
  std::string trace;
  std::uint32_t n_steps = 4;
  std::string html;
  bool json = false;
  bool strict = false;
  double allow = 1;
};

// A check for CLI::Option.
std::string is_named(const std::string& path) { return path.empty() ? "the file's name is empty" : ""; }

// The prompt that the run should have had.
diagnose::Prompt prompt_of(const PromptArguments& arguments, std::string text) {
  return {.text = std::move(text),
          .system = arguments.system,
          .form = arguments.raw ? diagnose::Prompt::Form::text : diagnose::Prompt::Form::message};
}

Result<diagnose::Report> of_trace(const DiagnoseOptions& options, diagnose::Settings settings) {
  PLUMB_TRY(auto file, open_model(options.engine.model, options.engine.yes));
  PLUMB_TRY(const auto trace, trace::Trace::open(options.trace));
  if (!trace.info().model_sha256.empty()) {
    PLUMB_TRY(settings.file_sha256, sha256_of(file));
  }
  if (options.prompt.text.given()) {
    PLUMB_TRY(std::string text, options.prompt.text.read());
    settings.prompt = prompt_of(options.prompt, std::move(text));
  }
  settings.tokens = options.prompt.tokens;
  PLUMB_TRY(const auto model, model::Model::load(std::move(file)));
  auto report = diagnose::diagnose_trace(model, trace, settings);
  if (!report) return fail("{}: {}", options.trace, report.error().message);
  return report;
}

Result<diagnose::Report> of_backend(const DiagnoseOptions& options, diagnose::Settings settings) {
  EngineArguments arguments = options.engine;
  arguments.settings.guard_zones = true;
  PLUMB_TRY(const auto engine, arguments.load());
  std::string asked;
  PLUMB_TRY(const auto prompt, options.prompt.read(*engine, options.engine.model, &asked));
  if (options.prompt.tokens.empty()) settings.prompt = prompt_of(options.prompt, asked);
  return diagnose::diagnose_engine(*engine, prompt, trace_info(*engine, asked), {.n_steps = options.n_steps}, settings);
}

// Checks before the work that the page can be written and does not replace a file that is read.
Result<void> check_page(const DiagnoseOptions& options) {
  for (const std::string& read : {options.engine.model, options.trace, options.prompt.text.file}) {
    std::error_code no_such_file;
    if (std::filesystem::equivalent(read, options.html, no_such_file)) {
      return fail("{}: is a file to read, too, which would be lost; write to another", options.html);
    }
  }
  PLUMB_TRY(const auto file, NewFile::create(options.html));
  return {};
}

Result<void> write_page(const diagnose::Report& report, const std::string& path) {
  const std::string page = diagnose::to_html(report);
  PLUMB_TRY(auto file, NewFile::create(path));
  PLUMB_CHECK(file.append(std::as_bytes(std::span(page))));
  return file.finish();
}

Result<int> run_diagnose(const DiagnoseOptions& options) {
  if (!options.html.empty()) PLUMB_CHECK(check_page(options));
  diagnose::Settings settings;
  PLUMB_TRY(settings.chat, options.engine.chat.read());
  settings.allowance = {.factor = options.allow, .strict = options.strict};
  settings.n_threads = options.engine.settings.n_threads;
  std::optional<Progress> bar;  // of the part that is at work
  std::string part;
  settings.progress = [&](std::string_view what, std::uint64_t done, std::uint64_t total) {
    if (what != part) bar.emplace(part = what);
    bar->update(done, total);
  };
  auto diagnosed = options.trace.empty() ? of_backend(options, settings) : of_trace(options, settings);
  bar.reset();
  PLUMB_TRY(const auto report, std::move(diagnosed));
  if (!options.html.empty()) PLUMB_CHECK(write_page(report, options.html));
  if (options.json) {
    PLUMB_CHECK(print_json(diagnose::to_json(report)));
  } else {
    PLUMB_CHECK(print(diagnose::to_text(report, can_color(STDOUT_FILENO))));
  }
  return report.follows() ? 0 : 1;
}

}  // namespace

Action setup_diagnose(CLI::App& app) {
  auto options = std::make_shared<DiagnoseOptions>();
  options->engine.add(app);
  options->prompt.add(app);
  options->engine.chat.add_template(app);
  app.add_option("--trace", options->trace,
                 "The run of another engine, a .safetensors file (docs/trace.md); without it --backend is run")
      ->check(is_named);
  app.add_option("--steps", options->n_steps, "Greedy steps after the prompt, at most; with --backend")
      ->check(CLI::Range(0u, 4096u));
  app.add_flag("--strict", options->strict, "Allow the rounding of float32 only");
  app.add_option("--allow", options->allow, "Multiply every allowance by this")->check(CLI::PositiveNumber);
  app.add_option("--html", options->html, "Also write the report as one page for a browser, which needs no network")
      ->check(is_named);
  app.add_flag("--json", options->json, "Print one JSON document (docs/report-schema.json is its schema)");
  return [options] { return run_diagnose(*options); };
}

}  // namespace plumb::cli
