// The table of formats agrees with itself.
#include "quants/format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

namespace plumb::quants {
namespace {

TEST(Table, EntriesAreConsistent) {
  std::set<std::string> names;
  std::uint32_t previous_id = 0;
  for (const FormatInfo& entry : formats()) {
    SCOPED_TRACE(entry.name);
    EXPECT_EQ(index(entry.format), names.size());
    const auto id = static_cast<std::uint32_t>(entry.format);
    EXPECT_TRUE(names.empty() || id > previous_id) << "out of order";
    previous_id = id;
    EXPECT_TRUE(names.insert(std::string(entry.name)).second) << "a second format of that name";
    EXPECT_GT(entry.block_size, 0u);
    EXPECT_GT(entry.block_bytes, 0u);
    EXPECT_LE(entry.block_bytes, entry.block_size * sizeof(float));
    EXPECT_NE(entry.decode, nullptr);
    EXPECT_EQ(entry.row_bytes(entry.block_size * 3), entry.block_bytes * 3u);
    EXPECT_EQ(&info(entry.format), &entry);
    EXPECT_EQ(find(id), &entry);
    EXPECT_EQ(find(entry.name), &entry);
    std::string lower(entry.name);
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    EXPECT_EQ(find(lower), &entry);
  }
  EXPECT_EQ(names.size(), PLUMB_N_FORMATS);
}

TEST(Table, UnknownFormatsAreNull) {
  for (const std::uint32_t id : {4u, 5u, 9u, 16u, 40u, 0xffffffffu}) EXPECT_EQ(find(id), nullptr) << id;
  for (const char* name : {"", "Q4", "Q4_K_M", "Q4_KX", "Q9_0"}) EXPECT_EQ(find(std::string_view(name)), nullptr) << name;
}

TEST(Table, RowBytesOfLargeRowsDoNotOverflow) {
  EXPECT_EQ(info(Format::q8_0).row_bytes(std::uint64_t{1} << 40), (std::uint64_t{1} << 35) * 34);
}

}  // namespace
}  // namespace plumb::quants
