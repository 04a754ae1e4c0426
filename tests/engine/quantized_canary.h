// The canary in a file type, quantized in memory and loaded through the real loader.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "engine/canary.h"
#include "engine/engine.h"
#include "gguf/writer.h"
#include "model/quantize.h"

namespace plumb::engine {

struct Loaded {
  std::vector<std::byte> bytes;
  model::Model model;
  text::Tokenizer tokenizer;
};

inline Result<std::unique_ptr<Loaded>> quantized_canary(model::FileType type) {
  PLUMB_TRY(const gguf::File canary, gguf::File::from_memory(canary_bytes(), "canary"));
  PLUMB_TRY(const gguf::Writer writer, model::quantize(canary, type));
  PLUMB_TRY(std::vector<std::byte> bytes, writer.to_memory());
  PLUMB_TRY(gguf::File file, gguf::File::from_memory(bytes, "canary"));
  PLUMB_TRY(text::Tokenizer tokenizer, text::Tokenizer::load(file));
  PLUMB_TRY(model::Model loaded, model::Model::load(std::move(file)));
  return std::make_unique<Loaded>(Loaded{std::move(bytes), std::move(loaded), std::move(tokenizer)});
}

}  // namespace plumb::engine
