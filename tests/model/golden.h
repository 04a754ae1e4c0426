// The models and values that tools/make_model_goldens.py left in tests/data/model.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace plumb::model::testing {

inline const std::vector<std::string> golden_cases{"llama",
                                                   "llama-rope-factors",
                                                   "llama-linear",
                                                   "llama-yarn",
                                                   "llama-bias",
                                                   "mistral",
                                                   "smollm2",
                                                   "qwen2",
                                                   "qwen2-tied",
                                                   "qwen3",
                                                   "gpt2",
                                                   "qwen2vl",
                                                   "qwen3vl",
                                                   "starcoder2",
                                                   "phi3",
                                                   "smollm3",
                                                   "arcee",
                                                   "granite",
                                                   "mistral3",
                                                   "ministral3",
                                                   "seed_oss",
                                                   "glm4",
                                                   "olmo2",
                                                   "olmo3",
                                                   "exaone4",
                                                   "exaone4-full",
                                                   "phi2",
                                                   "command-r",
                                                   "command-r-plus",
                                                   "cohere2",
                                                   "gptneox",
                                                   "gptneox-sequential",
                                                   "stablelm",
                                                   "stablelm-parallel",
                                                   "falcon",
                                                   "falcon-40b",
                                                   "gemma2",
                                                   "gemma3",
                                                   "mixtral",
                                                   "qwen2moe",
                                                   "qwen3moe",
                                                   "olmoe",
                                                   "granitemoe",
                                                   "granitemoe-shared",
                                                   "minimax-m2",
                                                   "dots1",
                                                   "glm4moe",
                                                   "glm4moe-nextn",
                                                   "glm4moe-groups",
                                                   "ernie4_5",
                                                   "ernie4_5-moe",
                                                   "hunyuan-dense",
                                                   "hunyuan-moe",
                                                   "phi3-longrope",
                                                   "phi3-longrope-short",
                                                   "mpt",
                                                   "apertus",
                                                   "llama4",
                                                   "gpt-oss"};

inline std::string golden_path(const std::string& name, const std::string& extension) {
  return std::string(PLUMB_TEST_DATA) + "/model/" + name + extension;
}

struct Golden {
  std::vector<std::int32_t> tokens;
  struct Matrix {
    std::uint64_t rows = 0, width = 0;
    std::vector<float> data;
  };
  std::map<std::string, Matrix> values;
};

// Reads a safetensors file: 8 bytes of header length, a JSON header, then the data
// (https://github.com/huggingface/safetensors#format). Throws when the file is not one.
inline Golden read_golden(const std::string& name) {
  std::ifstream stream(golden_path(name, ".safetensors"), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.substr(0, 8).data(), sizeof(header_bytes));
  const auto header = nlohmann::json::parse(bytes.substr(8, header_bytes));
  Golden golden;
  for (const auto& [key, entry] : header.items()) {
    const std::uint64_t begin = entry["data_offsets"][0];
    const std::uint64_t end = entry["data_offsets"][1];
    const std::string data = bytes.substr(8 + header_bytes + begin, end - begin);
    if (key == "tokens") {
      golden.tokens.resize(data.size() / sizeof(std::int32_t));
      std::memcpy(golden.tokens.data(), data.data(), data.size());
    } else {
      Golden::Matrix& matrix = golden.values[key];
      matrix.rows = entry["shape"][0];
      matrix.width = entry["shape"][1];
      matrix.data.resize(data.size() / sizeof(float));
      std::memcpy(matrix.data.data(), data.data(), data.size());
    }
  }
  return golden;
}

}  // namespace plumb::model::testing
