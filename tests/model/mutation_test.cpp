// Damaged files: an error or a model that runs, never a crash (under ASan and UBSan in CI).
#include <gtest/gtest.h>

#include <cstddef>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "gguf/file.h"
#include "model/golden.h"
#include "model/model.h"

namespace plumb::model {
namespace {

// True when the bytes hold a model that loads; it is then run on two tokens.
bool runs(std::span<const std::byte> bytes) {
  auto file = gguf::File::from_memory(bytes, "mutant");
  if (!file) {
    EXPECT_FALSE(file.error().message.empty());
    return false;
  }
  const auto model = Model::load(std::move(*file));
  if (!model) {
    EXPECT_FALSE(model.error().message.empty());
    return false;
  }
  const auto backend = backends::make("reference").value();
  const auto executor = backend->load(model->plan(), {});
  if (!executor) return false;
  const auto cache = (*executor)->new_cache(2, backends::KvType::f32).value();
  const std::vector<std::int32_t> tokens{1, 2};
  return (*executor)->run({cache.get(), tokens, backends::Outputs::last}).has_value();
}

class MutationTest : public ::testing::TestWithParam<std::string> {};

TEST_P(MutationTest, DamagedHeadersAreErrorsOrModels) {
  std::ifstream stream(testing::golden_path(GetParam(), ".gguf"), std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  const std::vector<std::byte> original(begin, begin + text.size());
  ASSERT_TRUE(runs(original));

  // Metadata and tensor directory come first; 5 KB cover them in these files.
  constexpr std::size_t header_bytes = 5000;
  constexpr int n_mutants = 400;
  std::mt19937 random(7);
  int survivors = 0;
  for (int i = 0; i < n_mutants; ++i) {
    std::vector<std::byte> mutant = original;
    const int edits = 1 + static_cast<int>(random() % 3);
    for (int edit = 0; edit < edits; ++edit) {
      std::byte& target = mutant[random() % header_bytes];
      target = random() % 2 == 0 ? static_cast<std::byte>(random()) : target ^ static_cast<std::byte>(1u << (random() % 8));
    }
    if (random() % 16 == 0) mutant.resize(random() % mutant.size());
    survivors += runs(mutant) ? 1 : 0;
  }
  EXPECT_GT(survivors, 0);
  EXPECT_LT(survivors, n_mutants);
}

INSTANTIATE_TEST_SUITE_P(Models, MutationTest, ::testing::Values("llama-yarn", "llama-bias", "qwen3"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace plumb::model
