#include "base/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
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

double measure_read_bandwidth(std::uint32_t n_threads) {
  constexpr std::size_t words_per_thread = (std::size_t{256} << 20) / sizeof(std::uint64_t);
  constexpr int n_passes = 5;
  std::vector<std::vector<std::uint64_t>> buffers;
  for (std::uint32_t i = 0; i < n_threads; ++i) buffers.emplace_back(words_per_thread, i);
  std::atomic<std::uint64_t> sink{0};
  double best = 0;
  for (int pass = 0; pass < n_passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    in_parts(n_threads, n_threads, [&](std::uint64_t thread, std::uint64_t) {
      std::uint64_t sums[8] = {};
      for (std::size_t i = 0; i < words_per_thread; i += 8) {
        for (std::size_t lane = 0; lane < 8; ++lane) sums[lane] += buffers[thread][i + lane];
      }
      for (const std::uint64_t sum : sums) sink += sum;
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, static_cast<double>(n_threads * words_per_thread * sizeof(std::uint64_t)) / seconds);
  }
  return best;
}

}  // namespace plumb
