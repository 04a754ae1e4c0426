// The self-test: asks the canary's questions on each backend in each quantization. Each file is quantized in memory from
// the embedded F16 file, loaded by the real loader, and asked through the real chat template.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/canary.h"

namespace plumb::engine {

struct SelftestRow {
  std::string backend, quant, input, expected, actual;
  [[nodiscard]] bool pass() const { return actual == expected; }
};

struct SelftestSettings {
  std::vector<std::string> backends;  // names; empty: all that are present
  std::vector<std::string> quants;    // names; empty: all that can be written
  std::size_t n_inputs = 0;           // spread over the list, "1" first; the slow checker takes the first 2 of them; 0: all
};

// Called with each row as soon as it is known; (done, total) counts rows. Returning false stops the test. Where a backend
// cannot load or run, the row's `actual` is the error.
using OnRow = std::function<bool(const SelftestRow& row, std::size_t done, std::size_t total)>;
Result<std::vector<SelftestRow>> selftest(const SelftestSettings& settings, const OnRow& on_row);

}  // namespace plumb::engine
