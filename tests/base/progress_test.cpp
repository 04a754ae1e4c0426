// What the bar draws, seen from the other end of a terminal that takes the place of stderr.
#include "base/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace plumb {
namespace {

using std::chrono::milliseconds;

// The time is what a test says.
Progress::Clock::time_point time_now;
Progress::Clock::time_point now() { return time_now; }
void pass(milliseconds time) { time_now += time; }

class ProgressTest : public testing::Test {
 protected:
  void SetUp() override {
    terminal_ = ::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    ASSERT_TRUE(terminal_ >= 0 && ::grantpt(terminal_) == 0 && ::unlockpt(terminal_) == 0);
    const int other_end = ::open(::ptsname(terminal_), O_RDWR | O_NOCTTY);
    ASSERT_GE(other_end, 0);
    ::dup2(other_end, STDERR_FILENO);
    ::close(other_end);
  }
  void TearDown() override {
    ::dup2(stderr_, STDERR_FILENO);
    ::close(stderr_);
    ::close(terminal_);
  }

  // What appeared since the last call.
  std::string drawn() const {
    static_cast<void>(std::fflush(stderr));
    std::string text(4096, '\0');
    const ssize_t n = ::read(terminal_, text.data(), text.size());
    text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return text;
  }

  int terminal_ = -1;
  int stderr_ = ::dup(STDERR_FILENO);
};

constexpr auto longer_than_quiet = milliseconds(520), longer_than_a_frame = milliseconds(120);

TEST_F(ProgressTest, IsQuietThenDrawsNowAndThenAndIsErased) {
  {
    Progress progress("work", false, now);
    progress.update(1, 4);
    EXPECT_EQ(drawn(), "");
    pass(longer_than_quiet);
    progress.update(1, 4);
    EXPECT_EQ(drawn(), "\r\x1b[Kwork [========                        ]  25% 1 of 4");
    progress.update(2, 4);
    EXPECT_EQ(drawn(), "");
    pass(longer_than_a_frame);
    progress.update(5, 4);
    EXPECT_EQ(drawn(), "\r\x1b[Kwork [================================] 100% 5 of 4");
  }
  EXPECT_EQ(drawn(), "\r\x1b[K");
  { const Progress progress("too short", false, now); }
  EXPECT_EQ(drawn(), "");
}

TEST_F(ProgressTest, BytesAreMegabytesAndATotalMayBeUnknown) {
  Progress progress("work", true, now);
  pass(longer_than_quiet);
  progress.update(1'250'000, 0);
  EXPECT_EQ(drawn(), "\r\x1b[Kwork 1.2 MB");
  pass(longer_than_a_frame);
  progress.update(1'000'000, 2'000'000);
  EXPECT_EQ(drawn(), "\r\x1b[Kwork [================                ]  50% 1.0 MB of 2.0 MB");
}

TEST_F(ProgressTest, BytesHaveTheirRateAndTheTimeLeftByTheLastTenSeconds) {
  Progress progress("work", true, now);
  const auto line = [&](milliseconds time, std::uint64_t done, std::uint64_t total) {
    pass(time);
    progress.update(done, total);
    const std::string text = drawn();
    const std::size_t bar = text.find("] ");
    return bar == std::string::npos ? text : text.substr(bar + 2);
  };
  constexpr std::uint64_t mb = 1'000'000;
  progress.update(0, 100 * mb);
  EXPECT_EQ(line(milliseconds(900), 9 * mb, 100 * mb), "  9% 9.0 MB of 100.0 MB");
  EXPECT_EQ(line(milliseconds(1100), 20 * mb, 100 * mb), " 20% 20.0 MB of 100.0 MB, 10.0 MB/s, 8 s left");
  // A stall: the rate falls, and then there is none.
  EXPECT_EQ(line(milliseconds(8000), 20 * mb, 100 * mb), " 20% 20.0 MB of 100.0 MB, 2.0 MB/s, 40 s left");
  EXPECT_EQ(line(milliseconds(2500), 20 * mb, 100 * mb), " 20% 20.0 MB of 100.0 MB");
  // What came more than ten seconds ago no longer counts.
  EXPECT_EQ(line(milliseconds(9000), 20 * mb, 100 * mb), " 20% 20.0 MB of 100.0 MB");
  EXPECT_EQ(line(milliseconds(1000), 24 * mb, 100 * mb), " 24% 24.0 MB of 100.0 MB, 0.4 MB/s, 3 min left");
  EXPECT_EQ(line(milliseconds(9000), 100 * mb, 100 * mb), "100% 100.0 MB of 100.0 MB, 8.0 MB/s");
  // A slow and long one has hours; one of unknown size has a rate alone.
  EXPECT_EQ(line(milliseconds(9000), 104 * mb, 50'000 * mb), "  0% 104.0 MB of 50000.0 MB, 0.4 MB/s, 31 h left");
  EXPECT_EQ(line(milliseconds(5000), 144 * mb, 0), "\r\x1b[Kwork 144.0 MB, 8.0 MB/s");
}

TEST(Progress, DrawsNothingWhereStderrIsNoTerminal) {
  testing::internal::CaptureStderr();
  {
    Progress progress("work", false, now);
    pass(longer_than_quiet);
    progress.update(1, 2);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace plumb
