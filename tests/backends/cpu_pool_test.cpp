#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include "backends/cpu/pool.h"

namespace plumb::backends::cpu {
namespace {

// Every item adds the result of the stage before, so that an item that runs early, late, twice or never changes the result.
class Relay final : public Program {
 public:
  explicit Relay(std::vector<std::uint32_t> items) : items_(std::move(items)) {}

  [[nodiscard]] std::uint32_t n_stages() const override { return static_cast<std::uint32_t>(items_.size()); }
  std::uint32_t begin(std::uint32_t stage) override {
    if (stage > 0) carried_ = std::accumulate(counts_.begin(), counts_.end(), carried_);
    counts_.assign(items_[stage], 0);
    ++n_begun_;
    return items_[stage];
  }
  void run(std::uint32_t stage, std::uint32_t item, std::uint32_t thread) override {
    counts_.at(item) += stage + 1;  // not atomic: the sanitizer sees any two threads on one item
    if (thread >= most_threads) wrong_thread_ = true;
  }
  [[nodiscard]] std::uint64_t total() const { return std::accumulate(counts_.begin(), counts_.end(), carried_); }
  [[nodiscard]] std::uint64_t expected() const {
    std::uint64_t sum = 0;
    for (std::uint32_t stage = 0; stage < items_.size(); ++stage) sum += std::uint64_t{items_[stage]} * (stage + 1);
    return sum;
  }
  [[nodiscard]] std::uint32_t n_begun() const { return n_begun_; }
  [[nodiscard]] bool wrong_thread() const { return wrong_thread_; }

  static constexpr std::uint32_t most_threads = 8;

 private:
  std::vector<std::uint32_t> items_;
  std::vector<std::uint64_t> counts_;
  std::uint64_t carried_ = 0;
  std::uint32_t n_begun_ = 0;
  std::atomic<bool> wrong_thread_{false};
};

TEST(CpuPool, RunsEveryItemOnceAndStagesInOrder) {
  for (const std::uint32_t n_threads : {1u, 2u, 3u, 8u}) {
    Pool pool(n_threads, 2);
    EXPECT_EQ(pool.n_threads(), n_threads);
    for (int round = 0; round < 20; ++round) {
      Relay relay({1, 0, 7, 100, 2, 0, 0, 33, 1, 1, 1, 5});
      pool.run(relay, 0, relay.n_stages());
      EXPECT_EQ(relay.total(), relay.expected()) << n_threads << " threads";
      EXPECT_EQ(relay.n_begun(), relay.n_stages());
      EXPECT_FALSE(relay.wrong_thread());
    }
  }
}

TEST(CpuPool, RunsAPartOfTheStages) {
  Pool pool(2, 2);
  Relay relay({3, 5, 7});
  pool.run(relay, 0, 1);
  EXPECT_EQ(relay.n_begun(), 1);
  pool.run(relay, 1, 3);
  EXPECT_EQ(relay.total(), relay.expected());
  pool.run(relay, 3, 3);
}

TEST(CpuPool, WakesWorkersThatWentToSleep) {
  Pool pool(3, 3);
  for (int round = 0; round < 5; ++round) {
    Relay relay(std::vector<std::uint32_t>(50, 9));
    pool.run(relay, 0, relay.n_stages());
    EXPECT_EQ(relay.total(), relay.expected());
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

// As pool.h promises, threads without a core of their own cost little.
TEST(CpuPool, MoreThreadsThanCoresDoNotStall) {
  Pool pool(8, 1);
  Relay relay(std::vector<std::uint32_t>(2000, 8));
  const auto start = std::chrono::steady_clock::now();
  pool.run(relay, 0, relay.n_stages());
  EXPECT_EQ(relay.total(), relay.expected());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(CpuPool, ManyShortLivedPools) {
  for (int i = 0; i < 50; ++i) {
    Pool pool(4, 2);
    if (i % 2 == 0) continue;
    Relay relay({4, 4});
    pool.run(relay, 0, 2);
    EXPECT_EQ(relay.total(), relay.expected());
  }
}

}  // namespace
}  // namespace plumb::backends::cpu
