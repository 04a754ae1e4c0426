// The checker's memory, with a shadow that records accesses, and the rules for every access. The compiler's instrumentation
// calls the hooks at the end of this file.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "backends/checker/runtime.h"

// Begin and end of the image, a program's or a shared library's (the linker's symbols). Tables of constants lie inside it.
extern "C" {
[[gnu::visibility("hidden")]] extern char __ehdr_start;  // NOLINT(bugprone-reserved-identifier)
[[gnu::visibility("hidden")]] extern char end;
}

namespace plumb::backends::checker {

namespace {

// Addresses are assigned in slots. Every allocation has at least half a slot of unused addresses before and after it: as
// far as a wrong 32-bit index can reach with elements of 4 bytes.
constexpr std::uint64_t slot_bits = 35;
constexpr std::uint64_t slot_bytes = std::uint64_t{1} << slot_bits;
constexpr std::uint64_t n_slots = 2048;
constexpr std::uint64_t page = 4096;

struct Addresses {
  std::byte* base = nullptr;
  std::array<Region*, n_slots> regions{};
  std::array<bool, n_slots> taken{};
};
Addresses addresses;

void* map(std::uint64_t bytes, int protection) {
  void* p = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

// The allocation nearest to an address.
Region* region_at(const void* address) {
  const auto offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - addresses.base);
  if (offset >= slot_bytes * n_slots - slot_bytes / 2) return nullptr;
  Region* region = addresses.regions[(offset + slot_bytes / 2) >> slot_bits];
  return region != nullptr ? region : addresses.regions[offset >> slot_bits];
}

constexpr std::string_view verb(bool write) { return write ? "writes" : "reads"; }

std::string other_thread(Touch touch) {
  if (touch.stamp() < machine.group_start) return "another threadgroup";
  if (touch.several()) return "another thread";
  return fmt::format("thread {}", touch.thread());
}

std::string element(const Region::Binding& binding, std::uint64_t offset) {
  return fmt::format("element {} of argument '{}'",
                     static_cast<std::int64_t>(offset - binding.begin) >> binding.element_shift, binding.name);
}

// Whether an earlier touch came from another thread and is not ordered before this access.
bool races(const Region& region, Touch touch) {
  if (touch.stamp() < (region.shared ? machine.group_sync : machine.launch_start)) return false;
  if (!region.shared) return touch.stamp() < machine.group_start || touch.thread() != machine.thread;
  if (touch.thread() == machine.thread) return false;
  const std::uint32_t simd = machine.thread / 32;
  return !touch.is_of_simd(simd) || touch.stamp() >= machine.simd_sync[simd];
}

// The record of two reads that are not ordered: `before` and the current one.
Touch joined(Touch before) {
  const std::uint32_t simd = machine.thread / 32;
  const bool same = before.stamp() >= machine.group_start && before.is_of_simd(simd);
  return Touch::of(machine.now, same ? Touch::lanes + simd : Touch::many);
}

void enter(Region& region, const Region::Binding& binding, std::uint64_t offset, std::uint64_t n, bool write) {
  Cell* cells = region.cells(binding.element_shift);
  const std::uint64_t first = offset >> binding.element_shift;
  const std::uint64_t last = (offset + n - 1) >> binding.element_shift;
  const Touch now = Touch::of(machine.now, machine.thread);
  for (std::uint64_t i = first; i <= last; ++i) {
    Cell& cell = cells[i];
    const auto conflict = [&](Touch other, std::string_view did) {
      report(fmt::format("{} {} while {} {} it with no barrier between: a race", verb(write),
                         element(binding, i << binding.element_shift), other_thread(other), did));
    };
    if (!write && region.shared && cell.write.stamp() < machine.group_start) {
      report(fmt::format("reads {}, which nobody has written so far in the threadgroup: never, or with no barrier between",
                         element(binding, i << binding.element_shift)));
    }
    if (races(region, cell.write)) conflict(cell.write, "writes");
    if (write) {
      if (races(region, cell.read)) conflict(cell.read, "reads");
      cell.write = now;
    } else {
      cell.read = races(region, cell.read) ? joined(cell.read) : now;
    }
  }
}

void access(const void* address, std::uint64_t n, bool write, bool aligned) {
  if (!machine.running || on_stack(address)) return;
  Region* region = region_at(address);
  if (machine.open && region == nullptr) {
    const auto* p = static_cast<const std::byte*>(address);
    if (!write && p >= machine.host && p < machine.host + machine.host_bytes) return;
    const Region* shared = machine.static_shared;
    if (shared != nullptr && p >= shared->data() && p < shared->data() + shared->size()) region = machine.static_shared;
  }
  if (region == nullptr) {
    const auto* p = static_cast<const char*>(address);
    if (!write && p >= &__ehdr_start && p < &end) return;
    report(fmt::format("{} {} bytes at {}, far from every argument", verb(write), n, address));
  }
  const auto offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - region->data());
  const Region::Binding* found = nullptr;
  Region::Binding whole;
  if (machine.open) {
    whole = {.begin = 0, .end = region->size(), .element_shift = 0, .access = gpu::Access::inout, .name = region->label};
    if (offset >= region->size() || n > region->size() - offset) {
      report(fmt::format("{} byte {} of {}, which has {}", verb(write), static_cast<std::int64_t>(offset), region->label,
                         region->size()));
    }
    found = &whole;
    region->raced = !region->constant || write;
    if (write) region->constant = false;
  } else {
    for (const Region::Binding& binding : region->bindings) {
      if (offset < binding.begin || offset >= binding.end || n > binding.end - offset) continue;
      found = &binding;
      if (!write || binding.access != gpu::Access::in) break;
    }
  }
  if (found == nullptr) {
    if (region->bindings.empty()) report(fmt::format("{} memory that is none of its arguments", verb(write)));
    const Region::Binding& nearest = region->bindings.front();
    report(fmt::format("{} {}, which has {}", verb(write), element(nearest, offset),
                       (nearest.end - nearest.begin) >> nearest.element_shift));
  }
  if (write && found->access == gpu::Access::in)
    report(fmt::format("writes {}, which is read-only", element(*found, offset)));
  if (aligned && (reinterpret_cast<std::uintptr_t>(address) & (n - 1)) != 0) {  // n is a power of two
    report(fmt::format("{} {} bytes at {}, byte {}: not a multiple of {}", verb(write), n, element(*found, offset),
                       offset - found->begin, n));
  }
  if (!write && !region->shared && !region->is_written(offset, n))
    report(fmt::format("reads {}, which nobody has written", element(*found, offset)));
  if (region->raced) enter(*region, *found, offset, n, write);
  if (write && !region->shared) region->set_written(offset, n);
}

}  // namespace

Region::Region(std::uint64_t bytes, std::uint64_t first_slot, std::uint64_t slots)
    : data_(addresses.base + first_slot * slot_bytes), size_(bytes), first_slot_(first_slot), n_slots_(slots) {
  for (std::uint64_t i = 0; i < n_slots_; ++i) addresses.regions[first_slot_ + i] = this;
}

Region::~Region() {
  if (written_ != nullptr) munmap(written_, size_);
  if (cells_ != nullptr) munmap(cells_, cell_bytes_);
  if (n_slots_ == 0) return;
  const std::uint64_t mapped = (size_ + page - 1) / page * page;
  (void)mmap(data_, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  for (std::uint64_t i = 0; i < n_slots_; ++i) {
    addresses.regions[first_slot_ + i] = nullptr;
    addresses.taken[first_slot_ + i] = false;
  }
}

std::unique_ptr<Region> make_region(std::uint64_t bytes) {
  if (addresses.base == nullptr) addresses.base = static_cast<std::byte*>(map(slot_bytes * n_slots, PROT_NONE));
  if (addresses.base == nullptr) return nullptr;
  const std::uint64_t slots = (bytes + slot_bytes / 2) / slot_bytes + 1;
  for (std::uint64_t first = 1; first + slots < n_slots; ++first) {
    std::uint64_t free = 0;
    while (free < slots && !addresses.taken[first + free]) ++free;
    if (free < slots) {
      first += free;
      continue;
    }
    const std::uint64_t mapped = (bytes + page - 1) / page * page;
    if (mmap(addresses.base + first * slot_bytes, mapped, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
      return nullptr;
    }
    std::fill_n(addresses.taken.begin() + static_cast<std::ptrdiff_t>(first), slots, true);
    return std::make_unique<Region>(bytes, first, slots);
  }
  return nullptr;
}

void Region::set_written(std::uint64_t offset, std::uint64_t n) {
  if (all_written_) return;
  if (offset == 0 && n == size_) {
    all_written_ = true;
    return;
  }
  if (written_ == nullptr) written_ = static_cast<std::uint8_t*>(map(size_, PROT_READ | PROT_WRITE));
  std::memset(written_ + offset, 1, n);
}

void Region::set_unwritten(std::uint64_t offset, std::uint64_t n) {
  if (written_ == nullptr) {
    if (!all_written_) return;
    written_ = static_cast<std::uint8_t*>(map(size_, PROT_READ | PROT_WRITE));
    std::memset(written_, 1, size_);
  } else if (all_written_) {
    std::memset(written_, 1, size_);
  }
  all_written_ = false;
  std::memset(written_ + offset, 0, n);
}

bool Region::is_written(std::uint64_t offset, std::uint64_t n) const {
  if (all_written_) return true;
  if (written_ == nullptr) return false;
  const std::uint8_t* at = written_ + offset;
  for (; n >= 4; n -= 4, at += 4) {
    std::uint32_t four;
    std::memcpy(&four, at, 4);
    if (four != 0x01010101u) return false;
  }
  for (; n > 0; --n, ++at) {
    if (*at == 0) return false;
  }
  return true;
}

Cell* Region::cells(std::uint32_t element_shift) {
  const std::uint64_t needed = ((size_ >> element_shift) + 1) * sizeof(Cell);
  if (needed > cell_bytes_) {
    if (cells_ != nullptr) munmap(cells_, cell_bytes_);
    cells_ = static_cast<Cell*>(map(needed, PROT_READ | PROT_WRITE));
    cell_bytes_ = needed;
  }
  return cells_;
}

void mark_written(const void* at, std::uint64_t n) {
  Region* region = region_at(at);
  if (region == nullptr) return;
  region->set_written(static_cast<std::uint64_t>(static_cast<const std::byte*>(at) - region->data()), n);
  region->constant = false;
}

bool is_written_at(const void* at, std::uint64_t n) {
  const Region* region = region_at(at);
  return region != nullptr &&
         region->is_written(static_cast<std::uint64_t>(static_cast<const std::byte*>(at) - region->data()), n);
}

}  // namespace plumb::backends::checker

// The hooks that instrumented code calls, by ThreadSanitizer's names (tsan_interface.h of compiler-rt).
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" {
#define PLUMB_TSAN_HOOKS(n)                                                                        \
  void __tsan_read##n(void* p) { plumb::backends::checker::access(p, n, false, true); }            \
  void __tsan_write##n(void* p) { plumb::backends::checker::access(p, n, true, true); }            \
  void __tsan_unaligned_read##n(void* p) { plumb::backends::checker::access(p, n, false, false); } \
  void __tsan_unaligned_write##n(void* p) { plumb::backends::checker::access(p, n, true, false); }
PLUMB_TSAN_HOOKS(1)
PLUMB_TSAN_HOOKS(2)
PLUMB_TSAN_HOOKS(4)
PLUMB_TSAN_HOOKS(8)
PLUMB_TSAN_HOOKS(16)
void __tsan_read_range(void* p, unsigned long n) { plumb::backends::checker::access(p, n, false, false); }
void __tsan_write_range(void* p, unsigned long n) { plumb::backends::checker::access(p, n, true, false); }
void* __tsan_memcpy(void* to, const void* from, unsigned long n) {
  plumb::backends::checker::access(from, n, false, false);
  plumb::backends::checker::access(to, n, true, false);
  return std::memcpy(to, from, n);
}
void* __tsan_memset(void* to, int value, unsigned long n) {
  plumb::backends::checker::access(to, n, true, false);
  return std::memset(to, value, n);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
