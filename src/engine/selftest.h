// The seed's table: the canary's known answers on each backend in each quantization. Each file is quantized on the fly from
// the embedded F16 one, loaded through the real loader, and asked through the real chat template.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/canary.h"

namespace plumb::engine {

struct SelftestRow {
  std::string backend, quant, input, expected, actual;
  [[nodiscard]] bool pass() const { return actual == expected; }
};

struct SelftestSettings {
  std::vector<std::string> backends;  // names; empty: every one that is present
  std::vector<std::string> quants;    // names; empty: every one that can be written
  std::size_t n_inputs = 0;  // spread over the list, the seed's "1" first (of which the slow checker takes 2); 0: all
};

// Calls `on_row` with each row as it is known; (done, total) counts rows. Returning false stops. A backend that cannot load
// or run is a row whose `actual` is the error.
using OnRow = std::function<bool(const SelftestRow& row, std::size_t done, std::size_t total)>;
Result<std::vector<SelftestRow>> selftest(const SelftestSettings& settings, const OnRow& on_row);

}  // namespace plumb::engine
