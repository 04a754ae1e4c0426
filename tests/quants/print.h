// Names formats in the messages of tests.
#pragma once

#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "quants/format.h"

namespace plumb::quants {

inline void PrintTo(const FormatInfo& format, std::ostream* out) { *out << format.name; }

inline std::string name_of(const testing::TestParamInfo<FormatInfo>& param) { return std::string(param.param.name); }

}  // namespace plumb::quants
