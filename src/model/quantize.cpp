#include "model/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <system_error>
#include <thread>

#include "gguf/kind.h"

namespace plumb::model {
namespace {

constexpr std::uint32_t quantization_version = 2;  // GGUF's version number of the block layouts

// Weights that a thread takes at a time. The number is fixed, so that sums of errors do not depend on the number of
// threads.
constexpr std::uint64_t chunk_weights = std::uint64_t{1} << 16;

struct ChunkResult {
  double squares = 0;
  double max_error = 0;
  std::optional<std::uint64_t> not_finite;  // index of the first such weight
  std::optional<std::uint64_t> too_large;   // index of the first weight that becomes infinite
};

ChunkResult convert(const gguf::Tensor& in, const quants::FormatInfo& to, std::uint64_t start, std::uint64_t n,
                    std::span<std::byte> out, std::vector<float>& weights, std::vector<float>& decoded) {
  const quants::FormatInfo& from = quants::info(in.format);
  weights.resize(n);
  decoded.resize(n);
  from.decode(in.data.data() + from.row_bytes(start), weights.data(), n / from.block_size);
  ChunkResult result;
  const auto odd = std::find_if(weights.begin(), weights.end(), [](float w) { return !std::isfinite(w); });
  if (odd != weights.end()) {
    result.not_finite = start + static_cast<std::uint64_t>(odd - weights.begin());
    return result;
  }
  std::byte* blocks = out.data() + to.row_bytes(start);
  to.encode(weights.data(), blocks, n / to.block_size);
  to.decode(blocks, decoded.data(), n / to.block_size);
  const auto lost = std::find_if(decoded.begin(), decoded.end(), [](float w) { return !std::isfinite(w); });
  if (lost != decoded.end()) {
    result.too_large = start + static_cast<std::uint64_t>(lost - decoded.begin());
    return result;
  }
  for (std::uint64_t i = 0; i < n; ++i) {
    const double error = std::fabs(static_cast<double>(weights[i]) - decoded[i]);
    result.squares += error * error;
    result.max_error = std::max(result.max_error, error);
  }
  return result;
}

// Runs work() on n threads including this one, or on fewer if the system gives no more.
template <class Work>
void run_on_threads(std::uint64_t n, const Work& work) {
  std::vector<std::jthread> threads;
  try {
    while (threads.size() + 1 < n) threads.emplace_back(work);
  } catch (const std::system_error&) {
    // The threads that did start share the work.
  }
  work();
}

Result<void> produce(const gguf::File& file, const gguf::Tensor& in, const quants::FormatInfo& to, std::uint32_t n_threads,
                     std::span<std::byte> out, TensorReport* report) {
  // A chunk is a whole number of blocks of both formats, as rows are.
  const std::uint64_t n_weights = in.n_elements();
  const std::uint64_t n_chunks = (n_weights + chunk_weights - 1) / chunk_weights;
  std::vector<ChunkResult> results(n_chunks);
  std::atomic<std::uint64_t> next{0};
  run_on_threads(std::min<std::uint64_t>(n_threads, n_chunks), [&] {
    std::vector<float> weights;
    std::vector<float> decoded;
    for (std::uint64_t chunk = next++; chunk < n_chunks; chunk = next++) {
      const std::uint64_t start = chunk * chunk_weights;
      results[chunk] = convert(in, to, start, std::min(chunk_weights, n_weights - start), out, weights, decoded);
    }
  });

  double squares = 0;
  double max_error = 0;
  for (const ChunkResult& result : results) {
    if (result.not_finite) {
      return fail(
          "{}: tensor '{}' has a weight that is infinite or not a number, at row {}, column {}; the model is damaged",
          file.label(), in.name, *result.not_finite / in.dims[0], *result.not_finite % in.dims[0]);
    }
    if (result.too_large) {
      return fail(
          "{}: tensor '{}' has a weight that is too large for {}, at row {}, column {}; F32 holds it, and BF16 unless it "
          "is "
          "beyond 3.39e38",
          file.label(), in.name, to.name, *result.too_large / in.dims[0], *result.too_large % in.dims[0]);
    }
    squares += result.squares;
    max_error = std::max(max_error, result.max_error);
  }
  if (report != nullptr) {
    report->rmse = std::sqrt(squares / static_cast<double>(std::max<std::uint64_t>(n_weights, 1)));
    report->max_error = max_error;
  }
  return {};
}

bool is_quantized(quants::Format format) { return quants::info(format).block_size > 1; }

}  // namespace

Result<gguf::Writer> quantize(const gguf::File& in, FileType type, const QuantizeOptions& options,
                              std::vector<TensorReport>* report) {
  PLUMB_CHECK(gguf::expect_model(in));
  PLUMB_TRY(const std::vector<quants::Format> formats, choose_formats(in, type));
  const std::uint32_t n_threads =
      options.n_threads != 0 ? options.n_threads : std::max(1u, std::thread::hardware_concurrency());

  gguf::Writer writer;
  for (const auto& [key, value] : in.metadata()) {
    if (!key.starts_with("split.")) writer.set(std::string(key), value);
  }
  writer.set("general.quantization_version", quantization_version);
  writer.set("general.file_type", static_cast<std::uint32_t>(type));

  const std::span<const gguf::Tensor> tensors = in.tensors();
  if (report != nullptr) report->clear();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const gguf::Tensor& tensor = tensors[i];
    if (report != nullptr) {
      const bool changes = formats[i] != tensor.format;
      report->push_back({std::string(tensor.name), tensor.format, formats[i], changes && is_quantized(tensor.format),
                         tensor.n_elements(), 0, 0});
    }
    const std::span dims(tensor.dims.data(), tensor.n_dims);
    if (formats[i] == tensor.format) {
      writer.add_tensor(std::string(tensor.name), formats[i], dims,
                        [in, &tensor](std::span<std::byte> out) -> Result<void> {
                          std::copy(tensor.data.begin(), tensor.data.end(), out.begin());
                          return {};
                        });
      continue;
    }
    writer.add_tensor(std::string(tensor.name), formats[i], dims,
                      [in, &tensor, n_threads, report, i, &to = quants::info(formats[i])](std::span<std::byte> out) {
                        return produce(in, tensor, to, n_threads, out, report != nullptr ? &(*report)[i] : nullptr);
                      });
  }
  return writer;
}

}  // namespace plumb::model
