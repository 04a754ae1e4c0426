// The kernels in Metal Shading Language: the build's kernels.metal, byte for byte, in the program's read-only data.
#pragma once

#include <string_view>

namespace plumb::backends::metal {

// A zero byte follows the last character.
std::string_view kernel_text();

}  // namespace plumb::backends::metal
