// A thin GPU API: memory, copies, launches of the kernels of kernels/list.h, and waiting. CUDA, Metal and the checker
// implement it. All other parts of a GPU backend are written once on top of it (executor.h).
//
// Launches and copies of one Device take effect in the order in which they were requested.
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
  std::uint32_t threads = 0;       // in a threadgroup
  std::uint32_t shared_bytes = 0;  // of threadgroup memory
};
// By KernelId.
std::span<const KernelInfo> kernel_infos();

// Device memory, freed with the object. Its first content is undefined, and the checker reports any read of it.
class Memory {
 public:
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  virtual ~Memory() = default;
  [[nodiscard]] std::uint64_t size() const { return size_; }

 protected:
  explicit Memory(std::uint64_t size) : size_(size) {}

 private:
  std::uint64_t size_;  // bytes
};

// A part of a Memory. A launch needs offsets that are multiples of view_alignment.
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

// Work of one device only: its own kernels and library calls.
class NativeLaunch {
 public:
  virtual ~NativeLaunch() = default;
};

// One kernel over a grid of threadgroups, or a NativeLaunch. launch() of launch.h makes it, with the arguments of each
// kernel checked by their types.
struct Launch {
  KernelId kernel = KernelId::count;
  std::array<std::uint32_t, 3> grid{1, 1, 1};  // threadgroups
  std::vector<Argument> arguments;
  std::vector<std::byte> params;
  std::shared_ptr<const NativeLaunch> native;  // if set, the fields above are not used
};
using Launches = std::vector<Launch>;

struct WeightView {
  View view;
  quants::Format format = quants::Format::f32;
  std::uint32_t n_in = 0, n_out = 0;
  std::uint32_t n_experts = 1;  // [n_experts, n_out, n_in]
};

// One layer's keys and values, [n_slots, n_kv_heads, capacity, head_dim] each; each sequence has a slot.
struct CacheView {
  View keys, values;
  KvType type = KvType::f16;
  std::uint32_t capacity = 0;
};

// For each row of a step, [T] of uint32: the slot of its sequence in the caches, and its position in the sequence.
struct RowPlaces {
  View slots, positions;
  View lasts;  // the last position of its sequence, where an op of the plan is not causal
};

class StepContext;  // step.h

class Device {
 public:
  virtual ~Device() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual std::string description() const = 0;

  // `what` is the name in the error if memory is short; the error says how much was needed and how much is free.
  virtual Result<std::unique_ptr<Memory>> allocate(std::uint64_t bytes, std::string_view what) = 0;
  virtual Result<void> upload(const View& to, std::span<const std::byte> from) = 0;
  // Waits for all earlier requests.
  virtual Result<void> download(const View& from, std::span<std::byte> to) = 0;
  // The content is no longer needed: until it is written again, reading it is a mistake. For devices that look for
  // mistakes.
  virtual void forget(const View&) {}

  // Runs launches in order, as one submission if the API can. A `tag` other than 0 names a list that will come again
  // unchanged, so that a device may keep what it has prepared for it (a CUDA graph), until forget_recordings().
  virtual Result<void> run(std::span<const Launch> launches, std::uint64_t tag) = 0;
  virtual void forget_recordings() {}

  // Tuned kernels. Appends launches for the plan's ops from number `op` on, and returns how many ops they cover; 0: the
  // shared kernels run the op. Values that no later op reads may be left unwritten.
  virtual std::size_t emit(const StepContext&, std::size_t /*op*/, Launches&) { return 0; }
  // Called before a step's ops are emitted. Returns true if earlier recordings are no longer valid.
  virtual Result<bool> prepare(const StepContext&) { return false; }

  // Whether every value shall have memory of its own, so that a stray access cannot hit another value.
  [[nodiscard]] virtual bool isolates_values() const { return false; }
  // The most tokens that a step should have. More tokens run as several steps.
  [[nodiscard]] virtual std::uint32_t preferred_batch() const = 0;
};

// Memory for several Views: one allocation for all, or one for each if the device isolates values.
struct Views {
  std::vector<std::unique_ptr<Memory>> memories;
  std::vector<View> views;
};
Result<Views> allocate_views(Device& device, std::span<const std::uint64_t> sizes, std::string_view what);

}  // namespace plumb::backends::gpu
