#include "base/in_parts.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>

namespace plumb {
namespace {

TEST(InParts, CoversAllOfItOnceInNearlyEqualParts) {
  for (const std::uint64_t n : {0U, 1U, 2U, 5U, 7U, 64U, 1001U}) {
    for (const std::uint32_t n_threads : {0U, 1U, 2U, 3U, 8U, 100U}) {
      std::mutex mutex;
      std::set<std::pair<std::uint64_t, std::uint64_t>> parts;
      std::set<std::thread::id> threads;
      in_parts(n, n_threads, [&](std::uint64_t begin, std::uint64_t end) {
        const std::lock_guard lock(mutex);
        EXPECT_TRUE(parts.emplace(begin, end).second);
        if (begin == 0) threads.insert(std::this_thread::get_id());
      });
      const std::uint64_t n_parts = std::max<std::uint64_t>(1, std::min<std::uint64_t>(n, n_threads));
      EXPECT_EQ(parts.size(), n_parts);
      EXPECT_TRUE(threads.contains(std::this_thread::get_id()));
      std::uint64_t covered = 0;
      for (const auto& [begin, end] : parts) {
        EXPECT_EQ(begin, covered);
        EXPECT_TRUE(end - begin == n / n_parts || end - begin == n / n_parts + 1) << n << ' ' << n_threads;
        covered = end;
      }
      EXPECT_EQ(covered, n);
    }
  }
}

}  // namespace
}  // namespace plumb
