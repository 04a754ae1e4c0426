// Makes plans for tests, with their weights and inputs.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backends/random_rows.h"
#include "plan/plan.h"
#include "quants/format.h"

namespace plumb::backends {

// A plan's inputs are rows of embedding tables: row t of a step is the table's row of its token, t % vocab.
class Maker {
 public:
  explicit Maker(plan::CacheShape cache = {}, std::uint32_t n_rows = 61) : builder(std::move(cache)), vocab(n_rows) {}

  plan::Builder builder;
  std::uint32_t vocab;  // prime, so that no wrong power of two finds the right row
  std::mt19937 random{11};

  std::vector<float> normals(std::size_t n, float deviation = 1, float mean = 0) {
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<float> values(n);
    for (float& x : values) x = normal(random);
    return values;
  }
  // Mostly ordinary numbers; some large, tiny, subnormal or negative zero.
  std::vector<float> extremes(std::size_t n) {
    constexpr float factors[] = {1e4F, 1e-20F, 1e-39F, -0.0F};
    std::vector<float> values = normals(n);
    for (float& x : values) {
      if (const unsigned kind = random() % 64; kind < 4) x *= factors[kind];
    }
    return values;
  }

  // A value of that table, [vocab, width].
  plan::ValueId in(std::uint32_t width, const std::vector<float>& table) {
    return builder.embed(fresh("in"), matrix_of(table, {width, vocab}));
  }
  plan::ValueId in(std::uint32_t width) { return in(width, normals(std::size_t{width} * vocab)); }

  // An F32 matrix of these values.
  plan::MatrixId matrix_of(const std::vector<float>& values, std::vector<std::uint64_t> dims) {
    return builder.matrix(f32(values, std::move(dims)));
  }
  plan::VectorId vector_of(const std::vector<float>& values, std::vector<std::uint64_t> dims = {}) {
    return builder.vector(f32(values, dims.empty() ? std::vector<std::uint64_t>{values.size()} : std::move(dims)));
  }
  plan::VectorId vector(std::uint64_t n, float mean = 0, float deviation = 1) {
    return vector_of(normals(n, deviation, mean));
  }
  // A matrix with all bit patterns of the format.
  plan::MatrixId bits(quants::Format format, std::vector<std::uint64_t> dims) {
    const auto n_rows = static_cast<unsigned>(dims[1] * (dims.size() > 2 ? dims[2] : 1));
    auto bytes = random_rows(quants::info(format), static_cast<unsigned>(dims[0]), n_rows, random);
    return builder.matrix(tensor(format, std::move(dims), keep(std::move(bytes))));
  }
  // A matrix like a model's: with variance 1 / in unless a deviation is given. For formats that Plumb can write.
  plan::MatrixId matrix(quants::Format format, std::vector<std::uint64_t> dims, float deviation = 0) {
    std::uint64_t n = 1;
    for (const std::uint64_t dim : dims) n *= dim;
    const quants::FormatInfo& info = quants::info(format);
    const auto values = normals(n, deviation > 0 ? deviation : 1 / std::sqrt(static_cast<float>(dims[0])));
    std::vector<std::byte> bytes(info.row_bytes(n));
    info.encode(values.data(), bytes.data(), n / info.block_size);
    return builder.matrix(tensor(format, std::move(dims), keep(std::move(bytes))));
  }
  gguf::Tensor tensor(quants::Format format, std::vector<std::uint64_t> dims, std::span<const std::byte> bytes) {
    gguf::Tensor tensor;
    tensor.name = kept_->names.emplace_back(fresh("weight"));
    tensor.format = format;
    tensor.n_dims = static_cast<std::uint32_t>(dims.size());
    std::copy(dims.begin(), dims.end(), tensor.dims.begin());
    tensor.data = bytes;
    return tensor;
  }
  // Keeps bytes alive as long as the plan.
  std::span<std::byte> keep(std::vector<std::byte> bytes) { return kept_->bytes.emplace_back(std::move(bytes)); }

  // Zeros. Only pages that are written take memory.
  std::span<std::byte> zeros(std::uint64_t n) {
    void* pages = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(pages, MAP_FAILED);
    kept_->zeros.emplace_back(pages, [n](void* p) { munmap(p, n); });
    return {static_cast<std::byte*>(pages), n};
  }

  // The width of a value.
  [[nodiscard]] std::uint32_t width(plan::ValueId id) const { return static_cast<std::uint32_t>(builder.width(id)); }

  std::string fresh(const std::string& what) { return what + std::to_string(n_names_++); }

  // Finishes the plan. With `of`, each logit is a sum over elements of `of`, and all elements are in some sum: a fused run
  // shows only its logits. Without `of`, the logits are cheap.
  std::shared_ptr<const plan::Plan> finish(std::optional<plan::ValueId> of, std::uint32_t width = 1) {
    if (!of) width = 1;
    std::vector<float> sums(std::size_t{width} * vocab, of ? 0.0F : 1.0F);
    for (std::uint32_t i = 0; of && i < width; ++i) sums[std::size_t{i % vocab} * width + i] = 1;
    const plan::ValueId x = of ? *of : in(1);
    const auto logits = builder.linear("logits", x, matrix_of(sums, {width, vocab}), {}, plan::Rows::outputs);
    return finish_at(logits);
  }
  std::shared_ptr<const plan::Plan> finish_at(plan::ValueId logits) {
    auto plan = builder.finish(logits, 1U << 20);
    EXPECT_TRUE(plan) << (plan ? "" : plan.error().message);
    if (!plan) return nullptr;
    kept_->plan = std::move(*plan);
    return {kept_, &kept_->plan};
  }

 private:
  gguf::Tensor f32(const std::vector<float>& values, std::vector<std::uint64_t> dims) {
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return tensor(quants::Format::f32, std::move(dims), keep(std::move(bytes)));
  }

  struct Kept {
    plan::Plan plan;
    std::deque<std::string> names;
    std::deque<std::vector<std::byte>> bytes;
    std::vector<std::shared_ptr<void>> zeros;
  };
  std::shared_ptr<Kept> kept_ = std::make_shared<Kept>();
  std::uint32_t n_names_ = 0;
};

}  // namespace plumb::backends
