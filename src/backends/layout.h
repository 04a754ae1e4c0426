// Where the values of a step lie: ranges of two arenas, one for values with a row a token and one for those with a row an
// output. Values that are never alive together share a range. Ranges are in bytes a row, so that one layout serves steps of
// any length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "plan/plan.h"

namespace plumb::backends {

// A range that is needed from step `begin` to step `end` of a program, both included.
struct Lifetime {
  std::uint32_t begin = 0, end = 0;
  plan::Rows rows = plan::Rows::tokens;
  std::size_t bytes = 0;  // a row
};

// Bytes from the start of the arena for each row that it holds: the offset is multiplied by the rows of the step.
struct Place {
  plan::Rows arena = plan::Rows::tokens;
  std::size_t offset = 0;
};

struct Layout {
  std::vector<Place> places;    // by lifetime
  std::size_t token_bytes = 0;  // of the arenas, a row
  std::size_t output_bytes = 0;
};

// Offsets are multiples of `alignment`.
Layout lay_out(std::span<const Lifetime> lifetimes, std::size_t alignment);

}  // namespace plumb::backends
