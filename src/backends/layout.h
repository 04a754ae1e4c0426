// The memory layout of a step's values, in two arenas: one for values with a row for each token, one for values with a row
// for each output. Values that are never needed at the same time share memory. Ranges are counted in bytes for each row, so
// that one layout serves steps of any length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "plan/plan.h"

namespace plumb::backends {

// A value that is needed from step `begin` to step `end` of a program, both included.
struct Lifetime {
  std::uint32_t begin = 0, end = 0;
  plan::Rows rows = plan::Rows::tokens;
  std::size_t bytes = 0;  // for each row
};

// A value's offset in its arena, in bytes for each row: it is multiplied by the number of rows of the step.
struct Place {
  plan::Rows arena = plan::Rows::tokens;
  std::size_t offset = 0;
};

struct Layout {
  std::vector<Place> places;    // by lifetime
  std::size_t token_bytes = 0;  // sizes of the arenas, for each row
  std::size_t output_bytes = 0;
};

// Offsets are multiples of `alignment`.
Layout lay_out(std::span<const Lifetime> lifetimes, std::size_t alignment);

}  // namespace plumb::backends
