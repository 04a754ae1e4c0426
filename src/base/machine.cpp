#include "base/machine.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <new>
#include <string_view>
#include <thread>

#include "base/in_parts.h"

namespace plumb {

namespace {

// The value of "key : value" in a /proc file.
std::string proc_entry(const char* path, std::string_view key) {
  std::ifstream stream(path);
  std::string line;
  while (std::getline(stream, line)) {
    if (!line.starts_with(key)) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::size_t first = line.find_first_not_of(" \t", colon + 1);
    return first == std::string::npos ? std::string() : line.substr(first);
  }
  return {};
}

std::vector<std::string> processor_features() {
  std::vector<std::string> features;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) features.emplace_back("AVX2");
  if (__builtin_cpu_supports("fma")) features.emplace_back("FMA");
  if (__builtin_cpu_supports("avx512f")) features.emplace_back("AVX-512F");
  if (__builtin_cpu_supports("avx512bw")) features.emplace_back("AVX-512BW");
  if (__builtin_cpu_supports("avx512vnni")) features.emplace_back("AVX-512 VNNI");
  if (__builtin_cpu_supports("avx512bf16")) features.emplace_back("AVX-512 BF16");
#endif
  return features;
}

}  // namespace

std::uint32_t usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return static_cast<std::uint32_t>(std::max(1, CPU_COUNT(&set)));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

Machine this_machine() {
  Machine machine;
  machine.processor = proc_entry("/proc/cpuinfo", "model name");
  machine.n_cores = usable_cores();
  machine.features = processor_features();
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page_bytes > 0)
    machine.memory_bytes = static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes);
  machine.available_bytes = std::strtoull(proc_entry("/proc/meminfo", "MemAvailable").c_str(), nullptr, 10) * 1024;
  return machine;
}

namespace {

// 64 bytes: a cache line, and the widest load of any processor today. Narrower machines split it.
using Line __attribute__((vector_size(64))) = std::uint64_t;
constexpr std::size_t n_streams = 4;
constexpr std::size_t lines_a_step = 2;  // of each stream

#if defined(__x86_64__) && defined(__linux__)
#define PLUMB_WIDEST_LOADS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PLUMB_WIDEST_LOADS
#endif

// The lines of each stream. Streams that are a power of two apart meet in the same sets of the caches and the same banks of
// the memory, which costs a fifth of the speed; so some lines are left out.
std::size_t lines_of_stream(std::size_t n_lines) {
  constexpr std::size_t left_out = 17 * lines_a_step;
  return (n_lines / n_streams - left_out) / lines_a_step * lines_a_step;
}

// Reads n_streams parts of the lines side by side. One core waits for one line at a time in each stream that its
// prefetchers follow, so a single stream does not reach what memory gives. The sum keeps the compiler from leaving out the
// loads.
PLUMB_WIDEST_LOADS std::uint64_t read_all(const Line* lines, std::size_t n_of_stream) {
  Line sums[n_streams][lines_a_step] = {};
  for (std::size_t i = 0; i < n_of_stream; i += lines_a_step) {
    for (std::size_t stream = 0; stream < n_streams; ++stream) {
      for (std::size_t k = 0; k < lines_a_step; ++k) sums[stream][k] += lines[stream * n_of_stream + i + k];
    }
  }
  std::uint64_t total = 0;
  for (const auto& of_stream : sums) {
    for (const Line& sum : of_stream) {
      for (std::size_t lane = 0; lane < sizeof(Line) / sizeof(std::uint64_t); ++lane) total += sum[lane];
    }
  }
  return total;
}

// Memory in huge pages where the system has them, so that the translation of addresses is no limit.
struct Pages {
  explicit Pages(std::size_t n_bytes)
      : bytes(n_bytes), data(mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (data == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(data, bytes, MADV_HUGEPAGE);
#endif
    std::memset(data, 1, bytes);  // pages that nobody has written are all one page of zeros
  }
  ~Pages() { munmap(data, bytes); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  std::size_t bytes;
  void* data;
};

}  // namespace

double measure_read_bandwidth(std::uint32_t n_threads) {
  // Other programs and other machines of the same host read as well: what they leave changes from second to second.
  constexpr int least_passes = 10;
  constexpr std::chrono::seconds least_time(3);
  using Clock = std::chrono::steady_clock;
  // Together 2 GiB, which is beyond any cache, or a quarter of the memory that is free; of each thread at most 512 MiB.
  const std::uint64_t available = this_machine().available_bytes;
  const std::uint64_t total = std::min(std::uint64_t{2} << 30, available > 0 ? available / 4 : std::uint64_t{1} << 30);
  const std::size_t bytes = std::clamp<std::size_t>(total / n_threads, std::size_t{1} << 20, std::size_t{512} << 20);
  std::vector<std::unique_ptr<Pages>> buffers;
  for (std::uint32_t i = 0; i < n_threads; ++i) buffers.push_back(std::make_unique<Pages>(bytes));
  std::atomic<std::uint64_t> sink{0};
  const std::size_t n_of_stream = lines_of_stream(bytes / sizeof(Line));
  const auto read_bytes = static_cast<double>(n_threads * n_streams * n_of_stream * sizeof(Line));
  double best = 0;
  const auto first = Clock::now();
  for (int pass = 0; pass < least_passes || Clock::now() - first < least_time; ++pass) {
    const auto start = Clock::now();
    in_parts(n_threads, n_threads, [&](std::uint64_t thread, std::uint64_t) {
      sink += read_all(static_cast<const Line*>(buffers[thread]->data), n_of_stream);
    });
    best = std::max(best, read_bytes / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace plumb
