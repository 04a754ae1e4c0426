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

#include "backends/backend.h"
#include "backends/gpu/kernels/list.h"
#include "base/result.h"
#include "plan/plan.h"
#include "quants/format.h"

namespace plumb::backends::gpu {

enum class KernelId : std::uint16_t {
#define PLUMB_KERNEL(signature, name, n) name,
  PLUMB_KERNEL_LIST
#undef PLUMB_KERNEL
      count,
};

struct KernelInfo {
  std::string_view name;
  std::uint32_t threads = 0;       // a threadgroup
  std::uint32_t shared_bytes = 0;  // what a threadgroup shares
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

// A part of a Memory. Offsets are multiples of view_alignment where a launch uses them.
inline constexpr std::uint64_t view_alignment = 256;
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

// Work that only one device knows how to do: its own kernels and library calls.
class NativeLaunch {
 public:
  virtual ~NativeLaunch() = default;
};

// One kernel over a grid of threadgroups, or a NativeLaunch. Made by launch() of launch.h, which knows each kernel's
// arguments.
struct Launch {
  KernelId kernel = KernelId::count;
  std::array<std::uint32_t, 3> grid{1, 1, 1};  // threadgroups
  std::vector<Argument> arguments;
  std::vector<std::byte> params;
  std::shared_ptr<const NativeLaunch> native;  // then nothing above is used
};
using Launches = std::vector<Launch>;

struct WeightView {
  View view;
  quants::Format format = quants::Format::f32;
  std::uint32_t n_in = 0, n_out = 0;
  std::uint32_t n_experts = 1;  // [n_experts, n_out, n_in]
};

// One layer's keys and values, [n_slots, n_kv_heads, capacity, head_dim] each: a slot a sequence.
struct CacheView {
  View keys, values;
  KvType type = KvType::f16;
  std::uint32_t capacity = 0;
};

// Where a step's rows belong, [T] of uint32 each: the slot in the caches of a row's sequence, and its place in that.
struct RowPlaces {
  View slots, positions;
};

class StepContext;  // step.h

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

  // Tuned kernels. Appends launches that do the plan's ops from number `op` on, and returns how many ops they cover; 0
  // leaves the op to the shared kernels. Values that no op after those covered reads may be left unwritten.
  virtual std::size_t emit(const StepContext&, std::size_t /*op*/, Launches&) { return 0; }
  // Before a step's ops are emitted. True: recordings made so far are of no use any more.
  virtual Result<bool> prepare(const StepContext&) { return false; }

  // True where every value shall have memory of its own, so that a stray access cannot hit another value's.
  [[nodiscard]] virtual bool isolates_values() const { return false; }
  // Most tokens a step should have: more run as several steps.
  [[nodiscard]] virtual std::uint32_t preferred_batch() const = 0;
};

// Memory for views of these sizes: one allocation for all, or one for each where the device isolates values.
struct Views {
  std::vector<std::unique_ptr<Memory>> memories;
  std::vector<View> views;
};
Result<Views> allocate_views(Device& device, std::span<const std::uint64_t> sizes, std::string_view what);

}  // namespace plumb::backends::gpu
