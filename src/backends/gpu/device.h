// A GPU API, as thin as it can be: memory, copies, launches of the kernels of kernels/list.h, and waiting. CUDA, Metal and
// the checker implement it; everything else of a GPU backend (executor.h) is written once above it.
//
// Launches and copies of one Device take effect in the order in which they were asked for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/gpu/kernels/list.h"
#include "base/result.h"

namespace plumb::backends::gpu {

enum class KernelId : std::uint16_t {
#define PLUMB_KERNEL_ID(signature, name, n) name,
  PLUMB_KERNEL_LIST(PLUMB_KERNEL_ID)
#undef PLUMB_KERNEL_ID
      count,
};

struct KernelInfo {
  std::string_view name;
  std::uint32_t threads = 0;  // a threadgroup
};
// By KernelId.
std::span<const KernelInfo> kernel_infos();

// Device memory, freed with the object. What it holds at first is undefined; the checker reports whoever reads it.
class Memory {
 public:
  virtual ~Memory() = default;
  [[nodiscard]] std::uint64_t size() const { return size_; }

 protected:
  explicit Memory(std::uint64_t size) : size_(size) {}

 private:
  std::uint64_t size_;  // bytes
};

// A part of a Memory. Offsets are multiples of 256 bytes where a launch uses them.
struct View {
  Memory* memory = nullptr;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

enum class Access : std::uint8_t { in, out, inout };

struct Argument {
  View view;
  Access access = Access::in;
  std::uint32_t element_bytes = 1;
  std::string_view name;
};

// One kernel over a grid of threadgroups. Made by launch() of launch.h, which knows each kernel's arguments.
struct Launch {
  KernelId kernel = KernelId::count;
  std::array<std::uint32_t, 3> grid{1, 1, 1};  // threadgroups
  std::vector<Argument> arguments;
  std::vector<std::byte> params;
};

class Device {
 public:
  virtual ~Device() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual std::string description() const = 0;

  // `what` is for the message when there is not enough, which says how much was needed and there.
  virtual Result<std::unique_ptr<Memory>> allocate(std::uint64_t bytes, std::string_view what) = 0;
  virtual Result<void> upload(const View& to, std::span<const std::byte> from) = 0;
  // Waits for everything asked for before.
  virtual Result<void> download(const View& from, std::span<std::byte> to) = 0;
  // What is there is no longer of use: until it is written, reading it is a mistake. For who looks for mistakes.
  virtual void forget(const View&) {}

  // Runs launches in order, as one submission where the API has such a thing. `tag` other than 0 names a list that comes
  // again unchanged, so that a device may keep what it prepared for it (a CUDA graph); forget_recordings() ends its
  // validity.
  virtual Result<void> run(std::span<const Launch> launches, std::uint64_t tag) = 0;
  virtual void forget_recordings() {}

  // True where every value shall have memory of its own, so that a stray access cannot hit another value's.
  [[nodiscard]] virtual bool isolates_values() const { return false; }
  // Most tokens a step should have: more run as several steps.
  [[nodiscard]] virtual std::uint32_t preferred_batch() const = 0;
};

}  // namespace plumb::backends::gpu
