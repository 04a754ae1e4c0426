// Runs threadgroups on fibers, one for each thread. A fiber runs until it reaches a barrier or SIMD operation that other
// threads have yet to reach.
#include <fmt/format.h>
#include <sys/mman.h>
#include <boost/context/detail/fcontext.hpp>

#include <algorithm>

#include "backends/checker/runtime.h"
#include "base/half.h"

namespace plumb::backends::checker {

Machine machine;

namespace {

namespace context = boost::context::detail;

constexpr std::uint32_t simd_width = 32;
constexpr std::uint32_t main_fiber = max_threads;

enum class State : std::uint8_t { done, ready, at_simd, at_barrier };
enum class Operation : std::uint8_t { none, sum, max, shuffle, matrix, simd_barrier, barrier };

constexpr std::string_view name_of(Operation operation) {
  constexpr std::string_view names[] = {
      "nothing",           "simd_sum",           "simd_max", "simd_shuffle", "a matrix instruction",
      "simdgroup_barrier", "threadgroup_barrier"};
  return names[static_cast<std::size_t>(operation)];
}

struct Fiber {
  context::fcontext_t context = nullptr;
  State state = State::done;
  Operation operation = Operation::none;
  int line = 0;
};

// A lane's part of the operands of a matrix instruction, or its address of a row.
struct Part {
  float a[4][2] = {}, b[2][2] = {};
  const void* address = nullptr;
};

struct Fibers {
  std::array<Fiber, max_threads + 1> fibers;
  // Two sets, used in turn: a lane may reach the next operation while another still reads the values of this one.
  std::array<std::array<std::uint32_t, max_threads>, 2> slots{};
  std::array<std::uint32_t, max_threads / simd_width> parity{}, arrived{};
  std::array<std::array<float, max_threads / simd_width>, 2> sums{};  // of the slots of each SIMD-group, after simd_sum
  std::array<std::array<Part, max_threads>, 2> parts;
  std::uint32_t n_at_barrier = 0;
  bool fresh = true;  // the contexts have yet to be made
  Body body = nullptr;
  void* const* arguments = nullptr;
  void* shared = nullptr;
};
Fibers all;

std::uint32_t lanes_of(std::uint32_t simd) { return std::min(simd_width, machine.n_threads - simd * simd_width); }

void switch_to(std::uint32_t to) {
  const std::uint32_t self = machine.thread;
  machine.thread = to;
  const auto back = context::jump_fcontext(all.fibers[to].context, &all.fibers[self]);
  static_cast<Fiber*>(back.data)->context = back.fctx;
}

// Switches to the next thread that can run, or to the main fiber if there is none.
void switch_away() {
  const std::uint32_t self = machine.thread;
  for (std::uint32_t i = self + 1; i < machine.n_threads; ++i) {
    if (all.fibers[i].state == State::ready) return switch_to(i);
  }
  for (std::uint32_t i = 0; i < self && i < machine.n_threads; ++i) {
    if (all.fibers[i].state == State::ready) return switch_to(i);
  }
  switch_to(main_fiber);
}

[[noreturn]] void fiber_main(context::transfer_t from) {
  static_cast<Fiber*>(from.data)->context = from.fctx;
  for (;;) {
    all.body(all.arguments, all.shared, machine.group, machine.thread);
    all.fibers[machine.thread].state = State::done;
    switch_away();
  }
}

void make_contexts() {
  if (machine.stacks == nullptr) {
    void* memory = mmap(nullptr, stack_bytes * max_threads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return;
    machine.stacks = static_cast<std::byte*>(memory);
  }
  for (std::uint32_t i = 0; i < max_threads; ++i) {
    all.fibers[i].context = context::make_fcontext(machine.stacks + (i + 1) * stack_bytes, stack_bytes, fiber_main);
  }
  all.fresh = false;
}

std::string describe(std::uint32_t thread) {
  const Fiber& fiber = all.fibers[thread];
  if (fiber.state == State::done) return fmt::format("thread {} has ended", thread);
  return fmt::format("thread {} waits at {} (line {})", thread, name_of(fiber.operation), fiber.line);
}

// The message where no thread can go on: the operation that not all threads reach, a thread that waits there and one that
// does not.
std::string divergence() {
  for (std::uint32_t i = 0; i < machine.n_threads; ++i) {
    const Fiber& waiting = all.fibers[i];
    if (waiting.state == State::done) continue;
    const bool of_simd = waiting.state == State::at_simd;
    const std::uint32_t first = of_simd ? i / simd_width * simd_width : 0;
    const std::uint32_t end = of_simd ? first + lanes_of(i / simd_width) : machine.n_threads;
    for (std::uint32_t j = first; j < end; ++j) {
      const Fiber& other = all.fibers[j];
      if (other.state == waiting.state && other.operation == waiting.operation && other.line == waiting.line) continue;
      return fmt::format("{} at line {} is not reached by all threads of the {}: {}, {}", name_of(waiting.operation),
                         waiting.line, of_simd ? "SIMD-group" : "threadgroup", describe(i), describe(j));
    }
  }
  return "no thread can go on";
}

// The calling thread reaches a SIMD operation with a value. Returns the values of all lanes when all have reached it.
const std::uint32_t* meet(Operation operation, int line, std::uint32_t bits) {
  const std::uint32_t self = machine.thread;
  const std::uint32_t simd = self / simd_width;
  Fiber& fiber = all.fibers[self];
  auto& slots = all.slots[all.parity[simd]];
  slots[self] = bits;
  fiber.operation = operation;
  fiber.line = line;
  if (++all.arrived[simd] < lanes_of(simd)) {
    fiber.state = State::at_simd;
    switch_away();
  } else {
    const std::uint32_t first = simd * simd_width;
    for (std::uint32_t i = first; i < first + lanes_of(simd); ++i) {
      if (all.fibers[i].operation == operation && all.fibers[i].line == line) continue;
      report(fmt::format("lanes of a SIMD-group meet at different operations: thread {} at {} (line {}), {}", self,
                         name_of(operation), line, describe(i)));
    }
    for (std::uint32_t i = first; i < first + lanes_of(simd); ++i) all.fibers[i].state = State::ready;
    if (operation == Operation::sum) {
      float& sum = all.sums[all.parity[simd]][simd] = 0;
      for (std::uint32_t i = first; i < first + lanes_of(simd); ++i) sum += std::bit_cast<float>(slots[i]);
    }
    all.arrived[simd] = 0;
    all.parity[simd] ^= 1;
    if (operation == Operation::simd_barrier) machine.simd_sync[simd] = ++machine.now;
  }
  return slots.data() + simd * simd_width;
}

// Gives a part to the other lanes. Returns the parts of all lanes.
const Part* exchange(const Part& own, int line) {
  const std::uint32_t simd = machine.thread / simd_width;
  if (lanes_of(simd) < simd_width) report(fmt::format("a matrix instruction at line {} in fewer than 32 lanes", line));
  auto& parts = all.parts[all.parity[simd]];
  parts[machine.thread] = own;
  meet(Operation::matrix, line, 0);
  return parts.data() + simd * simd_width;
}

// Runs all threads of one threadgroup to the end; false after a fault.
bool run_threadgroup(Body body, void* const* arguments, void* shared) {
  if (all.fresh) make_contexts();
  if (machine.stacks == nullptr) {
    machine.fault = "no memory for the stacks of fibers";
    return false;
  }
  all.body = body;
  all.arguments = arguments;
  all.shared = shared;
  all.n_at_barrier = 0;
  all.arrived.fill(0);
  machine.group_start = machine.group_sync = ++machine.now;
  machine.simd_sync.fill(machine.now);
  for (std::uint32_t i = 0; i < machine.n_threads; ++i) {
    all.fibers[i].state = State::ready;
    all.fibers[i].operation = Operation::none;
  }
  machine.thread = main_fiber;
  machine.running = true;
  switch_to(0);
  machine.running = false;
  if (!machine.fault.empty()) return false;
  for (std::uint32_t i = 0; i < machine.n_threads; ++i) {
    if (all.fibers[i].state == State::done) continue;
    machine.fault = fmt::format("kernel {}, threadgroup ({}, {}, {}): {}", machine.kernel, machine.group[0],
                                machine.group[1], machine.group[2], divergence());
    all.fresh = true;
    return false;
  }
  return true;
}

}  // namespace

void report(const std::string& what) {
  if (machine.fault.empty()) {
    machine.fault = fmt::format("kernel {}, threadgroup ({}, {}, {}), thread {}: {}", machine.kernel, machine.group[0],
                                machine.group[1], machine.group[2], machine.thread, what);
  }
  all.fresh = true;
  switch_to(main_fiber);
  __builtin_unreachable();
}

bool run_threadgroups(std::array<std::uint32_t, 3> grid, std::uint32_t n_threads, Body body, void* const* arguments,
                      void* shared) {
  machine.n_threads = n_threads;
  machine.fault.clear();
  constexpr std::uint32_t most_along_y = 65535;  // CUDA's limit, also along z
  if (grid[1] > most_along_y || grid[2] > most_along_y) {
    machine.fault = fmt::format("kernel {}: a grid of {} x {} x {} threadgroups; CUDA takes at most {} along y and z",
                                machine.kernel, grid[0], grid[1], grid[2], most_along_y);
    return false;
  }
  machine.launch_start = ++machine.now;
  for (std::uint32_t z = 0; z < grid[2]; ++z) {
    for (std::uint32_t y = 0; y < grid[1]; ++y) {
      for (std::uint32_t x = 0; x < grid[0]; ++x) {
        machine.group = {x, y, z};
        if (!run_threadgroup(body, arguments, shared)) return false;
      }
    }
  }
  return true;
}

float simd_sum_of(float x, int line) {
  const std::uint32_t simd = machine.thread / simd_width;
  const float& sum = all.sums[all.parity[simd]][simd];
  meet(Operation::sum, line, std::bit_cast<std::uint32_t>(x));
  return sum;
}

float simd_max_of(float x, int line) {
  const std::uint32_t n = lanes_of(machine.thread / simd_width);
  const std::uint32_t* values = meet(Operation::max, line, std::bit_cast<std::uint32_t>(x));
  float largest = x;
  for (std::uint32_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<float>(values[i]));
  return largest;
}

std::uint32_t simd_shuffle_of(std::uint32_t bits, std::uint32_t lane, bool is_mask, int line) {
  const std::uint32_t self = machine.thread % simd_width;
  const std::uint32_t n = lanes_of(machine.thread / simd_width);
  const std::uint32_t* values = meet(Operation::shuffle, line, bits);
  const std::uint32_t from = is_mask ? self ^ lane : lane;
  if (from >= n) report(fmt::format("simd_shuffle at line {} reads lane {} of {}", line, from, n));
  return values[from];
}

void multiply_add_of(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, int line) {
  const auto half = [](std::uint32_t word, std::uint32_t i) {
    return f16_to_f32(static_cast<std::uint16_t>(word >> 16 * i));
  };
  Part own;
  for (std::uint32_t i = 0; i < 2; ++i) {
    for (std::uint32_t word = 0; word < 4; ++word) own.a[word][i] = half(a[word], i);
    own.b[0][i] = half(b0, i);
    own.b[1][i] = half(b1, i);
  }
  const Part* const parts = exchange(own, line);
  const std::uint32_t lane = machine.thread % simd_width;
  // The sum runs over 16 elements in 8 pairs. Pair p is in lane p % 4 of each quad, in the first or second word.
  for (std::uint32_t p = 0; p < 8; ++p) {
    const Part& row = parts[(lane & 28) + p % 4];
    for (std::uint32_t j = 0; j < 4; ++j) {
      const Part& column = parts[4 * (2 * (lane % 4) + j % 2) + p % 4];
      for (std::uint32_t i = 0; i < 2; ++i) d[j] += row.a[j / 2 + 2 * (p / 4)][i] * column.b[p / 4][i];
    }
  }
}

void addresses_of(const void* own, const void* (&of_lanes)[32], int line) {
  Part part;
  part.address = own;
  const Part* const parts = exchange(part, line);
  for (std::uint32_t i = 0; i < simd_width; ++i) of_lanes[i] = parts[i].address;
}

void simdgroup_barrier_at(int line) { meet(Operation::simd_barrier, line, 0); }

void threadgroup_barrier_at(int line) {
  Fiber& fiber = all.fibers[machine.thread];
  fiber.operation = Operation::barrier;
  fiber.line = line;
  if (++all.n_at_barrier < machine.n_threads) {
    fiber.state = State::at_barrier;
    switch_away();
    return;
  }
  for (std::uint32_t i = 0; i < machine.n_threads; ++i) {
    if (all.fibers[i].line != line) {
      report(
          fmt::format("threads meet at different barriers: thread {} at line {}, {}", machine.thread, line, describe(i)));
    }
  }
  for (std::uint32_t i = 0; i < machine.n_threads; ++i) all.fibers[i].state = State::ready;
  all.n_at_barrier = 0;
  machine.group_sync = ++machine.now;
  machine.simd_sync.fill(machine.now);
}

float half_to_float(std::uint16_t bits) { return f16_to_f32(bits); }
std::uint16_t float_to_half(float x) { return f32_to_f16(x); }

}  // namespace plumb::backends::checker
