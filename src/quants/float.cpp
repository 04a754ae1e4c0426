// F32, F16 and BF16: a block is one value.
#include <bit>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "quants/codecs.h"

namespace plumb::quants {
namespace {

// Values lie at any address, so they move by memcpy, in runs that keep the conversion loops vectorizable.
constexpr std::size_t chunk = 256;

// As f16_to_f32, without branches: the scaling aligns the exponent, subnormals included, and is exact.
float widen(std::uint16_t half) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fff) << 13;
  const std::uint32_t finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const std::uint32_t special = magnitude | 0x7f800000u;  // infinity or NaN
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  return std::bit_cast<float>((magnitude >= 0x0f800000u ? special : finite) | sign);
}

template <float (*convert)(std::uint16_t)>
void decode_16(const std::byte* blocks, float* values, std::size_t n) {
  std::uint16_t raw[chunk];
  for (std::size_t start = 0; start < n; start += chunk) {
    const std::size_t count = n - start < chunk ? n - start : chunk;
    std::memcpy(raw, blocks + 2 * start, 2 * count);
    for (std::size_t i = 0; i < count; ++i) values[start + i] = convert(raw[i]);
  }
}

template <std::uint16_t (*convert)(float)>
void encode_16(const float* values, std::byte* blocks, std::size_t n) {
  std::uint16_t raw[chunk];
  for (std::size_t start = 0; start < n; start += chunk) {
    const std::size_t count = n - start < chunk ? n - start : chunk;
    for (std::size_t i = 0; i < count; ++i) raw[i] = convert(values[start + i]);
    std::memcpy(blocks + 2 * start, raw, 2 * count);
  }
}

}  // namespace

void decode_f32(const std::byte* blocks, float* values, std::size_t n_blocks) {
  if (n_blocks != 0) std::memcpy(values, blocks, n_blocks * sizeof(float));
}

void encode_f32(const float* values, std::byte* blocks, std::size_t n_blocks) {
  if (n_blocks != 0) std::memcpy(blocks, values, n_blocks * sizeof(float));
}

void decode_f16(const std::byte* blocks, float* values, std::size_t n_blocks) {
  decode_16<widen>(blocks, values, n_blocks);
}

void encode_f16(const float* values, std::byte* blocks, std::size_t n_blocks) {
  encode_16<f32_to_f16>(values, blocks, n_blocks);
}

void decode_bf16(const std::byte* blocks, float* values, std::size_t n_blocks) {
  decode_16<bf16_to_f32>(blocks, values, n_blocks);
}

void encode_bf16(const float* values, std::byte* blocks, std::size_t n_blocks) {
  encode_16<f32_to_bf16>(values, blocks, n_blocks);
}

}  // namespace plumb::quants
