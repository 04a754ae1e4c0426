// The checker's parts: memory with a shadow that records accesses, the rules for accesses, and fibers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/gpu/device.h"

namespace plumb::backends::checker {

// The last access to an element: a time stamp and the thread's index in its threadgroup, or a code for several threads.
// Stamps only grow. A stamp older than the start of the launch (or the last barrier) no longer counts.
struct Touch {
  std::uint64_t packed = 0;                     // stamp << 11 | thread
  static constexpr std::uint32_t lanes = 1024;  // lanes + k: several threads of SIMD-group k
  static constexpr std::uint32_t many = 2047;   // threads of several SIMD-groups
  [[nodiscard]] std::uint64_t stamp() const { return packed >> 11; }
  [[nodiscard]] std::uint32_t thread() const { return static_cast<std::uint32_t>(packed & many); }
  [[nodiscard]] bool several() const { return thread() >= lanes; }
  [[nodiscard]] bool is_of_simd(std::uint32_t simd) const {
    return several() ? thread() == lanes + simd : thread() / 32 == simd;
  }
  static Touch of(std::uint64_t stamp, std::uint64_t thread) { return {stamp << 11 | thread}; }
};
struct Cell {
  Touch write, read;
};

// An allocation, alone in a range of reserved addresses.
class Region {
 public:
  Region(std::uint64_t bytes, std::uint64_t first_slot, std::uint64_t n_slots);
  // Covers memory that exists already.
  Region(std::byte* data, std::uint64_t bytes) : data_(data), size_(bytes) {}
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region();

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }
  void set_written(std::uint64_t offset, std::uint64_t n);
  void set_unwritten(std::uint64_t offset, std::uint64_t n);
  [[nodiscard]] bool is_written(std::uint64_t offset, std::uint64_t n) const;
  // The cells of elements of 1 << element_shift bytes.
  Cell* cells(std::uint32_t element_shift);

  struct Binding {
    std::uint64_t begin = 0, end = 0;
    std::uint32_t element_shift = 0;  // elements of 1 << element_shift bytes
    gpu::Access access = gpu::Access::in;
    std::string_view name;
  };
  std::vector<Binding> bindings;  // of the current launch
  bool raced = false;             // a binding may be written, so accesses are recorded in cells
  bool shared = false;            // threadgroup memory
  bool constant = false;          // only the host writes it
  std::string label;

 private:
  std::byte* data_;
  std::uint64_t size_, first_slot_ = 0, n_slots_ = 0;
  bool all_written_ = false;
  std::uint8_t* written_ = nullptr;  // 0 or 1 for each byte; null while no byte or every byte is written
  Cell* cells_ = nullptr;
  std::uint64_t cell_bytes_ = 0;
};

// Null if no addresses or no memory are left.
std::unique_ptr<Region> make_region(std::uint64_t bytes);

// Fibers: a stack for each thread of a threadgroup.
inline constexpr std::uint32_t max_threads = 1024;
inline constexpr std::size_t stack_bytes = std::size_t{64} << 10;

// The state of the running launch.
struct Machine {
  std::string_view kernel;
  std::uint32_t n_threads = 0;
  std::array<std::uint32_t, 3> group{};
  std::uint32_t thread = 0;  // the running fiber
  std::uint64_t now = 1;     // the current stamp
  std::uint64_t launch_start = 0, group_start = 0, group_sync = 0;
  std::array<std::uint64_t, 32> simd_sync{};
  std::string fault;  // the first fault
  bool running = false;
  std::byte* stacks = nullptr;  // of the fibers, one after another
  // A CUDA kernel runs. Its arguments may point into any memory of the device, its parameters are at `host`, and its shared
  // memory is the program's static memory.
  bool open = false;
  const std::byte* host = nullptr;
  std::uint64_t host_bytes = 0;
  Region* static_shared = nullptr;
};
extern Machine machine;

// Ends the launch with a fault at the current thread. Does not return.
[[noreturn]] void report(const std::string& what);

// A kernel with its arguments bound, run for one thread.
using Body = void (*)(void* const* arguments, void* shared, std::array<std::uint32_t, 3> group, std::uint32_t thread);

// Runs the threadgroups of a grid one after another, each of n_threads threads; false after a fault.
bool run_threadgroups(std::array<std::uint32_t, 3> grid, std::uint32_t n_threads, Body body, void* const* arguments,
                      void* shared);
// The address of a View.
std::byte* address_of(const gpu::View& view);
// Marks bytes as written, after the host has written them for the device.
void mark_written(const void* at, std::uint64_t n);
bool is_written_at(const void* at, std::uint64_t n);

// Whether an address is on a fiber's stack, where a thread has its own variables.
inline bool on_stack(const void* address) {
  return static_cast<std::size_t>(static_cast<const std::byte*>(address) - machine.stacks) < stack_bytes * max_threads;
}

struct KernelEntry {
  Body body = nullptr;
  std::uint64_t shared_bytes = 0;
  std::uint64_t shared_alignment = 4;
};
// By KernelId; kernels.cpp makes it from kernels/list.h.
std::span<const KernelEntry> kernel_entries();

// Runs a kernel that may be missing from the list; launch.kernel is not used. Tests run kernels with planted defects this
// way.
Result<void> run_kernel(const KernelEntry& entry, std::string_view name, std::uint32_t n_threads,
                        const gpu::Launch& launch);

}  // namespace plumb::backends::checker
