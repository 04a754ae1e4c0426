// What a file of an architecture that Plumb does not know asks for, as far as the names of its keys and tensors tell.
#pragma once

#include <string>
#include <string_view>

#include "gguf/file.h"

namespace plumb::model {

// Lines of text: what Plumb has, what it lacks, and the tensors whose names tell nothing. Empty: no name tells anything.
std::string what_it_asks_for(const gguf::File& file, std::string_view architecture);

}  // namespace plumb::model
