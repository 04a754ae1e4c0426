#include <fmt/format.h>

#include "base/machine.h"
#include "base/printable.h"
#include "cli/command.h"

namespace plumb::cli {

namespace {

Result<int> run_devices(bool json, bool measure) {
  const Machine machine = this_machine();
  const double bandwidth = measure ? measure_read_bandwidth(machine.n_cores) : 0;
  Json backends = Json::array();
  Json gpus = Json::array();
  std::string lines, gpu_lines;
  for (const auto& entry : backends::all()) {
    const auto backend = entry.make();
    Json item{{"name", entry.name}, {"present", backend.has_value()}};
    item[backend ? "description" : "reason"] = backend ? (*backend)->description(0) : backend.error().message;
    lines += fmt::format("  {:<10} {}\n", entry.name, backend ? (*backend)->description(0) : backend.error().message);
    backends.push_back(std::move(item));
    if (backend && (entry.name == "cuda" || entry.name == "metal")) {
      gpus.push_back((*backend)->description(0));
      gpu_lines += fmt::format("GPU        {}\n", (*backend)->description(0));
    }
  }
  if (json) {
    Json document{{"processor", machine.processor},
                  {"cores", machine.n_cores},
                  {"features", machine.features},
                  {"memory_bytes", machine.memory_bytes},
                  {"available_bytes", machine.available_bytes}};
    if (measure) document["read_bandwidth_gbs"] = bandwidth / 1e9;
    document["gpus"] = std::move(gpus);
    document["backends"] = std::move(backends);
    return print_json(document);
  }
  PLUMB_CHECK(print(fmt::format(
      "processor  {}, {} cores usable\nfeatures   {}\nmemory     {}, {} available\n",
      machine.processor.empty() ? "unknown" : printable(machine.processor), machine.n_cores,
      machine.features.empty() ? "none that kernels look for" : fmt::format("{}", fmt::join(machine.features, ", ")),
      format_bytes(machine.memory_bytes), format_bytes(machine.available_bytes))));
  if (measure) {
    PLUMB_CHECK(print(fmt::format("bandwidth  {:.1f} GB/s read from memory by {} threads, measured now\n", bandwidth / 1e9,
                                  machine.n_cores)));
  }
  if (gpu_lines.empty()) gpu_lines = "GPU        none that this build can use\n";
  return print(gpu_lines + "backends\n" + lines);
}

}  // namespace

Action setup_devices(CLI::App& app) {
  struct Options {
    bool json = false;
    bool quick = false;
  };
  auto options = std::make_shared<Options>();
  app.add_flag("--quick", options->quick, "Do not measure the memory's speed");
  app.add_flag("--json", options->json, "One JSON document");
  return [options] { return run_devices(options->json, !options->quick); };
}

}  // namespace plumb::cli
