// What the bar draws, seen from the other end of a terminal that takes the place of stderr.
#include "base/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

namespace plumb {
namespace {

using std::chrono::milliseconds;

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
    Progress progress("work");
    progress.update(1, 4);
    EXPECT_EQ(drawn(), "");
    std::this_thread::sleep_for(longer_than_quiet);
    progress.update(1, 4);
    EXPECT_EQ(drawn(), "\r\x1b[Kwork [========                        ]  25% 1 of 4");
    progress.update(2, 4);
    EXPECT_EQ(drawn(), "");
    std::this_thread::sleep_for(longer_than_a_frame);
    progress.update(5, 4);
    EXPECT_EQ(drawn(), "\r\x1b[Kwork [================================] 100% 5 of 4");
  }
  EXPECT_EQ(drawn(), "\r\x1b[K");
  { const Progress progress("too short"); }
  EXPECT_EQ(drawn(), "");
}

TEST_F(ProgressTest, BytesAreMegabytesAndATotalMayBeUnknown) {
  Progress progress("work", true);
  std::this_thread::sleep_for(longer_than_quiet);
  progress.update(1'250'000, 0);
  EXPECT_EQ(drawn(), "\r\x1b[Kwork 1.2 MB");
  std::this_thread::sleep_for(longer_than_a_frame);
  progress.update(1'000'000, 2'000'000);
  EXPECT_EQ(drawn(), "\r\x1b[Kwork [================                ]  50% 1.0 MB of 2.0 MB");
}

TEST(Progress, DrawsNothingWhereStderrIsNoTerminal) {
  testing::internal::CaptureStderr();
  {
    Progress progress("work");
    std::this_thread::sleep_for(longer_than_quiet);
    progress.update(1, 2);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace plumb
