#include <fmt/format.h>

#include <optional>

#include "base/progress.h"
#include "cli/command.h"
#include "engine/selftest.h"

namespace plumb::cli {

namespace {

struct SelftestOptions {
  engine::SelftestSettings settings;
  bool all = false;
  bool json = false;
};

// The number of inputs tried unless all are asked for: enough to include each task of the canary.
constexpr std::size_t default_inputs = 12;

std::string table_row(std::string_view backend, std::string_view quant, std::string_view input, std::string_view expected,
                      std::string_view actual, std::string_view result) {
  return fmt::format("{:<10} {:<7} {:<22} {:<22} {:<22} {}\n", backend, quant, input, expected, actual, result);
}

Result<int> run_selftest(SelftestOptions options) {
  options.settings.n_inputs = options.all ? 0 : default_inputs;
  catch_interrupts();
  Result<int> printed = 0;
  std::size_t n_passed = 0;
  std::optional<Progress> progress("selftest");
  PLUMB_TRY(const auto rows,
            engine::selftest(options.settings, [&](const engine::SelftestRow& row, std::size_t done, std::size_t total) {
              if (row.pass()) ++n_passed;
              if (options.json) {
                progress->update(done, total);
              } else {
                if (done == 1) printed = print(table_row("backend", "quant", "input", "expected", "actual", "result"));
                if (printed)
                  printed = print(
                      table_row(row.backend, row.quant, row.input, row.expected, row.actual, row.pass() ? "pass" : "FAIL"));
              }
              return printed && !interrupted();
            }));
  progress.reset();
  PLUMB_CHECK(printed);
  const std::size_t n_failed = rows.size() - n_passed;
  if (options.json) {
    Json document{{"passed", n_passed}, {"failed", n_failed}, {"results", Json::array()}};
    for (const auto& row : rows) {
      document["results"].push_back({{"backend", row.backend},
                                     {"quant", row.quant},
                                     {"input", row.input},
                                     {"expected", row.expected},
                                     {"actual", row.actual},
                                     {"pass", row.pass()}});
    }
    PLUMB_CHECK(print_json(document));
  } else {
    PLUMB_CHECK(print(fmt::format("{} passed, {} failed\n", n_passed, n_failed)));
  }
  if (interrupted()) return fail("interrupted after {} rows", rows.size());
  return n_failed == 0 && !rows.empty() ? 0 : 1;
}

}  // namespace

Action setup_selftest(CLI::App& app) {
  auto options = std::make_shared<SelftestOptions>();
  app.add_option("--backend", options->settings.backends, "Only these backends")->delimiter(',');
  app.add_option("--quant", options->settings.quants, "Only these quantizations, such as Q4_K_M")->delimiter(',');
  app.add_flag("--all", options->all, "Every known answer, not a selection");
  app.add_flag("--json", options->json, "One JSON document");
  return [options] { return run_selftest(*options); };
}

}  // namespace plumb::cli
