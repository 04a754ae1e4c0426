#include "backends/cpu/pool.h"

#include <chrono>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace plumb::backends::cpu {

namespace {

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Longer than it takes to sample a token, so that workers are still awake when the next step begins.
constexpr std::uint32_t spin_with_cores_to_spare = 200;
constexpr std::uint32_t spin_on_shared_cores = 2;

}  // namespace

Pool::Pool(std::uint32_t n_threads, std::uint32_t n_cores)
    : spin_microseconds_(n_threads > n_cores ? spin_on_shared_cores : spin_with_cores_to_spare) {
  try {
    for (std::uint32_t i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { worker(i); });
  } catch (...) {
    close();
    throw;
  }
}

Pool::~Pool() { close(); }

void Pool::close() {
  closing_.store(true);
  {
    const std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  for (std::thread& thread : workers_) thread.join();
}

void Pool::run(Program& program, std::uint32_t first, std::uint32_t last) {
  program_ = &program;
  stage_ = first;
  last_ = last;
  open_next();
  for (;;) {
    const std::uint64_t seen = work(0);
    if (items(seen) == 0) return;
    await(seen);
  }
}

std::uint64_t Pool::work(std::uint32_t thread) {
  for (;;) {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    if (next(ticket) >= items(ticket)) return ticket;
    ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
    if (next(ticket) >= items(ticket)) return ticket;
    // This thread has claimed an item, so the stage stays open until the item is done: program_ and stage_ cannot change.
    program_->run(stage_, next(ticket), thread);
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == items(ticket)) {
      ++stage_;
      open_next();
    }
  }
}

void Pool::open_next() {
  for (; stage_ < last_; ++stage_) {
    if (const std::uint32_t n_items = program_->begin(stage_); n_items > 0) {
      publish(n_items);
      return;
    }
  }
  publish(0);
}

void Pool::publish(std::uint32_t n_items) {
  done_.store(0, std::memory_order_relaxed);
  const std::uint64_t opened = epoch(ticket_.load(std::memory_order_relaxed)) + 1;
  // Sequentially consistent with await(): a thread about to sleep either sees this ticket, or is counted as a sleeper here.
  ticket_.store((opened << 40) | (std::uint64_t{n_items} << 20), std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    const std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
}

void Pool::await(std::uint64_t seen) {
  using Clock = std::chrono::steady_clock;
  const auto changed = [&] {
    return epoch(ticket_.load(std::memory_order_seq_cst)) != epoch(seen) || closing_.load(std::memory_order_relaxed);
  };
  const Clock::time_point until = Clock::now() + std::chrono::microseconds(spin_microseconds_);
  do {
    for (int i = 0; i < 64; ++i) {
      if (changed()) return;
      relax();
    }
  } while (Clock::now() < until);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, changed);
  }
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

void Pool::worker(std::uint32_t thread) {
  while (!closing_.load(std::memory_order_relaxed)) await(work(thread));
}

}  // namespace plumb::backends::cpu
