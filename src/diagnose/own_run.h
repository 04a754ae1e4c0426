// Runs of Plumb's own backends: recorded as a trace, and diagnosed with what only the program itself can see: the weights
// on the device, memory, the run as it is without anybody watching, and the cache against the prompt's pass.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "diagnose/diagnose.h"
#include "engine/engine.h"
#include "trace/trace.h"

namespace plumb::diagnose {

struct Recorded {
  std::size_t n_values = 0;
  std::uint64_t n_bytes = 0;
  std::uint32_t n_steps = 0;  // after the prompt
};

struct RecordOptions {
  std::uint32_t n_steps = 1;                          // greedy ones after the prompt, at most; fewer where the answer ends
  std::function<bool(std::string_view name)> wanted;  // none: all but attention's weights
  std::function<bool()> interrupted;
};

// Runs the prompt in one pass and steps after it, and writes their values to `path`. info: the trace's metadata but for
// the steps' tokens. Errors: a prompt longer than one pass of the backend, no value that is wanted, a file that cannot be
// written, an interrupt.
Result<Recorded> record(engine::Engine& engine, std::span<const text::TokenId> prompt, const std::filesystem::path& path,
                        trace::Info info, const RecordOptions& options);

// Diagnoses the engine's run of a prompt. The trace lies in the system's folder for temporary files while this runs.
Result<Report> diagnose_engine(engine::Engine& engine, std::span<const text::TokenId> prompt, trace::Info info,
                               const RecordOptions& options, const Settings& settings);

}  // namespace plumb::diagnose
