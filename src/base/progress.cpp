#include "base/progress.h"

#include <fmt/format.h>
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
constexpr std::size_t bar_width = 32;

}  // namespace

Progress::Progress(std::string label, bool unit_bytes)
    : label_(std::move(label)), unit_bytes_(unit_bytes), visible_(can_redraw(STDERR_FILENO)), start_(Clock::now()) {}

Progress::~Progress() {
  if (!drawn_) return;
  fmt::print(stderr, "\r\x1b[K");
  progress_is_drawn(false);
}

void Progress::update(std::uint64_t done, std::uint64_t total) {
  const auto now = Clock::now();
  if (!visible_ || now - start_ < quiet_time || now - last_ < redraw_interval) return;
  last_ = now;
  drawn_ = true;
  progress_is_drawn(true);
  const auto amount = [&](std::uint64_t n) {
    return unit_bytes_ ? fmt::format("{:.1f} MB", static_cast<double>(n) / 1e6) : fmt::format("{}", n);
  };
  if (total == 0) {
    fmt::print(stderr, "\r\x1b[K{} {}", label_, amount(done));
  } else {
    const double fraction = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const auto filled = static_cast<std::size_t>(fraction * bar_width);
    fmt::print(stderr, "\r\x1b[K{} [{}{}] {:3.0f}% {} of {}", label_, std::string(filled, '='),
               std::string(bar_width - filled, ' '), fraction * 100, amount(done), amount(total));
  }
  static_cast<void>(std::fflush(stderr));
}

}  // namespace plumb
