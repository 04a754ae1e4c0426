// A progress bar on stderr for work that takes more than a second. Drawn only on a terminal, and erased when the work ends.
// Bytes have their rate and the time left, both by the last ten seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>

namespace plumb {

class Progress {
 public:
  using Clock = std::chrono::steady_clock;
  // `unit_bytes`: amounts are bytes, shown as MB. A total of 0 means unknown. now: tells the time.
  explicit Progress(std::string label, bool unit_bytes = false, Clock::time_point (*now)() = Clock::now);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::uint64_t done, std::uint64_t total);

 private:
  [[nodiscard]] std::string rate(std::uint64_t done, std::uint64_t total) const;
  Clock::time_point (*now_)();
  std::string label_;
  bool unit_bytes_;
  bool visible_;  // stderr is a terminal that can redraw a line
  bool drawn_ = false;
  Clock::time_point start_, last_;
  std::deque<std::pair<Clock::time_point, std::uint64_t>> recent_;  // what was done when the bar was drawn
};

}  // namespace plumb
