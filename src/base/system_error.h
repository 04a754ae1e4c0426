// The system's message for an errno. Safe to call from any thread (std::strerror is not).
#pragma once

#include <string>
#include <system_error>

namespace plumb {

inline std::string system_reason(int error) { return std::generic_category().message(error); }

}  // namespace plumb
