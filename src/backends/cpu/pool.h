// Threads that run a program of stages together. The items of a stage are independent and may run on any thread, in any
// order; a stage begins when every item of the one before is done.
//
// There is no barrier: a thread claims one item at a time, and the thread that finishes a stage's last item begins the next
// stage. A thread that the system suspends between two items delays no other, so two threads on one core cost little more
// than one. Waiting threads spin for a while (a step of a small model changes stages every few microseconds), then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace plumb::backends::cpu {

class Program {
 public:
  virtual ~Program() = default;
  [[nodiscard]] virtual std::uint32_t n_stages() const = 0;
  // Called once for each stage, on some thread, after all items of the stages before. Returns the number of items, at
  // most Pool::max_items; 0 if the stage is already done.
  virtual std::uint32_t begin(std::uint32_t stage) = 0;
  virtual void run(std::uint32_t stage, std::uint32_t item, std::uint32_t thread) = 0;
};

class Pool {
 public:
  static constexpr std::uint32_t max_items = (1u << 20) - 1024;

  // n_threads includes the caller of run(). If there are more threads than cores, threads hardly spin. Throws
  // std::system_error, as std::thread does, if the system gives no more threads.
  Pool(std::uint32_t n_threads, std::uint32_t n_cores);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  [[nodiscard]] std::uint32_t n_threads() const { return static_cast<std::uint32_t>(workers_.size()) + 1; }

  // Runs stages first .. last - 1 of the program; returns when all are done. One caller at a time.
  void run(Program& program, std::uint32_t first, std::uint32_t last);

 private:
  // The open stage in one word, so that claiming an item and learning its stage are one operation:
  // epoch << 40 | items << 20 | next item. The epoch counts all stages that were ever opened; a stage without items ends a
  // run.
  static constexpr std::uint64_t next_mask = (1u << 20) - 1;
  static std::uint64_t epoch(std::uint64_t ticket) { return ticket >> 40; }
  static std::uint32_t items(std::uint64_t ticket) { return static_cast<std::uint32_t>((ticket >> 20) & next_mask); }
  static std::uint32_t next(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket & next_mask); }

  // Works on open stages until no item is left to claim. Returns the last ticket seen.
  std::uint64_t work(std::uint32_t thread);
  void open_next();
  void publish(std::uint32_t n_items);
  // Returns when the ticket's epoch differs from that of `seen`, or when the pool is closing.
  void await(std::uint64_t seen);
  void worker(std::uint32_t thread);
  void close();

  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<std::uint32_t> done_{0};  // items of the open stage
  // Written by the thread that opens stages; other threads read it after they have seen the ticket.
  alignas(64) Program* program_ = nullptr;
  std::uint32_t stage_ = 0;
  std::uint32_t last_ = 0;
  std::atomic<bool> closing_{false};

  alignas(64) std::atomic<std::uint32_t> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::uint32_t spin_microseconds_;
  std::vector<std::thread> workers_;
};

}  // namespace plumb::backends::cpu
