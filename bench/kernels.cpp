// Times quantized matrix products of the cpu backend on one thread. `bytes_per_second` counts the weights read; BM_read is
// the speed at which this machine reads memory, to compare with. Times are CPU times, which depend less on other programs.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/cache.h"
#include "backends/cpu/cpu.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/schedule.h"
#include "quants/format.h"

namespace plumb::backends::cpu {
namespace {

// Bytes of a `cold` matrix: larger than any cache.
constexpr std::size_t cold_bytes = std::size_t{192} << 20;

AlignedBytes random_bytes(std::size_t n) {
  AlignedBytes bytes = allocate_aligned(n);
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i + 8 <= n; i += 8) {
    // Every 16 bits are a finite half float.
    const std::uint64_t word = random() & 0xbfffbfffbfffbfffull;
    std::memcpy(bytes.get() + i, &word, 8);
  }
  return bytes;
}

void dot(benchmark::State& state, Isa isa, const quants::FormatInfo& format, std::size_t n_in, std::size_t n_tokens,
         int planes) {
  const KernelTable& table = kernels(isa);
  const KernelTable::Rounded& rounded = table.rounded[planes - 1];
  const std::size_t row = format.row_bytes(n_in);
  const std::size_t n_out = n_tokens == 1 ? cold_bytes / row : 512;
  const AlignedBytes weights = random_bytes(n_out * row + 64);
  const Operand kind = operand(format.format);
  const std::size_t stride = operand_bytes(kind, n_in, planes);
  const AlignedBytes x = random_bytes(stride * n_tokens);
  std::vector<float> values(n_in);
  for (std::size_t i = 0; i < n_in; ++i) values[i] = static_cast<float>(i % 17) - 8.0f;
  const Sign sign = n_tokens >= table.packs_from ? Sign::biased : Sign::plain;
  for (std::size_t t = 0; t < n_tokens; ++t) {
    std::byte* to = x.get() + t * stride;
    if (kind == Operand::f32) table.put_floats(values.data(), n_in, t, n_tokens, reinterpret_cast<float*>(x.get()));
    if (kind == Operand::x128) rounded.round_128(values.data(), n_in, to, sign);
    if (kind == Operand::x256) rounded.round_256(values.data(), n_in, to, sign);
  }
  const AlignedBytes scratch = allocate_aligned(table.scratch_bytes);
  std::vector<float> y(n_out * n_tokens);
  Dot job{};
  job.weights = reinterpret_cast<const std::uint8_t*>(weights.get());
  job.row_bytes = row;
  job.n_in = n_in;
  job.x = x.get();
  job.x_stride = stride;
  job.n_tokens = n_tokens;
  job.y = y.data();
  job.y_stride = n_out;
  job.row_end = n_out;
  job.scratch = reinterpret_cast<std::uint8_t*>(scratch.get());
  for (auto _ : state) {
    rounded.dot[quants::index(format.format)](job);
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * n_out * row));
  state.counters["multiplications/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(n_out * n_in * n_tokens), benchmark::Counter::kIsRate);
}

void BM_read(benchmark::State& state) {
  const AlignedBytes bytes = random_bytes(cold_bytes);
  for (auto _ : state) {
    std::uint64_t sums[8] = {};
    for (std::size_t i = 0; i < cold_bytes; i += sizeof sums) {
      std::uint64_t words[8];
      std::memcpy(words, bytes.get() + i, sizeof words);
      for (int k = 0; k < 8; ++k) sums[k] ^= words[k];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * cold_bytes));
}
BENCHMARK(BM_read);

}  // namespace

void register_all() {
  for (const Isa isa : cpu_isas()) {
    for (const quants::FormatInfo& format : quants::formats()) {
      for (const std::size_t n_tokens :
           {std::size_t{1}, std::size_t{2}, std::size_t{4}, std::size_t{8}, std::size_t{128}}) {
        const std::string title =
            "dot/" + std::string(name(isa)) + "/" + std::string(format.name) + "/" + std::to_string(n_tokens) + " tokens";
        benchmark::RegisterBenchmark(title.c_str(),
                                     [=, &format](benchmark::State& state) { dot(state, isa, format, 2048, n_tokens, 2); });
      }
    }
  }
}

}  // namespace plumb::backends::cpu

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  plumb::backends::cpu::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
