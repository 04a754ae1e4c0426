// Runs grids of CUDA kernels on fibers, and defines the functions that the stand-in for CUDA (cuda/) declares.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "backends/checker/runtime.h"

// Begin and end of the program's uninitialized statics (the linker's symbols). CUDA's __shared__ variables are among them.
// An access past the end of one that lands in another is not noticed.
extern "C" {
extern std::byte __bss_start;  // NOLINT(bugprone-reserved-identifier)
extern std::byte end;
}

namespace plumb::backends::checker {

namespace {

Place size_of_grid;

struct Thread {
  void (*run)(void*) = nullptr;
  void* closure = nullptr;
};

// The groups of copies that each thread of the threadgroup has queued. The last group is still open.
using CopyGroups = std::deque<std::deque<QueuedCopy>>;
std::vector<CopyGroups> copies;

void run_one(void* const* arguments, void*, std::array<std::uint32_t, 3>, std::uint32_t) {
  copies[machine.thread].assign(1, {});
  const auto* thread = static_cast<const Thread*>(arguments[0]);
  thread->run(thread->closure);
}

}  // namespace

Place thread_place() { return {machine.thread, 0, 0}; }
Place group_place() { return {machine.group[0], machine.group[1], machine.group[2]}; }
Place grid_size() { return size_of_grid; }

void queue_copy(QueuedCopy copy) { copies[machine.thread].back().push_back(copy); }
void end_copy_group() { copies[machine.thread].emplace_back(); }
bool take_copy(unsigned groups_left, QueuedCopy& copy) {
  CopyGroups& groups = copies[machine.thread];
  while (groups.size() > groups_left + 1 && groups.front().empty()) groups.pop_front();
  if (groups.size() <= groups_left + 1) return false;
  copy = groups.front().front();
  groups.front().pop_front();
  return true;
}

unsigned atomic_max_at(unsigned* at, unsigned value) {
  if (!is_written_at(at, sizeof *at)) report("atomicMax on memory that nobody has written");
  return std::exchange(*at, std::max(*at, value));
}

void set_device_memory(void* to, int value, std::size_t n) {
  std::memset(to, value, n);
  mark_written(to, n);
}

bool run_grid(Place grid, unsigned threads, void (*run_thread)(void*), void* closure, const void* host,
              std::size_t host_bytes) {
  Thread thread{.run = run_thread, .closure = closure};
  void* arguments[] = {&thread};
  static Region shared(&__bss_start, static_cast<std::uint64_t>(&::end - &__bss_start));
  shared.shared = true;
  shared.label = "shared memory";
  machine.open = true;
  machine.host = static_cast<const std::byte*>(host);
  machine.host_bytes = host_bytes;
  machine.static_shared = &shared;
  size_of_grid = grid;
  copies.resize(threads);
  const bool well = run_threadgroups({grid.x, grid.y, grid.z}, threads, run_one, arguments, nullptr);
  machine.open = false;
  machine.static_shared = nullptr;
  return well;
}

}  // namespace plumb::backends::checker
