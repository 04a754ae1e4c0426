// Loads a model, runs a step of many tokens and one of one token, and unloads it, again and again in one process:
//
//   load_cycles MODEL N [BACKEND]
//
// Prints the GPU memory in use (nvidia-smi) and this process's memory (VmRSS) after the tenth round and after the last,
// with the model unloaded. Exit code 1 if the GPU memory has grown.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace {

using namespace plumb;

// In MiB; nothing where nvidia-smi is missing.
std::optional<long> gpu_memory() {
  std::FILE* pipe = popen("nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null", "r");
  if (pipe == nullptr) return {};
  long used = 0;
  const bool read = std::fscanf(pipe, "%ld", &used) == 1;
  pclose(pipe);
  return read ? std::optional(used) : std::nullopt;
}

std::string own_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return line.substr(line.find_first_not_of(" \t", 6));
  }
  return "unknown";
}

Result<void> round(const char* path, const std::string& backend) {
  PLUMB_TRY(gguf::File file, gguf::File::open(path));
  engine::EngineSettings settings;
  settings.backend = backend;
  settings.context = 256;
  PLUMB_TRY(const auto engine, engine::Engine::load(std::move(file), settings));
  PLUMB_TRY(const auto cache, engine->new_cache());
  const std::vector<engine::TokenId> tokens(20, 1);
  PLUMB_CHECK(engine->executor().run({.cache = cache.get(), .tokens = tokens}));
  PLUMB_CHECK(engine->executor().run({.cache = cache.get(), .tokens = std::span(tokens).first(1)}));
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: load_cycles MODEL N [BACKEND]\n");
    return 2;
  }
  const int n = std::atoi(argv[2]);
  std::optional<long> early, late;
  for (int i = 1; i <= n; ++i) {
    if (const auto ran = round(argv[1], argc > 3 ? argv[3] : "cuda"); !ran) {
      fmt::print(stderr, "load_cycles: round {}: {}\n", i, ran.error().message);
      return 2;
    }
    if (i != 10 && i != n) continue;
    (i == 10 ? early : late) = gpu_memory();
    const auto used = i == 10 ? early : late;
    fmt::print("after {:>5} rounds: GPU {}, process {}\n", i, used ? fmt::format("{} MiB", *used) : "unknown",
               own_memory());
  }
  return early && late && *late > *early ? 1 : 0;
}
