// Sliding windows that begin at a block's edge of the KV cache, and one before and after it. Values outside the window are
// 30,000 and their keys fit the query better than those inside, so that one which leaks in is seen, whatever the tolerance.
// The oldest value inside differs from the others, so that its loss is seen.
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "backends/cpu/cpu.h"
#include "backends/cpu/kernels.h"
#include "backends/small_model.h"

namespace plumb::backends {
namespace {

constexpr std::uint32_t head_dim = 16;
constexpr std::uint32_t window = 5;
constexpr TokenId outside = 0;
constexpr TokenId oldest = 1;  // of those inside
constexpr TokenId inside = 2;
constexpr std::size_t n_tokens = 3;

// Attention alone: queries, keys and values are rows of tables, by token.
class Attending {
 public:
  Attending() {
    plan::Builder builder({1, 1, head_dim});
    const auto table = [&](const char* name, std::uint64_t width, std::array<float, n_tokens> by_token) {
      std::vector<float>& values = data_.emplace_back();
      for (const float value : by_token) values.insert(values.end(), width, value);
      return builder.matrix(tensor(name, width, n_tokens, values));
    };
    const auto q = builder.embed("q", table("q.weight", std::uint64_t{2} * head_dim, {1, 1, 1}));
    const auto k = builder.embed("k", table("k.weight", head_dim, {2, 1, 1}));
    const auto v = builder.embed("v", table("v.weight", head_dim, {30000, 6, 1}));
    builder.kv_write(0, k, v);
    plan::Attention attention;
    attention.n_heads = 2;
    attention.n_kv_heads = 1;
    attention.head_dim = head_dim;
    attention.scale = 0.1f;
    attention.window = window;
    const auto context = builder.attention("ctx", q, attention);
    std::vector<float>& output = data_.emplace_back(n_tokens * 2 * head_dim, 0.0f);
    output[0] = output[head_dim] = 0.5f;  // of each head, half
    auto made = builder.finish(
        builder.linear("logits", context, builder.matrix(tensor("output.weight", 2 * head_dim, n_tokens, output)), {},
                       plan::Rows::outputs),
        512);
    EXPECT_TRUE(made) << (made ? "" : made.error().message);
    plan = std::make_shared<plan::Plan>(std::move(*made));
  }

  std::shared_ptr<const plan::Plan> plan;

 private:
  static gguf::Tensor tensor(const char* name, std::uint64_t n_in, std::uint64_t n_out, const std::vector<float>& values) {
    gguf::Tensor tensor;
    tensor.name = name;
    tensor.format = quants::Format::f32;
    tensor.n_dims = 2;
    tensor.dims = {n_in, n_out, 1, 1};
    tensor.data = std::as_bytes(std::span(values));
    return tensor;
  }

  std::deque<std::vector<float>> data_;
};

class CpuWindow : public testing::TestWithParam<Isa> {};

TEST_P(CpuWindow, BeginsAtOrBesideABlocksEdge) {
  const Attending model;
  for (const std::uint32_t edge : {1u, 2u}) {
    for (const std::size_t shift : {0u, 1u, 2u}) {
      const std::size_t first = edge * cpu::kv_block - 1 + shift;
      // The last position sees `first` and the four after it. All at once, and the last ones in a step of their own.
      for (const std::size_t last_step : {0u, 1u, 3u, 4u, 5u}) {
        for (const KvType type : {KvType::f32, KvType::f16}) {
          SCOPED_TRACE(fmt::format("window from {}, {} tokens in the last step", first, last_step));
          std::vector<TokenId> tokens(first, outside);
          tokens.push_back(oldest);
          tokens.insert(tokens.end(), window - 1, inside);
          const auto executor = std::move(*make_cpu(GetParam())->load(model.plan, {.n_threads = 2}));
          const auto cache = std::move(*executor->new_cache(400, type));
          const std::span<const TokenId> all(tokens);
          const std::size_t n = last_step == 0 ? all.size() : last_step;
          if (n < all.size()) {
            ASSERT_TRUE(executor->run({cache.get(), all.first(all.size() - n), Outputs::last}));
          }
          const auto logits = executor->run({cache.get(), all.last(n), Outputs::last});
          ASSERT_TRUE(logits) << (logits ? "" : logits.error().message);
          EXPECT_NEAR((*logits)[0], 2.0f, 1e-5f);  // the mean of 6, 1, 1, 1, 1
        }
      }
    }
  }
}

std::string isa_name(const testing::TestParamInfo<Isa>& info) { return std::string(name(info.param)); }

INSTANTIATE_TEST_SUITE_P(Isas, CpuWindow, testing::ValuesIn(cpu_isas()), isa_name);

}  // namespace
}  // namespace plumb::backends
