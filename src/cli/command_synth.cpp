#include <fmt/format.h>

#include "base/printable.h"
#include "base/progress.h"
#include "cli/command.h"
#include "model/synth.h"

namespace plumb::cli {

namespace {

struct SynthOptions {
  std::string preset, type, out;
  SeedArgument seed{.text = "0"};
};

Result<int> run_synth(const SynthOptions& options) {
  const model::Preset* preset = model::find_preset(options.preset);
  if (preset == nullptr) {
    std::vector<std::string_view> names;
    for (const model::Preset& known : model::presets()) names.push_back(known.name);
    return fail("'{}' is no known shape; there are {}", options.preset, fmt::join(names, ", "));
  }
  PLUMB_TRY(const model::FileType type, model::parse_file_type(options.type));
  PLUMB_TRY(const std::uint64_t seed, options.seed.read());
  {
    Progress progress("writing", true);
    PLUMB_CHECK(model::synthesize(*preset, type, seed, options.out,
                                  [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); }));
  }
  PLUMB_TRY(const gguf::File out, gguf::File::open(options.out));
  fmt::print(stderr, "{}: {} in {}, {}, random weights\n", printable(options.out), preset->name, model::name(type),
             format_bytes(out.size_bytes()));
  return 0;
}

}  // namespace

Action setup_synth(CLI::App& app) {
  auto options = std::make_shared<SynthOptions>();
  std::string presets = "One of";
  for (const model::Preset& preset : model::presets()) presets += fmt::format(" {}", preset.name);
  app.add_option("PRESET", options->preset, presets)->required();
  app.add_option("TYPE", options->type, "A quantization, such as Q4_K_M or Q8_0")->required();
  app.add_option("-o,--output", options->out, "The file to write")->required();
  options->seed.add(app, "Seed of the random weights (-1: another one each time)");
  return [options] { return run_synth(*options); };
}

}  // namespace plumb::cli
