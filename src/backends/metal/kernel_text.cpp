#include "backends/metal/kernel_text.h"

#include <cstddef>

// Made by plumb_embed() in CMakeLists.txt.
extern "C" {
extern const char plumb_metal_text_begin[];
extern const char plumb_metal_text_end[];
}

namespace plumb::backends::metal {

std::string_view kernel_text() {
  return {plumb_metal_text_begin, static_cast<std::size_t>(plumb_metal_text_end - plumb_metal_text_begin)};
}

}  // namespace plumb::backends::metal
