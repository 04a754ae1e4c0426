#include "base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/at_signal.h"
#include "base/terminal.h"

namespace plumb {

namespace {

constexpr auto quiet_time = std::chrono::milliseconds(500);
constexpr auto redraw_interval = std::chrono::milliseconds(100);
constexpr std::size_t longest_bar = 32;
constexpr auto rate_time = std::chrono::seconds(10);

// The columns of the terminal.
std::size_t columns() {
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

std::string duration_text(double seconds) {
  if (seconds < 100) return fmt::format("{:.0f} s", seconds);
  if (seconds < 100 * 60) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.0f} h", std::min(seconds / 3600, 999.0));
}

}  // namespace

Progress::Progress(std::string label, bool unit_bytes, Clock::time_point (*now)())
    : now_(now), label_(std::move(label)), unit_bytes_(unit_bytes), visible_(can_redraw(STDERR_FILENO)), start_(now()) {}

Progress::~Progress() {
  if (!drawn_) return;
  fmt::print(stderr, "\r\x1b[K");
  progress_is_drawn(false);
}

void Progress::update(std::uint64_t done, std::uint64_t total) {
  if (!visible_) return;
  const auto now = now_();
  if (recent_.empty()) recent_.emplace_back(now, done);
  if (now - start_ < quiet_time || now - last_ < redraw_interval) return;
  last_ = now;
  drawn_ = true;
  progress_is_drawn(true);
  recent_.emplace_back(now, done);
  while (recent_.size() > 2 && now - recent_.front().first > rate_time) recent_.pop_front();
  const auto amount = [&](std::uint64_t n) {
    return unit_bytes_ ? fmt::format("{:.1f} MB", static_cast<double>(n) / 1e6) : fmt::format("{}", n);
  };
  std::string line = fmt::format("{} {}", label_, amount(done));
  if (total > 0) {
    const double fraction = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const std::string numbers =
        fmt::format("{:3.0f}% {} of {}{}", fraction * 100, amount(done), amount(total), rate(done, total));
    const std::size_t taken = label_.size() + numbers.size() + 5;
    const std::size_t width = std::min(longest_bar, columns() - std::min(columns(), taken));
    const auto filled = static_cast<std::size_t>(fraction * static_cast<double>(width));
    line = fmt::format("{} [{}{}] {}", label_, std::string(filled, '='), std::string(width - filled, ' '), numbers);
    if (width == 0) line = label_ + " " + numbers;
  } else {
    line += rate(done, total);
  }
  fmt::print(stderr, "\r\x1b[K{}", line.substr(0, columns() - 1));
  static_cast<void>(std::fflush(stderr));
}

// ", 12.3 MB/s, 40 s left"
std::string Progress::rate(std::uint64_t done, std::uint64_t total) const {
  const auto [since, before] = recent_.front();
  const double seconds = std::chrono::duration<double>(last_ - since).count();
  if (!unit_bytes_ || seconds < 1 || done <= before) return {};
  const double speed = static_cast<double>(done - before) / seconds;
  const std::string text = fmt::format(", {:.1f} MB/s", speed / 1e6);
  return total <= done ? text : text + ", " + duration_text(static_cast<double>(total - done) / speed) + " left";
}

}  // namespace plumb
