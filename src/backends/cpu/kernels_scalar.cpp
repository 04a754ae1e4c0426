// The kernels for any processor: plain.h, compiled for the compiler's baseline.
#define PLUMB_TABLE scalar_kernels
#define PLUMB_LANES 4
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "backends/cpu/plain.h"

namespace plumb::backends::cpu {
namespace {

struct Set : Plain<Set> {
  static constexpr const char* name = "scalar";
#if defined(__SSE2__)
  PLUMB_INLINE Vi dot16(Vi total, Vs a, Vs b) { return total + as<Vi>(_mm_madd_epi16(as<__m128i>(a), as<__m128i>(b))); }
#endif
};

}  // namespace
}  // namespace plumb::backends::cpu

#include "backends/cpu/table.h"
