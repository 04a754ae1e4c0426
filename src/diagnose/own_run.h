// Runs of Plumb's own backends: records them as traces, and diagnoses them with checks that only the program itself can
// make: the weights on the device, memory, the run with no values watched, and the cache against the prompt's pass.
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
  std::uint32_t n_steps = 1;                          // most greedy steps after the prompt; fewer if the answer ends
  std::function<bool(std::string_view name)> wanted;  // none: all but attention's weights
  std::function<bool()> interrupted;
};

// Runs the prompt in one pass, then steps after it, and writes their values to `path`. info: the trace's metadata without
// the steps' tokens. Errors: the prompt is longer than one pass of the backend; no value is wanted; the file cannot be
// written; an interrupt.
Result<Recorded> record(engine::Engine& engine, std::span<const text::TokenId> prompt, const std::filesystem::path& path,
                        trace::Info info, const RecordOptions& options);

// Diagnoses the engine's run of a prompt. Meanwhile the trace is in the system's folder for temporary files.
Result<Report> diagnose_engine(engine::Engine& engine, std::span<const text::TokenId> prompt, trace::Info info,
                               const RecordOptions& options, const Settings& settings);

}  // namespace plumb::diagnose
