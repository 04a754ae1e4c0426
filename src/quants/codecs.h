// The decoders and encoders of every family, for the table in format.cpp. Each has the signature of DecodeFn or EncodeFn.
//
// Decoders do the float operations of the PyPI package `gguf` in its order, in float32 and without contraction to fused
// multiply-adds (src/quants/CMakeLists.txt sees to it), so that results agree bit for bit.
#pragma once

#include <cstddef>

namespace plumb::quants {

// float.cpp
void decode_f32(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_f32(const float* values, std::byte* blocks, std::size_t n_blocks);
void decode_f16(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_f16(const float* values, std::byte* blocks, std::size_t n_blocks);
void decode_bf16(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_bf16(const float* values, std::byte* blocks, std::size_t n_blocks);

// legacy.cpp
void decode_q4_0(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_q4_0(const float* values, std::byte* blocks, std::size_t n_blocks);
void decode_q4_1(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_q4_1(const float* values, std::byte* blocks, std::size_t n_blocks);
void decode_q5_0(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_q5_0(const float* values, std::byte* blocks, std::size_t n_blocks);
void decode_q5_1(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_q5_1(const float* values, std::byte* blocks, std::size_t n_blocks);
void decode_q8_0(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_q8_0(const float* values, std::byte* blocks, std::size_t n_blocks);

// k_quants.cpp
void decode_q2_k(const std::byte* blocks, float* values, std::size_t n_blocks);
void decode_q3_k(const std::byte* blocks, float* values, std::size_t n_blocks);
void decode_q4_k(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_q4_k(const float* values, std::byte* blocks, std::size_t n_blocks);
void decode_q5_k(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_q5_k(const float* values, std::byte* blocks, std::size_t n_blocks);
void decode_q6_k(const std::byte* blocks, float* values, std::size_t n_blocks);
void encode_q6_k(const float* values, std::byte* blocks, std::size_t n_blocks);

// iq.cpp
void decode_iq4_nl(const std::byte* blocks, float* values, std::size_t n_blocks);
void decode_iq4_xs(const std::byte* blocks, float* values, std::size_t n_blocks);

// mx.cpp
void decode_mxfp4(const std::byte* blocks, float* values, std::size_t n_blocks);

template <class Block>
const Block* blocks_at(const std::byte* bytes) {
  static_assert(alignof(Block) == 1);
  return reinterpret_cast<const Block*>(bytes);
}

template <class Block>
Block* blocks_at(std::byte* bytes) {
  static_assert(alignof(Block) == 1);
  return reinterpret_cast<Block*>(bytes);
}

}  // namespace plumb::quants
